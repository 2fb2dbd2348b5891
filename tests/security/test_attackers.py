"""The attackers themselves: each can do what the other files of this folder assume.

A malicious coordinator's work is done, and a malicious silo's reply counts, as long as they keep to the rules: their
keys are valid. The raw client's work is refused, since it has no keys.
"""

from __future__ import annotations

import asyncio

from fedbroker_worker.service import SiloService

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport import topology
from fedbroker.transport.coordinator.requests import PendingRequest
from fedbroker.wire import encode
from fedbroker.wire.messages import Done
from tests.support.attackers import Keyring, malicious_coordinator, malicious_silo, raw_client
from tests.support.transports import coordinator_transport, eventually, work_item
from tests.support.worker import echo_ops


async def test_valid_work_of_a_malicious_coordinator_runs(broker: PrivateBroker, cohort: str, tmp_path) -> None:
    keyring = Keyring()
    async with (
        SiloService(keyring.silo_settings(tmp_path, broker.url, cohort)),
        malicious_coordinator(broker.url, cohort, keyring) as attacker,
    ):
        await eventually(lambda: "ewr" in attacker.coordinator.silos)
        client = attacker.client()
        await client.check()
        item = client.item(echo_ops())
        publishing = asyncio.create_task(attacker.send_work(item))
        request = PendingRequest(item, "", publishing, Deadline.after(10))
        with attacker.coordinator.transport._router.registered(request):
            assert isinstance(await request.next_response(), Done)


async def test_valid_reply_of_a_malicious_silo_is_accepted(broker: PrivateBroker, cohort: str) -> None:
    keyring = Keyring()
    async with (
        malicious_silo(broker.url, cohort, keyring) as attacker,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a")) as victim,
    ):
        attacker.silo.answer = lambda item: attacker.reply_with_outputs(item, [b"anything"])
        await eventually(lambda: "jfk" in victim.silos)
        assert await victim.ask("jfk") == b"anything"


async def test_work_of_a_raw_client_is_refused(broker: PrivateBroker, cohort: str, tmp_path) -> None:
    keyring = Keyring()
    async with (
        SiloService(keyring.silo_settings(tmp_path, broker.url, cohort)) as silo,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a")) as honest,
        raw_client(broker.url) as attacker,
    ):
        await eventually(lambda: "ewr" in honest.silos)
        item = work_item("ewr", honest.transport.coordinator_id)
        await attacker.publish(
            topology.WORK.name,
            topology.work_key(cohort, "ewr", honest.transport.coordinator_id),
            encode(item),
            correlation_id="s1.0.ewr",
            message_id="raw",
        )
        await eventually(lambda: silo.statistics().work_counters.rejected == 1)
        answer = await honest.transport.request(
            work_item("ewr", honest.transport.coordinator_id, session="s2"), {}, Deadline.after(10)
        )
        assert isinstance(answer, Done)
        assert [why for _, _, why in honest.forged] == ["at the silo: work: a message is not signed"]
