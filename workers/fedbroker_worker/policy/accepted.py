"""The record of signed work that this silo has done, so that a silo that was started again does none of it twice.

A line of text for each message: the fingerprint of its signer, its nonce, when it was written and until when a copy of
it would be accepted. What has expired is dropped, so the file stays small; one line for each signer says what was the
latest of it, for a clock that was ahead may go back. Losing the file, or its last lines in a
power cut, means that copies of such work are done once more; it holds no data.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fedbroker.trust.replays import Accepted, AcceptedMessages
from fedbroker_worker.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from fedbroker_worker.config import Settings

__all__ = ["AcceptedFile", "accepted_file"]

COMPACTED_AT: Final = 4 << 20
"""Bytes; a line takes about 90, and 16,384 are kept for each signer."""

NO_NONCE: Final = "-"


def accepted_file(settings: Settings) -> AcceptedFile | None:
    """Return a silo's record, beside its audit log or its settings; None for a silo without keys."""
    if settings.keys is None:
        return None
    directory = (settings.directory / (settings.policy.audit_file or settings.path.name)).parent
    return AcceptedFile(directory / f"{settings.silo.cohort}.{settings.silo.name}.accepted")


class AcceptedFile:
    """The file. Several processes may write to it. Blocks: for a thread.

    Args:
        path: the file; made with mode 0600 if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._compacted_at = COMPACTED_AT

    def check(self) -> None:
        """Check that it can be written.

        Raises:
            SettingsError: it cannot.
        """
        try:
            os.close(self._locked())
        except OSError as error:
            raise SettingsError(
                f"{self.path}, the record of signed work that was done, cannot be written: {error.strerror}",
                hint="let the silo's user write there, or name an 'audit_file' in [policy] where it may: the record is"
                " kept beside it",
            ) from None

    def load(self) -> list[Accepted]:
        """Read what has not expired, and drop the rest.

        Raises:
            OSError: it cannot be read or written.
        """
        file = self._locked()
        try:
            return self._compacted(file)
        finally:
            os.close(file)

    def append(self, entry: Accepted) -> None:
        """Add a message. It is in the file when this returns, though a power cut may still take it.

        Raises:
            OSError: it cannot be written.
        """
        file = self._locked()
        try:
            size = os.fstat(file).st_size
            if size > self._compacted_at:
                self._compacted(file)
                file, old = self._locked(), file
                os.close(old)
                size = os.fstat(file).st_size
                self._compacted_at = max(COMPACTED_AT, 2 * size)
            _write(file, _line(entry), size)
        finally:
            os.close(file)

    def _compacted(self, file: int) -> list[Accepted]:
        """Replace the file by one without what has expired; return what has not."""
        messages, raw = AcceptedMessages(), os.pread(file, os.fstat(file).st_size, 0)
        messages.restore(filter(None, map(_entry, raw.decode("ascii", "replace").splitlines())), time.time())
        entries = list(messages)
        content = b"".join(map(_line, entries))
        if content != raw:
            new = self.path.with_name(f"{self.path.name}.new")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write(descriptor, content, 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            new.replace(self.path)
        return entries

    def _locked(self) -> int:
        """Open and lock the file that has the path now: another process may replace it while we wait for the lock."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # let go of when the file is closed
                if os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(file)
                raise
            os.close(file)


def _write(file: int, content: bytes, size: int) -> None:
    """Write all of it, or nothing."""
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError:
        with suppress(OSError):  # what kept it from being written says more
            os.ftruncate(file, size)
        raise


def _line(entry: Accepted) -> bytes:
    return f"{entry.by} {entry.nonce or NO_NONCE} {entry.issued!r} {entry.until!r}\n".encode()


def _entry(line: str) -> Accepted | None:
    """Return what a line says; None for a line that a power cut has torn."""
    try:
        by, nonce, issued, until = line.split(" ")
        return Accepted(by, "" if nonce == NO_NONCE else nonce, float(issued), float(until))
    except ValueError:
        return None
