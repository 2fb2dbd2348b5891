"""Errors of TLS with the broker: OpenSSL's errors translated into typed errors with a hint."""

from __future__ import annotations

import ssl
from typing import Final

from fedbroker.errors import BrokerRefused, BrokerUnreachable

__all__ = ["ended_without_a_word", "no_tls", "refused_certificate", "untrusted"]

_UNKNOWN_CA: Final = (18, 19, 20, 21)  # OpenSSL's verify codes: self-signed certificates and unknown issuers
_EXPIRED: Final = (9, 10)
_OTHER_NAME: Final = (62, 64)
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate, and the URL names none",
    "UNKNOWN_CA": "it does not know the authority of our certificate",
    "CERTIFICATE_EXPIRED": "our certificate has expired",
    "CERTIFICATE_REVOKED": "our certificate was revoked",
    "BAD_CERTIFICATE": "our certificate does not do, or there is none",
    "UNSUPPORTED_CERTIFICATE": "our certificate is not one for clients",
    "CERTIFICATE_UNKNOWN": "our certificate does not do",
    "HANDSHAKE_FAILURE": "no client certificate, or no cipher in common",
}
"""The broker's reasons to refuse our certificate, by OpenSSL's alert names."""


def untrusted(where: str, error: ssl.SSLCertVerificationError) -> BrokerUnreachable:
    """Return the error for a broker certificate that cannot be verified."""
    return BrokerUnreachable(f"the certificate of {where} is not trusted: {error.verify_message}", hint=_advice(error))


def _advice(error: ssl.SSLCertVerificationError) -> str:
    """Return the hint for a verification error."""
    if error.verify_code in _UNKNOWN_CA:
        return "name the CA that issued it with cafile= in the broker's URL"
    if error.verify_code in _EXPIRED:
        return "have the broker's operator renew it, or correct this machine's clock"
    if error.verify_code in _OTHER_NAME:
        return "use the host name that is in it, or have the operator put this one in"
    return "have the broker's operator look at it"


def refused_certificate(where: str, error: BaseException) -> BrokerRefused | None:
    """Return the error for a client certificate that the broker refused; None if the error is no such TLS alert."""
    said = str(getattr(error, "reason", None) or error).upper().replace(" ", "_")
    why = next((words for alert, words in _ALERTS.items() if f"ALERT_{alert}" in said), None)
    if why is None:
        return None
    return BrokerRefused(
        f"the broker at {where} refuses our certificate: {why}",
        hint="correct certfile and keyfile in the broker's URL, or have the operator issue another certificate",
    )


def ended_without_a_word(where: str) -> BrokerRefused:
    """Return the error for a broker that closed the connection right after the TLS handshake."""
    return BrokerRefused(
        f"the broker at {where} refuses our certificate, or wants a client certificate: it hung up at once",
        hint="correct certfile and keyfile in the broker's URL, or have the operator issue another certificate",
    )


def no_tls(where: str, error: ssl.SSLError) -> BrokerRefused | BrokerUnreachable:
    """Return the error for a failed TLS handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return untrusted(where, error)
    return refused_certificate(where, error) or BrokerUnreachable(
        f"no TLS connection with {where}: {error.reason or error}",
        hint="see that the port is the broker's TLS port and that `cafile` in the URL is its CA",
    )
