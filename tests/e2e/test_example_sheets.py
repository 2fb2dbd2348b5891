"""The example with Google's spreadsheets, as its page runs it: real silo processes, a real broker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


def test_the_mean_over_three_spreadsheets_is_the_central_one():
    (line,) = re.findall(r"```sh\n(.*?)\n```", (ROOT / "examples" / "sheets" / "README.md").read_text(), re.DOTALL)
    python, *arguments = line.split()
    assert python == ".venv/bin/python"
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo: ok: means agree, 9 reads of spreadsheets" in done.stdout
    rows = re.findall(r"^(mean stay|with a row more).*?(\d+\.\d+)\s+(\d+\.\d+)$", done.stdout, re.MULTILINE)
    assert [federated == central for _, federated, central in rows] == [True, True]
    assert float(rows[1][1]) > float(rows[0][1])
