"""A connection to the broker below any AMQP library: publishes properties in bytes that no library would write."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

from pamqp import commands, frame, header

__all__ = ["RawConnection", "raw_connection", "short_string", "table"]

SECONDS = 20.0

FLAGS = {
    "content_type": 1 << 15,
    "content_encoding": 1 << 14,
    "headers": 1 << 13,
    "correlation_id": 1 << 10,
    "reply_to": 1 << 9,
    "message_id": 1 << 7,
    "timestamp": 1 << 6,
    "type": 1 << 5,
    "app_id": 1 << 3,
}
"""The properties in AMQP's order, without those interpreted by the broker itself."""

BASIC = 60
PUBLISH = 40


def short_string(value: bytes) -> bytes:
    """Return up to 255 bytes as an AMQP short string."""
    return bytes([len(value)]) + value


def table(fields: bytes) -> bytes:
    """Return the bytes of some fields as an AMQP table or list."""
    return struct.pack(">I", len(fields)) + fields


class RawConnection:
    """One connection with one channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def open(self, user: str, password: str, vhost: str) -> None:
        """Log in, and open a channel with publisher confirms."""
        self._writer.write(header.ProtocolHeader().marshal())
        await self._until("Connection.Start")
        login = f"\0{user}\0{password}"
        self._send(0, commands.Connection.StartOk({}, "PLAIN", login, "en_US"))
        tune = await self._until("Connection.Tune")
        self._send(0, commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
        self._send(0, commands.Connection.Open(vhost))
        await self._until("Connection.OpenOk")
        self._send(1, commands.Channel.Open())
        await self._until("Channel.OpenOk")
        self._send(1, commands.Confirm.Select())
        await self._until("Confirm.SelectOk")

    async def publish(self, exchange: str, key: bytes, body: bytes, properties: Mapping[str, bytes]) -> None:
        """Publish a message, and check that the broker confirms it.

        Args:
            exchange: the exchange.
            key: the routing key.
            body: the message.
            properties: each encoded as AMQP bytes.
        """
        method = struct.pack(">HHH", BASIC, PUBLISH, 0) + short_string(exchange.encode()) + short_string(key) + b"\0"
        flags = sum(FLAGS[name] for name in properties)
        values = b"".join(properties[name] for name in FLAGS if name in properties)
        for kind, payload in (1, method), (2, struct.pack(">HHQH", BASIC, 0, len(body), flags) + values), (3, body):
            self._writer.write(struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce")
        await self._until("Basic.Ack")

    def _send(self, channel: int, method: object) -> None:
        self._writer.write(frame.marshal(method, channel))

    async def _until(self, name: str):
        """Read frames until a frame of that name.

        Raises:
            AssertionError: the broker closes instead.
        """
        async with asyncio.timeout(SECONDS):
            while True:
                start = await self._reader.readexactly(7)
                rest = await self._reader.readexactly(struct.unpack(">I", start[3:])[0] + 1)
                _, _, method = frame.unmarshal(start + rest)
                assert not method.name.endswith(".Close"), method.reply_text
                if method.name == name:
                    return method


@asynccontextmanager
async def raw_connection(url: str) -> AsyncIterator[RawConnection]:
    """Connect to the broker of a URL."""
    parts = urlsplit(url)
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            connection = RawConnection(reader, writer)
            await connection.open(
                unquote(parts.username or "guest"), unquote(parts.password or "guest"), unquote(parts.path[1:]) or "/"
            )
        except BaseException:
            writer.close()
            raise
    try:
        yield connection
    finally:
        writer.close()
