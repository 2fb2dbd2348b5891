"""Broker URLs: accepted and refused forms, and passwords that are never shown."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from fedbroker.errors import ConfigError
from fedbroker.transport.amqp.url import parse


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
def test_valid_urls(url: str, host: str, port: int, vhost: str, user: str, tls: bool) -> None:
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
def test_invalid_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="not a broker's URL") as caught:
        parse(url)
    assert not url or url not in str(caught.value)
    assert "sec" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "amqp://ewr:/secret@host",
        "amqp://ewr:?secret@host",
        "amqp://ewr:1234/secret@host",
        "amqp://ewr:1234?heartbeat=5&secret@host",
        "amqp://me:sec#ret@host/",
        "amqp://me:sec\\ret@host/",
        "amqp://me:sec\nret@host/",
        "amqp://host/v@host",
        "amqp:me:secret@host",
    ],
)
def test_unescaped_character_in_a_login_is_refused_with_its_escape(url: str) -> None:
    with pytest.raises(ConfigError, match="stands unescaped in it") as caught:
        parse(url)
    assert "%2F" in caught.value.hint
    assert "secret" not in f"{caught.value!r} {caught.value.__context__!r}"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("heartbeet=5", "unknown option 'heartbeet'"),
        ("heartbeat=0", "heartbeat=0"),
        ("heartbeat=soon", "heartbeat=soon"),
        ("heartbeat=", "heartbeat="),
        ("auth=MAGIC", "auth=MAGIC"),
        ("cafile=/nosuch/ca.pem", "does not exist"),
        ("cafile=" + "x" * 300, "does not exist"),
    ],
)
def test_invalid_options_are_refused(query: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(f"amqps://me:secret@localhost/?{query}")


def test_options_are_kept(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    assert f"cafile={ca}".replace("/", "%2F") in parse(f"amqps://localhost/?cafile={ca}&auth=EXTERNAL").secret
    assert "heartbeat=7" in parse("amqp://localhost/?heartbeat=7").secret
    with pytest.raises(ConfigError, match="needs TLS"):
        parse(f"amqp://localhost/?cafile={ca}")


def test_password_is_not_shown() -> None:
    address = parse("amqps://me:secret@broker.example:99/air?heartbeat=9")
    assert address.shown == "amqps://me@broker.example:99/air"
    assert "secret" not in repr(address).replace("secret=", "")


def test_several_hosts() -> None:
    address = parse("amqps://me:secret@a.example,B.example:5673,[::1]:7,c.example/air?heartbeat=10")
    assert [(one.host, one.port) for one in address.endpoints] == [
        ("a.example", 5671),
        ("b.example", 5673),
        ("::1", 7),
        ("c.example", 5671),
    ]
    assert (address.vhost, address.user, address.tls) == ("air", "me", True)
    assert (address.host, address.port) == ("a.example", 5671)
    assert str(address) == "a.example:5671, b.example:5673, [::1]:7, c.example:5671"
    assert address.shown == "amqps://me@a.example:5671,b.example:5673,[::1]:7,c.example:5671/air"
    assert address.endpoints[2].secret == "amqps://me:secret@[::1]:7/air?heartbeat=10"
    assert address.endpoints[2].shown == "amqps://me@[::1]:7/air"
    assert "secret" not in repr(address).replace("secret=", "") + str(address) + repr(address.next_order())


def test_repeated_host_counts_once() -> None:
    assert len(parse("amqp://a,b,a:5672,A/").endpoints) == 2


@pytest.mark.parametrize("hosts", ["a,", ",a", "a,,b", ",", "a,b:0", "a,b:99999", "a:x,b", "a,[::1"])
def test_invalid_hosts_among_several_are_refused(hosts: str) -> None:
    with pytest.raises(ConfigError, match="not a broker's URL") as caught:
        parse(f"amqp://me:secret@{hosts}/")
    assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_each_round_starts_at_the_next_host() -> None:
    address = parse("amqp://a,b,c,d/")
    first = address.next_order()
    assert set(first) == set(address.endpoints)
    for shift in range(1, 9):
        assert address.next_order() == first[shift % 4 :] + first[: shift % 4]


def test_many_clients_of_one_url_spread_over_its_hosts() -> None:
    begun = Counter(str(parse("amqp://a,b,c/").next_order()[0]) for _ in range(600))
    assert all(count > 100 for count in begun.values())  # 200 each are expected, plus or minus 12
    assert len(begun) == 3


_NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True)
_HOSTS = st.one_of(_NAMES, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
_ENDPOINTS = st.lists(st.tuples(_HOSTS, st.integers(1, 65535)), min_size=1, max_size=6, unique=True)


@given(_ENDPOINTS, st.text("pq@:/?#%, ", min_size=1).map("sesame".__add__), st.booleans())
def test_formatted_url_is_parsed_back(endpoints: list[tuple[str, int]], password: str, tls: bool) -> None:
    hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in endpoints)
    address = parse(f"amqp{'s' * tls}://me:{quote(password, safe='')}@{hosts}/")
    assert [(one.host, one.port) for one in address.endpoints] == endpoints
    assert "sesame" not in repr(address) + str(address) + address.shown
    for one in address.endpoints:
        url = URL(one.secret)
        assert (url.host, url.port, url.password) == (one.host, one.port, password)
