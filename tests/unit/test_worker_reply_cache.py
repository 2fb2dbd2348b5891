"""A silo's cache of its replies: contents and lifetime; blocking calls in threads."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fedbroker_worker.threads import CallAborted, in_thread, still_running
from fedbroker_worker.work.tasks import ReplyCache
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.wire.messages import Done
from tests.support.transports import eventually


def done(session: str, stage: int = 0) -> Done:
    return Done(session, stage, "ewr", "1", (), 0.0)


async def test_latest_reply_of_a_session_is_cached():
    answers = ReplyCache(100)
    answers.put(done("a"), {"d": b"12345"})
    answers.put(done("b"), {"d": b"1"})
    assert answers.get("a", 0) == (done("a"), {"d": b"12345"})
    answers.put(done("a", 1), {})
    assert answers.get("a", 0) is None
    assert answers.get("a", 1) == (done("a", 1), {})
    assert answers.kept_bytes == 1
    answers.clear()
    assert answers.get("b", 0) is None
    assert answers.kept_bytes == 0


async def test_replies_expire():
    answers = ReplyCache(100, linger=0.01)
    answers.put(done("a"), {"d": b"1"})
    await eventually(lambda: answers.get("a", 0) is None)
    assert answers.kept_bytes == 0


@given(sizes=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 60)), max_size=20))
def test_cache_size_is_bounded(sizes):
    async def check():
        answers = ReplyCache(100)
        for stage, (session, size) in enumerate(sizes):
            answers.put(done(session, stage), {"d": b"x" * size})
            assert answers.get(session, stage) is not None
            assert answers.kept_bytes <= 100
        kept = [answers.get(session, stage) for stage, (session, _) in enumerate(sizes)]
        assert answers.kept_bytes == sum(len(one[1]["d"]) for one in kept if one is not None)
        answers.clear()

    asyncio.run(check())


async def test_oversized_reply_is_not_cached():
    answers = ReplyCache(100)
    answers.put(done("a"), {"d": b"x" * 101})
    assert answers.get("a", 0) is None


async def test_blocking_call_returns_its_result_or_raises():
    assert await in_thread(lambda: threading.current_thread().daemon, "call") is True
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0, "call")
    await eventually(lambda: not still_running())


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, StopIteration, BaseException]
)
async def test_blocking_call_that_ends_by_any_exception_is_answered(kind):
    def end():
        raise kind("for good")

    async with asyncio.timeout(10):
        with pytest.raises(CallAborted, match=f"^aborted by {kind.__name__}: for good$"):
            await in_thread(end, "call")


async def test_blocking_call_can_be_cancelled():
    release = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await in_thread(lambda: release.wait(10), "call")
    assert still_running()
    release.set()
    await eventually(lambda: not still_running())


def test_closed_event_loop_is_ignored():
    release = threading.Event()

    async def give_up():
        call = asyncio.ensure_future(in_thread(lambda: release.wait(10), "call"))
        await asyncio.sleep(0)
        call.cancel()

    asyncio.run(give_up())
    release.set()
    for thread in threading.enumerate():
        if thread.name == "blocking: call":
            thread.join(10)
    assert not still_running()
