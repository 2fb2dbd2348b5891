"""Masked sums have the same bits as plaintext ones, and as NumPy's."""

from __future__ import annotations

import collections
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow_federated.python.core.backends.mapreduce import intrinsics

from fedbroker.errors import ComputationFailed, MaskingError, PlanError, UsageError
from fedbroker.plan import make_plan
from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(900)]

Odict = collections.OrderedDict
N = np.int32
INTS = tff.FederatedType(N, tff.CLIENTS)
DTYPES = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
KINDS = ("sum", "bitwidth", "modular")
SUMS = {
    "sum": tff.federated_secure_sum,
    "bitwidth": tff.federated_secure_sum_bitwidth,
    "modular": intrinsics.federated_secure_modular_sum,
}
HOW = ("one literal", "literals", "parameter", "computed")


# --- the parts of a secure sum, drawn ---


@dataclass(frozen=True)
class Tensor:
    dtype: type
    shape: tuple[int, ...]
    number: int


def tensors(kind, dtype=None, number=None):
    """Draw a tensor with its bound, number of bits or modulus."""

    def with_number(dtype):
        bits = np.iinfo(dtype).bits - (np.iinfo(dtype).min < 0)
        most = min(bits, 62) if kind == "bitwidth" else min((1 << bits) - 1, (1 << 63) - 1)
        few = st.sampled_from([most, max(1, most // 2), min(most, 5)])
        shapes = st.sampled_from([(), (1,), (3,), (2, 2), (0,)])
        return st.builds(Tensor, st.just(dtype), shapes, few if number is None else st.just(number))

    return (st.sampled_from(DTYPES) if dtype is None else st.just(dtype)).flatmap(with_number)


def trees(kind, number=None):
    """Draw a tensor, or a struct of them, of two levels and perhaps empty."""
    leaf = tensors(kind, number=number)
    inner = st.one_of(leaf, st.lists(leaf, max_size=2).map(tuple))
    names = st.lists(st.sampled_from("zya"), unique=True, max_size=3)
    named = st.tuples(names, st.lists(inner, min_size=3, max_size=3)).map(lambda both: Odict(zip(*both, strict=False)))
    return st.one_of(leaf, leaf, named)


@dataclass(frozen=True)
class Program:
    kind: str
    how: str
    tree: object
    clients: list
    silos: int


@st.composite
def programs(draw):
    kind = draw(st.sampled_from(KINDS))
    how = draw(st.sampled_from(HOW))
    tree = draw(trees(kind, number=3 if how == "one literal" else None))
    count = draw(st.integers(0, 5))
    clients = [values(draw, kind, tree) for _ in range(count)]
    return Program(kind, how, tree, clients, draw(st.integers(3, 5)))


def values(draw, kind, tree):
    def drawn(tensor):
        limits, number = np.iinfo(tensor.dtype), tensor.number
        if kind == "modular":
            low, high = limits.min, limits.max
        else:
            high = min((1 << number) - 1 if kind == "bitwidth" else number, limits.max)
            low = max(-high, limits.min)
        return draw(hnp.arrays(tensor.dtype, tensor.shape, elements=st.integers(low, high)))

    return mapped(drawn, tree)


def mapped(function, tree, *others):
    if isinstance(tree, dict):
        return Odict((name, mapped(function, part, *[one[name] for one in others])) for name, part in tree.items())
    if isinstance(tree, tuple):
        return tuple(mapped(function, *parts) for parts in zip(tree, *others, strict=True))
    return function(tree, *others)


def type_of(tree, *, known=True):
    """Return the type of a tree; without known shapes, vectors have any size, and matrices any rank."""

    def shape_of(tensor):
        return tensor.shape if known or not tensor.shape else [None] if len(tensor.shape) == 1 else None

    return tff.types.to_type(mapped(lambda tensor: tff.TensorType(tensor.dtype, shape_of(tensor)), tree))


def computation(program, *, known=True):
    """Return the computation, and the arguments before the clients' values."""
    summed = tff.FederatedType(type_of(program.tree, known=known), tff.CLIENTS)
    function = SUMS[program.kind]
    if program.how == "one literal":
        return tff.federated_computation(lambda x: function(x, 3), summed), ()
    numbers = mapped(lambda tensor: np.int64(tensor.number), program.tree)
    if program.how == "literals":
        return tff.federated_computation(lambda x: function(x, numbers), summed), ()
    kind = tff.types.to_type(mapped(lambda _: tff.TensorType(np.int64), program.tree))
    if program.how == "parameter":
        return tff.federated_computation(lambda bound, x: function(x, bound), kind, summed), (numbers,)

    @tff.tensorflow.computation(kind)
    def same(bound):
        return bound

    return tff.federated_computation(lambda bound, x: function(x, same(bound)), kind, summed), (numbers,)


def expected(program):
    def total(tensor, *values):
        size = tensor.number if program.kind == "modular" else 1 << np.iinfo(tensor.dtype).bits
        sums = sum((np.ravel(value).astype(object) for value in values), np.zeros(tensor.shape, object).reshape(-1))
        return np.array([one % size for one in sums], np.uint64).astype(tensor.dtype).reshape(tensor.shape)[()]

    return mapped(total, program.tree, *program.clients)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(program=programs())
def test_masked_sums_are_those_of_numpy(masked, program):
    comp, before = computation(program)
    assert_same(masked(comp, *before, program.clients, silos=program.silos), expected(program))


def overflows_in_plaintext(program):
    """Return whether TFF's modular sum wraps around before it reduces."""

    def wraps(tensor, *values):
        reduced = [np.ravel(value).astype(object) % tensor.number for value in values]
        return bool(np.any(sum(reduced, np.zeros(1, object)) > np.iinfo(tensor.dtype).max))

    flags = []
    mapped(lambda *parts: flags.append(wraps(*parts)), program.tree, *program.clients)
    return program.kind == "modular" and any(flags)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(program=programs())
def test_masked_sums_are_those_in_plaintext(masked, direct, program):
    assume(not overflows_in_plaintext(program))
    comp, before = computation(program)
    arguments = (*before, program.clients)
    plain = direct(comp, *arguments, silos=program.silos, secure_sum="plaintext")
    assert_same(masked(comp, *arguments, silos=program.silos), plain)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(program=programs())
def test_shapes_may_be_unknown(masked, program):
    assume(program.silos <= len(program.clients))
    comp, before = computation(program, known=False)
    assert_same(masked(comp, *before, program.clients, silos=program.silos), expected(program))


@pytest.mark.parametrize("silos", [3, 8, 32])
def test_number_of_silos(masked, direct, silos):
    @tff.federated_computation(vectors(shape=(4,)))
    def summed(x):
        modular = intrinsics.federated_secure_modular_sum(x, 1000)
        return tff.federated_secure_sum(x, 99), tff.federated_secure_sum_bitwidth(x, 7), modular, tff.federated_sum(x)

    values = [np.arange(at, at + 4, dtype=N) for at in range(40)]
    assert_same(masked(summed, values, silos=silos), direct(summed, values, silos=silos, secure_sum="plaintext"))


# --- shapes ---


def vectors(dtype=N, shape=(None,)):
    return tff.FederatedType(tff.TensorType(dtype, shape), tff.CLIENTS)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_must_be_the_same(masked, kind):
    @tff.federated_computation(vectors())
    def summed(x):
        return SUMS[kind](x, 5)

    three, one = np.ones(3, N), np.ones(1, N)
    with pytest.raises(ComputationFailed, match="different shapes"):
        masked(summed, [three, one, three, three])  # two clients at the first silo
    with pytest.raises(MaskingError, match=r"its masked values have the shapes \[1\]"):
        masked(summed, [three, one, three])
    with pytest.raises(MaskingError, match=r"its masked values have the shapes \[0\]"):
        masked(summed, [three, three])  # a silo without clients
    assert_same(masked(summed, []), np.zeros(0, N))


# --- ranges ---


@pytest.mark.parametrize(
    ("kind", "dtype", "number", "value"),
    [
        ("sum", np.int32, 10, 11),
        ("sum", np.int32, 10, -11),
        ("sum", np.int8, 0, -1),
        ("sum", np.uint64, 10, 11),
        ("sum", np.uint64, 10, 1 << 63),
        ("bitwidth", np.int32, 3, 8),
        ("bitwidth", np.int64, 3, -8),
        ("bitwidth", np.uint8, 3, 8),
    ],
)
def test_values_beyond_a_literal_bound_fail_at_the_silo(masked, kind, dtype, number, value):
    @tff.federated_computation(tff.FederatedType(dtype, tff.CLIENTS))
    def summed(x):
        return SUMS[kind](x, number)

    assert_same(masked(summed, [dtype(0)] * 3), dtype(0))
    with pytest.raises(ComputationFailed, match=r"larger than maximum|beyond the bound"):
        masked(summed, [dtype(0), dtype(value), dtype(0)])


def test_only_values_above_a_computed_bound_fail(masked, direct):
    @tff.federated_computation(N, INTS)
    def summed(bound, x):
        return tff.federated_secure_sum(x, bound)

    values = [1, -100, 5]
    assert_same(masked(summed, 5, values), direct(summed, 5, values, secure_sum="plaintext"))
    with pytest.raises(ComputationFailed, match="larger than maximum"):
        masked(summed, 5, [1, 6, 1])


def test_unsigned_values_from_2_63_on_pass_with_a_computed_bound_as_in_plaintext(masked, direct):
    @tff.federated_computation(N, tff.FederatedType(np.uint64, tff.CLIENTS))
    def summed(bound, x):
        return tff.federated_secure_sum(x, bound)

    values = [np.uint64(1 << 63), np.uint64(3)]
    assert_same(masked(summed, 5, values), direct(summed, 5, values, secure_sum="plaintext"))


def test_sums_of_one_value_for_all_clients(masked, direct):
    @tff.federated_computation(INTS, tff.FederatedType(N, tff.SERVER))
    def summed(x, y):
        ones, broadcast = tff.federated_value(N(1), tff.CLIENTS), tff.federated_broadcast(y)
        sums = tff.federated_secure_sum(ones, 5), tff.federated_secure_sum_bitwidth(broadcast, 4)
        return (*sums, modular(ones, 7), modular(broadcast, 7), tff.federated_secure_sum(x, 9))

    assert_same(masked(summed, [1, 2, 3, 4], 5), direct(summed, [1, 2, 3, 4], 5, secure_sum="plaintext"))


# --- moduli ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_modular_sums_are_right_where_plaintext_overflows(masked, direct, dtype):
    modulus = min(int(np.iinfo(dtype).max), (1 << 63) - 1)
    values = [dtype(modulus - 1)] * 5

    @tff.federated_computation(tff.FederatedType(dtype, tff.CLIENTS))
    def summed(x):
        return intrinsics.federated_secure_modular_sum(x, np.int64(modulus))

    right = dtype((modulus - 1) * 5 % modulus)
    assert_same(masked(summed, values), right)
    if dtype is not np.uint64:
        assert direct(summed, values, secure_sum="plaintext") != right


@pytest.mark.parametrize("modulus", [0, -3, 128])
def test_moduli_must_be_numbers_of_the_dtype(masked, modulus):
    values = tff.FederatedType(np.int8, tff.CLIENTS)

    @tff.federated_computation(values)
    def literal(x):
        return modular(x, modulus)

    @tff.federated_computation(N, values)
    def computed(number, x):
        return modular(x, number)

    with pytest.raises(PlanError, match="modulo"):
        make_plan(literal, secure_sum="masked")
    with pytest.raises(UsageError, match=f"is {modulus}"):
        masked(computed, modulus, [1, 2])


def modular(x, modulus):
    return intrinsics.federated_secure_modular_sum(x, modulus)


def test_random_modulus_is_the_same_everywhere(masked):
    @tff.tensorflow.computation
    def draw():
        return tf.random.uniform((), 5, 1 << 30, tf.int64)

    @tff.federated_computation(tff.FederatedType(np.int64, tff.CLIENTS))
    def summed(x):
        modulus = draw()
        return modular(x, modulus), modulus

    total, modulus = masked(summed, [np.int64(1 << 40)] * 7)
    assert total == (1 << 40) * 7 % modulus
