"""Three hospitals' spreadsheets, made up: a worksheet of stays in each, as a ward's secretary would keep it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping

from examples.sheets.server import Book

HOSPITALS: Mapping[str, int] = {"east": 180, "north": 420, "south": 95}
"""How many stays each has."""

WARDS = ("cardiology", "surgery", "maternity")
WORKSHEET = "Stays"


def books() -> dict[str, Book]:
    """A spreadsheet for each hospital, the same ones each time; with nobody is it shared."""
    return {name: Book({WORKSHEET: list(_rows(name, number))}) for name, number in HOSPITALS.items()}


def mean(stays: Mapping[str, Book]) -> float:
    """The mean length of stay with all rows in one place, which the demo alone can look at."""
    return statistics.fmean(days for book in stays.values() for days in _days(book))


def _rows(name: str, number: int) -> Iterator[list[object]]:
    made_up = random.Random(name)
    yield ["ward", "days", "age"]
    for at in range(number):
        # Now and then somebody is still there, and the cell is empty.
        days: object = "" if at % 40 == 7 else made_up.choice([1, 1, 2, 2, 3, 4, 5, 7, 9, 14])
        yield [made_up.choice(WARDS), days, made_up.randint(0, 95)]


def _days(book: Book) -> list[float]:
    return [float(row[1]) for row in book.sheets[WORKSHEET][1:] if isinstance(row[1], int | float)]
