"""The audit log: one line for each work item, each with the hash of the line before it, so that a gap or an edit shows.

A silo that was started again reads in it which messages' work is done. What it cannot show is that its last lines were
cut off, or that whoever may write the file wrote all of it anew: note the last line's hash elsewhere from time to time.
Imports wire's messages, transport's types and this distribution's errors.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from fedbroker.wire.messages import Data, Done
from fedbroker_worker.errors import AuditDamaged, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from fedbroker.transport import Signed
    from fedbroker.wire.messages import Failed, WorkItem

__all__ = ["Audit", "AuditLog", "entry", "read_audit"]

WINDOW: Final = 1 << 16
"""Bytes that are read of a file's end at first, to find its last line."""

REMEMBERED: Final = 4 << 20
"""Bytes of a file's end in which work is looked for that is not done again."""

PREVIOUS: Final = "previous"
NONCES: Final = "nonces"


def entry(item: WorkItem, reply: Done | Failed, computations: Sequence[str], signed: Signed) -> dict[str, object]:
    """What is written down of a work item.

    Args:
        item: who asked what.
        reply: what left, or why nothing did.
        computations: SHA-256 of each computation and sequence in it, as far as they were looked into.
        signed: how the item came.
    """
    outputs: Sequence[tuple[str, int]] = ()
    outcome, rule, why = "answered", "", ""
    if isinstance(reply, Done):
        outputs = reply.outputs
    else:
        outcome, rule, why = "refused" if reply.rule else "failed", reply.rule, reply.cause
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "silo": item.silo,
        "coordinator": item.reply_to,
        "signed_by": signed.by,
        NONCES: list(signed.nonces),
        "session": item.session,
        "stage": item.stage,
        "clients": item.clients,
        "sources": [
            {"name": op.name, "columns": [name for name, _ in op.columns]}
            for op in item.program
            if isinstance(op, Data)
        ],
        "computations": list(computations),
        "outcome": outcome,
        "rule": rule,
        "why": why,
        "outputs": [digest for digest, _ in outputs],
        "bytes_out": sum(size for _, size in outputs),
    }


class AuditLog:
    """Appends lines to a file. Each is one write, and on the disk when :meth:`append` returns.

    The file is opened for each line, so that it may be moved away at any time: the next one begins with the hash of the
    last line of the one before. Several processes may write to it. Blocks: for a thread.

    Args:
        path: the file; made with mode 0600 if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = ""

    def check(self) -> None:
        """See that it can be written.

        Raises:
            SettingsError: it cannot.
        """
        try:
            os.close(self._open())
        except OSError as error:
            raise SettingsError(
                f"the audit log {self.path} cannot be written: {error.strerror}",
                hint="correct 'audit_file' in [policy], or let the silo's user write there",
            ) from None

    def nonces(self) -> list[tuple[str, str]]:
        """Signer and nonce of the messages whose work the last few thousand lines tell of.

        Raises:
            OSError: it cannot be read.
        """
        with self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - REMEMBERED))
            lines = [_fields(line) for line in file]
        return [
            (str(line.get("signed_by", "")), one)
            for line in lines
            if line is not None
            for one in line.get(NONCES, ())
            if isinstance(one, str) and _NONCE.fullmatch(one)
        ]

    def append(self, fields: Mapping[str, object]) -> None:
        """Write one line.

        Raises:
            OSError: it cannot be written.
        """
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go of when the file is closed
            size = os.fstat(file).st_size
            previous = _last_hash(file, size) if size else self._last
            line = json.dumps({**fields, PREVIOUS: previous}, separators=(",", ":")).encode()
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            written = (b"\n" if torn else b"") + line + b"\n"
            if os.write(file, written) != len(written):
                raise OSError(f"{self.path} took a part of a line only")
            os.fsync(file)
            self._last = _hash(line)
        finally:
            os.close(file)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


@dataclass(frozen=True, slots=True)
class Audit:
    """An audit log that was read.

    Attributes:
        lines: that are whole, in order.
        last: the hash of the last line, to be compared with one that was noted elsewhere; empty if there is none.
        problem: what was found where it is not what was written; None if nothing was.
    """

    lines: Sequence[Mapping[str, Any]]
    last: str
    problem: AuditDamaged | None


def read_audit(raw: Iterable[bytes], after: str = "") -> Audit:
    """Read a log, and see that each line follows the one before it.

    Args:
        raw: its lines.
        after: the hash of the last line of the file that it goes on from, where that was moved away.
    """
    lines: list[Mapping[str, Any]] = []
    problem: AuditDamaged | None = None
    last = after
    for number, one in enumerate(raw, 1):
        fields = _fields(one)
        if fields is None:
            problem = problem or AuditDamaged(number, "is damaged", hint="compare it with a copy from elsewhere")
        elif fields[PREVIOUS] != last:
            problem = problem or _misplaced(number, fields[PREVIOUS])
        if fields is not None:
            lines.append(fields)
        last = _hash(one.removesuffix(b"\n"))
    return Audit(lines, last, problem)


_NONCE: Final = re.compile("[0-9a-f]{32}")


def _misplaced(number: int, previous: str) -> AuditDamaged:
    if number == 1:
        hint = f"if the file before it was moved away, verify that, and this one with --after {previous}"
        return AuditDamaged(1, "does not begin the log", hint=hint)
    hint = "lines before it were edited, removed or moved: compare them with a copy from elsewhere"
    return AuditDamaged(number, "does not follow the one before it", hint=hint)


def _fields(line: bytes) -> Mapping[str, Any] | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    sound = isinstance(fields, dict) and isinstance(fields.get(PREVIOUS), str) and line.endswith(b"\n")
    return fields if sound else None


def _last_hash(file: int, size: int) -> str:
    window = WINDOW
    while True:
        start = max(0, size - window)
        _, newline, line = os.pread(file, size - start, start).removesuffix(b"\n").rpartition(b"\n")
        if newline or not start:
            return _hash(line)
        window *= 2


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
