"""A coordinator that lies in any way, with colluding silos, learns sums over enough honest silos, and nothing else.

A Hypothesis state machine drives the silos' real half of masked sums. The coordinator asks for several sessions,
stages, members and works, shows each silo other offers and other survivors, forges, swaps, reuses and repeats messages,
makes silos restart, and has the secrets of the colluding silos. After each step, all that has left the honest silos is
held against the protocol's guarantees.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedbroker.errors import MaskingError
from fedbroker.masking import dropout, pairwise, silo
from fedbroker.masking import offers as offers_module
from fedbroker.masking.members import MaskKey, Member, Members
from fedbroker.masking.offers import Offer, deal, threshold_of
from fedbroker.masking.pairwise import Occasion
from fedbroker.masking.rings import Ring
from fedbroker.masking.survivors import Revealed, Survivors, signed_survivors
from fedbroker.trust import Identity
from tests.support.masking import COHORT, Silos, occasion

NUMBERS = st.integers(0, 11)
MOST_SUMS = 4
LISTS = st.tuples(st.sets(st.integers(0, 6), max_size=1), st.sets(st.integers(0, 6), max_size=2))
"""Two lists of members, by those that are left out."""


@dataclass
class Value:
    """Masked values that have left an honest silo: their masks, each with True if it was subtracted."""

    silo: str
    occasion: Occasion
    masks: list[tuple[bytes, bool]]
    everyone: frozenset[str]
    dropouts: bool


@dataclass
class Asked:
    """A sum that silos were asked for, and what the coordinator has of it."""

    members: Members
    occasion: Occasion
    contributors: frozenset[str]
    sums: dict[str, dropout.DropoutSum] = field(default_factory=dict)
    offers: dict[str, list[Offer]] = field(default_factory=dict)
    signatures: list[tuple[str, bytes]] = field(default_factory=list)
    signed: dict[str, set[Survivors]] = field(default_factory=dict)
    signers: list[int] = field(default_factory=list)
    revealed: dict[str, Revealed] = field(default_factory=dict)


class LyingCoordinator(RuleBasedStateMachine):
    """All that a coordinator can do; each rule is one message, or some of an honest run."""

    @initialize(
        count=st.integers(3, 7),
        colluding=NUMBERS,
        alone=NUMBERS,
        sharing=LISTS,
        survivors=LISTS,
        shown=st.sampled_from([0, 0b10000001]) | st.integers(0, 1 << 14),
        copied=NUMBERS,
    )
    def begin(self, count, colluding, alone, sharing, survivors, shown, copied):
        self.threshold = threshold_of(count)
        self.colluding = colluding % (2 * self.threshold - count)
        self.silos = Silos(count)
        self.honest = self.silos.names[self.colluding :]
        self.colluders = self.silos.names[: self.colluding]
        self.asked: list[Asked] = []
        self.values: list[Value] = []
        self.owners: dict[bytes, tuple[Asked, str]] = {}  # of stage keys and seeds, by what is public of them
        self.pairs: dict[bytes, tuple[bytes, ...]] = {}  # the public keys or commitment from which a mask follows
        self.bad_keys = {self.silos.masking[name].member.mask_key for name in self.colluders}
        self.used: Counter[tuple[str, bytes]] = Counter()
        self.masks: list[tuple[bytes, bool]] = []
        self.patch = pytest.MonkeyPatch()
        self._record()
        members = self.silos.members
        self.asked.append(Asked(members, occasion(members), frozenset(set(members.names) - {f"s{alone:02}"})))
        self.lie_in_a_round(0, 4, sharing, survivors, shown, copied)

    def teardown(self):
        if hasattr(self, "patch"):
            self.patch.undo()

    # --- messages to the silos ---

    @rule(
        session=st.sampled_from("ab"),
        work=st.sampled_from([b"work", b"work", b"zeros"]),
        left_out=NUMBERS,
        alone=NUMBERS,
    )
    @precondition(lambda self: len(self.asked) < MOST_SUMS)
    def choose_sum(self, session, work, left_out, alone):
        members = [self.silos.masking[name].member for name in self.silos.names]
        if left_out < len(members) and len(members) > 3:
            del members[left_out]
        found = Members(tuple(members))
        contributors = set(found.names)
        if alone < len(members):
            contributors.discard(found.names[alone])
        self.asked.append(Asked(found, occasion(found, session, 1, work), frozenset(contributors)))

    @rule(which=NUMBERS, number=NUMBERS)
    @precondition(lambda self: len(self.asked) < MOST_SUMS)
    def invent_a_member(self, which, number):
        asked, name = self._asked(which), self.silos.names[number % len(self.silos.names)]
        identity = self.silos.identities[name] if name in self.colluders else Identity(b"x" * 32)
        invented = Member.signed(COHORT, name, "i9", self._bad_key(), identity)
        members = Members(tuple(invented if member.silo == name else member for member in asked.members.all))
        where = occasion(members, asked.occasion.session_id, 1)
        self.asked.append(Asked(members, where, asked.contributors))

    @rule(which=NUMBERS, number=NUMBERS)
    def ask_for_values(self, which, number):
        asked, name = self._asked(which), self._honest(number)
        with self._masking(name, asked, asked.members.names, dropouts=False):
            self.silos.masking[name].add_masks(
                zeros(), asked.members, asked.occasion, self.silos.roster, asked.contributors
            )

    @rule(which=NUMBERS, number=NUMBERS)
    def ask_for_an_offer(self, which, number):
        self._ask(self._asked(which), self._honest(number))

    @rule(which=NUMBERS, number=NUMBERS, copied=NUMBERS)
    @precondition(lambda self: self.colluders)
    def collude_with_an_offer(self, which, number, copied):
        """A colluding silo offers as often as it likes, also the stage key of another silo."""
        asked, name = self._asked(which), self.colluders[number % len(self.colluders)]
        self._collude(asked, name, copied)

    @rule(which=NUMBERS, number=NUMBERS, left_out=st.sets(NUMBERS, max_size=2), version=NUMBERS, swapped=NUMBERS)
    def show_offers(self, which, number, left_out, version, swapped):
        asked, name = self._asked(which), self._honest(number)
        self._show(asked, name, left_out, version, swapped)

    @rule(which=NUMBERS, number=NUMBERS, left_out=st.sets(NUMBERS, max_size=2))
    def show_survivors(self, which, number, left_out):
        self._sign(self._asked(which), self._honest(number), left_out)

    @rule(which=NUMBERS, number=NUMBERS, left_out=st.sets(NUMBERS, max_size=1), reused=st.booleans(), forged=NUMBERS)
    def ask_for_shares(self, which, number, left_out, reused, forged):
        self._unmask(self._asked(which), self._honest(number), left_out, reused=reused, forged=forged)

    @rule(
        which=NUMBERS,
        steps=st.sampled_from([1, 2, 3, 4, 4, 4]),
        sharing=LISTS,
        survivors=LISTS,
        shown=st.integers(0, 1 << 14),
        copied=NUMBERS,
    )
    def lie_in_a_round(self, which, steps, sharing, survivors, shown, copied):
        """Take all silos through some steps; each is shown one of two lists of offers and one of two of survivors."""
        asked = self._asked(which)
        for name in sorted(asked.members.names, key=lambda name: name in self.colluders):  # those can copy from others
            if name in self.honest:
                self._ask(asked, name)
            elif name not in asked.offers:
                self._collude(asked, name, copied)
        for bit, name in enumerate(list(asked.sums)[:7] if steps > 1 else ()):
            self._show(asked, name, sharing[shown >> bit & 1], shown >> bit & 1, 99)
        for bit, name in enumerate(list(asked.sums)[:7] if steps > 2 else ()):
            self._sign(asked, name, survivors[shown >> (7 + bit) & 1])
        for name in asked.sums if steps > 3 else ():
            self._unmask(asked, name, set(), reused=False, forged=99)

    @rule(number=NUMBERS)
    def restart(self, number):
        name = self._honest(number)
        self.silos.masking[name] = silo.SiloMasking(COHORT, name, "i2", self.silos.identities[name], 3)
        for asked in self.asked:
            asked.sums.pop(name, None)

    # --- guarantees ---

    @invariant()
    def no_mask_is_used_twice(self):
        assert max(getattr(self, "used", {}).values(), default=0) <= 1

    @invariant()
    def both_secrets_of_a_silo_are_never_known(self):
        for asked in getattr(self, "asked", ()):
            for name in asked.members.names:
                if name in self.honest:
                    assert min(self._shares(asked, name, "seeds"), self._shares(asked, name, "keys")) < self._needed(
                        asked
                    )

    @invariant()
    def survivors_are_agreed_on(self):
        """Each honest silo signs one list, and reveals shares only if a threshold of silos has signed the same."""
        for asked in getattr(self, "asked", ()):
            assert all(len(lists) == 1 for lists in asked.signed.values())
            assert all(signers >= self._needed(asked) for signers in asked.signers)

    @invariant()
    def shares_leave_for_sums_over_enough_silos(self):
        for asked in getattr(self, "asked", ()):
            for name, revealed in asked.revealed.items():
                assert len(revealed.seeds) >= self._needed(asked)
                assert not revealed.seeds.keys() & revealed.keys.keys()
                if name in asked.contributors:
                    assert len(asked.contributors & revealed.seeds.keys()) >= 3

    @invariant()
    def sums_are_over_enough_honest_silos(self):
        """The coordinator learns the combinations of values in which all masks cancel that it does not know."""
        sums: Counter[tuple[bytes, bool]] = Counter()
        for found in self._learnt():
            asked = {(value.occasion.as_bytes(), value.dropouts) for value in found}
            assert len(asked) == 1, "values of two occasions were combined"
            sums.update(asked)
            honest = {value.silo for value in found}
            assert len(honest) == len(found), "two values of one silo were combined"
            members = len(found[0].everyone)
            if found[0].dropouts:
                assert len(honest) >= threshold_of(members) - self.colluding
            else:
                assert honest == found[0].everyone & set(self.honest)
        assert max(sums.values(), default=0) <= 1, "two sums of one occasion were learnt"

    # --- what the coordinator has ---

    def _learnt(self):
        """Return the smallest sets of values in whose sum all unknown masks cancel."""
        values = getattr(self, "values", [])
        holders: dict[bytes, list[tuple[int, bool]]] = {}
        for at, value in enumerate(values):
            for mask, negative in value.masks:
                if not self._knows(mask):
                    holders.setdefault(mask, []).append((at, negative))
        component = list(range(len(values)))
        hidden = set()
        for held in holders.values():
            if len(held) == 2 and held[0][1] != held[1][1]:
                (one, _), (other, _) = held
                old, new = component[one], component[other]
                component = [new if found == old else found for found in component]
            else:
                hidden |= {at for at, _ in held}
        sets = [[at for at in range(len(values)) if component[at] == one] for one in set(component)]
        return [[values[at] for at in found] for found in sets if not hidden & set(found)]

    def _knows(self, mask):
        return any(public in self.bad_keys or self._reconstructs(public) for public in self.pairs[mask])

    def _reconstructs(self, public):
        if public not in self.owners:
            return False  # a mask key
        asked, name = self.owners[public]
        kind = "keys" if any(offer.stage_key == public for offer in asked.offers.get(name, ())) else "seeds"
        return self._shares(asked, name, kind) >= self._needed(asked)

    def _shares(self, asked, name, kind):
        """Return how many shares of a secret the coordinator has: those of its silos, and those that were revealed."""
        colluding = sum(member in self.colluders for member in asked.members.names)
        return colluding + sum(name in getattr(revealed, kind) for revealed in asked.revealed.values())

    def _needed(self, asked):
        return threshold_of(len(asked.members.all))

    # --- single messages ---

    def _ask(self, asked, name):
        try:
            asked.sums[name] = self.silos.masking[name].with_dropouts(
                asked.members, asked.occasion, self.silos.roster, asked.contributors
            )
        except MaskingError:
            return
        offer = asked.sums[name].offer
        asked.offers.setdefault(name, []).append(offer)
        self.owners[offer.stage_key] = self.owners[offer.commitment] = (asked, name)

    def _collude(self, asked, name, copied):
        if name not in asked.members.names:
            return
        identity = self.silos.identities[name]
        key = MaskKey()
        dealt = deal(name, identity, key, asked.members, asked.occasion).offer
        stage_key, victims = dealt.stage_key, [one for one in self.honest if one in asked.offers]
        if copied < len(victims):
            stage_key = asked.offers[victims[copied]][0].stage_key
        else:
            self.bad_keys.add(stage_key)
        statement = offers_module._statement(name, stage_key, dealt.commitment, asked.occasion)
        own = self.silos.masking[name]._mask_key
        sealed = {
            member.silo: offers_module._sealed(
                offers_module.Share(bytes(33), bytes(33)),
                own,
                member.mask_key,
                offers_module._route(name, member.silo, asked.occasion),
            )
            for member in asked.members.all
            if member.silo != name
        }
        offer = Offer(stage_key, dealt.commitment, identity.sign(statement), sealed)
        asked.offers.setdefault(name, []).append(offer)

    def _show(self, asked, name, left_out, version, swapped):
        if name not in asked.sums:
            return
        shown = {
            one: offers[version % len(offers)] if one in self.colluders else offers[-1]
            for number, (one, offers) in enumerate(sorted(asked.offers.items()))
            if number not in left_out or one == name
        }
        others = [one for one in shown if one != name]
        if swapped < len(others) - 1:  # one silo's shares in another's offer
            one, other = shown[others[swapped]], shown[others[swapped + 1]]
            shown[others[swapped]] = Offer(one.stage_key, one.commitment, one.signature, other.sealed)
        with self._masking(name, asked, asked.members.names, dropouts=True):
            asked.sums[name].add_masks(zeros(), shown)

    def _sign(self, asked, name, left_out):
        own = asked.sums.get(name)
        if own is None or own._offers is None:
            return
        names = tuple(one for number, one in enumerate(sorted(own._offers)) if number not in left_out or one == name)
        try:
            asked.signatures.append((name, own.sign(names)))
        except MaskingError:
            return
        asked.signed.setdefault(name, set()).add(own._survivors)

    def _unmask(self, asked, name, left_out, *, reused, forged):
        own = asked.sums.get(name)
        if own is None or own._survivors is None:
            return
        wanted: Survivors = own._survivors
        public = self.silos.roster
        signatures = {
            signer: signature
            for one in self.asked
            for signer, signature in one.signatures
            if reused or public[signer].signed(signature, wanted.as_bytes())
        }
        for colluder in set(self.colluders) & set(wanted.names):
            signatures[colluder] = signed_survivors(wanted, self.silos.identities[colluder])
        if forged < len(wanted.names):
            signatures[wanted.names[forged]] = signed_survivors(wanted, Identity(b"x" * 32))
        signatures = {one: found for number, (one, found) in enumerate(signatures.items()) if number not in left_out}
        try:
            asked.revealed[name] = own.reveal(signatures)
        except MaskingError:
            return
        signers = sum(wanted in lists for lists in asked.signed.values())
        asked.signers.append(signers + len(set(self.colluders) & set(wanted.names)))

    def _masking(self, name, asked, everyone, *, dropouts):
        return _Masking(self, name, asked, frozenset(everyone), dropouts)

    def _record(self):
        """Record each mask that a silo derives, and from which keys it follows."""

        def pair_stream(own, other, where):
            stream = _Stream(own.key_with(other, pairwise.joined(b"pair", where.as_bytes())))
            self.pairs[stream.key] = (own.public, other)
            return stream

        def own_stream(seed, where):
            found = _Stream(pairwise.derived(seed, b"mask of its own", where.as_bytes()))
            self.pairs[found.key] = (offers_module.hashlib.sha256(seed).digest(),)
            return found

        def apply_streams(values, streams):
            self.masks += [(stream.key, negative) for stream, negative in streams]

        self.patch.setattr(silo, "pair_stream", pair_stream)
        self.patch.setattr(dropout, "pair_stream", pair_stream)
        self.patch.setattr(dropout, "own_stream", own_stream)
        self.patch.setattr(dropout, "apply_streams", apply_streams)
        self.patch.setattr(pairwise, "apply_streams", apply_streams)

    def _asked(self, which):
        return self.asked[which % len(self.asked)]

    def _honest(self, number):
        return self.honest[number % len(self.honest)]

    def _bad_key(self):
        key = MaskKey().public
        self.bad_keys.add(key)
        return key


class _Stream:
    def __init__(self, key):
        self.key = key


class _Masking:
    """Records the masks of the values that leave a silo; a refusal lets none leave."""

    def __init__(self, machine, name, asked, everyone, dropouts):
        self.machine, self.name, self.asked = machine, name, asked
        self.everyone, self.dropouts = everyone, dropouts

    def __enter__(self):
        self.machine.masks = []

    def __exit__(self, kind, error, trace):
        machine = self.machine
        if kind is None:
            machine.used.update((self.name, key) for key, _ in machine.masks)
            machine.values.append(Value(self.name, self.asked.occasion, machine.masks, self.everyone, self.dropouts))
        return kind is not None and issubclass(kind, MaskingError)


def zeros():
    return [(Ring(8), np.zeros(1, np.uint64))]


LyingCoordinator.TestCase.settings = settings(max_examples=150, stateful_step_count=15)
TestLyingCoordinator = LyingCoordinator.TestCase
