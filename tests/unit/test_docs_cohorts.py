"""Each row of docs/cohorts.md names an existing test, and its table of limits is complete."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from fedbroker.transport import topology
from fedbroker.wire import Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cohorts.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def rows() -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    return [row for row in lines if row[0] not in ("of", "event", "a silo") and not row[0].startswith("`")]


def notes() -> dict[str, str]:
    """Return the text of each note of the page, by its label."""
    lines = PAGE.replace("\n    ", " ").splitlines()
    return dict(re.findall(r"^\[\^(\w+)\]: (.*)$", "\n".join(lines), re.MULTILINE))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_each_row_names_a_test(row):
    (label,) = re.findall(r"\[\^(\w+)\]$", row[-1])
    named = re.findall(r"`([\w/]+)`", notes()[label])
    assert named
    for name in named:
        assert name in TESTS or (ROOT / name).exists()


def test_each_note_is_used_and_names_a_test():
    used = set(re.findall(r"\[\^(\w+)\](?!:)", PAGE))
    assert used == notes().keys()
    for note in notes().values():
        assert set(re.findall(r"`(test_\w+)`", note)) <= TESTS


def test_each_limit_is_in_the_table():
    named = set(re.findall(r"`([a-z_]+)`", PAGE.partition("## Bounds")[2]))
    assert {limit.name for limit in dataclasses.fields(Limits)} - named == {
        "inline_blob",
        "inline_total",
        "small_blob",
    }


def test_pages_name_the_delivery_limit():
    times = {4: "four"}[topology.work_queue("airports", "ewr").arguments["x-delivery-limit"] + 1]
    row = next(row for row in rows() if row[0] == "work kills its silo each time")
    assert f"after {times} deliveries" in row[1]
    letters = (ROOT / "docs" / "dead-letters.md").read_text(encoding="utf-8")
    assert f"picked up {times} times and never acknowledged" in letters


def test_no_page_compares_versions_as_text():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert [one.name for one in pages if re.search(r"version\s*[<>]=?\s*[\"']", one.read_text(encoding="utf-8"))] == []
