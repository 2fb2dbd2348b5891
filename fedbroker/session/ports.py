"""What a session needs of the transport, and what it asks of each silo in a client stage.

Imports transport's answers, wire and the base.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fedbroker.deadline import Deadline
from fedbroker.session.roster import Member
from fedbroker.transport.coordinator.requests import Dead
from fedbroker.wire.codec import Buffer
from fedbroker.wire.messages import Digest, Done, Failed, Need, Op, WorkItem

__all__ = ["Check", "LateJoiner", "PendingRequest", "Read", "Results", "SessionTransport", "StageWork", "Take"]

Take: TypeAlias = Callable[[str, Sequence[Buffer], Callable[[], None]], None]
"""Takes a silo's outputs: its name, serialized executor values, what to call once they need not be held any more."""


Check: TypeAlias = Callable[[Sequence[Buffer], int], None]
"""Takes a silo's outputs and its number of clients; raises a ``WireError`` for what no honest silo answers with."""

Read: TypeAlias = Callable[[str, Sequence[Buffer]], Awaitable[None]]
"""Takes a silo's name and its outputs, which were checked; raises a ``WireError`` or a ``ComputationFailed`` where they
cannot be read."""


class Results(Protocol):
    """Where blobs from silos arrive."""

    def __contains__(self, digest: object) -> bool:
        """Whether a blob is here, whole."""
        ...

    async def get(self, digest: Digest, deadline: Deadline, patience: float) -> Buffer:
        """The blob, once it is whole."""
        ...

    def pinned(self, digests: Iterable[Digest]) -> AbstractContextManager[None]:
        """Within the block these are wanted."""
        ...

    def spent(self, digest: Digest) -> None:
        """A blob that was large is not needed any more, unless somebody else waits for the same."""
        ...


class PendingRequest(Protocol):
    """A work item that is on its way."""

    async def answer(self) -> Done | Failed | Need | Dead:
        """The silo's next answer, or the broker's word that nobody took the item."""
        ...


class SessionTransport(Protocol):
    """What a session needs of the transport.

    :class:`fedbroker.transport.coordinator.transport.CoordinatorTransport` has it.
    """

    @property
    def key(self) -> str:
        """The coordinator's own name in routing keys."""
        ...

    @property
    def results(self) -> Results:
        """Where the silos' blobs arrive."""
        ...

    async def send_blob(
        self, digest: Digest, data: Buffer, *, silo: str | None, deadline: Deadline, session: str = ""
    ) -> None:
        """Send a blob to one silo, or, with None, once to the whole cohort; for the silos of that session."""
        ...

    def asking(
        self, item: WorkItem, inline: Mapping[Digest, Buffer], deadline: Deadline, *, unread: Deadline | None = None
    ) -> AbstractAsyncContextManager[PendingRequest]:
        """Publish a work item; within the block the answers to it are heard."""
        ...

    async def fetch(self, silo: str, session: str, stage: int, incarnation: str) -> None:
        """Tell a silo to send the results that it has announced."""
        ...

    async def end_session(self, silo: str, session: str, incarnation: str) -> None:
        """Tell that incarnation of a silo to forget a session."""
        ...


@dataclass(frozen=True, slots=True)
class LateJoiner:
    """What a late joiner is asked in a straggler's place.

    Attributes:
        program: its own.
        clients: how many clients it holds.
    """

    program: tuple[Op, ...]
    clients: int


@dataclass(frozen=True, slots=True)
class StageWork:
    """What a client stage asks of each silo.

    Attributes:
        level: the stage's number.
        last: no client stage follows.
        programs: for each silo.
        blobs: the content of every digest that the programs name.
        take: is given each participant's outputs, one after another, in the order in which they are to be merged. What
            was given before a stage fails is of no use.
        enlist: what to ask of a late joiner in place of the straggler that is named; returns None where it cannot take
            that place. None where nobody can, since silos keep values from an earlier stage.
        check: looks at an answer before it counts.
        outputs: how many outputs an answer has; None for any number.
        read: reads, after that, what an answer's bytes do not tell, such as a dataset; None where that is nothing.
    """

    level: int
    last: bool
    programs: Mapping[str, tuple[Op, ...]]
    blobs: Mapping[Digest, Buffer]
    take: Take
    enlist: Callable[[Member, str], LateJoiner | None] | None = None
    check: Check = lambda _outputs, _clients: None
    outputs: int | None = None
    read: Read | None = None
