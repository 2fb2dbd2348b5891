"""The record of signed work that this silo has done, so that a restarted silo does none of it twice.

Each message is one line of text: the fingerprint of its signer, its nonce, the time when it was written and the time
until which a copy of it would be accepted. Expired lines are dropped, so the file stays small. One line for each signer
keeps the latest time of its expired messages, because a clock that was ahead may go back. If the file is lost, or its
last lines in a power cut, copies of that work are done once more. The file holds no data.
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
"""Size in bytes at which the file is rewritten without expired lines.

More than twice the bytes of one signer: a line takes about 90, and 16,384 are kept for each signer.
"""

NO_NONCE: Final = "-"
"""The nonce of a line that keeps only a time: fields are separated by spaces, so that none may be empty."""


def accepted_file(settings: Settings) -> AcceptedFile | None:
    """Return a silo's record, in the folder of its audit log or else its settings; None for a silo without keys."""
    if settings.keys is None:
        return None
    return AcceptedFile(settings.state_directory / f"{settings.silo.cohort}.{settings.silo.name}.accepted")


class AcceptedFile:
    """The record's file. Several processes may write to it. Its methods block: call them in a thread.

    Args:
        path: the file; created with mode 0600 if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._compacted_at = COMPACTED_AT

    def check(self) -> None:
        """Check that the file can be written.

        Raises:
            SettingsError: it cannot be written.
        """
        try:
            os.close(self._locked())
        except OSError as error:
            raise self._not_written(error) from None

    def load(self) -> list[Accepted]:
        """Return the entries that have not expired, and drop the others from the file.

        Raises:
            SettingsError: the file cannot be read or written.
        """
        try:
            file = self._locked()
            try:
                return self._compacted(file)
            finally:
                os.close(file)
        except OSError as error:  # the file itself may be writable, and its directory not
            raise self._not_written(error) from None

    def _not_written(self, error: OSError) -> SettingsError:
        return SettingsError(
            f"{self.path}, the record of signed work that was done, cannot be written: {error.strerror}",
            hint="let the silo's user write there, or name an 'audit_file' in [policy] where it may: the record is"
            " kept in the same directory",
        )

    def append(self, entry: Accepted) -> None:
        """Add a message. It is in the file when this returns, but not yet synced to disk.

        Raises:
            OSError: the file cannot be written.
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
        """Replace the file by one without expired entries; return the others."""
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
        """Open and lock the file at the path; open it again if another process replaced it before we got the lock."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)  # closing the file releases the lock
                if os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(file)
                raise
            os.close(file)


def _write(file: int, content: bytes, size: int) -> None:
    """Write all of the content, or nothing."""
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError:
        with suppress(OSError):  # the first error says more
            os.ftruncate(file, size)
        raise


def _line(entry: Accepted) -> bytes:
    return f"{entry.by} {entry.nonce or NO_NONCE} {entry.issued!r} {entry.until!r}\n".encode()


def _entry(line: str) -> Accepted | None:
    """Parse a line; return None for a line that a power cut has torn."""
    try:
        by, nonce, issued, until = line.split(" ")
        return Accepted(by, "" if nonce == NO_NONCE else nonce, float(issued), float(until))
    except ValueError:
        return None
