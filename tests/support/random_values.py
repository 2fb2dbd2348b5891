"""Random values of TFF's types, within the limits of its serializer."""

from __future__ import annotations

import collections

import ml_dtypes
import numpy as np
import tensorflow_federated as tff
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = (
    *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, np.complex128, ml_dtypes.bfloat16, np.str_),
)


@st.composite
def tensors(draw):
    """Draw a value and its type: any dtype and shape, partly unknown, with the array in any memory layout."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    if dtype is np.str_:
        value = np.full(shape, b"text\0", object)
    else:
        numbers = draw(hnp.arrays(np.int8, shape))
        value = numbers.astype(dtype)
    if value.ndim > 1 and draw(st.booleans()):
        value = np.asfortranarray(value)
    if value.ndim > 0 and draw(st.booleans()):
        value = value[::-1]
    if shape == () and draw(st.booleans()):
        value = value.item() if dtype is not ml_dtypes.bfloat16 else value[()]
    known = [size if draw(st.booleans()) else None for size in shape]
    return value, tff.TensorType(dtype, known)


def structs(inner):
    names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=3)
    return st.one_of(
        st.lists(inner, max_size=3).map(
            lambda some: (tuple(value for value, _ in some), tff.StructType([type_ for _, type_ in some]))
        ),
        st.tuples(names, st.lists(inner, min_size=3, max_size=3)).map(
            lambda both: (
                collections.OrderedDict((name, value) for name, (value, _) in zip(*both, strict=False)),
                tff.StructType([(name, type_) for name, (_, type_) in zip(*both, strict=False)]),
            )
        ),
    )


random_values = st.recursive(tensors(), structs, max_leaves=4)


@st.composite
def random_federated_values(draw):
    value, type_ = draw(random_values)
    placement = draw(st.sampled_from([tff.CLIENTS, tff.SERVER]))
    all_equal = placement is tff.SERVER or draw(st.booleans())
    members = value if all_equal else [value] * draw(st.integers(1, 3))
    return members, tff.FederatedType(type_, placement, all_equal=all_equal)
