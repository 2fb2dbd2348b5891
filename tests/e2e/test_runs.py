"""Sessions of a program's run say to which computation, program and round they belong."""

from __future__ import annotations

import pytest

import fedbroker
from fedbroker.session.events import Origin
from tests.support import computations as c
from tests.support.local_tff import pack_arguments
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_sessions_name_their_computation_run_and_round(silos):
    events = []
    settings = {"cohort": silos.cohort, "min_silos": 2, "progress": False, "on_event": events.append}
    with fedbroker.create_sync_execution_context(silos.url, **settings) as context:
        argument = pack_arguments(c.total, ([1.0, 2.0],))
        context.invoke(c.total, argument)
        with context.run("sums", rounds=2) as run:
            for _ in run:
                context.invoke(c.total, argument)
                run.report({"loss": 1})
        assert context.last_session.origin == Origin("total", run.id, "sums", 2)
        wait_until(lambda: events[-1].name == "run_finished", 10, "the end of the run")
    keys = ("computation", "run", "program", "round")
    started = [tuple(event.details.get(key) for key in keys) for event in events if event.name == "session_started"]
    assert started == [("total", None, None, None), ("total", run.id, "sums", 1), ("total", run.id, "sums", 2)]
    order = [event.name for event in events if event.name in ("run_started", "session_finished", "round_finished")]
    assert order == ["session_finished", "run_started", *["session_finished", "round_finished"] * 2]
