"""A small HTTP client for tests of pages: requests one after another, and streams of server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.wait import PROCESS_SECONDS


@dataclass(frozen=True)
class Answer:
    """A response; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


@asynccontextmanager
async def request(
    port: int, path: str, headers: Mapping[str, str] | None = None, *, host: str = "", method: str = "GET"
) -> AsyncGenerator[tuple[Answer, asyncio.StreamReader]]:
    """Send a request to 127.0.0.1; yield the response's head, and the reader of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    try:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(PROCESS_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        yield Answer(int(head[0].split()[1]), {name.lower(): value for name, value in pairs}), reader
    finally:
        writer.close()


async def get(port: int, path: str, headers: Mapping[str, str] | None = None, **options: str) -> Answer:
    """Return the response to one request."""
    async with asyncio.timeout(PROCESS_SECONDS), request(port, path, headers, **options) as (head, reader):
        body = await reader.read()
        if head.headers.get("transfer-encoding") == "chunked":
            body = b"".join([piece async for piece in _chunks(body)])
        return Answer(head.status, head.headers, body)


async def events(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, Any]]:
    """Yield the name and the data of each server-sent event of a chunked body; the test sets the deadline."""
    text = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        text += (await reader.readexactly(size + 2))[:-2]
        while b"\n\n" in text:
            block, _, text = text.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
            if "data" in fields:
                yield fields["event"], json.loads(fields["data"])


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        yield rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
