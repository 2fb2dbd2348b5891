"""HTTP proxies: their URLs, the environment's variables, and the request for a tunnel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import BrokerUnreachable, ConfigError
from fedbroker.text import without_secrets
from fedbroker.transport.amqp.proxy import Proxy, open_tunnel, parse_proxy
from fedbroker.transport.amqp.url import parse, with_proxy
from tests.support.connect_proxy import ConnectProxy

BROKER = "amqps://me:secret@broker.example/air"
OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example:3128", Proxy("proxy.example", 3128)),
        ("http://proxy.example:3128/", Proxy("proxy.example", 3128)),
        ("proxy.example:3128", Proxy("proxy.example", 3128)),
        ("http://proxy.example", Proxy("proxy.example", 80)),
        ("http://[::1]:8080", Proxy("::1", 8080)),
        ("http://me:p%40ss@10.0.0.1:8080", Proxy("10.0.0.1", 8080, "me", "p@ss")),
        ("none", None),
    ],
)
def test_valid_urls(url: str, proxy: Proxy | None) -> None:
    assert parse_proxy(url, "proxy") == proxy


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "http://me:open-sesame@",
        "http://me:open-sesame@proxy:port",
        "http://me:open-sesame@proxy:0",
        "http://me:open-sesame@proxy:3128/path",
        "http://me:open-sesame@proxy:3128/?query",
        "https://me:open-sesame@proxy:3128",
        "socks5://me:open-sesame@proxy:1080",
    ],
)
def test_invalid_urls_are_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=r"'proxy' in silo\.toml") as caught:
        parse_proxy(url, "'proxy' in silo.toml")
    assert "open-sesame" not in str(caught.value)


@given(user=st.text(min_size=1), password=st.text())
def test_any_login_can_be_written(user: str, password: str) -> None:
    proxy = parse_proxy(f"http://{quote(user, safe='')}:{quote(password, safe='')}@proxy.example:3128", "proxy")
    assert proxy == Proxy("proxy.example", 3128, user, password)


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        (BROKER, {}, None),
        (BROKER, {"HTTPS_PROXY": "http://one:3128"}, Proxy("one", 3128)),
        (BROKER, {"https_proxy": "one:3128"}, Proxy("one", 3128)),
        (BROKER, {"HTTP_PROXY": "http://one:3128"}, None),
        (BROKER, {"HTTPS_PROXY": "http://one:3128", "NO_PROXY": "broker.example"}, None),
        (BROKER, {"HTTPS_PROXY": "http://one:3128", "NO_PROXY": "other, .example"}, None),
        (BROKER, {"HTTPS_PROXY": "http://one:3128", "NO_PROXY": "*"}, None),
        (BROKER, {"HTTPS_PROXY": "http://one:3128", "NO_PROXY": "other.example"}, Proxy("one", 3128)),
        (BROKER.replace("amqps", "amqp"), {"HTTPS_PROXY": "http://one:3128"}, None),
        ("amqps://localhost/", {"HTTPS_PROXY": "http://one:3128"}, None),
        ("amqps://127.0.0.1/", {"HTTPS_PROXY": "http://one:3128"}, None),
        ("amqps://[::1]/", {"HTTPS_PROXY": "http://one:3128"}, None),
        (with_proxy(BROKER, "http://two:3128"), {"HTTPS_PROXY": "http://one:3128"}, Proxy("two", 3128)),
        (with_proxy(BROKER, "none"), {"HTTPS_PROXY": "http://one:3128"}, None),
        (with_proxy("amqp://localhost/", "two:3128"), {}, Proxy("two", 3128)),
    ],
)
def test_setting_then_environment_then_none(
    url: str, variables: dict[str, str], proxy: Proxy | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert parse(url).endpoints[0].proxy == proxy


def test_each_host_of_a_cluster_has_its_own_exemption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://one:3128")
    monkeypatch.setenv("NO_PROXY", "near.example")
    address = parse("amqps://me:secret@near.example,far.example/")
    assert [endpoint.proxy for endpoint in address.endpoints] == [None, Proxy("one", 3128)]


def test_passwords_are_never_shown() -> None:
    url = with_proxy(f"{BROKER}?heartbeat=20", "http://me:open-sesame@proxy.example:3128")
    address = parse(url)
    assert address.endpoints[0].proxy == Proxy("proxy.example", 3128, "me", "open-sesame")
    for shown in (repr(address), str(address), address.shown, without_secrets(f"connecting to {url}")):
        assert "sesame" not in shown
    assert "proxy" not in address.secret  # the AMQP library need not know
    assert "heartbeat=20" in address.secret


def test_environment_that_names_no_proxy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "https://me:open-sesame@proxy.example")
    with pytest.raises(ConfigError, match="HTTPS_PROXY in the environment") as caught:
        parse(BROKER)
    assert "sesame" not in str(caught.value)


@asynccontextmanager
async def scripted(*parts: bytes, close: bool = True) -> AsyncIterator[Proxy]:
    """Yield a proxy that answers any request with these bytes, part by part."""

    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([OPENED], id="at once"),
        pytest.param([bytes([byte]) for byte in OPENED], id="byte by byte"),
        pytest.param([b"HTTP/1.0 200 OK\r\nServer: squid\r\nContent-Length: 0\r\n\r\n"], id="with headers"),
        pytest.param([b"HTTP/1.1 103 Early Hints\r\n\r\n", OPENED], id="after an interim response"),
    ],
)
async def test_tunnel_opens_however_the_answer_arrives(parts: list[bytes]) -> None:
    async with scripted(*parts, close=False) as proxy, asyncio.timeout(10):
        opened = await open_tunnel(proxy, "broker.example", 5671)
        opened.close()


@pytest.mark.parametrize(
    ("answer", "text", "retryable"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", r"refuses a tunnel to broker\.example:5671 \(403 Forbidden\)", False),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", r"requires a user and a password \(407 ", False),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", r"requires a user and a password \(401 ", False),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", r"cannot reach the broker at broker\.example:5671 \(502 ", True),
        (b"HTTP/1.1 503 \x1b[31m\r\n\r\n", r"\(503 \\x1b\[31m\)", True),
        (b"220 mail.example ESMTP\r\n\r\n", "does not answer as an HTTP proxy", False),
        (b"HTTP/1.1 200 OK\r\nX: " + 100_000 * b"x", "does not answer as an HTTP proxy", False),
        (OPENED + b"surprise", "sent data of its own into the tunnel", False),
        (b"", "broke off before it opened a tunnel", True),
        (b"HTTP/1.1 200", "broke off before it opened a tunnel", True),
    ],
)
async def test_refusals_say_what_happened(answer: bytes, text: str, retryable: bool) -> None:
    async with scripted(answer) as proxy, asyncio.timeout(10):
        with pytest.raises(BrokerUnreachable, match=text) as caught:
            await open_tunnel(proxy, "broker.example", 5671)
    assert caught.value.retryable is retryable
    assert caught.value.hint
    assert str(proxy) in str(caught.value)


async def test_login_is_sent_and_a_wrong_one_is_told() -> None:
    async with ConnectProxy(9, user="mé", password="open:sesame") as server, asyncio.timeout(10):
        with pytest.raises(BrokerUnreachable, match="refused the login of user 'mé'") as caught:
            await open_tunnel(Proxy("127.0.0.1", server.port, "mé", "wrong"), "broker.example", 9)
        assert "wrong" not in str(caught.value)
        opened = await open_tunnel(Proxy("127.0.0.1", server.port, "mé", "open:sesame"), "broker.example", 9)
        opened.close()
        assert server.tunnels == ["broker.example:9"]


async def test_proxy_that_is_not_there() -> None:
    async with ConnectProxy() as server:
        gone = Proxy("127.0.0.1", server.port)
    with pytest.raises(BrokerUnreachable, match=f"the proxy {gone} cannot be reached") as caught:
        await open_tunnel(gone, "broker.example", 5671)
    assert caught.value.retryable
    with pytest.raises(BrokerUnreachable, match=r"proxy's host name 'nowhere\.invalid' cannot be resolved"):
        await open_tunnel(Proxy("nowhere.invalid", 3128), "broker.example", 5671)


async def test_names_beyond_ascii_and_addresses_are_written_as_urls_write_them() -> None:
    async with ConnectProxy(5671) as server, asyncio.timeout(10):
        for host in ("bücher.example", "2001:db8::1"):
            (await open_tunnel(Proxy("127.0.0.1", server.port), host, 5671)).close()
        assert server.tunnels == ["xn--bcher-kva.example:5671", "[2001:db8::1]:5671"]
