"""Interfaces of a session: the transport that it needs, and the work of a client stage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError
from fedbroker.session.masking import StageMasking
from fedbroker.session.merge_scheduler import MergeScheduler
from fedbroker.session.roster import Member
from fedbroker.transport.coordinator.requests import Dead, MaskHandler
from fedbroker.wire.codec import Buffer
from fedbroker.wire.messages import Digest, Done, Failed, MaskNotice, Need, Op, WorkItem

__all__ = ["Accept", "Check", "LateJoiner", "PendingRequest", "Read", "Results", "SessionTransport", "StageWork"]

Accept: TypeAlias = Callable[[str, Sequence[Buffer]], Sequence[Buffer]]
"""Function that accepts the outputs of a participant, given its name: it keeps what the silo returns, and returns the
partials, which are merged."""

Check: TypeAlias = Callable[[Sequence[Buffer], int], None]
"""Function that checks a silo's outputs, given its number of clients. Raises a ``WireError`` for outputs that no honest
silo sends."""

Read: TypeAlias = Callable[[str, Sequence[Buffer]], Awaitable[None]]
"""Function that reads sequences in a silo's checked outputs, given its name. Raises a ``WireError`` or a
``ComputationFailed`` if they cannot be read."""


class Results(Protocol):
    """The store in which blobs from silos arrive."""

    def __contains__(self, digest: object) -> bool:
        """Return whether a blob has arrived completely."""
        ...

    async def get(self, digest: Digest, deadline: Deadline, patience: float) -> Buffer:
        """Wait until a blob has arrived completely, and return it."""
        ...

    def pinned(self, digests: Iterable[Digest]) -> AbstractContextManager[None]:
        """Keep these blobs, once they have arrived, within the block."""
        ...

    def spent(self, digest: Digest) -> None:
        """Release a large blob that is not needed any more, unless another request waits for the same blob."""
        ...


class PendingRequest(Protocol):
    """A work item that was sent."""

    async def next_response(self) -> Done | Failed | Need | Dead:
        """Wait for the silo's next reply, or for the broker to return the item unprocessed."""
        ...


class SessionTransport(Protocol):
    """The transport that a session needs.

    Implemented by :class:`fedbroker.transport.coordinator.transport.CoordinatorTransport`.
    """

    @property
    def coordinator_id(self) -> str:
        """The coordinator id, used in routing keys."""
        ...

    @property
    def results(self) -> Results:
        """The store in which the silos' blobs arrive."""
        ...

    async def trouble(self) -> FedbrokerError | None:
        """Return why the broker accepts no messages at the moment; None if it accepts them."""
        ...

    async def send_blob(
        self, digest: Digest, data: Buffer, *, silo: str | None, deadline: Deadline, session_id: str = ""
    ) -> None:
        """Send a blob to one silo or, with None, once to the whole cohort, for the silos of that session."""
        ...

    def start_request(
        self, item: WorkItem, inline: Mapping[Digest, Buffer], deadline: Deadline, *, unread: Deadline | None = None
    ) -> AbstractAsyncContextManager[PendingRequest]:
        """Publish a work item; its replies are received within the block."""
        ...

    async def fetch(self, silo: str, session_id: str, stage: int, incarnation: str) -> None:
        """Tell a silo to upload the results that it has announced."""
        ...

    async def end_session(self, silo: str, session_id: str, incarnation: str) -> None:
        """Tell an incarnation of a silo to forget a session."""
        ...

    def mask_replies(self, session_id: str, stage: int, handler: MaskHandler) -> AbstractContextManager[None]:
        """Pass the silos' messages of a stage's masked sum to a handler within the block."""
        ...

    async def send_notice(self, silo: str, notice: MaskNotice, attachments: Sequence[Buffer]) -> None:
        """Send a silo a message of a masked sum; best effort within a bounded time."""
        ...


@dataclass(frozen=True, slots=True)
class LateJoiner:
    """The work of a late joiner that replaces a straggler.

    Attributes:
        ops: the operations that it is asked for.
        clients: number of its clients.
    """

    ops: tuple[Op, ...]
    clients: int


@dataclass(frozen=True, slots=True)
class StageWork:
    """The work of a client stage.

    Attributes:
        stage: the stage's number.
        last: True if no client stage follows.
        ops: operations for each silo.
        blobs: content of every digest that the operations name.
        merges: gets each participant's partials. If the stage fails, those that it got are useless.
        accept: called with the outputs of each participant, once, in the order in which they arrive.
        enlist: returns the work of a late joiner in place of the named straggler, or None if it cannot replace it. None
            if no late joiner can, because silos keep values from an earlier stage.
        check: checks a reply's outputs before they count.
        outputs: number of outputs of a reply, without the masked values; None for any number.
        read: reads, after the check, sequences in the outputs; None if the stage returns none.
        computation: the computation's name, for the silos' audit logs.
        masking: the masked sums of the stage; None if nothing is masked. A reply then has one more output, the last:
            the masked values, which neither ``accept`` nor ``check`` gets.
    """

    stage: int
    last: bool
    ops: Mapping[str, tuple[Op, ...]]
    blobs: Mapping[Digest, Buffer]
    merges: MergeScheduler = field(default_factory=MergeScheduler)
    accept: Accept = lambda _silo, outputs: outputs
    enlist: Callable[[Member, str], LateJoiner | None] | None = None
    check: Check = lambda _outputs, _clients: None
    outputs: int | None = None
    read: Read | None = None
    computation: str = ""
    masking: StageMasking | None = None
