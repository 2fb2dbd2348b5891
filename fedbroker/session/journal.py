"""What a coordinator writes down of its sessions, so that it can be killed and go on where it was.

A directory holds the coordinator's own name, which is that of its callback queue too, and a file for each session that
has not ended: records of msgpack, one after another, the last of which may be cut short. Nothing is lost with the
process; a power cut may take the last records, and with them some work that is then done again. Imports wire and the
base.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import msgspec

from fedbroker.errors import ConfigError
from fedbroker.log import get_logger
from fedbroker.session.roster import Member
from fedbroker.wire.codec import Buffer
from fedbroker.wire.messages import Source
from fedbroker.wire.names import is_name

__all__ = ["Journal", "SessionJournal"]

_log = get_logger(__name__)

KEPT: Final = 86_400.0
"""Seconds after which a session that nobody asks for any more is forgotten; the silos have forgotten it by then."""

SUFFIX: Final = ".session"


class SessionJournal:
    """The records of one session.

    Attributes:
        session: the session's id.
        members: the membership that it started with.
        clients: how many clients each member holds.
    """

    def __init__(self, path: Path, session: str, members: Sequence[Member], clients: Mapping[str, int]) -> None:
        self.session = session
        self.members = tuple(members)
        self.clients = dict(clients)
        self._path = path
        self._over = False
        self._answers: dict[tuple[int, str], Sequence[Buffer]] = {}
        self._closed: dict[int, list[str]] = {}
        self._sent: dict[int, Mapping[str, Buffer]] = {}

    def answer(self, level: int, silo: str) -> Sequence[Buffer] | None:
        """What a silo had answered to a stage before we were killed."""
        return self._answers.get((level, silo))

    def participants(self, level: int) -> Sequence[str] | None:
        """Whose answers counted, for a stage that had closed."""
        return self._closed.get(level)

    def sent(self, level: int) -> Mapping[str, Buffer] | None:
        """The server's values that had gone down in a stage: random ones would differ if they were made again."""
        return self._sent.get(level)

    async def record_sent(self, level: int, values: Mapping[str, Buffer]) -> None:
        """The server's values that are about to go down in a stage."""
        self._sent[level] = dict(values)
        await self._append(["sent", level, self._sent[level]])

    async def record_answer(self, level: int, silo: str, outputs: Sequence[Buffer]) -> None:
        """A silo's outputs have come."""
        await self._append(["answer", level, silo, [bytes(output) for output in outputs]])

    async def record_closed(self, level: int, participants: Sequence[str]) -> None:
        """A stage has closed."""
        await self._append(["closed", level, list(participants)])

    def forget(self) -> None:
        """The session has ended: there is nothing to go on with."""
        self._over = True
        self._path.unlink(missing_ok=True)

    def start(self, fingerprint: str) -> None:
        """Write the first record."""
        members = [[one.name, one.incarnation, msgspec.to_builtins(one.sources)] for one in self.members]
        self._write(["session", self.session, fingerprint, members, self.clients])

    def replay(self, record: Sequence[Any]) -> None:
        """Take a record in that was read."""
        match record:
            case ["sent", level, values]:
                self._sent[level] = values
            case ["answer", level, silo, outputs]:
                self._answers[level, silo] = outputs
            case ["closed", level, participants]:
                self._closed[level] = participants

    async def _append(self, record: Sequence[object]) -> None:
        await asyncio.to_thread(self._write, record)

    def _write(self, record: Sequence[object]) -> None:
        if not self._over:  # a record that is on its way when the session ends must not bring the file back
            with self._path.open("ab", buffering=0) as file:
                file.write(msgpack.packb(record))


class Journal:
    """A directory of sessions that have not ended. One coordinator uses it at a time.

    Args:
        directory: made if it is not there; readable by nobody else, since it holds partial aggregates.

    Attributes:
        key: the coordinator's own name in routing keys, the same after each start.

    Raises:
        ConfigError: the directory cannot be used, or another coordinator uses it.
    """

    key: str

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self._directory / "lock").open("ab")
        except OSError as error:
            raise ConfigError(f"the journal {str(directory)!r} cannot be used: {error.strerror}") from None
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
        """A session of that very computation and argument that had not ended; it is handed out once."""
        found = self._unfinished.get(fingerprint)
        return found.pop() if found else None

    def begin(
        self, fingerprint: str, session: str, members: Sequence[Member], clients: Mapping[str, int]
    ) -> SessionJournal:
        """The records of a new session."""
        one = SessionJournal(self._directory / f"{session}{SUFFIX}", session, members, clients)
        one.start(fingerprint)
        return one

    def close(self) -> None:
        """Let another coordinator have the directory."""
        self._lock.close()

    def _own_key(self) -> str:
        path = self._directory / "key"
        with contextlib.suppress(OSError):
            key = path.read_text().strip()
            if is_name(key):
                return key
        key = secrets.token_hex(6)
        path.write_text(key + "\n")
        return key

    def _load(self, path: Path) -> None:
        """Read one session's records, as far as they are whole; forget it if it is too old or makes no sense."""
        try:
            if time.time() - path.stat().st_mtime > KEPT:
                raise ValueError("too old")
            with path.open("rb") as file:
                records = iter(msgpack.Unpacker(file, strict_map_key=False, max_buffer_size=0))
                _, session, fingerprint, members, clients = next(records)
                one = SessionJournal(path, session, [_member(*fields) for fields in members], clients)
                for record in records:
                    one.replay(record)
        except (ValueError, TypeError, StopIteration, OSError, msgpack.UnpackException) as error:
            _log.warning("journal entry forgotten", path=path.name, reason=str(error))
            path.unlink(missing_ok=True)
            return
        self._unfinished.setdefault(fingerprint, []).append(one)


def _member(name: str, incarnation: str, sources: object) -> Member:
    return Member(name, incarnation, msgspec.convert(sources, dict[str, Source]))
