"""Enrolment's URLs, settings and files, and the login that it needs, without a broker."""

from __future__ import annotations

import base64
import hashlib
import tomllib
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from fedbroker.admin import definitions
from fedbroker.admin.api import admin_login
from fedbroker.admin.definitions import User
from fedbroker.admin.files import Folder, PublicUrl, settings, with_broker, write_secret
from fedbroker.credentials import broker_url, with_absolute_files
from fedbroker.errors import ConfigError, UsageError
from fedbroker.transport.amqp.url import parse
from fedbroker.trust import Identity


def test_url_gets_a_login_and_a_virtual_host(tmp_path):
    authority = tmp_path / "ca.pem"
    authority.touch()
    public = PublicUrl.parse(f"amqps://a.example,b.example:5673/?cafile={authority}&heartbeat=30")
    made = public.for_user("airports.ewr", "s3cret", "my/vhost")
    assert made == (f"amqps://airports.ewr:s3cret@a.example,b.example:5673/my%2Fvhost?cafile={authority}&heartbeat=30")
    assert (parse(made).user, parse(made).vhost) == ("airports.ewr", "my/vhost")
    assert parse(public.for_user("c", "p", "/")).vhost == "/"
    assert PublicUrl.parse(str(public)) == public


@pytest.mark.parametrize("url", ["http://a/", "amqp://", "amqps://a/vhost", "amqps://a/#x", "amqps://a/?nonsense=1"])
def test_invalid_public_url_is_refused(url):
    with pytest.raises(ConfigError):
        PublicUrl.parse(url)


def test_login_in_a_public_url_is_refused_and_not_shown():
    with pytest.raises(UsageError, match="holds a login") as caught:
        PublicUrl.parse("amqps://me:hunter2@a/")
    assert "hunter2" not in str(caught.value)


def test_only_the_broker_of_the_settings_is_changed():
    text = settings("ewr", "airports", "amqp://airports.ewr:old@a/v", [Identity.generate().public])
    changed = with_broker(text + '\n[data.a]\nsource = "duckdb"\n', "amqp://airports.ewr:new\\1@a/v")
    document = tomllib.loads(changed)
    assert document["silo"] == {
        "name": "ewr",
        "cohort": "airports",
        "broker": "amqp://airports.ewr:new\\1@a/v",
        "enrolled": True,
    }
    assert document["data"] == {"a": {"source": "duckdb"}}
    with pytest.raises(ConfigError, match="no line `broker"):
        with_broker("[silo]\n", "amqp://a/")


def test_relative_files_are_in_the_directory_of_the_settings(tmp_path):
    url = "amqps://u@a/v?auth=EXTERNAL&certfile=certificate.pem&keyfile=/etc/key.pem"
    assert with_absolute_files(url, tmp_path) == (
        f"amqps://u@a/v?auth=EXTERNAL&certfile={tmp_path}/certificate.pem&keyfile=/etc/key.pem"
    )
    for same in ("amqp://u:p?q@a/v", "amqps://a/?heartbeat=30", "nonsense"):
        assert with_absolute_files(same, tmp_path) == same


def test_file_is_not_replaced_without_force(tmp_path):
    file = tmp_path / "a" / "b" / "secret"
    write_secret(file, "one", force=False)
    with pytest.raises(ConfigError, match="exists already"):
        write_secret(file, "two", force=False)
    assert file.read_text() == "one"
    write_secret(file, "two", force=True)
    assert [path.name for path in file.parent.iterdir()] == ["secret"]
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("two", 0o600)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a" / "b")} == {0o700}
    with pytest.raises(ConfigError, match="cannot be written"):
        write_secret(file / "below", "three", force=False)


def test_keys_are_written_for_each_coordinator_and_silo(tmp_path):
    folder = Folder(tmp_path)
    for name in ("nightly", "weekly"):
        folder.identity(folder.coordinator(name), force=False)
    ewr, jfk = Identity.generate().public, Identity.generate().public
    folder.collect("airports", "jfk", jfk)
    files = folder.collect("airports", "ewr", ewr)
    folder.collect("trains", "ewr", jfk)
    assert len(files) == 2
    for file in files:
        assert list(tomllib.loads(file.read_text())["silos"].items()) == [("ewr", str(ewr)), ("jfk", str(jfk))]
    folder.collect("airports", "jfk", None)
    assert tomllib.loads(files[0].read_text())["silos"] == {"ewr": str(ewr)}
    files[0].write_text("[")
    with pytest.raises(ConfigError, match="is not TOML"):
        folder.collect("airports", "jfk", None)


def test_definitions_hold_only_the_hash_of_a_password():
    made = definitions.for_silo("v", User("airports", "ewr"), "s3cret")
    assert "s3cret" not in str(made)
    raw = base64.b64decode(made["users"][0]["password_hash"])
    assert raw[4:] == hashlib.sha256(raw[:4] + b"s3cret").digest()
    nobody = definitions.for_silo("v", User("airports", "ewr", "abcd"), None)
    assert nobody["users"][0]["password_hash"] == ""


def test_login_is_from_the_environment_and_its_address_may_be_an_argument():
    environ = {"FEDBROKER_ADMIN_URL": "https://me:p%40ss@a.example:15671/rabbit/"}
    login = admin_login(None, environ)
    assert (login.base, login.user, login.password) == ("https://a.example:15671/rabbit", "me", "p@ss")
    assert "p@ss" not in repr(login)
    assert admin_login("http://[::1]:15672/api/", environ).base == "http://[::1]:15672"
    with pytest.raises(ConfigError, match="both set"):
        admin_login(None, {**environ, "FEDBROKER_ADMIN_URL_FILE": "x"})


def test_url_file_names_files_next_to_it(tmp_path: Path) -> None:
    here = tmp_path / "moved here"
    here.mkdir()
    (here / "broker.url").write_text("amqps://me:secret@broker.example/air?cafile=broker-ca.pem&heartbeat=20\n")
    url = broker_url({"FEDBROKER_URL_FILE": str(here / "broker.url")})
    assert url is not None
    assert dict(parse_qsl(urlsplit(url).query)) == {"cafile": str(here / "broker-ca.pem"), "heartbeat": "20"}
    credential = broker_url({"FEDBROKER_URL_FILE": "broker.url", "CREDENTIALS_DIRECTORY": str(here)})
    assert credential == url
