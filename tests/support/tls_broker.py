"""A private broker that also serves TLS, with a certificate of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedbroker.broker import PrivateBroker
from fedbroker.broker.setup import free_ports
from tests.support.certificates import self_signed

__all__ = ["tls_broker"]


@contextmanager
def tls_broker(directory: Path, *, days: int, **extra_conf: str) -> Iterator[tuple[PrivateBroker, str, int]]:
    """Run a broker within the block; yield it with its TLS URL, which names the certificate, and its TLS port.

    Args:
        directory: where the certificate and its key are written.
        days: for which the certificate is valid.
        extra_conf: further settings of the broker.
    """
    certificate, key = self_signed(directory, days=days)
    (port,) = free_ports(1)
    conf = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(certificate),
        "ssl_options.certfile": str(certificate),
        "ssl_options.keyfile": str(key),
    }
    with PrivateBroker(extra_conf=conf | extra_conf) as node:
        url = node.url.replace("amqp://", "amqps://").replace(f":{node.port}/", f":{port}/")
        yield node, f"{url}?cafile={certificate}", port
