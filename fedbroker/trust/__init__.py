"""Authentication and encryption: keys, signed and sealed messages, sealed blobs."""

from __future__ import annotations

from fedbroker.trust.keys import Identity, Public

__all__ = ["Identity", "Public"]
