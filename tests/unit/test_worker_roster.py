"""The roster of a silo's cohort: reloaded when its file changes, and never an older, a foreign or an expired one."""

from __future__ import annotations

import os
import shutil

import pytest
import structlog
from fedbroker_worker.config import load
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.roster import RosterFile, roster_file

from fedbroker.masking.roster import Roster, write_roster
from fedbroker.trust import Identity

ADMINISTRATOR, OTHER = Identity(b"a" * 32), Identity(b"o" * 32)
SILOS = {name: Identity(name.encode() * 8) for name in ("bos1", "ewr1", "jfk1", "lga1")}
NOW = 1_000_000.0


def signed(serial=1, *, by=ADMINISTRATOR, cohort="airports", expires=NOW + 100, **changed):
    silos = {**{name: str(identity.public) for name, identity in SILOS.items()}, **changed}
    return write_roster(Roster(cohort, serial, expires, {n: key for n, key in silos.items() if key}), by)


@pytest.fixture
def events():
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture(autouse=True)
def captured(monkeypatch, events):
    monkeypatch.setattr("fedbroker_worker.roster._log", structlog.get_logger())


class Clock:
    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "airports.roster"


@pytest.fixture
def make(tmp_path, path, clock):
    def make(member="ewr1", key=ADMINISTRATOR):
        record = tmp_path / "state" / "seen"
        return RosterFile(
            path, key.public, "airports", member=(member, SILOS["ewr1"].public), record=record, clock=clock
        )

    return make


def reasons(events):
    return [event["reason"] for event in events if event["log_level"] == "warning"]


def refused(file):
    with pytest.raises(SettingsError) as caught:
        file.current()
    return str(caught.value)


def test_a_file_that_appears_later_is_loaded(make, path, events):
    file = make()
    for _ in range(3):
        assert "no masked sums: roster" in refused(file)
    assert len(reasons(events)) == 1
    assert "does not exist" in reasons(events)[0]
    path.write_bytes(signed())
    assert file.current().serial == 1
    assert sorted(file.current().keys) == sorted(SILOS)
    assert [event for event in events if event["event"] == "roster_loaded"] == [
        {"event": "roster_loaded", "log_level": "info", "number": 1, "silos": 4, "expires": "1970-01-12"}
    ]


def test_a_newer_roster_is_loaded_however_it_is_installed(make, path, tmp_path):
    file = make()
    path.write_bytes(signed(1))
    assert file.current().serial == 1
    path.write_bytes(signed(2, lga1=None))  # in place
    assert "lga1" not in file.current().keys
    new = tmp_path / "new"
    new.write_bytes(signed(3))
    new.replace(path)
    assert file.current().serial == 3
    versions = tmp_path / "..data"  # as Kubernetes replaces the files of a volume
    new.write_bytes(signed(4))
    versions.symlink_to(new)
    path.unlink()
    path.symlink_to(versions)
    assert file.current().serial == 4
    later = tmp_path / "later"
    later.write_bytes(signed(5))
    (tmp_path / "..next").symlink_to(later)
    (tmp_path / "..next").replace(versions)
    assert file.current().serial == 5


def test_a_file_of_the_same_size_and_time_is_noticed(make, path, tmp_path):
    path.write_bytes(signed(1))
    file, status = make(), path.stat()
    assert file.current().serial == 1
    new = tmp_path / "new"
    new.write_bytes(signed(2))
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(path)
    assert path.stat().st_size == status.st_size
    assert file.current().serial == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (signed(2), "the roster has number 2, but number 3 was installed before"),
        (signed(3, lga1=None), "the roster has number 3, but number 3 was installed before"),
        (signed(4, by=OTHER), "not signed by the cohort's administrator"),
        (signed(4, cohort="banks"), "is of cohort 'banks'"),
        (signed(4).replace(str(SILOS["jfk1"].public).encode(), str(OTHER.public).encode()), "not signed"),
        (signed(4, lga1=str(SILOS["jfk1"].public)), "two silos of the roster have the same public key"),
        (signed(4)[:-20], "damaged"),
        (b"", "is no roster"),
        (signed(4) + b" " * (1 << 20), "is no roster"),
        (None, "does not exist"),
    ],
    ids=["older", "same number", "stranger", "cohort", "swapped", "two names", "cut", "empty", "huge", "missing"],
)
def test_the_newest_roster_stays_in_force_when_the_file_is_another(make, path, events, content, words):
    path.write_bytes(signed(3))
    file = make()
    assert file.current().serial == 3
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for again in (file, file, make(), make()):  # also after a restart
        found = again.current()
        assert (found.serial, len(found.silos)) == (3, 4)
        assert words in str(again.problem)
    assert len(reasons(events)) == 3  # one for each process
    assert all(words in reason and "roster 3 stays in force" in reason for reason in reasons(events))
    path.write_bytes(signed(5))
    assert file.current().serial == 5
    assert file.problem is None


