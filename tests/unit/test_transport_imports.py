"""Modules that wire and transport must not import."""

from __future__ import annotations

import subprocess
import sys

from tests.support.wait import PROCESS_SECONDS


def test_no_tensorflow_in_a_fresh_interpreter() -> None:
    program = (
        "import sys, fedbroker.wire, fedbroker.transport\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('tensorflow', 'tensorflow_federated', 'numpy', 'grpc')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PROCESS_SECONDS
    )
    assert done.stdout == "[]\n"
