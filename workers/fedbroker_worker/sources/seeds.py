"""Seeds of the orders in which a silo's clients have their rows: what a silo answers to ``Seeds`` of a work item.

A coordinator knows the order's digest and the silo's name. If it could compute a silo's seed, a computation could
compare seeds, and let that silo alone take part in a masked sum. So the silo's secret key, where it has one, is part of
the seed; masked sums need keys.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

import numpy as np

from fedbroker.trust.keys import joined
from fedbroker_worker.sources.columns import ColumnType, clients_value, member_value

if TYPE_CHECKING:
    from fedbroker.trust.keyring import Keys
    from fedbroker.wire.messages import Seeds

__all__ = ["SiloSeeds"]

PURPOSE: Final = b"order of rows"
WORDS: Final = 2
TYPES: Final = (ColumnType("seed", "int64", (WORDS,)),)


class SiloSeeds:
    """The seeds of one silo's clients.

    Args:
        silo: the silo's name.
        keys: its keys; None without signatures.
    """

    def __init__(self, silo: str, keys: Keys | None) -> None:
        self._silo = silo.encode()
        self._secret = b"" if keys is None else keys.own.own(PURPOSE)

    def value(self, op: Seeds, clients: int) -> bytes:
        """Return a seed for each client, as the serialized value ``<int64[2]>@CLIENTS``."""
        members = [
            member_value("", TYPES, {"seed": self._seed(op.order, client)}, scalar=True) for client in range(clients)
        ]
        return clients_value(TYPES, members, scalar=True)

    def _seed(self, order: str, client: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Return a client's seed as a column of one row."""
        fields = joined(b"fedbroker order 1", order.encode(), self._silo, str(client).encode())
        digest = hmac.digest(self._secret, fields, hashlib.sha256)
        return np.frombuffer(digest, "<i8", WORDS).astype(np.int64).reshape(1, WORDS)
