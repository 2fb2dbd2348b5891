"""Sealed blobs on the bulk connection: encrypted before they are sent, decrypted into the store when they arrive.

A sealed blob travels under the digest of its sealed bytes. The message that it belongs to maps the blob's digest to it.

A blob is encrypted once for all its readers, in pieces of 1 MiB with AES-256-GCM, each followed by its tag of 16 bytes.
The key belongs to this blob alone, derived from a secret and the blob's digest: so a piece's number is its nonce, and
sealing the same blob with the same secret gives the same bytes. Each piece authenticates the blob's size as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, Forged, Missing
from fedbroker.lru import LruMap
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.trust.keys import Identity, Public, derived
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.messages import Digest

__all__ = ["SealedDigests", "content_key", "open_blob", "opening", "pair_secret", "seal_blob", "sealed"]

REMEMBERED: Final = 16_384
"""Maximum number of blobs whose sealed digests are remembered; the oldest are forgotten."""


def content_key(coordinator: Identity, session_id: str) -> bytes:
    """Return the key for blobs that a session sends to all its silos; each silo receives it in its work item."""
    return coordinator.own(b"content " + session_id.encode())


def pair_secret(own: Identity, peer: Public, session_id: str) -> bytes:
    """Return the key for blobs between a coordinator and one silo in a session, in both directions."""
    return own.secret_with(peer, b"session " + session_id.encode())


async def sealed(blob: Buffer, digest: Digest, secret: bytes) -> tuple[Digest, bytearray]:
    """Seal a blob in a thread; return the digest of the sealed bytes, and the bytes."""

    def work() -> tuple[Digest, bytearray]:
        data = seal_blob(blob, digest, secret)
        return digest_of(data), data

    return await asyncio.to_thread(work)


class _Recipient(NamedTuple):
    session_id: str
    digest: Digest
    silo: str | None


class SealedDigests:
    """Digests of sealed blobs, by the blob's digest and the silo that it was sent to (None: all silos of a session)."""

    def __init__(self) -> None:
        self._sealed_digests: LruMap[_Recipient, asyncio.Future[Digest]] = LruMap(REMEMBERED)

    def put(self, session_id: str, digest: Digest, silo: str | None, name: Digest) -> None:
        """Record the sealed digest under which a blob is sent."""
        known = self._sealed_digest(_Recipient(session_id, digest, silo))
        if not known.done():
            known.set_result(name)

    async def of(self, session_id: str, digests: Iterable[Digest], silo: str) -> dict[Digest, tuple[Digest, bool]]:
        """Return for each blob its sealed digest, and whether it was sealed to that silo alone.

        Waits for blobs that are still being sealed.
        """
        return {digest: await self._of(session_id, digest, silo) for digest in digests}

    async def _of(self, session_id: str, digest: Digest, silo: str) -> tuple[Digest, bool]:
        single, shared = (
            self._sealed_digest(_Recipient(session_id, digest, silo)),
            self._sealed_digest(_Recipient(session_id, digest, None)),
        )
        await asyncio.wait((single, shared), return_when=asyncio.FIRST_COMPLETED)
        return (single.result(), True) if single.done() else (shared.result(), False)

    def _sealed_digest(self, recipient: _Recipient) -> asyncio.Future[Digest]:
        if recipient not in self._sealed_digests:
            self._sealed_digests[recipient] = asyncio.get_running_loop().create_future()
        return self._sealed_digests[recipient]


@contextmanager
def opening(
    store: BlobStore,
    expected: Mapping[Digest, tuple[Digest, bytes]],
    deadline: Deadline,
    forged: Callable[[str], None],
) -> Generator[None]:
    """Decrypt expected sealed blobs within the block, and store them under their own digests.

    Args:
        store: receives the sealed blobs, and keeps the decrypted ones.
        expected: for each blob, the digest of its sealed bytes, and the secret.
        deadline: for all blobs.
        forged: called with the reason for each blob that is not authentic; callers that wait for it get ``Missing``.
    """
    tasks = [
        asyncio.create_task(_open(store, digest, name, secret, deadline, forged))
        for digest, (name, secret) in expected.items()
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
        arrived = await store.get(name, deadline, deadline.left())
        content = await asyncio.to_thread(open_blob, arrived, digest, secret)
    except Forged as error:
        forged(error.what)
        store.refuse(digest, error.what)
    except (Missing, DeadlineExceeded):
        pass  # the caller that waits for the blob gets the same error from the store
    else:
        store.keep(digest, content)
    finally:
        store.discard(name)


PIECE: Final = 1 << 20
"""Bytes encrypted at a time: AESGCM copies its input, so this bounds the additional memory."""
TAG: Final = 16
"""Bytes of AES-GCM's tag."""


def seal_blob(data: Buffer, digest: Digest, secret: bytes) -> bytearray:
    """Encrypt a blob for the readers that have the secret and know the digest.

    Args:
        data: the blob.
        digest: its digest.
        secret: 32 bytes; with one secret, a digest always stands for the same blob.
    """
    view = memoryview(data).cast("B")
    cipher = AESGCM(derived(secret, b"blob " + digest.encode()))
    pieces = max(1, -(-len(view) // PIECE))
    sealed = bytearray(len(view) + pieces * TAG)
    offset = 0
    for number in range(pieces):
        piece = cipher.encrypt(_nonce(number), view[number * PIECE : (number + 1) * PIECE], _size(len(view)))
        sealed[offset : offset + len(piece)] = piece
        offset += len(piece)
    return sealed


def open_blob(sealed: Buffer, digest: Digest, secret: bytes) -> memoryview:
    """Decrypt a blob.

    Raises:
        Forged: it was sealed with another secret, is another blob, or was changed.
    """
    view = memoryview(sealed).cast("B")
    pieces = max(1, -(-len(view) // (PIECE + TAG)))
    size = len(view) - pieces * TAG
    if size < 0:
        raise Forged(f"a sealed blob is truncated: {len(view)} bytes", hint=_HINT)
    cipher = AESGCM(derived(secret, b"blob " + digest.encode()))
    data = bytearray(size)
    try:
        for number in range(pieces):
            start = number * (PIECE + TAG)
            piece = cipher.decrypt(_nonce(number), view[start : start + PIECE + TAG], _size(size))
            data[number * PIECE : number * PIECE + len(piece)] = piece
    except InvalidTag:
        raise Forged("a sealed blob cannot be opened", hint=_HINT) from None
    if digest_of(data) != digest:  # another holder of the secret may have sealed other data
        raise Forged("a sealed blob has other content than announced", hint=_HINT)
    return memoryview(data).toreadonly()


_HINT: Final = "run it again, and find out who changes messages at the broker"


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _size(size: int) -> bytes:
    return size.to_bytes(8, "big")
