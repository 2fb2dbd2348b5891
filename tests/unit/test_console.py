"""The end of every command line: one line, one exit code, no secrets."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from textwrap import dedent

import cyclopts
import pytest

from fedbroker.console import exit_code, one_line, run
from fedbroker.errors import (
    BrokerUnreachable,
    CohortTimeout,
    ConfigError,
    DataError,
    DeadlineExceeded,
    FedbrokerError,
    NameTaken,
    PlanError,
    RuntimeUnavailable,
    SiloError,
    UsageError,
    WireError,
)
from tests.support.wait import PROCESS_SECONDS


def ended(app: Callable[[], object]) -> int | str | None:
    with pytest.raises(SystemExit) as end:
        run(app)
    return end.value.code


def raising(error: BaseException) -> Callable[[], object]:
    def app() -> object:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (UsageError("x"), 2),
        (BrokerUnreachable("x"), 3),
        (CohortTimeout("c", 3, ["a"], [], 1.0), 4),
        (NameTaken("c", "s"), 4),
        (SiloError("s", "x"), 4),
        (DataError("s", "flights", expected="int32", found="text"), 4),
        (PlanError("x"), 5),
        (RuntimeUnavailable("x"), 5),
        (DeadlineExceeded("x"), 5),
        (WireError("x"), 5),
        (ValueError("x"), 5),
    ],
)
def test_exit_code_is_that_of_the_error_class(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(error) == code
    assert ended(raising(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {one_line(error)}\n"


def test_return_value_of_a_command_is_the_exit_code() -> None:
    assert ended(lambda: 7) == 7
    assert ended(lambda: None) == 0
    assert ended(lambda: "text") == 0


def test_ctrl_c_exits_with_130_silently(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


WAITS = {
    "in the kernel": """
        def wait():
            print("up", flush=True)
            signal.pause()
    """,
    "in an event loop": """
        async def sleep():
            print("up", flush=True)  # only once the loop runs: an interrupt must not meet its creation
            await asyncio.sleep(60)

        def wait():
            asyncio.run(sleep())
    """,
}


@pytest.mark.parametrize("waiting", WAITS.values(), ids=WAITS)
def test_ctrl_c_ends_a_background_command_of_a_script(waiting: str) -> None:
    """Start the command with SIGINT ignored, as a script starts a background command."""
    program = f"import asyncio, signal\nfrom fedbroker.console import run\n{dedent(waiting)}\nrun(wait)"
    ignoring = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    command = [*ignoring, sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PROCESS_SECONDS)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "")


def test_error_is_one_line_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    error = BrokerUnreachable("amqp://me:hunter2@host:5672/\n is not there", hint="try amqps://a:b%40c@other/ instead")
    assert ended(raising(error)) == 3
    line = capsys.readouterr().err
    assert line == ("error: [FB2001] amqp://***@host:5672/ is not there; try amqps://***@other/ instead\n")


def test_unexpected_exception_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDBROKER_DEBUG", raising=False)
    assert ended(raising(ZeroDivisionError("by zero"))) == 5
    line = capsys.readouterr().err
    assert line == "error: [FB0000] unexpected ZeroDivisionError: by zero; set FEDBROKER_DEBUG=1 for details\n"


def test_debug_prints_a_traceback_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDBROKER_DEBUG", "1")
    ended(raising(BrokerUnreachable("amqp://me:hunter2@host/ is not there")))
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "hunter2" not in text


def test_fedbroker_error_of_an_exception_group_is_printed() -> None:
    group = ExceptionGroup("side by side", [ValueError("other"), ExceptionGroup("in", [SiloError("ewr", "no disk")])])
    assert ended(raising(group)) == 4
    assert ended(raising(ExceptionGroup("side by side", [ValueError("other")]))) == 5


def test_command_line_error_has_our_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    app = cyclopts.App(name="x")

    @app.default
    def main(*, port: int = 1) -> None:
        raise AssertionError(port)

    mistaken = ["--prot", "3"]
    assert ended(lambda: app(mistaken, exit_on_error=False, print_error=False)) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: [FB1002] ")
    assert "--port" in line
    assert line.count("\n") == 1


def test_colour_is_for_terminals_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ended(raising(FedbrokerError("x")))
    assert "\x1b[1;31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    ended(raising(FedbrokerError("x")))
    assert "\x1b" not in capsys.readouterr().err


def test_closed_pipe_is_no_error() -> None:
    program = "from fedbroker.console import run\nrun(lambda: print('x' * 100_000))"
    command = f'{sys.executable} -c "{program}" | head -c 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=_path())
    assert done.stdout == "x141\n"
    assert done.stderr == ""


def _path() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
