"""A coordinator with valid keys asks silos for shares that would remove the masks of one silo's values.

The silos' workers and the C++ runtime are real. The promises: a survivor signs one list, reveals one secret of each
silo and only where enough survivors have signed the same list; notices of others change nothing. Refused notices are in
the audit log, by name.
"""

from __future__ import annotations

import asyncio

import pytest
from fedbroker_worker.masking import exchange
from fedbroker_worker.policy.rules import PolicySettings

from fedbroker.masking.offers import Offer
from fedbroker.masking.request import encode_request
from fedbroker.masking.steps import Refusal
from fedbroker.masking.survivors import Revealed
from fedbroker.trust import Identity
from fedbroker.wire.messages import Done, Failed, Need
from tests.support.masked_workers import (
    COORDINATOR,
    DropoutRun,
    MaskedSilo,
    masked_cohort,
    ops_of,
    two_sums,
    with_fields,
)
from tests.support.transports import eventually

pytestmark = pytest.mark.runtime


@pytest.fixture(scope="module")
def function():
    return two_sums()


@pytest.fixture
async def silos(tmp_path):
    async with masked_cohort(tmp_path, 5) as cohort:
        yield cohort


@pytest.fixture
async def run(silos, function):
    """Return a sum whose offers have arrived."""
    ops = ops_of(function)
    run = DropoutRun(silos, silos.request(ops, [function], dropouts=True))
    await run.start(ops, [function])
    yield run
    for silo in silos:
        silo.end("s1")
    await asyncio.gather(*run.work.values(), return_exceptions=True)


@pytest.fixture
async def masked(run):
    """Return a sum whose values have arrived, but for one silo's."""
    await run.share(dropped=["s4"])
    return run


ALL = ("s0", "s1", "s2", "s3")


async def test_survivors_that_are_fewer_than_the_threshold(masked, silos):
    await silos["s0"].refuses("survivors", ALL[:3], "over 3 silos, where 4 are needed")
    await masked.sign()


async def test_survivors_without_clients_do_not_count(tmp_path, function):
    async with masked_cohort(tmp_path, 5, PolicySettings(min_sum_silos=4)) as silos:
        ops = ops_of(function)
        # One silo says that it has no clients: it has the rows of the others in this test, which makes no difference.
        run = DropoutRun(silos, silos.request(ops, [function], dropouts=True, clients=(1, 1, 1, 1, 0)))
        await run.start(ops, [function], ALL)
        run.work["s4"] = asyncio.create_task(silos["s4"].send(*masked_item(silos, ops, run, function, clients=0)))
        run.sum.add_offer("s4", await silos["s4"].step(Offer))
        run.sharing = run.sum.fix_sharing()
        for name in ALL:
            silos[name].notice("sharing", run.sharing[name])
        await asyncio.gather(*[run.work[name] for name in ALL])
        await silos["s0"].refuses("survivors", ("s0", "s1", "s2", "s4"), "over 3 silos with clients")
        silos["s4"].end("s1")
        await asyncio.gather(*run.work.values(), return_exceptions=True)


def masked_item(silos, ops, run, function, **item):
    return silos.item("s4", ops, run.request, **item), [function, encode_request(run.request)]


@pytest.mark.parametrize(
    "names", [("s0", "s1", "s2", "s9"), ("s1", "s2", "s3", "s4"), ("s1", "s0", "s2", "s3"), ("s0", "s0", "s1", "s2")]
)
async def test_survivors_that_are_no_list_of_this_stage(masked, silos, names):
    await silos["s0"].refuses("survivors", names, "survivors of a masked sum are not members of it")


async def test_second_list_of_survivors(masked, silos):
    await masked.sign()
    await silos["s0"].refuses("survivors", (*ALL, "s4"), "has signed other survivors for this stage")
    await silos["s0"].refuses("survivors", ("s0", "s1", "s2", "s4"), "has signed other survivors for this stage")
    assert await masked.unmask()


async def test_shares_before_the_survivors_are_signed(masked, silos):
    await silos["s0"].refuses("unmask", {}, "not to be revealed yet")


async def test_too_few_signatures(masked, silos):
    await masked.sign()
    some = dict(list(masked.sum.signatures.items())[:3])
    await silos["s0"].refuses("unmask", some, "3 silos have signed the survivors, 4 are needed")


async def test_forged_signature(masked, silos):
    await masked.sign()
    forged = dict(masked.sum.signatures) | {"s3": Identity.generate().sign(b"survivors")}
    await silos["s0"].refuses("unmask", forged, "'s3' has not signed these survivors")
    stranger = dict(masked.sum.signatures) | {"s4": masked.sum.signatures["s3"]}
    await silos["s0"].refuses("unmask", stranger, "'s4' has not signed these survivors")


