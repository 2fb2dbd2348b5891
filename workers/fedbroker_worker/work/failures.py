"""Turn a failure into a reply: its text is public by its type, the rest stays in the silo's log. Only this module does.

:data:`PublicText` is made only here: from the closed list of :class:`~fedbroker_worker.errors.Problem`,
from text that the silo itself wrote about the coordinator's own work item or the silo's policy, and constants.
An exception of any other kind is an unexpected error, of which only the id leaves.
"""

from __future__ import annotations

import builtins
import re
import secrets
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NewType

from fedbroker.errors import (
    ComputationFailed,
    ConfigError,
    DeadlineExceeded,
    MaskingError,
    RuntimeUnavailable,
    WireError,
)
from fedbroker.graphs import Position, Unreadable, known_ops, position_in
from fedbroker.log import get_logger
from fedbroker.text import seconds_text
from fedbroker.wire.messages import Data, ErrorType, Failed, Value
from fedbroker_worker.errors import ColumnError, PolicyRefused, Problem, SessionLost, SourceError, WorkRefused
from fedbroker_worker.policy.values import parts
from fedbroker_worker.sources.column_types import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Source, WorkItem
    from fedbroker_worker.policy.guard import Guard

__all__ = ["Failure", "OpFailed", "PublicText", "failed_reply", "failure_of", "located"]

PublicText = NewType("PublicText", str)
"""Text that may leave the silo."""

MAX_CAUSE: Final = 4000
"""The most characters of a cause in a reply, because a message of the C++ runtime may have any length."""

_NOTHING: Final = PublicText("")

_USED_UP: Final = PublicText("it failed, and the session has used up its bytes (max_bytes_out)")

_FULL_ERROR_IN_LOG: Final = "the silo's log has the full error; its administrator can set error_detail"

