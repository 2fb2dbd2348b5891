"""``fedbroker admin roster``, and the rosters that enrolment signs: by definitions in a file, without a broker."""

from __future__ import annotations

import json
import re
import shutil
import time
import tomllib

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.roster import roster_file

from fedbroker.admin.enrolment import Enrolment
from fedbroker.admin.files import Folder, PublicUrl
from fedbroker.admin.rosters import Rosters, lifetime_of
from fedbroker.errors import ConfigError, UsageError
from fedbroker.masking.roster import new_roster, read_roster, write_roster
from fedbroker.trust import Identity
from fedbroker.trust.keyring import keys_table
from tests.support.management import Admin

DAY = 86400.0
OTHER = Identity(b"o" * 32)


@pytest.fixture
def office(tmp_path):
    """Return an administrator with three silos, whose files are ready to be handed out."""
    office = Admin(tmp_path, {})
    office.done("init", "--broker", "amqps://broker.example/", "--definitions", str(tmp_path / "init.json"))
    for silo in ("bos", "ewr", "jfk"):
        enroll(office, silo)
    return office


def enroll(office, silo, *options, cohort="airports"):
    file = office.directory / f"{cohort}.{silo}.json"
    file.unlink(missing_ok=True)
    return office.done("enroll", silo, "--cohort", cohort, "--definitions", str(file), *options)


def administrator(office):
    return Identity.parse((office.out / "administrator.key").read_text().strip())


def installed(office, silo="ewr"):
    """Return the roster that a silo accepts from its own directory."""
    return roster_file(load(office.settings("airports", silo), {})).current()


def test_each_silo_accepts_the_roster_of_its_directory(office):
    key = administrator(office)
    assert (office.out / "administrator.key").stat().st_mode & 0o777 == 0o600
    rosters = [installed(office, silo) for silo in ("bos", "ewr", "jfk")]
    assert rosters[0] == rosters[1] == rosters[2]
    assert list(rosters[0].keys) == ["bos", "ewr", "jfk"]
    assert rosters[0].expires == pytest.approx(time.time() + 90 * DAY, abs=600)
    for silo, public in rosters[0].keys.items():
        directory = office.settings("airports", silo).parent
        assert Identity.parse((directory / "secret.key").read_text().strip()).public == public
        security = tomllib.loads((directory / "silo.toml").read_text())["security"]
        assert (security["roster_key"], security["roster"]) == (str(key.public), "airports.roster")


def test_each_enrolment_signs_a_newer_roster(office):
    before = installed(office)
    said = json.loads(enroll(office, "lga", "--json"))
    assert said["roster"] == str(office.out / "rosters" / "airports.roster")
    assert said["roster_key"] == str(administrator(office).public)
    after = installed(office)
    assert after.serial > before.serial
    assert list(after.silos) == ["bos", "ewr", "jfk", "lga"]
    enroll(office, "lga", "--force")  # with a new key
    assert installed(office).silos["lga"] != after.silos["lga"]
    enroll(office, "lga", cohort="banks")
    assert list(installed(office).silos) == ["bos", "ewr", "jfk", "lga"]


def test_a_silo_with_its_own_secret_is_in_the_roster(office):
    enroll(office, "lga", "--public-key", str(OTHER.public))
    assert installed(office).keys["lga"] == OTHER.public
    file = str(office.directory / "dup.json")
    line = office.refused(
        "enroll", "dup", "--cohort", "airports", "--public-key", str(OTHER.public), "--definitions", file
    )
    assert "silos 'lga' and 'dup' have the same public key" in line
    assert not (office.directory / "dup.json").exists()


def test_roster_says_what_to_do(office):
    said = office.done("roster", "--expires", "4w")
    assert re.search(r"^roster \d+ of cohort airports: see .*/rosters/airports\.roster$", said, re.MULTILINE)
    assert "next: copy " in said
    assert "a running silo reads it again by itself" in said
    assert f'    roster_key = "{administrator(office).public}"\n    roster = "airports.roster"\n' in said
    assert installed(office).expires == pytest.approx(time.time() + 28 * DAY, abs=600)
    enroll(office, "lga")  # keeps that time
    assert installed(office).expires == pytest.approx(time.time() + 28 * DAY, abs=600)
    assert "fedbroker-secret" not in said


