"""Sealed blobs on the bulk lane: under which names they go out, and how they become what they were at the other end.

What comes sealed has the digest of its sealed bytes for a name; the message that it belongs to says which blob that is.
Imports transport.store, trust, wire and the base.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, Forged, Missing
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.trust.blobs import open_blob, seal_blob
from fedbroker.trust.keys import Identity, Public
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.messages import Digest

__all__ = ["Names", "content_key", "opening", "pair_secret", "sealed"]

REMEMBERED: Final = 16_384


def content_key(coordinator: Identity, session: str) -> bytes:
    """The key for what a session sends to all its silos; each is told in its own work item."""
    return coordinator.own(b"content " + session.encode())


def pair_secret(mine: Identity, other: Public, session: str) -> bytes:
    """The key for what goes between a coordinator and one silo in a session, in both directions."""
    return mine.secret_with(other, b"session " + session.encode())


async def sealed(blob: Buffer, digest: Digest, secret: bytes) -> tuple[Digest, bytearray]:
    """A blob as it goes out, and under which name."""

    def work() -> tuple[Digest, bytearray]:
        data = seal_blob(blob, digest, secret)
        return digest_of(data), data

    return await asyncio.to_thread(work)


class _Sent(NamedTuple):
    session: str
    digest: Digest
    silo: str | None


class Names:
    """Under which names blobs went out, to one silo or, for None, to all of a session."""

    def __init__(self) -> None:
        self._names: OrderedDict[_Sent, asyncio.Future[Digest]] = OrderedDict()

    def put(self, session: str, digest: Digest, silo: str | None, name: Digest) -> None:
        """A blob goes out under that name."""
        known = self._name(_Sent(session, digest, silo))
        if not known.done():
            known.set_result(name)

    async def of(self, session: str, digests: Iterable[Digest], silo: str) -> dict[Digest, tuple[Digest, bool]]:
        """For each blob, its name, and whether it went to that silo alone; waits for those that are being sealed."""
        return {digest: await self._of(session, digest, silo) for digest in digests}

    async def _of(self, session: str, digest: Digest, silo: str) -> tuple[Digest, bool]:
        own, everybody = self._name(_Sent(session, digest, silo)), self._name(_Sent(session, digest, None))
        await asyncio.wait((own, everybody), return_when=asyncio.FIRST_COMPLETED)
        return (own.result(), True) if own.done() else (everybody.result(), False)

    def _name(self, sent: _Sent) -> asyncio.Future[Digest]:
        if sent not in self._names:
            self._names[sent] = asyncio.get_running_loop().create_future()
            if len(self._names) > REMEMBERED:
                self._names.popitem(last=False)
        return self._names[sent]


@contextmanager
def opening(
    store: BlobStore,
    coming: Mapping[Digest, tuple[Digest, bytes]],
    deadline: Deadline,
    forged: Callable[[str], None],
) -> Iterator[None]:
    """Within the block, blobs that come sealed are put into the store as what they are.

    Args:
        store: where both are.
        coming: for each blob, the digest of what comes, and the secret.
        deadline: for all of them.
        forged: is told of each that is not what it should be; whoever waits for it gets ``Missing``.
    """
    tasks = [
        asyncio.create_task(_open(store, digest, name, secret, deadline, forged))
        for digest, (name, secret) in coming.items()
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def _open(
    store: BlobStore, digest: Digest, name: Digest, secret: bytes, deadline: Deadline, forged: Callable[[str], None]
) -> None:
    if digest in store:
        return
    try:
        came = await store.get(name, deadline, deadline.left())
        content = await asyncio.to_thread(open_blob, came, digest, secret)
    except Forged as error:
        forged(error.what)
        store.refuse(digest, error.what)
    except (Missing, DeadlineExceeded):
        pass  # whoever waits for the blob finds out
    else:
        store.keep(digest, content)
    finally:
        store.discard(name)