_STATUSES: Final = frozenset(
    {
        *("CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
        *("PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"),
        *("OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    }
)
"""All status codes of gRPC; any other text from the runtime stays in the silo."""

_COUNTED_KINDS: Final = frozenset({"data", "computation"})
"""Kinds of failures whose text counts as output of the session; the text of other kinds says nothing about the data."""

_KILLED: Final = re.compile(r"\bkilled by (SIG[A-Z0-9]+)\b")

_log = get_logger(__name__)


def new_incident() -> str:
    """Return a random id, which reveals nothing about its incident."""
    return secrets.token_hex(4)


def log_reference(incident: str) -> str:
    """Return the clause by which a reply refers to the silo's log."""
    return f"detail in the silo's log under id {incident}"


def log_detail(detail: str, *, traceback: bool = False) -> str:
    """Write the detail of a failure to the silo's log, at a level that every ``log_level`` includes.

    Args:
        detail: the full description of the failure.
        traceback: also log the traceback of the exception that is being handled.

    Returns:
        The id under which it was logged.
    """
    incident, line = new_incident(), " ".join(detail.split())
    if traceback:
        _log.exception("failure_detail", id=incident, detail=line)
    else:
        _log.error("failure_detail", id=incident, detail=line)
    return incident


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure, divided into its public and its private part.

    Attributes:
        kind: as in :class:`fedbroker.wire.messages.Failed`.
        cause: the description of the failure, public.
        hint: how to solve it, public; may be empty.
        rule: the key of ``[policy]`` that refuses the work; empty for other failures.
        detail: private text that only the silo's log may show; empty if ``cause`` and ``hint`` are complete.
        unexpected: True for an exception of an unknown kind; the log has the traceback.
        by_data: True if the failure may depend on data: the fact and the time of it then tell something about them.
    """

    kind: ErrorType
    cause: PublicText
    hint: PublicText = _NOTHING
    rule: str = ""
    detail: str = ""
    unexpected: bool = False
    by_data: bool = True


def failed_reply(
    item: WorkItem,
    silo: str,
    incarnation: str,
    error: Exception,
    announced: Mapping[str, Source] | None = None,
    guard: Guard | None = None,
    by: str = "",
) -> Failed:
    """Return the reply for the exception being handled; log its detail under the id that the reply shows.

    Args:
        item: the work item.
        silo: the silo's name.
        incarnation: the id of its process.
        error: the exception.
        announced: the silo's sources as coordinators know them.
        guard: the silo's policy; None for errors that data cannot have caused.
        by: the fingerprint of the key that signed the item; empty if messages are not signed.
    """
    failure = failure_of(error, item, announced or {}, in_full=guard is not None and guard.errors_in_full)
    hint: str = failure.hint
    if failure.detail:
        incident = log_detail(failure.detail, traceback=failure.unexpected)
        hint = "; ".join(filter(None, (hint, log_reference(incident))))
    cause = " ".join(failure.cause.split())[:MAX_CAUSE]
    if guard is not None and failure.by_data:
        size = len(cause.encode()) + len(hint.encode()) if failure.kind in _COUNTED_KINDS else 0
        try:
            if not guard.count_failure(item, size, by):
                cause, hint = _USED_UP, ""
        except PolicyRefused as refused:
            failure = failure_of(refused, item, {})
            cause, hint = failure.cause, failure.hint
    return Failed(item.session_id, item.stage, silo, incarnation, failure.kind, cause, hint, failure.rule)


def failure_of(error: Exception, item: WorkItem, announced: Mapping[str, Source], *, in_full: bool = False) -> Failure:
    """Divide an exception into its public and its private part; all text of an unknown exception is private.

    Args:
        error: the exception.
        item: the work item.
        announced: the silo's sources as coordinators know them.
        in_full: True if the policy lets the C++ runtime's whole message on a failed computation leave, with the data
            that it quotes.
    """
    match error:
        case TimeoutError() | DeadlineExceeded():
            cause = PublicText(f"it was not done within {seconds_text(item.timeout)}")
            return Failure("timeout", cause, PublicText("raise Timeouts(stage=)"))
        case SourceError():
            return _of_source(error, item, announced)
        case ConfigError():
            return Failure("data", PublicText(f"a source {Problem.MISCONFIGURED.sentence}"), detail=str(error))
        case PolicyRefused():
            return Failure("refused", PublicText(error.what), PublicText(error.hint), error.rule, by_data=error.by_data)
        case WorkRefused():
            return Failure("refused", PublicText(error.what), PublicText(error.hint), by_data=error.by_data)
        case MaskingError():  # says something about the request, never about data
            return Failure("refused", PublicText(error.what), PublicText(error.hint), by_data=False)
        case WireError():
            return Failure("refused", PublicText(error.what), PublicText(error.hint))
        case SessionLost():
            return Failure("lost", PublicText(error.what), PublicText(error.hint), by_data=False)
        case RuntimeUnavailable():
            return Failure("lost", _runtime_death(error), PublicText("run the computation again"), detail=str(error))
        case ComputationFailed() if in_full:
            return Failure("computation", PublicText(f"{error.status}: {error.detail}"), PublicText(error.hint))
        case ComputationFailed():
            hint = "; ".join(filter(None, (error.hint, _FULL_ERROR_IN_LOG)))
            return Failure("computation", _of_computation(error), PublicText(hint), detail=str(error))
        case _:
            detail = f"unexpected {type(error).__name__}: {error}"
            return Failure("refused", _unexpected(error), detail=detail, unexpected=True)


def _unexpected(error: Exception) -> PublicText:
    """Name the class of an exception only if it is one of Python's own: other names may come from a source's code."""
    is_builtin = type(error) is getattr(builtins, type(error).__name__, None)
    return PublicText(f"unexpected {type(error).__name__ if is_builtin else 'error'} in the silo")


def _of_source(error: SourceError, item: WorkItem, announced: Mapping[str, Source]) -> Failure:
    """Name source and columns only if the coordinator has requested them or knows them from an announcement."""
    requested = [op for op in item.ops if isinstance(op, Data)]
    source = "a source"
    if error.source in announced or any(op.name == error.source for op in requested):
        source = f"source {error.source!r}"
    if not isinstance(error, ColumnError):
        return Failure("data", PublicText(f"{source} {_sentence(error)}"), _advice(error, announced), detail=str(error))
    known = {name for op in requested if op.name == error.source for name, _ in op.columns}
    known |= {column.name for column in announced[error.source].columns} if error.source in announced else set()
    named = [(f"column {part.column!r}" if part.column in known else "a column", part) for part in error.parts]
    causes = dict.fromkeys(f"{subject} {_sentence(part)}" for subject, part in named)
    hints = [_advice(part, announced) for part in error.parts]
    cause = PublicText(f"{source}: {'; '.join(causes)}")
    return Failure("data", cause, PublicText("; ".join(dict.fromkeys(filter(None, hints)))), detail=str(error))


def _sentence(error: SourceError) -> str:
    """Return the sentence of the error's problem, with a dtype only if it is one of ours."""
    dtype = error.dtype if error.dtype in DTYPES else "that dtype"
    return error.problem.sentence.format(dtype=dtype, limit=error.limit)


def _advice(error: SourceError, announced: Mapping[str, Source]) -> PublicText:
    names: list[str] = []
    match error.problem:
        case Problem.UNKNOWN_SOURCE:
            names = list(announced)
        case Problem.UNKNOWN_COLUMN if error.source in announced:
            names = [column.name for column in announced[error.source].columns]
        case _:
            return PublicText(error.problem.advice)
    return PublicText(f"available: {', '.join(names)}" if names else "none is available")


def _of_computation(error: ComputationFailed) -> PublicText:
    """Name the status, the op and its position in the coordinator's computation, without the runtime's message."""
    status = error.status if error.status in _STATUSES else "UNKNOWN"
    if not isinstance(error, OpFailed):
        return PublicText(f"{status}: the computation failed")
    at = error.position
    op = at.op if at.op in known_ops() else "an op"
    body = f"graph {at.graph}" if at.function is None else f"function {at.function} of graph {at.graph}"
    return PublicText(
        f"{status}: {op} failed, node {at.node} of {body} of computation {error.part} of value {error.ref}"
    )


def _runtime_death(error: RuntimeUnavailable) -> PublicText:
    """Say that the runtime died, and of which signal, without its last output."""
    if not error.retryable:
        return PublicText("the C++ runtime cannot be started")
    killed = _KILLED.search(error.what)
    named = killed is not None and killed[1] in signal.Signals.__members__
    return PublicText(
        f"the C++ runtime died of {killed[1]}" if killed is not None and named else "the C++ runtime died"
    )


class OpFailed(ComputationFailed):
    """A computation failed at an op of the work item.

    Attributes:
        ref: the work item's reference to the value that holds the computation.
        part: the number of the computation in that value, from 0.
        position: the op's position in the computation.
    """

    def __init__(self, failed: ComputationFailed, ref: int, part: int, position: Position) -> None:
        super().__init__(failed.status, failed.detail, hint=failed.hint)
        self.ref = ref
        self.part = part
        self.position = position


def located(failed: ComputationFailed, item: WorkItem, blobs: Mapping[Digest, Buffer]) -> ComputationFailed:
    """Return the failure with the position of the op that failed, if it is in one of the item's own computations.

    Args:
        failed: carries the runtime's message.
        item: the work item that was run.
        blobs: the content of each digest that the item names.
    """
    for op in item.ops:
        if not isinstance(op, Value):
            continue
        try:
            computations = [content for kind, content in parts(blobs[op.blob]) if kind == "computation"]
            for part, computation in enumerate(computations):
                if (position := position_in(computation, failed.detail)) is not None:
                    return OpFailed(failed, op.ref, part, position)
        except Unreadable:  # the guard reads computations only as far as its rules need, so that one may get here
            continue
    return failed
