"""Serve one registry of metrics over HTTP with prometheus-client, in threads of its own.

Nothing is global: each context and each silo has its own registry.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Self

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from fedbroker.errors import ConfigError
from fedbroker.log import get_logger
from fedbroker.transport.amqp.connection import TrafficCounters

__all__ = ["SECONDS", "Exposition", "Registry", "connection_metrics", "counter", "gauge", "parse_address"]

_log = get_logger(__name__)

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
"""The buckets of every histogram of times: from a small reply on one machine to hours of training."""

STOP_SECONDS: Final = 5.0
"""How long closing waits for the server's thread."""

_ADDRESS: Final = re.compile(r"(\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


def parse_address(text: object) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; an IPv6 address is in brackets, port 0 is any free port.

    Raises:
        ConfigError: the text is not an address.
    """
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"{text!r} is not HOST:PORT", hint='write an address for metrics, such as "127.0.0.1:9464"')
    return match["six"] or match["host"], int(match["port"])


class Registry(CollectorRegistry):
    """The metrics of one context or silo, and of its process: memory, processor, open files."""

    def __init__(self) -> None:
        super().__init__(auto_describe=True)
        ProcessCollector(registry=self)

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics without the creation times of counters, which would be a second series for each."""
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Exposition:
    """A server of ``http://HOST:PORT/metrics`` that runs until it is closed.

    The server has no password: every client that reaches the address can read the metrics.

    Args:
        address: ``HOST:PORT``; port 0 is any free port.
        registry: the metrics to serve.

    Attributes:
        url: of the metrics.

    Raises:
        ConfigError: the address is invalid, or the server cannot listen on it.
    """

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        host, port = parse_address(address)
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served at {address}: {error.strerror or error}",
                hint="choose another port, or stop the process that listens there",
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}/metrics"
        _log.info("metrics_served", url=self.url)

    def close(self) -> None:
        """Stop the server. May be called again, from any thread."""
        if threading.current_thread() is self._thread:  # a collected context: shutdown() would wait for itself
            threading.Thread(target=self.close, name="fedbroker metrics close", daemon=True).start()
            return
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(STOP_SECONDS)
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def connection_metrics(traffic: Mapping[str, TrafficCounters], who: Mapping[str, str]) -> list[Metric]:
    """Return the metrics of connections.

    Args:
        traffic: the counts of each connection, by its name.
        who: labels that identify the coordinator or silo.
    """
    per_connection = (*who, "connection")
    per_direction = (*per_connection, "direction")
    up = GaugeMetricFamily(
        "fedbroker_broker_up", "1 if the connection to the broker is up, else 0.", labels=per_connection
    )
    reconnections = CounterMetricFamily(
        "fedbroker_broker_reconnections",
        "Reconnections to the broker after the connection was lost.",
        labels=per_connection,
    )
    messages = CounterMetricFamily(
        "fedbroker_broker_messages", "Messages to and from the broker.", labels=per_direction
    )
    size = CounterMetricFamily(
        "fedbroker_broker_bytes", "Bytes of message bodies to and from the broker.", labels=per_direction
    )
    for name, counters in traffic.items():
        values = (*who.values(), name)
        up.add_metric(values, counters.up)
        reconnections.add_metric(values, counters.reconnections)
        messages.add_metric((*values, "out"), counters.messages_out)
        messages.add_metric((*values, "in"), counters.messages_in)
        size.add_metric((*values, "out"), counters.bytes_out)
        size.add_metric((*values, "in"), counters.bytes_in)
    return [up, reconnections, messages, size]
