"""A coordinator's and a silo's messages in their envelopes: what each is about, whom it is sealed to, who wrote it.

Without keys the bytes go as they are. Imports transport's sealing, store and topology, trust, wire and the base.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from fedbroker.deadline import Deadline
from fedbroker.errors import DeadlineExceeded, Forged
from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.blobs.encryption import Names, content_key, opening, pair_secret, sealed
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.transport.topology import LONGEST_HEARTBEAT, coordinator_signer
from fedbroker.trust.envelope import MessageContext
from fedbroker.trust.guard import SKEW, Guard, Keys, timely
from fedbroker.trust.keys import Identity, Public
from fedbroker.trust.replays import Accepted, AcceptedMessages
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.messages import Digest, Done, WorkItem

__all__ = ["UNSIGNED", "CoordinatorEnvelopes", "Signed", "SiloEnvelopes"]

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")

REMEMBERED: Final = 4096
"""Coordinators' names in routing keys that do not tell whose they are, and who used each first."""

NOTICE_SECONDS: Final = 60.0
"""How long a notice is valid: the broker drops it from a silo's mailbox after the same time."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Who signed a message from a coordinator; the defaults where nothing is signed.

    Attributes:
        by: the fingerprint of the key. A session is known by this and its id together.
        nonces: of the message, in hexadecimal digits.
        accepted: the message's entry among those that are accepted once.
        repeated: the broker has delivered the same message before.
        reader: the key that answers are sealed to; None where they are not sealed.
    """

    by: str = ""
    nonces: tuple[str, ...] = ()
    accepted: Accepted | None = None
    repeated: bool = False
    reader: Public | None = None


UNSIGNED: Final = Signed()


