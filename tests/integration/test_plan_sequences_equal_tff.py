"""Sequence intrinsics over every kind of state, element and placement give the values of TFF's own local context."""

from __future__ import annotations

import collections
from typing import NamedTuple

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(900)]

F, N = np.float32, np.int32
Odict = collections.OrderedDict


@attrs.define
class Moments:
    total: float
    count: int


class Pair(NamedTuple):
    total: float
    count: int


def named(total, count):
    # Not in the order of the alphabet, in which TensorFlow sorts keys.
    return Odict(total=total, count=count)


def nested(total, count):
    return Odict(second=(total, Odict(z=count, a=())), first=[total])


def once_nested(total, count):
    return ((total,), Odict(only=count))


STATES = {
    "a tuple": lambda total, count: (total, count),
    "a list": lambda total, count: [total, count],
    "a dict": named,
    "a named tuple": Pair,
    "an attrs class": Moments,
    "a nested struct": nested,
    "structs of one element": once_nested,
}


def parts(state):
    """Return the leaves of a state, from left to right."""
    if isinstance(state, (np.generic, int, float)) or tf.is_tensor(state):
        return [state]
    elements = tff.structure.from_container(state)
    return [part for element in elements for part in parts(element)]


def stepping(make):
    """Return the state's type, and a step that adds an element to every float and one to every integer."""
    type_ = tff.types.to_type(make(F, N))

    def step(state, value):
        leaves = parts(state)
        total, count = leaves[0], next(leaf for leaf in leaves if leaf.dtype == tf.int32)
        return make(total + value, count + 1)

    return type_, tff.tensorflow.computation(step, (type_, F))


NUMBERS = tff.SequenceType(F)


@pytest.mark.parametrize("kind", STATES)
def test_state_is_a_struct(direct, tff_local, kind):
    make = STATES[kind]
    type_, step = stepping(make)

    @tff.federated_computation(NUMBERS)
    def reduced(numbers):
        return tff.sequence_reduce(numbers, make(0.0, 0), step)

    @tff.federated_computation(NUMBERS, type_)
    def from_argument(numbers, zero):
        return tff.sequence_reduce(numbers, zero, step)

    zero = tff.tensorflow.computation(lambda: make(0.0, 0))

    @tff.federated_computation(NUMBERS)
    def from_call(numbers):
        return tff.sequence_reduce(numbers, zero(), step)

    for numbers in ([1.0, 2.0, 3.0], [5.0], []):
        for comp, args in ((reduced, ()), (from_argument, (make(4.0, 2),)), (from_call, ())):
            assert_same(direct(comp, numbers, *args), tff_local(comp, numbers, *args))


@pytest.mark.parametrize("kind", STATES)
def test_state_is_a_struct_at_clients_and_server(direct, tff_local, kind):
    make = STATES[kind]
    type_, step = stepping(make)
    zero = tff.tensorflow.computation(lambda: make(0.0, 0))
    first = tff.tensorflow.computation(lambda state: parts(state)[0], type_)

    @tff.federated_computation(
        tff.FederatedType(NUMBERS, tff.CLIENTS),
        tff.FederatedType(NUMBERS, tff.SERVER),
        tff.FederatedType(type_, tff.SERVER),
    )
    def reduced(at_clients, at_server, start):
        def mapped(sequences):
            return tff.federated_map(
                tff.federated_computation(lambda numbers: tff.sequence_reduce(numbers, make(0.0, 0), step), NUMBERS),
                sequences,
            )

        with_zero = tff.sequence_reduce(at_clients, tff.federated_eval(zero, tff.CLIENTS), step)
        with_broadcast = tff.sequence_reduce(at_clients, tff.federated_broadcast(start), step)
        return (
            (mapped(at_clients), mapped(at_server), with_zero, with_broadcast),
            tff.sequence_reduce(at_server, start, step),
            tff.federated_sum(tff.federated_map(first, with_broadcast)),
        )

    args = ([[1.0, 2.0], [], [3.0], [4.0, 5.0, 6.0]], [2.0, 8.0], make(4.0, 2))
    assert_same(direct(reduced, *args), tff_local(reduced, *args))


def test_state_of_every_dtype(direct, tff_local):
    state = Odict(yes=np.bool_, text=np.str_, big=np.int64, vector=tff.TensorType(F, [2]), none=())
    step = tff.tensorflow.computation(
        lambda s, x: Odict(
            yes=tf.logical_or(s["yes"], x > 1.0),
            text=tf.strings.join([s["text"], tf.strings.as_string(x, precision=1)]),
            big=s["big"] + tf.cast(x, tf.int64) * 2**40,
            vector=s["vector"] + tf.stack([x, -x]),
            none=(),
        ),
        (state, F),
    )
    reduced = tff.federated_computation(lambda xs, zero: tff.sequence_reduce(xs, zero, step), (NUMBERS, state))
    zero = Odict(yes=False, text="", big=1, vector=np.zeros(2, F), none=())
    for numbers in ([1.0, 2.0], []):
        assert_same(direct(reduced, numbers, zero), tff_local(reduced, numbers, zero))


