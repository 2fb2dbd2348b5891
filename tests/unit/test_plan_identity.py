"""A plan's identity is that of its program, in every process."""

from __future__ import annotations

import subprocess
import sys

from fedbroker.plan import make_plan
from fedbroker.plan.model import identity_of
from fedbroker.wire.blobs import digest_of
from tests.support import computations as c
from tests.support.wait import PROCESS_SECONDS

CODE = """
from fedbroker.plan import make_plan
from fedbroker.plan.model import identity_of
from fedbroker.wire.blobs import digest_of
from tests.support import computations as c
plan = make_plan(c.two_barriers)
print(identity_of(plan), *[digest_of(stage.computation) for stage in plan.stages])
"""


def test_two_processes_have_the_same_identity_and_send_the_same_bytes():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=PROCESS_SECONDS
    )
    identity, *computations = done.stdout.splitlines()[-1].split()
    plan = make_plan(c.two_barriers)
    assert identity == identity_of(plan)
    assert computations == [digest_of(stage.computation) for stage in plan.stages]


def test_different_programs_have_different_identities():
    assert identity_of(make_plan(c.two_barriers)) != identity_of(make_plan(c.total))
