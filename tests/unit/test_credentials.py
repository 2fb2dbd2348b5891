"""Files with secrets: byte order marks, and who may read them."""

from __future__ import annotations

import pytest
from fedbroker_worker.cli.secret_files import exposed_secrets
from fedbroker_worker.config import load

from fedbroker import credentials
from fedbroker.credentials import read_secret, readable_by_others

URL = "amqp://user:password@broker.example/"


def settings(broker):
    return f'\ufeff[silo]\nname = "ewr"\ncohort = "airports"\nbroker = "{broker}"\n'


def test_byte_order_mark_is_skipped(tmp_path):
    (tmp_path / "url").write_text(f"\ufeff{URL}\r\n", encoding="utf-8")
    assert read_secret("url", "url", tmp_path, {}) == URL
    (tmp_path / "silo.toml").write_text(settings("amqp://broker.example/"), encoding="utf-8")
    assert load(tmp_path / "silo.toml", {}).silo.name == "ewr"
    environ = {"FEDBROKER_SILO_BROKER_FILE": str(tmp_path / "url")}
    assert load(tmp_path / "silo.toml", environ).silo.broker == URL


@pytest.fixture
def public(tmp_path, monkeypatch):
    """Return a directory that all users may enter, as far as the function can see."""
    place = tmp_path / "public"
    place.mkdir(mode=0o755)
    monkeypatch.setattr(
        credentials, "_may_be_entered", lambda directory: directory == place or directory in place.parents
    )
    return place


@pytest.mark.parametrize(("mode", "readable"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_file_that_all_users_may_read_is_found(public, mode, readable):
    (public / "secret").touch()
    (public / "secret").chmod(mode)
    assert readable_by_others(public / "secret") is readable


def test_file_in_a_private_directory_is_safe(public):
    inner = public / "inner"
    inner.mkdir()
    (inner / "secret").touch(mode=0o644)
    assert not readable_by_others(inner / "secret")
    assert not readable_by_others(public / "none")


def test_check_warns_of_each_exposed_secret(public):
    path = public / "silo.toml"
    (public / "url").write_text("postgresql://reader:password@host/database")
    path.write_text(settings(URL) + '[data.rows]\nsource = "sql"\nurl_file = "url"\nquery = "select 1"\n')
    path.chmod(0o644)
    (public / "url").chmod(0o600)
    (found,) = exposed_secrets(load(path, {}), {})
    assert (found.level, found.code) == ("warning", "FB4201")
    assert found.line.endswith(f"any user of this machine may read {path}, which holds a secret; chmod 600 {path}")
    (public / "url").chmod(0o644)
    path.write_text(path.read_text().replace(URL, "amqp://broker.example/"))
    (found,) = exposed_secrets(load(path, {}), {})
    assert str(public / "url") in found.what
