"""Members may drop out at every step: the sum is that of the survivors, or nothing is learnt."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.errors import MaskingError
from fedbroker.masking.coordinator import CoordinatorSum
from fedbroker.masking.offers import Offer, _statement, threshold_of
from fedbroker.masking.shares import SHARE_BYTES, reconstruct
from fedbroker.masking.survivors import Revealed, Survivors, signed_survivors
from fedbroker.trust import Identity
from tests.support.masking import Silos, elements, occasion, plain, summed, values

STEPS = ("offer", "fix", "mask", "sign", "reveal")


class Run:
    """One sum over ``count`` silos, step by step; each step leaves out the silos that have dropped out."""

    def __init__(self, count, min_members=3, contributors=None):
        self.silos = Silos(count, min_members)
        self.where = occasion(self.silos.members)
        self.coordinator = CoordinatorSum(self.silos.members, self.where, self.silos.roster)
        self.contributors = set(self.silos.names) if contributors is None else set(contributors)
        self.alive = list(self.silos.names)
        self.sums = {}
        self.needed = {}

    def offer(self):
        for name in self.alive:
            self.sums[name] = self.dealt(name)
            self.coordinator.add_offer(name, self.sums[name].offer)

    def dealt(self, name):
        silos = self.silos
        return silos.masking[name].with_dropouts(silos.members, self.where, silos.roster, self.contributors)

    def fix(self):
        self.needed = self.coordinator.fix_sharing()

    def mask(self):
        for name in self.alive:
            part = elements(plain(name))
            self.sums[name].add_masks(part, self.needed[name])
            self.coordinator.add_values(name, part)

    def sign(self):
        survivors = self.coordinator.close()
        for name in self.alive:
            self.coordinator.add_signature(name, self.sums[name].sign(survivors))

    def reveal(self):
        for name in self.alive:
            self.coordinator.add_revealed(name, self.sums[name].reveal(self.coordinator.signatures))

    def to(self, step):
        """Take the steps before this one."""
        for name in STEPS[: STEPS.index(step)]:
            getattr(self, name)()
        return self

    def finish(self, step):
        """Take this step and all later ones."""
        for name in STEPS[STEPS.index(step) :]:
            getattr(self, name)()
        return self.coordinator.result()

    def drop(self, count):
        del self.alive[:count]


@given(st.integers(3, 12), st.data())
@settings(max_examples=40)
def test_sum_over_the_survivors_is_exact(count, data):
    run = Run(count)
    spare = count - run.coordinator.threshold
    lost = [data.draw(st.integers(0, spare)) for _ in range(4)]
    while sum(lost) > spare:
        lost[lost.index(max(lost))] -= 1
    run.drop(lost[0])
    run.offer()
    run.fix()
    run.drop(lost[1])
    run.mask()
    participants = tuple(run.alive)
    run.drop(lost[2])
    run.sign()
    run.drop(lost[3])
    run.reveal()
    assert run.coordinator.close() == participants
    assert values(run.coordinator.result()) == summed(participants)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("offer", "have made an offer"),
        ("mask", "have sent values"),
        ("sign", "silos have signed the survivors"),
        ("reveal", "have revealed their shares"),
    ],
)
def test_below_the_threshold_nothing_is_learnt(step, words):
    run = Run(7).to(step)
    run.drop(3)  # four of seven are left, five are needed
    with pytest.raises(MaskingError, match=words):
        run.finish(step)


def test_threshold_is_more_than_two_thirds():
    assert [threshold_of(count) for count in (3, 4, 6, 7, 9, 100)] == [3, 3, 5, 5, 7, 67]
    # With c colluders of n, 2t > n + c holds for each c below a third: theorem 6.5 of the paper.
    for count in range(3, 200):
        assert 2 * threshold_of(count) > count + (count - 1) // 3


# --- a coordinator that lies ---


def test_other_survivors_are_signed_once():
    run = Run(7).to("sign")
    own = run.sums["s00"]
    own.sign(run.silos.names)
    own.sign(run.silos.names)  # the same list again is a repeated message
    with pytest.raises(MaskingError, match="has signed other survivors"):
        own.sign(run.silos.names[:6])


@pytest.mark.parametrize("survivors", [("s00", "s01"), ("s00",) * 7, ("s01", "s00", *(f"s0{n}" for n in range(2, 7)))])
def test_survivors_that_are_too_few_or_not_sorted_are_not_signed(survivors):
    run = Run(7).to("sign")
    with pytest.raises(MaskingError):
        run.sums["s00"].sign(survivors)


def test_a_silo_that_is_not_among_the_survivors_does_not_sign():
    run = Run(7).to("sign")
    with pytest.raises(MaskingError, match="not members"):
        run.sums["s00"].sign(run.silos.names[1:])


def test_two_lists_of_survivors_reach_the_threshold_for_at_most_one():
    """Half of the silos are shown one list, half another: none reveals a share."""
    run = Run(7).to("sign")
    one, two = run.silos.names, run.silos.names[1:]
    signed = {name: run.sums[name].sign(one if name in run.silos.names[:3] else two) for name in run.silos.names}
    for mine in (run.silos.names[:3], run.silos.names[3:]):
        with pytest.raises(MaskingError, match="are needed"):
            run.sums[mine[0]].reveal({name: signed[name] for name in mine})
        with pytest.raises(MaskingError, match="has not signed these survivors"):
            run.sums[mine[0]].reveal(signed)


def test_forged_and_reused_signatures_are_refused():
    run = Run(7).to("reveal")
    own = run.sums["s00"]
    forged = dict(run.coordinator.signatures)
    forged["s01"] = Identity(b"x" * 32).sign(b"survivors")
    with pytest.raises(MaskingError, match="'s01' has not signed"):
        own.reveal(forged)
    other = Run(7).to("reveal")
    with pytest.raises(MaskingError, match="has not signed"):
        own.reveal(other.coordinator.signatures)
    stranger = Identity(b"y" * 32)
    lone = {**run.coordinator.signatures, "s77": signed_survivors(Survivors(run.where, run.silos.names), stranger)}
    with pytest.raises(MaskingError, match="'s77' has not signed"):
        own.reveal(lone)


def test_never_both_shares_of_one_silo_are_revealed():
    run = Run(7)
    run.offer()
    run.fix()
    run.drop(2)
    run.mask()
    run.sign()
    own = run.sums["s02"]
    revealed = own.reveal(run.coordinator.signatures)
    assert not set(revealed.seeds) & set(revealed.keys)
    assert set(revealed.seeds) == set(run.alive)
    assert set(revealed.keys) == {"s00", "s01"}
    assert own.reveal({}) is revealed  # a repeated message has the same answer


def test_shares_are_not_revealed_before_the_survivors_are_signed():
    run = Run(3).to("sign")
    with pytest.raises(MaskingError, match="not to be revealed yet"):
        run.sums["s00"].reveal({})


def test_a_silo_masks_once_for_a_stage():
    run = Run(3).to("sign")
    with pytest.raises(MaskingError, match="masked for this stage before"):
        run.sums["s00"].add_masks(elements(plain("s00")), run.needed["s00"])
    with pytest.raises(MaskingError, match="masked for this stage before"):
        run.dealt("s00")


def test_two_lists_of_members_give_noise():
    """Two silos that were shown other offers than the rest have masks that do not cancel."""
    run = Run(7).to("mask")
    shown = {name: dict(run.needed[name]) for name in run.alive}
    for name in ("s05", "s06"):
        del shown[name]["s00"]
    for name in run.alive:
        part = elements(plain(name))
        run.sums[name].add_masks(part, shown[name])
        run.coordinator.add_values(name, part)
    survivors = run.coordinator.close()
    for name in ("s05", "s06"):
        with pytest.raises(MaskingError, match="not members"):
            run.sums[name].sign(survivors)


@pytest.mark.parametrize("step", ["offer", "survivors"])
def test_too_few_survivors_with_clients_are_refused(step):
    """Five of seven silos are enough for the shares, but only three of them have clients."""
    run = Run(7, min_members=4, contributors=["s00", "s01", "s04", "s05"])
    if step == "offer":
        run.offer()
        run.coordinator._offers.pop("s00")
        run.fix()
        run.drop(1)
        with pytest.raises(MaskingError, match="over 3 silos with clients, where this silo wants 4"):
            run.sums["s04"].add_masks(elements(plain("s04")), run.needed["s04"])
        run.sums["s06"].add_masks(elements(plain("s06")), run.needed["s06"])  # it has no value to hide
    else:
        run.to("mask")
        run.drop(1)
        run.mask()
        survivors = run.coordinator.close()
        with pytest.raises(MaskingError, match="over 3 silos with clients, where this silo wants 4"):
            run.sums["s04"].sign(survivors)
        run.sums["s06"].sign(survivors)


def test_a_copied_stage_key_is_refused():
    """A silo between the two would add the mask for one and subtract it for the other."""
    run = Run(3)
    for name in run.alive:
        run.sums[name] = run.dealt(name)
    theirs = run.sums["s00"].offer
    own = run.sums["s02"]._dealt.offer
    statement = _statement("s02", theirs.stage_key, own.commitment, run.where)
    copied = Offer(theirs.stage_key, own.commitment, run.silos.identities["s02"].sign(statement), own.sealed)
    run.coordinator.add_offer("s00", theirs)
    with pytest.raises(MaskingError, match="'s00' and 's02' have offered the same stage key"):
        run.coordinator.add_offer("s02", copied)
    part = elements(plain("s01"))
    with pytest.raises(MaskingError, match="'s00' and 's02' have offered the same stage key"):
        run.sums["s01"].add_masks(part, {"s00": theirs, "s01": run.sums["s01"].offer, "s02": copied})
    assert values(part) == [array.tolist() for array in plain("s01")]


def test_a_forged_stage_key_is_refused():
    run = Run(3).to("mask")
    shown = dict(run.needed["s00"])
    theirs = shown["s01"]
    shown["s01"] = Offer(shown["s02"].stage_key, theirs.commitment, theirs.signature, theirs.sealed)
    with pytest.raises(MaskingError, match="'s01' has not signed its stage key"):
        run.sums["s00"].add_masks(elements(plain("s00")), shown)


def test_swapped_shares_are_refused():
    run = Run(3).to("mask")
    shown = dict(run.needed["s00"])
    one, two = shown["s01"], shown["s02"]
    shown["s01"] = Offer(one.stage_key, one.commitment, one.signature, two.sealed)
    with pytest.raises(MaskingError, match="share of silo 's01' for 's00' cannot be opened"):
        run.sums["s00"].add_masks(elements(plain("s00")), shown)


# --- silos that lie ---


def reveal_wrongly(run, *wrong):
    """Let all silos reveal their shares, some of them a wrong one of s01's seed."""
    for name in run.alive:
        revealed = run.sums[name].reveal(run.coordinator.signatures)
        seeds = {**revealed.seeds, "s01": bytes(SHARE_BYTES)} if name in wrong else revealed.seeds
        run.coordinator.add_revealed(name, Revealed(seeds, revealed.keys))


