"""Three broker nodes, any of which may be lost: requests are answered, and the session continues without that node."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerUnreachable, Missing
from fedbroker.transport.amqp.reconnecting import ReconnectingConnection
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Done
from tests.support.cluster import ClusterNode, PrivateCluster, killed_node, node_at_port
from tests.support.proxy import Proxy
from tests.support.transports import (
    EchoSilo,
    RecordingCoordinator,
    coordinator_transport,
    eventually,
    silo_transport,
    work_item,
)

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateCluster]:
    with PrivateCluster() as cluster:
        yield cluster


@asynccontextmanager
async def lost(cluster: PrivateCluster, node: ClusterNode) -> AsyncIterator[None]:
    """Keep a node dead within the block, like ``killed_node``, off the event loop."""
    away = killed_node(cluster, node)
    await asyncio.to_thread(away.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(away.__exit__, None, None, None)


@asynccontextmanager
async def both(url: str, cohort: str) -> AsyncIterator[tuple[EchoSilo, RecordingCoordinator]]:
    async with silo_transport(url, cohort) as silo, coordinator_transport(url, cohort) as coordinator:
        yield silo, coordinator


async def large_blobs_pass(silo: EchoSilo, coordinator: RecordingCoordinator, stage: int) -> None:
    """Check blobs of bulk size in both directions."""
    data = secrets.token_bytes(2**21)
    digest = digest_of(data)
    async with asyncio.timeout(60):
        while True:  # chunks are lost with a connection's queue, and the blob is sent again
            await coordinator.transport.send_blob(digest, data, silo=None, deadline=Deadline.after(20))
            try:
                await silo.transport.blobs.get(digest, Deadline.after(20), 1.0)
                break
            except Missing:
                continue
        item = work_item(
            silo.name, coordinator.transport.coordinator_id, stage=stage, blobs={digest: len(data)}, seconds=20
        )
        assert isinstance(await coordinator.transport.request(item, {}, Deadline.after(20)), Done)
        assert await coordinator.transport.results.get(digest, Deadline.after(10)) == data


def _node_of(cluster: PrivateCluster, link: ReconnectingConnection) -> ClusterNode:
    """Return the node of a connection."""
    assert link._connection is not None
    return node_at_port(cluster, link._connection._connected.endpoint.port)


Victim = Callable[[PrivateCluster, EchoSilo, RecordingCoordinator], ClusterNode]


@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(lambda cluster, *_: cluster.nodes[0], id="first", marks=pytest.mark.whole),
        pytest.param(lambda cluster, *_: cluster.nodes[1], id="second", marks=pytest.mark.whole),
        pytest.param(lambda cluster, *_: cluster.nodes[2], id="third", marks=pytest.mark.whole),
        pytest.param(lambda cluster, _, end: _node_of(cluster, end.transport._control), id="with replies"),
        pytest.param(
            lambda cluster, _, end: _node_of(cluster, end.transport._bulk), id="with results", marks=pytest.mark.whole
        ),
        pytest.param(lambda cluster, silo, _: _node_of(cluster, silo.transport._control), id="with the lobby"),
        pytest.param(
            lambda cluster, silo, _: _node_of(cluster, silo.transport._bulk), id="with blobs", marks=pytest.mark.whole
        ),
    ],
)
async def test_work_survives_the_death_of_any_node(cluster: PrivateCluster, cohort: str, victim: Victim) -> None:
    async with both(cluster.url, cohort) as (silo, coordinator):
        release = silo.gated()
        request = asyncio.create_task(coordinator.ask("ewr", 1, seconds=60))
        await eventually(lambda: len(silo.items) == 1)
        async with lost(cluster, victim(cluster, silo, coordinator)):
            release.set()
            assert await request == b"ok"
            assert await coordinator.ask("ewr", 2, seconds=60) == b"ok"
            await large_blobs_pass(silo, coordinator, 3)
            heard = len(coordinator.announces)
            await eventually(lambda: len(coordinator.announces) > heard)
        assert await coordinator.ask("ewr", 4, seconds=60) == b"ok"
        await large_blobs_pass(silo, coordinator, 5)


async def test_reply_reaches_a_coordinator_whose_queue_is_recreated(cluster: PrivateCluster, cohort: str) -> None:
    """Reply while the coordinator's queue does not exist, because its node has just died."""
    async with silo_transport(cluster.url, cohort) as silo, coordinator_transport(cluster.url, cohort) as coordinator:
        release = silo.gated()
        request = asyncio.create_task(coordinator.ask("ewr", 1, seconds=60))
        await eventually(lambda: len(silo.items) == 1)
        victim = _node_of(cluster, coordinator.transport._control)
        link = coordinator.transport._control
        line = link._connection
        assert line is not None
        line.down.add_done_callback(lambda _: release.set())
        async with lost(cluster, victim):
            assert await request == b"ok"


async def test_cohort_forms_while_a_node_is_down(cluster: PrivateCluster, cohort: str) -> None:
    """Include the case that the node held the cohort's queues, and each order of hosts in the URL."""
    async with both(cluster.url, cohort) as (silo, coordinator):
        victim = _node_of(cluster, silo.transport._control)
        assert await coordinator.ask("ewr", 1) == b"ok"
    async with lost(cluster, victim):
        for stage in range(3):
            async with both(cluster.url, cohort) as (silo, coordinator):
                assert await coordinator.ask("ewr", stage, seconds=60) == b"ok"
                await large_blobs_pass(silo, coordinator, stage + 10)


async def test_error_names_all_tried_hosts(cluster: PrivateCluster, cohort: str) -> None:
    login = cluster.url.rpartition("@")[0]
    with pytest.raises(BrokerUnreachable) as caught:
        async with silo_transport(f"{login}@127.0.0.1:1,127.0.0.1:2/", cohort):
            pass
    assert "127.0.0.1:1: no server is listening" in caught.value.what
    assert "127.0.0.1:2: no server is listening" in caught.value.what
    assert login.rpartition(":")[2] not in str(caught.value)


async def test_silent_host_leaves_time_for_the_next_host(cluster: PrivateCluster, cohort: str) -> None:
    async with Proxy(cluster.nodes[0].url) as silent:
        silent.stall()
        for _ in range(2):  # in either order
            url = f"{silent.url.removesuffix('/')},127.0.0.1:{cluster.nodes[1].port}/"
            silo = EchoSilo(url, cohort)
            async with asyncio.timeout(10):
                await silo.transport.open(Deadline.after(4))
            await silo.transport.close()


def test_cluster_ends_with_its_killed_owner() -> None:
    program = "import sys\nfrom tests.support.cluster import PrivateCluster\nc = PrivateCluster(2)\nc.start()\n"
    program += "print(*(b.directory for b in c._brokers), c._mapper._directory, flush=True)\nsys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        places = [Path(word) for word in owner.stdout.readline().decode().split()]
        assert len(places) == 3
        assert all(place.exists() for place in places)
        owner.kill()
    asyncio.run(eventually(lambda: not any(place.exists() or _used(place) for place in places), 20))


def _used(place: Path) -> bool:
    """Return whether a process has the directory in its environment."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(place).encode() in (entry / "environ").read_bytes():
                return True
        except OSError:
            continue
    return False
