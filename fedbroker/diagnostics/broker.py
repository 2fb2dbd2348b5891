"""The steps of a diagnosis, in order. A step is skipped if an earlier one shows that it cannot work."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import aiormq.exceptions

from fedbroker.diagnostics.channels import Channels
from fedbroker.diagnostics.finding import Finding
from fedbroker.diagnostics.latency import ROUNDS, Loop, Pace, confirmed
from fedbroker.diagnostics.network import reach
from fedbroker.diagnostics.permissions import check_permissions
from fedbroker.diagnostics.server import Server, alarm, message_limit, server_of
from fedbroker.diagnostics.topology import Role, check_topology
from fedbroker.errors import BrokerError, BrokerLost, BrokerUnreachable, ConfigError, DeadlineExceeded
from fedbroker.text import seconds_text
from fedbroker.transport.amqp.dial import Connected, connect
from fedbroker.transport.amqp.url import Address, Endpoint, is_loopback, parse
from fedbroker.transport.topology import BLOBS

__all__ = ["examine"]

LOGIN_SECONDS: Final = 15.0
"""Seconds that the login may take: a busy broker answers within a few, any other server not at all."""
CONNECTION_NAME: Final = "fedbroker doctor"
"""Name of the connection, as the broker's management pages show it."""
MIB: Final = 1024 * 1024
MIN_SPEED: Final = 1 * MIB
"""Bytes per second below which a warning says that models take long."""
PROBE_SECONDS: Final = 20.0
"""Seconds that the probe of the message limit may take: its size is limited by the measured throughput."""
MAX_CLOCK_DIFFERENCE: Final = 5.0
"""Seconds of clock difference from which a warning is given. A small one is harmless: fedbroker itself compares no
clocks of two machines."""
DEFAULT_CONSUMER_TIMEOUT: Final = 1800.0
"""Seconds of RabbitMQ's default ``consumer_timeout``."""
EXCHANGES: Final = (BLOBS.name, "amq.direct")
"""Direct exchanges to measure with: fedbroker's own or, if the user has no access to it, RabbitMQ's ``amq.direct``."""


async def examine(url: str, role: Role, *, renew_seconds: float = 600.0) -> list[Finding]:
    """Check a broker with the needs of a role; nothing is left on it.

    Args:
        url: ``amqp://`` or ``amqps://``; each of its hosts is checked.
        role: the needs of a coordinator or a silo.
        renew_seconds: seconds after which a silo returns long work, to take it again.

    Returns:
        The findings, in the order of the checks.
    """
    try:
        address = parse(url)
    except ConfigError as error:
        return [Finding.problem("url", error)]
    findings = [_url(address)]
    several = len(address.endpoints) > 1
    servers: list[Server] = []
    cluster_findings: list[Finding] = []
    for endpoint in address.endpoints:
        host, connected = await _host(endpoint, address)
        if connected is not None:
            servers.append(server_of(connected))
            try:
                host += servers[-1].findings()
                host.append(await alarm(connected, Channels(connected), role.unheard))
                if not cluster_findings and host[-1].level == "ok":
                    cluster_findings = await _cluster_findings(connected, servers[-1], address, role, renew_seconds)
            except BrokerError as error:
                host.append(Finding.problem("broker", error))
            finally:
                await connected.close()
        findings += [finding.at(str(endpoint)) for finding in host] if several else host
    return [*findings, *_clusters(servers), *cluster_findings]


def _url(address: Address) -> Finding:
    if address.tls or all(is_loopback(endpoint.host) for endpoint in address.endpoints):
        return Finding.ok("url", f"{address.shown}")
    error = ConfigError(
        f"{address.shown}: password and data are sent unencrypted",
        hint="ask the broker's operator to enable TLS, and write amqps://",
    )
    return Finding.warning("url", error)


async def _host(endpoint: Endpoint, address: Address) -> tuple[list[Finding], Connected | None]:
    """Return the findings on the way to one host and, if the login succeeded, the connection."""
    findings, reached = await reach(endpoint, tls=address.tls)
    if not reached:
        return findings, None
    single = replace(address, endpoints=(endpoint,))
    try:
        async with asyncio.timeout(LOGIN_SECONDS):
            connected = await connect(single, CONNECTION_NAME)
    except TimeoutError:
        silent = BrokerUnreachable(
            f"the server at {endpoint} does not answer as a broker", hint="correct host and port in the URL"
        )
        return [*findings, Finding.problem("login", silent)], None
    except (BrokerError, ConfigError) as error:
        return [*findings, Finding.problem("login", error)], None
    return [*findings, Finding.ok("login", f"user {address.user!r} may use vhost {address.vhost!r}")], connected