def test_state_that_grows(direct, tff_local):
    state = tff.types.to_type((tff.TensorType(F, [None]), N))
    step = tff.tensorflow.computation(lambda s, x: (tf.concat([s[0], [x]], 0), s[1] + 1), (state, F))
    reduced = tff.federated_computation(lambda xs, zero: tff.sequence_reduce(xs, zero, step), (NUMBERS, state))
    for numbers in ([1.0, 2.0], []):
        assert_same(direct(reduced, numbers, (np.zeros(0, F), 0)), tff_local(reduced, numbers, (np.zeros(0, F), 0)))


# TFF's own context runs neither a struct whose names are not sorted, nor a nested one, nor mapped sequences of structs.
ELEMENTS = {
    "a tuple": ((F, N), lambda x: (x, int(x))),
    "a tuple of one": ((F,), lambda x: (x,)),
    "a dict": (Odict(z=F, a=N), lambda x: Odict(z=x, a=int(x))),
    "a dict of one": (Odict(z=F), lambda x: Odict(z=x)),
    "a sorted dict": (Odict(a=F, z=N), lambda x: Odict(a=x, z=int(x))),
    "a named tuple": (Pair(F, N), lambda x: Pair(x, int(x))),
    "a nested struct": (
        Odict(z=(F, Odict(y=N)), a=tff.TensorType(F, [2])),
        lambda x: Odict(z=(x, Odict(y=int(x))), a=np.array([x, -x], F)),
    ),
}
RUN_BY_TFF = {"a tuple", "a tuple of one", "a dict of one", "a sorted dict"}
LISTS = ([1.0, 2.0, 3.0], [7.0], [])


@pytest.mark.parametrize("kind", ELEMENTS)
def test_elements_are_structs(direct, tff_local, kind):
    shape, make = ELEMENTS[kind]
    element = tff.types.to_type(shape)
    state = tff.types.to_type(Odict(sum=F, n=N))
    step = tff.tensorflow.computation(
        lambda s, e: Odict(sum=s["sum"] * 2 + parts(e)[0], n=s["n"] + 1), (state, element)
    )
    same = tff.tensorflow.computation(lambda e: e, element)
    scaled = tff.tensorflow.computation(lambda e: parts(e)[0] * 3, element)
    plus = tff.tensorflow.computation(lambda a, b: a * 2 + b, (F, F))

    @tff.federated_computation(tff.SequenceType(element))
    def folded(sequence):
        return (
            tff.sequence_reduce(sequence, Odict(sum=0.0, n=0), step),
            tff.sequence_reduce(tff.sequence_map(same, sequence), Odict(sum=0.0, n=0), step),
            tff.sequence_reduce(tff.sequence_map(scaled, sequence), 0.0, plus),
        )

    clients = tff.FederatedType(tff.SequenceType(element), tff.CLIENTS)
    server = tff.FederatedType(tff.SequenceType(element), tff.SERVER)

    @tff.federated_computation(clients, server)
    def placed(at_clients, at_server):
        mapped = tff.sequence_map(same, at_clients)
        return (
            tff.federated_map(folded, at_clients),
            tff.federated_map(folded, mapped),
            tff.federated_map(folded, at_server),
        )

    def expected(numbers):
        total = 0.0
        for number in numbers:
            total = total * 2 + number
        state = Odict(sum=F(total), n=N(len(numbers)))
        return state, state, F(total * 3)

    values = [[make(x) for x in numbers] for numbers in LISTS]
    for numbers, value in zip(LISTS, values, strict=True):
        assert_same(direct(folded, value), expected(numbers))
        if kind in RUN_BY_TFF:
            assert_same(tff_local(folded, value), expected(numbers))
    at_clients = [expected(numbers) for numbers in LISTS]
    assert_same(direct(placed, values, values[0]), (at_clients, at_clients, at_clients[0]))


@pytest.mark.parametrize("kind", ELEMENTS)
def test_mapping_makes_structs(direct, kind):
    shape, make = ELEMENTS[kind]
    element = tff.types.to_type(shape)
    made = tff.tensorflow.computation(lambda x: from_number(shape, x), F)
    last = tff.tensorflow.computation(lambda _, e: e, (element, element))

    @tff.federated_computation(NUMBERS, element)
    def mapped(sequence, zero):
        return tff.sequence_reduce(tff.sequence_map(made, sequence), zero, last)

    for numbers in LISTS:
        assert_same_leaves(direct(mapped, numbers, make(9.0)), make([9.0, *numbers][-1]))
    returned = tff.federated_computation(lambda sequence: tff.sequence_map(made, sequence), NUMBERS)
    for found, number in zip(direct(returned, [1.0, 2.0]), (1.0, 2.0), strict=True):
        assert [leaf.tolist() for leaf in leaves(tf.nest.map_structure(lambda one: one.numpy(), found))] == [
            leaf.tolist() for leaf in leaves(make(number))
        ]


def from_number(shape, x):
    """Return a value of a shape of types made of one number."""
    if shape is F:
        return tf.identity(x)
    if shape is N:
        return tf.cast(x, tf.int32)
    if isinstance(shape, tff.TensorType):
        return tf.stack([x, -x])
    if isinstance(shape, dict):
        return Odict((name, from_number(part, x)) for name, part in shape.items())
    if type(shape) is tuple:
        return tuple(from_number(part, x) for part in shape)
    return Pair(*(from_number(part, x) for part in shape))


