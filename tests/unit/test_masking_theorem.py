"""A lying coordinator with c colluding silos learns one sum, by all of its strategies for a few silos.

A model of Bonawitz et al. (CCS 2017), figure 4, in which a mask is either known or an unknown of its own. A strategy
shows each honest silo a list of members that share the stage (every two lists give different masks) and a list of
survivors. The silo reveals its shares if ``threshold_of`` members have signed what it has signed. It learns
the combinations of masked values in which all unknown masks cancel: the sums over components of silos that share
unknown masks with each other only.

The statements that docs/secure-sums.md makes for 2t > n + c (theorem 6.5 of the paper), t = 2n // 3 + 1:

- no strategy reconstructs both secrets of an honest silo;
- one sum is learnt at most, over at least t - c honest silos;
- without the signed round, sums over as few as h(2t - 2c - h) / (t - c) of h honest silos are learnt, rounded up.
"""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.masking.offers import threshold_of


def shown(count, silo, *, versions=1):
    """Return all pairs of lists that an honest silo accepts: (version, sharing, survivors), as sets of numbers."""
    threshold = threshold_of(count)
    found = []
    for size in range(threshold, count + 1):
        for sharing in itertools.combinations(range(count), size):
            for left in range(threshold, size + 1):
                for survivors in itertools.combinations(sharing, left):
                    if silo in survivors:
                        found += [(v, frozenset(sharing), frozenset(survivors)) for v in range(versions)]
    return found


def learnt(count, colluding, strategy, *, signed=True):
    """Return whether both secrets of an honest silo are known, and the honest silos of each sum that is learnt.

    Args:
        count: number of silos; the honest ones have the lowest numbers.
        colluding: number of those that tell the coordinator all that they know, and sign all that it wants.
        strategy: what each honest silo is shown.
        signed: with the round in which survivors sign their list.
    """
    threshold, honest = threshold_of(count), range(count - colluding)
    seeds, keys = [colluding] * count, [colluding] * count
    for version, sharing, survivors in strategy:
        signers = sum(other == (version, sharing, survivors) for other in strategy)
        signers += sum(silo not in honest for silo in survivors)
        if signed and signers < threshold:
            continue
        for silo in sharing:
            if silo in survivors:
                seeds[silo] += 1
            else:
                keys[silo] += 1
    both = any(min(seeds[silo], keys[silo]) >= threshold for silo in honest)
    return both, _sums(honest, strategy, [n >= threshold for n in seeds], [n >= threshold for n in keys])


def _sums(honest, strategy, seeds, keys):
    component = list(honest)
    hidden = {silo for silo in honest if not seeds[silo]}
    for silo in honest:
        version, sharing, _ = strategy[silo]
        for peer in sharing:
            if peer == silo or peer not in honest or keys[silo] or keys[peer]:
                continue  # this mask is known
            if strategy[peer][:2] == (version, sharing):
                old, new = component[peer], component[silo]
                component = [new if one == old else one for one in component]
            else:
                hidden.add(silo)  # the peer has no such mask, so that it never cancels
    sums = [{silo for silo in honest if component[silo] == one} for one in set(component)]
    return [found for found in sums if not found & hidden]


def check(count, colluding, strategy):
    both, sums = learnt(count, colluding, strategy)
    assert not both, strategy
    assert len(sums) <= 1, strategy
    assert all(len(found) >= threshold_of(count) - colluding for found in sums), strategy


SMALL = [
    (count, colluding)
    for count in range(3, 7)
    for colluding in range(count - 1)
    if 2 * threshold_of(count) > count + colluding
]


@pytest.mark.parametrize(("count", "colluding"), SMALL)
def test_no_strategy_learns_a_sum_over_fewer_honest_silos(count, colluding):
    versions = 2 if count < 5 else 1  # a colluding silo may offer two stage keys, so that equal lists differ
    choices = [shown(count, silo, versions=versions) for silo in range(count - colluding)]
    strategies = itertools.product(*choices)
    if math.prod(map(len, choices)) > 50_000:  # five and six honest silos: some of the choices of the last ones
        strategies = itertools.product(*choices[:4], *[choices[silo][::5] for silo in range(4, len(choices))])
    for strategy in strategies:
        check(count, colluding, strategy)


@given(st.integers(7, 10), st.data())
@settings(max_examples=300)
def test_no_strategy_of_more_silos_learns_a_sum_over_fewer_honest_ones(count, data):
    threshold = threshold_of(count)
    colluding = data.draw(st.integers(0, 2 * threshold - count - 1))
    lists = data.draw(st.lists(_pair_of_lists(count), min_size=1, max_size=3))
    strategy = [
        (0, sharing | {silo}, survivors | {silo})
        for silo, (sharing, survivors) in (
            (silo, data.draw(st.sampled_from(lists))) for silo in range(count - colluding)
        )
    ]
    check(count, colluding, strategy)


def _pair_of_lists(count):
    threshold = threshold_of(count)

    def parts(sharing):
        return st.tuples(
            st.just(frozenset(sharing)), st.sets(st.sampled_from(sorted(sharing)), min_size=threshold).map(frozenset)
        )

    return st.sets(st.integers(0, count - 1), min_size=threshold).flatmap(parts)


def test_honest_coordinator_learns_the_sum_of_the_survivors():
    everyone, survivors = frozenset(range(7)), frozenset(range(1, 7))
    strategy = [(0, everyone, survivors)] * 5  # silo 0 drops out after it has sent its value
    strategy[0] = (0, everyone, everyone)
    assert learnt(7, 2, strategy) == (False, [{1, 2, 3, 4}])


@pytest.mark.parametrize(("count", "colluding"), [(4, 2), (5, 3), (7, 3)])
def test_one_more_colluding_silo_breaks_it(count, colluding):
    """At 2t = n + c the two halves of the honest silos sign different lists, and the colluding ones sign both."""
    assert 2 * threshold_of(count) == count + colluding
    honest, everyone = count - colluding, frozenset(range(count))
    colluders = frozenset(range(honest, count))
    halves = [frozenset(range(honest // 2)) | colluders, frozenset(range(honest // 2, honest)) | colluders]
    strategy = [(0, everyone, halves[silo >= honest // 2]) for silo in range(honest)]
    both, _ = learnt(count, colluding, strategy)
    assert both


@pytest.mark.parametrize(
    ("count", "colluding"), [(count, colluding) for count, colluding in [*SMALL, (7, 2)] if colluding]
)
def test_without_the_signed_round_smaller_sums_are_learnt(count, colluding):
    """The bound is met exactly: two of seven with two colluding silos."""
    threshold, honest = threshold_of(count), count - colluding
    bound = math.ceil(honest * (2 * threshold - 2 * colluding - honest) / (threshold - colluding))
    everyone = frozenset(range(count))
    choices = []
    for silo in range(honest):  # colluding silos are always survivors: they have told what they know
        others = [other for other in range(honest) if other != silo]
        droppable = [
            frozenset(chosen)
            for size in range(count - threshold + 1)
            for chosen in itertools.combinations(others, size)
        ]
        choices.append([(0, everyone, everyone - dropped) for dropped in droppable])
    smallest = honest
    for strategy in itertools.product(*choices):
        both, sums = learnt(count, colluding, strategy, signed=False)
        assert not both
        smallest = min([smallest, *map(len, sums)])
        assert smallest >= bound
    assert smallest == max(bound, 1)
    if (count, colluding) == (7, 2):
        assert smallest == 2