def test_roster_is_shown(office):
    path = str(office.out / "rosters" / "airports.roster")
    found = installed(office)
    said = office.done("roster", "--show", path)
    key = administrator(office).public
    assert f"roster {found.serial} of cohort airports, signed with {key.fingerprint}, expires" in said
    rows = [line.split() for line in said.splitlines()[2:]]
    assert rows == [[name, public.fingerprint] for name, public in found.keys.items()]
    shown = json.loads(office.done("roster", "--show", path, "--json"))
    assert (shown["cohort"], shown["number"], shown["expired"], shown["signed"]) == (
        "airports",
        found.serial,
        False,
        True,
    )
    assert [silo["public_key"] for silo in shown["silos"]] == list(found.silos.values())
    assert office.done("roster", "--show", path, "--roster-key", str(key)) == said
    assert "not signed by the cohort's administrator" in office.refused(
        "roster", "--show", path, "--roster-key", str(OTHER.public)
    )
    elsewhere = Admin(office.directory / "elsewhere", {})
    assert "signature not checked" in elsewhere.done("roster", "--show", path)
    assert json.loads(elsewhere.done("roster", "--show", path, "--json"))["signed"] is None


def test_an_expired_roster_is_shown_as_such(office, tmp_path):
    old = new_roster("airports", {"ewr": OTHER.public}, 1000.0, lifetime=1.0)
    (tmp_path / "old").write_bytes(write_roster(old, administrator(office)))
    assert "expired 1970-01-01" in office.done("roster", "--show", str(tmp_path / "old"))
    assert json.loads(office.done("roster", "--show", str(tmp_path / "old"), "--json"))["expired"] is True


def test_signing_prints_json(office, tmp_path):
    said = json.loads(office.done("roster", "--json", "-o", str(tmp_path / "copy")))
    assert [silo["silo"] for silo in said["silos"]] == ["bos", "ewr", "jfk"]
    assert said["roster_key"] == str(administrator(office).public)
    assert (tmp_path / "copy").read_text() == (office.out / "rosters" / "airports.roster").read_text()
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--cohort", "trains"), "cohort 'trains' has no silo with a public key"),
        (("--cohort", "a.b"), "is not a name for a cohort"),
        (("--expires", "90"), "'90' is no time until a roster expires"),
        (("--expires", "0d"), "is no time until"),
        (("--expires", "4000d"), "is no time until"),
        (("--keys", "/nowhere"), "/nowhere cannot be read"),
        (("--show", "/nowhere"), "/nowhere cannot be read: No such file"),
        (("--show", "/"), "/ cannot be read: Is a directory"),
        (("--show", "/dev/null"), "/dev/null: this file is no roster"),
        (("--show", "x", "--expires", "1d"), "--show signs nothing"),
        (("--roster-key", "x"), "--roster-key belongs to --show"),
        (("--show", "x", "--roster-key", OTHER.reveal()), "this is not a public key"),
        (("-o", "/proc/no/file"), "cannot be written"),
    ],
)
def test_mistakes_are_one_line(office, arguments, words):
    line = office.refused("roster", *arguments)
    assert words in line
    assert "fedbroker-secret" not in line


def test_the_cohort_must_be_clear(office, tmp_path):
    enroll(office, "ewr", cohort="banks")
    assert "give --cohort: airports, banks" in office.refused("roster")
    assert "the administrator's directory has none" in Admin(tmp_path / "new", {}).refused("roster")


def test_a_directory_of_an_earlier_version_gets_a_key_and_a_roster(office):
    for path in (office.out / "administrator.key", *office.out.rglob("*.roster")):
        path.unlink()
    settings = office.settings("airports")
    settings.write_text(re.sub(r"^roster.*\n", "", settings.read_text(), flags=re.MULTILINE))
    assert roster_file(load(settings, {})) is None
    said = office.done("roster")
    security = "".join(line.strip() + "\n" for line in said.splitlines()[-2:])
    settings.write_text(settings.read_text().replace("[policy]", "# as printed\n[policy]", 1))
    settings.write_text(settings.read_text().replace("seal = true\n", f"seal = true\n{security}", 1))
    assert list(installed(office).silos) == ["bos", "ewr", "jfk"]
    assert "new: bos; new: ewr; new: jfk" in said


def test_a_roster_of_silos_that_were_not_enrolled(tmp_path):
    office = Admin(tmp_path, {})
    publics = {name: Identity.generate().public for name in ("ewr", "jfk")}
    (tmp_path / "keys.toml").write_text(keys_table(publics, seal=True))
    office.done("roster", "--cohort", "airports", "--keys", str(tmp_path / "keys.toml"), "-o", str(tmp_path / "r"))
    found = read_roster((tmp_path / "r").read_bytes(), administrator(office).public)
    assert found.keys == publics
    (tmp_path / "keys.toml").write_text(keys_table({"ewr": publics["ewr"], "lga": OTHER.public}, seal=True))
    said = office.done("roster", "--cohort", "airports", "--keys", str(tmp_path / "keys.toml"))
    assert "new: lga; removed: jfk" in said
    (tmp_path / "keys.toml").write_text('[silos]\newr = "nonsense"')
    line = office.refused("roster", "--cohort", "airports", "--keys", str(tmp_path / "keys.toml"))
    assert "'ewr' in [silos] of" in line
    (tmp_path / "keys.toml").write_text("x = 1")
    line = office.refused("roster", "--cohort", "airports", "--keys", str(tmp_path / "keys.toml"))
    assert "has no table [silos]" in line


