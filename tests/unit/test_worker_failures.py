"""Failure messages that leave a silo: a closed list of sentences, without parts of its data."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path

import fedbroker_worker
import msgspec
import pytest
from fedbroker_worker.errors import (
    ColumnError,
    PolicyRefused,
    Problem,
    SessionLost,
    SettingsError,
    SourceError,
    UnknownSource,
    WorkRefused,
)
from fedbroker_worker.policy import guard as guarding
from fedbroker_worker.policy.guard import Guard
from fedbroker_worker.policy.rules import PolicySettings
from fedbroker_worker.sources.column_types import DTYPES
from fedbroker_worker.work.failures import failed_reply, failure_of

from fedbroker.errors import ComputationFailed, ConfigError, DeadlineExceeded, RuntimeUnavailable, WireError
from fedbroker.wire.messages import Column, Data, Source, WorkItem

PACKAGE = Path(fedbroker_worker.__file__).parent
ITEM = WorkItem("s", 0, "ewr", "key", 1, (Data(1, "rows", (("asked", "int8"),)),), {}, 9.0, 9.0, True)
ANNOUNCED = {"rows": Source((Column("x", "int64"),)), "other": Source((Column("y", "int64"),))}
SECRET = "s3cr3t"


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in PACKAGE.rglob("*.py"):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8"))


def calls(*names: str) -> Iterator[tuple[str, ast.Module, ast.Call]]:
    """Return each call of one of these functions in the silo's code, with its file."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in names:
                yield path, tree, node


def told(error: Exception) -> str:
    failure = failure_of(error, ITEM, ANNOUNCED)
    return "; ".join(filter(None, (failure.kind, failure.cause, failure.hint)))


# --- by construction ---


def is_of_the_list(tree: ast.Module, value: ast.expr) -> bool:
    match value:
        case ast.Attribute(ast.Name("Problem"), name):
            return name in Problem.__members__
        case ast.IfExp(_, body, orelse):
            return is_of_the_list(tree, body) and is_of_the_list(tree, orelse)
        case ast.Name(name):  # each value that it gets in this file
            given = [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Assign) and [getattr(one, "id", "") for one in node.targets] == [name]
            ]
            defaults = [
                default
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef)
                for argument, default in zip(node.args.args[::-1], node.args.defaults[::-1], strict=False)
                if argument.arg == name
            ]
            return bool(given + defaults) and all(is_of_the_list(tree, one) for one in given + defaults)
        case _:
            return False


def test_each_error_of_a_source_names_its_problem_from_the_closed_list():
    sites = 0
    for path, tree, call in calls("SourceError", "ColumnError"):
        named = [keyword.value for keyword in call.keywords if keyword.arg == "problem"]
        assert len(named) == 1, f"{path}:{call.lineno} says no problem"
        assert is_of_the_list(tree, named[0]), f"{path}:{call.lineno}: {ast.unparse(named[0])}"
        sites += 1
    assert sites > 60


def test_sentences_contain_only_the_requested_dtype_and_the_limit():
    assert len(Problem) == len(Problem.__members__)  # no two are equal
    for problem in Problem:
        fields = {name for _, name, _, _ in string.Formatter().parse(problem.sentence) if name is not None}
        assert fields <= {"dtype", "limit"}, problem
        assert "{" not in problem.advice


def test_failure_replies_and_public_text_are_made_in_one_place():
    for name, least in (("Failed", 1), ("PublicText", 5)):
        places = [path for path, _, _ in calls(name)]
        assert (set(places), len(places) >= least) == ({"work/failures.py"}, True)


def test_refusals_quote_no_exception():
    """Check refusals of senseless or forbidden work: our own text about the coordinator's own work item."""
    allowed = {("policy/guard.py", "error")}  # Unreadable describes a computation that the coordinator sent
    found = set()
    for path, tree, call in calls("WorkRefused", "PolicyRefused", "SessionLost"):
        caught = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
        used = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
        found |= {(path, name) for name in caught & used}
    assert found <= allowed


