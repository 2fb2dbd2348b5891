"""Who said what, and who may read it: keys, signed and sealed messages, sealed blobs.

Imports wire and the base only.
"""

from __future__ import annotations

from fedbroker.trust.keys import Identity, Public

__all__ = ["Identity", "Public"]
