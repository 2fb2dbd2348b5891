"""Reading of announcements: verified with a coordinator's keys, or ignored for a reason that its errors can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from fedbroker.errors import ConfigError, FedbrokerError, Forged, WireError
from fedbroker.log import get_logger
from fedbroker.lru import LruMap
from fedbroker.transport.signed_messages import CoordinatorEnvelopes
from fedbroker.transport.topology import silo_key
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.codec import decode
from fedbroker.wire.limits import Limits
from fedbroker.wire.messages import Announce, Leave

__all__ = ["AnnouncementReader", "LobbyMessage"]

_log = get_logger(__name__)

LobbyMessage: TypeAlias = Announce | Leave

MAX_IGNORED: Final = 64
"""Ignored silos that are remembered for an error: more would not fit its line."""


class AnnouncementReader:
    """Reads the announcements and departures of a cohort that a coordinator with given keys can use.

    Args:
        cohort: the cohort's name.
        limits: bounds on messages.
        envelopes: verifies announcements.
        on_forged: called with a silo's name, an empty session id and a reason, for each forged announcement.

    Attributes:
        ignored: why a silo's latest announcement is ignored, by the silo's name.
    """

    ignored: LruMap[str, FedbrokerError]

    def __init__(
        self,
        cohort: str,
        limits: Limits,
        envelopes: CoordinatorEnvelopes,
        on_forged: Callable[[str, str, str], None] = lambda _silo, _session, _why: None,
    ) -> None:
        self._cohort = cohort
        self._limits = limits
        self._envelopes = envelopes
        self._on_forged = on_forged
        self.ignored = LruMap(MAX_IGNORED)

    def read(self, body: Buffer, key: str | None = None) -> LobbyMessage | None:
        """Return a verified announcement or departure; None (after a report or log line) if it is ignored.

        Args:
            body: the message.
            key: its routing key, if known.
        """
        try:
            message = self._verified(body, key)
        except Forged as error:
            silo = (key or "").rpartition(".")[2]
            if self._envelopes.is_signed:
                self._on_forged(silo, "", error.what)
            # Without keys nothing can be verified: a signed announcement is no attack.
            self._ignore(silo, error, log=not self._envelopes.is_signed)
            return None
        except WireError as error:
            _log.warning("message_dropped", at="lobby", reason=error.what)
            return None
        if isinstance(message, Announce) and message.sealed_only and not self._envelopes.is_sealed:
            self._ignore(message.silo, _not_sealed(message.silo))
            return None
        self.ignored.pop(message.silo, None)
        return message

    def _verified(self, body: Buffer, key: str | None) -> LobbyMessage:
        unsigned, signer = self._envelopes.announcement(body)
        message = decode(unsigned, self._limits).message
        if not isinstance(message, Announce | Leave) or message.cohort != self._cohort:
            raise WireError(f"a {type(message).__name__} that does not belong in the lobby of {self._cohort!r}")
        if signer not in (None, message.silo):
            raise Forged(f"an announcement of {message.silo!r} that {signer!r} has signed")
        if key is not None and key != silo_key(message.cohort, message.silo):
            raise WireError(f"a message of {message.silo!r} under the routing key {key!r}")
        return message

    def _ignore(self, silo: str, error: FedbrokerError, *, log: bool = True) -> None:
        earlier = self.ignored.get(silo)
        if log and (earlier is None or earlier.what != error.what):  # a silo announces itself every few seconds
            _log.warning("announcement_ignored", silo=silo, reason=error.what)
        if silo:
            self.ignored[silo] = error


def _not_sealed(silo: str) -> ConfigError:
    return ConfigError(
        f"silo {silo!r} takes sealed work only, and this program does not seal",
        hint="set seal = true in the file that FEDBROKER_KEYS or keys= names",
    )
