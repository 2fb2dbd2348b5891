"""Text that attacks its reader: terminal escapes, forged lines, reversed or invisible letters, markup.

A malicious silo with valid keys puts it into every string of its replies, announcements and reports of forgeries. A
malicious coordinator with valid keys puts it into every string of its work and its notices, a raw client into routing
keys and headers of dead letters. On the other side, in exceptions, logs, terminals and tables, each string must be one
printable line of bounded length; identifiers with such characters must be refused entirely.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tensorflow_federated as tff
from fedbroker_worker.service import SiloService

import fedbroker
from fedbroker.broker import PrivateBroker
from fedbroker.credentials import write_private
from fedbroker.deadline import Deadline
from fedbroker.errors import PolicyRefusal, SiloError
from fedbroker.log import configure
from fedbroker.text import LONGEST, is_printable, printable
from fedbroker.transport import topology
from fedbroker.trust.keyring import SECRET, keys_table
from fedbroker.wire.messages import (
    Announce,
    Column,
    Compute,
    Data,
    Done,
    EndSession,
    Failed,
    Leave,
    Need,
    Rejected,
    Source,
    WorkItem,
)
from tests.support.attackers import Keyring, malicious_coordinator, malicious_silo, raw_client
from tests.support.local_tff import pack_arguments
from tests.support.transports import coordinator_transport, eventually, work_item

EVIL = (
    "\x1b[2J\x1b]0;title\x07\x1b[31mred\nERROR forged line\r\u2028x\x9b31m\x00\u202etxt.exe\u2066\u200b\ufeff\u3164"
    " [red]bold[/red] [link=http://evil]here[/link] :smile:"
)
SHOWN = printable(EVIL)
SECONDS = 60


def assert_harmless(text: str, *, lines: bool = False) -> None:
    """Assert that a text, or each line of an output, is printable."""
    for line in text.split("\n") if lines else [text]:
        assert is_printable(line), repr(line)


def every_string(value: object) -> list[str]:
    """Return all strings in a message, keys of maps included."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for item in value.items() for one in item for text in every_string(one)]
        case list() | tuple():
            return [text for one in value for text in every_string(one)]
        case _:
            return []


def strings_of(message: object) -> list[str]:
    """Return all strings in a message."""
    return every_string(msgspec.to_builtins(message))


