"""Broker URLs: what is taken, what is refused, and that no password is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedbroker.errors import ConfigError
from fedbroker.transport.url import parse, redact


@pytest.mark.parametrize(
    ("url", "host", "port", "vhost", "user", "tls"),
    [
        ("amqp://localhost", "localhost", 5672, "/", "guest", False),
        ("amqp://localhost:5672/", "localhost", 5672, "/", "guest", False),
        ("amqps://me:pw@broker.example/air", "broker.example", 5671, "air", "me", True),
        ("amqp://me:p%40w@10.0.0.1:1234/%2Fa%2Fb", "10.0.0.1", 1234, "/a/b", "me", False),
        ("amqp://me@[::1]:5/", "::1", 5, "/", "me", False),
        (" amqp://localhost/ ", "localhost", 5672, "/", "guest", False),
    ],
)
def test_good_urls(url: str, host: str, port: int, vhost: str, user: str, tls: bool) -> None:
    address = parse(url)
    assert (address.host, address.port, address.vhost, address.user, address.tls) == (host, port, vhost, user, tls)
    assert "heartbeat=15" in address.secret


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://localhost/",
        "amqp:///vhost",
        "amqp://localhost:99999/",
        "amqp://localhost:port/",
        "amqp://localhost:0/",
        "amqp://[::1/",
        "amqp://localhost/#fragment",
        "amqp://me:secret@/",
        "amqp://me:sec/ret@host:xx/",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(ConfigError, match="not a broker's URL") as caught:
        parse(url)
    assert "sec" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("heartbeet=5", "unknown option 'heartbeet'"),
        ("heartbeat=0", "heartbeat=0"),
        ("heartbeat=soon", "heartbeat=soon"),
        ("heartbeat=", "heartbeat="),
        ("auth=MAGIC", "auth=MAGIC"),
        ("cafile=/nosuch/ca.pem", "does not exist"),
    ],
)
def test_bad_options(query: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(f"amqps://me:secret@localhost/?{query}")


def test_options_are_kept(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    assert f"cafile={ca}".replace("/", "%2F") in parse(f"amqps://localhost/?cafile={ca}&auth=EXTERNAL").secret
    assert "heartbeat=7" in parse("amqp://localhost/?heartbeat=7").secret
    with pytest.raises(ConfigError, match="needs TLS"):
        parse(f"amqp://localhost/?cafile={ca}")


def test_the_password_is_not_shown() -> None:
    address = parse("amqps://me:secret@broker.example:99/air?heartbeat=9")
    assert address.shown == "amqps://me@broker.example:99/air"
    assert "secret" not in repr(address).replace("secret=", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://me:secret@host/v?heartbeat=3", "amqp://***@host/v"),
        ("amqp://me:se@c/ret@host:x/", "amqp://***@host:x/"),
        ("amqp://host/", "amqp://host/"),
        ("junk", "junk"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown
