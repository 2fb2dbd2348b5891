"""``fedbroker admin`` against a real broker: its files and permissions, its refusals, and silos that use them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tomllib

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.roster import roster_file

import fedbroker
from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.diagnostics import coordinator_role, examine, silo_role
from fedbroker.errors import BrokerRefused, NameTaken, TopologyMismatch
from fedbroker.transport import until_free
from fedbroker.transport.amqp.dial import connect
from fedbroker.transport.amqp.url import parse
from fedbroker.transport.topology import coordinator_prefix
from fedbroker.trust import Identity, Public
from tests.support.computations import total
from tests.support.local_tff import pack_arguments
from tests.support.management import Admin, environment, silo_process
from tests.support.transports import EchoSilo, coordinator_transport, eventually, queue_admin, silo_transport
from tests.support.wait import PROCESS_SECONDS

pytestmark = [pytest.mark.broker, pytest.mark.timeout(900)]

QUEUES = ("work", "blobs", "mailbox")


@pytest.fixture
def ewr(office: Admin, cohort: str):
    """Enrol a silo; return the path of its settings."""
    office.done("enroll", "ewr", "--cohort", cohort)
    return office.settings(cohort)


def test_enroll_writes_complete_settings_and_keys(office, cohort, managed_broker):
    said = json.loads(office.done("enroll", "ewr", "--cohort", cohort, "--json"))
    settings = load(office.settings(cohort), {}).silo
    assert (settings.name, settings.cohort, settings.enrolled) == ("ewr", cohort, True)
    whole = load(office.settings(cohort), {})
    assert whole.keys is not None
    assert whole.keys.seal
    assert whole.policy.audit_file == "audit.log"
    assert settings.broker.startswith(f"amqp://{cohort}.ewr:")
    assert settings.broker.endswith(f"@127.0.0.1:{managed_broker.broker.port}/fedbroker")
    mine = Identity.parse((office.settings(cohort).parent / "secret.key").read_text().strip()).public
    administrator = Identity.parse((office.out / "administrator.key").read_text().strip())
    assert said == {
        "user": f"{cohort}.ewr",
        "directory": str(office.settings(cohort).parent),
        "public": str(mine),
        "roster_key": str(administrator.public),
        "roster": str(office.out / "rosters" / f"{cohort}.roster"),
    }
    coordinator = office.out / "coordinators" / "coordinator"
    keys = tomllib.loads((coordinator / f"{cohort}.keys.toml").read_text())
    assert keys == {"secret_file": "secret.key", "seal": True, "silos": {"ewr": str(mine)}}
    theirs = Identity.parse((coordinator / keys["secret_file"]).read_text().strip()).public
    assert str(theirs) in office.settings(cohort).read_text()
    assert Public.parse(str(theirs)) != mine


def test_commands_say_what_to_do_next(office, cohort):
    said = office.done("init", "--coordinator", "said")
    assert "next: `fedbroker admin enroll SILO --cohort COHORT`" in said
    assert "FEDBROKER_URL_FILE=.../broker.url" in said
    assert "FEDBROKER_KEYS=.../COHORT.keys.toml" in said
    said = office.done("enroll", "ewr", "--cohort", cohort)
    assert f"next: hand {office.settings(cohort).parent} to the silo's administrator" in said
    assert "public key: fedbroker-public-1:" in said
    assert "the old login is refused now" in office.done("rotate", "ewr", "--cohort", cohort)
    assert "the broker refuses the login" in office.done("revoke", "ewr", "--cohort", cohort)


def kinds(cohort, managed_broker):
    """Return the types of the silo's queues, by purpose."""
    listed = managed_broker.broker.ctl("list_queues", "-p", "fedbroker", "name", "type").splitlines()
    names = (line.split() for line in listed)
    return {name.split(".")[1]: kind for name, kind in names if name.endswith(f".{cohort}.ewr")}


