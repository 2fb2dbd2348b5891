"""A silo's exchanges of sums from which silos may drop out: how long they live, and whose notices count."""

from __future__ import annotations

import asyncio

import pytest
from fedbroker_worker.masking import exchange as steps
from fedbroker_worker.masking import exchanges as module
from fedbroker_worker.masking.exchange import MaskCounters
from fedbroker_worker.masking.exchanges import Exchanges
from fedbroker_worker.masking.requests import CheckedRequest
from fedbroker_worker.metrics import SiloMetrics
from fedbroker_worker.service import Statistics

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, MaskingError
from fedbroker.masking.offers import Offer
from fedbroker.masking.request import MaskingRequest
from fedbroker.masking.rings import Ring
from fedbroker.masking.steps import decode_step, encode_step
from fedbroker.transport import Signed
from fedbroker.transport.silo.work_consumer import WorkCounters
from fedbroker.wire.messages import MaskNotice, WorkItem
from tests.support.masking import Silos
from tests.support.transports import eventually

OWN = "s00"
SIGNED = Signed("coordinator")


@pytest.fixture
def silos():
    return Silos(3)


@pytest.fixture
def sent():
    return []


@pytest.fixture
async def exchanges(sent):
    async def send(_item, reply, content, *_):
        sent.append((reply.step, content))

    found = Exchanges("i1", send, None)
    yield found
    found.close()


def item(session="s1", stage=0, *, lease=60.0):
    return WorkItem(session, stage, OWN, "c1", 1, (), {}, 60.0, lease, False)


def checked(silos, session="s1", stage=0):
    request = MaskingRequest(silos.members.all, (1, 1, 1), True, bytes(32), ((Ring(4),),))
    occasion = request.occasion(session, stage)
    return CheckedRequest(request, silos.members, occasion, silos.masking[OWN], silos.roster)


async def begin(exchanges, silos, session="s1", stage=0, signed=SIGNED, **own):
    return await exchanges.begin(item(session, stage, **own), signed, checked(silos, session, stage))


def notice(step="sharing", session="s1", stage=0, incarnation="i1"):
    return MaskNotice(session, stage, incarnation, step)


async def settled(exchange):
    while exchange._tasks:
        await asyncio.wait(exchange._tasks)


async def test_offer_is_sent_at_once(exchanges, silos, sent):
    exchange = await begin(exchanges, silos)
    await settled(exchange)
    ((step, content),) = sent
    assert step == "offer"
    assert set(decode_step(content, Offer).sealed) == {"s01", "s02"}


async def test_work_waits_for_the_offers_of_all(exchanges, silos):
    exchange = await begin(exchanges, silos)
    waiting = asyncio.create_task(exchange.offers())
    exchanges.on_notice(notice(incarnation="i0"), encode_step({}), SIGNED.by)
    exchanges.on_notice(notice(), encode_step({}), "another")
    await settled(exchange)
    assert not waiting.done()
    exchanges.on_notice(notice(), encode_step({}), SIGNED.by)
    assert await waiting == {}


async def test_cancelled_work_leaves_the_exchange_as_it_is(exchanges, silos):
    exchange = await begin(exchanges, silos)
    waiting = asyncio.create_task(exchange.offers())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    exchanges.on_notice(notice(), encode_step({}), SIGNED.by)
    assert await exchange.offers() == {}


async def test_work_fails_if_its_exchange_is_given_up(exchanges, silos):
    exchange = await begin(exchanges, silos)
    waiting = asyncio.create_task(exchange.offers())
    await asyncio.sleep(0)
    exchanges.forget(exchange)
    with pytest.raises(MaskingError, match="was given up"):
        await waiting


async def test_session_ends_its_own_exchanges_only(exchanges, silos):
    one, other = await begin(exchanges, silos), await begin(exchanges, silos, stage=1)
    another = await begin(exchanges, silos, session="s2")
    exchanges.end("s1", "somebody")
    assert exchanges.find(item(), SIGNED.by) is one
    exchanges.end("s1", SIGNED.by)
    assert [exchanges.find(item(*key), SIGNED.by) for key in (("s1", 0), ("s1", 1), ("s2", 0))] == [None, None, another]
    assert other.checked.occasion.stage == 1


async def test_secrets_are_forgotten_after_the_lease(exchanges, silos):
    exchange = await begin(exchanges, silos)
    exchanges.keep(exchange, 0.01)
    await eventually(lambda: exchanges.find(item(), SIGNED.by) is None)


async def test_signer_with_too_many_exchanges_loses_its_oldest(exchanges, silos, monkeypatch):
    monkeypatch.setattr(module, "MAX_EXCHANGES", 2)
    await begin(exchanges, silos, session="s0", signed=Signed("another"))
    for at in range(1, 4):
        await begin(exchanges, silos, session=f"s{at}")
    assert [exchanges.find(item(f"s{at}"), SIGNED.by) is not None for at in range(1, 4)] == [False, True, True]
    assert exchanges.find(item("s0"), "another") is not None


async def test_notices_do_not_pile_up(exchanges, silos, sent, monkeypatch):
    exchange = await begin(exchanges, silos)
    await settled(exchange)
    for _ in range(10 * steps.MAX_NOTICES):
        exchanges.on_notice(notice("survivors"), encode_step(["s00"]), SIGNED.by)
    assert len(exchange._tasks) == steps.MAX_NOTICES
    await settled(exchange)
    assert exchanges.counters.refused == steps.MAX_NOTICES
    assert [step for step, _ in sent] == ["offer", *["refused"] * steps.MAX_NOTICES]


async def test_step_that_cannot_be_sent_ends_nothing(silos):
    async def send(*_):
        raise BrokerLost("the broker is away")

    exchanges = Exchanges("i1", send, None)
    exchange = await begin(exchanges, silos)
    await settled(exchange)
    assert exchanges.find(item(), SIGNED.by) is exchange
    exchanges.close()


async def test_stopping_silo_waits_until_it_has_revealed_its_shares(exchanges, silos):
    exchange = await begin(exchanges, silos)
    await exchanges.answered(Deadline.after(10))  # it has not masked: its work item is waited for
    exchange.is_masked = True
    waiting = asyncio.create_task(exchanges.answered(Deadline.after(60)))
    await asyncio.sleep(0)
    assert not waiting.done()
    exchanges.forget(exchange)
    await waiting


async def test_stopping_silo_does_not_wait_for_ever(exchanges, silos):
    exchange = await begin(exchanges, silos)
    exchange.is_masked = True
    await exchanges.answered(Deadline.after(0.01))


async def test_sums_are_exported_by_the_step_that_they_have_reached():
    metrics = SiloMetrics("airports", "ewr")
    counters = MaskCounters(begun=5, masked=4, failed=1, revealed=3, refused=2)
    statistics = Statistics(0, 0, 0, 0, 0, 0, {}, WorkCounters(), counters)
    metrics.watch(lambda: statistics)
    labels = {"cohort": "airports", "silo": "ewr"}

    def value(name, **more):
        return metrics.registry.get_sample_value(name, labels | more)

    steps = {
        step: value("fedbroker_masked_sums_total", step=step) for step in ("begun", "masked", "failed", "revealed")
    }
    assert steps == {"begun": 5, "masked": 4, "failed": 1, "revealed": 3}
    assert value("fedbroker_mask_notices_refused_total") == 2


async def test_exchange_shows_no_secret(exchanges, silos):
    exchange = await begin(exchanges, silos)
    assert "0x" in repr(exchange)  # the default, without attributes
    assert exchange._sum._dealt.seed.hex() not in repr(exchange._sum._dealt)