@pytest.mark.parametrize("kind", ["directory", "pipe", "loop"])
def test_a_path_that_is_no_file_is_one_line(make, path, events, kind):
    {"directory": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    file = make()
    assert refused(file) == refused(file)
    assert len(reasons(events)) == 1


def test_an_expired_roster_is_refused_at_each_use(make, path, clock, events):
    path.write_bytes(signed(1))
    file = make()
    assert file.current().serial == 1
    clock.now = NOW + 101
    for _ in range(3):
        assert "roster 1 expired on 1970-01-12" in refused(file)
    assert "expired" in refused(make())
    assert len(reasons(events)) == 2
    path.unlink()  # then both are told, once
    for _ in range(3):
        assert "expired" in refused(file)
    assert len(reasons(events)) == 3
    path.write_bytes(signed(2, expires=NOW + 1000))
    assert file.current().serial == 2


def test_a_newer_roster_that_has_expired_still_replaces_an_older_one(make, path):
    path.write_bytes(signed(1))
    file = make()
    assert file.current().serial == 1
    path.write_bytes(signed(2, expires=NOW - 1))
    assert "roster 2 expired" in refused(file)
    path.write_bytes(signed(1))
    assert "roster 2 expired" in refused(file)


def test_a_silo_that_is_not_in_the_roster_takes_no_part(make, path, events):
    path.write_bytes(signed(1))
    file = make("bos2")
    assert "silo 'bos2' is not in roster 1" in refused(file)
    assert "another public key for silo 'jfk1'" in refused(make("jfk1"))
    path.write_bytes(signed(2, bos2=str(SILOS["ewr1"].public), ewr1=None))
    assert file.current().serial == 2


def test_another_administrator_begins_anew(make, path, events):
    path.write_bytes(signed(7))
    assert make().current().serial == 7
    path.write_bytes(signed(1, by=OTHER))
    assert make(key=OTHER).current().serial == 1
    assert "the roster is not signed by the cohort's administrator" in reasons(events)[0]
    path.unlink()
    assert make(key=OTHER).current().serial == 1


def test_a_record_that_cannot_be_written_is_one_warning(make, path, tmp_path, events):
    (tmp_path / "state").write_text("a file")
    path.write_bytes(signed(1))
    file = make()
    assert file.current().serial == file.current().serial == 1
    assert [event["event"] for event in events] == ["roster_record_ignored", "roster_loaded", "roster_record_failed"]


SETTINGS = """
[silo]
name = "ewr1"
cohort = "airports"
broker = "amqp://localhost/"
[security]
secret_file = "secret.key"
coordinators = ["{coordinator}"]
"""


def test_settings_name_the_roster(tmp_path, clock):
    (tmp_path / "secret.key").write_text(SILOS["ewr1"].reveal())
    text = SETTINGS.format(coordinator=OTHER.public)
    settings = tmp_path / "silo.toml"
    settings.write_text(text)
    assert load(settings, {}).roster is None
    assert roster_file(load(settings, {})) is None
    settings.write_text(f'{text}roster_key = "{ADMINISTRATOR.public}"\n')
    (tmp_path / "cohort.roster").write_bytes(signed(1))
    file = roster_file(load(settings, {}), clock)
    assert file.current().serial == 1
    assert (tmp_path / "airports.ewr1.roster-seen").stat().st_mode & 0o777 == 0o600
    settings.write_text(f'{text}roster_key = "{ADMINISTRATOR.public}"\nroster = "deep/airports.roster"\n')
    shutil.copytree(tmp_path, tmp_path / "deep", ignore=shutil.ignore_patterns("deep", "*seen"))
    assert load(settings, {}).roster.path == tmp_path / "deep" / "airports.roster"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('roster = "airports.roster"', "'roster_key' in [security] of silo.toml is missing"),
        ('roster_key = "ssh-rsa AAAA"', "'roster_key' in [security] of silo.toml: this is not a public key"),
        (f'roster_key = "{OTHER.reveal()}"', "'roster_key' in [security] of silo.toml: this is not a public key"),
        ("roster_key = 1", "'roster_key' in [security] of silo.toml: expected str"),
        ("roster = []", "'roster' in [security] of silo.toml: expected str"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, lines, words):
    (tmp_path / "secret.key").write_text(SILOS["ewr1"].reveal())
    path = tmp_path / "silo.toml"
    path.write_text(SETTINGS.format(coordinator=OTHER.public) + lines)
    with pytest.raises(SettingsError) as caught:
        load(path, {})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert OTHER.reveal() not in str(caught.value)
