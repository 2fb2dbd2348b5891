"""Silos that log in with a certificate at a TLS-only broker, and rejected certificates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from fedbroker.broker.setup import free_ports
from fedbroker.credentials import broker_url
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerError, BrokerRefused, BrokerUnreachable
from fedbroker.transport.amqp.dial import connect
from fedbroker.transport.amqp.url import parse
from fedbroker.trust.keyring import coordinator_keys
from tests.support.certificates import self_signed
from tests.support.management import Admin, ManagementBroker, management_broker, silo_process
from tests.support.transports import coordinator_transport, eventually

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]

COHORT = "airports"


@dataclass(frozen=True)
class Secured:
    """A broker with TLS, whose administrator signs silos' certificates."""

    management_broker: ManagementBroker
    office: Admin
    port: int
    server: Path  # its certificate, which is its own authority
    key: Path

    def present(self, certificate: Path, key: Path) -> None:
        """Make the broker present another certificate from now on."""
        shutil.copy(certificate, self.server)
        shutil.copy(key, self.key)
        self.management_broker.broker.ctl("eval", "ssl:clear_pem_cache().")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Create the administrator's files first: the broker needs the authority at its start."""
    directory = tmp_path_factory.mktemp("tls")
    server, key = self_signed(directory / "server", days=10)
    (port,) = free_ports(1)
    written = Admin(directory, {})
    public = f"amqps://127.0.0.1:{port}/?cafile={server}"
    written.done("init", "--broker", public, "--certificates", "--definitions", str(directory / "init.json"))
    conf = {
        "listeners.ssl.local": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(written.out / "authority" / "ca.pem"),
        "ssl_options.certfile": str(server),
        "ssl_options.keyfile": str(key),
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "true",
        "auth_mechanisms.1": "PLAIN",
        "auth_mechanisms.2": "EXTERNAL",
        "ssl_cert_login_from": "common_name",
    }
    with management_broker("rabbitmq_auth_mechanism_ssl", **conf) as broker:
        broker.broker.ctl("import_definitions", str(directory / "init.json"))
        office = Admin(directory, {"FEDBROKER_ADMIN_URL": broker.api})
        office.done("enroll", "ewr", "--cohort", COHORT, "--certificate")
        yield Secured(broker, office, port, server, key)


async def refusal(url: str, error: type[BrokerError]) -> str:
    """Return the error line of a refused connection."""
    with pytest.raises(error) as caught:
        await (await connect(parse(url), "test", Deadline.after(15))).close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def url(secured: Secured, host: str = "127.0.0.1", **options: object) -> str:
    silo = secured.office.settings(COHORT).parent
    mine = {"auth": "EXTERNAL", "certfile": silo / "certificate.pem", "keyfile": silo / "key.pem"}
    every = {**mine, "cafile": secured.server, **options}
    query = urlencode({name: str(value) for name, value in every.items() if value})
    return f"amqps://{host}:{secured.port}/fedbroker?{query}"


def coordinator(secured: Secured) -> str:
    """Return the coordinator's URL: it logs in with a password, unencrypted, on the loopback."""
    login = secured.office.coordinator_url().removeprefix("amqps://").partition("@")[0]
    return f"amqp://{login}@127.0.0.1:{secured.management_broker.broker.port}/fedbroker"


