"""Journal of a coordinator's unfinished sessions, from which it resumes after it was killed.

A directory holds the coordinator_id, which also names its callback queue, and one file for each unfinished session: a
sequence of msgpack records, of which the last may be cut short. A killed process loses nothing. A power cut may lose
the last records; their work is then repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgpack
import msgspec

from fedbroker.errors import ConfigError, JournalError
from fedbroker.log import get_logger
from fedbroker.session.roster import Member
from fedbroker.wire.codec import Buffer
from fedbroker.wire.messages import Source, is_name

__all__ = ["Journal", "SessionJournal"]

_log = get_logger(__name__)

RETENTION_SECONDS: Final = 86_400.0
"""Seconds after which a session that was not resumed is forgotten: a day, by which the silos have forgotten it, too."""

SUFFIX: Final = ".session"

DISK_FULL: Final = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk is full (the user's quota)"}
"""Error numbers that an operator can correct without changing the settings, with what they mean."""
OPEN_FLAGS: Final = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
"""Flags for opening files: O_NOFOLLOW, so that a symbolic link placed there by another user is not followed."""


class SessionJournal:
    """The records of one session.

    Attributes:
        session: the session's id.
        members: the membership at its start.
        clients: number of clients of each member.
    """

    def __init__(
        self,
        path: Path,
        session: str,
        members: Sequence[Member],
        clients: Mapping[str, int],
        on_release: Callable[[Path], None],
    ) -> None:
        self.session = session
        self.members = tuple(members)
        self.clients = dict(clients)
        self._path = path
        self._on_release = on_release
        self._ended = False
        self._failed: JournalError | None = None
        self._writing = threading.Lock()
        self._answers: dict[tuple[int, str], Sequence[Buffer]] = {}
        self._closed: dict[int, list[str]] = {}
        self._sent: dict[int, Mapping[str, Buffer]] = {}
        self._masking: dict[int, bytes] = {}
        self._offers: dict[int, bytes] = {}
        self._totals: dict[int, bytes] = {}
        self._orders: Mapping[str, str] = {}

    def answer(self, stage: int, silo: str) -> Sequence[Buffer] | None:
        """Return a silo's outputs of a stage, recorded before we were killed; None if it had not answered."""
        return self._answers.get((stage, silo))

    def participants(self, stage: int) -> Sequence[str] | None:
        """Return the participants of a stage that had closed; None if it had not."""
        return self._closed.get(stage)

    def sent(self, stage: int) -> Mapping[str, Buffer] | None:
        """Return the server's values sent in a stage: random values would differ if they were computed again."""
        return self._sent.get(stage)

    def masking(self, stage: int) -> bytes | None:
        """Return the masking request that was sent in a stage; None if none was. Silos mask once for each stage."""
        return self._masking.get(stage)

    def offers(self, stage: int) -> bytes | None:
        """Return the offers of the silos that share a masked sum; None if they were not fixed."""
        return self._offers.get(stage)

    def total(self, stage: int) -> bytes | None:
        """Return a masked sum without its masks; None if they were not removed."""
        return self._totals.get(stage)

    @property
    def orders(self) -> Mapping[str, str]:
        """The orders of rows, by the data handle's text: masked sums need the same work from all silos."""
        return self._orders

    async def record_orders(self, orders: Mapping[str, str]) -> None:
        """Record the orders of rows, once."""
        if orders != self._orders:
            self._orders = dict(orders)
            await self._append(["orders", self._orders])

    async def record_masking(self, stage: int, request: bytes) -> None:
        """Record the masking request that is about to be sent in a stage."""
        await self._append(["masking", stage, request])

    async def record_offers(self, stage: int, offers: bytes) -> None:
        """Record the offers of the silos that share a masked sum, before these are told. Offers hold no secrets."""
        await self._append(["offers", stage, offers])

    async def record_total(self, stage: int, total: bytes) -> None:
        """Record a masked sum without its masks: the silos' shares, which removed them, are never recorded."""
        await self._append(["total", stage, total])

    async def record_sent(self, stage: int, values: Mapping[str, Buffer]) -> None:
        """Record the server's values that are about to be sent in a stage."""
        self._sent[stage] = dict(values)
        await self._append(["sent", stage, self._sent[stage]])

    async def record_answer(self, stage: int, silo: str, outputs: Sequence[Buffer]) -> None:
        """Record a silo's outputs."""
        await self._append(["answer", stage, silo, [bytes(output) for output in outputs]])

    async def record_closed(self, stage: int, participants: Sequence[str]) -> None:
        """Record that a stage has closed, once."""
        if stage in self._closed:
            return
        self._closed[stage] = list(participants)
        await self._append(["closed", stage, list(participants)])

    def forget(self) -> None:
        """Delete the records: the session has ended and will not be resumed."""
        with self._writing:
            self._ended = True
            _remove(self._path)

    def release(self) -> None:
        """Give the unfinished session back to the journal, for the next invocation to resume."""
        self._on_release(self._path)

    def start(self, fingerprint: str) -> None:
        """Write the first record."""
        members = [
            [
                member.name,
                member.incarnation,
                msgspec.to_builtins(member.sources),
                member.mask_key,
                member.mask_signature,
                member.capabilities,
            ]
            for member in self.members
        ]
        self._write(["session", self.session, fingerprint, members, self.clients])

    def replay(self, record: Sequence[Any]) -> None:
        """Restore the state from a record that was read."""
        match record:
            case ["sent", stage, values]:
                self._sent[stage] = values
            case ["answer", stage, silo, outputs]:
                self._answers[stage, silo] = outputs
            case ["closed", stage, participants]:
                self._closed[stage] = participants
            case ["masking", stage, request]:
                self._masking[stage] = request
            case ["offers", stage, offers]:
                self._offers[stage] = offers
            case ["total", stage, total]:
                self._totals[stage] = total
            case ["orders", orders]:
                self._orders = orders
            case _:
                pass

    async def _append(self, record: Sequence[object]) -> None:
        await asyncio.to_thread(self._write, record)

    def _write(self, record: Sequence[object]) -> None:
        """Append a record completely or not at all; after a failure nothing more is written.

        Raises:
            JournalError: the disk is full, or the file cannot be written for another reason.
        """
        with self._writing:
            if self._failed is not None:
                raise JournalError(self._failed.directory, "an earlier record could not be written")
            if self._ended:  # a write still pending when the session ends must not create the file again
                return
            try:
                _append_atomically(self._path, msgpack.packb(record))
            except OSError as error:
                self._failed = _journal_error(self._path.parent, error)
                raise self._failed from None


