"""The audit log: what is written, and that whatever is done to it afterwards shows."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading

import pytest
from fedbroker_worker.cli.audit import print_audit, rows
from fedbroker_worker.errors import AuditDamaged, SettingsError
from fedbroker_worker.policy import audit
from fedbroker_worker.policy.audit import AuditLog, read_audit
from fedbroker_worker.policy.recording import beginning, ending
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import ConfigError
from fedbroker.transport import Signed
from fedbroker.wire.messages import Data, Done, Failed, Value, WorkItem

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


def test_a_line_says_who_asked_what_of_which_data_and_what_left():
    done = Done("s1", 2, "ewr", "i", (("d7", 40), ("d8", 2)), 0.1)
    line = ending(ITEM, done, ["sha"], Signed("0123456789abcdef", ("0a" * 16,)))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "silo": "ewr",
        "coordinator": "c1",
        "signed_by": "0123456789abcdef",
        "nonces": ["0a" * 16],
        "session": "s1",
        "stage": 2,
        "clients": 3,
        "sources": [{"name": "flights", "columns": ["x", "y"]}],
        "computations": ["sha"],
        "outcome": "answered",
        "rule": "",
        "why": "",
        "outputs": ["d7", "d8"],
        "bytes_out": 42,
    }


@pytest.mark.parametrize(("rule", "outcome"), [("min_clients", "refused"), ("", "failed")])
def test_a_line_says_why_nothing_left(rule, outcome):
    line = ending(ITEM, Failed("s1", 2, "ewr", "i", "refused", "no", "", rule), [], Signed())
    assert (line["outcome"], line["rule"], line["why"]) == (outcome, rule, "no")
    assert (line["outputs"], line["bytes_out"]) == ([], 0)


def test_what_is_written_is_read_again_and_whole(tmp_path):
    found = read_audit(written(tmp_path / "audit.log"))
    assert found.problem is None
    assert [line["number"] for line in found.lines] == [0, 1, 2, 3, 4]
    assert found.lines[0]["previous"] == ""


def test_a_silo_that_was_started_again_reads_whose_work_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "REMEMBERED", 460)
    path = tmp_path / "audit.log"
    log = AuditLog(path)
    for number in range(8):
        log.append({"outcome": "answered", "nonces": [f"{number:032x}"]})
    with path.open("ab") as file:
        file.write(b'{"nonces": ["gone"], "previous": ""}\n{"nonces": ["' + b"0" * 32)  # edited; torn
    assert AuditLog(path).nonces() == [("", f"{number:032x}") for number in (6, 7)]


def test_only_the_silo_s_user_may_read_it(tmp_path):
    written(tmp_path / "audit.log")
    assert stat.S_IMODE((tmp_path / "audit.log").stat().st_mode) == 0o600


def test_another_process_goes_on_where_one_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "WINDOW", 8)
    path = tmp_path / "audit.log"
    written(path)
    assert problem_of(written(path)) is None
    assert len(lines_of(path)) == 10


def test_several_write_at_a_time(tmp_path):
    path = tmp_path / "audit.log"
    threads = [threading.Thread(target=written, args=(path, 20)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problem_of(lines_of(path)) is None
    assert len(lines_of(path)) == 80


@given(st.data())
def test_an_edited_removed_repeated_or_moved_line_shows(tmp_path_factory, data):
    lines = written(tmp_path_factory.mktemp("audit") / "audit.log")
    at = data.draw(st.integers(0, len(lines) - 2))  # whatever is done to the last line only shows by its hash
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


def test_of_the_last_line_the_hash_tells(tmp_path):
    lines = written(tmp_path / "audit.log")
    whole = read_audit(lines).last
    assert read_audit(lines[:-1]).problem is None
    assert read_audit(lines[:-1]).last != whole
    assert read_audit([*lines[:-1], lines[-1].replace(b'"number":4', b'"number":9')]).last != whole


def test_a_file_that_was_moved_away_is_gone_on_from(tmp_path):
    log = AuditLog(tmp_path / "audit.log")
    log.append({"number": 0})
    first = read_audit(lines_of(log.path))
    log.path.rename(tmp_path / "audit.log.1")
    log.append({"number": 1})
    assert problem_of(lines_of(log.path)).line == 1
    assert first.last in problem_of(lines_of(log.path)).hint
    assert problem_of(lines_of(log.path), first.last) is None


def test_a_torn_last_line_is_told_from_a_changed_one_and_the_next_line_mends_it(tmp_path):
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


def test_work_that_was_begun_and_not_ended_shows(tmp_path, capsys):
    log = AuditLog(tmp_path / "audit.log")
    first = log.append(beginning(ITEM, Signed()))
    log.append(beginning(ITEM, Signed()))
    log.append(ending(ITEM, Done("s1", 2, "ewr", "i", (("d7", 40),), 0.1), ["sha"], Signed(), first))
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


def test_nothing_of_a_line_is_left_where_there_is_no_room_for_all_of_it(tmp_path):
    """RLIMIT_FSIZE fails a write where a full disk would: after a part of the line."""
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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.stdout) == ("", "it has reached the size that files may have\n")
    assert path.read_bytes() == before
    assert problem_of(lines_of(path)) is None


def test_a_place_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    with pytest.raises(SettingsError, match="No such file or directory"):
        AuditLog(tmp_path / "nowhere" / "audit.log").check()


def test_it_is_printed(tmp_path, capsys):
    log = AuditLog(tmp_path / "audit.log")
    log.append(ending(ITEM, Done("s1", 2, "ewr", "i", (("d7", 40),), 0.1), ["sha"], Signed()))
    log.append(ending(ITEM, Failed("s1", 2, "ewr", "i", "refused", "no", "", "min_clients"), [], Signed()))
    print_audit(log.path)
    printed = capsys.readouterr().out
    assert "2 lines, none missing or changed; the last one's hash is" in printed
    print_audit(log.path, last=1, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [line["rule"] for line in shown["lines"]] == ["min_clients"]
    assert shown["problem"] is None
    assert shown["last"] in printed.replace("\n", "")


def test_what_is_damaged_is_printed_and_then_an_error(tmp_path, capsys):
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
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_the_command_s_exit_code_tells_whether_it_is_whole(tmp_path):
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
