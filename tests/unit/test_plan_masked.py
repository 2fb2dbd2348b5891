"""Masked sums in a plan: the stages, the bounds and moduli that the program states, and the explanation."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import intrinsics

from fedbroker.plan import explain, explain_plan, make_plan
from fedbroker.plan.model import ClientStage, MaskedTensor, ServerStage, identity_of

Odict = collections.OrderedDict
N = np.int32
INTS = tff.FederatedType(N, tff.CLIENTS)
STRUCTS = tff.FederatedType(Odict(b=N, a=(np.int64, tff.TensorType(np.int8, [2]))), tff.CLIENTS)


def plan_of(function, *types):
    return make_plan(tff.federated_computation(function, *types), secure_sum="masked")


def sums_of(plan):
    return [one for stage in plan.stages if isinstance(stage, ServerStage) for one in stage.sums]


def tensors_of(function, *types):
    (only,) = sums_of(plan_of(function, *types))
    return only.tensors


# --- stages ---


def test_sums_are_masked_outputs_of_one_client_stage():
    plan = plan_of(
        lambda x: (tff.federated_secure_sum(x, 10), tff.federated_sum(x), tff.federated_secure_sum_bitwidth(x, 4)), INTS
    )
    (client,) = plan.client_stages
    server = plan.stages[-1]
    assert isinstance(server, ServerStage)
    assert [slot.name for slot in client.masked] == [one.partial.name for one in server.sums]
    assert [slot.name for slot in client.partials] == [merge.partial.name for merge in server.merges]
    assert client.outputs[: len(client.masked)] == client.masked
    assert {one.total for one in server.sums} <= set(server.inputs)
    assert [str(one.partial.type) for one in server.sums] == ["int32@SERVER"] * 2
    assert [str(one.total.type) for one in server.sums] == ["int32"] * 2
    assert server.fold is not None
    assert not server.fold.inputs
    assert {one.total for one in server.sums} <= set(server.fold.whole(3).inputs)
    assert plan.masked == ("federated_secure_sum", "federated_secure_sum_bitwidth")
    assert plan.exposed == ()


def test_stage_with_sums_only_has_no_fold():
    plan = plan_of(lambda x: tff.federated_secure_sum(x, 10), INTS)
    client, server = plan.stages
    assert isinstance(client, ClientStage)
    assert isinstance(server, ServerStage)
    assert (len(client.masked), client.partials) == (1, ())
    assert (len(server.sums), server.merges, server.fold) == (1, (), None)


def test_plan_without_secure_sums_masks_nothing():
    summed = tff.federated_computation(lambda x: tff.federated_sum(x), INTS)
    plans = [make_plan(summed, secure_sum=mode) for mode in ("refuse", "plaintext", "masked")]
    assert {(plan.masked, plan.exposed) for plan in plans} == {((), ())}
    assert len({identity_of(plan) for plan in plans}) == 1
    assert not any(stage.masked for plan in plans for stage in plan.client_stages)


def test_sums_of_later_barriers_are_in_their_own_stages():
    plus = tff.tensorflow.computation(lambda x, y: x + y, (N, N))

    def program(x):
        first = tff.federated_secure_sum(x, 10)
        shifted = tff.federated_map(plus, (x, tff.federated_broadcast(first)))
        return tff.federated_secure_sum(shifted, 100), tff.federated_secure_sum(x, 5)

    plan = plan_of(program, INTS)
    assert [len(stage.masked) for stage in plan.client_stages] == [2, 1]


def test_empty_struct_is_a_sum_of_no_tensors():
    (empty,) = sums_of(
        plan_of(lambda x: tff.federated_secure_sum(x, ()), tff.FederatedType(tff.StructType([]), tff.CLIENTS))
    )
    assert empty.tensors == ()


# --- bounds ---


@tff.tensorflow.computation
def twenty():
    return tf.constant(20, tf.int32)


@tff.tensorflow.computation(N)
def doubled(x):
    return x * 2


@tff.tensorflow.computation
def drawn():
    return tf.random.uniform((), 5, 9, tf.int32)


@tff.tensorflow.computation(N, N)
def as_struct(x, y):
    return Odict(b=x, a=(y, y + 1))


@pytest.mark.parametrize(
    ("bound", "largest"),
    [
        (lambda: 10, 10),
        (lambda: 0, 0),
        (lambda: -1, None),
        (lambda: twenty(), 20),
        (lambda: doubled(twenty()), 40),
        (lambda: doubled(doubled(3)), 12),
        (lambda: drawn(), None),
        (lambda: doubled(drawn()), None),
        (lambda: as_struct(4, twenty())["a"][1], 21),
        (lambda: np.array([7], np.int64), 7),
    ],
    ids=[
        "10",
        "0",
        "negative",
        "constant",
        "of a constant",
        "of a literal",
        "random",
        "of random",
        "selected",
        "array",
    ],
)
def test_bounds_that_the_program_states(bound, largest):
    assert tensors_of(lambda x: tff.federated_secure_sum(x, bound()), INTS) == (MaskedTensor("int32", largest),)


@pytest.mark.parametrize(("bits", "largest"), [(8, 255), (0, 0), (62, (1 << 62) - 1), (63, None), (-1, None)])
def test_numbers_of_bits(bits, largest):
    tensor = MaskedTensor("int32", largest)
    assert tensors_of(lambda x: tff.federated_secure_sum_bitwidth(x, bits), INTS) == (tensor,)


def test_bounds_of_structs():
    each = tensors_of(lambda x: tff.federated_secure_sum(x, Odict(b=1, a=(2, 3))), STRUCTS)
    assert each == (MaskedTensor("int32", 1), MaskedTensor("int64", 2), MaskedTensor("int8", 3))
    one = tensors_of(lambda x: tff.federated_secure_sum(x, 9), STRUCTS)
    assert {tensor.largest for tensor in one} == {9}
    computed = tensors_of(lambda x: tff.federated_secure_sum(x, as_struct(1, twenty())), STRUCTS)
    assert [tensor.largest for tensor in computed] == [1, 20, 21]


def test_parameter_is_no_literal():
    assert tensors_of(lambda bound, x: tff.federated_secure_sum(x, bound), N, INTS) == (MaskedTensor("int32"),)
    pair = tff.StructType([("small", N), ("large", N)])
    assert tensors_of(lambda b, x: tff.federated_secure_sum(x, b.large), pair, INTS) == (MaskedTensor("int32"),)


# --- moduli ---


def modular(x, modulus):
    return intrinsics.federated_secure_modular_sum(x, modulus)


def test_moduli_that_the_program_states():
    (found,) = sums_of(plan_of(lambda x: modular(x, 7), INTS))
    assert (found.tensors, found.moduli) == ((MaskedTensor("int32", modulus=7),), None)
    (found,) = sums_of(plan_of(lambda x: modular(x, doubled(twenty())), INTS))
    assert (found.tensors, found.moduli) == ((MaskedTensor("int32", modulus=40),), None)
    (found,) = sums_of(plan_of(lambda x: modular(x, Odict(b=2, a=(3, 4))), STRUCTS))
    assert [tensor.modulus for tensor in found.tensors] == [2, 3, 4]


@pytest.mark.parametrize(
    ("modulus", "types"),
    [(lambda _: drawn(), ()), (lambda given: given, (N,)), (lambda given: doubled(given), (N,))],
    ids=["random", "parameter", "computed"],
)
def test_other_moduli_are_evaluated_once_and_sent_to_the_silos(modulus, types):
    if types:
        plan = plan_of(lambda given, x: modular(x, modulus(given)), *types, INTS)
    else:
        plan = plan_of(lambda x: modular(x, modulus(None)), INTS)
    (found,) = sums_of(plan)
    (client,) = plan.client_stages
    before = plan.stages[0]
    assert isinstance(before, ServerStage)
    assert found.tensors == (MaskedTensor("int32"),)
    assert found.moduli in before.outputs
    assert found.moduli in client.inputs
    assert str(found.moduli.type) == "int32"


def test_moduli_of_structs_may_be_stated_in_part():
    def program(given, x):
        return modular(x, Odict(b=given, a=(5, 6)))

    (found,) = sums_of(plan_of(program, N, STRUCTS))
    assert {tensor.modulus for tensor in found.tensors} == {None}  # all are in the value
    assert str(found.moduli.type) == "<b=int32,a=<int32,int32>>"


# --- explain ---


def test_explanation_tells_what_is_masked():
    vectors = tff.FederatedType(tff.TensorType(np.int64, [1000]), tff.CLIENTS)
    summed = tff.federated_computation(
        lambda x: (tff.federated_secure_sum_bitwidth(x, 32), tff.federated_sum(x)), vectors
    )
    explained = explain(summed)
    page = str(explained)
    assert "a context without keys refuses them\n" in page
    assert "↑ int64[1000]  masked, 4.9 KiB" in page
    assert "↑ int64[1000]@SERVER  7.8 KiB" in page
    assert "= per silo: 0 B down, 13 KiB up, 1 round trip\n" in page
    assert "= masked: 4.9 KiB for 100 clients, 1 round trip, 1 + 2 if silos may drop out\n" in page
    assert "adds 1 masked sum, computes 2 values" in page
    assert "masked, the coordinator learns totals only: federated_secure_sum_bitwidth\n" in page
    (crossing,) = explained.crossings
    assert (crossing.masked_bytes(128), crossing.masked_bytes(129), crossing.masked_bytes(1 << 40)) == (
        5000,
        6000,
        8000,
    )
    assert "1 masked" in repr(crossing)


def test_explanation_of_sums_that_silos_may_drop_out_of():
    plan = plan_of(lambda x: tff.federated_secure_sum(x, 10), INTS)
    assert "1 + 2 round trips\n" in str(explain_plan(plan, dropouts=True))
    assert "for 100 clients, 1 round trip\n" in str(explain_plan(plan, dropouts=False))
    assert [explain_plan(plan, dropouts=one).messages(3) for one in (True, False, None)] == [24, 6, 6]


@pytest.mark.parametrize(
    ("tensor", "clients", "width"),
    [
        (MaskedTensor("int64", 1), 127, 1),
        (MaskedTensor("int64", 1), 128, 2),
        (MaskedTensor("int64", (1 << 32) - 1), 1, 5),
        (MaskedTensor("int64", 1 << 62), 100, 8),
        (MaskedTensor("int8", 100), 100, 1),
        (MaskedTensor("uint16", 100), 1, 1),
        (MaskedTensor("int32", 0), 10**9, 1),
        (MaskedTensor("int32"), 1, 4),
        (MaskedTensor("int8", modulus=5), 1, 8),
        (MaskedTensor("int64", 1), 0, 1),
    ],
)
def test_width_holds_the_sum_and_its_sign(tensor, clients, width):
    assert tensor.width(clients) == width


def test_unknown_shapes_have_unknown_sizes():
    vectors = tff.FederatedType(tff.TensorType(N, [None]), tff.CLIENTS)
    page = str(explain_plan(plan_of(lambda x: tff.federated_secure_sum(x, 10), vectors)))
    assert "↑ int32[?]  masked, ? B" in page
    assert "= masked: ? B for" in page
