"""A silo's metrics count its work and its failures."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import psutil
import pytest
from fedbroker_worker.metrics import SiloMetrics
from fedbroker_worker.service import SiloService

from fedbroker.metrics.exposition import Exposition
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Compute, Data, Need, Value
from tests.support.gated_source import let_reads_return, read_count
from tests.support.prometheus import sample
from tests.support.proxy import Proxy
from tests.support.transports import eventually, queue_admin
from tests.support.wait import PROCESS_SECONDS
from tests.support.worker import (
    SILO,
    call_ops,
    echo_ops,
    identity_computation,
    load_settings,
    new_runtimes,
    work_client,
    write_settings,
)


class Metrics:
    """The metrics that a silo in this process serves, as Prometheus scrapes them."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def value(self, name: str, **labels: str) -> float:
        """Return a metric's value of the only silo; another thread makes the HTTP request."""
        return await asyncio.to_thread(sample, self.url, name, silo=SILO, **labels)


@asynccontextmanager
async def watched(own):
    """Run a silo, its metrics, and a coordinator that has discovered it."""
    metrics = SiloMetrics(own.silo.cohort, own.silo.name)
    service = SiloService(own, on_reply=metrics.count_reply)
    metrics.watch(service.statistics)
    with Exposition("127.0.0.1:0", metrics.registry) as exposition:
        async with service, work_client(own) as client:
            yield Metrics(exposition.url), client


async def test_work_is_counted_by_outcome_time_and_blob_origin(broker, cohort, tmp_path):
    function = identity_computation()
    async with watched(load_settings(tmp_path, broker.url, cohort)) as (metrics, client):
        await client.outputs(client.item(call_ops(function)), [function])
        await client.outputs(client.item(call_ops(function)))
        unknown = [Value(1, digest_of(b"unknown")), Compute(1)]
        assert isinstance(await client.send(client.item(unknown)), Need)
        await client.refused(client.item(echo_ops("nope")))  # and one more that succeeds
        outcomes = {"done": 3, "lacking": 1, "data": 1, "refused": 0}
        assert {one: await metrics.value("fedbroker_work_items_total", outcome=one) for one in outcomes} == outcomes
        blobs = {"sent": 1, "cached": 1, "lacking": 1}
        assert {one: await metrics.value("fedbroker_blobs_total", found=one) for one in blobs} == blobs
        assert await metrics.value("fedbroker_work_seconds_count", phase="compute") == 3
        assert 0 < await metrics.value("fedbroker_work_seconds_sum", phase="compute") < 30
        assert await metrics.value("fedbroker_blob_cache_bytes") == len(function)
        assert await metrics.value("fedbroker_broker_up", connection="control") == 1
        assert await metrics.value("fedbroker_broker_bytes_total", connection="control", direction="in") > 0


@pytest.mark.parametrize(("compression", "least", "most"), [("off", 4_000_000, 5_000_000), ("auto", 1, 1_000_000)])
async def test_silo_compresses_results_if_configured(broker, cohort, tmp_path, compression, least, most):
    sparse = {"rows": {"query": "select (i % 100 = 0)::double as x from range(500000) t(i)"}}
    own = load_settings(tmp_path, broker.url, cohort, sparse, compression=compression)
    async with watched(own) as (metrics, client):
        (output,) = await client.outputs(client.item(echo_ops(columns=[("x", "float64")])))
        assert len(output) > 4_000_000
        assert least <= await metrics.value("fedbroker_broker_bytes_total", connection="bulk", direction="out") < most


async def test_current_work_is_a_gauge(broker, cohort, tmp_path, waiting):
    async with watched(load_settings(tmp_path, broker.url, cohort, waiting)) as (metrics, client):
        await client.outputs(client.item([Data(1, "rows", (("x", "float32"),))], session="held", last=False))
        asking = asyncio.create_task(client.send(client.item(echo_ops("waiting"))))
        await eventually(lambda: read_count(tmp_path) == 1)
        assert await metrics.value("fedbroker_work_running") == 1
        assert await metrics.value("fedbroker_sessions_held") == 2
        let_reads_return(tmp_path)
        await asking
        await eventually(lambda: _is(metrics, "fedbroker_work_running", 0))
        assert await metrics.value("fedbroker_sessions_held") == 1


async def test_reconnections_and_redeliveries_are_counted(broker, cohort, tmp_path, waiting):
    async with Proxy(broker.url) as proxy:
        own = load_settings(tmp_path, proxy.url, cohort, waiting)
        async with watched(own) as (metrics, client):
            asking = asyncio.create_task(client.send(client.item(echo_ops("waiting"))))
            await eventually(lambda: read_count(tmp_path) == 1)
            await proxy.refuse()
            proxy.cut()
            await eventually(lambda: _is(metrics, "fedbroker_broker_up", 0))
            await proxy.accept()
            await eventually(lambda: _is(metrics, "fedbroker_broker_reconnections_total", 2), 20)  # control and bulk
            await eventually(lambda: _is(metrics, "fedbroker_broker_up", 2))
            await eventually(lambda: _is(metrics, "fedbroker_work_redeliveries_total", 1))
            let_reads_return(tmp_path)
            await asking
            assert read_count(tmp_path) == 1


async def test_runtime_deaths_and_invalid_messages_are_counted(broker, cohort, tmp_path):
    ours = new_runtimes()
    async with (
        watched(load_settings(tmp_path, broker.url, cohort)) as (metrics, client),
        queue_admin(broker.url) as somebody,
    ):
        await client.check()
        for runtime in ours():
            runtime.kill()
        psutil.wait_procs(ours(), 5)
        await client.check()
        assert await metrics.value("fedbroker_runtime_restarts_total") == 1
        await somebody.publish("fedbroker.work", f"{cohort}.{SILO}.x", b"no work at all", message_id="m")
        await eventually(lambda: _is(metrics, "fedbroker_work_rejected_total", 1))


async def _is(metrics: Metrics, name: str, value: float) -> bool:
    return await metrics.value(name) == value


@pytest.mark.parametrize("where", ["taken", "nowhere"])
def test_unavailable_metrics_port_is_a_one_line_error(broker, cohort, tmp_path, where):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}" if where == "taken" else "192.0.2.1:9465"
        path = write_settings(tmp_path, broker.url, cohort, metrics=address)
        command = [sys.executable, "-m", "fedbroker_worker", "run", "--config", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"[FB1001] metrics cannot be served at {address}: " in line
