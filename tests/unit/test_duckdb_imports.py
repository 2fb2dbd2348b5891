"""Once the first source is open, duckdb imports no module, so that no two threads wait for each other."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import duckdb
import numpy
from fedbroker_worker.sources.duckdb.imports import _VALUES, prepare

prepare()
before = set(sys.modules)
with duckdb.connect(":memory:") as connection:
    for value in _VALUES:
        for rows in (f"select {value}", f"select {value} as x from range(5000) union all select null"):
            for convert in ("fetchnumpy", "fetchall", "fetchone"):
                try:
                    getattr(connection.execute(rows), convert)()
                except Exception:
                    pass
print(sorted(set(sys.modules) - before))
"""


def test_no_conversion_imports_a_module_later():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
