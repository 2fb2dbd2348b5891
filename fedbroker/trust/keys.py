"""Keys: one secret for each silo and each coordinator, and what others know of it, each a line of text.

A secret is 32 random bytes. Two key pairs come out of it by HKDF (RFC 5869): Ed25519 (RFC 8032) to sign with, X25519
(RFC 7748) to agree on secrets with. Imports the errors only.
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

__all__ = ["KEY_BYTES", "SIGNATURE_BYTES", "Identity", "Public", "derived"]

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
ID_BYTES: Final = 8

_SECRET: Final = "fedbroker-secret-1:"
_PUBLIC: Final = "fedbroker-public-1:"


def derived(secret: bytes, purpose: bytes, salt: bytes | None = None) -> bytes:
    """A key of 32 bytes for one purpose, out of a secret: HKDF with SHA-256."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, b"fedbroker 1 " + purpose).derive(secret)


class Public:
    """What everybody may know of a silo or a coordinator: it checks signatures, and is sealed to.

    Equal to another one with the same keys. Its text is ``fedbroker-public-1:`` and 86 characters.

    Args:
        signing: the 32 bytes of an Ed25519 public key.
        sealing: the 32 bytes of an X25519 public key.

    Attributes:
        id: 8 bytes that name it in messages.
    """

    id: bytes

    def __init__(self, signing: bytes, sealing: bytes) -> None:
        self._raw = signing + sealing
        self.id = hashlib.sha256(self._raw).digest()[:ID_BYTES]
        self._signing = Ed25519PublicKey.from_public_bytes(signing)
        self.sealing: Final = X25519PublicKey.from_public_bytes(sealing)

    @classmethod
    def parse(cls, text: str) -> Public:
        """From its text.

        Raises:
            ConfigError: that is none; a secret is not repeated in the error.
        """
        raw = _parsed(text, _PUBLIC, 2 * KEY_BYTES, "public key")
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
        """Its id as people compare it: 16 hexadecimal digits."""
        return self.id.hex()

    def signed(self, signature: bytes, data: bytes) -> bool:
        """Whether the signature is this one's, over these data."""
        try:
            self._signing.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class Identity:
    """A silo's or a coordinator's own secret; in no ``repr``.

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
        """A new one."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> Identity:
        """From the text that :meth:`reveal` gives.

        Raises:
            ConfigError: that is none; nothing of it is in the error.
        """
        return cls(_parsed(text, _SECRET, KEY_BYTES, "secret key"))

    def reveal(self) -> str:
        """The secret as text, for a file that nobody else may read: ``fedbroker-secret-1:`` and 43 characters."""
        return _SECRET + _text(self._secret)

    def __repr__(self) -> str:
        return f"Identity({self.public.fingerprint})"

    @cached_property
    def public(self) -> Public:
        """What others may know of it."""
        return Public(self._signing.public_key().public_bytes_raw(), self._sealing.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._signing.sign(data)

    def own(self, purpose: bytes) -> bytes:
        """What nobody else knows: 32 bytes for one purpose, the same each time."""
        return derived(self._secret, b"own " + purpose)

    def shared_with(self, other: Public) -> bytes:
        """What only these two know: 32 bytes, to derive keys from.

        Raises:
            ConfigError: the other's key is one of the few with which there is no secret.
        """
        if other not in self._shared:
            try:
                agreed = self._sealing.exchange(other.sealing)
            except ValueError:
                raise ConfigError(f"the public key {other.fingerprint} is of no use", hint="make another one") from None
            self._shared[other] = derived(agreed, b"pair", b"".join(sorted((self.public.id, other.id))))
        return self._shared[other]

    def secret_with(self, other: Public, purpose: bytes) -> bytes:
        """What only these two know, for one purpose: 32 bytes.

        Raises:
            ConfigError: as :meth:`shared_with` does.
        """
        return derived(self.shared_with(other), b"between two " + purpose)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _parsed(text: str, prefix: str, size: int, what: str) -> bytes:
    """The bytes behind a prefix."""
    hint = f"it is one line that begins with {prefix}"
    if not text.startswith(prefix):
        raise ConfigError(f"what should be a {what} is none", hint=hint)
    body = text.removeprefix(prefix)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"a {what} is damaged", hint=hint) from None
    if len(raw) != size:
        raise ConfigError(f"a {what} is cut short or too long", hint=hint)
    return raw
