"""Replay of a dead-lettered work item at a silo, in a session of its own."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

import msgspec

from fedbroker.cli.common import console, table
from fedbroker.deadletters.bundle import WorkBundle
from fedbroker.deadline import Deadline
from fedbroker.errors import CohortError, PolicyRefusal, SiloError
from fedbroker.text import bytes_text, seconds_text
from fedbroker.transport import CoordinatorTransport, Dead
from fedbroker.trust.keyring import Keys
from fedbroker.wire.messages import Announce, Digest, Done, Failed, Need

__all__ = ["Replayed", "print_replayed", "run_again"]

OPEN: Final = 20.0
PRESENT: Final = 6.0
"""Seconds to wait for the silo's announcement: a little more than the default heartbeat."""
UNREAD: Final = 15.0
"""Seconds within which a present silo must pick up the work item."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A silo's reply to a replayed work item.

    Attributes:
        done: the reply.
        outputs: the blobs that the reply names, in order.
    """

    done: Done
    outputs: tuple[tuple[Digest, memoryview], ...]

    def as_json(self) -> dict[str, object]:
        """Return the reply for programs, with the outputs' sizes in place of their contents."""
        sizes = [{"digest": digest, "size": len(content)} for digest, content in self.outputs]
        return {"silo": self.done.silo, "seconds": self.done.duration, "outputs": sizes}


async def run_again(
    url: str, cohort: str, parcel: WorkBundle, silo: str, seconds: float, *, keys: Keys | None = None
) -> Replayed:
    """Send the work item to a silo in a new session and wait for the outputs.

    The original session is neither continued nor disturbed, and its coordinator is not informed. With ``keys`` the item
    is signed, and sealed if they require it, as a coordinator's own work is.

    Raises:
        CohortError: the item continues a session, whose values are gone; or the silo is not present.
        SiloError: the silo failed, or lacks blobs that are not in the parcel.
        DeadlineExceeded: it did not answer in time.
        BrokerError: the broker cannot be used.
    """
    if parcel.kept:
        kept = ", ".join(f"%{ref}" for ref in parcel.kept)
        raise CohortError(
            f"the work item continues session {parcel.item.session_id} with values of an earlier stage ({kept}), "
            "so it cannot be replayed alone",
            hint="run the computation again",
        )
    heard = asyncio.Event()

    def on_announce(announce: Announce) -> None:
        if announce.silo == silo:
            heard.set()

    end = CoordinatorTransport(url, cohort, keys=keys, on_announce=on_announce, on_leave=lambda _: None)
    await end.open(Deadline.after(OPEN))
    try:
        await _present(cohort, silo, heard)
        return await _asked(end, parcel, silo, Deadline.after(seconds))
    finally:
        await end.close()


def print_replayed(replayed: Replayed) -> None:
    """Print a reply, with its outputs as a table."""
    out = console()
    out.print(f"silo {replayed.done.silo} answered after {seconds_text(replayed.done.duration)}")
    if replayed.outputs:
        outputs = table("output", "digest", "size", right=("size",))
        for at, (digest, content) in enumerate(replayed.outputs):
            outputs.add_row(str(at), digest, bytes_text(len(content)))
        out.print(outputs)


async def _present(cohort: str, silo: str, heard: asyncio.Event) -> None:
    """Wait for the silo's announcement: work for a missing silo would only be dead-lettered again."""
    try:
        async with asyncio.timeout(PRESENT):
            await heard.wait()
    except TimeoutError:
        raise CohortError(f"silo {silo!r} is not in cohort {cohort!r} now", hint="start it first") from None


async def _asked(end: CoordinatorTransport, parcel: WorkBundle, silo: str, deadline: Deadline) -> Replayed:
    riders, apart = _shipped(parcel)
    item = msgspec.structs.replace(
        parcel.item,
        session_id=secrets.token_hex(8),
        stage=0,
        silo=silo,
        coordinator_id=end.coordinator_id,
        incoming={digest: memoryview(parcel.blobs[digest]).nbytes for digest in apart},
        timeout=deadline.left(),
        ends_session=True,
        defer_above=0,  # no coordinator would request held results
    )
    for digest in apart:
        await end.send_blob(digest, parcel.blobs[digest], silo=silo, deadline=deadline, session_id=item.session_id)
    inline = {digest: parcel.blobs[digest] for digest in riders}
    async with end.asking(item, inline, deadline, unread=Deadline.after(UNREAD).earlier(deadline)) as asked:
        answer = await asked.answer()
        outputs = answer.outputs if isinstance(answer, Done) else ()
        contents = tuple([(digest, await end.results.get(digest, deadline)) for digest, _ in outputs])
    match answer:
        case Done():
            return Replayed(answer, contents)
        case Failed() if answer.rule:
            raise PolicyRefusal(silo, answer.rule, answer.cause, hint=answer.hint)
        case Failed():
            raise SiloError(silo, f"{answer.error_type}: {answer.cause}", hint=answer.hint)
        case Need():
            raise SiloError(
                silo,
                f"it lacks what is not in the letter either: {', '.join(answer.digests)}",
                hint="put each into a file of that name, the directory behind --blobs; or run the computation again",
            )
        case Dead():
            raise SiloError(
                silo, f"it did not take the work item ({answer.reason})", hint="see its log; the copy died, too"
            )


def _shipped(parcel: WorkBundle) -> tuple[list[Digest], list[Digest]]:
    """Return the blobs to send inside the item, as in the letter, and the blobs to send before it on the bulk lane."""
    here = [digest for digest in parcel.named if digest in parcel.blobs]
    riders = [digest for digest in here if digest not in parcel.loaded]
    return riders, [digest for digest in here if digest in parcel.loaded]
