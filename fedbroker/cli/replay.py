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

__all__ = ["Replayed", "print_replayed", "replay_work"]

OPEN: Final = 20.0
"""Seconds to connect to the broker."""
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


async def replay_work(
    url: str, cohort: str, bundle: WorkBundle, silo: str, seconds: float, *, keys: Keys | None = None
) -> Replayed:
    """Send the work item to a silo in a new session and wait for the outputs.

    The original session is neither continued nor disturbed, and its coordinator is not informed. With ``keys`` the item
    is signed, and sealed if they require it, as a coordinator's own work is.

    Raises:
        CohortError: the item continues a session, whose values are gone, or its outputs are parts of a masked sum; or
            the silo is not present.
        SiloError: the silo failed, or lacks blobs that are not in the bundle.
        DeadlineExceeded: it did not reply in time.
        BrokerError: the broker cannot be used.
    """
    if bundle.earlier_refs:
        kept = ", ".join(f"%{ref}" for ref in bundle.earlier_refs)
        raise CohortError(
            f"the work item continues session {bundle.item.session_id} with values of an earlier stage ({kept}), "
            "so it cannot be replayed alone",
            hint="invoke the computation again",
        )
    if bundle.item.masking:
        raise CohortError(
            f"the work item's outputs are masked for a sum of session {bundle.item.session_id}, so it cannot be "
            "replayed alone",
            hint="invoke the computation again, or let the silo's administrator run it: fedbroker-silo replay",
        )
    announced = asyncio.Event()

    def on_announce(announce: Announce) -> None:
        if announce.silo == silo:
            announced.set()

    transport = CoordinatorTransport(url, cohort, keys=keys, on_announce=on_announce, on_leave=lambda _: None)
    await transport.open(Deadline.after(OPEN))
    try:
        await _wait_for_silo(cohort, silo, announced)
        return await _request(transport, bundle, silo, Deadline.after(seconds))
    finally:
        await transport.close()


def print_replayed(replayed: Replayed) -> None:
    """Print a reply, with its outputs as a table."""
    out = console()
    out.print(f"silo {replayed.done.silo} answered after {seconds_text(replayed.done.duration)}")
    if replayed.outputs:
        outputs = table("output", "digest", "size", right=("size",))
        for at, (digest, content) in enumerate(replayed.outputs):
            outputs.add_row(str(at), digest, bytes_text(len(content)))
        out.print(outputs)


async def _wait_for_silo(cohort: str, silo: str, announced: asyncio.Event) -> None:
    """Wait for the silo's announcement: work for a missing silo would only be dead-lettered again."""
    try:
        async with asyncio.timeout(PRESENT):
            await announced.wait()
    except TimeoutError:
        raise CohortError(f"silo {silo!r} of cohort {cohort!r} is not running", hint="start it first") from None


async def _request(transport: CoordinatorTransport, bundle: WorkBundle, silo: str, deadline: Deadline) -> Replayed:
    riding, separate = _split_blobs(bundle)
    item = msgspec.structs.replace(
        bundle.item,
        session_id=secrets.token_hex(8),
        stage=0,
        silo=silo,
        coordinator_id=transport.coordinator_id,
        incoming={digest: memoryview(bundle.blobs[digest]).nbytes for digest in separate},
        timeout=deadline.left(),
        ends_session=True,
        defer_above=0,  # no coordinator would request held results
    )
    for digest in separate:
        await transport.send_blob(
            digest, bundle.blobs[digest], silo=silo, deadline=deadline, session_id=item.session_id
        )
    inline = {digest: bundle.blobs[digest] for digest in riding}
    async with transport.start_request(
        item, inline, deadline, unread=Deadline.after(UNREAD).earlier(deadline)
    ) as asked:
        reply = await asked.next_response()
        outputs = reply.outputs if isinstance(reply, Done) else ()
        contents = tuple([(digest, await transport.results.get(digest, deadline)) for digest, _ in outputs])
    match reply:
        case Done():
            return Replayed(reply, contents)
        case Failed() if reply.rule:
            raise PolicyRefusal(silo, reply.rule, reply.cause, hint=reply.hint)
        case Failed():
            raise SiloError(silo, f"{reply.error_type}: {reply.cause}", hint=reply.hint)
        case Need():
            raise SiloError(
                silo,
                f"neither the silo nor the letter has these blobs: {', '.join(reply.digests)}",
                hint="put each into a file named by its digest and pass the directory with --blobs, or invoke the "
                "computation again",
            )
        case Dead():
            raise SiloError(
                silo,
                f"it did not pick up the work item ({reply.reason})",
                hint="see its log; the copy was dead-lettered, too",
            )


def _split_blobs(bundle: WorkBundle) -> tuple[list[Digest], list[Digest]]:
    """Return the blobs to send inside the item, as in the letter, and the blobs to send before it on the bulk lane."""
    here = [digest for digest in bundle.digests if digest in bundle.blobs]
    riding = [digest for digest in here if digest not in bundle.loaded]
    return riding, [digest for digest in here if digest in bundle.loaded]
