"""The bulk lane: blobs in chunks, a window of them unconfirmed, on a connection of their own.

Imports transport's own modules, wire and the base.
"""

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
from fedbroker.wire.coding import Compression, check_compression, coded, decoded, worth_it
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Chunk, Digest

__all__ = ["PREFETCH", "WINDOW", "BlobStore", "BlobTransfer", "receiver"]

_log = get_logger(__name__)

WINDOW: Final = 8
"""Chunks under way to the broker that it has not confirmed yet."""
PREFETCH: Final = 2 * WINDOW
"""Chunks under way from the broker that we have not acknowledged yet."""
GRACE: Final = 0.1
LONGEST: Final = 600.0
"""Seconds that a chunk may lie at the broker."""


class BlobTransfer:
    """Sends blobs over one link.

    However many send at once, no more than ``WINDOW`` chunks are in memory besides the blobs, and the blobs go one
    after another, so that the reader has few that are incomplete.

    Args:
        link: the connection.
        exchange: where the blobs go.
        limits: on chunks and blobs.
        compression: which blobs are compressed.

    Raises:
        ConfigError: there is no such compression.
    """

    def __init__(
        self, link: ReconnectingConnection, exchange: Exchange, limits: Limits, compression: Compression = "off"
    ) -> None:
        self._link = link
        self._exchange = exchange
        self._limits = limits
        self._compression = check_compression(compression)
        self._turn = asyncio.Lock()
        self._window = asyncio.Semaphore(WINDOW)

    def check(self, data: Buffer) -> int:
        """The size of a blob that may be sent.

        Raises:
            WireError: it is larger than the limits allow.
        """
        size = memoryview(data).nbytes
        if size > self._limits.max_blob:
            raise WireError(
                f"a blob of {size} bytes exceeds the limit of {self._limits.max_blob}", hint="send less at once"
            )
        return size

    async def send(self, key: str, digest: Digest, data: Buffer, deadline: Deadline) -> None:
        """Send one blob; returns when the broker has confirmed all of it.

        Args:
            key: routing key.
            digest: the blob's name; not checked here.
            data: its content; must not change meanwhile.
            deadline: by which it must be confirmed.

        Raises:
            BrokerLost: not confirmed by the deadline.
            BrokerRefused: no permission, or the broker's limit is below the size of a chunk.
            WireError: it is larger than the limits allow.
        """
        size = self.check(data)
        try:
            async with asyncio.timeout(deadline.left() + GRACE):  # what is late inside says more
                await self._send(key, digest, data, deadline)
        except TimeoutError:
            raise BrokerLost(
                f"the broker did not take a blob of {size} bytes in time", hint="allow more time, or a faster way to it"
            ) from None

    async def _send(self, key: str, digest: Digest, data: Buffer, deadline: Deadline) -> None:
        under_way: set[asyncio.Task[None]] = set()
        compress = self._compression == "on" or (self._compression == "auto" and worth_it(data))
        try:
            async with self._turn:
                for chunk, view in cut(digest, data, self._limits.chunk_bytes(memoryview(data).nbytes)):
                    await self._window.acquire()
                    try:
                        # One after another: the next is compressed while those before are on their way.
                        piece = await asyncio.to_thread(coded, chunk, view) if compress else (chunk, view)
                    except BaseException:
                        self._window.release()
                        raise
                    publishing = asyncio.create_task(self._publish(key, *piece, deadline))
                    publishing.add_done_callback(lambda _: self._window.release())
                    under_way.add(publishing)
                    under_way = _without_done(under_way)
            while under_way:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                under_way = _without_done(under_way)
        finally:
            for task in under_way:
                task.cancel()
            if under_way:
                await asyncio.gather(*under_way, return_exceptions=True)

    async def _publish(self, key: str, chunk: Chunk, data: Buffer, deadline: Deadline) -> None:
        body = encode(chunk, [data], self._limits)
        expiration = min(deadline.left(), LONGEST)
        await self._link.publish(Outgoing(self._exchange, key, body, persistent=False, expiration=expiration), deadline)


def receiver(
    store: BlobStore, limits: Limits, *, refused: Callable[[str, str], None] = lambda _key, _why: None
) -> Handler:
    """What takes chunks in from a queue: acknowledges each as soon as it is copied, or refused.

    Compressed ones are read one after another, in a thread, so that no more than one is in memory twice.

    Args:
        store: where they go.
        limits: on chunks and blobs.
        refused: called with the routing key of each that is refused, and why.
    """
    turn = asyncio.Lock()

    async def content(chunk: Chunk, data: memoryview) -> Buffer:
        if not chunk.coding:
            return data
        try:
            async with turn:
                return await asyncio.to_thread(decoded, chunk, data, limits)
        except WireError as error:
            store.refuse(chunk.digest, error.what)
            raise

    async def take(delivery: Delivery) -> None:
        try:
            message, attachments = decode(delivery.body, limits)
            if not isinstance(message, Chunk):
                raise WireError(f"a {type(message).__name__} on the bulk lane")
            store.accept(message, await content(message, attachments[0]))
        except WireError as error:
            _log.warning("message dropped", at="bulk", key=delivery.key, reason=error.what)
            refused(delivery.key, error.what)
        await delivery.ack()

    return take


def _without_done(tasks: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that are not done.

    Raises:
        Exception: what one of the others failed with.
    """
    done = {task for task in tasks if task.done()}
    failures = [error for task in done if (error := task.exception()) is not None]
    if failures:
        raise failures[0]
    return tasks - done
