"""The audit log: its lines, and the detection of later changes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading

import pytest
from fedbroker_worker.cli.audit import print_audit, rows
from fedbroker_worker.config import load_for_audit
from fedbroker_worker.errors import AuditDamaged, SettingsError
from fedbroker_worker.policy import audit
from fedbroker_worker.policy.accepted import AcceptedFile
from fedbroker_worker.policy.audit import AuditLog, read_audit
from fedbroker_worker.policy.recording import first_line, last_line
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import ConfigError, UsageError
from fedbroker.transport import Signed
from fedbroker.trust import Identity
from fedbroker.wire.messages import Data, Done, Failed, Value, WorkItem
from tests.support.wait import PROCESS_SECONDS

ITEM = WorkItem(
    "s1",
    2,
    "ewr",
    "c1",
    3,
    (Data(1, "flights", (("x", "float32"), ("y", "int32"))), Value(2, "d1")),
    {},
    1.0,
    1.0,
    True,
    computation="mean_delay",
)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def written(path, count=5):
    log = AuditLog(path)
    for number in range(count):
        log.append({"number": number})
    return lines_of(path)


def problem_of(lines, after=""):
    return read_audit(lines, after).problem


def test_line_records_coordinator_ops_data_and_outputs():
    done = Done("s1", 2, "ewr", "i", (("d7", 40), ("d8", 2)), 0.1)
    line = last_line(ITEM, done, ["sha"], Signed("0123456789abcdef", ("0a" * 16,)), releases=["sum of int32"])
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "silo": "ewr",
        "coordinator": "c1",
        "signed_by": "0123456789abcdef",
        "nonces": ["0a" * 16],
        "session": "s1",
        "claimed_name": "mean_delay",
        "stage": 2,
        "clients": 3,
        "sources": [{"name": "flights", "columns": ["x", "y"], "types": ["float32", "int32"]}],
        "computations": ["sha"],
        "outcome": "answered",
        "rule": "",
        "why": "",
        "outputs": ["d7", "d8"],
        "releases": ["sum of int32"],
        "bytes_out": 42,
    }


@pytest.mark.parametrize(("rule", "outcome"), [("min_clients", "refused"), ("", "failed")])
def test_line_records_the_reason_of_a_refusal(rule, outcome):
    line = last_line(ITEM, Failed("s1", 2, "ewr", "i", "refused", "no", "", rule), [], Signed())
    assert (line["outcome"], line["rule"], line["why"]) == (outcome, rule, "no")
    assert (line["outputs"], line["bytes_out"]) == ([], 0)


def test_written_lines_are_read_back_and_valid(tmp_path):
    found = read_audit(written(tmp_path / "audit.log"))
    assert found.problem is None
    assert [line["number"] for line in found.lines] == [0, 1, 2, 3, 4]
    assert found.lines[0]["previous"] == ""


def test_restarted_silo_reads_the_completed_work(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "SEARCHED", 460)
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    for number in range(8):
        log.append({"outcome": "answered", "nonces": [f"{number:032x}"]})
    with path.open("ab") as file:
        file.write(b'{"nonces": ["gone"], "previous": ""}\n{"nonces": ["' + b"0" * 32)  # edited; torn
    assert AuditLog(path).nonces() == [("", f"{number:032x}") for number in (6, 7)]


def test_log_that_cannot_be_read_is_an_error_of_the_settings(tmp_path):
    with pytest.raises(SettingsError, match=r"audit log .* cannot be read: No such file"):
        AuditLog(tmp_path / "missing" / "audit.log").nonces()


@pytest.mark.parametrize("call", [AcceptedFile.check, AcceptedFile.load])
def test_record_that_cannot_be_written_is_an_error_of_the_settings(tmp_path, call):
    with pytest.raises(SettingsError, match=r"record of signed work .* cannot be written: No such file"):
        call(AcceptedFile(tmp_path / "missing" / "one.accepted"))


def test_log_is_readable_only_by_its_owner(tmp_path):
    written(tmp_path / "audit.log")
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600


def test_another_process_continues_the_chain(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "WINDOW", 8)
    path = tmp_path / "audit.log"
    written(path)
    assert problem_of(written(path)) is None
    assert len(lines_of(path)) == 10


def test_concurrent_writers_are_serialized(tmp_path):
    path = tmp_path / "audit.log"
    threads = [threading.Thread(target=written, args=(path, 20)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problem_of(lines_of(path)) is None
    assert len(lines_of(path)) == 80


@given(st.data())
def test_edited_removed_repeated_or_moved_line_is_detected(tmp_path_factory, data):
    lines = written(tmp_path_factory.mktemp("audit") / "audit.log")
    at = data.draw(st.integers(0, len(lines) - 2))  # a change of the last line is visible only by its hash
    match data.draw(st.sampled_from(["edit", "remove", "repeat", "swap"])):
        case "edit":
            lines[at] = lines[at].replace(f'"number":{at}'.encode(), b'"number":9')
        case "remove":
            del lines[at]
        case "repeat":
            lines.insert(at, lines[at])
        case _:
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
    problem = problem_of(lines)
    assert problem is not None
    assert at + 1 <= problem.line <= at + 2


def test_change_of_the_last_line_is_detected_by_its_hash(tmp_path):
    lines = written(tmp_path / "audit.log")
    whole = read_audit(lines).last
    assert read_audit(lines[:-1]).problem is None
    assert read_audit(lines[:-1]).last != whole
    assert read_audit([*lines[:-1], lines[-1].replace(b'"number":4', b'"number":9')]).last != whole


def test_chain_continues_after_log_rotation(tmp_path):
    log = AuditLog(tmp_path / "audit.log")
    log.append({"number": 0})
    first = read_audit(lines_of(log.path))
    log.path.rename(tmp_path / "audit.log.1")
    log.append({"number": 1})
    assert problem_of(lines_of(log.path)).line == 1
    assert first.last in problem_of(lines_of(log.path)).hint
    assert problem_of(lines_of(log.path), first.last) is None


def test_torn_last_line_is_distinguished_from_a_change_and_repaired(tmp_path):
    path = tmp_path / "audit.log"
    whole = written(path)[-1]
    path.write_bytes(path.read_bytes()[:-3])
    torn = problem_of(lines_of(path))
    assert (torn.line, torn.what) == (5, "line 5 of the audit log is cut short")
    AuditLog(path).append({"number": 5})
    found = read_audit(lines_of(path))
    assert found.problem is None
    assert [line.get("number") for line in found.lines] == [0, 1, 2, 3, None, 5]
    assert (found.lines[4]["outcome"], found.lines[4]["text"]) == ("torn", whole[:-3].decode())
    changed = lines_of(path)
    changed[2] = changed[2][:-3] + b"\n"
    assert problem_of(changed).what == "line 3 of the audit log is damaged"


def test_unfinished_work_is_listed(tmp_path, capsys):
    log = AuditLog(tmp_path / "audit.log")
    first = log.append(first_line(ITEM, Signed()))
    log.append(first_line(ITEM, Signed()))
    log.append(last_line(ITEM, Done("s1", 2, "ewr", "i", (("d7", 40),), 0.1), ["sha"], Signed(), first))
    found = read_audit(lines_of(log.path))
    assert found.problem is None
    assert found.unfinished == [found.lines[1]]
    print_audit(log.path)
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    assert "3 lines, none missing or changed; 1 work items were begun, not ended; the last one's hash" in words
    assert [row[-2] for row in rows(found)] == ["begun, not ended", "answered"]
    print_audit(log.path, as_json=True)
    assert json.loads(capsys.readouterr().out)["unfinished"] == found.unfinished


def test_line_is_removed_if_the_disk_is_full(tmp_path):
    """RLIMIT_FSIZE fails a write as a full disk would: after a part of the line."""
    path = tmp_path / "audit.log"
    written(path)
    before = path.read_bytes()
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 40}, resource.RLIM_INFINITY))"
    program = f"""