async def test_signatures_under_another_list(masked, silos):
    """The coordinator tells two silos that all five have survived, and uses their signatures for the list of four."""
    for name in ("s0", "s1"):
        await silos[name].answer("survivors", (*ALL, "s4"), bytes)
    signatures = {name: await silos[name].answer("survivors", ALL, bytes) for name in ("s2", "s3")}
    for name in ("s0", "s1"):
        signatures[name] = await silos[name].answer("survivors", (*ALL, "s4"), bytes)
    await silos["s2"].refuses("unmask", signatures, "has not signed these survivors")
    await silos["s0"].refuses("unmask", signatures, "has not signed these survivors")


async def test_signatures_of_an_earlier_stage(masked, silos, function):
    await masked.sign()
    ops = ops_of(function)
    later = DropoutRun(silos, silos.request(ops, [function], dropouts=True), session="s2")
    await later.start(ops, [function], session="s2")
    for silo in silos:
        silo.end("s1")
    sharing = later.sum.fix_sharing()
    for name in ALL:
        silos[name].notice("sharing", sharing[name], session="s2")
        await later.work[name]
        silos[name].notice("survivors", ALL, session="s2")
        await silos[name].step(bytes)
    silos["s0"].notice("unmask", dict(masked.sum.signatures), session="s2")
    assert "has not signed these survivors" in (await silos["s0"].step(Refusal)).reason
    silos["s4"].end("s2")
    await asyncio.gather(*later.work.values(), return_exceptions=True)


async def test_never_both_secrets_of_one_silo(masked, silos):
    await masked.sign()
    revealed = await silos["s0"].answer("unmask", dict(masked.sum.signatures), Revealed)
    assert isinstance(revealed, Revealed)
    assert (set(revealed.seeds), set(revealed.keys)) == (set(ALL), {"s4"})
    # A repeated notice has the same answer, with any signatures: it can have no other.
    assert await silos["s0"].answer("unmask", {}, Revealed) == revealed
    lines = [line for line in silos["s0"].lines if line["outcome"] == "revealed"]
    assert [(line["survivors"], line["dropped"]) for line in lines] == [(list(ALL), ["s4"])]


async def test_repeated_notices_have_the_same_answers(masked, silos):
    first = await silos["s0"].answer("survivors", ALL, bytes)
    assert await silos["s0"].answer("survivors", ALL, bytes) == first
    silos["s0"].notice("sharing", masked.sharing["s0"])
    await masked.sign()
    assert await masked.unmask()
    assert silos["s0"].refused_for() == []


async def test_second_list_of_silos_that_share(run, silos):
    await run.share(dropped=["s4"])
    fewer = {name: offer for name, offer in run.sharing["s0"].items() if name != "s4"}
    await silos["s0"].refuses("sharing", fewer, "names other silos that share this stage than before")


async def test_shares_that_an_operator_has_swapped(run, silos):
    sharing = run.sum.fix_sharing()
    swapped = dict(sharing["s0"]) | {"s1": sharing["s2"]["s1"]}
    silos["s0"].notice("sharing", swapped)
    message, outputs = await run.work["s0"]
    assert isinstance(message, Failed)
    assert not outputs
    assert message.error_type == "refused"
    assert "the share of silo 's1' for 's0' cannot be opened" in silos["s0"].refused_for()[-1]


async def test_too_few_silos_share(run, silos):
    sharing = run.sum.fix_sharing()
    silos["s0"].notice("sharing", {name: sharing["s0"][name] for name in ("s0", "s1", "s2")})
    message, _ = await run.work["s0"]
    assert message.cause == "a masked sum over 3 silos, where 4 are needed"


async def test_sharing_that_cannot_be_read(run, silos):
    silos["s0"].notice("sharing", b"\xc1")
    message, _ = await run.work["s0"]
    assert (message.error_type, message.cause) == ("refused", "a message of a masked sum cannot be read")
    assert silos["s0"].refused_for()[-1] == message.cause
    assert (await silos["s0"].step(Refusal)).reason == message.cause


async def test_notices_of_others_change_nothing(masked, silos):
    silo = silos["s0"]
    silo.notice("survivors", ALL, by="another")
    silo.notice("survivors", ALL, incarnation="i0")
    silo.notice("survivors", ALL, session="s7")
    silo.notice("survivors", ALL, stage=1)
    await masked.sign()
    assert silo.transport.steps.empty()
    assert silo.refused_for() == []


async def test_ended_session_has_no_secrets(masked, silos):
    await masked.sign()
    silos["s0"].end("s1")
    silos["s0"].notice("unmask", dict(masked.sum.signatures))
    assert silos["s0"].sums.exchanges.find(silos.item("s0", ()), COORDINATOR) is None
    assert silos["s0"].transport.steps.empty()