def swapped(office):
    """Return a roster in which someone without the administrator's key has exchanged a silo's key."""
    path = office.out / "rosters" / "airports.roster"
    content = path.read_bytes()
    return path, content.replace(installed(office).silos["jfk"].encode(), str(OTHER.public).encode())


def test_an_operator_who_swaps_keys_in_the_roster_is_noticed_everywhere(office):
    path, content = swapped(office)
    assert content != path.read_bytes()
    path.write_bytes(content)
    assert "not signed by the cohort's administrator" in office.refused("roster")
    file = str(office.directory / "lga.json")
    assert "not signed by" in office.refused("enroll", "lga", "--cohort", "airports", "--definitions", file)
    assert not (office.directory / "lga.json").exists()  # nothing was made at the broker
    shutil.copy(path, office.settings("airports", "bos").parent / "airports.roster")
    (office.settings("airports", "bos").parent / "airports.bos.roster-seen").unlink(missing_ok=True)
    with pytest.raises(SettingsError, match="not signed by the cohort's administrator"):
        installed(office, "bos")
    path.unlink()  # the remedy that the error names
    office.done("roster")
    assert OTHER.public not in installed(office, "bos").keys.values()


def test_a_roster_of_another_cohort_in_its_place_is_refused(office):
    enroll(office, "ewr", cohort="banks")
    shutil.copy(office.out / "rosters" / "banks.roster", office.out / "rosters" / "airports.roster")
    assert "the roster is of cohort 'banks'" in office.refused("roster", "--cohort", "airports")


def test_a_lost_administrators_key_is_named(office):
    (office.out / "administrator.key").unlink()
    assert "administrator.key, the key that signed it, is missing" in office.refused("roster")
    (office.out / "administrator.key").write_text("nonsense")
    assert "silos trust this key only" in office.refused("roster")


def test_coordinators_that_disagree_about_a_key_are_named(office):
    office.done("init", "--coordinator", "nightly", "--definitions", str(office.directory / "second.json"))
    other = office.out / "coordinators" / "nightly" / "airports.keys.toml"
    other.write_text(keys_table({"ewr": OTHER.public}, seal=True))
    (office.out / "rosters" / "airports.roster").unlink()
    assert f"{other} has another key for silo 'ewr'" in office.refused("roster")


def test_init_keeps_the_administrators_key(office):
    before = administrator(office)
    office.done("init", "--force", "--definitions", str(office.directory / "again.json"))
    assert administrator(office).public == before.public


def test_a_revoked_silo_is_not_in_the_next_roster(office):
    rosters = Rosters(Folder(office.out))
    before = installed(office)
    signed = rosters.sign("airports", {"jfk": None})
    assert signed.changes == ["removed: jfk"]
    assert list(installed(office).silos) == ["bos", "ewr"]
    assert installed(office).serial > before.serial
    with pytest.raises(SettingsError, match="silo 'jfk' is not in roster"):
        installed(office, "jfk")


def test_a_lost_roster_is_followed_by_a_newer_one(office, tmp_path):
    before = installed(office)
    later = Rosters(Folder(office.out), clock=lambda: time.time() + 60)
    (office.out / "rosters" / "airports.roster").unlink()
    assert later.sign("airports").roster.serial > before.serial


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43200.0), ("90d", 90 * DAY), ("4w", 28 * DAY)])
def test_times_have_units(text, seconds):
    assert lifetime_of(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "1.5d", "1y", "3651d", "٣d", "1e9w"])
def test_other_times_are_refused(text):
    with pytest.raises(UsageError):
        lifetime_of(text)


def test_settings_without_an_administrator_have_no_roster(tmp_path):
    folder = Folder(tmp_path)
    assert Rosters(folder).administrator is None
    assert Rosters(folder).read("airports") is None
    assert Rosters(folder).cohorts() == []
    with pytest.raises(ConfigError):
        Enrolment(folder, PublicUrl.parse("amqps://a/"), "v").rotate(object(), "airports", "x.y")
