"""The broker's operator against signed work: a copied work item is sent again while its signature is still valid.

The operator has every message and may give a copy any message id, including the original one, at any time: after the
silo has forgotten its reply, and after a restart of the silo, with and without an audit log. The work must be done
once.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fedbroker_worker.service import SiloService

from fedbroker.broker import PrivateBroker
from fedbroker.wire.messages import Done
from tests.support.attackers import Keyring
from tests.support.broker_operator import BrokerOperator, InterceptedMessage, broker_operator
from tests.support.gated_source import block_reads, gated_source, let_reads_return, read_count, unblock_reads
from tests.support.transports import coordinator_transport, eventually
from tests.support.worker import ALLOW_CLIENT_RESULTS, WorkClient, echo_ops

AUDITED = {**ALLOW_CLIENT_RESULTS, "audit_file": "audit.log"}


class Scene:
    """A silo that can be restarted, an honest coordinator, and the operator with a copy of its work.

    Attributes:
        silo: the silo in its current run.
        client: the honest coordinator.
        copy: the work item, which was done.
    """

    silo: SiloService
    client: WorkClient
    copy: InterceptedMessage

    def __init__(self, directory: Path, settings, attacker: BrokerOperator) -> None:
        self.directory = directory
        self.attacker = attacker
        self._settings = settings

    async def start(self) -> None:
        """Start the silo."""
        self.silo = SiloService(self._settings)
        await self.silo.open()

    async def start_again(self) -> None:
        """Restart the silo."""
        await self.silo.close()
        await self.start()

    async def send_copy(self, message_id: str | None = None) -> None:
        """Send the copy, by default under its own message id, and wait until the silo has handled it."""
        properties = {**self.copy.properties, "expiration": None}
        if message_id is not None:
            properties["message_id"] = message_id
        await self.attacker.send(dataclasses.replace(self.copy, properties=properties))
        await self.client.check()  # work behind it in the queue is done
        await eventually(lambda: self.silo.statistics().running == 0)


@pytest.fixture
async def scene(broker: PrivateBroker, cohort: str, tmp_path: Path, monkeypatch, request) -> AsyncIterator[Scene]:
    policy = getattr(request, "param", ALLOW_CLIENT_RESULTS)
    async with _scene(broker, cohort, tmp_path, monkeypatch, policy) as one:
        yield one


@asynccontextmanager
async def _scene(broker, cohort, tmp_path, monkeypatch, policy) -> AsyncIterator[Scene]:
    monkeypatch.syspath_prepend(str(tmp_path))
    let_reads_return(tmp_path)
    keyring = Keyring()
    sources = {"rows": {"query": "select 1::float as x"}, "counted": gated_source(tmp_path)}
    settings = keyring.silo_settings(tmp_path, broker.url, cohort, sources=sources, policy=policy)
    queue = f"fedbroker.work.{cohort}.ewr"
    async with (
        broker_operator(broker.url) as attacker,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a")) as a,
    ):
        one = Scene(tmp_path, settings, attacker)
        await one.start()
        try:
            await eventually(lambda: "ewr" in a.silos)
            await attacker.intercept(queue, "fedbroker.work", f"{cohort}.ewr.*")
            one.client = WorkClient(a)
            assert isinstance(await one.client.send(one.client.item(echo_ops("counted"), seconds=600)), Done)
            (one.copy,) = attacker.seen
            assert read_count(tmp_path) == 1
            yield one
        finally:
            await one.silo.close()


async def test_a_copy_under_its_own_message_id_is_answered_from_the_cache(scene: Scene) -> None:
    await scene.send_copy()
    assert read_count(scene.directory) == 1


async def test_a_copy_does_not_run_again_after_its_reply_expired(scene: Scene) -> None:
    scene.silo._reply_cache.clear()  # as after five minutes
    await scene.send_copy()
    assert read_count(scene.directory) == 1


async def test_a_copy_under_another_message_id_is_refused_and_reported(scene: Scene) -> None:
    scene.silo._reply_cache.clear()
    await scene.send_copy("another")
    assert read_count(scene.directory) == 1
    assert [why for _, _, why in scene.client.coordinator.forged] == [
        "at the silo: work: a work item was received again as another message"
    ]


@pytest.mark.parametrize("scene", [ALLOW_CLIENT_RESULTS, AUDITED], ids=["no audit log", "audit log"], indirect=True)
@pytest.mark.parametrize("message_id", [None, "another"], ids=["own id", "another id"])
async def test_a_copy_does_not_run_again_at_a_restarted_silo(scene: Scene, message_id: str | None) -> None:
    await scene.start_again()
    await scene.send_copy(message_id)
    assert read_count(scene.directory) == 1


@pytest.mark.parametrize("scene", [AUDITED], ids=["audit log"], indirect=True)
async def test_a_copy_does_not_run_again_after_the_audit_log_was_moved(scene: Scene) -> None:
    (scene.directory / "audit.log").rename(scene.directory / "audit.log.1")
    await scene.start_again()
    await scene.send_copy()
    assert read_count(scene.directory) == 1


async def test_work_queued_while_the_silo_was_down_runs(scene: Scene) -> None:
    """Send new work to a stopped silo: the protection from copies must not reject it, since the broker kept it."""
    await scene.silo.close()
    asked = asyncio.create_task(scene.client.send(scene.client.item(echo_ops("counted"))))
    await eventually(lambda: len(scene.attacker.seen) == 2)
    await scene.start()
    assert isinstance(await asked, Done)
    assert read_count(scene.directory) == 2


async def test_interrupted_work_runs_at_the_restarted_silo(scene: Scene) -> None:
    block_reads(scene.directory)
    asked = asyncio.create_task(scene.client.send(scene.client.item(echo_ops("counted"))))
    await eventually(lambda: read_count(scene.directory) == 2)
    await scene.silo.close()
    unblock_reads(scene.directory)
    await scene.start()
    assert isinstance(await asked, Done)
    assert read_count(scene.directory) == 3


async def test_a_copy_does_not_run_again_after_thousands_of_messages(scene: Scene, monkeypatch) -> None:
    monkeypatch.setattr(scene.silo._transport._envelopes._work, "_max_entries", 3)
    for _ in range(5):
        await scene.client.check()
    scene.silo._reply_cache.clear()
    await scene.send_copy()
    assert read_count(scene.directory) == 1
