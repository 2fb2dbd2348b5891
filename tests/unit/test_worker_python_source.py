"""The source ``python``: columns that a function returns."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fedbroker_worker.errors import ColumnError, SettingsError, SourceError
from fedbroker_worker.sources import DataSource, open_source

from fedbroker.wire.messages import Column, Source
from tests.support.wait import wait_until


@pytest.fixture
def columns(tmp_path, monkeypatch):
    """Return ``columns(body, **options)``: a source over its own function, whose argument is ``given``."""
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    number = iter(range(100))

    def make(body, **options):
        module = f"own_{tmp_path.name}_{next(number)}".replace("-", "_")
        (tmp_path / f"{module}.py").write_text(
            "import numpy as np\nimport pathlib\nimport datetime\nfrom decimal import Decimal\n\n\n"
            f"def read(given=None):\n    {body}\n"
        )
        return open_source("own", "python", {"callable": f"{module}:read"} | options, tmp_path)

    return make


def line(error, function, *arguments):
    """Return the line of an error."""
    with pytest.raises(error) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "column", "expected"),
    [
        ("[1, 2]", Column("x", "int64"), [1, 2]),
        ("[1, 2.5]", Column("x", "float64"), [1, 2.5]),
        ("[True, False]", Column("x", "bool"), [True, False]),
        ("['a', 'é']", Column("x", "str"), ["a", "é"]),
        ("[b'a', b'b\\xff']", Column("x", "str"), [b"a", b"b\xff"]),
        ("(3, 4)", Column("x", "int64"), [3, 4]),
        ("np.arange(3, dtype='uint8')", Column("x", "uint8"), [0, 1, 2]),
        ("np.ones((2, 3), 'float32')", Column("x", "float32", (3,)), [[1, 1, 1]] * 2),
        ("[[1, 2], [3, 4], [5, 6]]", Column("x", "int64", (2,)), [[1, 2], [3, 4], [5, 6]]),
        ("np.array(['2013-01-01', '1970-01-02'], 'datetime64[D]')", Column("x", "int32"), [15706, 1]),
        ("np.array(['1970-01-01T00:00:01.5'], 'datetime64[ns]')", Column("x", "int64"), [1_500_000]),
        ("[datetime.date(1970, 1, 2)]", Column("x", "int32"), [1]),
        ("[datetime.datetime(1970, 1, 1, 0, 0, 1)]", Column("x", "int64"), [1_000_000]),
        ("[Decimal('1.25'), Decimal(2)]", Column("x", "float64"), [1.25, 2.0]),
        ("np.ma.masked_array([1, 2], mask=[False, False])", Column("x", "int64"), [1, 2]),
        ("np.array([], 'float32')", Column("x", "float32"), []),
        ("[]", Column("x", "float64"), []),
    ],
)
def test_every_value_that_numpy_converts_is_a_column(columns, values, column, expected):
    source = columns(f"return {{'x': {values}}}")
    assert isinstance(source, DataSource)
    assert source.describe() == Source((column,), rows=len(expected))
    (rows,) = source.read(["x", "x"])
    assert rows["x"].tolist() == expected
    assert not isinstance(rows["x"], np.ma.MaskedArray)
    assert source.count() == len(expected)


def test_data_frame_like_object_is_accepted(columns, tmp_path):
    (tmp_path / "frames.py").write_text(
        "class Frame:\n    def keys(self):\n        return ['x', 'y']\n\n"
        "    def __getitem__(self, name):\n        return {'x': [1], 'y': ['a']}[name]\n"
    )
    source = columns("import frames; return frames.Frame()")
    assert source.describe() == Source((Column("x", "int64"), Column("y", "str")), rows=1)


def test_arguments_are_passed(columns):
    source = columns("return {'x': [given] * 2}", arguments={"given": 7})
    assert source.read(["x"])[0]["x"].tolist() == [7, 7]
    assert "secret" not in repr(columns("return {'x': [1]}", arguments={"given": "secret"})._options)


def test_clients_are_those_with_rows_of_the_same_key(columns, tmp_path):
    (tmp_path / "keys").write_text("10 9 10")
    source = columns(
        f"keys = pathlib.Path({str(tmp_path / 'keys')!r}).read_text().split(); "
        "return {'k': list(map(int, keys)), 'x': list(range(len(keys)))}",
        clients="k",
    )
    assert source.describe() == Source((Column("x", "int64"),), rows=3, clients=2)
    assert [rows["x"].tolist() for rows in source.read(["x"])] == [[1], [0, 2]]
    (tmp_path / "keys").write_text("10")
    assert [rows["x"].tolist() for rows in source.read(["x"])] == [[], [0]]
    (tmp_path / "keys").write_text("8 10")
    assert "1 of 2 rows are of no client that it announced" in line(SourceError, source.read, ["x"])


@pytest.mark.parametrize(
    ("body", "options", "error", "said"),
    [
        ("raise SystemExit(3)", {}, SourceError, ":read failed: SystemExit: 3; correct it"),
        ("raise KeyboardInterrupt", {}, SourceError, ":read failed: KeyboardInterrupt:; correct it"),
        ("raise GeneratorExit('no')", {}, SourceError, ":read failed: GeneratorExit: no; correct it"),
        ("return next(iter(()))", {}, SourceError, ":read failed: StopIteration:; correct it"),
        ("return 1 / 0", {}, SourceError, ":read failed: ZeroDivisionError: division by zero; correct it"),
        ("return [1]", {}, SourceError, ":read returned list, not columns by name; return a dictionary, such as"),
        ("return {}", {}, SourceError, "returned no column; return at least one"),
        ("return {'x': 1}", {}, ColumnError, "column 'x' is one value, not one for each row; return a list"),
        ("return {'x': [1], 'y': [1, 2]}", {}, SourceError, "its columns are of different lengths: x has 1, y has 2"),
        ("return {'x': [1, None]}", {}, ColumnError, "column 'x' has a NULL in row 2; replace it, or leave it out"),
        ("return {'x': [None]}", {}, ColumnError, "column 'x' has 1 missing values and no other; leave it out"),
        ("return {'x': [1, 'a']}", {}, ColumnError, "column 'x' holds int64 and str"),
        ("return {'x': [[1], [1, 2]]}", {}, ColumnError, "column 'x' is no array"),
        ("return {'x': [{}]}", {}, ColumnError, "column 'x' holds values of the type dict, which is not supported"),
        ("return {'x': np.ma.masked_array([1, 2], mask=[0, 1])}", {}, ColumnError, "column 'x' has 1 masked values"),
        ("return {'x': np.array(['nat'], 'datetime64[s]')}", {}, ColumnError, "column 'x' has 1 missing points in"),
        (
            "return {'x': np.array([1], 'timedelta64[s]')}",
            {},
            ColumnError,
            "is of the dtype timedelta64[s], which is not supported",
        ),
        ("return {'x': [1]}", {"clients": "k"}, SettingsError, "'clients' in [data.own]: the source has no column 'k'"),
        ("return {'x': [1]}", {"clients": "x"}, SettingsError, "'clients' in [data.own] takes 'x', the only column"),
        ("return {'x': [1], 'k': [[1]]}", {"clients": "k"}, ColumnError, "column 'k' is of vectors, which are no"),
        ("return {'x': [1]}", {"ttl": -1}, SettingsError, "'ttl' in [data.own]: expected float >= 0.0"),
        ("return {'x': [1]}", {"arguments": {"more": 1}}, SourceError, "failed: TypeError: read() got an unexpected"),
    ],
)
def test_mismatched_result_is_a_one_line_error(columns, body, options, error, said):
    assert said in line(error, lambda: columns(body, **options).describe())


@pytest.mark.parametrize(
    ("callable_", "said"),
    [
        ("nowhere", "'callable' in [data.own]: 'nowhere' names no function; write \"module:function\""),
        ("nowhere:read", "'nowhere' cannot be imported: ModuleNotFoundError: No module named 'nowhere'; it is"),
        ("json:read", "'callable' in [data.own]: 'json' has no function 'read'"),
        ("json:__name__", "'callable' in [data.own]: 'json' has no function '__name__'"),
        ("broken:read", "'broken' cannot be imported: SyntaxError:"),
        ("ending:read", "'ending' cannot be imported: SystemExit: 3; it is imported from"),
    ],
)
def test_missing_function_is_an_error(tmp_path, callable_, said, monkeypatch):
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (tmp_path / "broken.py").write_text("def read(:\n")
    (tmp_path / "ending.py").write_text("raise SystemExit(3)\n")
    assert said in line(SettingsError, open_source, "own", "python", {"callable": callable_}, tmp_path)


def test_column_keeps_its_announced_type(columns, tmp_path):
    (tmp_path / "x").write_text("[1]")
    source = columns(f"return {{'y': [1]}} | eval(pathlib.Path({str(tmp_path / 'x')!r}).read_text())")
    (tmp_path / "x").write_text("{'x': [1]}")
    source.describe()
    (tmp_path / "x").write_text("{'x': [1.5]}")
    assert "column 'x' is float64 now, and was announced as int64; return the" in line(ColumnError, source.read, ["x"])
    (tmp_path / "x").write_text("{}")
    assert "column 'x' no longer exists, and was announced as int64" in line(ColumnError, source.read, ["x"])
    assert "column 'z' does not exist; available: y, x" in line(ColumnError, source.read, ["z"])


@pytest.mark.parametrize(("ttl", "calls"), [(0, 3), (3600, 1)])
def test_function_is_called_again_after_its_ttl(columns, tmp_path, ttl, calls):
    path = tmp_path / "calls"
    path.touch()
    source = columns(
        f"calls = pathlib.Path({str(path)!r}); calls.write_text(calls.read_text() + '.'); return {{'x': [1]}}", ttl=ttl
    )
    source.describe()
    for _ in range(2):
        source.read(["x"])
    assert (tmp_path / "calls").read_text() == "." * calls


def test_read_is_cancelled_immediately_and_the_next_one_succeeds(columns, tmp_path):
    path = str(tmp_path / "shut")
    source = columns(
        f"import time; shut = pathlib.Path({path!r}); [time.sleep(0.01) for _ in range(3000) if shut.exists()]; "
        "return {'x': [1]}"
    )
    source.describe()
    (tmp_path / "shut").touch()
    errors = []

    def read():
        try:
            source.read(["x"])
        except SourceError as error:
            errors.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: [one for one in threading.enumerate() if one.name == "source own"], 5)
    source.interrupt()
    reader.join(5)
    assert errors == ["[FB4203] source 'own': reading was interrupted"]
    (tmp_path / "shut").unlink()
    assert source.read(["x"])[0]["x"].tolist() == [1]
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "source own"], 5)
    source.close()
    assert "it is closed" in line(SourceError, source.read, ["x"])
