"""The administrator's own certificate authority, and the silos' client certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedbroker.admin.files import read_text, write_secret
from fedbroker.errors import ConfigError

__all__ = ["Certificate", "new_authority", "signed"]

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
"""Lifetime of the authority: each silo's certificate is renewed many times under it."""
CERTIFICATE_LIFETIME: Final = timedelta(days=365)
"""Lifetime of a silo's certificate, renewed with `fedbroker admin rotate`; a revoked silo loses its user at once."""
CLOCK_TOLERANCE: Final = timedelta(minutes=10)
"""Age of a certificate when it is issued, so that a broker whose clock is behind accepts it."""
MAX_NAME: Final = 64
"""Maximal number of characters of a common name (RFC 5280)."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, each as PEM."""

    certificate: str
    key: str = field(repr=False)


def new_authority(directory: Path, *, force: bool) -> None:
    """Make ``ca.pem`` and ``ca.key`` in a directory, valid for ten years.

    Raises:
        ConfigError: they exist already, or cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("fedbroker silos")
    certificate = _builder(name, name, key, AUTHORITY_LIFETIME)
    certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = certificate.add_extension(_usage(signs_certificates=True), critical=True)
    certificate = certificate.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    write_secret(directory / "ca.key", _pem_of_key(key), force=force)
    write_secret(directory / "ca.pem", _pem(certificate.sign(key, hashes.SHA256())), force=force)


def signed(directory: Path, user: str) -> Certificate:
    """Issue a client certificate for one year, with the user as common name, by the authority in that directory.

    Raises:
        ConfigError: the directory has no authority, or the name is too long for a certificate.
    """
    if len(user) > MAX_NAME:
        raise ConfigError(
            f"{user!r} has more than {MAX_NAME} characters, too many for a certificate's name",
            hint="use shorter names for cohort and silo, or a password",
        )
    if not (directory / "ca.key").exists():
        raise ConfigError(f"{directory} has no authority", hint="run `fedbroker admin init --certificates`")
    authority, authority_key = _authority(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(user), authority.subject, key, CERTIFICATE_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    return Certificate(_pem(builder.sign(authority_key, hashes.SHA256())), _pem_of_key(key))


def _authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(read_text(directory / "ca.pem").encode())
        key = serialization.load_pem_private_key(read_text(directory / "ca.key").encode(), None)
    except (ValueError, TypeError):
        raise ConfigError(f"the authority in {directory} is damaged", hint="make another one with --force") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"fedbroker did not make the authority in {directory}", hint="make another one with --force")
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(now + lifetime)
    )


def _name(name: str) -> x509.Name:
    parts: Sequence[x509.NameAttribute[str]] = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    return x509.Name(parts)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> str:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()
