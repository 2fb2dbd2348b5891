"""A raw client against message parsing: property bytes that AMQP's libraries neither write nor read.

The broker passes them on unchanged. A client that may publish to a silo's or a coordinator's queue could otherwise end
the reader's connection with one message, which the broker redelivers on the next connection. The connection must stay,
the message must be handled like any other malformed one, and the next valid message must be served.
"""

from __future__ import annotations

import struct
import time

import pytest
from fedbroker_worker.service import SiloService
from pamqp import decode

from fedbroker.broker import PrivateBroker
from fedbroker.transport import CoordinatorTransport, SiloTransport, topology
from fedbroker.transport.amqp.message import LONGEST_TABLE, install_tolerant_decoders
from tests.support.raw_amqp import raw_connection, short_string, table
from tests.support.transports import coordinator_transport, eventually, silo_transport
from tests.support.worker import load_settings, work_client

NONE = b"\xff\xfe\xc3"
"""Invalid UTF-8."""


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = b"A" + table(inner)
    return table(b"\x01a" + inner)


def many(count: int) -> bytes:
    return table(b"\x01aA" + table(b"V" * count))


WORDS = ("content_type", "reply_to", "correlation_id", "message_id", "type", "app_id")
PROPERTIES = {
    "words": {name: short_string(NONE) for name in WORDS},
    "a_header_s_name": {"headers": table(short_string(NONE) + b"V")},
    "a_header": {"headers": table(b"\x01aS" + table(NONE))},
    "a_header_s_time": {"headers": table(b"\x01aT" + struct.pack(">Q", 1 << 62))},
    "a_time": {"timestamp": struct.pack(">Q", 1 << 62)},
    "a_deep_header": {"headers": nested(20_000)},
    "a_long_header": {"headers": many(100_000)},
}


def lost(*ends: SiloTransport | CoordinatorTransport) -> int:
    """Return how often these have lost a connection."""
    return sum(line.reconnections for end in ends for line in end.traffic.values())


def named(properties: dict[str, bytes]) -> dict[str, bytes]:
    return {"message_id": short_string(b"m"), "correlation_id": short_string(b"s.0.ewr")} | properties


@pytest.fixture
async def scene(broker: PrivateBroker, cohort: str, tmp_path):
    """Run a real silo, and a coordinator that it answers."""
    own = load_settings(tmp_path, broker.url, cohort)
    async with SiloService(own) as silo, work_client(own) as client, raw_connection(broker.url) as attacker:
        await eventually(lambda: "ewr" in client.coordinator.silos)
        yield silo, client, attacker


@pytest.mark.parametrize("how", PROPERTIES)
async def test_a_silo_keeps_its_connection_for_any_message_properties(scene, cohort, how) -> None:
    silo, client, attacker = scene
    key = topology.work_key(cohort, "ewr", client.transport.coordinator_id).encode()
    here = topology.silo_key(cohort, "ewr").encode()
    rejected = silo._transport.work_counters.rejected
    await attacker.publish(topology.WORK.name, key, b"nonsense", named(PROPERTIES[how]))
    await attacker.publish(topology.MAIL.name, here, b"nonsense", named(PROPERTIES[how]))
    await attacker.publish(topology.BLOBS.name, here, b"nonsense", named(PROPERTIES[how]))
    await eventually(lambda: silo._transport.work_counters.rejected > rejected)
    await client.check()
    assert lost(silo._transport, client.transport) == 0  # the coordinator got the dead letter


@pytest.mark.parametrize("how", PROPERTIES)
async def test_a_coordinator_keeps_its_connection_for_any_message_properties(broker, cohort, how) -> None:
    async with (
        silo_transport(broker.url, cohort) as silo,
        coordinator_transport(broker.url, cohort) as coordinator,
        raw_connection(broker.url) as attacker,
    ):
        await eventually(lambda: coordinator.silos == {"ewr"})
        key = coordinator.transport.coordinator_id.encode()
        properties = named(PROPERTIES[how])
        for exchange, routing in (
            (topology.REPLY, key + b".s.0.ewr"),
            (topology.RESULTS, key + b".ewr"),
            (topology.LOBBY, topology.silo_key(cohort, "ewr").encode()),
            (topology.DEAD, b"%s.ewr.%s" % (cohort.encode(), key)),
        ):
            await attacker.publish(exchange.name, routing, b"nonsense", properties)
        assert await coordinator.ask("ewr") == b"ok"
        assert lost(silo.transport, coordinator.transport) == 0


async def test_no_routing_key_ends_a_silo_or_a_coordinator(scene, cohort) -> None:
    silo, client, attacker = scene
    rejected = silo._transport.work_counters.rejected
    await attacker.publish(topology.WORK.name, f"{cohort}.ewr.".encode() + NONE, b"nonsense", {})
    await attacker.publish(topology.REPLY.name, f"{client.transport.coordinator_id}.".encode() + NONE, b"nonsense", {})
    await attacker.publish(topology.LOBBY.name, f"{cohort}.".encode() + NONE, b"nonsense", {})
    await eventually(lambda: silo._transport.work_counters.rejected > rejected)
    await client.check()
    assert lost(silo._transport, client.transport) == 0


def test_headers_that_pamqp_reads_are_unchanged() -> None:
    install_tolerant_decoders()
    assert decode.by_type(short_string(b"a\xc3\xa9") + b"more", "shortstr") == (4, "aé")
    assert decode.by_type(short_string(NONE) + b"more", "shortstr") == (4, r"\xff\xfe\xc3")
    assert decode.by_type(table(b"\x01aI" + struct.pack(">i", -7)) + b"more", "table") == (11, {"a": -7})
    assert decode.by_type(nested(20_000) + b"more", "table") == (len(nested(20_000)), {})
    assert decode.by_type(struct.pack(">Q", 86_400), "timestamp")[1].isoformat() == "1970-01-02T00:00:00+00:00"
    with pytest.raises(ValueError, match="exceeds"):
        decode.by_type(table(b"\x01aV")[:-1], "table")


def test_headers_are_read_in_little_time() -> None:
    install_tolerant_decoders()
    worst = many(LONGEST_TABLE - 7)
    started = time.process_time()
    consumed, read = decode.by_type(worst, "table")
    assert (consumed, len(read)) == (len(worst), 1)
    assert time.process_time() - started < 1
    assert decode.by_type(many(LONGEST_TABLE), "table") == (len(many(LONGEST_TABLE)), {})