class Journal:
    """A directory of unfinished sessions. One coordinator uses it at a time.

    Args:
        directory: created if it does not exist. It holds partial aggregates, so only its owner may enter it: a wider
            mode is changed to 0700, and a directory that belongs to another user is refused.

    Attributes:
        key: the coordinator_id in routing keys, the same after each start.

    Raises:
        ConfigError: the directory cannot be used, or another coordinator uses it.
        JournalError: the disk is full.
    """

    key: str

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _restrict_to_owner(self._directory)
            self._lock = os.fdopen(os.open(self._directory / "lock", os.O_RDWR | OPEN_FLAGS, 0o600), "rb+")
        except OSError as error:
            if error.errno in DISK_FULL:
                raise _journal_error(self._directory, error) from None
            raise ConfigError(
                f"the journal (journal={str(directory)!r}) cannot be used: {error.strerror}",
                hint="name a directory of your own",
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(
                f"another coordinator uses the journal {str(directory)!r}", hint="give each its own directory"
            ) from None
        self.key = self._own_key()
        self._unfinished: dict[str, list[SessionJournal]] = {}
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            self._load(path)

    def take(self, fingerprint: str) -> SessionJournal | None:
        """Return an unfinished session of the same computation and argument, or None; each is returned once."""
        found = self._unfinished.get(fingerprint)
        return found.pop() if found else None

    def begin(
        self, fingerprint: str, session: str, members: Sequence[Member], clients: Mapping[str, int]
    ) -> SessionJournal:
        """Start the records of a new session."""
        session_journal = SessionJournal(self._directory / f"{session}{SUFFIX}", session, members, clients, self._load)
        try:
            session_journal.start(fingerprint)
        except JournalError:
            session_journal.forget()
            raise
        return session_journal

    def close(self) -> None:
        """Release the directory for another coordinator."""
        self._lock.close()

    def _own_key(self) -> str:
        path = self._directory / "key"
        with contextlib.suppress(OSError, ValueError), _open_own(path) as file:
            key = file.read(256).decode().strip()
            if is_name(key):
                return key
        key = secrets.token_hex(6)
        try:
            path.unlink(missing_ok=True)
            _append_atomically(path, f"{key}\n".encode())
        except OSError as error:
            self._lock.close()
            raise _journal_error(self._directory, error) from None
        return key

    def _load(self, path: Path) -> None:
        """Read one session's complete records; delete the file if it is too old or malformed."""
        try:
            with _open_own(path) as file:
                if time.time() - os.fstat(file.fileno()).st_mtime > RETENTION_SECONDS:
                    raise ValueError("too old")
                records = iter(msgpack.Unpacker(file, strict_map_key=False, max_buffer_size=0))
                _, session, fingerprint, members, clients = next(records)
                session_journal = SessionJournal(
                    path, session, [_member(*fields) for fields in members], clients, self._load
                )
                for record in records:
                    session_journal.replay(record)
        except (ValueError, TypeError, StopIteration, OSError, msgpack.UnpackException) as error:
            _log.warning("journal_entry_discarded", path=path.name, reason=str(error))
            _remove(path)
            return
        self._unfinished.setdefault(fingerprint, []).append(session_journal)


def _remove(path: Path) -> None:
    """Delete a session's file; empty it where its directory refuses, since an empty file is discarded.

    Raises:
        JournalError: neither is possible.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        try:
            os.truncate(path, 0)
        except OSError:
            raise _journal_error(path.parent, error) from None


def _member(
    name: str,
    incarnation: str,
    sources: object,
    mask_key: str = "",
    mask_signature: str = "",
    capabilities: Sequence[str] = (),
) -> Member:
    """Return a member of a record; an earlier version has written no mask key or no capabilities."""
    return Member(
        name,
        incarnation,
        msgspec.convert(sources, dict[str, Source]),
        capabilities=tuple(capabilities),
        mask_key=mask_key,
        mask_signature=mask_signature,
    )


def _journal_error(directory: Path, error: OSError) -> JournalError:
    return JournalError(str(directory), DISK_FULL.get(error.errno or 0, error.strerror or str(error)))


def _restrict_to_owner(directory: Path) -> None:
    """Close a directory to other users, who could read it or add files to it; refuse one of another owner."""
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"the journal (journal={str(directory)!r}) belongs to another user", hint="name a directory of your own"
        )
    if status.st_mode & 0o077:
        directory.chmod(0o700)
        _log.warning("journal_directory_restricted", path=str(directory), mode=oct(stat.S_IMODE(status.st_mode)))


def _open_own(path: Path) -> BinaryIO:
    """Open a file of the journal for reading; refuse a file that another user has put there."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        file.close()
        raise ValueError("it is no file of ours")
    if status.st_mode & 0o077:
        os.fchmod(file.fileno(), 0o600)
    return file


def _append_atomically(path: Path, content: bytes) -> None:
    """Append to a file, created for its owner alone; after a failure its content is as before."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | OPEN_FLAGS, 0o600)
    try:
        size = os.fstat(file).st_size
        try:
            remaining = memoryview(content)
            while remaining:
                remaining = remaining[
                    os.write(file, remaining) :
                ]  # a disk that fills up accepts a part of the content first
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)
