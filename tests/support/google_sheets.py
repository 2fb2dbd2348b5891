"""A spreadsheet on a stand-in for Google's Sheets server, shared with a service account."""

from __future__ import annotations

from pathlib import Path

from examples.sheets.server import Book, Cells, SheetsServer

__all__ = ["SPREADSHEET_KEY", "STAY_ROWS", "share_spreadsheet"]

SPREADSHEET_KEY = "1aBcDeFgHiJkLmNoPqRsTuVwXyZ-0123456789"

STAY_ROWS: Cells = [
    ["ward", "days", "age", "urgent", "admitted"],
    ["A", 3, 61.5, True, 41275],
    ["B", 10, 47, False, 41277.5],
    ["", "", "", "", ""],
    ["A", 1, 30, True, 41276],
]


def share_spreadsheet(
    server: SheetsServer, directory: Path, rows: Cells | None = None, **options: object
) -> dict[str, object]:
    """Share a spreadsheet with a new service account and write its file; return the keys of a source for it.

    Args:
        server: the server with the spreadsheet.
        directory: the directory of ``account.json``.
        rows: rows of its first worksheet, ``Stays``; the second one, ``it's "other"``, is empty.
        options: further keys.
    """
    email = server.save_account("silo", directory / "account.json")
    server.books[SPREADSHEET_KEY] = Book(
        {"Stays": [list(row) for row in rows or STAY_ROWS], 'it\'s "other"': []}, {email}
    )
    common = {
        "spreadsheet": SPREADSHEET_KEY,
        "service_account": "account.json",
        "endpoint": server.url,
        "retry_seconds": 0,
    }
    return common | options