def test_all_queues_of_a_silo_can_be_replicated(office, cohort, managed_broker):
    office.done("enroll", "ewr", "--cohort", cohort)
    assert kinds(cohort, managed_broker) == {"work": "quorum", "blobs": "classic", "mailbox": "classic"}
    line = office.refused("enroll", "ewr", "--cohort", cohort, "--replicated", "--force")
    assert "exists already, not replicated" in line
    office.done("revoke", "ewr", "--cohort", cohort)
    office.done("enroll", "ewr", "--cohort", cohort, "--replicated", "--force")
    assert kinds(cohort, managed_broker) == dict.fromkeys(QUEUES, "quorum")
    with silo_process(office.settings(cohort)):
        assert compute(office, cohort) == 6.5
    assert "exists already, replicated" in office.refused("enroll", "ewr", "--cohort", cohort, "--force")
    office.done("revoke", "ewr", "--cohort", cohort)
    assert kinds(cohort, managed_broker) == {}


def test_enroll_accepts_a_silos_own_public_key(office, cohort):
    own = Identity(b"o" * 32)
    office.done("enroll", "ewr", "--cohort", cohort, "--public-key", str(own.public))
    directory = office.settings(cohort).parent
    assert not (directory / "secret.key").exists()
    keys = office.out / "coordinators" / "coordinator" / f"{cohort}.keys.toml"
    assert tomllib.loads(keys.read_text())["silos"] == {"ewr": str(own.public)}
    line = office.refused("enroll", "jfk", "--cohort", cohort, "--public-key", own.reveal())
    assert "this is not a public key" in line
    assert own.reveal() not in line


def test_later_enrolments_preserve_sealing(office, cohort):
    office.done("enroll", "ewr", "--cohort", cohort)
    keys = office.out / "coordinators" / "coordinator" / f"{cohort}.keys.toml"
    keys.write_text(keys.read_text().replace("seal = true", "seal = false"))
    office.done("enroll", "jfk", "--cohort", cohort)
    found = tomllib.loads(keys.read_text())
    assert found["seal"] is False
    assert sorted(found["silos"]) == ["ewr", "jfk"]


def test_enroll_prints_no_secret(office, cohort):
    ran = office.run("enroll", "ewr", "--cohort", cohort)
    password = office.silo_url(cohort).rpartition("@")[0].rpartition(":")[2]
    assert len(password) == 32
    assert password not in ran.out + ran.error
    assert "fedbroker-secret" not in ran.out + ran.error


def test_enrolled_silo_is_unchanged_without_force(office, ewr, cohort, tmp_path):
    before = ewr.read_text()
    assert "exists already" in office.refused("enroll", "ewr", "--cohort", cohort)
    elsewhere = Admin(tmp_path, office.variables)
    line = elsewhere.refused("enroll", "ewr", "--cohort", cohort)
    assert f"user '{cohort}.ewr' exists already" in line
    assert ewr.read_text() == before
    assert "user 'coordinator' exists already" in elsewhere.refused("init")
    office.done("enroll", "ewr", "--cohort", cohort, "--force")
    assert ewr.read_text() != before


def test_user_of_another_virtual_host_is_refused(office, ewr, cohort, tmp_path):
    other = Admin(tmp_path, office.variables)
    other.done("init", "--vhost", "trains", "--coordinator", "nightly")
    assert "belongs to vhost 'fedbroker'" in other.refused("enroll", "ewr", "--cohort", cohort, "--force")
    assert other.listed() == []


async def test_queues_of_an_unenrolled_silo_are_refused(office, cohort):
    async with queue_admin(office.coordinator_url()) as somebody:
        await somebody.declare(f"fedbroker.lobby.{cohort}.2", durable=True)
    managed = office.variables["FEDBROKER_ADMIN_URL"]
    url = office.coordinator_url().partition("@")[2].partition("/")[0]
    login = managed.removeprefix("http://").partition("@")[0]
    async with silo_transport(f"amqp://{login}@{url}/fedbroker", cohort):
        line = office.refused("enroll", "ewr", "--cohort", cohort)
    assert "made by a silo that was not enrolled" in line
    assert office.listed("--cohort", cohort) == []


