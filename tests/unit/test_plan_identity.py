"""A plan's identity is that of its program, in every process."""

from __future__ import annotations

import subprocess
import sys

from fedbroker.plan import make_plan
from fedbroker.plan.model import identity_of
from tests.support import computations as c
from tests.support.wait import PROCESS_SECONDS

CODE = """
from fedbroker.plan import make_plan
from fedbroker.plan.model import identity_of
from tests.support import computations as c
print(identity_of(make_plan(c.two_barriers)))
"""


def test_two_processes_have_the_same_identity():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=PROCESS_SECONDS
    )
    assert done.stdout.split()[-1] == identity_of(make_plan(c.two_barriers))


def test_different_programs_have_different_identities():
    assert identity_of(make_plan(c.two_barriers)) != identity_of(make_plan(c.total))
