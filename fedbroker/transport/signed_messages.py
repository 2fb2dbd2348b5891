"""Signing and sealing of the messages of a coordinator and a silo: context, reader and signer of each kind of message.

Without keys, messages are sent unchanged.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, Forged
from fedbroker.lru import LruMap
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.blobs.encryption import SealedDigests, content_key, opening, pair_secret, sealed
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.transport.topology import LONGEST_HEARTBEAT, coordinator_signer
from fedbroker.trust.envelope import SKEW, Authenticator, MessageContext, check_age
from fedbroker.trust.keyring import Keys
from fedbroker.trust.keys import Identity, Public
from fedbroker.trust.replays import Accepted, AcceptedMessages
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.messages import Digest, Done, WorkItem

__all__ = ["UNSIGNED", "CoordinatorEnvelopes", "Signed", "SiloEnvelopes"]

T = TypeVar("T")

REMEMBERED: Final = 4096
"""Maximum number of coordinator ids without a fingerprint whose first signer is remembered."""

NOTICE_SECONDS: Final = 60.0
"""Seconds for which a notice is valid; the broker policy for mailboxes drops it after the same time."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Signature of a message from a coordinator; the defaults mean that messages are not signed.

    Attributes:
        by: fingerprint of the signer's key. It identifies a session together with the session's id.
        nonces: the message's nonces, in hexadecimal digits.
        accepted: the message's entry in the record of accepted messages, each of which is accepted once.
        repeated: True if the broker has delivered the same message before.
        reader: the key that replies are sealed to; None if they are not sealed.
    """

    by: str = ""
    nonces: tuple[str, ...] = ()
    accepted: Accepted | None = None
    repeated: bool = False
    reader: Public | None = None


UNSIGNED: Final = Signed()


class CoordinatorEnvelopes:
    """Signs and seals a coordinator's messages, and verifies messages of its silos.

    Args:
        cohort: the cohort's name.
        keys: the coordinator's key and its silos' keys; None: messages are not signed.
    """

    def __init__(self, cohort: str, keys: Keys | None) -> None:
        self._cohort = cohort
        self._authenticator = Authenticator(keys, by_name=True)
        self._sealed_digests = SealedDigests()

    @property
    def is_signed(self) -> bool:
        """True if messages are signed."""
        return self._authenticator.keys is not None

    @property
    def is_sealed(self) -> bool:
        """True if work and notices are sealed."""
        return self._authenticator.seals

    def work(self, item: WorkItem, body: bytes) -> bytes:
        """Return the signed message for a work item."""
        if self._authenticator.keys is None:
            return body
        return self._to(item.silo, body, MessageContext("work", self._cohort, item.silo, item.session_id, item.stage))

    def notice(self, silo: str, body: bytes) -> bytes:
        """Return the signed message for a notice to a silo."""
        return self._to(silo, body, MessageContext("mail", self._cohort, silo))

    def reply(self, delivery: Delivery) -> Buffer:
        """Verify a reply, and return its body. Its silo, session and stage are taken from the routing key.

        Raises:
            Forged: not signed by that silo for this session and stage.
        """
        context = _context_of("reply", self._cohort, delivery.key.partition(".")[2])
        opened = self._authenticator.open(delivery.body, context, sealed=True)
        return delivery.body if opened is None else opened.body

    def announcement(self, body: Buffer) -> tuple[Buffer, str | None]:
        """Verify an announcement; return its body and the silo that signed it (None if messages are not signed).

        Raises:
            Forged: not signed by one of our silos, or too old.
        """
        silo = self._authenticator.sender(body) or ""
        opened = self._authenticator.open(body, MessageContext("lobby", self._cohort, silo))
        if opened is None:
            return body, None
        check_age(opened, LONGEST_HEARTBEAT, self._authenticator.clock())
        return opened.body, silo

    async def blob(self, session_id: str, digest: Digest, data: Buffer, silo: str | None) -> tuple[Digest, Buffer]:
        """Seal a blob to one silo, or to all silos of a session (None); return the sealed digest and the bytes.

        Without sealing, both are returned unchanged.
        """
        keys = self._authenticator.keys
        if keys is None or not keys.seal:
            return digest, data
        name, data = await sealed(data, digest, self._secret(keys, session_id, silo))
        self._sealed_digests.put(session_id, digest, silo, name)
        return name, data

    async def with_sealed_digests(self, item: WorkItem, deadline: Deadline) -> WorkItem:
        """Return a work item completed with the digests of its sealed blobs; wait until they are sealed.

        Raises:
            DeadlineExceeded: the blobs were not sealed in time.
        """
        keys = self._authenticator.keys
        if keys is None or not keys.seal:
            return item
        try:
            async with asyncio.timeout(deadline.left()):
                names = await self._sealed_digests.of(item.session_id, item.incoming, item.silo)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the blobs of stage {item.stage} for silo {item.silo!r} were not sealed in time",
                silos=(item.silo,),
                stage=item.stage,
                session=item.session_id,
            ) from None
        return msgspec.structs.replace(item, sealed=names, content_key=content_key(keys.own, item.session_id).hex())

    def opening(
        self, done: Done, store: BlobStore, deadline: Deadline, forged: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """Decrypt a silo's outputs within the block; see :func:`fedbroker.transport.blobs.encryption.opening`."""
        keys = self._authenticator.keys
        if keys is None or not done.sealed:
            return nullcontext()
        secret = self._secret(keys, done.session_id, done.silo)
        expected = {digest: (name, secret) for digest, name in done.sealed.items()}
        return opening(store, expected, deadline, forged)

    def _to(self, silo: str, body: bytes, context: MessageContext) -> bytes:
        return self._authenticator.wrap(
            body, context, self._authenticator.key_of(silo) if self._authenticator.seals else None
        )

    def _secret(self, keys: Keys, session_id: str, silo: str | None) -> bytes:
        if silo is None:
            return content_key(keys.own, session_id)
        return pair_secret(keys.own, keys.others[silo], session_id)


