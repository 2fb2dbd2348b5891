"""Log events: JSON or lines, with bound values, without secrets, on standard error."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from fedbroker.errors import ConfigError
from fedbroker.log import configure, get_logger


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "fedbroker", "fedbroker_worker")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    with structlog.contextvars.bound_contextvars():
        yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_json_is_one_object_per_line_with_bound_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json")
    with structlog.contextvars.bound_contextvars(session="s1", stage=2, silo="ewr"):
        get_logger("fedbroker.x").info("stage_done", seconds=1.5, name="a", args=(1, 2), message="m")
    out, err = capsys.readouterr()
    assert out == ""
    line = json.loads(err)
    assert list(line)[:6] == ["timestamp", "level", "event", "session", "stage", "silo"]
    assert line["event"] == "stage_done"
    assert line["level"] == "info"
    assert (line["session"], line["stage"], line["silo"], line["seconds"], line["name"]) == ("s1", 2, "ewr", 1.5, "a")
    assert line["timestamp"].endswith("Z")


def test_console_format_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure("console")
    get_logger("fedbroker.x").bind(silo="ewr").warning("silo_gone", after=11)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for word in ("silo_gone", "warning", "silo=ewr", "after=11"):
        assert word in line
    assert "\x1b" not in line


def test_auto_is_json_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    get_logger("fedbroker.x").info("hello")
    assert json.loads(capsys.readouterr().err)["event"] == "hello"


def test_levels_and_other_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    get_logger("fedbroker.x").debug("not_this")
    logging.getLogger("other").info("not %s", "this either")
    logging.getLogger("other").warning("but %s", "this")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["logger"], line["level"]) for line in lines] == [("but this", "other", "warning")]
    configure("json", "debug")
    get_logger("fedbroker.x").debug("now_this")
    assert json.loads(capsys.readouterr().err)["event"] == "now_this"


def test_plain_structlog_loggers_are_configured(capsys: pytest.CaptureFixture[str]) -> None:
    logger = structlog.get_logger("fedbroker.y")
    configure("json")
    logger.info("hello", who="me")
    assert json.loads(capsys.readouterr().err)["who"] == "me"


def test_secrets_are_never_logged(capsys: pytest.CaptureFixture[str]) -> None:
    for format in ("json", "console"):
        configure(format)  # type: ignore[arg-type]
        log = get_logger("fedbroker.x")
        log.info("connecting", url="amqps://me:hunter2@host/", again=["amqp://me:hunter2@host/"])
        try:
            raise OSError("cannot reach amqp://me:hunter2@host/")
        except OSError:
            log.exception("failed")
        text = capsys.readouterr().err
        assert "OSError" in text
        assert "Traceback" in text
        assert "***@host" in text
        assert "hunter2" not in text


def test_unknown_format_or_level_is_an_error() -> None:
    with pytest.raises(ConfigError, match="auto, console, json"):
        configure("xml")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="debug, info"):
        configure("json", "loud")  # type: ignore[arg-type]


def test_unconfigured_program_logs_warnings_only() -> None:
    program = (
        "from fedbroker.log import get_logger\n"
        "log = get_logger('fedbroker.x')\n"
        "log.info('not_this')\n"
        "log.warning('silo_gone', silo='ewr', url='amqp://me:hunter2@host/')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout == ""
    assert done.stderr == "silo_gone silo='ewr' url='amqp://***@host/'\n"
