"""The rules of a silo over its life: what each computation holds is looked up once, what each session sent is counted.

Imports wire's messages, the base and this distribution's modules.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded
from fedbroker.graphs import Unreadable, ops_of_computation, ops_of_graph
from fedbroker_worker.errors import PolicyRefused
from fedbroker_worker.policy import rules
from fedbroker_worker.policy.aggregates import Aggregates, check_labels, check_shapes
from fedbroker_worker.policy.values import holds_client_values, parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, MutableMapping, Sequence

    from fedbroker.graphs.expressions import Value as Label
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, WorkItem
    from fedbroker_worker.policy.settings import PolicySettings
    from fedbroker_worker.policy.values import Part

__all__ = ["Guard"]

MOST_COMPUTATIONS: Final = 4096
MOST_SESSIONS: Final = 65536
"""Of one signer: nobody can have what another one's sessions were told forgotten."""


@dataclass(slots=True)
class _Told:
    """What left in one session."""

    bytes: int = 0
    failures: int = 0


class Guard:
    """Says of each work item whether it may run, and of its outputs whether they may leave.

    Args:
        policy: the silo's.
    """

    def __init__(self, policy: PolicySettings) -> None:
        self._policy = policy
        self._aggregates = Aggregates()
        # By SHA-256, as the audit log names them: whoever audits has a tool for that.
        self._ops: OrderedDict[bytes, frozenset[str]] = OrderedDict()
        # By signer and session; kept when a session ends, since its id may be used again.
        self._sessions: dict[str, OrderedDict[str, _Told]] = {}

    @asynccontextmanager
    async def time_for(self, item: WorkItem) -> AsyncIterator[Deadline]:
        """Within the block an item has its time: what its coordinator gives it, and no more than the policy does.

        Raises:
            PolicyRefused: the policy's is up.
            TimeoutError, DeadlineExceeded: the coordinator's is.
        """
        seconds = min(item.seconds, self._policy.max_seconds)
        try:
            async with asyncio.timeout(seconds):
                yield Deadline.after(seconds)
        except (TimeoutError, DeadlineExceeded):
            if item.seconds > self._policy.max_seconds:
                raise rules.out_of_time(self._policy) from None
            raise

    def check_item(self, item: WorkItem, by: str = "") -> None:
        """Before anything is done for an item, which was signed with the key whose fingerprint is ``by``.

        Raises:
            PolicyRefused: a rule forbids it.
        """
        rules.check_sources(self._policy, item)
        rules.check_clients(self._policy, item)
        sessions = self._sessions.get(by)
        told = (sessions.get(item.session) if sessions is not None else None) or _Told()
        rules.check_failures(self._policy, told.failures)
        rules.check_bytes_left(self._policy, told.bytes)

    def check_blobs(self, blobs: Collection[Buffer], looked_into: list[str]) -> None:
        """Before any of an item's blobs is given to the runtime.

        Args:
            blobs: all of them.
            looked_into: takes the SHA-256 of each computation and each sequence in them.

        Raises:
            PolicyRefused: one of those holds what is refused, or cannot be looked into.
        """
        for blob in blobs:
            try:
                for part in parts(blob):
                    digest = hashlib.sha256(part[1])
                    looked_into.append(digest.hexdigest())
                    rules.check_ops(self._policy, self._ops_of(part, digest.digest()))
            except Unreadable as error:
                raise PolicyRefused(
                    "refuse_ops", f"a computation cannot be looked into: {error}", hint="see that versions agree"
                ) from None

    def check_program(
        self, item: WorkItem, blobs: Mapping[Digest, Buffer], labels: MutableMapping[int, Label]
    ) -> list[Label]:
        """Before an item's program runs.

        Args:
            item: the item.
            blobs: the content of every digest that it names.
            labels: what is known of the session's values; changed in place.

        Returns:
            What is known of each output, for :meth:`check_outputs`; nothing where any aggregate may leave.

        Raises:
            PolicyRefused: the result would hold something that may not leave.
        """
        if self._policy.aggregates == "any":
            return []
        outputs = self._aggregates.follow(item.program, blobs, labels)
        check_labels(self._policy, outputs)
        return outputs

    def check_outputs(
        self, item: WorkItem, outputs: Sequence[Buffer], by: str = "", labels: Sequence[Label] = ()
    ) -> None:
        """Before an item's outputs leave; counts them for its session and signer.

        Args:
            item: the item.
            outputs: its outputs.
            by: the fingerprint of the item's signer.
            labels: what :meth:`check_program` returned.

        Raises:
            PolicyRefused: they may not.
        """
        if self._policy.aggregates == "recognised":
            check_shapes(outputs, labels)
        try:
            if any(map(holds_client_values, outputs)):
                rules.refuse_client_values(self._policy)
        except Unreadable:
            raise PolicyRefused("client_results", "an output cannot be looked into") from None
        told, size = self._told(item, by), sum(map(len, outputs))
        # Others of the session may have failed meanwhile: whether this one did not is then told no more than theirs.
        rules.check_failures(self._policy, told.failures)
        rules.check_bytes_out(self._policy, told.bytes, size)
        told.bytes += size

    @property
    def errors_in_full(self) -> bool:
        """Whether the C++ runtime's words on a failed computation may leave."""
        return self._policy.errors_in_full

    def count_failure(self, item: WorkItem, size: int, by: str = "") -> bool:
        """Count a failure that data decided on, for its session and signer, whose fingerprint is ``by``.

        Args:
            item: what failed.
            size: bytes of what is to be told of it.
            by: see above.

        Returns:
            Whether these may leave; they count among the session's bytes then.

        Raises:
            PolicyRefused: the session had failed too often already. Several of its items may run side by side, and each
                is answered like this from then on.
        """
        told = self._told(item, by)
        rules.check_failures(self._policy, told.failures)
        told.failures += 1
        allowed = told.bytes + size <= self._policy.max_bytes_out
        told.bytes += size if allowed else 0
        return allowed

    def _told(self, item: WorkItem, by: str) -> _Told:
        """What left in an item's session, to be counted on."""
        sessions = self._sessions.setdefault(by, OrderedDict())
        told = sessions.setdefault(item.session, _Told())
        sessions.move_to_end(item.session)
        if len(sessions) > MOST_SESSIONS:
            sessions.popitem(last=False)
        return told

    def _ops_of(self, part: Part, digest: bytes) -> frozenset[str]:
        kind, content = part
        key = kind.encode() + digest
        ops = self._ops.pop(key, None)
        if ops is None:
            ops = (ops_of_computation if kind == "computation" else ops_of_graph)(content)
        self._ops[key] = ops
        if len(self._ops) > MOST_COMPUTATIONS:
            self._ops.popitem(last=False)
        return ops