async def run(broker: PrivateBroker, *command: str) -> str:
    """Run a fedbroker command; return its standard output and error."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fedbroker.cli", *command),
        env={**ours, "FEDBROKER_URL": broker.url, "COLUMNS": "2000", "FORCE_COLOR": "", "TERM": "xterm"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    return out.decode()


def failed(item: WorkItem, rule: str = "") -> Failed:
    return Failed(item.session_id, item.stage, "jfk", "i", "refused" if rule else "computation", EVIL, EVIL, rule)


@pytest.mark.parametrize("rule", ["", "sources"])
async def test_text_of_a_silo_is_one_printable_line_in_the_programs_exception(
    broker: PrivateBroker, cohort: str, rule: str, tmp_path: Path
) -> None:
    keyring = Keyring()
    write_private(tmp_path / SECRET, keyring.coordinators["a"].reveal())
    keys = tmp_path / "keys.toml"
    keys.write_text(keys_table({"jfk": keyring.silos["jfk"].public}, seal=False))

    @tff.federated_computation(tff.FederatedType(np.int32, tff.SERVER))
    def program(value: object) -> object:
        return tff.federated_sum(tff.federated_broadcast(value))

    def invoke() -> SiloError:
        with (
            fedbroker.create_sync_execution_context(broker.url, cohort=cohort, keys=keys, min_silos=1) as context,
            pytest.raises(SiloError) as caught,
        ):
            context.invoke(program, pack_arguments(program, [1]))
        return caught.value

    async with malicious_silo(broker.url, cohort, keyring) as attacker:
        attacker.silo.answer = lambda item: attacker.reply(item, failed(item, rule))
        error = await asyncio.to_thread(invoke)
    assert isinstance(error, PolicyRefusal) == bool(rule)
    for text in (str(error), error.what, error.hint, error.cause, *map(str, error.args), str(error.__cause__ or "")):
        assert_harmless(text)
    assert SHOWN in str(error)


ANSWERS: dict[str, Callable[[WorkItem], object]] = {
    "alarms": lambda item: Done(item.session_id, item.stage, "jfk", "i", (), 0.0, forgery_reports=(EVIL, EVIL * 100)),
    "failed": failed,
}
REFUSED: dict[str, Callable[[WorkItem], object]] = {
    "rule": lambda item: failed(item, EVIL),
    "incarnation": lambda item: msgspec.structs.replace(failed(item), incarnation=EVIL),
    "kind": lambda item: msgspec.structs.replace(failed(item), error_type=EVIL),
    "session": lambda item: msgspec.structs.replace(failed(item), session_id=EVIL),
    "digest": lambda item: Need(item.session_id, item.stage, "jfk", "i", (EVIL,)),
    "output": lambda item: Done(item.session_id, item.stage, "jfk", "i", ((EVIL, 1),), 0.0),
    "more alarms than a silo tells of": lambda item: Done(
        item.session_id, item.stage, "jfk", "i", (), 0.0, forgery_reports=(EVIL,) * 17
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_every_string_of_a_silos_reply_is_one_printable_line(
    broker: PrivateBroker, cohort: str, answer: str
) -> None:
    keyring = Keyring()
    async with (
        malicious_silo(broker.url, cohort, keyring) as attacker,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a")) as victim,
    ):
        attacker.silo.answer = lambda item: attacker.reply(item, ANSWERS[answer](item))
        await eventually(lambda: "jfk" in victim.silos)
        reply = await victim.transport.request(
            work_item("jfk", victim.transport.coordinator_id), {}, Deadline.after(10)
        )
    reports = [text for report in victim.forged for text in report]
    assert len(reports) == (6 if answer == "alarms" else 0)
    for text in (*strings_of(reply), *reports):
        assert_harmless(text)
        assert len(text) <= LONGEST + len("at the silo: ")
    assert any(SHOWN in text for text in (*strings_of(reply), *reports))


@pytest.mark.parametrize("answer", REFUSED)
async def test_reply_with_a_malformed_identifier_is_refused(
    broker: PrivateBroker, cohort: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring = Keyring()
    configure("console", "debug")
    async with (
        malicious_silo(broker.url, cohort, keyring) as attacker,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a")) as victim,
    ):

        async def reply(item: WorkItem) -> None:
            await attacker.reply(item, REFUSED[answer](item))
            await attacker.reply_with_outputs(item, [b"well-formed"])

        attacker.silo.answer = reply
        await eventually(lambda: "jfk" in victim.silos)
        assert await victim.ask("jfk") == b"well-formed"
    log = capsys.readouterr().err
    assert "message_dropped" in log
    assert_harmless(log, lines=True)
    assert "\nERROR forged line" not in log


def announcement(cohort: str) -> Announce:
    source = Source((Column(EVIL, EVIL),), 3, 1)
    return Announce(cohort, "jfk", "evil", 5.0, {EVIL: source, "x" * 9999: source}, EVIL, (EVIL,), 0)


async def test_announcements_are_printable(broker: PrivateBroker, cohort: str) -> None:
    keyring = Keyring()
    async with (
        malicious_silo(broker.url, cohort, keyring) as attacker,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a")) as victim,
    ):
        await attacker.announce(announcement(cohort))
        await eventually(lambda: any(one.incarnation == "evil" for one in victim.announces))
        (said,) = [one for one in victim.announces if one.incarnation == "evil"]
        for text in strings_of(said):
            assert_harmless(text)
            assert len(text) <= LONGEST
        assert said.sources[SHOWN].columns == (Column(SHOWN, SHOWN),)

        before = len(victim.announces)
        for change in ({"incarnation": EVIL}, {"cohort": EVIL}, {"silo": EVIL}):
            await attacker.announce(msgspec.structs.replace(announcement(cohort), **change))
        await attacker.announce(Leave(cohort, "jfk", EVIL))
        await attacker.announce(Leave(cohort, "jfk", "evil"))
        await eventually(lambda: bool(victim.leaves))
        assert [leave.incarnation for leave in victim.leaves] == ["evil"]
        assert {one.incarnation for one in victim.announces[before:]} <= {attacker.silo.incarnation}


@pytest.mark.parametrize("how", ["show", "list"])
async def test_table_of_a_cohort_has_no_markup(broker: PrivateBroker, cohort: str, how: str) -> None:
    keyring = Keyring()
    arguments = [how, cohort] if how == "show" else [how, "--seconds", "1"]
    async with malicious_silo(broker.url, cohort, keyring) as attacker:
        attacker.silo.transport._announcer._announcement = lambda: announcement(cohort)
        await attacker.announce(announcement(cohort))
        out = await run(broker, "cohort", *arguments)
    assert_harmless(out, lines=True)
    assert ("[red]bold[/red] [link=http://evil]here[/link] :smile:" in out) == (how == "show")
    assert "jfk" in out


async def test_dead_letters_are_shown_as_text(broker: PrivateBroker, cohort: str) -> None:
    archive = f"fedbroker.dead.{cohort}"
    key = "\x1b[31m\u202ekey[red]"
    async with raw_client(broker.url) as attacker, coordinator_transport(broker.url, cohort):
        await attacker.publish(
            topology.DEAD.name,
            f"{cohort}.ewr\x1b[31m.{key}",
            b"no message",
            message_id=EVIL[:200],
            correlation_id=EVIL[:200],
            headers={"evil[red]\x1b[31m": EVIL, "x-death": [{"reason": EVIL, "queue": EVIL}]},
        )
        await eventually(lambda: attacker.holds(archive, 1))
        for command in (["list"], ["list", "--json"], ["show", ""], ["requeue", printable(EVIL[:200])[:8]]):
            out = await run(broker, "dead-letters", *command, "--cohort", cohort)
            assert_harmless(out, lines=True)
            assert "Traceback" not in out


async def test_text_of_a_coordinator_is_printable_lines_in_a_silos_log(
    broker: PrivateBroker, cohort: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring = Keyring()
    own = keyring.silo_settings(tmp_path, broker.url, cohort)
    async with SiloService(own) as silo, malicious_coordinator(broker.url, cohort, keyring) as attacker:
        configure("console", "debug")
        await eventually(lambda: "ewr" in attacker.coordinator.silos)
        incarnation = attacker.coordinator.announces[-1].incarnation
        client = attacker.client()
        for program in ([Data(1, EVIL, ((EVIL, EVIL),)), Compute(1)], [Data(1, "rows", ((EVIL, EVIL),)), Compute(1)]):
            kind, line = await client.refused(client.item(program))
            assert kind == "data"
            assert_harmless(line)
        for notice in (
            Rejected(attacker.key, "ewr", incarnation, EVIL, (0.1, 0.2)),
            Rejected(EVIL, "ewr", incarnation, EVIL, (0.1, 0.2)),
            EndSession(EVIL),
        ):
            await attacker.send_notice("ewr", notice)
        item = client.item([])
        for change in ({"session_id": EVIL}, {"coordinator_id": EVIL}, {"content_key": EVIL}, {"incoming": {EVIL: 1}}):
            before = silo.statistics().work_counters.rejected
            await attacker.send_work(msgspec.structs.replace(item, **change))
            await eventually(lambda before=before: silo.statistics().work_counters.rejected > before)
        await client.check()
    log = capsys.readouterr().err
    assert "forged line" in log
    assert "message_dropped" in log
    assert_harmless(log, lines=True)
    assert "\nERROR forged line" not in log
