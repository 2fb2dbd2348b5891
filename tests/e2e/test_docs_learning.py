"""The page "Learning" from its data to its last checkpoint, as one program over one cohort; and the example's own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from fedbroker_worker.config import SourceSettings
from fedbroker_worker.sources.catalog import OpenSource

from examples.digits.data import SILOS, pooled, split
from fedbroker.wire.messages import Column
from tests.support.pages import ROOT, blocks, story
from tests.support.program_process import start_program
from tests.support.wait import PROCESS_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NEXT = "=== next block ==="
LONG = 2 * PROCESS_SECONDS
"""Seconds for the page: it trains ten models, in 85 s with eight processes on two cores."""
ENOUGH = 95
"""The least accuracy, in percent of the baseline's."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("learning")


@pytest.fixture(scope="module")
def printed(directory) -> list[str]:
    """Run the page's program; return what each of its blocks prints."""
    code = f'\nprint("{NEXT}")\n'.join(block.text for block in story("docs/learning.md") if _runs(block))
    (directory / "program.py").write_text(code)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "workers")])
    here = Path.cwd()
    os.chdir(directory)
    try:
        with start_program(directory / "program.py", env=environ) as program:
            return program.output(LONG).split(f"{NEXT}\n")
    finally:
        os.chdir(here)


def _runs(block) -> bool:
    return block.language == "python" and not block.title


def test_files_on_the_page_are_those_of_the_example():
    titled = {block.title: block.text for block in story("docs/learning.md") if block.title}
    assert set(titled) == {"examples/digits/data.py", "examples/digits/model.py"}
    for title, text in titled.items():
        assert text == (ROOT / title).read_text(encoding="utf-8"), title


def test_each_block_prints_what_the_page_shows(printed):
    expected: list[str] = []
    for block in story("docs/learning.md"):
        if _runs(block):
            expected.append("")
        elif block.language == "text":
            expected[-1] = block.text
    assert len(printed) == len(expected)
    for ours, shown in zip(printed, expected, strict=True):
        pattern = re.escape(shown.strip()).replace("…", r"\d+(\.\d+)?")
        assert re.fullmatch(pattern, ours.strip()), ours


def test_silos_learn_as_much_as_from_all_rows_in_one_place(printed):
    ratios = [int(ratio) for text in printed for ratio in re.findall(r"(\d+)% of the baseline", text)]
    once, five = ratios
    assert five >= ENOUGH > once


def test_command_on_the_page_draws_the_curve_of_fifteen_rounds(printed, directory):
    (line,) = blocks("docs/learning.md", "sh")
    command, *words = shlex.split(line)
    assert command == "fedbroker"
    drawn = subprocess.run(
        [sys.executable, "-m", "fedbroker.cli", *words], cwd=directory, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"loss: [0-9.]+ in round 15", drawn)


def test_silos_have_different_digits():
    tables = split()
    assert tuple(tables) == SILOS
    x, y = (len(column) for column in pooled(tables, "train"))
    assert x == y
    assert x + len(pooled(tables, "test")[1]) == 1797
    shares = pd.DataFrame({silo: pd.Series(own["train"]["y"]).value_counts() for silo, own in tables.items()})
    assert (shares.max(axis="columns") > 2 * shares.median(axis="columns").fillna(0)).sum() >= 5


async def test_tables_of_a_silo_elsewhere_have_the_same_columns(tmp_path):
    (toml,) = blocks("docs/learning.md", "toml")
    for name, table in split()["north"].items():
        frame = pd.DataFrame({"x": list(table["x"]), "y": table["y"]})
        frame.to_parquet(tmp_path / f"{name}.parquet")
        settings = tomllib.loads(toml)["data"][name]
        source = await OpenSource.open(name, SourceSettings(settings.pop("source"), settings), tmp_path)
        try:
            assert source.announced.columns == (Column("x", "float32", (64,)), Column("y", "int32"))
            assert await source.count() == len(table["y"])
        finally:
            await source.close()