class CoordinatorEnvelopes:
    """A coordinator's.

    Args:
        cohort: its name.
        keys: the coordinator's, and its silos'; None: nothing is signed.
    """

    def __init__(self, cohort: str, keys: Keys | None) -> None:
        self._cohort = cohort
        self._guard = Guard(keys, by_name=True)
        self._names = Names()

    @property
    def guarded(self) -> bool:
        """Whether anything is signed."""
        return self._guard.keys is not None

    def work(self, item: WorkItem, body: bytes) -> bytes:
        """A work item as it goes out."""
        return self._to(item.silo, body, MessageContext("work", self._cohort, item.silo, item.session, item.stage))

    def mail(self, silo: str, body: bytes) -> bytes:
        """A word for a silo as it goes out."""
        return self._to(silo, body, MessageContext("mail", self._cohort, silo))

    def reply(self, delivery: Delivery) -> Buffer:
        """What a silo said: the one at the end of its routing key, about the session and stage that stand there.

        Raises:
            Forged: that silo has not written this about that.
        """
        about = _about("reply", self._cohort, delivery.key.partition(".")[2])
        opened = self._guard.open(delivery.body, about, sealed=True)
        return delivery.body if opened is None else opened.body

    def announcement(self, body: Buffer) -> tuple[Buffer, str | None]:
        """What a silo says of itself, and which silo that is; None where nothing is signed.

        Raises:
            Forged: no silo of ours has written it, or not lately.
        """
        silo = self._guard.sender(body) or ""
        opened = self._guard.open(body, MessageContext("lobby", self._cohort, silo))
        if opened is None:
            return body, None
        timely(opened, LONGEST_HEARTBEAT, self._guard.clock())
        return opened.body, silo

    async def blob(self, session: str, digest: Digest, data: Buffer, silo: str | None) -> tuple[Digest, Buffer]:
        """A blob as it goes out to one silo, or, for None, to all of a session; and its name on its way."""
        keys = self._guard.keys
        if keys is None or not keys.seal:
            return digest, data
        name, data = await sealed(data, digest, self._secret(keys, session, silo))
        self._names.put(session, digest, silo, name)
        return name, data

    async def named(self, item: WorkItem, deadline: Deadline) -> WorkItem:
        """A work item with the names of its blobs on their way, as soon as they have some.

        Raises:
            DeadlineExceeded: they were not sealed in time.
        """
        keys = self._guard.keys
        if keys is None or not keys.seal:
            return item
        try:
            async with asyncio.timeout(deadline.left()):
                names = await self._names.of(item.session, item.fresh, item.silo)
        except TimeoutError:
            raise DeadlineExceeded(
                f"what stage {item.stage} sends to silo {item.silo!r} was not sealed in time",
                silos=(item.silo,),
                stage=item.stage,
                session=item.session,
            ) from None
        return msgspec.structs.replace(item, sealed=names, content=content_key(keys.own, item.session).hex())

    def opening(
        self, done: Done, store: BlobStore, deadline: Deadline, forged: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """See :func:`fedbroker.transport.blobs.encryption.opening`: a silo's results."""
        keys = self._guard.keys
        coming: dict[Digest, tuple[Digest, bytes]] = {}
        if keys is not None and done.sealed:
            secret = self._secret(keys, done.session, done.silo)
            coming = {digest: (name, secret) for digest, name in done.sealed.items()}
        return opening(store, coming, deadline, forged)

    def _to(self, silo: str, body: bytes, about: MessageContext) -> bytes:
        return self._guard.wrap(body, about, self._guard.key_of(silo) if self._guard.seals else None)

    def _secret(self, keys: Keys, session: str, silo: str | None) -> bytes:
        if silo is None:
            return content_key(keys.own, session)
        return pair_secret(keys.own, keys.others[silo], session)


class SiloEnvelopes:
    """A silo's.

    Args:
        cohort: its cohort's name.
        silo: its name.
        keys: the silo's, and its coordinators'; None: nothing is signed.
    """

    def __init__(self, cohort: str, silo: str, keys: Keys | None) -> None:
        self._cohort = cohort
        self._silo = silo
        self._guard = Guard(keys)
        self._work = AcceptedMessages()
        self._notices = AcceptedMessages()
        self._reply_to: OrderedDict[str, str] = OrderedDict()  # fingerprints by coordinator name

    @property
    def guarded(self) -> bool:
        """Whether anything is signed."""
        return self._guard.keys is not None

    @property
    def signers(self) -> frozenset[str]:
        """The fingerprints of all coordinators that may write to this silo; one empty one where nothing is signed."""
        keys = self._guard.keys
        return frozenset({""} if keys is None else {key.fingerprint for key in keys.others.values()})

    def work(self, delivery: Delivery, read: Callable[[Buffer], tuple[WorkItem, T]]) -> tuple[WorkItem, T, Signed]:
        """Open a work item: signed by a coordinator of ours, for this silo, lately, and not accepted before.

        Args:
            delivery: the message.
            read: finds the work item in its body, and what comes with that.

        Returns:
            What ``read`` has found, and who signed it.

        Raises:
            Forged: it is not so.
            WireError: as ``read`` does.
        """
        about = _about("work", self._cohort, delivery.correlation_id)
        opened = self._guard.open(delivery.body, about, sealed=True)
        if opened is None:
            return *read(delivery.body), UNSIGNED
        item, more = read(opened.body)
        timely(opened, item.seconds, self._guard.clock())
        if (item.session, item.stage) != (about.session, about.stage):
            raise Forged("work is signed for another session or stage than it names", hint=_COORDINATOR)
        if item.sealed and not (opened.sealed and _KEY.fullmatch(item.content)):
            raise Forged("sealed blobs come without their key", hint=_COPIES)
        by = opened.sender.fingerprint
        self._check_reply_to(item.reply_to, by)
        accepted = Accepted(by, opened.nonce.hex(), opened.issued, opened.issued + item.seconds + SKEW)
        repeated = self._work.accept(accepted, delivery.message_id, self._guard.clock())
        reader = opened.sender if opened.sealed or self._guard.seals else None
        return item, more, Signed(by, (accepted.nonce,), accepted, repeated, reader)

    def restore(self, entries: Iterable[Accepted]) -> None:
        """Take note of work that an earlier process has done: it is not done again, whoever sends it."""
        self._work.restore(entries, self._guard.clock())

    def notice(self, body: Buffer) -> tuple[Buffer, str]:
        """Open a coordinator's notice, and tell the fingerprint of its signer; empty where nothing is signed.

        Raises:
            Forged: no coordinator of ours has signed it for this silo, not lately, or it came before.
        """
        opened = self._guard.open(body, MessageContext("mail", self._cohort, self._silo), sealed=True)
        if opened is None:
            return body, ""
        now, by = self._guard.clock(), opened.sender.fingerprint
        timely(opened, NOTICE_SECONDS, now)
        until = opened.issued + NOTICE_SECONDS + SKEW
        if self._notices.accept(Accepted(by, opened.nonce.hex(), opened.issued, until), "", now):
            raise Forged("a notice that was here before came again", hint=_COPIES)
        return opened.body, by

    def announcement(self, body: bytes) -> bytes:
        """What we say of ourselves as it goes out."""
        return self._guard.wrap(body, MessageContext("lobby", self._cohort, self._silo))

    def reply(self, item: WorkItem, signed: Signed, body: bytes) -> bytes:
        """Our answer as it goes out."""
        about = MessageContext("reply", self._cohort, self._silo, item.session, item.stage)
        return self._guard.wrap(body, about, signed.reader)

    async def outputs(
        self, item: WorkItem, signed: Signed, outputs: Mapping[Digest, Buffer]
    ) -> dict[Digest, tuple[Digest, Buffer]]:
        """Results as they go out on the bulk lane: by digest, the name on their way, and the bytes."""
        if signed.reader is None:
            return {digest: (digest, data) for digest, data in outputs.items()}
        secret = pair_secret(self._own, signed.reader, item.session)
        return {digest: await sealed(data, digest, secret) for digest, data in outputs.items()}

    def opening(
        self, item: WorkItem, signed: Signed, store: BlobStore, deadline: Deadline, forged: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """See :func:`fedbroker.transport.blobs.encryption.opening`: the blobs that come with a work item."""
        coming: dict[Digest, tuple[Digest, bytes]] = {}
        if item.sealed and signed.reader is not None:
            pair, content = pair_secret(self._own, signed.reader, item.session), bytes.fromhex(item.content)
            coming = {digest: (name, pair if own else content) for digest, (name, own) in item.sealed.items()}
        return opening(store, coming, deadline, forged)

    def _check_reply_to(self, reply_to: str, by: str) -> None:
        """See that an answer goes to the coordinator that asked.

        A coordinator's name in routing keys tells the fingerprint of its key. Names of earlier versions do not: such a
        name belongs to the first signer that uses it here.

        Raises:
            Forged: it would go to another one.
        """
        owner = coordinator_signer(self._cohort, reply_to) or _put(self._reply_to, reply_to, by)
        if owner != by:
            raise Forged("work asks for its answer to be sent to another coordinator", hint=_COORDINATOR)

    @property
    def _own(self) -> Identity:
        assert self._guard.keys is not None
        return self._guard.keys.own


_KEY: Final = re.compile("[0-9a-f]{64}")
_COPIES: Final = "find out who sends messages again at the broker"
_COORDINATOR: Final = "find out what the coordinator that signed it is doing"


def _about(direction: str, cohort: str, conversation: str) -> MessageContext:
    """About ``session.stage.silo``; what is malformed is about nothing that anybody has signed."""
    session, stage, silo = [*conversation.split("."), "", "", ""][:3]
    return MessageContext(direction, cohort, silo, session, int(stage) if stage.isdecimal() else -1)


def _put(table: OrderedDict[K, V], key: K, value: V) -> V:
    """What is there for a key by now, the value where there was nothing; the oldest are forgotten."""
    if len(table) >= REMEMBERED and key not in table:
        table.popitem(last=False)
    return table.setdefault(key, value)
