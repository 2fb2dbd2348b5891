"""Key files: written keys are read back, and each mistake is one line without secrets."""

from __future__ import annotations

import os

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.errors import SettingsError

from fedbroker.errors import ConfigError
from fedbroker.trust import Identity
from fedbroker.trust.keyring import coordinator_keys, public_key

OWN, EWR = Identity(b"o" * 32), Identity(b"e" * 32)
SECRET = OWN.reveal().partition(":")[2]


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "secret.key").write_text(OWN.reveal() + "\n")
    return tmp_path


def keys(directory, text):
    (directory / "keys.toml").write_text(text)
    return coordinator_keys(directory / "keys.toml")


def test_coordinator_keys_are_read(directory):
    found = keys(directory, f'secret_file = "secret.key"\nseal = true\n[silos]\newr = "{EWR.public}"\n')
    assert found.own.public == OWN.public
    assert found.others == {"ewr": EWR.public}
    assert found.seal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("secret_file = ", "is not TOML"),
        ("seal = true", "'secret_file' in keys.toml is missing"),
        ('secret_file = "secret.key"\nsilo = {}', "unknown key 'silo'"),
        ('secret_file = "secret.key"\nseal = "yes"', "'seal' in keys.toml is 'yes'"),
        ('secret_file = "none.key"\n', "does not exist"),
        ('secret_file = "secret.key"', "no public key is given"),
        ('secret_file = "secret.key"\n[silos]\newr = "x"', r"'ewr' in \[silos\] of keys.toml: this is not a public"),
        (f'secret_file = "secret.key"\n[silos]\newr = "{OWN.reveal()}"', "this is not a public key"),
        (
            f'secret_file = "secret.key"\n[silos]\newr = "{EWR.public}"\njfk = "{EWR.public}"',
            "'ewr' and 'jfk' have the same",
        ),
    ],
)
def test_each_mistake_in_coordinator_keys_is_one_line(directory, text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        keys(directory, text)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_missing_key_file_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        coordinator_keys(tmp_path / "keys.toml")


def settings(directory, security):
    path = directory / "silo.toml"
    path.write_text(f'[silo]\nname = "ewr"\ncohort = "airports"\nbroker = "amqp://localhost/"\n{security}')
    return load(path, {})


def test_silo_keys_are_read(directory):
    found = settings(
        directory, f'[security]\nsecret_file = "secret.key"\ncoordinators = ["{EWR.public}"]\nseal = true\n'
    )
    assert found.keys is not None
    assert found.keys.own.public == OWN.public
    assert list(found.keys.others.values()) == [EWR.public]
    assert found.keys.seal
    assert SECRET not in repr(found)
    assert settings(directory, "").keys is None


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ('secret_file = "secret.key"', r"'coordinators' in \[security\] of silo.toml is missing"),
        ('secret_file = "secret.key"\ncoordinators = []', "'coordinators' in"),
        ('secret_file = "secret.key"\ncoordinators = ["x"]', r"\[security\] of silo.toml: this is not a public key"),
        ('secret_file = "none"\ncoordinators = ["x"]', "'secret_file' in .*: file .* does not exist"),
        ('secret = "x"', "unknown key 'secret'"),
    ],
)
def test_each_mistake_in_silo_keys_is_one_line(directory, security, words):
    with pytest.raises(SettingsError, match=words) as caught:
        settings(directory, f"[security]\n{security}\n")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_secret_is_created_once_and_readable_only_by_its_owner(tmp_path):
    path = tmp_path / "secret.key"
    made = public_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key(path) == made == Identity.parse(path.read_text().strip()).public


def test_secret_is_never_overwritten(tmp_path):
    path = tmp_path / "secret.key"
    path.write_text("something else")
    with pytest.raises(ConfigError, match="this is not a secret key"):
        public_key(path)
    assert path.read_text() == "something else"
    with pytest.raises(ConfigError, match="cannot be made"):
        public_key(tmp_path / "no" / "secret.key")


def test_secret_can_be_a_systemd_credential(directory, monkeypatch):
    credentials = directory / "credentials"
    os.mkdir(credentials)
    (credentials / "silo-key").write_text(OWN.reveal())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (directory / "silo.toml").write_text(
        '[silo]\nname = "ewr"\ncohort = "airports"\nbroker = "amqp://localhost/"\n'
        f'[security]\nsecret_file = "silo-key"\ncoordinators = ["{EWR.public}"]\n'
    )
    found = load(directory / "silo.toml", {"CREDENTIALS_DIRECTORY": str(credentials)})
    assert found.keys is not None
    assert found.keys.own.public == OWN.public
