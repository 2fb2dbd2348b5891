"""Columns as TFF's own serializer writes them, and the allowed casts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fedbroker_worker.errors import ColumnError, SourceError, WorkRefused
from fedbroker_worker.sources.column_types import DTYPES, cast_to
from fedbroker_worker.sources.columns import ColumnType, clients_value, member_value
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedbroker.runtime.protos import executor_pb2

NUMBERS = [name for name in DTYPES if name not in ("str", "bfloat16")]


def serialized(columns, types, *, scalar=False, clients=1):
    members = [member_value("s", types, columns, scalar=scalar) for _ in range(clients)]
    return clients_value(types, members, scalar=scalar)


@pytest.fixture(scope="module", autouse=True)
def tff():
    """Import the full TFF for comparison; its import warns of its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_federated
    return tensorflow_federated


def tff_serialized(tff, values, dtypes, rows, *, clients=1):
    from tensorflow_federated.python.core.impl.executors import value_serialization

    leaves = [tff.TensorType(dtype, shape) for dtype, shape in zip(dtypes, rows, strict=True)]
    type_ = tff.FederatedType(tff.StructType([(None, leaf) for leaf in leaves]), tff.CLIENTS)
    value, _ = value_serialization.serialize_value([list(values)] * clients, type_)
    return value


def values_of(dtype, shape):
    if dtype == "str":
        return np.array([f"t{i}é" for i in range(int(np.prod(shape)))], dtype=object).reshape(shape)
    if dtype == "bfloat16":
        return np.linspace(-2, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    if np.dtype(dtype).kind == "u":
        return np.arange(int(np.prod(shape))).astype(dtype).reshape(shape)
    return (np.arange(int(np.prod(shape))) - 2).astype(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [(), (3,), (2, 2)])
@pytest.mark.parametrize(("rows", "scalar"), [(5, False), (0, False), (1, True)])
def test_bytes_equal_tffs(tff, dtype, row, rows, scalar):
    import ml_dtypes

    found = values_of(dtype, (rows, *row))
    kind = {"str": np.str_, "bfloat16": ml_dtypes.bfloat16}.get(dtype) or np.dtype(dtype).type
    expected = np.vectorize(str.encode, otypes=[object])(found) if dtype == "str" and found.size else found
    expected = expected.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else expected
    expected = expected[0] if scalar else expected
    shape = row if scalar else (None, *row)
    reference = tff_serialized(tff, [expected], [kind], [shape])
    assert serialized({"c": found}, [ColumnType("c", dtype, row)], scalar=scalar) == reference.SerializeToString(
        deterministic=True
    )


def test_several_columns_and_clients_are_as_in_tff(tff):
    columns = {"a": np.arange(3, dtype=np.int64), "b": np.ones((3, 2), np.float32)}
    types = [ColumnType("b", "float32", (2,)), ColumnType("a", "int64", ()), ColumnType("b", "float64", (None,))]
    reference = tff_serialized(
        tff,
        [columns["b"], columns["a"], columns["b"].astype(np.float64)],
        [np.float32, np.int64, np.float64],
        [(None, 2), (None,), (None, None)],
        clients=2,
    )
    assert serialized(columns, types, clients=2) == reference.SerializeToString(deterministic=True)


def test_value_without_clients_has_no_members():
    value = executor_pb2.Value.FromString(serialized({}, [ColumnType("a", "int32", ())], clients=0))
    assert len(value.federated.value) == 0
    assert value.federated.type.placement.value.uri == "clients"
    assert list(value.federated.type.member.struct.element[0].value.tensor.dims) == [-1]


@given(values=hnp.arrays(st.sampled_from(NUMBERS), hnp.array_shapes(min_dims=1, max_dims=3, min_side=0)))
def test_array_is_read_back_from_its_bytes(values):
    type_ = ColumnType("c", values.dtype.name, values.shape[1:])
    value = executor_pb2.Value.FromString(serialized({"c": values}, [type_]))
    array = value.federated.value[0].struct.element[0].value.array
    back = np.frombuffer(array.content, values.dtype).reshape(array.shape.dim)
    np.testing.assert_array_equal(back, values)


@given(values=hnp.arrays(np.int64, st.integers(0, 20)), dtype=st.sampled_from(["int8", "int16", "int32"]))
def test_integers_are_exact_or_refused(values, dtype):
    bounds = np.iinfo(dtype)
    fits = not values.size or (values.min() >= bounds.min and values.max() <= bounds.max)
    if fits:
        np.testing.assert_array_equal(cast_to(dtype, values, source="s", column="c"), values)
    else:
        with pytest.raises(ColumnError, match=f"which {dtype} cannot"):
            cast_to(dtype, values, source="s", column="c")


@given(values=hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32)))
def test_bfloat16_is_rounded_as_in_tensorflow(values):
    import ml_dtypes

    values = np.clip(values, -1e38, 1e38)
    ours = cast_to("bfloat16", values, source="s", column="c").view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(ours.astype(np.float32), values.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (np.array([1.5]), "int32", "is float64, requested as int32; cast it in the source's query"),
        (np.array([-1]), "uint8", "is int64, requested as uint8"),
        (np.array([1e300]), "float32", "holds a number too large for float32"),
        (np.array([3.4e38], np.float32), "bfloat16", "holds a number too large for bfloat16"),
        (np.array([70000.0], np.float32), "float16", "holds a number too large for float16"),
        (np.array([1]), "bool", "is int64, requested as bool"),
        (np.array(["x"], object), "float32", "is str, requested as float32"),
        (np.array([1]), "str", "is int64, requested as str"),
        (np.array([2**40]), "int32", "holds 1099511627776, which int32 cannot"),
        (np.array([2**63], np.uint64), "int64", "holds 9223372036854775808, which int64 cannot"),
    ],
)
def test_impossible_cast_is_a_one_line_error(values, dtype, message):
    with pytest.raises(ColumnError) as caught:
        cast_to(dtype, values, source="flights", column="delay")
    assert message in str(caught.value)
    assert str(caught.value).startswith("[FB4204] source 'flights': column 'delay' ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([1, 2]), "float32"),
        (np.array([True, False]), "int32"),
        (np.array([1.5]), "complex64"),
        (np.array([np.inf, np.nan]), "float32"),
    ],
)
def test_numbers_convert_to_the_more_general_kind(values, dtype):
    np.testing.assert_array_equal(cast_to(dtype, values, source="s", column="c"), values.astype(dtype))


def test_special_floats_are_preserved_as_bfloat16():
    bits = cast_to("bfloat16", np.array([np.inf, -np.inf, np.nan]), source="s", column="c")
    assert bits.tolist() == [0x7F80, 0xFF80, 0x7FC0]


def test_unknown_dtype_is_a_coordinators_error():
    with pytest.raises(WorkRefused, match="requested as 'float128'"):
        cast_to("float128", np.array([1]), source="s", column="c")


@pytest.mark.parametrize("rows", [0, 2])
def test_a_scalar_needs_one_row(rows):
    with pytest.raises(SourceError, match=f"has {rows} rows where the computation takes one"):
        member_value("s", [ColumnType("a", "int64", ())], {"a": np.zeros(rows, np.int64)}, scalar=True)