# --- by behaviour ---


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (TimeoutError(), True),
        (RuntimeUnavailable("it died", retryable=True), True),
        (ValueError(), True),
        (PolicyRefused("aggregates", "in another shape", by_data=True), True),
        (PolicyRefused("sources", "not that one"), False),
        (WorkRefused("it contradicts itself"), False),
        (SessionLost("it is not here"), False),
    ],
)
def test_failures_that_depend_on_data_are_counted(error, counts):
    guard = Guard(PolicySettings(max_failures=1))
    failed_reply(ITEM, "ewr", "i", error, guard=guard, by="one")
    if not counts:
        guard.check_item(ITEM, "one")
        return
    with pytest.raises(PolicyRefused, match="has failed 1 times"):
        guard.check_item(ITEM, "one")
    guard.check_item(ITEM, "another")
    # Concurrent work gets the same reply as later work, for success and failure.
    again = failed_reply(ITEM, "ewr", "i", ComputationFailed("INTERNAL", "no"), guard=guard, by="one")
    assert (again.error_type, again.rule) == ("refused", "max_failures")
    with pytest.raises(PolicyRefused, match="has failed 1 times"):
        guard.count_outputs(ITEM, [], "one")


def test_failure_counts_of_coordinators_are_separate(monkeypatch):
    monkeypatch.setattr(guarding, "MAX_SESSIONS", 2)
    guard = Guard(PolicySettings(max_failures=1))
    failed_reply(ITEM, "ewr", "i", TimeoutError(), guard=guard, by="one")
    for number in range(5):
        other = msgspec.structs.replace(ITEM, session_id=f"s{number}")
        failed_reply(other, "ewr", "i", TimeoutError(), guard=guard, by="another")
    with pytest.raises(PolicyRefused, match="has failed 1 times"):
        guard.check_item(ITEM, "one")


@pytest.mark.parametrize("problem", Problem)
def test_problem_has_the_names_that_the_coordinator_knows(problem):
    error = SourceError("rows", SECRET, hint=SECRET, problem=problem, dtype="int8", limit=7)
    assert told(error).startswith(f"data; source 'rows' {problem.sentence.format(dtype='int8', limit=7)}")
    for column in ("x", "asked"):
        error = ColumnError("rows", column, SECRET, hint=SECRET, problem=problem, dtype="int8")
        assert f"source 'rows': column {column!r} {problem.sentence.split('{')[0]}" in told(error)
        assert SECRET not in told(error)


def test_other_names_are_omitted():
    hidden = ColumnError("rows", SECRET, "has NULLs", problem=Problem.NOT_KEYS)
    assert told(hidden).startswith("data; source 'rows': a column cannot tell clients apart")
    elsewhere = ColumnError("rows", "y", "has NULLs", problem=Problem.NO_VALUE)  # another source's
    assert told(elsewhere).startswith("data; source 'rows': a column has cells")
    assert told(SourceError(SECRET, "?")) == "data; a source cannot be read"
    assert SECRET not in told(SourceError("rows", "?", problem=Problem.NOT_CONVERTIBLE, dtype=SECRET))


def test_mismatch_error_has_the_announced_columns():
    assert told(SourceError("nope", "?", problem=Problem.UNKNOWN_SOURCE)).endswith("; available: rows, other")
    assert told(ColumnError("rows", "asked", "?", problem=Problem.UNKNOWN_COLUMN)).endswith("available: x")
    assert failure_of(SourceError("nope", "?", problem=Problem.UNKNOWN_SOURCE), ITEM, {}).hint == "none is available"


class Marked(Exception):
    """An exception of a third-party package."""


