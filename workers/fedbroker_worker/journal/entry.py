"""One work item in a silo's journal, from its arrival to its end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedbroker.text import printable
from fedbroker.wire.messages import Call, Data, Done, Failed, Need, Value
from fedbroker_worker.control.views import ReadView, WorkView

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, Op, Source, WorkItem
    from fedbroker_worker.control.views import WorkState
    from fedbroker_worker.journal.journal import WorkJournal

__all__ = ["LEFT_IN_FULL", "MOST_COLUMNS", "MOST_READS", "MOST_TEXT", "Outcomes", "WorkEntry", "columns_of"]

MOST_TEXT: Final = 300
"""The most characters of one name or reason: an administrator reads it in a line or two."""

MOST_READS: Final = 50
MOST_COLUMNS: Final = 100
"""The most sources and columns of one work item that are shown; the coordinator chooses their number."""

LEFT_IN_FULL: Final = "the C++ runtime's whole message left (error_detail); the silo's log has it"
"""In place of a reason that may quote data: the policy lets it leave, which is no reason to show it on a page."""


@dataclass(slots=True)
class Outcomes:
    """Counters of the work items that have ended.

    Attributes:
        answered: with outputs.
        refused: by the policy, or because the silo was paused or leaving.
        failed: for any other reason.
        bytes_out: bytes of all outputs.
    """

    answered: int = 0
    refused: int = 0
    failed: int = 0
    bytes_out: int = 0


@dataclass(slots=True, eq=False)
class WorkEntry:
    """One work item in the journal; :class:`fedbroker_worker.control.views.WorkView` describes its fields."""

    journal: WorkJournal
    id: int
    item: WorkItem
    key: str
    received: float
    began: float
    changed: int = 0
    state: WorkState = "received"
    since: float = 0.0
    seconds: float | None = None
    rule: str = ""
    why: str = ""
    releases: Sequence[str] = ()
    masked: int = 0
    silos: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    blobs: tuple[Digest, ...] = ()

    def enter(self, state: WorkState) -> None:
        """Note that the work item gets into a state."""
        self.state, self.since = state, self.journal.clock()
        self.journal.note(self)

    def uses(self, blobs: Mapping[Digest, Buffer]) -> None:
        """Keep the computations among its blobs: those that it calls."""
        self.bytes_in = sum(map(len, blobs.values()))
        called = {op.function for op in self.item.ops if isinstance(op, Call)}
        functions = dict.fromkeys(op.blob for op in self.item.ops if isinstance(op, Value) and op.ref in called)
        self.blobs = tuple(digest for digest in functions if self.journal.keep(digest, blobs[digest]))

    def leaves(self, releases: Sequence[str], masked: int, silos: int) -> None:
        """Note the values that its reply will hold, and how many of its outputs are masked over how many silos."""
        self.releases, self.masked, self.silos = releases, masked, silos

    def ended(self, reply: Done | Failed | Need, *, declined: bool = False) -> None:
        """Note the reply that leaves.

        Args:
            reply: the reply.
            declined: the silo's own state refused it.
        """
        outcomes = self.journal.outcomes
        match reply:
            case Done():
                self.bytes_out = sum(size for _, size in reply.outputs)
                outcomes.answered += 1
                outcomes.bytes_out += self.bytes_out
                self._end("sending")
            case Failed():
                self.releases, self.rule = (), reply.rule
                may_quote = self.journal.errors_in_full and reply.error_type == "computation"
                self.why = LEFT_IN_FULL if may_quote else printable(reply.cause, MOST_TEXT)
                is_refused = bool(reply.rule) or declined or reply.error_type == "refused"
                outcomes.refused += is_refused
                outcomes.failed += not is_refused
                self._end("refused" if is_refused else "failed")
            case _:
                self.why = "blobs did not arrive: they are asked for again"
                self._end("lacking")

    def sent(self) -> None:
        """Note that the broker has taken the outputs."""
        if self.state == "sending":
            self.enter("answered")

    def cancelled(self, why: str, *, by_coordinator: bool) -> None:
        """Note that the work was cancelled."""
        self.why = why
        self._end("cancelled" if by_coordinator else "interrupted")

    def _end(self, state: WorkState) -> None:
        self.seconds = time.monotonic() - self.began
        self.enter(state)

    @property
    def is_running(self) -> bool:
        """True until it has ended; its outputs may still be on their way."""
        return self.seconds is None or self.state == "sending"

    def view(self) -> WorkView:
        """Return it for the administrator."""
        item = self.item
        return WorkView(
            id=self.id,
            changed=self.changed,
            session=item.session_id,
            stage=item.stage,
            coordinator=item.coordinator_id,
            key=self.key,
            key_name=self.journal.names.get(self.key, ""),
            computation=printable(item.computation, MOST_TEXT),
            received=self.received,
            clients=item.clients,
            reads=_reads(self.item.ops, self.journal.sources()),
            state=self.state,
            since=self.since,
            seconds=self.seconds,
            rule=self.rule,
            why=self.why,
            releases=[printable(text, MOST_TEXT) for text in self.releases],
            masked=self.masked,
            silos=self.silos,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            explained=self.journal.has(self.blobs),
        )


def columns_of(op: Data, sources: Mapping[str, Source]) -> list[tuple[str, str]]:
    """Return name and type of each column that an operation reads; a position is replaced by the column's name."""
    own = [column.name for column in sources[op.name].columns] if op.name in sources else []
    names = {f"#{number}": name for number, name in enumerate(own)}
    return [(names.get(name, name), dtype) for name, dtype in op.columns[:MOST_COLUMNS]]


def _reads(ops: Sequence[Op], sources: Mapping[str, Source]) -> list[ReadView]:
    reads = [op for op in ops if isinstance(op, Data)][:MOST_READS]
    return [
        ReadView(
            printable(op.name, MOST_TEXT),
            [printable(f"{name}: {dtype}", MOST_TEXT) for name, dtype in columns_of(op, sources)],
        )
        for op in reads
    ]
