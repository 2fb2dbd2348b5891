"""The example with Google spreadsheets, as its page runs it: real silo processes, a real broker."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def test_mean_over_three_spreadsheets_equals_the_central_mean(capsys):
    (line,) = re.findall(r"```sh\n(.*?)\n```", (ROOT / "examples" / "sheets" / "README.md").read_text(), re.DOTALL)
    python, option, module = line.split()
    assert (python, option) == (".venv/bin/python", "-m")
    with pytest.raises(SystemExit) as ended:  # in this process, which has imported TensorFlow
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "demo: ok: means agree, 9 reads of spreadsheets" in printed
    rows = re.findall(r"^(mean stay|with a row more).*?(\d+\.\d+)\s+(\d+\.\d+)$", printed, re.MULTILINE)
    assert [federated == central for _, federated, central in rows] == [True, True]
    assert float(rows[1][1]) > float(rows[0][1])
