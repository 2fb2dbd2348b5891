"""Tables of all libraries become the same columns, and what silos cannot read is an error that names its place."""

from __future__ import annotations

import datetime
import decimal
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from fedbroker.errors import ConfigError, UsageError
from fedbroker.simulation.columns import columns_of
from fedbroker.simulation.sources import sources_of_silos
from tests.support.wait import PROCESS_SECONDS

WHERE = "silo 'ewr', source 'rows'"
NOON = datetime.datetime(2013, 1, 31, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=-5)))

ROWS = {
    "minutes": [1.5, -2.0, 30.25],
    "number": [1, 2, 3],
    "late": [False, True, True],
    "carrier": ["UA", "B6", "Überland"],
    "pixels": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
    "day": [datetime.date(2013, 1, day) for day in (1, 2, 3)],
    "time": [NOON + datetime.timedelta(days=number) for number in range(3)],
}
EXPECTED = {
    "minutes": np.array([1.5, -2.0, 30.25]),
    "number": np.array([1, 2, 3]),
    "late": np.array([False, True, True]),
    "carrier": np.array(["UA", "B6", "Überland"]),
    "pixels": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "day": np.array(["2013-01-01", "2013-01-02", "2013-01-03"], "datetime64[D]"),
    "time": np.array(["2013-01-31T17", "2013-02-01T17", "2013-02-02T17"], "datetime64[us]"),
}
TABLES = {
    "dict": ROWS,
    "arrays": {name: np.array(values, object) for name, values in ROWS.items() if name != "pixels"},
    "pandas": pd.DataFrame(ROWS),
    "pandas with NA": pd.DataFrame(ROWS).convert_dtypes(),
    "polars": pl.DataFrame(ROWS),
    "polars, lazy": pl.DataFrame(ROWS).lazy(),
    "polars, arrays": pl.DataFrame(ROWS).with_columns(pl.col("pixels").cast(pl.Array(pl.Float64, 2))),
    "pyarrow": pa.table(ROWS),
    "pyarrow, a batch": pa.table(ROWS).to_batches()[0],
    "pyarrow, parts": pa.concat_tables([pa.table(ROWS).slice(0, 1), pa.table(ROWS).slice(1)]),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_all_libraries_give_the_same_columns(kind):
    columns = columns_of(TABLES[kind], WHERE)
    expected = EXPECTED if kind != "arrays" else {name: EXPECTED[name] for name in columns}
    assert list(columns) == list(expected)
    for name, array in columns.items():
        assert array.dtype.kind == expected[name].dtype.kind, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_categories_are_their_values():
    names = ["UA", "B6", "UA"]
    frames = [
        pd.DataFrame({"carrier": pd.Categorical(names)}),
        pl.DataFrame({"carrier": names}, schema={"carrier": pl.Categorical}),
        pa.table({"carrier": pa.array(names).dictionary_encode()}),
    ]
    for frame in frames:
        assert columns_of(frame, WHERE)["carrier"].tolist() == names


def test_pairs_and_single_arrays_have_columns_x_and_y():
    images, labels = np.zeros((3, 8, 8), np.uint8), [0, 1, 2]
    pair = columns_of((images, labels), WHERE)
    assert [(name, array.shape, array.dtype.kind) for name, array in pair.items()] == [
        ("x", (3, 8, 8), "u"),
        ("y", (3,), "i"),
    ]
    assert list(columns_of(images, WHERE)) == ["x"]
    structured = np.array([(1, 2.0)], [("a", np.int32), ("b", np.float32)])
    assert {name: array.dtype.name for name, array in columns_of(structured, WHERE).items()} == {
        "a": "int32",
        "b": "float32",
    }


def test_values_keep_their_dtype_and_decimals_become_floats():
    kept = {name: np.zeros(2, name) for name in ("float16", "float32", "int8", "uint64", "bool")}
    assert {name: array.dtype.name for name, array in columns_of(kept, WHERE).items()} == {name: name for name in kept}
    assert columns_of({"price": [decimal.Decimal("1.5"), 2]}, WHERE)["price"].tolist() == [1.5, 2.0]
    assert columns_of({"none": []}, WHERE)["none"].shape == (0,)


WRONG = {
    "missing in pandas": (pd.DataFrame({"a": [1.0, None]}), "column 'a' has 1 missing values; fill them"),
    "NA in pandas": (pd.DataFrame({"a": pd.array([1, None], "Int64")}), "column 'a' has 1 missing values"),
    "null in polars": (pl.DataFrame({"a": [None, 1, None]}), "column 'a' has 2 missing values"),
    "null in pyarrow": (pa.table({"a": ["x", None]}), "column 'a' has 1 missing values"),
    "None": ({"a": [1, None]}, "column 'a' has 1 missing values"),
    "NaT": ({"a": np.array(["2013-01-01", "NaT"], "datetime64[D]")}, "1 missing points in time"),
    "masked": ({"a": np.ma.masked_equal([1, 2], 2)}, "column 'a' has 1 masked values"),
    "lengths": ({"a": [1], "b": [1, 2]}, "different lengths: a has 1, b has 2"),
    "mixed": ({"a": [1, "x"]}, "column 'a' has text and other values"),
    "ragged": ({"a": [[1], [1, 2]]}, "column 'a' is no array"),
    "scalar": ({"a": 3}, "column 'a' is one value, not one for each row"),
    "complex": ({"a": [1j]}, "of the dtype complex128, which silos do not know"),
    "time span": (pd.DataFrame({"a": pd.to_timedelta([1], "s")}), "of the dtype timedelta64"),
    "same names": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns have the name 'a'"),
    "no column": (pd.DataFrame(), "has no column"),
    "three": (([1], [2], [3]), "is a tuple of 3; give a pair of arrays"),
    "no table": (7, "is of the type int, which is no table"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_silos_cannot_read_is_named(case):
    table, expected = WRONG[case]
    with pytest.raises(UsageError) as raised:
        columns_of(table, WHERE)
    assert WHERE in str(raised.value)
    assert expected in str(raised.value)


def test_one_table_or_several_by_name(tmp_path):
    (tmp_path / "test.csv").write_text("x\n1\n")
    query = {"source": "duckdb", "query": "select 1 as x"}
    found = sources_of_silos(
        {
            "one": {"x": [1], "y": [2]},
            "several": {"train": pd.DataFrame({"x": [1]}), "test": str(tmp_path / "test.csv"), "pair": ([1], [2])},
            "settings": query,
        },
        "rows",
        None,
    )
    assert list(found["one"].columns) == ["rows"]
    assert set(found["several"].columns) == {"train", "pair"}
    assert found["several"].settings == {"test": {"source": "duckdb", "file": str(tmp_path / "test.csv")}}
    assert found["settings"].settings == {"rows": query}
    assert list(sources_of_silos([{"x": [1]}, {"x": [2]}], "rows", None)) == ["silo-0", "silo-1"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "has no silo"),
        (pd.DataFrame({"x": [1]}), "is of the type DataFrame; give each silo's data by its name"),
        ({"EWR": {"x": [1]}}, "'EWR' is not a name for a silo"),
        ({"ewr": {"Train": pd.DataFrame({"x": [1]})}}, "'Train' is not a name for a data source"),
        ({"ewr": {"x": [1], "more": {"y": [2]}}}, "silo 'ewr' has tables and columns in one dict"),
        ({"ewr": "no-such.csv"}, "no-such.csv is no file"),
        ({"ewr": "rows.xlsx"}, "silos read no files like 'rows.xlsx'; end it in .csv"),
    ],
)
def test_wrong_data_of_silos_is_named(data, expected):
    with pytest.raises(ConfigError) as raised:
        sources_of_silos(data, "rows", None)
    assert expected in str(raised.value)


def test_no_library_of_frames_is_needed():
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('pandas', 'polars', 'pyarrow')))\n"  # their import fails
        "from fedbroker.simulation.sources import sources_of_silos\n"
        "print(list(sources_of_silos({'a': {'x': [1, 2]}}, 'rows', None)['a'].columns), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert done.stdout == "['rows'] False\n", done.stderr
