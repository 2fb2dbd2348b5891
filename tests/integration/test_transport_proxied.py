"""A cohort whose only way to the broker is an HTTP proxy, with TLS inside its tunnels."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedbroker.diagnostics import examine, silo_role
from fedbroker.errors import BrokerUnreachable
from fedbroker.transport.amqp.url import with_proxy
from tests.support.connect_proxy import ConnectProxy
from tests.support.tls_broker import tls_broker
from tests.support.transports import coordinator_transport, eventually, silo_transport


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Run a broker with TLS; return its TLS URL and port."""
    with tls_broker(tmp_path_factory.mktemp("tls"), days=365) as (_, url, port):
        yield url, port


async def test_work_goes_through_a_proxy_that_asks_for_a_password(secure: tuple[str, int], cohort: str) -> None:
    url, port = secure
    async with ConnectProxy(port, user="me", password="p@ss") as proxy:
        through = with_proxy(url, f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        async with coordinator_transport(through, cohort) as coordinator, silo_transport(through, cohort):
            assert await coordinator.ask("ewr") == b"ok"
        assert set(proxy.tunnels) == {f"127.0.0.1:{port}"}
        assert proxy.refusals == []


async def test_proxy_that_dies_during_work_loses_nothing(secure: tuple[str, int], cohort: str) -> None:
    url, port = secure
    async with ConnectProxy(port) as proxy:
        through = with_proxy(url, f"http://127.0.0.1:{proxy.port}")
        async with coordinator_transport(through, cohort) as coordinator, silo_transport(through, cohort) as silo:
            release = silo.gated()
            request = asyncio.create_task(coordinator.ask("ewr", 1, seconds=60))
            await eventually(lambda: len(silo.items) == 1)
            before = len(proxy.tunnels)
            await proxy.stop()
            release.set()
            await proxy.start()
            assert await request == b"ok"
            assert len(proxy.tunnels) > before


@pytest.mark.parametrize(
    ("ports", "setting", "text"),
    [
        (["443"], "http://127.0.0.1:{port}", r"refuses a tunnel to 127\.0\.0\.1:\d+ \(403 Forbidden\)"),
        (["broker"], "http://me:wrong@127.0.0.1:{port}", "refused the login of user 'me' \\(407 "),
        (["broker"], "http://127.0.0.1:{port}", "requires a user and a password"),
    ],
)
async def test_refusal_ends_the_start_with_its_reason(
    secure: tuple[str, int], cohort: str, ports: list[str], setting: str, text: str
) -> None:
    url, port = secure
    allowed = [port if name == "broker" else int(name) for name in ports]
    login = {} if ports == ["443"] else {"user": "me", "password": "open-sesame"}
    async with ConnectProxy(*allowed, **login) as proxy:
        through = with_proxy(url, setting.format(port=proxy.port))
        with pytest.raises(BrokerUnreachable, match=text) as caught:
            async with silo_transport(through, cohort):
                pass
        assert "wrong" not in str(caught.value)
        findings = await examine(through, silo_role(cohort, "ewr"))
    assert [(one.subject, one.level) for one in findings][-1] == ("proxy", "problem")
    assert findings[-1].what in str(caught.value)


async def test_findings_name_the_proxy_and_its_tunnel(secure: tuple[str, int], cohort: str) -> None:
    url, port = secure
    async with ConnectProxy(port) as proxy:
        through = with_proxy(url, f"http://127.0.0.1:{proxy.port}")
        findings = {one.subject: one for one in await examine(through, silo_role(cohort, "ewr"))}
        assert f"127.0.0.1:{proxy.port} accepts connections" in findings["tcp"].what
        assert f"127.0.0.1:{proxy.port} opens a tunnel to 127.0.0.1:{port}" in findings["proxy"].what
        assert findings["tls"].what.startswith("TLSv1.3, certificate issued by our own CA")
        assert findings["login"].level == "ok"
        proxy.silent = True
        last = (await examine(through, silo_role(cohort, "ewr")))[-1]
        assert (last.subject, last.level) == ("proxy", "problem")
        assert "opened no tunnel" in last.what
    last = (await examine(through, silo_role(cohort, "ewr")))[-1]
    assert (last.subject, last.level) == ("tcp", "problem")
    assert "or correct host and port in its URL" in last.hint


async def test_silo_reads_the_proxy_from_its_settings(tmp_path: Path) -> None:
    from fedbroker_worker.config import load

    path = tmp_path / "silo.toml"
    path.write_text(
        '[silo]\nname = "ewr"\ncohort = "airports"\nbroker = "amqps://me:secret@broker.example/air?heartbeat=20"\n'
        'proxy = "http://me:open-sesame@proxy.example:3128"\n'
    )
    settings = load(path, {})
    assert settings.silo.broker == with_proxy(
        "amqps://me:secret@broker.example/air?heartbeat=20", "http://me:open-sesame@proxy.example:3128"
    )
    assert "sesame" not in repr(settings)
    overridden = load(path, {"FEDBROKER_SILO_PROXY": "none"})
    assert overridden.silo.broker.endswith("proxy=none")
