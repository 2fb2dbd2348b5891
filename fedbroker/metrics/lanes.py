"""Metrics of the connections to the broker, the same at a coordinator and at a silo."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fedbroker.transport.amqp.counters import TrafficCounters

__all__ = ["counter", "gauge", "lanes"]


def counter(name: str, help: str, who: Mapping[str, str], value: float) -> Metric:
    """Return a counter with one value, read when it is scraped; ``who`` are its labels."""
    family = CounterMetricFamily(name, help, labels=tuple(who))
    family.add_metric(tuple(who.values()), value)
    return family


def gauge(name: str, help: str, who: Mapping[str, str], value: float) -> Metric:
    """Return a gauge with one value, read when it is scraped; ``who`` are its labels."""
    family = GaugeMetricFamily(name, help, labels=tuple(who))
    family.add_metric(tuple(who.values()), value)
    return family


def lanes(traffic: Mapping[str, TrafficCounters], who: Mapping[str, str]) -> list[Metric]:
    """Return the metrics of connections.

    Args:
        traffic: the counts of each connection, by its name.
        who: labels that identify the coordinator or silo.
    """
    lane, way = (*who, "lane"), (*who, "lane", "direction")
    up = GaugeMetricFamily("fedbroker_broker_up", "Whether the connection to the broker is up.", labels=lane)
    again = CounterMetricFamily(
        "fedbroker_broker_reconnections", "Times that the connection was lost and came back.", labels=lane
    )
    messages = CounterMetricFamily("fedbroker_broker_messages", "Messages that the broker took and gave.", labels=way)
    size = CounterMetricFamily("fedbroker_broker_bytes", "Bytes of their bodies.", labels=way)
    for name, one in traffic.items():
        values = (*who.values(), name)
        up.add_metric(values, one.up)
        again.add_metric(values, one.reconnections)
        messages.add_metric((*values, "out"), one.messages_out)
        messages.add_metric((*values, "in"), one.messages_in)
        size.add_metric((*values, "out"), one.bytes_out)
        size.add_metric((*values, "in"), one.bytes_in)
    return [up, again, messages, size]
