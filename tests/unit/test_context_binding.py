"""Binding of silos' data to types: accepted types, columns to read, and errors."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import pytest
import tensorflow_federated as tff

from fedbroker.context.values.binding import bind_type, check_source, combined_error
from fedbroker.context.values.data import data
from fedbroker.errors import DataError, UsageError
from fedbroker.wire.messages import Column, Source

OPEN = [None]
BATCH = collections.OrderedDict(x=tff.TensorType(np.float32, [None, 4]), y=tff.TensorType(np.int32, OPEN))
FLIGHTS = Source((Column("x", "float64", (4,)), Column("y", "int64"), Column("note", "str")), rows=100)


def columns(type_, source=FLIGHTS, **options):
    handle = data("flights", **options)
    return check_source(bind_type(handle, tff.types.to_type(type_)), handle, "ewr", {"flights": source})


def test_sequence_of_batches_takes_columns_by_name():
    assert columns(tff.SequenceType(BATCH), batch_size=32) == (("x", "float32"), ("y", "int32"))


def test_a_sequence_of_rows_needs_no_batch_size():
    row = collections.OrderedDict(x=tff.TensorType(np.float32, [4]), y=np.int32)
    assert columns(tff.SequenceType(row)) == (("x", "float32"), ("y", "int32"))


def test_fixed_batches_need_the_same_batch_size():
    fixed = collections.OrderedDict(x=tff.TensorType(np.float32, [32, 4]), y=tff.TensorType(np.int32, [32]))
    assert columns(tff.SequenceType(fixed), batch_size=32)
    with pytest.raises(UsageError, match="batches of 16 rows"):
        columns(tff.SequenceType(fixed), batch_size=16)


def test_options_of_sequences_are_refused_for_other_types():
    with pytest.raises(UsageError, match="is no sequence, which epochs and shuffle need; declare a sequence"):
        columns(BATCH, epochs=2, shuffle=True, seed=1)
    with pytest.raises(UsageError, match="is no sequence, which limit needs"):
        columns(tff.TensorType(np.float32, OPEN), limit=5)


def test_binder_is_the_same_in_each_round_and_for_each_draw():
    options = {"batch_size": 32, "epochs": 2, "shuffle": True}
    one, two = (data("flights", **options, seed=seed, round=seed) for seed in (1, 2))
    type_ = tff.SequenceType(BATCH)
    assert bind_type(one, type_) is bind_type(two, type_)
    assert bind_type(one, type_).shuffles
    assert not bind_type(data("flights", batch_size=32, epochs=2), type_).shuffles


def test_arrays_scalars_and_nested_names_bind():
    assert columns(BATCH) == (("x", "float32"), ("y", "int32"))
    nested = collections.OrderedDict(a=collections.OrderedDict(b=np.float32))
    one = Source((Column("a.b", "float64"),), rows=1)
    assert columns(nested, one) == (("a.b", "float32"),)


def test_a_type_without_names_takes_columns_by_position():
    one = Source((Column("delay", "float64"),))
    assert columns(tff.TensorType(np.float32, OPEN), one) == (("#0", "float32"),)
    with pytest.raises(DataError, match="1 column, as the type has no names, found x, y, note"):
        columns(tff.TensorType(np.float32, OPEN))


def test_source_without_rows_fits_any_type():
    empty = Source((Column("x", "str"), Column("y", "float64", (2,)), Column("z", "str")), rows=0)
    named = collections.OrderedDict(
        x=tff.TensorType(np.float32, [None, 4]), y=tff.TensorType(np.int32, OPEN), z=tff.TensorType(np.bool_, OPEN)
    )
    assert columns(named, empty) == (("x", "float32[4]"), ("y", "int32[]"), ("z", "bool"))
    with pytest.raises(DataError, match="expected int32, found columns x, y, z"):
        columns(collections.OrderedDict(nope=tff.TensorType(np.int32, OPEN)), empty)
    with pytest.raises(DataError, match="expected 1 rows, found 0"):
        columns(collections.OrderedDict(x=np.float32), empty)


def test_error_names_each_column_that_does_not_fit():
    wrong = collections.OrderedDict(
        x=tff.TensorType(np.int32, [None, 4]), y=tff.TensorType(np.int32, OPEN), note=tff.TensorType(np.int32, OPEN)
    )
    with pytest.raises(DataError) as caught:
        columns(wrong)
    error = caught.value
    assert error.what == (
        "silo 'ewr' failed: column 'x' of source 'flights': expected int32[4], found float64[4]; "
        "silo 'ewr' failed: column 'note' of source 'flights': expected int32, found str"
    )
    assert [other.column for other in error.others] == ["note"]
    assert pickle.loads(pickle.dumps(error)).others[0].column == "note"


def test_error_groups_the_silos_of_one_cause():
    errors = [DataError(silo, "flights", column="x", expected="int32", found="str") for silo in ("ewr", "jfk")]
    assert combined_error(errors).what == (
        "silos 'ewr', 'jfk' failed: column 'x' of source 'flights': expected int32, found str"
    )


def test_batches_without_a_batch_size_are_refused():
    with pytest.raises(UsageError, match=r'fedbroker.data\("flights", batch_size=32\)'):
        columns(tff.SequenceType(BATCH))


def test_missing_source_error_names_the_silo_and_its_sources():
    handle = data("trains")
    with pytest.raises(DataError, match="expected a source of that name, found flights") as caught:
        check_source(bind_type(handle, tff.TensorType(np.float32)), handle, "ewr", {"flights": FLIGHTS})
    assert (caught.value.silo, caught.value.source) == ("ewr", "trains")


@pytest.mark.parametrize(
    ("expected", "column", "found"),
    [
        (collections.OrderedDict(z=tff.TensorType(np.float32, OPEN)), "z", "columns x, y, note"),
        (collections.OrderedDict(note=tff.TensorType(np.float32, OPEN)), "note", "str"),
        (collections.OrderedDict(y=tff.TensorType(np.str_, OPEN)), "y", "int64"),
        (collections.OrderedDict(x=tff.TensorType(np.float32, [None, 3])), "x", "float64[4]"),
        (collections.OrderedDict(x=tff.TensorType(np.int32, [None, 4])), "x", "float64[4]"),
    ],
)
def test_mismatched_column_error_names_both_types(expected, column, found):
    with pytest.raises(DataError) as caught:
        columns(expected)
    assert (caught.value.silo, caught.value.column, caught.value.found) == ("ewr", column, found)
    assert "\n" not in str(caught.value)


def test_a_scalar_needs_one_row():
    with pytest.raises(DataError, match="expected 1 rows, found 100"):
        columns(collections.OrderedDict(y=np.int32))


def test_integers_become_floats_and_floats_do_not_become_integers():
    assert columns(collections.OrderedDict(y=tff.TensorType(np.float32, OPEN))) == (("y", "float32"),)


@pytest.mark.parametrize(("name", "size"), [("", None), ("flights", 0), ("flights", -1)])
def test_invalid_handle_is_refused_immediately(name, size):
    with pytest.raises(UsageError):
        data(name, batch_size=size)
