"""Signed messages, which also can be sealed for one reader.

Layout: ``FS``, the version, the form (1: signed, 2: signed and sealed), the sender's id and the reader's (8 bytes
each), the time (milliseconds since 1970, 8 bytes), 16 random bytes unique to the message, the body, the signature. The
signature is Ed25519 over a prefix for this version, the message's context (:class:`MessageContext`, which sender and
reader both know and which is not sent), all that comes before the body, and the body's BLAKE3 hash.

A sealed body is encrypted with AES-256-GCM. Its key is used once: it is derived from the secret that sender and reader
share, with the random bytes as salt; so its nonce can be zero. Plain functions of keys and bytes.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedbroker.errors import Forged, WireError
from fedbroker.trust.keyring import Keys
from fedbroker.trust.keys import SIGNATURE_BYTES, Identity, Public, derived, joined
from fedbroker.wire.blobs import Buffer

__all__ = [
    "SKEW",
    "Authenticator",
    "MessageContext",
    "Opened",
    "check_age",
    "open_envelope",
    "sender_of",
    "unverified_body",
    "wrap",
]

_MAGIC: Final = b"FS"
_VERSION: Final = 1
_SIGNED: Final = 1
_SEALED: Final = 2
_HEAD: Final = struct.Struct(">2sBB8s8sQ16s")
_ZERO_NONCE: Final = bytes(12)
"""The nonce of a key that is used once."""

NONCE_BYTES: Final = 16
"""Random bytes of a message: two messages never have the same 128 random bits."""
NO_READER: Final = bytes(8)  # the reader's id in a message that is not sealed


@dataclass(frozen=True, slots=True)
class MessageContext:
    """The context of a message, known from its route through the broker: signed and bound to a sealed body, not sent.

    Attributes:
        direction: ``work``, ``reply``, ``mail`` or ``lobby``.
        cohort: its name.
        silo: the silo that receives or sends the message.
        session_id: the session's id, if the message belongs to one.
        stage: the stage's number, if the message belongs to one.
    """

    direction: str
    cohort: str
    silo: str
    session_id: str = ""
    stage: int = 0

    def as_bytes(self) -> bytes:
        """Return an unambiguous encoding: two contexts never have the same."""
        fields = (self.direction, self.cohort, self.silo, self.session_id, str(self.stage))
        return joined(*(text.encode() for text in fields))


@dataclass(frozen=True, slots=True)
class Opened:
    """A message whose signature is valid.

    Attributes:
        body: the message itself.
        sender: the sender's public key.
        nonce: 16 random bytes unique to the message.
        issued: time of writing, in seconds since 1970 on the sender's clock.
        sealed: only sender and reader could read it.
    """

    body: memoryview
    sender: Public
    nonce: bytes
    issued: float
    sealed: bool


def sender_of(data: Buffer) -> bytes | None:
    """Return the id of the claimed sender, unverified; None for an unsigned message."""
    head = bytes(memoryview(data)[: _HEAD.size])
    return _HEAD.unpack(head)[3] if len(head) == _HEAD.size and head.startswith(_MAGIC) else None


def unverified_body(data: Buffer) -> Buffer:
    """Return a message's body without verification, for tools that show messages that are not addressed to them.

    Raises:
        WireError: the message is sealed.
    """
    if sender_of(data) is None:
        return data
    if _HEAD.unpack_from(data)[2] == _SEALED:
        raise WireError("a message is sealed", hint="only its sender and its receiver can read it")
    return memoryview(data)[_HEAD.size : -SIGNATURE_BYTES]


def wrap(
    body: Buffer, context: MessageContext, sender: Identity, *, now: float, seal_to: Public | None = None
) -> bytes:
    """Sign a message, and seal it if it has a reader.

    Args:
        body: the message.
        context: its context.
        sender: the sender's keys.
        now: seconds since 1970.
        seal_to: the only reader's public key; None for a message that is signed only.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    form, reader = (_SIGNED, NO_READER) if seal_to is None else (_SEALED, seal_to.id)
    head = _HEAD.pack(_MAGIC, _VERSION, form, sender.public.id, reader, round(now * 1000), nonce)
    if seal_to is not None:
        body = _cipher(sender, seal_to, sender.public.id, nonce).encrypt(_ZERO_NONCE, body, context.as_bytes() + head)
    return b"".join([head, body, sender.sign(_signed(context, head, body))])