async def test_silo_joins_with_a_certificate_and_uses_the_rotated_one(secured, tmp_path):
    """Rotate the silo's certificate: its user and old certificate become invalid, and the silo reads the new files."""
    office = secured.office
    settings = office.settings(COHORT)
    (before,) = office.listed()
    assert before["login"] == "certificate"
    assert "EXTERNAL" in settings.read_text()
    keys = coordinator_keys(office.out / "coordinators" / "coordinator" / f"{COHORT}.keys.toml")
    async with coordinator_transport(coordinator(secured), COHORT, keys=keys) as theirs:
        with silo_process(settings) as silo:
            await eventually(lambda: "ewr" in theirs.silos)
            assert office.listed()[0]["connections"] == 2
            for name in ("certificate.pem", "key.pem"):
                shutil.copy(settings.parent / name, tmp_path)
            heard = len(theirs.announces)
            office.done("rotate", "ewr", "--cohort", COHORT)
            await eventually(lambda: silo.said("broker_connection_restored", "control"), 20)
            await eventually(lambda: len(theirs.announces) > heard, 20)
            (after,) = office.listed()
            assert after["user"] != before["user"]
    stale = url(secured, certfile=tmp_path / "certificate.pem", keyfile=tmp_path / "key.pem")
    assert "refused the login" in await refusal(stale, BrokerRefused)
    await (await connect(parse(url(secured)), "test", Deadline.after(15))).close()


async def test_missing_certificate_is_refused(secured):
    line = await refusal(url(secured, auth="", certfile="", keyfile=""), BrokerRefused)
    assert "requires a client certificate" in line


async def test_certificate_of_another_authority_is_refused(secured, tmp_path):
    certificate, key = self_signed(tmp_path, days=10)
    line = await refusal(url(secured, certfile=certificate, keyfile=key), BrokerRefused)
    assert "refuses our client certificate" in line


async def test_certificate_of_a_revoked_user_is_refused(secured):
    office = secured.office
    office.done("enroll", "lga", "--cohort", COHORT, "--certificate")
    mine = office.settings(COHORT, "lga").parent
    gone = url(secured, certfile=mine / "certificate.pem", keyfile=mine / "key.pem")
    await (await connect(parse(gone), "test", Deadline.after(15))).close()
    office.done("revoke", "lga", "--cohort", COHORT)
    assert "refused the login" in await refusal(gone, BrokerRefused)


async def test_password_login_of_a_certificate_user_is_refused(secured):
    (one,) = (row for row in secured.office.listed() if row["silo"] == "ewr")
    for password in ("", "x"):
        login = url(secured, auth="").replace("amqps://", f"amqps://{one['user']}:{password}@")
        assert "refused the login" in await refusal(login, BrokerRefused)


async def test_unknown_authority_of_the_broker_is_an_error(secured):
    line = await refusal(url(secured, cafile=""), BrokerUnreachable)
    assert "not trusted" in line
    assert "name the CA that issued it with cafile=" in line


async def test_broker_certificate_of_another_host_is_an_error(secured):
    line = await refusal(url(secured, host="localhost"), BrokerUnreachable)
    assert "not trusted" in line
    assert "use the host name that is in it" in line


async def test_expired_broker_certificate_is_an_error(secured, tmp_path):
    good = [Path(shutil.copy(path, tmp_path / path.name)) for path in (secured.server, secured.key)]
    secured.present(*self_signed(tmp_path / "expired", days=0))
    try:
        line = await refusal(url(secured), BrokerUnreachable)
        assert "certificate has expired" in line
        assert "have the broker's operator renew it" in line
    finally:
        secured.present(*good)


def test_secret_files_are_readable_only_by_their_owner(secured):
    for place, _, files in os.walk(secured.office.out):
        assert Path(place).stat().st_mode & 0o777 == 0o700
        for name in files:
            if name not in ("log", "ready"):  # the silo's own, not ours
                assert (Path(place) / name).stat().st_mode & 0o777 == 0o600, name


async def test_coordinators_directory_can_be_moved(
    secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "another machine" / "nightly"
    shutil.copytree(secured.office.out / "coordinators" / "coordinator", moved)
    text = (moved / "broker.url").read_text()
    assert "cafile=broker-ca.pem" in text
    assert str(secured.server) not in text
    monkeypatch.setenv("FEDBROKER_URL_FILE", str(moved / "broker.url"))
    url = broker_url()
    assert url is not None
    assert f"cafile={moved}/broker-ca.pem".replace(" ", "+") in url
    # This broker asks for a client's certificate, which a coordinator has none of: its own one was trusted.
    assert "client certificate" in await refusal(url, BrokerRefused)
