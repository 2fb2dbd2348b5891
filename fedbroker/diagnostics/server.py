"""Checks of the broker itself: its product and version, its alarms, and the largest message that it accepts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiormq.exceptions
from pamqp import commands

from fedbroker.diagnostics.channels import Channels
from fedbroker.diagnostics.finding import Finding
from fedbroker.diagnostics.topology import Target
from fedbroker.errors import BrokerError, BrokerLost, BrokerRefused
from fedbroker.transport.amqp.dial import Connected
from fedbroker.transport.amqp.exceptions import first_line, guarded
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits

__all__ = ["Server", "alarm", "message_limit", "server_of"]

MIB: Final = 1024 * 1024
MIN_VERSION: Final = (3, 10)
"""Oldest version of RabbitMQ that fedbroker is tested with."""
MIN_FRAME: Final = 1 * MIB
"""Bytes of a frame below which large models travel more slowly."""
ALARM_SECONDS: Final = 3.0
"""Seconds to wait for an answer after publishing: a broker with an alarm stops reading, and does not answer."""
PROBE_SECONDS: Final = 60.0
"""Time limit for sending the largest message, in seconds."""
HEADER_BYTES: Final = 4096
"""Bytes of a chunk's message in addition to the chunk."""

_REFUSAL: Final = re.compile(r"configured max size (\d+)")


@dataclass(frozen=True, slots=True)
class Server:
    """The broker's description of itself.

    Attributes:
        product: name of the product.
        version: version, as the broker writes it.
        cluster: name of its cluster.
        frame_max: largest number of bytes of a frame, 0 for any number.
    """

    product: str
    version: str
    cluster: str
    frame_max: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version's first two numbers; empty if the version cannot be parsed."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found else ()

    @property
    def queues_have_time_outs(self) -> bool:
        """True if a queue may have a consumer timeout of its own."""
        return self.product == "RabbitMQ" and self.numbers >= (3, 12)

    def findings(self) -> list[Finding]:
        """Return the finding on product, version and frame size."""
        text = f"{self.product} {self.version}, node or cluster {self.cluster}"
        if self.product != "RabbitMQ":
            error = BrokerError(f"{text}: fedbroker supports RabbitMQ only", hint="use RabbitMQ 3.10 or later")
            return [Finding.warning("broker", error)]
        if self.numbers and self.numbers < MIN_VERSION:
            error = BrokerError(f"{text}: fedbroker is tested with 3.10 and later", hint="update the broker")
            return [Finding.warning("broker", error)]
        if 0 < self.frame_max < MIN_FRAME:
            text += f"; frames of {self.frame_max // 1024} KiB (frame_max = 2097152 makes large models faster)"
        return [Finding.ok("broker", text)]


def server_of(connected: Connected) -> Server:
    """Return the description that the broker sent when we connected."""
    connection: Any = connected.amqp.transport.connection if connected.amqp.transport is not None else None
    properties: Mapping[str, Any] = getattr(connection, "server_properties", None) or {}

    def text(name: str) -> str:
        return str(properties.get(name, "") or "unknown")

    frame = int(connection.connection_tune.frame_max or 0) if connection is not None else 0
    return Server(text("product"), text("version"), text("cluster_name"), frame)


async def alarm(connected: Connected, channels: Channels, target: Target) -> Finding:
    """Check whether the broker has stopped accepting messages because memory or disk space is low.

    The broker announces an alarm once the connection has published, and then reads nothing more from it.
    """
    publisher = await channels.open()
    flawed = commands.Basic.Properties(expiration="never")
    await guarded(
        publisher.basic_publish(b"", exchange=target.exchange.name, routing_key=target.key, properties=flawed)
    )
    try:
        async with asyncio.timeout(ALARM_SECONDS):
            await channels.open()
    except (TimeoutError, BrokerLost):
        return Finding.problem("alarm", await _silence_reason(connected))
    return Finding.ok("alarm", "none: the broker accepts messages")


async def _silence_reason(connected: Connected) -> BrokerLost:
    transport = connected.amqp.transport
    try:
        async with asyncio.timeout(0.1):
            if transport is not None:
                await transport.connection.ready()  # blocks while the broker has announced an alarm
    except TimeoutError:
        return BrokerLost(
            "the broker accepts no messages: memory or disk space is low",
            hint="see `rabbitmqctl status` for the alarm; free memory or disk space, or change "
            "vm_memory_high_watermark or disk_free_limit",
        )
    return BrokerLost(f"the broker did not answer within {ALARM_SECONDS:g} s", hint="check its log and its load")


async def message_limit(
    channels: Channels, target: Target, *, max_bytes: float, limits: Limits = DEFAULT_LIMITS
) -> Finding:
    """Check whether the broker accepts messages as large as ours.

    It checks a message's size first. So a message that cannot be delivered is enough, and nothing is stored.

    Args:
        channels: channels of a connection that may be slow.
        target: a target to which the user may publish.
        max_bytes: largest number of bytes to send.
        limits: our limits on messages.
    """
    chunk = limits.large_chunk + HEADER_BYTES
    size = int(max(chunk, min(limits.max_message, max_bytes)))
    limit = await _limit(channels, target, size)
    if limit is None:
        largest = (
            "the largest size that fedbroker sends"
            if size >= limits.max_message
            else "larger ones were not tried on this slow network"
        )
        return Finding.ok("message limit", f"the broker accepts messages of {size / MIB:.1f} MiB, {largest}")
    hint = f"ask the broker's operator to set max_message_size = {16 * MIB} or more"
    if limit < chunk:
        what = f"the broker refuses messages of more than {limit} bytes, but models need {chunk}"
        return Finding.problem("message limit", BrokerRefused(what, hint=hint))
    what = f"the broker refuses messages of more than {limit} bytes, but work items may have {limits.max_message} bytes"
    return Finding.warning("message limit", BrokerRefused(what, hint=hint))


async def _limit(channels: Channels, target: Target, size: int) -> int | None:
    """Return the broker's limit if a message of that size exceeds it, else None."""
    channel = await channels.open(confirms=True)
    flawed = commands.Basic.Properties(expiration="never")
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await guarded(
                channel.basic_publish(
                    bytes(size), exchange=target.exchange.name, routing_key=target.key, properties=flawed
                )
            )
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        match = _REFUSAL.search(str(error))
        if match is not None:
            return int(match[1])
        return size - 1 if "size" in first_line(error) else None
    except aiormq.exceptions.ChannelClosed:
        return None  # no permission, or no such exchange: these are checked after the size
    except TimeoutError:
        raise BrokerLost(
            f"the broker did not accept a message of {size} bytes within {PROBE_SECONDS:g} s", hint="check the network"
        ) from None
    return None