@pytest.mark.parametrize("wrong", ["s00", "s02", "s03"])
def test_one_wrong_share_is_left_out_where_another_is_there(wrong):
    run = Run(4).to("reveal")
    reveal_wrongly(run, wrong)
    assert values(run.coordinator.result()) == summed(run.silos.names)


def test_a_silo_whose_shares_do_not_fit_is_named():
    run = Run(4).to("reveal")
    reveal_wrongly(run, "s00", "s02")
    with pytest.raises(MaskingError, match="'s01'"):
        run.coordinator.result()


def test_shares_that_come_later_help():
    run = Run(4).to("reveal")
    late = run.alive.pop()
    reveal_wrongly(run, "s00")
    with pytest.raises(MaskingError, match="'s01'"):
        run.coordinator.result()
    run.coordinator.add_revealed(late, run.sums[late].reveal(run.coordinator.signatures))
    assert values(run.coordinator.result()) == summed(run.silos.names)


def test_other_shares_than_those_asked_for_are_refused():
    run = Run(4).to("reveal")
    revealed = run.sums["s00"].reveal(run.coordinator.signatures)
    with pytest.raises(MaskingError, match="reveals other shares"):
        run.coordinator.add_revealed("s00", Revealed(dict(list(revealed.seeds.items())[:3]), revealed.keys))