def test_password_in_an_argument_is_refused(office):
    line = office.refused("list", "--api", "http://admin:hunter2@127.0.0.1:1")
    assert "list of processes" in line
    assert "hunter2" not in line
    line = office.refused("init", "--broker", "amqps://me:hunter2@broker.example/", "--force")
    assert "holds a login" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "the login for the broker's management API is missing"),
        ({"FEDBROKER_ADMIN_URL": "http://127.0.0.1:1"}, "has no user and password"),
        ({"FEDBROKER_ADMIN_URL": "ftp://a:hunter2@127.0.0.1"}, "is not the URL of a management API"),
        ({"FEDBROKER_ADMIN_URL": "http://a:hunter2@127.0.0.1:1"}, "no management API answers"),
        ({"FEDBROKER_ADMIN_URL": "https://a:hunter2@127.0.0.1:1?cafile=/nowhere"}, "does not exist"),
        ({"FEDBROKER_ADMIN_URL_FILE": "/nowhere"}, "does not exist"),
    ],
)
def test_unsuitable_admin_login_is_refused(tmp_path, variables, words):
    line = Admin(tmp_path, variables).refused("list")
    assert words in line
    assert "hunter2" not in line


def test_errors_of_the_management_api_are_reported(office, managed_broker, tmp_path):
    host = managed_broker.api.rpartition("@")[2]
    wrong = Admin(tmp_path, {"FEDBROKER_ADMIN_URL": f"http://fedbroker:hunter2@{host}"})
    assert "rejected user 'fedbroker'" in wrong.refused("list")
    tls = Admin(tmp_path, {"FEDBROKER_ADMIN_URL": managed_broker.api.replace("http://", "https://")})
    assert "TLS with the management API" in tls.refused("list")
    amqp = f"http://a:hunter2@127.0.0.1:{managed_broker.broker.port}"
    assert "no management API" in Admin(tmp_path, {"FEDBROKER_ADMIN_URL": amqp}).refused("list")


def test_uninitialised_virtual_host_is_refused(office, tmp_path):
    line = Admin(tmp_path, office.variables).refused("enroll", "ewr", "--cohort", "c", "--vhost", "nowhere")
    assert "run `fedbroker admin init` first" in line
    assert "is not enrolled" in office.refused("revoke", "nobody", "--cohort", "nowhere")
    assert "is not enrolled" in office.refused("rotate", "nobody", "--cohort", "nowhere")
    assert "is not a name for a silo" in office.refused("enroll", "a.b", "--cohort", "c")


def test_login_can_come_from_a_file(office, managed_broker, tmp_path):
    (tmp_path / "url").write_text(f"{managed_broker.api}\n")
    from_file = Admin(tmp_path, {"FEDBROKER_ADMIN_URL_FILE": str(tmp_path / "url")})
    assert from_file.listed("--vhost", "fedbroker") == office.listed()


def test_command_runs_as_its_own_process(managed_broker, tmp_path):
    """Run the command in its own process; the other tests run it in this one."""
    done = subprocess.run(
        [sys.executable, "-m", "fedbroker.cli", "admin", "list", "--vhost", "empty"],
        env=environment(FEDBROKER_ADMIN_URL=managed_broker.api),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
    )
    assert (done.returncode, done.stdout) == (0, "no silo is enrolled\n"), done.stderr