@pytest.mark.parametrize("kind", ELEMENTS)
def test_sum_of_structs(direct, kind):
    """TFF's own context has no sequence_sum."""
    shape, make = ELEMENTS[kind]
    element = tff.types.to_type(shape)
    total = tff.federated_computation(tff.sequence_sum, tff.SequenceType(element))
    values = [make(x) for x in (1.0, 2.0, 4.0)]
    assert_same_leaves(direct(total, values), make(7.0))
    assert_same_leaves(direct(total, []), make(0.0))
    clients, server = (tff.FederatedType(tff.SequenceType(element), place) for place in (tff.CLIENTS, tff.SERVER))
    at_clients = tff.federated_computation(tff.sequence_sum, clients)
    at_server = tff.federated_computation(tff.sequence_sum, server)
    over_clients = tff.federated_computation(lambda x: tff.federated_sum(tff.sequence_sum(x)), clients)
    first, empty, last = direct(at_clients, [values[:1], [], values])
    for found, expected in ((first, 1.0), (empty, 0.0), (last, 7.0)):
        assert_same_leaves(found, make(expected))
    assert_same_leaves(direct(at_server, values), make(7.0))
    assert_same_leaves(direct(over_clients, [values, [], values]), make(14.0))


def assert_same_leaves(found, expected):
    assert type(found) is (type(expected) if not isinstance(expected, float) else F)
    assert [leaf.tolist() for leaf in leaves(found)] == [leaf.tolist() for leaf in leaves(expected)]


def leaves(value):
    if isinstance(value, (np.ndarray, np.generic, int, float)):
        return [np.asarray(value)]
    return [leaf for element in tff.structure.from_container(value) for leaf in leaves(element)]


def test_sequences_in_structs(direct, tff_local):
    pair = tff.types.to_type((F, N))
    step = tff.tensorflow.computation(lambda s, x: (s[0] + x, s[1] + 1), (pair, F))
    both = tff.types.to_type(Odict(train=NUMBERS, held=(NUMBERS, N)))

    @tff.federated_computation(both)
    def reduced(data):
        return Odict(
            train=tff.sequence_reduce(data["train"], (0.0, 0), step),
            held=tff.sequence_reduce(data["held"][0], (1.0, data["held"][1]), step),
        )

    @tff.federated_computation(tff.FederatedType(both, tff.CLIENTS), tff.FederatedType(both, tff.SERVER))
    def placed(at_clients, at_server):
        return tff.federated_map(reduced, at_clients), tff.federated_map(reduced, at_server)

    one, other = Odict(train=[1.0, 2.0], held=([3.0], 4)), Odict(train=[], held=([], 0))
    assert_same(direct(reduced, one), tff_local(reduced, one))
    assert_same(direct(placed, [one, other, one], other), tff_local(placed, [one, other, one], other))


def test_state_of_sequences_that_tensorflow_makes(direct):
    pair = tff.types.to_type(Odict(sum=np.int64, n=N))
    step = tff.tensorflow.computation(lambda s, x: Odict(sum=s["sum"] + x, n=s["n"] + 1), (pair, np.int64))
    made = tff.tensorflow.computation(lambda n: tf.data.Dataset.range(n), np.int64)

    @tff.federated_computation(np.int64)
    def up_to(n):
        return tff.sequence_reduce(made(n), Odict(sum=np.int64(0), n=0), step)

    at_clients = tff.federated_computation(
        lambda x: tff.federated_map(up_to, x), tff.FederatedType(np.int64, tff.CLIENTS)
    )
    expected = [Odict(sum=np.int64(6), n=np.int32(4)), Odict(sum=np.int64(0), n=np.int32(0))]
    assert_same(direct(at_clients, [4, 0]), expected)
    assert_same(direct(up_to, 4), expected[0])


def test_state_without_a_tensor(direct):
    step = tff.tensorflow.computation(lambda state, _: state, ((), F))
    reduced = tff.federated_computation(lambda xs: (tff.sequence_reduce(xs, (), step), tff.sequence_sum(xs)), NUMBERS)
    assert_same(direct(reduced, [1.0, 2.0]), ((), F(3)))


def test_state_with_names_for_some_elements(direct):
    """TensorFlow cannot make or take it, and so it is made of parts."""
    type_ = tff.StructType([("total", F), N])
    add = tff.tensorflow.computation(lambda a, b: a + b, (F, F))
    more = tff.tensorflow.computation(lambda n: n + 1, N)

    @tff.federated_computation(type_, F)
    def step(state, value):
        return tff.structure.Struct([("total", add(state[0], value)), (None, more(state[1]))])

    @tff.federated_computation(NUMBERS)
    def reduced(numbers):
        state = tff.sequence_reduce(numbers, tff.structure.Struct([("total", 0.0), (None, 0)]), step)
        return state[0], state[1]

    assert_same(direct(reduced, [1.0, 2.0]), (F(3), N(2)))
