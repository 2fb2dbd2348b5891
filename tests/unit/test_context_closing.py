"""Closed, replaced, collected and forked contexts, without a broker."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.context.contexts import default_context
from fedbroker.context.loop import LoopThread
from fedbroker.errors import ConfigError, ContextClosed
from tests.support import computations as c
from tests.support.local_tff import pack_arguments

SETTINGS = {"url": "amqp://localhost:1/", "cohort": "airports", "min_silos": 1, "progress": False}


def create(kind: str = "sync", **more):
    return getattr(fedbroker, f"create_{kind}_execution_context")(**{**SETTINGS, **more})


@pytest.fixture
def default():
    """Restore TFF's default context after the test; return it."""
    before = default_context()
    yield before
    tff.framework.get_context_stack().set_default_context(before)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fedbroker-")]


def ended(names: list[str]) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("fedbroker") and thread.name not in names:
            thread.join(30)


def test_closed_context_raises_and_stays_closed():
    context = create()
    context.explain(c.total)
    context.close()
    for _ in range(2):
        with pytest.raises(ContextClosed, match=r"\[FB1004\] the context is closed"):
            context.explain(c.total)
        with pytest.raises(ContextClosed):
            context.invoke(c.total, pack_arguments(c.total, ([1.0],)))
    assert context._thread._thread is None or not context._thread._thread.is_alive()
    assert context._coordinator._runtimes is None
    context.close()


def test_unused_context_raises_after_close():
    with create() as context:
        pass
    with pytest.raises(ContextClosed):
        context.explain(c.total)


async def test_closed_async_context_raises():
    async with create("async") as context:
        pass
    with pytest.raises(ContextClosed):
        await context.invoke(c.total, pack_arguments(c.total, ([1.0],)))


def waiting() -> tuple[LoopThread, threading.Event, list[str]]:
    thread, began, said = LoopThread("fedbroker-test"), threading.Event(), []

    async def forever():
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            said.append("cancelled")
            raise

    def run():
        try:
            thread.run(forever())
        except ContextClosed:
            said.append("closed")

    caller = threading.Thread(target=run)
    caller.start()
    began.wait(30)
    return thread, caller, said


def test_close_cancels_a_running_invocation():
    thread, caller, said = waiting()

    async def farewell():
        said.append("farewell")

    thread.stop(farewell)
    caller.join(30)
    assert sorted(said, key=["cancelled", "farewell", "closed"].index) == ["cancelled", "farewell", "closed"]
    assert said.index("cancelled") < said.index("farewell")


async def test_wait_from_another_loop_raises_on_close():
    thread = LoopThread("fedbroker-test")
    began = threading.Event()

    async def forever():
        began.set()
        await asyncio.Event().wait()

    wait = asyncio.create_task(thread.run_async(forever()))
    await asyncio.to_thread(began.wait, 30)
    await asyncio.to_thread(thread.stop)
    with pytest.raises(ContextClosed):
        await wait


def test_context_collected_on_its_own_thread_ends(default):
    before = threads()
    context = create(cohort="collected")
    context.explain(c.total)
    loop, thread = context._thread._loop, context._thread._thread
    held = [context]
    del context

    def drop():
        held.clear()
        gc.collect()

    loop.call_soon_threadsafe(drop)
    thread.join(30)
    assert not thread.is_alive()
    assert threads() == before


async def test_context_collected_on_an_event_loop_does_not_block_it():
    context = create(cohort="collected")
    await asyncio.to_thread(context.explain, c.total)
    thread, release = context._thread._thread, threading.Event()
    context._thread._loop.call_soon_threadsafe(release.wait, 30)  # its own loop is busy
    del context
    began = time.monotonic()
    gc.collect()
    assert time.monotonic() - began < 10
    assert thread.is_alive()
    release.set()
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()


def test_setting_a_context_closes_the_previous_one(default):
    before = threads()
    contexts = []
    for _ in range(10):
        contexts.append(
            fedbroker.set_sync_execution_context(**SETTINGS, options=fedbroker.Options(metrics="127.0.0.1:0"))
        )
        contexts[-1].explain(c.total)
    assert threads() == [*before, "fedbroker-airports"]
    assert default_context() is contexts[-1]
    for one in contexts[:-1]:
        with pytest.raises(ContextClosed):
            one.explain(c.total)
    contexts[-1].close()


def test_new_context_reuses_the_metrics_address(default):
    with fedbroker.set_sync_execution_context(**SETTINGS, options=fedbroker.Options(metrics="127.0.0.1:0")) as first:
        address = first.metrics_url.removeprefix("http://").partition("/")[0]
    fedbroker.set_sync_execution_context(**SETTINGS, options=fedbroker.Options(metrics=address))
    fedbroker.set_sync_execution_context(**SETTINGS, options=fedbroker.Options(metrics=address)).close()


def test_invalid_settings_keep_the_previous_context(default):
    context = fedbroker.set_sync_execution_context(**SETTINGS)
    with pytest.raises(ConfigError):
        fedbroker.set_sync_execution_context(**{**SETTINGS, "cohort": "Air Ports"})
    assert default_context() is context
    assert context.explain(c.total).round_trips == 1
    context.close()


def test_with_sets_and_resets(default):
    with fedbroker.set_sync_execution_context(**SETTINGS) as context:
        assert default_context() is context
        with fedbroker.set_sync_execution_context(**SETTINGS) as inner:
            assert default_context() is inner
        assert default_context() is context
        assert context.explain(c.total).round_trips == 1
    assert default_context() is default


async def test_async_with_sets_and_resets(default):
    async with fedbroker.set_async_execution_context(**SETTINGS) as context:
        assert default_context() is context
    assert default_context() is default


def test_reset_after_replacing_restores_the_first_context(default):
    fedbroker.set_sync_execution_context(**SETTINGS)
    with fedbroker.set_sync_execution_context(**SETTINGS):
        pass
    assert default_context() is default


def test_context_of_the_program_itself_is_not_closed(default):
    own = create()
    tff.framework.get_context_stack().set_default_context(own)
    with fedbroker.set_sync_execution_context(**SETTINGS):
        pass
    assert default_context() is own
    assert own.explain(c.total).round_trips == 1
    own.close()