def test_definitions_file_equals_the_api(office, managed_broker, tmp_path, cohort):
    """Import the definitions by `rabbitmqctl`: users, permissions, queues and bindings equal those of the API."""
    broker = managed_broker.broker
    by_file = Admin(tmp_path, {})
    public = ["--broker", managed_broker.public, "--vhost", cohort]
    by_file.done("init", *public, "--coordinator", f"{cohort}-c", "--definitions", str(tmp_path / "init.json"))
    by_file.done("enroll", "bos", "--cohort", cohort, "--definitions", str(tmp_path / "bos.json"))
    for name in ("init.json", "bos.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert "fedbroker-secret" not in (tmp_path / name).read_text()
        broker.ctl("import_definitions", str(tmp_path / name))
    office.done("enroll", "bos", "--cohort", f"{cohort}-2")
    assert "already" in by_file.refused(
        "enroll", "bos", "--cohort", cohort, "--definitions", str(tmp_path / "bos.json")
    )

    def state(vhost: str, name: str) -> list[str]:
        asked = ("list_permissions", "list_topic_permissions", "list_bindings", "list_queues name arguments policy")
        lines = (line for words in asked for line in broker.ctl("-p", vhost, *words.split()).splitlines())
        plain = (line.replace("\\", "").replace(coordinator_prefix(name), "MARK") for line in lines)
        return sorted(line.replace(name, "COHORT") for line in plain if f"{name}." in f"{line}.")

    mine, theirs = state(cohort, cohort), state("fedbroker", f"{cohort}-2")
    assert len(mine) > 10
    assert mine == theirs


@pytest.mark.parametrize("options", [(), ("--replicated",)])
async def test_name_of_a_connected_silo_is_in_use(office, cohort, options):
    office.done("enroll", "ewr", "--cohort", cohort, *options)
    url = office.silo_url(cohort)
    async with silo_transport(url, cohort, enrolled=True) as first:
        with pytest.raises(NameTaken):
            await EchoSilo(url, cohort, enrolled=True).transport.open(Deadline.after(20))
        waiting = asyncio.create_task(until_free(url, cohort, "ewr"))
        await asyncio.wait([waiting], timeout=1.5)
        assert not waiting.done()
        await first.transport.close()
        await asyncio.wait_for(waiting, 10)
    async with silo_transport(url, cohort, enrolled=True):
        pass


async def test_enrolment_mismatch_between_settings_and_broker_is_an_error(office, ewr, cohort):
    """Use settings that claim an enrolment which the broker lacks, or the reverse."""
    url = office.silo_url(cohort)
    with pytest.raises(BrokerRefused, match="fedbroker admin enroll"):
        await EchoSilo(url, cohort, "jfk", enrolled=True).transport.open(Deadline.after(20))
    with pytest.raises((BrokerRefused, TopologyMismatch)):
        await EchoSilo(url, cohort).transport.open(Deadline.after(20))


async def test_doctor_checks_an_enrolled_silo(office, ewr, cohort):
    url = office.silo_url(cohort)
    findings = await examine(url, silo_role(cohort, "ewr", enrolled=True))
    assert [one.line for one in findings if one.level == "problem"] == []
    assert any(one.what == "3 queues exist, made by enrolment" for one in findings)
    async with silo_transport(url, cohort, enrolled=True):
        findings = await examine(url, silo_role(cohort, "ewr", enrolled=True))
    assert [one.line for one in findings if one.level == "problem"] == []
    assert any(one.subject == "name" for one in findings)
    wrong = await examine(url, silo_role(cohort, "jfk", enrolled=True))
    assert {one.subject for one in wrong if one.level == "problem"} == {"permissions", "topology"}
    findings = await examine(office.coordinator_url(), coordinator_role(cohort))
    assert [one.line for one in findings if one.level == "problem"] == []


async def test_blobs_for_a_stopped_silo_do_not_reach_its_successor(office, ewr, cohort):
    """Discard chunks of blobs that waited for the silo, and keep its work."""
    url = office.silo_url(cohort)
    async with queue_admin(office.coordinator_url()) as somebody:
        await somebody.publish("fedbroker.blobs", cohort, b"old")
        await eventually(lambda: somebody.holds(f"fedbroker.blobs.{cohort}.ewr", 1))
        async with silo_transport(url, cohort, enrolled=True):
            await eventually(lambda: somebody.holds(f"fedbroker.blobs.{cohort}.ewr", 0))
        for kind in QUEUES:
            assert await somebody.has_queue(f"fedbroker.{kind}.{cohort}.ewr")


async def test_enrolled_silo_renews_long_work(office, ewr, cohort):
    """Let an enrolled silo put a copy of its own work into its own queue."""
    async with (
        coordinator_transport(office.coordinator_url(), cohort) as theirs,
        silo_transport(office.silo_url(cohort), cohort, enrolled=True, renew_seconds=0.3, heartbeat=60.0) as silo,
    ):
        gate = silo.gated()
        asked = asyncio.create_task(theirs.ask("ewr"))
        await eventually(lambda: len(silo.items) == 1)
        said = silo.transport.traffic["control"]
        before = said.messages_out
        await eventually(lambda: said.messages_out >= before + 3)  # no other message is that frequent
        gate.set()
        assert await asked == b"ok"
        assert len(silo.items) == 1


def compute(office: Admin, cohort: str) -> float:
    """Run a TFF computation over the cohort, through the enrolled coordinator."""
    keys = office.out / "coordinators" / "coordinator" / f"{cohort}.keys.toml"
    with fedbroker.create_sync_execution_context(
        office.coordinator_url(), cohort=cohort, keys=keys, min_silos=1, timeouts=fedbroker.Timeouts(join=60)
    ) as context:
        return float(context.invoke(total, pack_arguments(total, ([1.0, 2.0, 3.5],))))


async def locked_out(url: str) -> None:
    """Check that this login is refused."""
    with pytest.raises(BrokerRefused, match="refused the login"):
        await (await connect(parse(url), "test", Deadline.after(15))).close()


async def test_life_cycle_of_an_enrolled_silo(office, ewr, cohort, managed_broker):
    """Join, compute, survive a broker restart, get locked out by a rotation, continue with new files, be revoked."""
    broker: PrivateBroker = managed_broker.broker
    with silo_process(ewr) as silo:
        assert await asyncio.to_thread(compute, office, cohort) == 6.5
        assert [(row["silo"], row["connections"]) for row in office.listed("--cohort", cohort)] == [("ewr", 2)]
        await asyncio.to_thread(broker.halt)
        await asyncio.to_thread(broker.start)
        await eventually(lambda: silo.said("broker_connection_restored", "control"), 30)
        assert await asyncio.to_thread(compute, office, cohort) == 6.5
        old = office.silo_url(cohort)
        ewr.write_text(ewr.read_text() + '\n[data.rows]\nsource = "duckdb"\nquery = "select 1 as x"\n')
        office.done("rotate", "ewr", "--cohort", cohort)
        assert office.silo_url(cohort) != old
        await locked_out(old)
        await eventually(lambda: silo.said("broker_not_connected", "refused the login"), 20)
    with silo_process(ewr) as silo:
        assert "rows" in load(ewr, {}).data  # the silo's own additions to its settings are preserved
        assert await asyncio.to_thread(compute, office, cohort) == 6.5
        office.done("revoke", "ewr", "--cohort", cohort)
        await eventually(lambda: silo.said("broker_connection_lost"), 20)
        await locked_out(office.silo_url(cohort))
    assert office.listed("--cohort", cohort) == []
    left = broker.ctl("list_queues", "-p", "fedbroker", "name").split()
    assert not [name for name in left if name.endswith(f"{cohort}.ewr")]
    keys = office.out / "coordinators" / "coordinator" / f"{cohort}.keys.toml"
    assert tomllib.loads(keys.read_text())["silos"] == {}
    office.done("enroll", "ewr", "--cohort", cohort, "--force")
    with silo_process(ewr):
        assert await asyncio.to_thread(compute, office, cohort) == 6.5


def test_roster_follows_enrolment_and_revocation(office, cohort):
    for silo in ("bos", "ewr", "jfk"):
        office.done("enroll", silo, "--cohort", cohort)
    files = {silo: roster_file(load(office.settings(cohort, silo), {})) for silo in ("bos", "ewr", "jfk")}
    first = files["ewr"].current()
    assert [file.current() for file in files.values()] == [first] * 3
    assert sorted(first.silos) == ["bos", "ewr", "jfk"]
    said = json.loads(office.done("revoke", "jfk", "--cohort", cohort, "--json"))
    assert said["roster"] == str(office.out / "rosters" / f"{cohort}.roster")
    second = files["ewr"].current()  # the process of the silo reads it again
    assert sorted(second.silos) == ["bos", "ewr"]
    assert second.serial > first.serial
    assert files["bos"].current() == second
    with pytest.raises(SettingsError, match="silo 'jfk' is not in roster"):
        files["jfk"].current()
    said = office.done("revoke", "bos", "--cohort", cohort)
    assert f"copy {office.out}/rosters/{cohort}.roster to each silo of the cohort" in said
