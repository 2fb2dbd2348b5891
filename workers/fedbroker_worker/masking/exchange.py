"""An exchange: a silo's part in a sum from which silos may drop out, from its offer until its shares have left.

The work item's reply carries the masked values. All other steps are notices from the coordinator and messages to it,
which go on after the reply. The coordinator repeats a notice until it is answered, so the same notice gets the same
answer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from fedbroker.deadline import Deadline
from fedbroker.errors import FedbrokerError, MaskingError
from fedbroker.log import get_logger
from fedbroker.masking.members import CHANGED
from fedbroker.masking.steps import MAX_REASON, Refusal, Sharing, Signatures, SurvivorNames, decode_step, encode_step
from fedbroker.wire.messages import MaskReply
from fedbroker_worker.masking.recording import refused_step, released_shares
from fedbroker_worker.policy.audit import why_full
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedbroker.masking.dropout import DropoutSum
    from fedbroker.masking.offers import Offer
    from fedbroker.masking.pairwise import Masked
    from fedbroker.transport import Signed
    from fedbroker.wire.messages import MaskNotice, WorkItem
    from fedbroker_worker.masking.requests import CheckedRequest
    from fedbroker_worker.policy.audit import AuditLog

__all__ = ["Exchange", "Key", "MaskCounters", "Sender"]

_log = get_logger(__name__)

MAX_NOTICES: Final = 8
"""The most notices of one exchange that wait for their turn; a healthy coordinator has one at a time."""

MAX_REFUSED: Final = 16
"""The most different refused notices of one exchange that the audit log records, so that none can fill the disk."""

SEND_SECONDS: Final = 60.0
"""Seconds until a message to the coordinator is given up; the coordinator repeats its notice much sooner."""

Key: TypeAlias = tuple[str, str, int]
"""The fingerprint of the signer, the session and the stage."""


@dataclass(slots=True)
class MaskCounters:
    """Counters of a silo's masked sums: written on the event loop, read from any thread.

    Attributes:
        begun: work items whose request was accepted.
        masked: work items whose masked outputs have left.
        failed: work items that failed after their request was accepted.
        revealed: sums for which this silo has revealed its shares.
        refused: notices that this silo refused.
    """

    begun: int = 0
    masked: int = 0
    failed: int = 0
    revealed: int = 0
    refused: int = 0


class Sender(Protocol):
    """Sends a silo's step to the coordinator of a work item; see ``SiloTransport.mask_reply``."""

    async def __call__(
        self, item: WorkItem, reply: MaskReply, content: bytes, deadline: Deadline, signed: Signed, /
    ) -> None:
        """Send one step."""
        ...


