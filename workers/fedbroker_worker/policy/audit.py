"""The audit log: lines of JSON, each with the hash of the line before it, so that a gap or an edit shows.

Work that reads data has two lines: the first is written before data are read, the second when the work is over. The
second quotes the first one's hash (see ``recording``). The log cannot show that its last lines were cut off, or that a
person with write access rewrote the whole file: note the last line's hash elsewhere from time to time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from fedbroker.narrowing import is_dict, is_list
from fedbroker_worker.errors import AuditDamaged, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["BEGUN", "INTERRUPTED", "NONCES", "Audit", "AuditLog", "now", "read_audit", "why_full"]

WINDOW: Final = 1 << 16
"""Bytes that are read from a file's end at first, to find its last line; doubled until it is found.

Most lines are shorter, so that one read suffices.
"""

SEARCHED: Final = 4 << 20
"""Bytes at a file's end that are searched for finished work, which is not done again.

The record of signed work loses only its last lines in a power cut; this reaches back a few thousand lines.
"""

LONGEST_TORN: Final = 4096
"""Bytes of a torn line that are kept: enough to recognise the work item, too few to fill the log."""

PREVIOUS: Final = "previous"
"""The key of the hash of the line before."""
BEGUN: Final = "begun"
"""The outcome of a first line, and the key under which a last line quotes the first one's hash."""
INTERRUPTED: Final = "interrupted"
"""The outcome of work that the silo's exit cancelled: the broker delivers it to the next process."""
NONCES: Final = "nonces"
"""The key of the nonces of the work item's messages, by which a copy is recognised."""

_FULL: Final = {
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "the disk quota of the silo's user is used up",
    errno.EFBIG: "it has reached the size that files may have",
}


def why_full(error: OSError) -> str:
    """Return why the disk has no room for another line; empty for any other error."""
    return _FULL.get(error.errno or 0, "")


