"""Keys: one secret for each silo and each coordinator, and its public key, each a line of text.

A secret is 32 random bytes. HKDF (RFC 5869) derives two key pairs from it: Ed25519 (RFC 8032) for signatures, X25519
(RFC 7748) for shared secrets.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedbroker.errors import ConfigError

__all__ = ["KEY_BYTES", "SIGNATURE_BYTES", "Identity", "Public", "derived", "joined"]

KEY_BYTES: Final = 32  # of Ed25519, X25519 and AES-256 keys
SIGNATURE_BYTES: Final = 64  # of Ed25519
ID_BYTES: Final = 8
"""Bytes of a public key's id: enough to find the key among those that are trusted; the signature decides."""

_SECRET: Final = "fedbroker-secret-1:"
_PUBLIC: Final = "fedbroker-public-1:"


def derived(secret: bytes, purpose: bytes, salt: bytes | None = None) -> bytes:
    """Derive a key of 32 bytes for one purpose from a secret, by HKDF with SHA-256."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, b"fedbroker 1 " + purpose).derive(secret)


def joined(*fields: bytes) -> bytes:
    """Return an unambiguous encoding of fields: two lists of fields never have the same."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


class Public:
    """The public key of a silo or a coordinator: it verifies signatures, and messages can be sealed to it.

    Equal to another public key with the same bytes. Its text is ``fedbroker-public-1:`` and 86 characters.

    Args:
        signing: the 32 bytes of an Ed25519 public key.
        sealing: the 32 bytes of an X25519 public key.

    Attributes:
        id: 8 bytes that identify it in messages.
    """

    id: bytes

    def __init__(self, signing: bytes, sealing: bytes) -> None:
        self._raw = signing + sealing
        self.id = hashlib.sha256(self._raw).digest()[:ID_BYTES]
        self._signing = Ed25519PublicKey.from_public_bytes(signing)
        self.sealing: Final = X25519PublicKey.from_public_bytes(sealing)

    @classmethod
    def parse(cls, text: str) -> Public:
        """Return the public key of a text.

        Raises:
            ConfigError: the text is no public key; the error does not repeat it, since it may be a secret.
        """
        raw = _decoded(text, _PUBLIC, 2 * KEY_BYTES, "public key")
        return cls(raw[:KEY_BYTES], raw[KEY_BYTES:])

    def __str__(self) -> str:
        return _PUBLIC + _text(self._raw)

    def __repr__(self) -> str:
        return f"Public({self.fingerprint})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Public) and other._raw == self._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    @property
    def fingerprint(self) -> str:
        """Return its id as people compare it: 16 hexadecimal digits."""
        return self.id.hex()

    def signed(self, signature: bytes, data: bytes) -> bool:
        """Return whether the signature is from this key, over these data."""
        try:
            self._signing.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class Identity:
    """The secret key of a silo or a coordinator; its ``repr`` does not show it.

    Args:
        secret: 32 random bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._signing = Ed25519PrivateKey.from_private_bytes(derived(secret, b"signing"))
        self._sealing = X25519PrivateKey.from_private_bytes(derived(secret, b"sealing"))
        self._shared: dict[Public, bytes] = {}

    @classmethod
    def generate(cls) -> Identity:
        """Generate a new secret."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Return the identity of a text as :meth:`reveal` returns it.

        Raises:
            ConfigError: the text is no secret; the error does not repeat it.
        """
        return cls(_decoded(text, _SECRET, KEY_BYTES, "secret key"))

    def reveal(self) -> str:
        """Return the secret as text, for a file that only its owner can read.

        The text is ``fedbroker-secret-1:`` and 43 characters.
        """
        return _SECRET + _text(self._secret)

    def __repr__(self) -> str:
        return f"Identity({self.public.fingerprint})"

    @cached_property
    def public(self) -> Public:
        """Return its public key."""
        return Public(self._signing.public_key().public_bytes_raw(), self._sealing.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """Return the signature of ``data``, 64 bytes."""
        return self._signing.sign(data)

    def own(self, purpose: bytes) -> bytes:
        """Derive a secret of 32 bytes for one purpose, known to this identity only and always the same."""
        return derived(self._secret, b"own " + purpose)

    def shared_with(self, other: Public) -> bytes:
        """Return the secret of 32 bytes that the two identities share, for deriving keys.

        Raises:
            ConfigError: the public key is one of the few that allow no shared secret.
        """
        if other not in self._shared:
            try:
                secret = self._sealing.exchange(other.sealing)
            except ValueError:
                raise ConfigError(
                    f"the public key {other.fingerprint} is not usable", hint="make another one"
                ) from None
            self._shared[other] = derived(secret, b"pair", b"".join(sorted((self.public.id, other.id))))
        return self._shared[other]

    def secret_with(self, other: Public, purpose: bytes) -> bytes:
        """Derive a secret of 32 bytes for one purpose, known to the two identities only.

        Raises:
            ConfigError: as :meth:`shared_with` does.
        """
        return derived(self.shared_with(other), b"between two " + purpose)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str, prefix: str, size: int, kind: str) -> bytes:
    """Return the bytes encoded after a prefix."""
    hint = f"it is one line that begins with {prefix}"
    if not text.startswith(prefix):
        raise ConfigError(f"this is not a {kind}", hint=hint)
    body = text.removeprefix(prefix)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"a {kind} is damaged", hint=hint) from None
    if len(raw) != size:
        raise ConfigError(f"a {kind} is truncated or too long", hint=hint)
    return raw
