"""Running work: the audit log receives the reason of a cancellation."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from fedbroker_worker.policy.recording import SESSION_CANCELLED
from fedbroker_worker.work.sessions import Sessions
from fedbroker_worker.work.tasks import STOPPED, ReplyCache, WorkTasks
from fedbroker_worker.work.worker import WorkReply

from fedbroker.errors import BrokerLost
from fedbroker.wire.messages import EndSession, Failed
from tests.support.transports import eventually, work_item


class Computing:
    """A worker that computes until it is cancelled, and awaits a task that another task observes."""

    def __init__(self) -> None:
        self.started = False
        self.reasons: list[str] = []

    async def answer(self, item, signed, why_cancelled, entry):
        loading = asyncio.ensure_future(asyncio.Event().wait())
        loading.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.started = True
        try:
            await asyncio.gather(loading, asyncio.Event().wait())
        except asyncio.CancelledError:
            self.reasons.append(why_cancelled())
            raise


@pytest.mark.parametrize("why", [SESSION_CANCELLED, STOPPED])
async def test_cancelled_work_has_its_reason(why):
    worker = Computing()
    unused = cast("Any", None)
    sessions = Sessions(unused, 1)
    tasks = WorkTasks("ewr", "i", unused, cast("Any", worker), sessions, ReplyCache(1), lambda _: None)
    item = work_item("ewr", "k")
    answering = asyncio.create_task(tasks.answer(item))
    await eventually(lambda: worker.started)
    if why == SESSION_CANCELLED:
        tasks.end_session(EndSession(item.session_id))
        await answering
    else:
        await tasks.close()
        with pytest.raises(asyncio.CancelledError):
            await answering
    assert worker.reasons == [why]


class Lost:
    """A transport whose broker is gone."""

    async def reply(self, item, reply, outputs, deadline, signed):
        raise BrokerLost("no connection", hint="start the broker")


class Failing:
    """A worker that answers all work with a failure."""

    async def answer(self, item, signed, why_cancelled, entry):
        return WorkReply(Failed(item.session_id, item.stage, item.silo, "i", "data", "no data"))


async def test_reply_that_cannot_be_sent_is_counted():
    unused = cast("Any", None)
    transport, worker = cast("Any", Lost()), cast("Any", Failing())
    tasks = WorkTasks("ewr", "i", transport, worker, Sessions(unused, 1), ReplyCache(1), lambda _: None)
    assert tasks.replies_failed == 0
    await tasks.answer(work_item("ewr", "k"))
    assert tasks.replies_failed == 1
