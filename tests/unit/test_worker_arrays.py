"""Python values as arrays: their dtypes, and refused values."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pytest
from fedbroker_worker.errors import ColumnError
from fedbroker_worker.sources.arrays import array_from, infer
from fedbroker_worker.sources.clients import clients_among, keys_as_text
from fedbroker_worker.sources.column_types import DeclaredType, given_types
from hypothesis import given
from hypothesis import strategies as st


def array(word, cells, shape=()):
    return array_from("s", DeclaredType("x", word, shape), cells, lambda at: f"in row {at + 1}")


@given(st.sampled_from(["int64", "int8", "uint64", "float64", "bool", "str"]), st.data())
def test_fitting_values_are_unchanged(word, data):
    cells = {
        "int64": st.integers(-(2**63), 2**63 - 1),
        "int8": st.integers(-128, 127),
        "uint64": st.integers(0, 2**64 - 1),
        "float64": st.floats(allow_nan=False),
        "bool": st.booleans(),
        "str": st.text(),
    }[word]
    values = data.draw(st.lists(cells))
    result = array(word, values)
    assert result.tolist() == values
    assert result.dtype == np.dtype(object if word == "str" else word)


@given(st.lists(st.one_of(st.integers(), st.integers(-5, 5), st.floats(), st.booleans(), st.text())))
def test_value_beyond_its_integer_type_is_an_error(cells):
    whole = all(type(cell) is not bool and not isinstance(cell, str) and cell == cell // 1 for cell in cells)
    if whole and all(-(2**15) <= cell < 2**15 for cell in cells):
        assert array("int16", cells).tolist() == cells
    else:
        with pytest.raises(ColumnError):
            array("int16", cells)


@given(st.lists(st.datetimes()))
def test_times_are_microseconds(moments):
    epoch = datetime.datetime(1970, 1, 1)
    found = array("datetime", moments).tolist()
    assert [epoch + datetime.timedelta(microseconds=one) for one in found] == moments


@pytest.mark.parametrize(
    ("cells", "word", "shape"),
    [
        ([1, None], "int64", ()),
        ([1, 2.5, Decimal(1)], "float64", ()),
        ([True], "bool", ()),
        (["a", b"b", memoryview(b"c")], "str", ()),
        ([datetime.date(2013, 1, 1)], "date", ()),
        ([datetime.datetime(2013, 1, 1)], "datetime", ()),
        ([None, [1, 2], [3.5]], "float64", (None,)),
        ([[[True]]], "bool", (None, None)),
    ],
)
def test_dtype_of_a_column_is_that_of_its_values(cells, word, shape):
    assert infer("s", "x", cells) == DeclaredType("x", word, shape)


def test_empty_column_has_no_dtype():
    assert infer("s", "x", []) is None
    assert infer("s", "x", [None, None]) is None
    assert infer("s", "x", [[], None]) is None


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([1, "a"], "column 'x' holds int64 and str; set its type"),
        ([True, 1], "column 'x' holds bool and int64"),
        ([1, [1]], "holds values of the type list, which is not supported"),
        ([datetime.time(1)], "holds values of the type time, which is not supported; cast it"),
    ],
)
def test_unsupported_type_is_a_one_line_error(cells, said):
    with pytest.raises(ColumnError) as caught:
        infer("s", "x", cells)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("word", "cells", "said"),
    [
        ("int64", [2**63], 'holds a number that int64 cannot hold; types.x = "float64" would'),
        ("uint64", [-1], "holds a number that uint64 cannot hold"),
        ("float64", [10**400], "holds a number that float64 cannot hold"),
        ("float32", [1e300], "holds a number too large for float32"),
        ("int64", [float("inf")], "is int64, but holds float64 in row 1"),
        ("int64", [1, float("nan")], "is int64, but holds float64 in row 2"),
        ("bool", [2], "is bool, but holds int64 in row 1"),
        ("float64", [True], "is float64, but holds bool in row 1"),
        ("date", [datetime.datetime(2013, 1, 1)], "is date, but holds datetime in row 1; correct it, or set its"),
        ("datetime", ["yesterday"], "is datetime, but holds text in row 1"),
    ],
)
def test_mismatched_value_is_a_one_line_error(word, cells, said):
    with pytest.raises(ColumnError) as caught:
        array(word, cells)
    assert said in str(caught.value)


def test_types_are_names_with_dimensions():
    types = given_types("s", {"x": "float32[4]", "y": "str[][2]", "z": "date"})
    assert list(map(str, types.values())) == ["float32[4]", "str[][2]", "date"]
    assert types["y"].announced.shape == (None, 2)
    assert array("float32", [], (4,)).shape == (0, 4)


def test_clients_are_in_the_order_of_comparable_keys():
    assert clients_among("k", [10, 9, 10, -1]).keys == ("-1", "9", "10")
    assert clients_among("k", ["b", "a"]).keys == ("a", "b")
    assert clients_among("k", [True, False]).keys == ("false", "true")
    assert clients_among("k", [10, "9", b"\xff"]).keys == ("10", "9", "\\xff")
    assert keys_as_text([1, None]).mask.tolist() == [False, True]
