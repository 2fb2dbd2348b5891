"""Checks the network path to one of the broker's hosts: its name, its port and its certificate."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any, Final

import aiormq
from aiormq.connection import SSLContextProvider

from fedbroker.diagnostics.finding import Finding
from fedbroker.errors import BrokerUnreachable, ConfigError
from fedbroker.transport.amqp.dial import open_streams, tls_context, untrusted
from fedbroker.transport.amqp.proxy import Proxy
from fedbroker.transport.amqp.url import Endpoint

__all__ = ["reach"]

SECONDS: Final = 5.0
"""Seconds that each step may take; a lost SYN is repeated after 1 and after 3 s."""
RENEWAL_TIME: Final = timedelta(days=30)
"""Time before a certificate expires from which a warning is given, so that it can be renewed."""

_TLS_PORT: Final = "check that the port is the broker's TLS port, usually 5671"


async def reach(endpoint: Endpoint, *, tls: bool) -> tuple[list[Finding], bool]:
    """Look up the host, connect to it, and do the handshake of TLS, if used.

    With a proxy, look up the proxy and connect to it, then have it open a tunnel to the host, whose name it resolves.

    Returns:
        The findings, and whether the host can be reached.
    """
    findings: list[Finding] = []
    try:
        peer = endpoint.proxy or endpoint
        addresses = await _resolved(peer)
        literal = addresses == [peer.host]
        resolved = "is an address, which needs no DNS" if literal else f"resolves to {', '.join(addresses)}"
        findings.append(Finding.ok("dns", f"{peer.host} {resolved}"))
        findings += await _tcp(peer, addresses)
        if endpoint.proxy is not None:
            findings.append(await _tunnel(endpoint, endpoint.proxy))
        if tls:
            findings += await _tls(endpoint)
    except ConfigError as error:
        return [*findings, Finding.problem("tls", error)], False
    except _Failed as failed:
        return [*findings, Finding.problem(failed.subject, failed.error)], False
    return findings, True


class _Failed(Exception):
    """The failure of a step that the next steps need."""

    def __init__(self, subject: str, what: str, hint: str) -> None:
        super().__init__(what)
        self.subject = subject
        self.error = BrokerUnreachable(what, hint=hint)


async def _resolved(peer: Endpoint | Proxy) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(SECONDS):
            infos = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        name = "proxy" if isinstance(peer, Proxy) else "broker"
        raise _Failed(
            "dns",
            f"the host name {peer.host!r} cannot be resolved: {error.strerror}",
            f"correct the {name}'s URL, or this machine's name server",
        ) from None
    except TimeoutError:
        raise _Failed(
            "dns",
            f"the name server did not resolve {peer.host!r} within {SECONDS:g} s",
            "check this machine's name server",
        ) from None
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def _tunnel(endpoint: Endpoint, proxy: Proxy) -> Finding:
    """Have the proxy open a tunnel to the broker's host."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(SECONDS):
            _, writer = await open_streams(endpoint)
    except BrokerUnreachable as error:
        raise _Failed("proxy", error.what, error.hint) from None
    except TimeoutError:
        raise _Failed(
            "proxy",
            f"the proxy {proxy} opened no tunnel to {endpoint} within {SECONDS:g} s",
            "ask the proxy's operator whether it can reach the broker",
        ) from None
    writer.transport.abort()
    took = 1000 * (time.perf_counter() - started)
    return Finding.ok("proxy", f"{proxy} opens a tunnel to {endpoint} in {took:.1f} ms")


async def _tcp(peer: Endpoint | Proxy, addresses: list[str]) -> list[Finding]:
    """Connect to each address: an address that does not answer makes connections slow, or fail now and then."""
    refused: dict[str, str] = {}
    seconds = 0.0
    for address in addresses:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(SECONDS):
                _, writer = await asyncio.open_connection(address, peer.port)
            seconds = time.perf_counter() - started
            writer.close()
        except TimeoutError:
            refused[address] = f"no answer within {SECONDS:g} s"
        except OSError as error:
            refused[address] = os.strerror(error.errno) if error.errno else str(error)
    if len(refused) == len(addresses):
        reason = ", ".join(dict.fromkeys(refused.values()))
        silent = "no answer" in reason
        server = "proxy" if isinstance(peer, Proxy) else "broker"
        hint = "check for a firewall" if silent else f"start the {server}"
        what = f"no server is listening at {peer}: {reason}"
        raise _Failed("tcp", what, f"{hint}, or correct host and port in its URL")
    findings = [Finding.ok("tcp", f"{peer} accepts connections in {1000 * seconds:.1f} ms")]
    for address, reason in refused.items():
        if ip_address(address).is_loopback:
            continue  # "localhost" has two addresses, and few servers listen on both
        silent_address = BrokerUnreachable(
            f"address {address} of {peer.host} does not answer: {reason}", hint="correct the host's DNS records"
        )
        findings.append(Finding.warning("tcp", silent_address))
    return findings


async def _tls(endpoint: Endpoint) -> list[Finding]:
    context = await _context(endpoint)
    try:
        async with asyncio.timeout(SECONDS):
            _, writer = await open_streams(endpoint, context)
    except ssl.SSLCertVerificationError as error:
        refusal = untrusted(str(endpoint), error)
        raise _Failed("tls", refusal.what, refusal.hint) from None
    except TimeoutError:
        raise _Failed("tls", f"{endpoint} did not finish the handshake within {SECONDS:g} s", _TLS_PORT) from None
    except OSError as error:
        reason = getattr(error, "reason", None) or str(error)
        raise _Failed("tls", f"TLS with {endpoint} failed: {reason}", _TLS_PORT) from None
    tls_object: Any = writer.get_extra_info("ssl_object")
    certificate: Mapping[str, Any] = tls_object.getpeercert() or {}
    version = tls_object.version()
    writer.transport.abort()
    if context.verify_mode is ssl.CERT_NONE:
        unchecked = ConfigError(
            f"{version}, but the broker's certificate is not verified: no_verify_ssl is set",
            hint="remove no_verify_ssl from the URL, and name the broker's CA with cafile=",
        )
        return [Finding.warning("tls", unchecked)]
    return [_expiry(certificate, version)]


async def _context(endpoint: Endpoint) -> ssl.SSLContext:
    """Return the context that aiormq would use, without connecting: it reads the URL's options itself."""
    certificates = aiormq.Connection(endpoint.secret).ssl_certs
    loop = asyncio.get_running_loop()
    return await tls_context(SSLContextProvider(ssl_context=None, ssl_certs=certificates, loop=loop))


def _expiry(certificate: Mapping[str, Any], version: str) -> Finding:
    until = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
    remaining = until - datetime.now(UTC)
    text = (
        f"{version}, certificate issued by {_issuer(certificate)}, valid until {until:%Y-%m-%d} ({remaining.days} days)"
    )
    if remaining < RENEWAL_TIME:
        return Finding.warning("tls", BrokerUnreachable(text, hint="ask the broker's operator to renew it"))
    return Finding.ok("tls", text)


def _issuer(certificate: Mapping[str, Any]) -> str:
    names = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    return names.get("commonName") or names.get("organizationName") or "an unnamed authority"
