"""Columns of a Google spreadsheet: the source ``sheets``."""

from __future__ import annotations

from fedbroker_worker.sources.sheets.source import SheetsSource

__all__ = ["SheetsSource"]
