"""Invented spreadsheets of three hospitals, each with a worksheet of stays."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping

from examples.sheets.server import Book

HOSPITALS: Mapping[str, int] = {"east": 180, "north": 420, "south": 95}
"""Number of stays of each hospital."""

WARDS = ("cardiology", "surgery", "maternity")
WORKSHEET = "Stays"


def books() -> dict[str, Book]:
    """Return a spreadsheet for each hospital, always the same ones, shared with no account."""
    return {name: Book({WORKSHEET: list(_rows(name, number))}) for name, number in HOSPITALS.items()}


def mean(stays: Mapping[str, Book]) -> float:
    """Return the mean length of stay over all rows in one place, which only the demo can see."""
    return statistics.fmean(days for book in stays.values() for days in _days(book))


def _rows(name: str, number: int) -> Iterator[list[object]]:
    made_up = random.Random(name)
    yield ["ward", "days", "age"]
    for at in range(number):
        # A patient who is still in hospital has an empty cell.
        days: object = "" if at % 40 == 7 else made_up.choice([1, 1, 2, 2, 3, 4, 5, 7, 9, 14])
        yield [made_up.choice(WARDS), days, made_up.randint(0, 95)]


def _days(book: Book) -> list[float]:
    return [float(row[1]) for row in book.sheets[WORKSHEET][1:] if isinstance(row[1], int | float)]