async def test_waiting_for_the_others_ends_with_the_stage(silos, function):
    ops = ops_of(function)
    run = DropoutRun(silos, silos.request(ops, [function], dropouts=True))
    await run.start(ops, [function], ["s0"], seconds=4.0)
    message, _ = await run.work["s0"]
    assert isinstance(message, Failed)
    assert message.error_type == "timeout"
    assert silos["s0"].sums.exchanges.find(silos.item("s0", ()), COORDINATOR) is None


async def test_work_that_waits_for_its_turn_has_made_its_offer(tmp_path, function, monkeypatch):
    """Two sums reach the silos in different orders, and each silo computes for one at a time."""
    monkeypatch.setattr(MaskedSilo, "max_work", 1)
    ops, orders = ops_of(function), {"s1": ("s0", "s1", "s2"), "s2": ("s2", "s1", "s0")}
    async with masked_cohort(tmp_path, 3) as silos:
        runs = {name: DropoutRun(silos, silos.request(ops, [function], dropouts=True), session=name) for name in orders}
        for at in range(3):
            for name, order in orders.items():
                await runs[name].start(ops, [function], [order[at]], session=name)
        await asyncio.gather(*[run.share(session=name) for name, run in runs.items()])
        totals = []
        for name, run in runs.items():
            await run.sign(session=name)
            totals.append(await run.unmask(session=name))
    assert totals[0] == totals[1]
    assert totals[0][0][1] == 9


async def test_lacking_blobs_come_with_the_work_again(silos, function):
    """The silo's offer has gone, so that its masked sum goes on, with the same secrets."""
    ops = ops_of(function)
    request = silos.request(ops, [function], dropouts=True)
    run = DropoutRun(silos, request)
    await run.start(ops, [function], ["s1", "s2", "s3"])
    silo, item = silos["s0"], silos.item("s0", ops, request)
    incoming = with_fields(item, {"incoming": {item.ops[1].blob: len(function)}})
    silo.worker._patience = 0.1
    message, _ = await silo.send(incoming, [encode_request(request)])
    assert isinstance(message, Need)
    offer = await silo.step(Offer)
    run.work["s0"] = asyncio.create_task(silo.send(item, [function, encode_request(request)]))
    assert await silo.step(Offer) == offer
    run.sum.add_offer("s0", offer)
    await run.share()
    await run.sign()
    assert (await run.unmask())[0][1] == 12


async def test_refused_notices_do_not_fill_the_audit_log(masked, silos):
    silo = silos["s0"]
    for at in range(2 * exchange.MAX_REFUSED):
        before = len(silo.refused_for())
        silo.notice("survivors", ("s0", f"x{at}"))
        await asyncio.sleep(0)
        assert "not members of it" in (await silo.step(Refusal)).reason
        if at < exchange.MAX_REFUSED:
            await eventually(lambda before=before: len(silo.refused_for()) > before)
    found = silo.sums.exchanges.find(silos.item("s0", ()), COORDINATOR)
    await eventually(lambda: not found._tasks)
    await masked.sign()
    assert len(silo.refused_for()) == exchange.MAX_REFUSED


async def test_shares_do_not_leave_without_their_line(masked, silos, monkeypatch):
    await masked.sign()
    silo = silos["s0"]
    audit = silo.sums.exchanges._audit
    monkeypatch.setattr(audit, "append", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    silo.notice("unmask", dict(masked.sum.signatures))
    found = silo.sums.exchanges.find(silos.item("s0", ()), COORDINATOR)
    await eventually(lambda: not found._tasks)
    refusal = await silo.step(Refusal)
    assert (refusal.step, refusal.reason) == ("unmask", "this silo cannot write its audit log")
    assert silo.transport.steps.empty()
    monkeypatch.undo()
    assert isinstance(await silo.answer("unmask", dict(masked.sum.signatures), Revealed), Revealed)


async def test_value_of_a_silo_without_offer_does_not_leave(silos, function):
    """The coordinator leaves a silo out of those that share, and asks it for its value all the same."""
    ops = ops_of(function)
    run = DropoutRun(silos, silos.request(ops, [function], dropouts=True))
    await run.start(ops, [function])
    sharing = run.sum.fix_sharing()
    silos["s0"].notice("sharing", {name: offer for name, offer in sharing["s0"].items() if name != "s0"})
    message, outputs = await run.work["s0"]
    assert message.cause == "this silo's own offer is not among those of the stage"
    assert not outputs
    for silo in silos:
        silo.end("s1")
    done = await asyncio.gather(*run.work.values(), return_exceptions=True)
    assert not any(isinstance(reply, tuple) and isinstance(reply[0], Done) for reply in done)
