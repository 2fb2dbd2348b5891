"""The source ``sheets``: gspread's real client and a server of ours that speaks Google's Sheets protocol."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fedbroker_worker.errors import ColumnError, SettingsError, SourceError
from fedbroker_worker.sources import DataSource, open_source

from examples.sheets.server import Answer, SheetsServer
from fedbroker.wire.messages import Column, Source
from tests.support.google_sheets import SPREADSHEET_KEY, share_spreadsheet
from tests.support.wait import wait_until

BUSY = Answer.error(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Read requests'", Retry_After="0")
DOWN = Answer.error(503, "UNAVAILABLE", "The service is currently unavailable.", Retry_After="0")


@pytest.fixture(scope="module")
def google():
    with SheetsServer(key_size=1024) as server:
        yield server


@pytest.fixture
def server(google):
    """Start a server in its initial state."""
    yield google
    google.release.set()
    for changed in (google.instead, google.token_instead, google.requests, google.books):
        changed.clear()


@pytest.fixture
def stays(server, tmp_path):
    """Return ``stays(rows=…, **options)``: a source over its own spreadsheet."""

    def make(rows=None, **options):
        return open_source("stays", "sheets", share_spreadsheet(server, tmp_path, rows, **options), tmp_path)

    return make


def line(error, function, *arguments):
    """Return the line of an error."""
    with pytest.raises(error) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    assert SPREADSHEET_KEY not in str(caught.value)  # its holder may be able to read the spreadsheet
    return str(caught.value)


def values(source, *columns):
    (rows,) = source.read(columns)
    return {name: rows[name].tolist() for name in columns}


def test_columns_have_the_types_of_their_cells(stays):
    source = stays(types={"admitted": "datetime", "days": "int32"})
    assert isinstance(source, DataSource)
    columns = (
        Column("ward", "str"),
        Column("days", "int32"),
        Column("age", "float64"),
        Column("urgent", "bool"),
        Column("admitted", "int64"),
    )
    assert source.describe() == Source(columns, rows=3)
    assert source.count() == 3
    (rows,) = source.read([column.name for column in columns])
    assert {name: array.dtype.name for name, array in rows.items()} == {
        column.name: column.dtype.replace("str", "object") for column in columns
    }
    assert rows["ward"].tolist() == ["A", "B", "A"]
    assert rows["days"].tolist() == [3, 10, 1]
    assert rows["urgent"].tolist() == [True, False, True]
    assert (rows["admitted"] / 86_400e6).tolist() == [15706.0, 15708.5, 15707.0]


@pytest.mark.parametrize(
    ("word", "cells", "expected"),
    [
        ("date", [41275, "2013-01-02"], [15706, 15707]),
        ("datetime", [41275.000011574, 0.25], [1_356_998_401_000_000, -2_209_140_000_000_000]),
        ("str", [12, True], ["12", "true"]),
        ("str", [12.5, "x"], ["12.5", "x"]),
        ("float32", [1, 2.5], [1.0, 2.5]),
        ("uint8", [0, 255], [0, 255]),
    ],
)
def test_configured_types_are_used(stays, word, cells, expected):
    source = stays([["x"], *([cell] for cell in cells)], types={"x": word})
    assert source.describe().columns[0].name == "x"
    assert values(source, "x")["x"] == expected


def test_worksheet_range_and_header_row_are_selected(stays, server):
    source = stays(
        [["a note"], ["", "x", "", "y"], ["", 1, "ignored", 4], ["", 2, "", 5], ["", 3, "", 6]],
        worksheet="Stays",
        range="B1:D4",
        header=2,
    )
    assert source.describe() == Source((Column("x", "float64"), Column("y", "float64")), rows=2)
    assert values(source, "x", "y") == {"x": [1, 2], "y": [4, 5]}
    assert server.requests[-1] == f"GET /v4/spreadsheets/{SPREADSHEET_KEY}/values/%27Stays%27%21B1%3AD4"


def test_a_worksheets_name_is_quoted(stays, server):
    source = stays(worksheet='it\'s "other"')
    server.books[SPREADSHEET_KEY].sheets['it\'s "other"'] = [["x"], [7]]
    assert values(source, "x") == {"x": [7]}


def test_columns_without_names_have_their_letters(stays):
    source = stays([[1, 2], [3, 4]], header=0, range="A1:B2")
    assert values(source, "B", "A") == {"B": [2, 4], "A": [1, 3]}


def test_columns_are_selected(stays):
    source = stays(columns=["days", "age"])
    assert [column.name for column in source.describe().columns] == ["days", "age"]
    assert "column 'ward' does not exist; available: days, age" in line(ColumnError, source.read, ["ward"])


def test_url_is_accepted_as_key(stays):
    url = f"https://docs.google.com/spreadsheets/d/{SPREADSHEET_KEY}/edit#gid=0"
    assert stays(spreadsheet=url).count() == 3


def test_worksheet_of_a_url_is_read(stays, server):
    def url(gid):
        return f"https://docs.google.com/spreadsheets/d/{SPREADSHEET_KEY}/edit?gid={gid}#gid={gid}"

    source = stays(spreadsheet=url(1))
    server.books[SPREADSHEET_KEY].sheets['it\'s "other"'] = [["x"], [7]]
    assert values(source, "x") == {"x": [7]}
    assert "the worksheet does not exist; correct 'worksheet'" in line(SourceError, stays(spreadsheet=url(2)).describe)
    assert stays(spreadsheet=url(1), worksheet="Stays").count() == 3


def test_cells_without_value(stays):
    rows = [["x", "name"], [1, "a"], ["", "b"], [3, ""], [4, "d"]]
    source = stays(rows)
    assert source.describe().rows == 4
    said = line(ColumnError, source.read, ["x"])
    assert "column 'x' has no value in cell A3; fill it in, or set nulls = \"drop\"" in said
    dropping = stays(rows, nulls="drop")
    assert dropping.describe().rows == 2
    assert values(dropping, "x") == {"x": [1, 4]}  # the same rows for any choice of columns
    filling = stays(rows, nulls="nan")
    (read,) = filling.read(["x"])
    np.testing.assert_array_equal(read["x"], [1, np.nan, 3, 4])
    assert "column 'name' has no value in cell B4" in line(ColumnError, filling.read, ["name"])


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([["x"], [1], ["n/a"], [2]], {}, "column 'x' holds cells of different kinds: see A3; correct it, or set"),
        ([["x"], [1], ["#DIV/0!"]], {}, "column 'x' has a formula without value in cell A3: #DIV/0!; correct the"),
        (
            [["x"], [1], ["secret"]],
            {"types": {"x": "int64"}},
            "column 'x' is int64, but holds text in cell A3; correct",
        ),
        ([["x"], [1.5]], {"types": {"x": "int8"}}, "column 'x' is int8, but holds float64 in cell A2; correct it, or"),
        ([["x"], [300]], {"types": {"x": "int8"}}, "column 'x' holds 300, which int8 cannot"),
        ([["x"], [-1]], {"types": {"x": "uint8"}}, "column 'x' holds a number that uint8 cannot hold"),
        (
            [["x"], [41275.5]],
            {"types": {"x": "date"}},
            "is date, but holds datetime in cell A2; correct it, or set",
        ),
        ([["x"], [1e12]], {"types": {"x": "date"}}, "column 'x' is date, but holds float64 in cell A2"),
        ([["x"], [True]], {"types": {"x": "float64"}}, "column 'x' is float64, but holds bool in cell A2"),
        (
            [["x", "y"], [1], [2]],
            {},
            "column 'y' has no value from which to infer its type; set its type, such as types.y",
        ),
        ([["x", "y", "x"], [1, 2, 3]], {}, "column 'x' occurs twice in the header, as A and C; rename one of them"),
        ([["", ""], [1, 2]], {}, "row 1 of the sheet names no columns; correct 'header' or 'range'"),
        ([["x"]], {"header": 3}, "row 3 of the sheet names no columns"),
    ],
)
def test_mismatched_cells_are_a_one_line_error(stays, rows, options, said):
    source = stays(rows, **options)

    def read():
        source.describe()
        source.read(["x"])

    told = line(SourceError, read)
    assert said in told
    assert "secret" not in told  # the coordinator may receive this line


def test_empty_sheet_has_the_configured_columns(stays):
    source = stays([["x", "name"]], types={"x": "float32", "name": "str"})
    assert source.describe() == Source((Column("x", "float32"), Column("name", "str")), rows=0)
    (read,) = source.read(["x", "name"])
    assert [(array.shape, array.dtype.name) for array in read.values()] == [((0,), "float32"), ((0,), "object")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"spreadsheet": "https://example.com/x"},
            "'spreadsheet' in [data.stays] is no spreadsheet; it is its URL, or",
        ),
        ({"spreadsheet": ""}, "'spreadsheet' in [data.stays] is no spreadsheet"),
        ({"sheet": "Stays"}, "unknown key 'sheet' in [data.stays]; did you mean 'worksheet'?"),
        ({"header": -1}, "'header' in [data.stays]: expected int >= 0; it is the number of the range's row"),
        ({"nulls": "zero"}, '\'nulls\' in [data.stays]: invalid enum value \'zero\'; it is "error" or "drop" or "nan"'),
        ({"types": {"x": "float31"}}, "'types.x' in [data.stays]: 'float31' is no type; did you mean 'float32'?"),
        ({"types": {"x": "complex64"}}, "'types.x' in [data.stays]: 'complex64' is no type"),
        ({"ttl": -1}, "'ttl' in [data.stays]: expected float >= 0.0; it is a number of seconds"),
        ({"endpoint": "sheets.example"}, "'endpoint' in [data.stays]: expected str matching regex"),
        ({"columns": "days"}, "'columns' in [data.stays]"),
    ],
)
def test_wrong_options_are_one_line(stays, options, said):
    assert said in line(SettingsError, lambda: stays(**options))


def test_numbers_from_the_environment_are_text(stays):
    assert stays(ttl="0", retry_seconds="1.5", header="1").count() == 3


@pytest.mark.parametrize("missing", ["spreadsheet", "service_account"])
def test_missing_options_are_named(server, tmp_path, missing):
    options = share_spreadsheet(server, tmp_path)
    del options[missing]
    said = line(SettingsError, open_source, "stays", "sheets", options, tmp_path)
    assert f"'{missing}' in [data.stays] is missing; add it: " in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"types": {"dayz": "int32"}},
            "'types' in [data.stays]: the source has no column 'dayz'; did you mean 'days'?",
        ),
        ({"columns": ["age", "name"]}, "'columns' in [data.stays]: the source has no column 'name'"),
        ({"clients": "wards"}, "'clients' in [data.stays]: the source has no column 'wards'; did you mean 'ward'?"),
        ({"clients": "ward", "range": "A1:A5"}, "'clients' in [data.stays] takes 'ward', the only column"),
    ],
)
def test_missing_columns_are_a_one_line_error(stays, options, said):
    assert said in line(SettingsError, stays(**options).describe)


def test_clients_are_those_with_rows_of_the_same_key(stays, server):
    source = stays(clients="ward", ttl=0)
    described = source.describe()
    assert (described.clients, described.rows) == (2, 3)
    assert "ward" not in [column.name for column in described.columns]
    assert [rows["days"].tolist() for rows in source.read(["days"])] == [[3, 1], [10]]
    cells = server.books[SPREADSHEET_KEY].sheets["Stays"]
    del cells[2]
    assert [rows["days"].tolist() for rows in source.read(["days"])] == [[3, 1], []]
    cells.append(["Z", 7, 30, True, 41276])
    said = line(SourceError, source.read, ["days"])
    assert "1 of 3 rows are of no client that it announced; start the silo again" in said
    assert source.describe().clients == 2
    assert [rows["days"].tolist() for rows in source.read(["days"])] == [[3, 1], [7]]


def test_clients_are_in_the_order_of_their_keys(stays):
    rows = [["k", "x"], [10, 1], [9, 2], [10, 3], [-1.5, 4]]
    assert [one["x"].tolist() for one in stays(rows, clients="k").read(["x"])] == [[4], [2], [1, 3]]
    both = stays(rows, clients="k", columns=["k", "x"])
    assert [one["k"].tolist() for one in both.read(["k"])] == [[-1.5], [9], [10, 10]]


def test_row_without_a_key_belongs_to_no_client(stays):
    rows = [["k", "x"], ["a", 1], ["", 2]]
    said = line(ColumnError, stays(rows, clients="k").describe)
    assert "column 'k' has cells without value, which are no client's key; fill them in, or set nulls" in said
    assert stays(rows, clients="k", nulls="drop").describe() == Source((Column("x", "float64"),), rows=1)


def test_recent_read_is_cached(stays, server):
    source = stays(ttl=3600)
    source.describe()
    asked = len(server.requests)
    server.books[SPREADSHEET_KEY].sheets["Stays"].append(["C", 5, 1, True, 41275])
    assert len(values(source, "days")["days"]) == source.count() == 3
    assert len(server.requests) == asked


def test_old_read_is_refreshed(stays, server):
    source = stays(ttl=0.2)
    source.describe()
    asked = len(server.requests)
    server.books[SPREADSHEET_KEY].sheets["Stays"].append(["C", 5, 1, True, 41275])
    wait_until(lambda: len(values(source, "days")["days"]) == 4, 5)
    assert len(server.requests) > asked
    assert server.requests.count("POST /token") == 1  # the token is still valid


def test_new_column_in_the_sheet_drops_no_row(stays, server):
    source = stays([["x"], [1], [2]], nulls="drop", ttl=0)
    assert source.describe().rows == 2
    server.books[SPREADSHEET_KEY].sheets["Stays"][:2] = [["x", "note"], [1, "seen"]]
    assert values(source, "x") == {"x": [1, 2]}
    assert source.count() == 2


def test_column_keeps_its_announced_type(stays, server):
    source = stays(ttl=0)
    source.describe()
    server.books[SPREADSHEET_KEY].sheets["Stays"][2][1] = "ten"
    assert "column 'days' is float64, but holds text in cell B3" in line(ColumnError, source.read, ["days"])
    server.books[SPREADSHEET_KEY].sheets["Stays"][0][1] = "nights"
    assert "column 'days' is not in the sheet any more; name it there as before" in line(
        ColumnError, source.read, ["days"]
    )


def test_unshared_spreadsheet_is_an_error(stays, server):
    source = stays()
    server.books[SPREADSHEET_KEY].readers.clear()
    said = line(SourceError, source.describe)
    assert said == (
        "[FB4203] source 'stays': the spreadsheet is not shared with silo@example.iam.gserviceaccount.com; "
        "share it with that address, to view"
    )


def test_disabled_api_is_an_error(stays, server):
    source = stays()
    server.instead.append(
        Answer.error(403, "PERMISSION_DENIED", "Google Sheets API has not been used", reason="SERVICE_DISABLED")
    )
    assert "the Google Sheets API is not enabled in the service account's project; enable it" in line(
        SourceError, source.describe
    )


def test_unknown_spreadsheet_is_an_error(stays, server):
    source = stays()
    server.books.clear()
    assert "the spreadsheet does not exist; correct 'spreadsheet' in [data.stays]: its URL, or what is" in line(
        SourceError, source.describe
    )


def test_unknown_worksheet_or_range_is_an_error(stays):
    said = line(SourceError, stays(worksheet="Flights").describe)
    assert "the spreadsheet has no worksheet 'Flights'; correct 'worksheet' in [data.stays]" in said
    said = line(SourceError, stays(range="first:last").describe)
    assert "Google refuses the range 'first:last': Unable to parse range: 'Stays'!first:last; correct 'range'" in said


@pytest.mark.parametrize("answer", [BUSY, DOWN], ids=["quota", "down"])
def test_request_to_a_busy_server_is_retried(stays, server, answer):
    source = stays(retry_seconds=10)
    server.instead += [answer, answer]
    assert source.describe().rows == 3
    assert len(server.requests) == 1 + 3 + 2


def test_busy_server_without_retry_after_is_retried_after_a_pause(stays, server):
    source = stays(retry_seconds=10)
    server.instead.append(Answer.error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"))
    assert source.describe().rows == 3
    assert len(server.requests) == 1 + 3 + 1


def test_retries_to_a_busy_server_are_limited(stays, server):
    source = stays(retry_seconds=10)
    server.instead += [BUSY] * 20
    said = line(SourceError, source.describe)
    assert "Google's quota of requests is used up; raise 'ttl', or the project's quota of read requests" in said
    assert len(server.requests) == 1 + 8
    server.instead.clear()
    server.requests.clear()
    server.instead += [Answer.error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", Retry_After="11")] * 2
    assert "Google's quota of requests is used up" in line(SourceError, source.describe)
    assert [one[:3] for one in server.requests] == ["POS", "GET"]  # a pause of that length exceeds the limit


def test_unavailable_server_is_an_error(stays, server):
    source = stays()
    server.instead.append(DOWN)
    assert "Google Sheets answered 503: The service is currently unavailable.; try again later" in line(
        SourceError, source.describe
    )


def test_unknown_service_account_is_an_error(stays, server):
    source = stays(ttl=0)
    server.remove_account("silo@example.iam.gserviceaccount.com")
    said = line(SourceError, source.describe)
    assert (
        "Google gives silo@example.iam.gserviceaccount.com no token: invalid_grant: Invalid grant: account not" in said
    )
    assert said.endswith("or make a new key for it")


def test_new_key_is_read_from_the_file(stays, server, tmp_path):
    source = stays(ttl=0)
    source.describe()
    server.remove_account("silo@example.iam.gserviceaccount.com")
    line(SourceError, source.describe)
    server.books[SPREADSHEET_KEY].readers.add(server.save_account("other", tmp_path / "account.json"))
    assert source.describe().rows == 3


def test_removed_account_is_an_error(stays, server):
    source = stays(ttl=0)
    source.describe()
    server.remove_account("silo@example.iam.gserviceaccount.com")
    assert "Google gives silo@example.iam.gserviceaccount.com no token" in line(SourceError, source.describe)


def test_key_of_another_account_is_an_error(stays, tmp_path):
    source = stays()
    account = json.loads((tmp_path / "account.json").read_text())
    other = rsa.generate_private_key(public_exponent=65537, key_size=1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "account.json").write_text(json.dumps(account | {"private_key": other.decode()}))
    assert "no token: invalid_grant: Invalid JWT Signature" in line(SourceError, source.describe)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "'service_account' in [data.stays]: file "),
        ("", "account.json is empty"),
        ("secret", "'service_account' in [data.stays] is not JSON; download a key of the type JSON"),
        ("[1]", "'service_account' in [data.stays] is not the key of a service account"),
        ('{"type": "authorized_user"}', "'service_account' in [data.stays] is not the key of a service account"),
        (
            '{"type": "service_account"}',
            "'service_account' in [data.stays] is damaged: it lacks client_email, token_uri",
        ),
        (
            '{"type": "service_account", "client_email": "a@b", "token_uri": "http://c", "private_key": "secret"}',
            "'service_account' in [data.stays] is damaged",
        ),
    ],
)
def test_invalid_service_account_is_an_error(stays, tmp_path, text, said):
    source = stays()
    path = tmp_path / "account.json"
    path.unlink() if text is None else path.write_text(text)
    told = line(SettingsError, source.describe)
    assert said in told
    assert "secret" not in told


def test_service_account_can_be_a_systemd_credential(stays, server, tmp_path, monkeypatch):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert stays().count() == 3  # a missing credential is a path
    source = stays(service_account="sheets")
    assert f"file {tmp_path / 'sheets'} does not exist, nor a credential sheets in {credentials}; correct" in line(
        SettingsError, source.describe
    )
    (tmp_path / "account.json").rename(credentials / "sheets")
    assert source.count() == 3


def test_unreachable_server_is_an_error(stays, server, tmp_path):
    source = stays(endpoint="http://127.0.0.1:1")
    assert "http://127.0.0.1:1 cannot be reached (ConnectionError); check firewalls and proxies" in line(
        SourceError, source.describe
    )
    account = json.loads((tmp_path / "account.json").read_text())
    (tmp_path / "account.json").write_text(json.dumps(account | {"token_uri": "http://127.0.0.1:1/token"}))
    again = open_source("stays", "sheets", {"spreadsheet": SPREADSHEET_KEY, "service_account": "account.json",
                                            "endpoint": server.url, "retry_seconds": 0}, tmp_path)  # fmt: skip
    assert "the address that gives tokens cannot be reached (TransportError)" in line(SourceError, again.describe)


def test_read_waiting_for_google_can_be_interrupted(stays, server):
    source = stays(ttl=0)
    source.describe()
    server.release.clear()
    errors = _meanwhile(
        lambda: source.read(["days"]), lambda: wait_until(lambda: len(server.requests) > 4), source.interrupt
    )
    assert errors == ["[FB4203] source 'stays': reading was interrupted"]
    server.release.set()
    assert values(source, "days") == {"days": [3, 10, 1]}


def test_read_between_two_attempts_can_be_interrupted(stays, server):
    source = stays(ttl=0, retry_seconds=3600)
    source.describe()
    server.instead.append(Answer.error(429, "RESOURCE_EXHAUSTED", "Quota exceeded", Retry_After="3000"))
    errors = _meanwhile(lambda: source.read(["days"]), lambda: wait_until(lambda: not server.instead), source.interrupt)
    assert errors == ["[FB4203] source 'stays': reading was interrupted"]
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "source stays"], 5)
    assert values(source, "days") == {"days": [3, 10, 1]}


def test_close_ends_running_reads_and_is_final(stays, server):
    source = stays()
    server.release.clear()
    errors = _meanwhile(source.describe, lambda: wait_until(lambda: len(server.requests) > 1), source.close)
    assert errors == ["[FB4203] source 'stays': it is closed"]
    assert "it is closed" in line(SourceError, source.count)


def _meanwhile(call, ready, end):
    """Run a call in another thread, end it while it runs, and return the lines of its errors."""
    errors = []

    def run():
        try:
            call()
        except SourceError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    ready()
    end()
    thread.join(5)
    assert not thread.is_alive()
    return errors
