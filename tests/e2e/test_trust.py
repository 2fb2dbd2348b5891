"""Real silos with keys and an attacker at the broker: no forged data reach a result, and the report names the silo."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

import fedbroker
from benchmarks._computations import averaging
from fedbroker.deadline import Deadline
from fedbroker.errors import CohortTimeout, FedbrokerError
from fedbroker.testing import local_cohort
from fedbroker.transport.blobs.encryption import content_key
from fedbroker.trust import Identity
from tests.support.broker_operator import BrokerOperator, InterceptedMessage, broker_operator
from tests.support.computations import sum_numbers
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMES = ("bos", "ewr", "jfk")
NUMBERS = 100_000  # 400 KB: sent as bulk messages
SOURCES = {
    name: {"numbers": {"source": "duckdb", "query": f"select 1::float as x from range({10**at}) t(i)"}}
    for at, name in enumerate(NAMES)
}
MODEL_VALUE = np.arange(NUMBERS, dtype=np.float32)
SUMMED = averaging(NUMBERS)
"""A computation whose input and output are both large."""


class Between:
    """An operator on its own thread, between a context's exchanges and queues."""

    def __init__(self, url: str, cohort: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._url, self._cohort = url, cohort
        self.operator: BrokerOperator
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    async def _run(self) -> None:
        async with broker_operator(self._url) as self.operator:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Between:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    def intercept(self, queue: str, exchange: str, key: str) -> None:
        self._do(self.operator.intercept(queue, exchange, key))

    def send(self, passing: InterceptedMessage) -> None:
        self._do(self.operator.send(passing))

    def _do(self, step: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(10)


@contextlib.contextmanager
def scene(broker, cohort, security, **options) -> Iterator[tuple]:
    """Run a context over three silos with keys, and an operator that sees all replies and results."""
    with (
        local_cohort(SOURCES, cohort=cohort, broker=broker.url, security=security) as silos,
        fedbroker.create_sync_execution_context(
            broker.url, cohort=cohort, keys=silos.keys, min_silos=3, **context_settings(**options)
        ) as context,
        Between(broker.url, cohort) as between,
    ):
        assert sum_numbers(context) == 111.0
        key = context._coordinator._cohort._transport.coordinator_id
        between.intercept(f"fedbroker.callback.{key}", "fedbroker.reply", f"{key}.#")
        between.intercept(f"fedbroker.results.{key}", "fedbroker.results", f"{key}.*")
        yield context, between.operator


def large(context) -> np.ndarray:
    return context.invoke(SUMMED, pack_arguments(SUMMED, (MODEL_VALUE, [1.0, 2.0, 3.0])))


@pytest.mark.parametrize("security", ["sign", "seal"])
def test_results_with_keys_equal_results_without_keys(broker, cohort, security):
    with scene(broker, cohort, security) as (context, between):
        assert sum_numbers(context) == 111.0
        for _ in range(2):  # the second time, silos have the model in their caches
            np.testing.assert_array_equal(large(context), 6 * MODEL_VALUE)
            assert context.last_session.forged == ()
        read = b"".join(one.body for one in between.seen if "results" in one.queue)
        assert len(read) > 6 * MODEL_VALUE.nbytes
        assert ((3 * MODEL_VALUE)[1000:1100].tobytes() in read) == (security == "sign")


@pytest.mark.parametrize("security", ["sign", "seal"])
def test_silo_with_edited_results_is_dropped_and_named(broker, cohort, security):
    with scene(broker, cohort, security, stragglers="drop", quorum=2, stage=8.0) as (context, between):

        def edit(one):
            if "results" not in one.queue or not one.key.endswith(".jfk"):
                return [one]
            return [one.with_body(one.body[:-100] + bytes([one.body[-100] ^ 1]) + one.body[-99:])]

        between.change = edit
        np.testing.assert_array_equal(large(context), 3 * MODEL_VALUE)
        named = {silo for silo, _ in context.last_session.forged}
        assert named == {"jfk"}


@pytest.mark.parametrize("security", ["sign", "seal"])
def test_silo_with_an_edited_reply_is_dropped_and_named(broker, cohort, security):
    with scene(broker, cohort, security, stragglers="drop", quorum=2, stage=8.0) as (context, between):

        def edit(one):
            if not one.key.endswith(".ewr"):
                return [one]
            return [one.with_body(one.body[:-70] + bytes([one.body[-70] ^ 1]) + one.body[-69:])]

        between.change = edit
        assert sum_numbers(context) == 101.0
        ((silo, why),) = context.last_session.forged
        assert silo == "ewr"
        assert "signature" in why
        between.change = lambda one: [one]
        wait_until(lambda: sum_numbers(context) == 111.0, 30)


def test_replies_of_another_session_are_refused(broker, cohort):
    with scene(broker, cohort, "sign", stragglers="drop", quorum=2, stage=8.0) as (context, between):
        assert sum_numbers(context) == 111.0
        (old,) = [one for one in between.seen if one.key.endswith(".ewr")]

        def swap(one):
            return [one.with_body(old.body)] if one.key.endswith(".ewr") else [one]

        between.change = swap
        assert sum_numbers(context) == 101.0
        assert {silo for silo, _ in context.last_session.forged} == {"ewr"}


def test_restarted_silo_refuses_replayed_work(broker, cohort, tmp_path):
    queue = f"fedbroker.work.{cohort}.ewr"
    with (
        local_cohort(
            SOURCES,
            cohort=cohort,
            broker=broker.url,
            directory=tmp_path,
            policy={"audit_file": "audit.log"},
            security="sign",
        ) as silos,
        fedbroker.create_sync_execution_context(broker.url, cohort=cohort, keys=silos.keys, min_silos=3) as context,
        Between(broker.url, cohort) as between,
    ):
        between.intercept(queue, "fedbroker.work", f"{cohort}.ewr.*")
        assert sum_numbers(context) == 111.0
        (done,) = between.operator.seen
        between.operator.change = lambda _: []  # a silo that starts binds its queue again
        ewr = silos.silos["ewr"]
        ewr.stop()
        ewr.start()
        ewr.wait_ready(Deadline.after(30))
        between.send(replace(done, properties={**done.properties, "expiration": None}))
        wait_until(lambda: "message_forged" in ewr.log.read_text(), 10)
        assert len((ewr.directory / "audit.log").read_text().splitlines()) == 2  # begun, and answered
        wait_until(lambda: sum_numbers(context) == 111.0, 30)
        ((silo, why),) = context.last_session.forged
        assert silo == "ewr"
        assert "received again" in why


def test_no_silo_joins_without_the_right_keys(broker, cohort, tmp_path):
    with local_cohort(SOURCES, cohort=cohort, broker=broker.url, security="sign") as silos:
        with (
            fedbroker.create_sync_execution_context(
                broker.url, cohort=cohort, min_silos=3, timeouts=fedbroker.Timeouts(join=3)
            ) as context,
            pytest.raises(CohortTimeout, match="0 of 3"),
        ):
            sum_numbers(context)
        text = silos.keys.read_text()
        stranger = tmp_path / "keys.toml"
        other = fedbroker.trust.Identity.generate()
        (tmp_path / "secret.key").write_text(other.reveal())
        stranger.write_text(text)
        with (
            fedbroker.create_sync_execution_context(
                broker.url, cohort=cohort, keys=stranger, min_silos=3, timeouts=fedbroker.Timeouts(stage=5)
            ) as context,
            pytest.raises(FedbrokerError) as caught,
        ):
            sum_numbers(context)
        assert other.reveal()[20:] not in str(caught.value)


def test_no_secret_is_in_logs_or_process_lists(broker, cohort, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FEDBROKER_SILO_LOG_LEVEL", "debug")
    monkeypatch.setenv("FEDBROKER_POLICY_AUDIT_FILE", "audit.log")
    caplog.set_level("DEBUG", "fedbroker")
    url = urlsplit(broker.url)
    with (
        local_cohort(SOURCES, cohort=cohort, broker=broker.url, security="seal", directory=tmp_path) as silos,
        fedbroker.create_sync_execution_context(
            broker.url, cohort=cohort, keys=silos.keys, min_silos=3, timeouts=fedbroker.Timeouts(stage=20)
        ) as context,
    ):
        assert sum_numbers(context) == 111.0
        session = context.last_session.session
        own = Identity.parse((tmp_path / "secret.key").read_text())
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        commands = "\n".join(" ".join(one.cmdline()) for one in family)
        shown = repr((context, context._coordinator.settings, silos))
    secrets = [path.read_text().partition(":")[2].strip() for path in tmp_path.rglob("secret.key")]
    assert len(secrets) == 4
    secrets += [content_key(own, session).hex(), url.password]
    audits = [json.loads(path.read_text().splitlines()[0]) for path in tmp_path.rglob("audit.log")]
    assert [one["signed_by"] for one in audits] == 3 * [own.public.fingerprint]
    logs = "\n".join(path.read_text() for path in tmp_path.rglob("*.log"))
    assert "work_received" in logs
    assert "fedbroker" in commands
    for secret in secrets:
        for text in (logs, commands, shown, caplog.text):
            assert secret not in text
