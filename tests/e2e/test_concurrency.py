"""Many concurrent invocations on one asynchronous context: each has its own session and leaves nothing behind.

The silos run in this process, over a real broker and with real C++ runtimes, so that their values can be counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator

import numpy as np
import psutil
import pytest
import tensorflow_federated as tff
from fedbroker_worker.service import SiloService

import fedbroker
from fedbroker.context.contexts import AsyncBrokerContext
from fedbroker.errors import SiloError
from tests.support import computations as c
from tests.support.local_tff import pack_arguments
from tests.support.transports import eventually
from tests.support.worker import load_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SILOS = ("ewr", "jfk")
LARGE = tff.TensorType(np.float32, [1 << 19])  # 2 MiB: sent as bulk messages


@tff.federated_computation(tff.FederatedType(LARGE, tff.CLIENTS), tff.FederatedType(LARGE, tff.SERVER))
def large(x, s):
    """Keep client values of 2 MiB between two barriers."""
    add = tff.tensorflow.computation(lambda a, b: a + b, (LARGE, LARGE))
    moved = tff.federated_map(add, (x, tff.federated_broadcast(s)))
    mean = tff.federated_mean(moved)
    return tff.federated_sum(tff.federated_map(add, (moved, tff.federated_broadcast(mean))))


class Cohort:
    """Silos in this process and a context on them."""

    def __init__(self, services: list[SiloService], context: AsyncBrokerContext) -> None:
        self.services = services
        self.context = context

    async def run(self, comp, *args):
        return await self.context.invoke(comp, pack_arguments(comp, args))

    def held(self) -> dict[str, int]:
        """Count everything alive on both sides; each count is zero if no invocation is running."""
        end = self.context._coordinator._cohort._transport
        return {
            "sessions": sum(len(service._sessions) for service in self.services),
            "values": sum(len(one.refs) for service in self.services for one in service._sessions._alive.values()),
            "executors": sum(hosted.users for service in self.services for hosted in service._runtimes._hosted),
            "jobs": sum(len(service._tasks) + len(service._tasks._computing) for service in self.services),
            "runtimes": sum(len(service._runtimes._hosted) - 1 for service in self.services),
            "replies awaited": len(end._router),
        }

    async def idle(self) -> None:
        await eventually(lambda: set(self.held().values()) == {0}, 60)

    def runtime_memory(self) -> int:
        """Return the resident bytes of the silos' C++ runtimes."""
        hosts = [hosted.runtime.pid for service in self.services for hosted in service._runtimes._hosted]
        return sum(
            process.memory_info().rss
            for pid in hosts
            if pid
            for process in psutil.Process(pid).children(recursive=True)
        )


@contextlib.asynccontextmanager
async def opened(url: str, name: str, directory) -> AsyncIterator[Cohort]:
    async with contextlib.AsyncExitStack() as stack:
        services = []
        for silo in SILOS:
            (directory / silo).mkdir()
            service = SiloService(load_settings(directory / silo, url, name, name=silo))
            services.append(await stack.enter_async_context(service))
        context = fedbroker.create_async_execution_context(url, cohort=name, min_silos=len(SILOS))
        yield Cohort(services, await stack.enter_async_context(context))


async def test_fifty_concurrent_invocations_have_one_session_each(broker, cohort, tmp_path, caplog):
    async with opened(broker.url, cohort, tmp_path) as silos:
        with caplog.at_level(logging.INFO, "fedbroker.session"):
            calls = [
                silos.run(c.total, [float(n), 1.0, 2.0]) if n % 2 else silos.run(c.two_barriers, [float(n), 1.0], 0.0)
                for n in range(50)
            ]
            results = await asyncio.gather(*calls)
        for n, result in enumerate(results):
            assert (result if n % 2 else result[0]) == (n + 3.0 if n % 2 else (n + 1.0) / 4)
        sessions = re.findall(r"session_started.*?session='?(\w+)", caplog.text)
        assert len(sessions) == len(set(sessions)) == 50
        await silos.idle()


async def test_cancelling_an_invocation_frees_only_its_own_session(broker, cohort, tmp_path):
    async with opened(broker.url, cohort, tmp_path) as silos:
        assert await silos.run(c.total, [1.0, 2.0]) == 3.0
        stuck = asyncio.create_task(silos.run(c.endless_sum, [1.0, 2.0]))
        await eventually(lambda: silos.held()["sessions"] == len(SILOS))
        # Another computation completes on silos that are busy with the first one.
        assert (await silos.run(c.two_barriers, [1.0, 2.0, 3.0], 1.0))[0] == 1.0
        assert not stuck.done()
        assert silos.held()["sessions"] == len(SILOS)
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        await silos.idle()
        assert await silos.run(c.total, [1.0, 2.0]) == 3.0


async def test_ended_invocations_leave_no_messages_sessions_or_memory(broker, cohort, tmp_path):
    @tff.federated_computation(c.AT_CLIENTS)
    def checked(x):
        return tff.federated_sum(tff.federated_map(c.positive, x))

    value = np.ones(LARGE.shape, np.float32)
    async with opened(broker.url, cohort, tmp_path) as silos:
        for _ in range(3):  # memory settles
            await silos.run(large, [value, value], value)
        await silos.idle()
        await eventually(lambda: _emptied(broker, cohort), 60)  # the broker counts every few seconds
        queues, memory = await _queues(broker, cohort), silos.runtime_memory()
        for n in range(12):
            ended = asyncio.create_task(silos.run(c.endless_sum, [1.0, 2.0])) if n == 5 else None
            calls = [silos.run(large, [value * n, value], value), silos.run(checked, [1.0, -1.0])]
            done, failed = await asyncio.gather(*calls, return_exceptions=True)
            assert float(done[0]) == 2 * (n + 3) + (n + 3) / 2 * 2 - (n + 3)
            assert isinstance(failed, SiloError)
            if ended is not None:
                ended.cancel()
                await asyncio.gather(ended, return_exceptions=True)
        await silos.idle()
        # 12 rounds kept 4 values of 2 MiB at each silo between their stages: 192 MiB if they had stayed.
        assert silos.runtime_memory() - memory < 64 << 20
        await eventually(lambda: _emptied(broker, cohort), 60)
        assert (await _queues(broker, cohort)).keys() == queues.keys()


async def _emptied(broker, cohort: str) -> bool:
    """Return whether no queue of the cohort holds a message, by the broker's latest count."""
    return all(count == "0" for count in (await _queues(broker, cohort)).values())


async def _queues(broker, cohort: str) -> dict[str, str]:
    """Return the message count of each of the cohort's queues, except announcements, which come and go."""
    listed = await asyncio.to_thread(broker.ctl, "list_queues", "name", "messages")
    rows = dict(line.split("\t") for line in listed.splitlines() if cohort in line and "\t" in line)
    return {name: count for name, count in rows.items() if ".lobby." not in name}
