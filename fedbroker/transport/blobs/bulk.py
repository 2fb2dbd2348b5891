"""The bulk connection: blobs are sent in chunks, with a bounded window of unconfirmed chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, WireError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.connection import Handler
from fedbroker.transport.amqp.message import Delivery, Outgoing
from fedbroker.transport.amqp.reconnecting import ReconnectingConnection
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.transport.topology import Exchange
from fedbroker.wire.blobs import Buffer, cut
from fedbroker.wire.codec import decode, encode
from fedbroker.wire.coding import Compression, check_compression, coded, compressible, decoded
from fedbroker.wire.limits import Limits, too_large_value
from fedbroker.wire.messages import Chunk, Digest

__all__ = ["PREFETCH", "WINDOW", "BlobStore", "BlobTransfer", "receiver"]

_log = get_logger(__name__)

WINDOW: Final = 8
"""Maximum number of chunks sent and not confirmed yet: enough to hide a round trip, and all are in memory."""
PREFETCH: Final = 2 * WINDOW
"""Maximum number of chunks delivered and not acknowledged yet: two windows, so that a sender never waits for us."""
GRACE: Final = 0.1
"""Seconds beyond the deadline: an error raised by a chunk at the deadline tells more than our own timeout."""
MAX_EXPIRATION: Final = 600.0
"""Maximum seconds that a chunk stays at the broker: a reader that is away for longer requests its blob again."""


class BlobTransfer:
    """Sends blobs over one connection.

    With any number of concurrent senders, at most ``WINDOW`` chunks are in memory in addition to the blobs. The blobs
    are sent one after another, so that the reader holds few incomplete ones.

    Args:
        connection: the connection.
        exchange: the exchange to publish chunks to.
        limits: bounds on chunks and blobs.
        compression: which blobs are compressed.
        route_timeout: seconds to wait for the reader's queue; 0: a chunk that matches no queue is lost silently.

    Raises:
        ConfigError: unknown compression.
    """

    def __init__(
        self,
        connection: ReconnectingConnection,
        exchange: Exchange,
        limits: Limits,
        compression: Compression = "off",
        *,
        route_timeout: float = 0.0,
    ) -> None:
        self._connection = connection
        self._exchange = exchange
        self._limits = limits
        self._compression = check_compression(compression)
        self._route_timeout = route_timeout
        self._lock = asyncio.Lock()
        self._window = asyncio.Semaphore(WINDOW)

    def check(self, data: Buffer) -> int:
        """Check a blob's size against the limits, and return it in bytes.

        Raises:
            WireError: the blob is larger than the limits allow.
        """
        size = memoryview(data).nbytes
        if size > self._limits.max_blob:
            raise too_large_value(size, self._limits.max_blob)
        return size

    async def send(self, key: str, digest: Digest, data: Buffer, deadline: Deadline) -> None:
        """Send one blob; return when the broker has confirmed all of its chunks.

        Args:
            key: the routing key.
            digest: the blob's digest; not checked here.
            data: the blob's content; must not change during the call.
            deadline: by which all chunks must be confirmed.

        Raises:
            BrokerLost: not confirmed by the deadline.
            BrokerRefused: no permission, or the broker's limit is below the size of a chunk.
            Unroutable: the reader's queue is missing and did not come back in time.
            WireError: the blob is larger than the limits allow.
        """
        size = self.check(data)
        try:
            async with asyncio.timeout(deadline.left() + GRACE):
                await self._send(key, digest, data, deadline)
        except TimeoutError:
            raise BrokerLost(
                f"the broker did not confirm a blob of {size} bytes in time",
                hint="allow more time, or use a faster network",
            ) from None

    async def _send(self, key: str, digest: Digest, data: Buffer, deadline: Deadline) -> None:
        compress = self._compression == "on" or (self._compression == "auto" and compressible(data))
        try:
            async with asyncio.TaskGroup() as publishing, self._lock:
                for chunk, view in cut(digest, data, self._limits.chunk_bytes(memoryview(data).nbytes)):
                    await self._window.acquire()
                    try:
                        # One chunk at a time: the next one is compressed while the previous ones are being sent.
                        coded_chunk = await asyncio.to_thread(coded, chunk, view) if compress else (chunk, view)
                    except BaseException:
                        self._window.release()
                        raise
                    task = publishing.create_task(self._publish(key, *coded_chunk, deadline))
                    task.add_done_callback(lambda _: self._window.release())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _publish(self, key: str, chunk: Chunk, data: Buffer, deadline: Deadline) -> None:
        body = encode(chunk, [data], self._limits)
        expiration = min(deadline.left(), MAX_EXPIRATION)
        mandatory = self._route_timeout > 0
        message = Outgoing(self._exchange, key, body, persistent=False, mandatory=mandatory, expiration=expiration)
        await self._connection.publish(message, deadline, route_timeout=self._route_timeout)


def receiver(
    store: BlobStore, limits: Limits, *, refused: Callable[[str, str], None] = lambda _key, _why: None
) -> Handler:
    """Return a handler that stores received chunks; it acknowledges each chunk once it is copied or refused.

    Compressed chunks are decompressed one at a time, in a thread, so that at most one is in memory twice.

    Args:
        store: the store for the chunks.
        limits: bounds on chunks and blobs.
        refused: called with the routing key of each refused chunk, and the reason.
    """
    lock = asyncio.Lock()

    async def content(chunk: Chunk, data: memoryview) -> Buffer:
        if not chunk.coding:
            return data
        try:
            async with lock:
                return await asyncio.to_thread(decoded, chunk, data, limits)
        except WireError as error:
            store.refuse(chunk.digest, error.what)
            raise

    async def on_delivery(delivery: Delivery) -> None:
        try:
            message, attachments = decode(delivery.body, limits)
            if not isinstance(message, Chunk):
                raise WireError(f"a {type(message).__name__} on the bulk connection")
            store.accept(message, await content(message, attachments[0]))
        except WireError as error:
            _log.warning("message_dropped", at="bulk", key=delivery.key, reason=error.what)
            refused(delivery.key, error.what)
        await delivery.ack()

    return on_delivery
