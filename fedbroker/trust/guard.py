"""Signing and verification for one participant: its own key, and the keys of the participants that may write to it.

Plain functions of keys and bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fedbroker.errors import ConfigError, Forged
from fedbroker.trust.envelope import MessageContext, Opened, open_envelope, sender_of, wrap
from fedbroker.trust.keys import Identity, Public
from fedbroker.wire.blobs import Buffer

__all__ = ["SKEW", "Guard", "Keys", "timely"]

SKEW: Final = 300.0
"""Seconds by which two clocks may differ: five minutes."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a coordinator or a silo.

    Attributes:
        own: its own secret.
        others: the public keys that may write to it, by name: at a coordinator its silos'; at a silo its coordinators',
            whose names are labels for people.
        seal: send and accept only sealed messages, for every kind of message that can be sealed.

    Raises:
        ConfigError: a key has two names, or no key is given.
    """

    own: Identity
    others: Mapping[str, Public]
    seal: bool = False

    def __post_init__(self) -> None:
        if not self.others:
            raise ConfigError("no public key of anybody is named", hint="name the keys of those at the other end")
        names: dict[Public, str] = {}
        for name, key in self.others.items():
            if key in names:
                raise ConfigError(
                    f"{names[key]!r} and {name!r} have the same public key", hint="give each of them a key of its own"
                )
            names[key] = name


@dataclass(frozen=True)
class Guard:
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
        others = {} if self.keys is None else self.keys.others
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

    def wrap(self, body: bytes, about: MessageContext, seal_to: Public | None = None) -> bytes:
        """Sign an outgoing message, and seal it if it has a single reader."""
        if self.keys is None:
            return body
        return wrap(body, about, self.keys.own, now=self.clock(), seal_to=seal_to)

    def open(self, data: Buffer, about: MessageContext, *, sealed: bool = False) -> Opened | None:
        """Verify an incoming message; return None without keys: such a message is unsigned, and its bytes are its body.

        Args:
            data: the message.
            about: the context that it must have.
            sealed: it must be sealed, if the keys insist on sealed messages.

        Raises:
            Forged: it is not signed by an authorised sender for this message context.
        """
        if self.keys is None:
            if sender_of(data) is not None:
                raise Forged("a message is signed, and this end has no keys", hint="give it its keys, or neither end")
            return None
        opened = open_envelope(data, about, self.keys.own, lambda key: self._known(key, about.silo))
        if sealed and self.seals and not opened.sealed:
            raise Forged("a message is not sealed", hint="have the other end seal, or this one not insist on it")
        return opened

    def _known(self, key: bytes, silo: str) -> Public | None:
        assert self.keys is not None
        name = self._names.get(key)
        if name is None or (self.by_name and name != silo):
            return None
        return self.keys.others[name]


def timely(opened: Opened, seconds: float, now: float) -> None:
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
            hint="set the clocks of both ends, or find out who sends old messages again",
        )