def test_late_messages_are_refused():
    run = Run(4).to("mask")
    with pytest.raises(MaskingError, match="offer of silo 's00' is late"):
        run.coordinator.add_offer("s00", run.sums["s00"].offer)
    run.mask()
    run.coordinator.close()
    with pytest.raises(MaskingError, match="not expected"):
        run.coordinator.add_values("s00", elements(plain("s00")))


# --- what is held together ---


def test_no_held_shares_reconstruct_a_survivors_stage_key_or_a_dropped_ones_seed():
    """All that the coordinator and t - 1 silos hold of a silo's other secret are t - 1 shares, which give no secret."""
    run = Run(4)
    run.offer()
    run.fix()
    run.drop(1)
    run.mask()
    run.sign()
    threshold = run.coordinator.threshold
    honest, colluding = "s01", [name for name in run.alive if name != "s01"][: threshold - 1]
    held = {name: run.sums[name]._shares for name in colluding}
    key, seed = run.sums[honest]._dealt.key.reveal(), run.sums["s00"]._dealt.seed
    run.reveal()
    keys = {run.silos.members.number(name): shares[honest].key for name, shares in held.items()}
    seeds = {run.silos.members.number(name): shares["s00"].seed for name, shares in held.items()}
    for secret, shares in ((key, keys), (seed, seeds)):
        with pytest.raises(MaskingError, match="2 of 3 shares"):
            reconstruct(shares, threshold)
        for fewer in range(1, threshold):
            for chosen in itertools.combinations(shares.items(), fewer):
                try:
                    assert reconstruct(dict(chosen), fewer) != secret
                except MaskingError:
                    continue


def test_secrets_are_not_shown():
    run = Run(3).to("reveal")
    revealed = run.sums["s00"].reveal(run.coordinator.signatures)
    dealt = run.sums["s00"]._dealt
    text = repr(revealed) + repr(dealt) + repr(dealt.own_share) + repr(run.sums["s00"])
    assert dealt.seed.hex()[:8] not in text
    assert str(dealt.seed)[2:10] not in text
    assert repr(revealed) == "Revealed(3 seeds, 0 keys)"
    assert hashlib.sha256(dealt.seed).digest() == dealt.offer.commitment
