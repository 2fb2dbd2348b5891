"""Sequence intrinsics become TensorFlow; other intrinsics are unchanged."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.blocks import walk
from fedbroker.plan.compiler import contents_of
from fedbroker.plan.sequences import sequences_as_tensorflow
from tests.support import computations as c

F = np.float32
SEQUENCES = tff.FederatedType(tff.SequenceType(F), tff.CLIENTS)

add = tff.tensorflow.computation(lambda a, b: a + b, (F, F))


@tff.federated_computation(tff.SequenceType(F))
def folded(sequence):
    halves = tff.sequence_map(c.half, sequence)
    return tff.sequence_sum(halves), tff.sequence_reduce(halves, 0.0, add)


@tff.federated_computation(SEQUENCES)
def folded_at_clients(sequences):
    return tff.federated_sum(tff.federated_map(folded, sequences))


def intrinsics(comp):
    return {part.uri for part in walk(comp.to_building_block()) if isinstance(part, bb.Intrinsic)}


def test_sequence_intrinsics_are_found_at_any_depth():
    assert contents_of(folded_at_clients.to_building_block()).sequences
    assert not contents_of(c.two_barriers.to_building_block()).sequences


def test_all_sequence_intrinsics_are_replaced_and_the_type_is_kept():
    made = sequences_as_tensorflow(folded_at_clients)
    assert intrinsics(made) == {"federated_map", "federated_aggregate"}
    assert made.type_signature.is_equivalent_to(folded_at_clients.type_signature)


def test_function_with_initialization_is_replaced():
    @tff.tensorflow.computation(F)
    def with_variable(x):
        variable = tf.Variable(1.0)
        return x + variable

    @tff.federated_computation(tff.SequenceType(F))
    def mapped(sequence):
        return tff.sequence_reduce(tff.sequence_map(with_variable, sequence), 0.0, add)

    assert not intrinsics(sequences_as_tensorflow(mapped))
