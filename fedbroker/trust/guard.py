"""What one end signs, seals and believes: its own key, and the keys of those who may write to it.

Plain functions of keys and bytes; imports the trust's own modules, wire and the base.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fedbroker.errors import ConfigError, Forged
from fedbroker.trust.envelope import About, Opened, open_envelope, sender_of, wrap
from fedbroker.trust.keys import Identity, Public
from fedbroker.wire.blobs import Buffer

__all__ = ["SKEW", "Guard", "Keys", "timely"]

SKEW: Final = 300.0
"""Seconds by which two clocks may differ."""


@dataclass(frozen=True, slots=True)
class Keys:
    """An end's keys.

    Attributes:
        own: this end's secret.
        others: who may write to this end, by name: at a coordinator its silos; at a silo its coordinators, whose names
            are for people only.
        seal: nothing but what is sealed is sent and believed, where it could be.

    Raises:
        ConfigError: one key is there under two names, or there is none.
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
    """Puts what goes out into envelopes and takes what comes in out of them; does nothing where there are no keys.

    Attributes:
        keys: this end's; None: nothing is signed, and nothing that is signed is understood.
        by_name: a silo's messages must be its own: so at a coordinator. A silo believes each of its coordinators.
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
        """Whether this end insists on that."""
        return self.keys is not None and self.keys.seal

    def key_of(self, name: str) -> Public | None:
        """The public key of somebody at the other end."""
        return None if self.keys is None else self.keys.others.get(name)

    def sender(self, data: Buffer) -> str | None:
        """The name of whoever claims to have written a message; None for one whom we do not know."""
        claimed = sender_of(data)
        return None if claimed is None else self._names.get(claimed)

    def wrap(self, body: bytes, about: About, seal_to: Public | None = None) -> bytes:
        """A message as it goes out: signed, and sealed to whom that is said."""
        if self.keys is None:
            return body
        return wrap(body, about, self.keys.own, now=self.clock(), seal_to=seal_to)

    def open(self, data: Buffer, about: About, *, sealed: bool = False) -> Opened | None:
        """A message that came in; None where nothing is signed, and its bytes are what was said.

        Args:
            data: the message.
            about: what it must be about.
            sealed: it must be sealed, if this end insists on that.

        Raises:
            Forged: it is not what somebody who may has written to us about that.
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
    """See that a message is of our time.

    Args:
        opened: the message.
        seconds: for which it means something, from when it was written.
        now: seconds since 1970.

    Raises:
        Forged: its time has passed, or has not come, by more than clocks may differ.
    """
    age = now - opened.issued
    if not -SKEW <= age <= seconds + SKEW:
        raise Forged(
            f"a message was written {age:.0f} s ago, and was for {seconds:.0f} s",
            hint="set the clocks of both ends, or find out who sends old messages again",
        )
