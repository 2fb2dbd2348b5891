"""Failures of silos, brokers and users: each raises its error in time, and the next invocation succeeds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

import fedbroker
from fedbroker.broker import PrivateBroker
from fedbroker.errors import (
    BrokerRefused,
    BrokerUnreachable,
    CohortTimeout,
    DeadlineExceeded,
    FedbrokerError,
    SiloError,
)
from fedbroker.testing import local_cohort
from tests.support.computations import sum_numbers
from tests.support.context_settings import context_settings
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NUMBERS = {"numbers": {"source": "duckdb", "query": "select i::float as x from range(10) t(i)"}}


@contextlib.contextmanager
def cohort_and_context(broker, cohort, **options):
    with (
        local_cohort(2, sources=NUMBERS, cohort=cohort, broker=broker.url) as silos,
        fedbroker.create_sync_execution_context(
            broker.url, cohort=cohort, min_silos=2, **context_settings(**options)
        ) as context,
    ):
        yield silos, context


def test_stage_timeout_names_the_stopped_silo_and_the_next_invocation_succeeds(broker, cohort):
    with cohort_and_context(broker, cohort, stage=10.0) as (silos, context):
        assert sum_numbers(context) == 90.0
        stopped = silos.silos["silo-1"]
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                sum_numbers(context)
            assert 9.5 < time.monotonic() - start < 20.0
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        assert caught.value.silos == ("silo-1",)
        assert caught.value.stage == 0
        assert wait_until(lambda: _succeeds(context), 20)


def test_killed_silo_is_reported_missing_and_rejoins_after_restart(broker, cohort):
    with cohort_and_context(broker, cohort, join=10.0, stage=10.0) as (silos, context):
        assert sum_numbers(context) == 90.0
        silos.silos["silo-1"].kill()
        with pytest.raises((DeadlineExceeded, CohortTimeout)):
            sum_numbers(context)
        with pytest.raises(CohortTimeout, match="gone: silo-1"):
            # The coordinator marks the silo as missing after two heartbeats of one second.
            wait_until(lambda: _gone(context), 20)
        silos.silos["silo-1"].start()
        assert wait_until(lambda: _succeeds(context), 20)


def _succeeds(context):
    with contextlib.suppress(DeadlineExceeded, CohortTimeout):
        return sum_numbers(context) == 90.0
    return False


def _gone(context):
    with contextlib.suppress(DeadlineExceeded):
        return sum_numbers(context)
    return False


def test_stopped_silo_leaves_the_cohort_immediately(broker, cohort):
    with cohort_and_context(broker, cohort, join=0.5) as (silos, context):
        assert sum_numbers(context) == 90.0
        assert silos.silos["silo-1"].stop() == 0
        with pytest.raises(CohortTimeout, match="gone: silo-1"):
            sum_numbers(context)


def test_killed_runtime_is_restarted(broker, cohort):
    with cohort_and_context(broker, cohort) as (silos, context):
        assert sum_numbers(context) == 90.0
        for process in psutil.Process(silos.silos["silo-0"].pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert wait_until(lambda: _tolerant(context), 20) == 90.0


def _tolerant(context):
    with contextlib.suppress(SiloError):
        return sum_numbers(context)
    return False


def test_failing_query_raises_a_silo_error_and_recovers(broker, cohort, tmp_path):
    (tmp_path / "silo-0").mkdir()
    data = tmp_path / "silo-0" / "x.csv"
    data.write_text("x\n1.5\n2.5\n")
    sources = {"silo-0": {"numbers": {"source": "duckdb", "query": "select x::float as x from 'x.csv'"}}}
    with (
        local_cohort(sources, cohort=cohort, broker=broker.url, directory=tmp_path),
        fedbroker.create_sync_execution_context(broker.url, cohort=cohort, min_silos=1) as context,
    ):
        assert sum_numbers(context) == 4.0
        data.write_text("x\nnonsense\n")
        with pytest.raises(SiloError) as caught:
            sum_numbers(context)
        assert caught.value.silo == "silo-0"
        assert "\n" not in str(caught.value)
        data.write_text("x\n3.5\n")
        assert sum_numbers(context) == 3.5


def test_both_sides_reconnect_after_a_broker_restart(tmp_path):
    patient = {"min_silos": 2, "join": 40.0, "stage": 40.0}
    with (
        PrivateBroker(directory=tmp_path / "node") as node,
        local_cohort(2, sources=NUMBERS, cohort="phoenix", broker=node.url),
        fedbroker.create_sync_execution_context(node.url, cohort="phoenix", **context_settings(**patient)) as context,
    ):
        assert sum_numbers(context) == 90.0
        node.kill()
        node.start()
        # A silo that returns later than the coordinator has no queue yet; that error is immediate and retryable.
        assert wait_until(lambda: _asked_again(context), 40) == 90.0


def _asked_again(context):
    try:
        return sum_numbers(context)
    except FedbrokerError as error:
        if not error.retryable:
            raise
    return None


def invoke_in_a_new_context(url):
    with fedbroker.create_sync_execution_context(
        url, cohort="nobody", min_silos=1, timeouts=fedbroker.Timeouts(join=5.0)
    ) as context:
        sum_numbers(context)


def test_wrong_password_vhost_or_address_is_an_error(broker):
    right = broker.url
    wrong_password = right.replace(right.split(":")[2].split("@")[0], "wrong-password")
    with pytest.raises(BrokerRefused, match="FB2002") as caught:
        invoke_in_a_new_context(wrong_password)
    assert "wrong-password" not in str(caught.value)
    with pytest.raises(BrokerRefused, match="nowhere"):
        invoke_in_a_new_context(right + "nowhere")
    with pytest.raises(BrokerUnreachable):
        invoke_in_a_new_context("amqp://127.0.0.1:1/")


def test_closed_context_leaves_no_queues_at_the_broker(tmp_path):
    with PrivateBroker(directory=tmp_path / "node") as node:
        with (
            local_cohort(1, sources=NUMBERS, cohort="tidy", broker=node.url),
            fedbroker.create_sync_execution_context(node.url, cohort="tidy", min_silos=1) as context,
        ):
            assert sum_numbers(context) == 45.0
        names = _queues(node)
        assert sorted(names) == ["fedbroker.dead.tidy", "fedbroker.lobby.tidy", "fedbroker.work.tidy.silo-0"]


def _queues(node):
    import asyncio

    import aio_pika

    candidates = [
        f"fedbroker.{kind}.tidy{tail}"
        for kind in ("work", "blobs", "mailbox", "lobby", "dead")
        for tail in ("", ".silo-0")
    ]

    async def existing():
        found = []
        async with asyncio.timeout(20), await aio_pika.connect(node.url) as connection:
            for name in candidates:
                channel = await connection.channel()
                with contextlib.suppress(aio_pika.exceptions.ChannelClosed):
                    await channel.declare_queue(name, passive=True)
                    found.append(name)
        return found

    return asyncio.run(existing())


SCRIPT = """
import sys, fedbroker
import numpy as np, tensorflow_federated as tff
context = fedbroker.set_sync_execution_context(sys.argv[1], cohort=sys.argv[2], min_silos=2)

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def total(x):
    return tff.federated_sum(x)

print(total([1.0, 2.0]))
"""


def test_program_ends_without_closing_its_context(broker, cohort):
    with local_cohort(2, cohort=cohort, broker=broker.url):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, broker.url, cohort],
            capture_output=True,
            text=True,
            timeout=PROCESS_SECONDS,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "3.0"
    assert "Traceback" not in done.stderr


def test_silo_check_prints_columns_and_rows(broker, cohort, tmp_path):
    with local_cohort(1, sources=NUMBERS, cohort=cohort, broker=broker.url, directory=tmp_path):
        command = [sys.executable, "-m", "fedbroker_worker", "check", "--json"]
        config = str(tmp_path / "silo-0" / "silo.toml")
        done = subprocess.run(
            [*command, "--config", config], capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False
        )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)["sources"]["numbers"]
    assert numbers["rows"] == 10