import pathlib, resource
from fedbroker_worker.policy.audit import AuditLog, why_full
{limit}
try:
    AuditLog(pathlib.Path({str(path)!r})).append({{"number": 5, "text": "x" * 100}})
except OSError as error:
    print(why_full(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert (done.stderr, done.stdout) == ("", "it has reached the size that files may have\n")
    assert path.read_bytes() == before
    assert problem_of(lines_of(path)) is None


def test_unwritable_path_is_an_error_at_the_start(tmp_path):
    with pytest.raises(SettingsError, match="No such file or directory"):
        AuditLog(tmp_path / "nowhere" / "audit.log").check()


def test_log_is_printed(tmp_path, capsys):
    log = AuditLog(tmp_path / "audit.log")
    log.append(last_line(ITEM, Done("s1", 2, "ewr", "i", (("d7", 40),), 0.1), ["sha"], Signed()))
    log.append(last_line(ITEM, Failed("s1", 2, "ewr", "i", "refused", "no", "", "min_clients"), [], Signed()))
    print_audit(log.path)
    printed = capsys.readouterr().out
    assert "2 lines, none missing or changed; the last one's hash is" in printed
    print_audit(log.path, last=1, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [line["rule"] for line in shown["lines"]] == ["min_clients"]
    assert shown["problem"] is None
    assert shown["last"] in printed.replace("\n", "")


def test_table_fits_in_80_columns_and_names_coordinators(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    log = AuditLog(tmp_path / "audit.log")
    key = Identity.generate().public
    done = Done("s1", 2, "ewr", "i", (("d7", 40_000),), 0.1)
    log.append(last_line(ITEM, done, ["sha" * 20], Signed(key.fingerprint), releases=["sum of float32[10]"]))
    log.append(last_line(ITEM, Failed("s1", 2, "ewr", "i", "refused", "no", "", "min_clients"), [], Signed("f" * 16)))
    log.append(last_line(ITEM, done, [], Signed()))
    (tmp_path / "silo.toml").write_text(
        '[silo]\n[policy]\naudit_file = "audit.log"\n[data.flights]\nsource = "sql"\nurl_file = "missing"\n'
        f'[security]\nsecret_file = "missing"\ncoordinators = {{ hospital = "{key}" }}\n'
    )
    settings = load_for_audit(tmp_path / "silo.toml", {})
    print_audit(settings)
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 80
    assert printed[1].split()[3:] == ["hospital", "flights(x,", "y)", "answered", "39", "KiB"]
    print_audit(settings, show=1)
    shown = {
        line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1].strip() for line in capsys.readouterr().out.splitlines()
    }
    assert shown["coordinator"] == "hospital, id c1"
    assert shown["key"] == key.fingerprint
    assert shown["reads"] == "flights(x: float32, y: int32)"
    assert shown["releases"] == "sum of float32[10]"
    assert shown["computation"] == "mean_delay (claimed by the coordinator)"
    print_audit(settings, show=2, as_json=True)
    assert json.loads(capsys.readouterr().out)["rule"] == "min_clients"
    with pytest.raises(UsageError, match="the audit log has no line 4; its last one is 3"):
        print_audit(settings, show=4)


def test_damaged_log_is_printed_with_an_error(tmp_path, capsys):
    lines = written(tmp_path / "audit.log")
    (tmp_path / "audit.log").write_bytes(b"".join(lines[1:]))
    with pytest.raises(AuditDamaged, match="line 1 of the audit log"):
        print_audit(tmp_path / "audit.log", as_json=True)
    assert len(json.loads(capsys.readouterr().out)["lines"]) == 4
    with pytest.raises(ConfigError, match="cannot be read"):
        print_audit(tmp_path / "nothing")
    assert os.listdir(tmp_path) == ["audit.log"]


def command(*arguments):
    line = [sys.executable, "-m", "fedbroker_worker", "audit", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=PROCESS_SECONDS)


def test_exit_code_of_the_command_is_that_of_the_verification(tmp_path):
    lines = written(tmp_path / "audit.log")
    whole = command("--file", tmp_path / "audit.log", "--last", 0)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.startswith("5 lines, none missing or changed")
    (tmp_path / "audit.log").write_bytes(b"".join([*lines[:2], *lines[3:]]))
    broken = command("--file", tmp_path / "audit.log", "--last", 0)
    assert (broken.returncode, broken.stdout) == (4, "")
    assert broken.stderr.startswith("error: [FB4208] line 3 of the audit log does not follow the one before it; ")
    (tmp_path / "silo.toml").write_text('[silo]\nname = "a"\ncohort = "b"\nbroker = "amqp://localhost/"\n')
    none = command("--config", tmp_path / "silo.toml")
    assert none.returncode == 2
    assert "[FB4201] this silo writes no audit log" in none.stderr