def now() -> str:
    """Return the current time in the log's format: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class AuditLog:
    """A file to which lines are appended. Each line is on the disk when :meth:`append` returns.

    The file is opened for each line, so that it may be moved away at any time: the next file begins with the hash of
    the last line of the previous file. Several processes may write to it. Its methods block: call them in a thread.

    Args:
        path: the file; created with mode 0600 if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = ""

    def check(self) -> None:
        """Check that the file can be written.

        Raises:
            SettingsError: it cannot be written.
        """
        try:
            os.close(self._open())
        except OSError as error:
            raise SettingsError(
                f"the audit log {self.path} cannot be written: {error.strerror}",
                hint="correct 'audit_file' in [policy], or let the silo's user write there",
            ) from None

    def nonces(self) -> list[tuple[str, str]]:
        """Return signer and nonce of the messages whose work is over, according to the last few thousand lines.

        Interrupted work is not over: the broker gives it to the next process.

        Raises:
            SettingsError: the file cannot be read.
        """
        return [
            (str(line.get("signed_by", "")), nonce)
            for line in self.recent()
            if line.get("outcome") not in (BEGUN, INTERRUPTED)
            for nonce in _list(line.get(NONCES))
            if isinstance(nonce, str) and _NONCE.fullmatch(nonce)
        ]

    def recent(self) -> list[Mapping[str, Any]]:
        """Return the last few thousand lines, in order.

        Raises:
            SettingsError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - SEARCHED))
                lines = [_fields(line) for line in file]
        except OSError as error:
            raise SettingsError(
                f"the audit log {self.path} cannot be read: {error.strerror}", hint="let the silo's user read it"
            ) from None
        return [line for line in lines if line is not None]

    def append(self, fields: Mapping[str, object], on_written: Callable[[str], None] = lambda _: None) -> str:
        """Write one line; it is on the disk when this returns.

        If the disk has no room for the whole line, none of it stays in the file.

        Args:
            fields: the line's fields.
            on_written: called with the line's hash when other processes can read it, before it is on the disk.

        Returns:
            The line's hash.

        Raises:
            OSError: the line cannot be written; see :func:`why_full`.
        """
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # closing the file releases the lock
            self._repair(file)
            start, line = self._append(file, fields)
            fcntl.flock(file, fcntl.LOCK_UN)  # lines of other writers join the same sync
            digest = _hash(line)
            on_written(digest)
            try:
                os.fsync(file)
            except OSError:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file).st_size == start + len(line) + 1:
                    os.ftruncate(file, start)
                raise
            return digest
        finally:
            os.close(file)

    def _repair(self, file: int) -> None:
        """Replace a line that a power cut or a kill has torn by a line that reports it."""
        size = os.fstat(file).st_size
        if not size or os.pread(file, 1, size - 1) == b"\n":
            return
        torn = _last_line(file, size)
        os.ftruncate(file, size - len(torn))
        text = torn[:LONGEST_TORN].decode("utf-8", "backslashreplace")
        try:
            self._append(file, {"time": now(), "outcome": "torn", "bytes": len(torn), "text": text})
        except OSError:
            _write(file, torn, size - len(torn))
            raise

    def _append(self, file: int, fields: Mapping[str, object]) -> tuple[int, bytes]:
        """Write one line; return its offset and the line."""
        size = os.fstat(file).st_size
        previous = _hash(_last_line(file, size)) if size else self._last
        line = json.dumps({**fields, PREVIOUS: previous}, separators=(",", ":")).encode()
        _write(file, line + b"\n", size)
        self._last = _hash(line)
        return size, line

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


@dataclass(frozen=True, slots=True)
class Audit:
    """An audit log that was read.

    Attributes:
        lines: the whole lines, in order.
        unfinished: the first lines of work that has no last line.
        last: the hash of the last line, to compare with a hash noted elsewhere; empty for an empty log.
        problem: the first damage that was found; None for an intact log.
    """

    lines: Sequence[Mapping[str, Any]]
    unfinished: Sequence[Mapping[str, Any]]
    last: str
    problem: AuditDamaged | None


def read_audit(raw: Iterable[bytes], after: str = "") -> Audit:
    """Read a log, and verify that each line follows the previous one.

    Args:
        raw: its lines.
        after: the hash of the last line of the previous file, if that was moved away.
    """
    lines: list[Mapping[str, Any]] = []
    begun: dict[str, Mapping[str, Any]] = {}
    problem: AuditDamaged | None = None
    last = after
    for number, raw_line in enumerate(raw, 1):
        line = raw_line.removesuffix(b"\n")
        previous, last = last, _hash(line)
        fields = _fields(raw_line)
        if fields is None:
            problem = problem or _damaged(number, raw_line)
            continue
        if fields[PREVIOUS] != previous:
            problem = problem or _misplaced(number, fields[PREVIOUS])
        lines.append(fields)
        if fields.get("outcome") == BEGUN:
            begun[last] = fields
        elif isinstance(first := fields.get(BEGUN), str):
            begun.pop(first, None)
    return Audit(lines, list(begun.values()), last, problem)


_NONCE: Final = re.compile("[0-9a-f]{32}")


def _damaged(number: int, line: bytes) -> AuditDamaged:
    """Return the error for a line that was not written to its end (only the last one can be), or was changed."""
    if line.endswith(b"\n") or not line.startswith(b"{"):
        return AuditDamaged(number, "is damaged", hint="compare it with a copy from elsewhere")
    hint = (
        "the silo or its machine stopped while it was written, or the end of the file was cut off: nothing leaves"
        " before its line is complete, and the silo's next line repairs the log"
    )
    return AuditDamaged(number, "is cut short", hint=hint)


def _misplaced(number: int, previous: str) -> AuditDamaged:
    if number == 1:
        hint = f"if the file before it was moved away, verify that, and this one with --after {previous}"
        return AuditDamaged(1, "does not begin the log", hint=hint)
    hint = "lines before it were edited, removed or moved: compare them with a copy from elsewhere"
    return AuditDamaged(number, "does not follow the one before it", hint=hint)


def _list(value: object) -> list[object]:
    return value if is_list(value) else []


def _fields(line: bytes) -> Mapping[str, Any] | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not is_dict(fields) or not isinstance(fields.get(PREVIOUS), str) or not line.endswith(b"\n"):
        return None
    return fields


def _write(file: int, content: bytes, size: int) -> None:
    """Write all of the content at the end of a file of that size, or nothing."""
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError:
        with suppress(OSError):  # the first error says more
            os.ftruncate(file, size)
        raise


def _last_line(file: int, size: int) -> bytes:
    """Return the last line, without the newline if it ends in one."""
    window = WINDOW
    while True:
        start = max(0, size - window)
        _, newline, line = os.pread(file, size - start, start).removesuffix(b"\n").rpartition(b"\n")
        if newline or not start:
            return line
        window *= 2


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