class Exchange:
    """One sum from which silos may drop out.

    Args:
        item: the work item.
        signed: its signer; only the signer's notices count.
        checked: its request.
        dropout_sum: the protocol's state.
        incarnation: the id of this process.
        send: sends a step.
        audit: the log of shares before they leave, and of refused steps; None for no log.
        on_revealed: called when this silo has revealed its shares.
        counters: counts that, and refusals.

    Attributes:
        checked: its request.
        is_masked: True once this silo has added its masks to its values.
        is_revealed: True once this silo has answered the last notice.
    """

    def __init__(
        self,
        item: WorkItem,
        signed: Signed,
        checked: CheckedRequest,
        dropout_sum: DropoutSum,
        incarnation: str,
        send: Sender,
        audit: AuditLog | None,
        on_revealed: Callable[[], None],
        counters: MaskCounters,
    ) -> None:
        self.checked: Final = checked
        self._item, self._signed, self._incarnation, self._send, self._audit = item, signed, incarnation, send, audit
        self._sum, self._on_revealed, self._counters = dropout_sum, on_revealed, counters
        self._sharing: asyncio.Future[Sharing] = asyncio.get_running_loop().create_future()
        self._shared: bytes | None = None  # the digest of the accepted notice
        self._refused: set[tuple[str, bytes]] = set()  # steps and digests
        self._is_recorded = False
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_masked = False
        self.is_revealed = False

    @property
    def key(self) -> Key:
        """The key of its notices."""
        return self._signed.by, self._item.session_id, self._item.stage

    @property
    def is_shared(self) -> bool:
        """True once the coordinator has said which silos share this stage."""
        return self._shared is not None

    def send_offer(self) -> None:
        """Send this silo's offer; the computation goes on at the same time."""
        self._spawn(self._step("offer", encode_step(self._sum.offer)))

    async def offers(self) -> Mapping[str, Offer]:
        """Wait for the offers of all silos that share this stage.

        Raises:
            MaskingError: the coordinator's notice cannot be read.
        """
        return await asyncio.shield(self._sharing)

    def add_masks(self, values: Masked, offers: Mapping[str, Offer]) -> None:
        """Add this silo's masks to its values, in place. Blocks: call it in a thread.

        Raises:
            MaskingError: see :meth:`fedbroker.masking.dropout.DropoutSum.add_masks`.
        """
        self._sum.add_masks(values, offers)
        self.is_masked = True

    def on_notice(self, notice: MaskNotice, content: bytes) -> None:
        """Handle a notice of the signer, after the ones before it."""
        if len(self._tasks) >= MAX_NOTICES:
            _log.warning("mask_notice_ignored", session=notice.session_id, stage=notice.stage, reason="too many")
            return
        self._spawn(self._handle(notice.step, content))

    def close(self) -> None:
        """Forget its secrets."""
        for task in self._tasks:
            task.cancel()
        self._fail(MaskingError("the masked sum was given up", hint="run the computation again"))

    def _fail(self, error: MaskingError) -> None:
        """Let the work item fail, if it still waits for the others' offers."""
        if not self._sharing.done():
            self._sharing.set_exception(error)
            self._sharing.exception()  # if no work item waits, asyncio would log that nothing retrieved it

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine, name=f"mask {self._item.session_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, step: Literal["sharing", "survivors", "unmask"], content: bytes) -> None:
        async with self._lock:
            try:
                match step:
                    case "sharing":
                        self._on_sharing(content)
                    case "survivors":
                        signature = self._sum.sign(decode_step(content, SurvivorNames))
                        await self._step("signature", encode_step(signature))
                    case "unmask":
                        await self._on_unmask(decode_step(content, Signatures))
            except MaskingError as error:
                await self._refuse(step, content, error)
            except OSError as error:  # the same notice is answered once the log can be written again
                _log.error("audit_write_failed", reason=why_full(error) or str(error))
                await self._step("refused", encode_step(Refusal(step, _UNWRITABLE, _SEE_LOG)))

    def _on_sharing(self, content: bytes) -> None:
        digest = _digest(content)
        if self._shared not in (None, digest):
            raise MaskingError("the coordinator names other silos that share this stage than before", hint=CHANGED)
        if self._shared is None:
            self._shared = digest
            try:
                offers = decode_step(content, Sharing)
            except MaskingError as error:
                self._fail(error)
                raise
            if not self._sharing.done():
                self._sharing.set_result(offers)

    async def _on_unmask(self, signatures: Signatures) -> None:
        revealed = await in_thread(partial(self._sum.reveal, signatures), "reveal shares")
        content = encode_step(revealed)
        if self._audit is not None and not self._is_recorded:
            await self._record(released_shares(self._item, self._signed, revealed, len(content)))
            self._is_recorded = True
        await self._step("shares", content)
        self._counters.revealed += not self.is_revealed
        self.is_revealed = True
        self._on_revealed()

    async def _refuse(
        self, step: Literal["sharing", "survivors", "unmask"], content: bytes, error: MaskingError
    ) -> None:
        """Log why a notice is refused, and tell the coordinator, which would otherwise wait until its time-out."""
        self._counters.refused += 1
        await self._log_refusal(step, content, error)
        # The text is about the notice and the policy, never about data: see `failure_of`.
        refusal = Refusal(step, error.what[:MAX_REASON], error.hint[:MAX_REASON])
        await self._step("refused", encode_step(refusal))

    async def _log_refusal(self, step: str, content: bytes, error: MaskingError) -> None:
        item = self._item
        _log.warning("mask_notice_refused", session=item.session_id, stage=item.stage, step=step, reason=error.what)
        refused = (step, _digest(content))
        if self._audit is None or refused in self._refused or len(self._refused) >= MAX_REFUSED:
            return
        self._refused.add(refused)
        try:
            await self._record(refused_step(self._item, self._signed, step, error.what))
        except OSError as failed:
            _log.error("audit_write_failed", reason=why_full(failed) or str(failed))

    async def _record(self, line: Mapping[str, object]) -> None:
        """Write a line of the audit log; it is on the disk when this returns.

        Raises:
            OSError: it cannot be written; nothing may leave.
        """
        assert self._audit is not None
        await in_thread(partial(self._audit.append, line), "audit")

    async def _step(self, step: Literal["offer", "signature", "shares", "refused"], content: bytes) -> None:
        item = self._item
        reply = MaskReply(item.session_id, item.stage, item.silo, self._incarnation, step)
        try:
            await self._send(item, reply, content, Deadline.after(SEND_SECONDS), self._signed)
        except FedbrokerError as error:
            _log.warning("mask_step_failed", session=item.session_id, stage=item.stage, step=step, reason=str(error))


_UNWRITABLE: Final = "this silo cannot write its audit log"
_SEE_LOG: Final = "see the silo's log"


def _digest(content: bytes) -> bytes:
    """Return what is remembered of a notice, which may take megabytes."""
    return hashlib.sha256(content).digest()
