"""The rules applied over a silo's lifetime: computations are examined once, each session's output is counted."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded
from fedbroker.graphs import Unreadable, ops_of_computation, ops_of_graph
from fedbroker.lru import LruMap
from fedbroker_worker.errors import PolicyRefused, WorkRefused
from fedbroker_worker.policy import rules
from fedbroker_worker.policy.aggregates import Aggregates, check_dealt, check_labels, check_shapes
from fedbroker_worker.policy.values import holds_client_values, parts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping, MutableMapping, Sequence

    from fedbroker.graphs.expressions import Value as Label
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, WorkItem
    from fedbroker_worker.policy.rules import PolicySettings
    from fedbroker_worker.policy.values import Part

__all__ = ["Guard"]

MAX_COMPUTATIONS: Final = 4096
"""The most computations that are remembered as allowed; the least recently used are parsed again.

Their digests take less than a megabyte.
"""

MAX_SESSIONS: Final = 65536
"""The most sessions that are counted for one signer; a limit for each signer, so that no signer evicts another's.

An evicted session counts from 0 again. To use that, a signer needs this many other sessions.
"""


@dataclass(slots=True)
class _Spent:
    """The bytes that left in one session, and its failures."""

    bytes: int = 0
    failures: int = 0


class Guard:
    """The checks of each work item before it runs, and of its outputs before they leave.

    Args:
        policy: the silo's policy.
    """

    def __init__(self, policy: PolicySettings) -> None:
        self._policy = policy
        self._aggregates = Aggregates()
        # Keyed by SHA-256, as in the audit log: auditors can compute it with standard tools.
        self._allowed: LruMap[bytes, None] = LruMap(MAX_COMPUTATIONS)
        # Keyed by signer and session; kept when a session ends, because its id may be used again.
        self._sessions: dict[str, LruMap[str, _Spent]] = {}

    @asynccontextmanager
    async def time_for(self, item: WorkItem) -> AsyncGenerator[Deadline]:
        """Limit the block to the time that the coordinator gives an item, and to the policy's ``max_seconds``.

        Raises:
            PolicyRefused: the policy's time is up.
            TimeoutError, DeadlineExceeded: the coordinator's time is up.
        """
        seconds = min(item.timeout, self._policy.max_seconds)
        try:
            async with asyncio.timeout(seconds):
                yield Deadline.after(seconds)
        except (TimeoutError, DeadlineExceeded):
            if item.timeout > self._policy.max_seconds:
                raise rules.out_of_time(self._policy) from None
            raise

    def check_item(self, item: WorkItem, by: str = "") -> None:
        """Check an item before any work is done for it.

        Args:
            item: the item.
            by: the fingerprint of the key that signed it.

        Raises:
            PolicyRefused: a rule refuses it.
        """
        policy = self._policy
        for op in item.reads:
            if policy.sources is not None and op.name not in policy.sources:
                raise rules.source_refused(policy, op.name)
        if item.reads and 0 < item.clients < policy.min_clients:
            raise rules.too_few_clients(policy, item.clients)
        sessions = self._sessions.get(by)
        spent = (sessions.get(item.session_id) if sessions is not None else None) or _Spent()
        # Each failure tells the coordinator something about the data.
        if spent.failures >= policy.max_failures:
            raise rules.too_many_failures(policy)
        # Without a byte left, a failure would be all that leaves, and it tells something, too.
        if spent.bytes >= policy.max_bytes_out:
            raise rules.no_bytes_left(policy)

    def check_blobs(self, blobs: Collection[Buffer], examined: list[str]) -> None:
        """Check an item's blobs before the runtime gets any of them.

        Args:
            blobs: all of the item's blobs.
            examined: the SHA-256 of each computation and each sequence in them is appended to it.

        Raises:
            PolicyRefused: a computation or sequence holds refused ops, or cannot be read.
        """
        for blob in blobs:
            try:
                for part in parts(blob):
                    digest = hashlib.sha256(part[1])
                    examined.append(digest.hexdigest())
                    key = part[0].encode() + digest.digest()
                    if key not in self._allowed:
                        self._check_ops(part)
                    self._allowed[key] = None
            except Unreadable as error:
                raise PolicyRefused(
                    "refuse_ops",
                    f"a computation cannot be parsed: {error}",
                    hint="install the same version at the coordinator and the silo",
                ) from None

    def check_operations(
        self,
        item: WorkItem,
        blobs: Mapping[Digest, Buffer],
        labels: MutableMapping[int, Label],
        masked: Sequence[bool] = (),
    ) -> list[Label]:
        """Check an item's operations before they run.

        Args:
            item: the item.
            blobs: the content of every digest that its operations name.
            labels: the labels of the session's values; changed in place.
            masked: for each output, whether it is masked; empty if none is.

        Returns:
            The label of each output, for :meth:`check_values`; an empty list where any aggregate may leave.

        Raises:
            PolicyRefused: an output would hold a value that may not leave.
        """
        if self._policy.aggregates == "any":
            return []
        check_dealt(self._policy, item.ops, blobs)
        outputs = self._aggregates.follow(item.ops, blobs, labels)
        check_labels(self._policy, outputs, masked)
        return outputs

    def labels_of(
        self, item: WorkItem, blobs: Mapping[Digest, Buffer], labels: MutableMapping[int, Label]
    ) -> list[Label]:
        """Return the label of each output, for the audit log; an empty list if the computations cannot be followed.

        Args:
            item: the item.
            blobs: the content of every digest that it names.
            labels: the labels of the session's values; changed in place.
        """
        try:
            return self._aggregates.follow(item.ops, blobs, labels)
        except WorkRefused:  # the policy lets any aggregate leave
            return []

    def check_values(self, outputs: Sequence[Buffer], labels: Sequence[Label] = ()) -> None:
        """Check the values of an item's outputs, before any of them is masked.

        Args:
            outputs: its outputs.
            labels: the labels that :meth:`check_operations` returned.

        Raises:
            PolicyRefused: the outputs may not leave.
        """
        if self._policy.aggregates != "any":
            check_shapes(outputs, labels)
        try:
            if any(map(holds_client_values, outputs)):
                rules.refuse_client_values(self._policy)
        except Unreadable:
            raise PolicyRefused("client_results", "an output cannot be parsed") from None

    def count_outputs(self, item: WorkItem, outputs: Sequence[Buffer], by: str = "") -> None:
        """Count the bytes of an item's outputs for its session and signer, before they leave.

        Args:
            item: the item.
            outputs: its outputs, some of them masked.
            by: the fingerprint of the item's signer.

        Raises:
            PolicyRefused: the outputs may not leave.
        """
        spent, size = self._spent(item, by), sum(map(len, outputs))
        # Other items of the session may have failed since check_item: the success of this one then tells no more.
        if spent.failures >= self._policy.max_failures:
            raise rules.too_many_failures(self._policy)
        if spent.bytes + size > self._policy.max_bytes_out:
            raise rules.too_many_bytes(self._policy)
        spent.bytes += size

    @property
    def reads_first(self) -> bool:
        """True if all data are read, and their rows counted, before anything is computed."""
        return self._policy.min_rows > 0

    @property
    def errors_in_full(self) -> bool:
        """True if the C++ runtime's whole message on a failed computation may leave."""
        return self._policy.errors_in_full

    def count_failure(self, item: WorkItem, size: int, by: str = "") -> bool:
        """Count a failure that may depend on data, for its session and signer.

        Args:
            item: the item that failed.
            size: bytes of the message that is to report the failure.
            by: the fingerprint of the item's signer.

        Returns:
            True if the message may leave; its bytes then count as the session's output.

        Raises:
            PolicyRefused: the session has already failed too often. Several of its items may run concurrently; each of
                them gets this answer from now on.
        """
        spent = self._spent(item, by)
        if spent.failures >= self._policy.max_failures:
            raise rules.too_many_failures(self._policy)
        spent.failures += 1
        allowed = spent.bytes + size <= self._policy.max_bytes_out
        spent.bytes += size if allowed else 0
        return allowed

    def _spent(self, item: WorkItem, by: str) -> _Spent:
        """Return the counts of an item's session, to be increased by the caller."""
        sessions = self._sessions.setdefault(by, LruMap(MAX_SESSIONS))
        spent = sessions.use(item.session_id)
        if spent is None:
            spent = sessions[item.session_id] = _Spent()
        return spent

    def _check_ops(self, part: Part) -> None:
        kind, content = part
        rules.check_ops(self._policy, (ops_of_computation if kind == "computation" else ops_of_graph)(content))