async def _cluster_findings(
    connected: Connected, server: Server, address: Address, role: Role, renew_seconds: float
) -> list[Finding]:
    """Return the findings that are the same at every host of a cluster."""
    channels = Channels(connected)
    findings: list[Finding] = []
    subject = "permissions"
    try:
        findings += await check_permissions(channels, role, user=address.user, vhost=address.vhost)
        subject = "topology"
        findings += (await check_topology(channels, role)).findings
        subject = "round trip"
        pace, clock_lead = await _measured(channels, role)
        findings += _pace(pace)
        subject = "message limit"
        max_bytes = PROBE_SECONDS * pace.bytes_per_second if pace is not None else math.inf
        findings.append(await message_limit(channels, role.unheard, max_bytes=max_bytes))
        findings += [_time_out(server, renew_seconds), _clock(clock_lead)]
    except BrokerError as error:
        findings.append(Finding.problem(subject, error))
    return findings


async def _measured(channels: Channels, role: Role) -> tuple[Pace | None, tuple[float, float] | None]:
    """Return the pace of messages and the lead of the broker's clock; None for a value that cannot be measured."""
    for exchange in EXCHANGES:
        try:
            loop = await Loop.open(channels, role.private, exchange)
            clock_lead = await loop.clock()
            return await loop.pace(), clock_lead
        except aiormq.exceptions.ChannelClosed:  # no permission, or no such exchange
            continue
    try:
        return await confirmed(channels, role.unheard), None
    except aiormq.exceptions.ChannelClosed:
        return None, None


def _pace(pace: Pace | None) -> list[Finding]:
    if pace is None:
        return [Finding.ok("round trip", "not measured: this user may not publish to any existing exchange")]
    where = (
        "to the broker and back"
        if pace.delivered
        else "to the broker's confirmation (this user may not receive its own messages)"
    )
    trip = Finding.ok("round trip", f"{1000 * pace.round_trip:.1f} ms {where}, median of {ROUNDS}")
    if not pace.bytes_per_second:
        return [trip]
    speed = f"{pace.bytes_per_second / MIB:.1f} MiB/s {where}"
    if pace.bytes_per_second >= MIN_SPEED:
        return [trip, Finding.ok("throughput", speed)]
    slow = DeadlineExceeded(
        f"{speed}: 100 MiB take {100 * MIB / pace.bytes_per_second:.0f} s", hint="allow for that in Timeouts(stage=)"
    )
    return [trip, Finding.warning("throughput", slow)]


def _time_out(server: Server, renew_seconds: float) -> Finding:
    """Return the finding on the consumer timeout, which the broker does not reveal over AMQP."""
    if server.queues_have_time_outs:
        return Finding.ok("consumer timeout", "a day: this broker applies the timeout of silos' queues")
    every = seconds_text(renew_seconds)
    unknown = f"the broker's own is unknown (30 min by default); silos return long work every {every}"
    if renew_seconds < DEFAULT_CONSUMER_TIMEOUT:
        return Finding.ok("consumer timeout", f"{unknown}, so that it may take longer")
    late = BrokerLost(unknown, hint="lower [silo] renew_seconds, or ask the operator to raise consumer_timeout")
    return Finding.warning("consumer timeout", late)


def _clock(lead: tuple[float, float] | None) -> Finding:
    if lead is None:
        return Finding.ok("clock", "not measured: this user may not receive its own messages")
    seconds, error = lead
    if abs(seconds) <= error:
        return Finding.ok("clock", f"the broker's clock agrees with ours within {error:.1f} s")
    direction = "ahead of" if seconds > 0 else "behind"
    difference = f"the broker's clock is {abs(seconds):.1f} s {direction} ours (±{error:.1f} s)"
    if abs(seconds) < MAX_CLOCK_DIFFERENCE:
        return Finding.ok("clock", difference)
    return Finding.warning(
        "clock",
        BrokerError(
            f"{difference}: log times do not match, and certificates may seem expired", hint="use NTP on both machines"
        ),
    )


def _clusters(servers: Sequence[Server]) -> list[Finding]:
    names = sorted({server.cluster for server in servers})
    if len(names) < 2:
        return []
    error = BrokerError(
        f"the URL's hosts belong to several clusters: {', '.join(names)}", hint="name the hosts of one cluster only"
    )
    return [Finding.problem("cluster", error)]
