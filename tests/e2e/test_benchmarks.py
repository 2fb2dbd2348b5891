"""The benchmarks run, print their figures, and write docs/performance.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks import __main__ as runner
from benchmarks import _page, barrier
from benchmarks._report import Judged, Report, Row
from tests.support.pages import ROOT, blocks
from tests.support.wait import PROCESS_SECONDS

PAGE = "docs/performance.md"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.alone
def test_cohort_benchmark_writes_figures_of_a_silos_start(tmp_path):
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks", "cohort", "--quick", "--json", str(file)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "| start of the process to ready " in done.stdout
    found = json.loads(file.read_text(encoding="utf-8"))
    assert "RabbitMQ" in found["machine"]
    (report,) = found["benchmarks"]
    ready, work, result = report["rows"]
    assert 0 < work["median ms"] < result["median ms"]
    for row, bar, unit in ((ready, 3.0, "s"), (work, 100.0, "ms")):
        judged = row["judged"]
        assert (judged["sense"], judged["bar"], judged["unit"]) == ("≤", bar, unit)
        assert judged["value"] * {"s": 1000, "ms": 1}[unit] == pytest.approx(row["median ms"], rel=0.01)
    assert report["met"] == (ready["judged"]["met"] and work["judged"]["met"])
    assert result["judged"] is None


def test_barrier_benchmark_times_silos_and_local_context(broker):
    found = barrier.measure(broker.url, (2,), 1, 2, local=True)
    assert list(found) == ["2 silos", "the least, 2 silos", "TFF's local context, 2 clients"]
    for timed in found.values():
        assert len(timed.seconds) == 2
        figures = timed.figures()
        assert 0 < figures["median ms"] <= figures["p90 ms"]


def test_target_is_met_at_or_beyond_its_bound():
    assert Judged(1.5, "≤", 1.5).met
    assert not Judged(1.6, "≤", 1.5).met
    assert Judged(0.5, "≥", 0.5).met
    assert not Judged(0.4, "≥", 0.5).met


def test_missed_targets_fail_only_with_check():
    good, bad = (
        Report("barrier", "", ("s",), [Row("one", {"s": 1.0}, Judged(value, "≤", 1.5))]) for value in (1.0, 2.0)
    )
    assert runner.exit_code([good, good], check=True) == 0
    assert runner.exit_code([good, bad], check=True) == 1
    assert runner.exit_code([good, bad], check=False) == 0


def test_unknown_benchmark_name_is_an_error():
    with pytest.raises(SystemExit, match="no benchmark is called 'barier'"):
        runner.main("barier")


def test_page_has_a_section_for_each_benchmark(tmp_path):
    page = tmp_path / "page.md"
    page.write_text((ROOT / PAGE).read_text(encoding="utf-8"), encoding="utf-8")
    reports = [Report(name, f"what {name} does", ("s",), [Row("one", {"s": 0.25})]) for name in runner.NAMES]
    for _ in range(2):
        _page.write(reports, "a machine", page)
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^<!-- (\w+) -->\nwhat \1 does", text, re.MULTILINE) == re.findall(r"<!-- (\w+) -->", text)
    for name in runner.NAMES:
        assert text.count(f"what {name} does") == 1
    assert text.count("| one | 0.250 |") == len(runner.NAMES)


def test_commands_of_the_page_exist():
    for line in "".join(blocks("docs/performance.md", "sh")).splitlines():
        command = line.partition("#")[0].strip()
        if command.startswith("make "):
            assert f"\n{command.split()[1]}: setup ##" in MAKEFILE
        else:
            assert (ROOT / f"{command.split()[-1].replace('.', '/')}.py").is_file(), command
