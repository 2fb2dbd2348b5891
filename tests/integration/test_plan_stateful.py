"""A call that draws random numbers or reads the clock is made once: all uses of its result see the same value.

Each use of a drawn number returns something from which the number can be computed. Programs combine them.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(900)]

N = np.int32
CLIENTS = 3
INTS = tff.FederatedType(N, tff.CLIENTS)


@tff.tensorflow.computation
def draw():
    return tf.random.uniform([], 0, 1_000_000, tf.int32)


@tff.tensorflow.computation
def draw_pair():
    return tf.random.uniform([], 0, 1_000_000, tf.int32), tf.random.uniform([2])


@tff.tensorflow.computation
def clock():
    return tf.cast(tf.timestamp() * 1e6 % 1e6, tf.int32)


@tff.tensorflow.computation
def draw_in_function():
    return tf.function(lambda: tf.random.uniform([], 0, 1_000_000, tf.int32))()


@tff.tensorflow.computation
def draw_in_variable():
    return tf.Variable(tf.random.uniform([], 0, 1_000_000, tf.int32)).read_value()


more = tff.tensorflow.computation(lambda n: n + 1, N)
less = tff.tensorflow.computation(lambda n: n - 1, N)
plus = tff.tensorflow.computation(lambda a, b: a + b, (N, N))
largest = tff.tensorflow.computation(lambda a, b: tf.maximum(a, b), (N, N))
identity = tff.tensorflow.computation(lambda n: n, N)
both = tff.tensorflow.computation(lambda n: (n, n * 2), N)
ones = tff.tensorflow.computation(lambda: tf.data.Dataset.from_tensors(tf.constant(1)).repeat(2))


@tff.federated_computation
def draw_composed():
    return more(draw())


CALLS = {
    "random": draw,
    "random, selected": lambda: draw_pair()[0],
    "clock": clock,
    "random in a function": draw_in_function,
    "random in a variable": draw_in_variable,
    "random, then pure": lambda: more(more(draw())),
    "random in a composed function": draw_composed,
    "random, pure pair, selected": lambda: both(less(draw()))[0],
}


def at_clients_sum(number, x):
    at_clients = tff.federated_value(number, tff.CLIENTS)
    return tff.federated_sum(tff.federated_map(plus, (x, at_clients)))


def after_a_barrier(number, x):
    zero = tff.federated_broadcast(tff.federated_sum(x))
    at_clients = tff.federated_value(more(number), tff.CLIENTS)
    return tff.federated_sum(tff.federated_map(plus, (zero, at_clients)))


def added_to_a_sum(number, x):
    return tff.federated_map(plus, (tff.federated_sum(x), tff.federated_value(more(number), tff.SERVER)))


def as_zero(number, x):
    return tff.federated_aggregate(x, number, largest, largest, identity)


def as_pure_zero(number, x):
    return tff.federated_aggregate(x, more(number), largest, largest, identity)


def broadcast(number, _):
    return tff.federated_broadcast(tff.federated_value(number, tff.SERVER))


def summed_after_broadcast(number, x):
    return tff.federated_sum(tff.federated_map(plus, (x, broadcast(more(number), x))))


def zipped(number, x):
    return tff.federated_zip(
        (tff.federated_value(number, tff.SERVER), tff.federated_sum(x), tff.federated_value(more(number), tff.SERVER))
    )


# Each use, and the number that its result tells.
USES = {
    "returned": (lambda number, _: number, lambda result: result),
    "pure, returned": (lambda number, _: more(number), lambda result: result - 1),
    "selected, returned": (lambda number, _: both(number)[1], lambda result: result // 2),
    "at the server": (lambda number, _: tff.federated_value(number, tff.SERVER), lambda result: result),
    "pure, at the server": (lambda number, _: tff.federated_value(more(number), tff.SERVER), lambda result: result - 1),
    "selected, at the server": (
        lambda number, _: tff.federated_value(both(number)[1], tff.SERVER),
        lambda result: result // 2,
    ),
    "struct at the server": (lambda number, _: tff.federated_value(both(number), tff.SERVER), lambda result: result[0]),
    "at clients": (lambda number, _: tff.federated_value(number, tff.CLIENTS), lambda result: result),
    "pure, at clients": (lambda number, _: tff.federated_value(more(number), tff.CLIENTS), lambda result: result - 1),
    "at clients, summed": (at_clients_sum, lambda result: result // CLIENTS),
    "pure, at clients, summed": (lambda number, x: at_clients_sum(more(number), x), lambda result: result // 3 - 1),
    "selected, at clients, summed": (lambda number, x: at_clients_sum(both(number)[0], x), lambda result: result // 3),
    "at clients after a barrier": (after_a_barrier, lambda result: result // CLIENTS - 1),
    "added to a sum": (added_to_a_sum, lambda result: result - 1),
    "as an aggregate's zero": (as_zero, lambda result: result),
    "pure, as an aggregate's zero": (as_pure_zero, lambda result: result - 1),
    "broadcast": (broadcast, lambda result: result),
    "pure, broadcast, summed": (summed_after_broadcast, lambda result: result // CLIENTS - 1),
    "zipped at the server": (zipped, lambda result: result[0] if result[0] == result[2] - 1 else None),
    "as a sequence's state": (lambda number, _: tff.sequence_reduce(ones(), number, largest), lambda result: result),
    "pure, as a sequence's state": (
        lambda number, _: tff.sequence_reduce(ones(), more(number), largest),
        lambda result: result - 1,
    ),
}


def using(call, uses):
    """Return a computation that makes one call and returns what each use makes of its result."""

    @tff.federated_computation(INTS)
    def computation(x):
        number = call()
        return tuple(USES[use][0](number, x) for use in uses)

    return computation


def assert_one_number(results, uses):
    numbers = [int(USES[use][1](result)) for use, result in zip(uses, results, strict=True)]
    assert len(set(numbers)) == 1, dict(zip(uses, numbers, strict=True))


X = [0] * CLIENTS
WITHOUT_SEQUENCES = [use for use in USES if "sequence" not in use]  # TFF cannot reduce what TensorFlow makes


@pytest.mark.parametrize("call", CALLS)
def test_all_uses_together(direct, call):
    uses = list(USES) if len(call) % 2 else list(reversed(USES))
    assert_one_number(direct(using(CALLS[call], uses), X), uses)


def test_pairs_of_uses(direct, request):
    """All pairs take a minute or more: without ``--programs 441``, each use is paired with one other."""
    pairs = [(first, second) for first in USES for second in USES]
    if request.config.getoption("--programs") < len(pairs):
        pairs = list(zip(USES, [*list(USES)[8:], *list(USES)[:8]], strict=True))
    for uses, call in zip(pairs, itertools.cycle(CALLS.values())):  # the second one has no end
        assert_one_number(direct(using(call, uses), X, silos=2), uses)


@pytest.mark.parametrize("call", ["random", "random, pure pair, selected"])
def test_results_have_the_types_that_tff_gives(direct, tff_local, call):
    found, expected = (run(using(CALLS[call], WITHOUT_SEQUENCES), X) for run in (direct, tff_local))
    assert [type(one) for one in found] == [type(one) for one in expected]
    assert_one_number(expected, WITHOUT_SEQUENCES)


def test_results_without_chance_equal_tff(direct, tff_local):
    constant = using(lambda: draw_constant(), WITHOUT_SEQUENCES)
    assert_same(direct(constant, X), tff_local(constant, X))


draw_constant = tff.tensorflow.computation(lambda: tf.random.stateless_uniform([], [1, 2], 0, 1_000_000, tf.int32))


def test_draws_of_clients_are_kept_between_stages(direct):
    noise = tff.tensorflow.computation(lambda n: n + tf.random.uniform([], 0, 1_000_000, tf.int32), N)
    minus = tff.tensorflow.computation(lambda a, b: a - b, (N, N))

    @tff.federated_computation(INTS)
    def computation(x):
        own = tff.federated_eval(draw, tff.CLIENTS)
        noisy = tff.federated_map(noise, x)
        barrier = tff.federated_broadcast(tff.federated_sum(x))
        later = tff.federated_map(plus, (own, barrier))
        noisy_later = tff.federated_map(plus, (noisy, barrier))
        return (
            tff.federated_map(minus, (own, later)),
            tff.federated_map(minus, (noisy, noisy_later)),
            own,
            noisy,
            tff.federated_sum(own),
            tff.federated_sum(noisy_later),
        )

    first, second, own, noisy, own_sum, noisy_sum = direct(computation, X)
    assert first == second == X
    assert (sum(own), sum(noisy)) == (own_sum, noisy_sum)
    assert len({*own, *noisy}) == 2 * CLIENTS


def test_draws_at_the_server_are_made_once(direct):
    @tff.federated_computation(INTS)
    def computation(x):
        number = tff.federated_eval(draw, tff.SERVER)
        return (
            number,
            tff.federated_map(more, number),
            tff.federated_sum(tff.federated_map(plus, (x, tff.federated_broadcast(number)))),
        )

    number, increased, total = direct(computation, X)
    assert (number, number * CLIENTS) == (increased - 1, total)


def test_two_calls_are_two_draws(direct):
    @tff.federated_computation(INTS)
    def computation(x):
        return draw(), draw(), tff.federated_value(more(draw()), tff.SERVER), tff.federated_sum(x)

    numbers = direct(computation, X)[:3]
    assert len(set(map(int, numbers))) == 3
