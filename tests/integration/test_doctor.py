"""``fedbroker doctor``: each problem of a broker is one line with its code, and the check leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.diagnostics import coordinator_role, examine, silo_role
from fedbroker.diagnostics.finding import exit_code_of
from fedbroker.trust import Identity
from fedbroker.trust.keyring import SECRET as SECRET_FILE
from fedbroker.trust.keyring import Keys, keys_table
from tests.support.pages import blocks
from tests.support.tls_broker import tls_broker
from tests.support.transports import coordinator_transport, eventually, queue_admin, silo_transport
from tests.support.worker import write_settings

ROOT = Path(__file__).parents[2]
SECRET = "open-sesame"
MIB = 1024 * 1024

RUNTIME = ["runtime", "confinement"]
STEPS = [
    "url",
    "dns",
    "tcp",
    "login",
    "broker",
    "alarm",
    "permissions",
    "topology",
    "round trip",
    "throughput",
    "message limit",
    "consumer timeout",
    "clock",
]


async def doctor(url, *arguments):
    """Run the command; return exit code, standard output and standard error."""
    return await command_line(url, ROOT, "fedbroker.cli", "doctor", *arguments)


async def command_line(url, directory, module, *arguments):
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        env={**ours, "FEDBROKER_URL": url, "PYTHONPATH": f"{ROOT}:{ROOT / 'workers'}"},
        cwd=directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = (stream.decode() for stream in await process.communicate())
    assert (urlsplit(url).password or SECRET) not in out + err
    return process.returncode, out, err


def login(node, user):
    return f"amqp://{user}:{SECRET}@127.0.0.1:{node.port}/"


def problems(findings):
    return [(one.subject, one.code) for one in findings if one.level == "problem"]


def of(findings, subject):
    return next(one for one in findings if one.subject == subject)


async def test_healthy_broker_has_no_problems(broker, cohort):
    before = everything(broker)
    async with silo_transport(broker.url, cohort) as silo, coordinator_transport(broker.url, cohort) as coordinator:
        await eventually(lambda: coordinator.silos == {"ewr"})
        code, out, err = await doctor(broker.url, "--cohort", cohort, "--json")
        found = json.loads(out)
        assert (code, err) == (0, "")
        assert [one["subject"] for one in found] == [*RUNTIME, *STEPS, "silos", "versions"]
        assert {one["level"] for one in found} == {"ok"}
        by_subject = {one["subject"]: one["what"] for one in found}
        assert "9 exchanges and queues exist" in by_subject["topology"]
        assert f"1 in cohort '{cohort}': ewr" in by_subject["silos"]
        assert by_subject["message limit"].startswith("the broker accepts messages of 15.9 MiB")
        assert "agrees with ours" in by_subject["clock"]
        assert await coordinator.ask("ewr") == b"ok"
        assert len(silo.items) == 1
    left = everything(broker) - before
    assert left <= {f"fedbroker.{kind}.{cohort}" for kind in ("lobby", "dead", "work")} | {
        f"fedbroker.work.{cohort}.ewr"
    }


def everything(node):
    """Return the names of all objects at a broker; exchanges are common to all tests."""
    return {line.split()[0] for line in node.ctl("list_queues", "name").splitlines() if line.startswith("fedbroker.")}


async def test_check_of_an_unknown_cohort_creates_nothing(broker, cohort):
    code, out, _ = await doctor(broker.url, "--cohort", cohort)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * len([*RUNTIME, *STEPS]) + ["warning"]
    assert f"[FB3000] cohort '{cohort}' has no silo; start silos" in lines[-1]
    await examine(broker.url, silo_role(cohort, "ewr"))
    async with queue_admin(broker.url) as look:
        for queue in (f"lobby.{cohort}", f"dead.{cohort}", f"work.{cohort}.ewr", f"mailbox.{cohort}.ewr"):
            assert not await look.has_queue(f"fedbroker.{queue}")


@pytest.mark.parametrize(
    ("seal", "keys", "words"),
    [
        (True, None, ["1 silo ignored (ewr): a message is signed, but this side has no keys", "FEDBROKER_KEYS"]),
        (True, False, ["1 silo ignored (ewr): silo 'ewr' takes sealed work only", "set seal = true"]),
        (True, True, None),
        (False, False, None),
    ],
)
async def test_keys_that_do_not_fit_are_reported(broker, cohort, tmp_path, seal, keys, words):
    """Check a cohort of one enrolled silo with no keys (None), and with keys that seal or do not."""
    coordinator, silo = Identity(b"c" * 32), Identity(b"e" * 32)
    file = tmp_path / "keys.toml"
    file.write_text(keys_table({"ewr": silo.public}, seal=bool(keys)))
    (tmp_path / SECRET_FILE).write_text(coordinator.reveal())
    given = [] if keys is None else ["--keys", str(file)]
    async with silo_transport(broker.url, cohort, keys=Keys(silo, {"ours": coordinator.public}, seal)):
        code, out, err = await doctor(broker.url, "--cohort", cohort, *given, "--json")
    found = {one["subject"]: one for one in json.loads(out)}
    assert err == ""
    if words is None:
        assert (code, "keys" in found, found["silos"]["level"]) == (0, False, "ok")
        return
    assert (code, "silos" in found) == (4, False)
    assert (found["keys"]["level"], found["keys"]["code"]) == ("problem", "FB3000")
    assert all(word in found["keys"]["what"] + found["keys"]["hint"] for word in words)


async def test_unreadable_keys_are_reported(broker, cohort, tmp_path):
    code, out, _ = await doctor(broker.url, "--cohort", cohort, "--keys", str(tmp_path / "nosuch.toml"), "--json")
    assert (code, json.loads(out)[-1]["subject"], json.loads(out)[-1]["code"]) == (2, "keys", "FB1001")


async def test_silo_of_another_version_series_is_reported(broker, cohort, monkeypatch):
    import fedbroker
    from fedbroker.cli import doctor as module
    from fedbroker.wire.messages import Announce

    monkeypatch.setattr(fedbroker, "__version__", "0.1.0")
    said = module._version(Announce(cohort, "ewr", "1", 5.0, version="0.2.7"))
    assert (said.level, said.code) == ("problem", "FB3000")
    assert "0.2.7 does not fit the coordinator's 0.1.0" in said.what
    assert module._version(Announce(cohort, "ewr", "1", 5.0, version="0.1.9")).level == "ok"


def test_silos_without_a_mask_key_are_named():
    from fedbroker.cli.doctor import _masked_sums
    from fedbroker.wire.messages import Announce

    with_key = [Announce("airports", name, "1", 5.0, mask_key="00" * 32) for name in ("ewr", "jfk")]
    without = Announce("airports", "lga", "1", 5.0)
    assert _masked_sums([]) == _masked_sums([without]) == []
    (finding,) = _masked_sums(with_key)
    assert (finding.level, finding.subject, finding.what) == ("ok", "masked sums", "2 silos can take part")
    (finding,) = _masked_sums([*with_key, without])
    assert (finding.level, finding.what) == ("warning", "1 silo cannot take part (lga)")


async def test_runtime_of_this_machine_is_reported(broker):
    _, out, _ = await doctor(broker.url)
    started, confined = out.splitlines()[:2]
    assert re.match(r"ok +runtime +started with isolation 'namespace' and ran a computation in [\d.]+ s", started)
    assert re.match(r"ok +confinement +network, pid, mount, .*landlock, seccomp", confined) or "missing: " in confined


async def test_runtime_that_does_not_start_is_a_warning(broker, monkeypatch):
    from fedbroker.cli import doctor as module

    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    (finding,) = await module._runtime()
    assert (finding.level, finding.subject, finding.exit_code) == ("warning", "runtime", 0)
    assert "the C++ runtime's host process did not start" in finding.what


async def test_unreachable_broker_is_reported(broker, cohort):
    url = broker.url.replace(f":{broker.port}", ":1")
    code, out, err = await doctor(url)
    assert (code, err) == (3, "")
    assert " ".join(out.splitlines()[-1].split()).startswith(
        "problem tcp [FB2001] no server is listening at 127.0.0.1:1: Connection refused"
    )


async def test_unknown_host_name_is_reported(cohort):
    findings = await examine("amqp://broker.invalid/", coordinator_role(cohort))
    assert problems(findings) == [("dns", "FB2001")]
    assert of(findings, "url").level == "warning"  # not encrypted


async def test_other_kind_of_server_is_reported(cohort):
    async with stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        findings = await examine(f"amqp://me:{SECRET}@127.0.0.1:{port}/", coordinator_role(cohort))
    assert problems(findings) == [("login", "FB2001")]
    assert "does not speak AMQP 0-9-1" in findings[-1].what


@asynccontextmanager
async def stranger(answer):
    async def serve(reader, writer):
        await reader.read(8)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("{password}", SECRET, "refused the login of user 'fedbroker'"),
        ("{port}/", "{port}/nosuch", "refused vhost 'nosuch'"),
    ],
)
async def test_refused_login_is_reported(broker, cohort, old, new, words):
    facts = {"password": urlsplit(broker.url).password, "port": broker.port}
    url = broker.url.replace(old.format(**facts), new.format(**facts))
    findings = await examine(url, coordinator_role(cohort))
    assert problems(findings) == [("login", "FB2002")]
    assert words in findings[-1].what
    assert exit_code_of(findings) == 3


async def test_invalid_url_is_reported():
    findings = await examine(f"http://me:{SECRET}@host/", coordinator_role(None))
    assert problems(findings) == [("url", "FB1001")]
    assert SECRET not in findings[0].line
    assert exit_code_of(findings) == 2


@pytest.fixture
def user(broker) -> Iterator[str]:
    """Create a user who may log in and nothing else."""
    name = "u" + secrets.token_hex(4)
    broker.ctl("add_user", name, SECRET)
    broker.ctl("set_permissions", name, "^$", "^$", "^$")
    yield name
    broker.ctl("delete_user", name)


async def test_missing_permissions_are_reported(broker, cohort, user):
    for role in (coordinator_role(cohort), silo_role(cohort, "ewr")):
        findings = await examine(login(broker, user), role)
        assert problems(findings) == [("permissions", "FB2002")] * 3
        kinds = [one.what.partition(" permission on ")[0].split()[-1] for one in findings if one.level == "problem"]
        assert kinds == ["configure", "write", "read"]
        assert "not measured" in of(findings, "clock").what


async def test_minimal_permissions_of_a_silo_suffice(broker, cohort, user):
    """Grant minimal permissions: its own queues, and replies under its own name."""
    own = rf"^fedbroker\.(work|blobs|mailbox)\.{cohort}\.ewr$|^fedbroker\.(lobby|dead)\.{cohort}$"
    exchanges = r"^fedbroker\.(work|reply|blobs|results|lobby|mail|dead)$"
    both = f"{own}|{exchanges}"
    broker.ctl("set_permissions", user, both, both, both)
    broker.ctl("set_topic_permissions", user, "fedbroker.reply", r"\.ewr$", ".*")
    async with silo_transport(login(broker, user), cohort), queue_admin(broker.url):
        findings = await examine(login(broker, user), silo_role(cohort, "ewr"))
    assert problems(findings) == []
    assert "to the broker's confirmation" in of(findings, "round trip").what
    assert of(findings, "name").what == "a silo of this name is running"
    findings = await examine(login(broker, user), silo_role(cohort, "jfk"))
    assert ("permissions", "FB2002") in problems(findings)
    assert any("no write permission on" in one.what and "topic '" in one.what for one in findings)


@pytest.mark.parametrize("queue", ["fedbroker.lobby.{}", "fedbroker.work.{}.ewr"])
async def test_queue_with_other_arguments_is_reported(broker, cohort, queue):
    name = queue.format(cohort)
    async with queue_admin(broker.url) as look:
        await look.declare(name, durable=True, arguments={"x-message-ttl": 17})
        findings = await examine(broker.url, silo_role(cohort, "ewr"))
        await look.delete(name)
    assert problems(findings) == [("topology", "FB2004")]
    assert f"queue '{name}' exists at the broker with properties that differ from ours" in of(findings, "topology").what
    assert exit_code_of(findings) == 3


async def test_every_host_is_checked(broker, cohort):
    where = f"127.0.0.1:{broker.port}"
    findings = await examine(broker.url.replace(where, f"127.0.0.1:1,{where}"), coordinator_role(cohort))
    assert [(one.where, one.subject) for one in findings if one.level == "problem"] == [("127.0.0.1:1", "tcp")]
    assert [one.subject for one in findings if one.where == where] == ["dns", "tcp", "login", "broker", "alarm"]
    assert of(findings, "permissions").where == ""


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Iterator[tuple[PrivateBroker, str]]:
    """Run a broker with a small message limit and TLS; return it and its TLS URL."""
    with tls_broker(tmp_path_factory.mktemp("tls"), days=10, max_message_size=str(8 * MIB)) as (node, url, _):
        yield node, url


async def test_small_message_limit_is_reported(odd, cohort):
    node, _ = odd
    findings = await examine(node.url, coordinator_role(cohort))
    limit = of(findings, "message limit")
    assert (limit.level, limit.code) == ("warning", "FB2002")
    assert f"refuses messages of more than {8 * MIB} bytes" in limit.what
    assert "max_message_size = 16777216" in limit.hint
    assert exit_code_of(findings) == 0


async def test_message_limit_below_a_chunk_is_reported(odd, cohort):
    node, _ = odd
    limit(node, 1_000_000)
    try:
        findings = await examine(node.url, coordinator_role(cohort))
    finally:
        limit(node, 8 * MIB)
    assert problems(findings) == [("message limit", "FB2002")]
    assert "but models need" in of(findings, "message limit").what
    assert of(findings, "round trip").level == "ok"


def limit(node, size):
    """Set the limit while the broker runs: 3.10 reads the setting each time, 4.0 only at its start."""
    node.ctl("eval", f"application:set_env(rabbit, max_message_size, {size}), "
                     f"persistent_term:put(max_message_size, {size}).")  # fmt: skip


async def test_tls_certificate_is_checked(odd, cohort):
    _, url = odd
    tls = of(await examine(url, coordinator_role(cohort)), "tls")
    assert (tls.level, tls.code) == ("warning", "FB2001")  # it expires in ten days
    assert "issued by our own CA, valid until" in tls.what
    findings = await examine(url.partition("?")[0], coordinator_role(cohort))
    assert problems(findings) == [("tls", "FB2001")]
    assert "not trusted: self-signed certificate" in findings[-1].what
    assert "cafile=" in findings[-1].hint
    findings = await examine(url.replace("127.0.0.1", "localhost"), coordinator_role(cohort))
    assert problems(findings) == [("tls", "FB2001")]
    assert "use the host name that is in it" in findings[-1].hint
    tls = of(await examine(f"{url.partition('?')[0]}?no_verify_ssl=1", coordinator_role(cohort)), "tls")
    assert (tls.level, tls.code) == ("warning", "FB1001")


async def test_missing_tls_is_reported(broker, cohort):
    findings = await examine(broker.url.replace("amqp://", "amqps://"), coordinator_role(cohort))
    assert problems(findings) == [("tls", "FB2001")]
    assert "the broker's TLS port" in findings[-1].hint


async def test_resource_alarm_is_reported(odd, cohort):
    node, _ = odd
    node.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        findings = await examine(node.url, coordinator_role(cohort))
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.5")
    assert problems(findings) == [("alarm", "FB2003")]
    assert "memory or disk space is low" in findings[-1].what


async def test_commands_of_the_errors_page_run(broker, cohort, tmp_path):
    """Run the page's commands unchanged, except for addresses."""
    (block,) = blocks("docs/errors.md", "sh")
    export, look, check = block.splitlines()
    assert export.startswith("export FEDBROKER_URL=amqps://")
    write_settings(tmp_path, broker.url, cohort)
    own = ["policy", "guarantee", "masked sums", "source"]
    for line, subjects in ((look, [*RUNTIME, *STEPS, "silos"]), (check, [*STEPS, *RUNTIME, *own])):
        command, *arguments = line.replace("airports", cohort).split()
        module = {"fedbroker": "fedbroker.cli", "fedbroker-silo": "fedbroker_worker"}[command]
        code, out, err = await command_line(broker.url, tmp_path, module, *arguments)
        assert (code, err) == (0, "")
        found = [one for one in out.splitlines() if one.startswith(("ok ", "warning "))]
        assert [one[9:26].strip().partition("  ")[0] for one in found] == subjects


async def test_check_leaves_work_and_letters_in_place(broker, cohort):
    """Check that work is never read, and that a letter read from the archive is put back."""
    names = [f"fedbroker.work.{cohort}.ewr", f"fedbroker.dead.{cohort}", f"fedbroker.lobby.{cohort}"]
    async with silo_transport(broker.url, cohort), coordinator_transport(broker.url, cohort):
        pass
    async with queue_admin(broker.url) as look:
        for name in names:
            await look.publish("", name, b"kept", delivery_mode=2)
            await eventually(lambda name=name: look.holds(name, 1))
        for role in (silo_role(cohort, "ewr"), coordinator_role(cohort)):
            assert problems(await examine(broker.url, role)) == []
        for name in names:
            await eventually(lambda name=name: look.holds(name, 1))
        # Work that was read three times unacknowledged would be dead-lettered.
        work = await look.first(names[0])
        assert (work.body, work.redelivered) == (b"kept", False)
        for name in names:
            await look.delete(name)