def open_envelope(
    data: Buffer, context: MessageContext, reader: Identity, known: Callable[[bytes], Public | None]
) -> Opened:
    """Verify a signed message and decrypt it if it is sealed.

    Args:
        data: the signed message.
        context: the context that it must have.
        reader: the reader's keys.
        known: the public key for an id, if its owner may write to this reader.

    Raises:
        Forged: it is unsigned, not signed by a known sender for this context, or was changed; says which.
    """
    view = memoryview(data).toreadonly().cast("B")
    if len(view) < _HEAD.size + SIGNATURE_BYTES or bytes(view[:2]) != _MAGIC:
        raise Forged("a message is not signed", hint=_BOTH)
    head, body, signature = view[: _HEAD.size], view[_HEAD.size : -SIGNATURE_BYTES], view[-SIGNATURE_BYTES:]
    _, version, form, sender_id, reader_id, issued, nonce = _HEAD.unpack(head)
    if version != _VERSION or form not in (_SIGNED, _SEALED):
        raise Forged(f"a signed message of version {version}.{form}, which is not supported", hint=_BOTH)
    sender = known(sender_id)
    if sender is None:
        raise Forged(f"a message is signed with an unknown key: {sender_id.hex()}", hint=_KEYS)
    if not sender.signed(bytes(signature), _signed(context, head, body)):
        raise Forged(
            "a message was changed, or was signed for another context: its signature is invalid", hint=_BETWEEN
        )
    if form == _SEALED:
        if reader_id != reader.public.id:
            raise Forged(f"a message is sealed to another key: {reader_id.hex()}", hint=_KEYS)
        try:
            cipher = _cipher(reader, sender, sender.id, nonce)
            body = memoryview(cipher.decrypt(_ZERO_NONCE, body, context.as_bytes() + bytes(head)))
        except InvalidTag:
            raise Forged("a sealed message cannot be opened", hint=_KEYS) from None
    return Opened(body, sender, nonce, issued / 1000, form == _SEALED)


_BOTH: Final = "give both sides their keys ([security] at the silo, keys= at the coordinator)"
_NO_KEYS: Final = "give this side its keys: FEDBROKER_KEYS or keys= of a program, [security] of a silo"
_KEYS: Final = "give this side the other's public key, as `fedbroker admin enroll` does"
_BETWEEN: Final = "find out who changes messages at the broker, or on the way to it"


def _signed(context: MessageContext, head: Buffer, body: Buffer) -> bytes:
    return b"".join([b"fedbroker signed 1", context.as_bytes(), head, blake3.blake3(body).digest()])


def _cipher(own: Identity, other: Public, sender: bytes, nonce: bytes) -> AESGCM:
    return AESGCM(derived(own.shared_with(other), b"message from " + sender, nonce))


SKEW: Final = 300.0
"""Seconds by which two clocks may differ: five minutes."""


@dataclass(frozen=True)
class Authenticator:
    """Signs outgoing messages and verifies incoming ones; without keys it leaves messages as they are.

    Attributes:
        keys: its own keys; None: it signs nothing, and accepts no signed message.
        by_name: require that a silo's messages are signed with the key of that silo, as a coordinator does. A silo
            accepts each of its coordinators.
        clock: seconds since 1970.
    """

    keys: Keys | None = None
    by_name: bool = False
    clock: Callable[[], float] = time.time
    _names: dict[bytes, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        others: Mapping[str, Public] = {} if self.keys is None else self.keys.others
        object.__setattr__(self, "_names", {key.id: name for name, key in others.items()})

    @property
    def seals(self) -> bool:
        """Return whether messages must be sealed."""
        return self.keys is not None and self.keys.seal

    def key_of(self, name: str) -> Public | None:
        """Return the public key with that name; None if it is unknown."""
        return None if self.keys is None else self.keys.others.get(name)

    def sender(self, data: Buffer) -> str | None:
        """Return the name of the claimed sender of a message, unverified; None if it is unknown."""
        claimed = sender_of(data)
        return None if claimed is None else self._names.get(claimed)

    def wrap(self, body: bytes, context: MessageContext, seal_to: Public | None = None) -> bytes:
        """Sign an outgoing message, and seal it if it has a single reader."""
        if self.keys is None:
            return body
        return wrap(body, context, self.keys.own, now=self.clock(), seal_to=seal_to)

    def open(self, data: Buffer, context: MessageContext, *, sealed: bool = False) -> Opened | None:
        """Verify an incoming message; return None without keys: such a message is unsigned, and its bytes are its body.

        Args:
            data: the message.
            context: the context that it must have.
            sealed: it must be sealed, if the keys insist on sealed messages.

        Raises:
            Forged: it is not signed by an authorised sender for this message context.
        """
        if self.keys is None:
            if sender_of(data) is not None:
                raise Forged("a message is signed, but this side has no keys", hint=_NO_KEYS)
            return None
        opened = open_envelope(data, context, self.keys.own, lambda key: self._known(key, context.silo))
        if sealed and self.seals and not opened.sealed:
            raise Forged("a message is not sealed", hint="set seal = true at the other side, or false at this one")
        return opened

    def _known(self, key: bytes, silo: str) -> Public | None:
        assert self.keys is not None
        name = self._names.get(key)
        if name is None or (self.by_name and name != silo):
            return None
        return self.keys.others[name]


def check_age(opened: Opened, seconds: float, now: float) -> None:
    """Check that a message is not too old or from the future.

    Args:
        opened: the message.
        seconds: for how long it is valid, from when it was written.
        now: seconds since 1970.

    Raises:
        Forged: it has expired or is from the future, by more than clocks may differ.
    """
    age = now - opened.issued
    if not -SKEW <= age <= seconds + SKEW:
        raise Forged(
            f"a message was written {age:.0f} s ago, and was for {seconds:.0f} s",
            hint="set the clocks of both sides, or find out who sends old messages again",
        )