Marked.__name__ = SECRET


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SettingsError(SECRET, hint=SECRET), "data; a source has wrong settings"),
        (ConfigError(SECRET), "data; a source has wrong settings"),
        (UnknownSource(SECRET, SECRET, [SECRET]), "data; a source has wrong settings"),
        (RuntimeUnavailable(f"the C++ runtime is gone: killed by SIGSEGV, last log lines: {SECRET}", retryable=True),
         "lost; the C++ runtime died of SIGSEGV; run the computation again"),
        (RuntimeUnavailable(f"gone: killed by SIG{SECRET.upper()}", retryable=True),
         "lost; the C++ runtime died; run the computation again"),
        (RuntimeUnavailable(f"there is no /{SECRET}", hint=SECRET),
         "lost; the C++ runtime cannot be started; run the computation again"),
        (ValueError(SECRET), "refused; unexpected ValueError in the silo"),
        (Marked(SECRET), "refused; unexpected error in the silo"),
        (type("ValueError", (Exception,), {})(SECRET), "refused; unexpected error in the silo"),
        (TimeoutError(SECRET), "timeout; it was not done within 9 s; raise Timeouts(stage=)"),
        (DeadlineExceeded(SECRET, hint=SECRET), "timeout; it was not done within 9 s; raise Timeouts(stage=)"),
        (WorkRefused("value 7 is not there", hint="look"), "refused; value 7 is not there; look"),
        (PolicyRefused("sources", "not here", hint="ask"), "refused; not here; ask"),
        (SessionLost("session s is not here", hint="again"), "lost; session s is not here; again"),
        (WireError("a message of 9 bytes", hint="less"), "refused; a message of 9 bytes; less"),
    ],
)  # fmt: skip
def test_each_kind_of_exception_has_its_message(error, expected):
    assert told(error) == expected


def test_detail_is_logged_under_the_id_of_the_reply(caplog):
    error = ColumnError("rows", "x", f"holds {SECRET}", hint="narrow it", problem=Problem.OUT_OF_RANGE, dtype="int8")
    reply = failed_reply(ITEM, "ewr", "1", error, ANNOUNCED)
    assert SECRET not in repr(reply)
    (record,) = caplog.records
    event = record.fedbroker_event
    assert (event["event"], event["id"] in reply.hint, len(event["id"])) == ("failure_detail", True, 8)
    assert event["detail"] == f"[FB4204] source 'rows': column 'x' holds {SECRET}; narrow it"
    other = failed_reply(ITEM, "ewr", "1", error, ANNOUNCED)
    assert other.hint != reply.hint


def test_message_without_detail_has_no_id(caplog):
    reply = failed_reply(ITEM, "ewr", "1", WorkRefused("no", hint="look"))
    assert (reply.hint, caplog.records) == ("look", [])


def test_traceback_of_an_unexpected_exception_is_logged(caplog):
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        reply = failed_reply(ITEM, "ewr", "1", error)
    assert SECRET not in repr(reply)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert SECRET in record.fedbroker_event["detail"]


def test_dtypes_in_messages_are_ours():
    for dtype in DTYPES:
        assert dtype in told(SourceError("rows", "?", problem=Problem.OUT_OF_RANGE, dtype=dtype))


def test_all_columns_that_do_not_fit_are_named():
    errors = [
        ColumnError("rows", "x", SECRET, hint=SECRET, problem=Problem.NO_VALUE),
        ColumnError("rows", "asked", SECRET, hint=SECRET, problem=Problem.NOT_CONVERTIBLE, dtype="int8"),
        ColumnError("rows", SECRET, SECRET, problem=Problem.NO_VALUE),
        ColumnError("rows", f"{SECRET}2", SECRET, problem=Problem.NO_VALUE),  # reads like the one before it
    ]
    assert told(ColumnError.joined(errors)) == (
        "data; source 'rows': column 'x' has cells without a value; column 'asked' does not convert to int8; "
        "a column has cells without a value; leave their rows out, or replace them, in the silo's query; "
        "ask for another dtype, or cast it in the silo's query"
    )
