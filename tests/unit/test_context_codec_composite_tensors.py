"""Ragged and sparse tensors are decomposed and rebuilt; other values are unchanged."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.types import type_conversions

from fedbroker.context.values.arguments import expand
from fedbroker.context.values.containers import with_composites

VALUES = {
    "ragged": tf.ragged.constant([[1.0], [], [2.0, 3.0]]),
    "ragged twice": tf.ragged.constant([[[1], [2, 3]], []]),
    "sparse": tf.sparse.from_dense([[0, 5], [7, 0]]),
}


def struct(value):
    """Return TFF's struct of the parts, as the runtime would, and its type with TFF's container."""
    parts = tff.structure.from_container(expand(value), recursive=True)
    plain = type_conversions.infer_type(expand(value))
    return parts, tff.types.StructWithPythonType(list(tff.structure.iter_elements(plain)), type(value))


@pytest.mark.parametrize("name", VALUES)
def test_composite_tensor_is_rebuilt_from_its_parts(name):
    value = VALUES[name]
    parts, type_ = struct(value)
    nest = tff.StructType([("a", type_), ("b", tff.TensorType(np.int32))])
    whole = tff.structure.Struct([("a", parts), ("b", 3)])
    made = type_conversions.type_to_py_container(whole, with_composites(nest))
    assert type(made["a"]) is type(value)
    assert _as_lists(made["a"]) == _as_lists(value)
    assert made["b"] == 3


def _as_lists(value):
    return value.to_list() if isinstance(value, tf.RaggedTensor) else tf.sparse.to_dense(value).numpy().tolist()


@pytest.mark.parametrize("value", [1.0, "text", np.ones(2), [1, 2], collections.OrderedDict(a=1), tf.constant(1)])
def test_other_values_are_unchanged(value):
    assert expand(value) is None


def test_other_types_stay_the_same_object():
    type_ = tff.StructType([("a", np.int32), ("b", [np.float32])])
    assert with_composites(type_) == type_