class SiloEnvelopes:
    """Signs and seals a silo's messages, and verifies messages of its coordinators.

    Args:
        cohort: the cohort's name.
        silo: the silo's name.
        keys: the silo's key and its coordinators' keys; None: messages are not signed.
    """

    def __init__(self, cohort: str, silo: str, keys: Keys | None) -> None:
        self._cohort = cohort
        self._silo = silo
        self._authenticator = Authenticator(keys)
        self._work = AcceptedMessages()
        self._notices = AcceptedMessages()
        self._first_signers: LruMap[str, str] = LruMap(REMEMBERED)  # fingerprints by coordinator name

    @property
    def is_signed(self) -> bool:
        """True if messages are signed."""
        return self._authenticator.keys is not None

    @property
    def requires_sealing(self) -> bool:
        """True if work and notices that are not sealed are rejected."""
        return self._authenticator.seals

    @property
    def signers(self) -> frozenset[str]:
        """Fingerprints of all coordinators that may write to this silo; one empty string if messages are not signed."""
        keys = self._authenticator.keys
        return frozenset({""} if keys is None else {key.fingerprint for key in keys.others.values()})

    def work(self, delivery: Delivery, read: Callable[[Buffer], tuple[WorkItem, T]]) -> tuple[WorkItem, T, Signed]:
        """Verify a work item: signed recently by one of our coordinators for this silo, and not accepted before.

        Args:
            delivery: the message.
            read: decodes the body into the work item and its attachments.

        Returns:
            the result of ``read``, and the signature.

        Raises:
            Forged: one of these conditions does not hold.
            WireError: as ``read`` does.
        """
        context = _context_of("work", self._cohort, delivery.correlation_id)
        opened = self._authenticator.open(delivery.body, context, sealed=True)
        if opened is None:
            return *read(delivery.body), UNSIGNED
        item, more = read(opened.body)
        check_age(opened, item.timeout, self._authenticator.clock())
        if (item.session_id, item.stage) != (context.session_id, context.stage):
            raise Forged("work is signed for another session or stage than it names", hint=_COORDINATOR)
        if item.sealed and not (opened.sealed and _KEY.fullmatch(item.content_key)):
            raise Forged("sealed blobs come without their key", hint=_FIND_REPLAYS)
        by = opened.sender.fingerprint
        self._check_coordinator_id(item.coordinator_id, by)
        accepted = Accepted(by, opened.nonce.hex(), opened.issued, opened.issued + item.timeout + SKEW)
        repeated = self._work.accept(accepted, delivery.message_id, self._authenticator.clock())
        reader = opened.sender if opened.sealed or self._authenticator.seals else None
        return item, more, Signed(by, (accepted.nonce,), accepted, repeated, reader)

    def restore(self, entries: Iterable[Accepted]) -> None:
        """Restore the record of work that an earlier process accepted, so that a replay is rejected."""
        self._work.restore(entries, self._authenticator.clock())

    def notice(self, body: Buffer) -> tuple[Buffer, str]:
        """Verify a notice; return its body and the signer's fingerprint (empty if messages are not signed).

        Raises:
            Forged: not signed by one of our coordinators for this silo, too old, or a replay.
        """
        opened = self._authenticator.open(body, MessageContext("mail", self._cohort, self._silo), sealed=True)
        if opened is None:
            return body, ""
        now, by = self._authenticator.clock(), opened.sender.fingerprint
        check_age(opened, NOTICE_SECONDS, now)
        until = opened.issued + NOTICE_SECONDS + SKEW
        if self._notices.accept(Accepted(by, opened.nonce.hex(), opened.issued, until), "", now):
            raise Forged("a notice was received twice", hint=_FIND_REPLAYS)
        return opened.body, by

    def announcement(self, body: bytes) -> bytes:
        """Return the signed message for an announcement."""
        return self._authenticator.wrap(body, MessageContext("lobby", self._cohort, self._silo))

    def reply(self, item: WorkItem, signed: Signed, body: bytes) -> bytes:
        """Return the signed message for a reply, sealed to the reader of ``signed`` if it has one."""
        if self._authenticator.keys is None:
            return body
        context = MessageContext("reply", self._cohort, self._silo, item.session_id, item.stage)
        return self._authenticator.wrap(body, context, signed.reader)

    async def outputs(
        self, item: WorkItem, signed: Signed, outputs: Mapping[Digest, Buffer]
    ) -> dict[Digest, tuple[Digest, Buffer]]:
        """Seal the outputs for the bulk connection; return for each digest the sealed digest and the bytes."""
        if signed.reader is None:
            return {digest: (digest, data) for digest, data in outputs.items()}
        secret = pair_secret(self._own, signed.reader, item.session_id)
        return {digest: await sealed(data, digest, secret) for digest, data in outputs.items()}

    def opening(
        self, item: WorkItem, signed: Signed, store: BlobStore, deadline: Deadline, forged: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """Decrypt a work item's blobs within the block; see :func:`fedbroker.transport.blobs.encryption.opening`."""
        if not item.sealed or signed.reader is None:
            return nullcontext()
        pair, content = pair_secret(self._own, signed.reader, item.session_id), bytes.fromhex(item.content_key)
        expected = {digest: (name, pair if own else content) for digest, (name, own) in item.sealed.items()}
        return opening(store, expected, deadline, forged)

    def _check_coordinator_id(self, coordinator_id: str, by: str) -> None:
        """Check that the reply goes to the coordinator that signed the work.

        A coordinator id contains the fingerprint of the coordinator's key. An id of an earlier version does not; it
        belongs to the first signer that uses it here.

        Raises:
            Forged: the reply would go to another coordinator.
        """
        signer = coordinator_signer(self._cohort, coordinator_id) or self._first_signers.setdefault(coordinator_id, by)
        if signer != by:
            raise Forged("a work item names another coordinator as the receiver of its reply", hint=_COORDINATOR)

    @property
    def _own(self) -> Identity:
        assert self._authenticator.keys is not None
        return self._authenticator.keys.own


_KEY: Final = re.compile("[0-9a-f]{64}")
_FIND_REPLAYS: Final = "find out who sends messages again at the broker"
_COORDINATOR: Final = "find out what the coordinator that signed it is doing"


def _context_of(direction: str, cohort: str, conversation: str) -> MessageContext:
    """Return the context of ``session.stage.silo``; a malformed text gives a context that no message is signed for."""
    session_id, stage, silo = [*conversation.split("."), "", "", ""][:3]
    return MessageContext(direction, cohort, silo, session_id, int(stage) if stage.isdecimal() else -1)
