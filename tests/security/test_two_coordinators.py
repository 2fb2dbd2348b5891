"""A malicious coordinator against another one: both hold valid keys, and the same silo takes work from both.

Coordinator B signs notices and work for A's session, or in A's name. B must not end A's session, take or withhold
values that the silo keeps or holds for A, make A believe that the silo misbehaves, or make the silo leave A.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from fedbroker_worker.service import SiloService

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport import topology
from fedbroker.transport.silo import announcer
from fedbroker.trust.envelope import MessageContext
from fedbroker.wire import digest_of, encode
from fedbroker.wire.messages import (
    Accepted,
    Call,
    Compute,
    Data,
    Done,
    EndSession,
    Failed,
    Fetch,
    Rejected,
    Value,
)
from tests.support.attackers import Keyring, malicious_coordinator, raw_client
from tests.support.gated_source import gated_source, let_reads_return, read_count
from tests.support.transports import HEARTBEAT, coordinator_transport, eventually, silo_transport, work_item
from tests.support.worker import WorkClient, echo_ops, identity_computation

pytestmark = pytest.mark.parametrize("seal", [False, True], ids=["signed", "sealed"])


@pytest.fixture
async def scene(broker: PrivateBroker, cohort: str, tmp_path, monkeypatch, seal: bool):
    """Run a real silo, the honest coordinator A as a client, and B."""
    monkeypatch.syspath_prepend(str(tmp_path))
    sources = {
        "rows": {"query": "select i::float as x from range(9) t(i)"},
        "gated": gated_source(tmp_path, waits=True),
    }
    keyring = Keyring()
    async with (
        SiloService(keyring.silo_settings(tmp_path, broker.url, cohort, sources=sources)) as silo,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a", seal=seal)) as honest,
        malicious_coordinator(broker.url, cohort, keyring, "b", seal=seal) as attacker,
    ):
        await eventually(lambda: "ewr" in honest.silos and "ewr" in attacker.coordinator.silos)
        yield silo, WorkClient(honest), attacker


async def has_read_its_notices(silo, attacker) -> None:
    """Wait until the silo has read all notices so far: a mailbox is read in order."""
    await attacker.send_notice("ewr", EndSession("seen"))
    await eventually(lambda: "seen" in [session for _, session in silo._tasks._ended_sessions])


async def test_a_coordinator_cannot_end_anothers_session(scene, tmp_path) -> None:
    silo, client, attacker = scene
    item = client.item(echo_ops("gated"))
    asked = asyncio.create_task(client.send(item))
    await eventually(lambda: read_count(tmp_path) == 1)
    await attacker.send_notice("ewr", EndSession(item.session_id))
    await has_read_its_notices(silo, attacker)
    let_reads_return(tmp_path)
    assert isinstance(await asked, Done)


async def test_a_coordinator_cannot_end_anothers_session_in_advance(scene) -> None:
    silo, client, attacker = scene
    item = client.item(echo_ops())
    await attacker.send_notice("ewr", EndSession(item.session_id))
    await has_read_its_notices(silo, attacker)
    assert isinstance(await client.send(item), Done)


async def test_a_coordinator_cannot_use_the_values_that_a_silo_keeps_for_another(scene) -> None:
    _, client, attacker = scene
    first = client.item([Data(1, "rows", (("x", "float32"),)), Compute(1)], last=False)
    assert isinstance(await client.send(first), Done)
    theirs = attacker.client()
    stolen = theirs.item([Compute(1)], session=first.session_id, stage=1)
    reply = await theirs.send(stolen)
    assert isinstance(reply, Failed), reply
    assert reply.error_type == "lost"
    function = identity_computation()
    program = [Value(2, digest_of(function)), Call(3, 2, 1), Compute(3)]
    again = client.item(program, session=first.session_id, stage=1)
    assert isinstance(await client.send(again, [function]), Done)  # they still exist for their own coordinator


async def test_a_coordinator_gets_no_cached_reply_of_another(scene, tmp_path) -> None:
    _, client, attacker = scene
    let_reads_return(tmp_path)
    item = client.item(echo_ops("gated"))
    assert isinstance(await client.send(item), Done)
    theirs = attacker.client()
    copied = theirs.item(echo_ops("rows"), session=item.session_id)
    reply = await theirs.send(copied)
    assert isinstance(reply, Done)
    assert read_count(tmp_path) == 1
    outputs = await client.outputs(client.item(echo_ops("gated")))
    assert reply.outputs[0][0] != digest_of(outputs[0])  # a reply of its own


async def test_the_reply_to_work_cannot_be_sent_to_another_coordinator(scene) -> None:
    silo, client, attacker = scene
    item = msgspec.structs.replace(attacker.client().item(echo_ops()), coordinator_id=client.transport.coordinator_id)
    rejected = silo.statistics().work_counters.rejected
    late = client.transport.late
    for at in range(3):
        await attacker.send_work(msgspec.structs.replace(item, session_id=f"s{at}"))
    await eventually(lambda: silo.statistics().work_counters.rejected == rejected + 3)
    await client.check()  # the silo still listens to A
    assert client.transport.late == late
    assert {silo for silo, _, why in client.coordinator.forged if not why.startswith("at the silo")} == set()


async def test_work_must_match_the_context_of_its_signature(scene, cohort) -> None:
    silo, client, attacker = scene
    item = attacker.client().item(echo_ops())
    await attacker.send_work(item, about=MessageContext("work", cohort, "ewr", "another", 7))
    await eventually(lambda: silo.statistics().work_counters.rejected == 1)
    await client.check()


async def test_each_coordinator_receives_forgery_reports(scene) -> None:
    silo, client, attacker = scene
    item = msgspec.structs.replace(attacker.client().item(echo_ops()), coordinator_id=client.transport.coordinator_id)
    await attacker.send_work(item)
    await eventually(lambda: silo.statistics().work_counters.rejected == 1)
    await attacker.client().check()  # takes nothing away from A
    await client.check()
    assert [why for _, _, why in client.coordinator.forged] == [
        "at the silo: work: a work item names another coordinator as the receiver of its reply"
    ]


async def test_a_coordinator_cannot_withhold_anothers_deferred_results(
    broker: PrivateBroker, cohort: str, seal: bool
) -> None:
    keyring = Keyring()
    large = bytes(300_000)
    async with (
        silo_transport(broker.url, cohort, keys=keyring.of_silo("ewr")) as silo,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a", seal=seal)) as honest,
        malicious_coordinator(broker.url, cohort, keyring, "b", seal=seal) as attacker,
    ):
        await eventually(lambda: "ewr" in honest.silos)
        silo.answer = lambda item: silo.send(item, [large], Deadline.after(20))
        item = msgspec.structs.replace(work_item("ewr", honest.transport.coordinator_id), defer_above=1000)
        async with honest.transport.start_request(item, {}, Deadline.after(20)) as asked:
            done = await asked.next_response()
            assert isinstance(done, Done)
            assert done.deferred
            await attacker.send_notice("ewr", Fetch("s1", 0, silo.incarnation, wanted=False))
            await attacker.send_notice("ewr", EndSession("seen"))
            await eventually(lambda: [one.session_id for one in silo.ended] == ["seen"])
            await honest.transport.fetch("ewr", "s1", 0, silo.incarnation)
            assert await honest.transport.results.get(digest_of(large), Deadline.after(10)) == large


async def test_a_coordinator_cannot_reject_a_silo_for_another(broker: PrivateBroker, cohort: str, seal) -> None:
    keyring = Keyring()
    async with (
        silo_transport(broker.url, cohort, keys=keyring.of_silo("ewr")) as silo,
        malicious_coordinator(broker.url, cohort, keyring, "b", seal=seal) as attacker,
    ):
        for name in (attacker.key, "any"):
            rejected = Rejected(name, "ewr", silo.incarnation, "go away", (86_400.0, 86_400.0), permanent=True)
            await attacker.send_notice("ewr", rejected)
        await attacker.send_notice("ewr", EndSession("seen"))
        await eventually(lambda: bool(silo.ended))
        announced = silo.announced
        await eventually(lambda: silo.announced >= announced + 3, 30 * HEARTBEAT + 10)
        async with coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a", seal=seal)) as honest:
            await eventually(lambda: "ewr" in honest.silos)
            accepted = Accepted(honest.transport.coordinator_id, "ewr", silo.incarnation)
            await honest.transport.send_notice("ewr", accepted)
            # In A's name: it revokes no notice of A.
            await attacker.send_notice(
                "ewr", msgspec.structs.replace(rejected, coordinator_id=honest.transport.coordinator_id)
            )
            announced = silo.announced
            await eventually(lambda: silo.announced >= announced + 3)


async def test_a_rejection_ends_as_documented(broker: PrivateBroker, cohort: str, seal) -> None:
    keyring = Keyring()
    keyring = Keyring(coordinators={"b": keyring.coordinators["b"]})  # the only one: the silo does leave it
    async with (
        silo_transport(broker.url, cohort, keys=keyring.of_silo("ewr")) as silo,
        malicious_coordinator(broker.url, cohort, keyring, "b", seal=seal) as attacker,
    ):
        until_ = silo.transport._announcer._rejected_until
        await attacker.send_notice("ewr", Rejected("b", "ewr", silo.incarnation, "no", (1e9, 1e9), permanent=True))
        now = asyncio.get_running_loop().time()
        await eventually(lambda: max(until_.values()) > now)
        assert max(until_.values()) - now <= announcer.MAX_RETRY + 5
        assert announcer.MAX_RETRY == 45 * 60


async def test_a_replayed_notice_is_refused(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    """Resend a notice as the broker's operator, while it is still valid."""
    keyring = Keyring()
    async with (
        silo_transport(broker.url, cohort, keys=keyring.of_silo("ewr")) as silo,
        malicious_coordinator(broker.url, cohort, keyring, "b", seal=seal) as attacker,
        raw_client(broker.url) as operator,
    ):
        body = attacker.signed(encode(EndSession("once")), MessageContext("mail", cohort, "ewr"), seal=seal)
        for _ in range(3):
            await operator.publish(topology.MAIL.name, topology.silo_key(cohort, "ewr"), body)
        await attacker.send_notice("ewr", EndSession("seen"))
        await eventually(lambda: "seen" in [one.session_id for one in silo.ended])
        assert [one.session_id for one in silo.ended] == ["once", "seen"]


async def test_an_old_notice_is_refused(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    keyring = Keyring()
    async with (
        silo_transport(broker.url, cohort, keys=keyring.of_silo("ewr")) as silo,
        malicious_coordinator(broker.url, cohort, keyring, "b", seal=seal) as attacker,
    ):
        await attacker.send_notice("ewr", EndSession("old"), issued=time.time() - 400)
        await attacker.send_notice("ewr", EndSession("future"), issued=time.time() + 400)
        await attacker.send_notice("ewr", EndSession("now"))
        await eventually(lambda: bool(silo.ended))
        assert [one.session_id for one in silo.ended] == ["now"]
