"""Logging with named events: JSON for machines, lines for people, on standard error.

A program that does not configure logging sees only warnings, through the standard library's ``logging``; its levels,
filters and handlers apply as for any library.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO, TypeAlias, cast

import structlog

from fedbroker.errors import ConfigError
from fedbroker.text import printable, without_secrets

__all__ = ["Format", "Level", "configure", "get_logger"]

Format: TypeAlias = Literal["auto", "console", "json"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]

_OURS = ("fedbroker", "fedbroker_worker")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FIRST = ("timestamp", "level", "event", "session", "stage", "silo")

_Event: TypeAlias = MutableMapping[str, Any]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module: ``log.info("stage_done", seconds=1.5)``.

    Values bound with :func:`structlog.contextvars.bind_contextvars` (session, stage, silo) appear on each of its lines.
    """
    logger = structlog.wrap_logger(
        logging.getLogger(name), processors=_processors(), wrapper_class=structlog.stdlib.BoundLogger
    )
    return cast("structlog.stdlib.BoundLogger", logger)


def configure(format: Format = "auto", level: Level = "info") -> None:
    """Write this process's log to standard error; for command lines, since it configures the process's root logger.

    Other libraries' records appear from level warning up, or from debug up if ``level`` is debug. May be called again.

    Args:
        format: ``console`` for people, ``json`` for one object per line, ``auto`` for console on a terminal, else json.
        level: the lowest level of our own events that is written.

    Raises:
        ConfigError: the format or the level is unknown.
    """
    if format not in ("auto", "console", "json") or level not in _LEVELS:
        raise ConfigError(
            f"unknown log format {format!r} or log level {level!r}",
            hint="formats: auto, console, json; levels: debug, info, warning, error",
        )
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    root.addHandler(_Handler(as_json=format == "json" or (format == "auto" and not sys.stderr.isatty())))
    root.setLevel(logging.DEBUG if level == "debug" else max(logging.WARNING, _LEVELS[level]))
    for name in _OURS:
        logging.getLogger(name).setLevel(_LEVELS[level])
    structlog.configure(
        processors=_processors(),
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``, even if that was replaced since."""

    def __init__(self, *, as_json: bool) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_Formatter(as_json=as_json))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Formatter(logging.Formatter):
    """Renders our events and other libraries' records alike, without secrets and terminal control characters."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        self._render: Any = structlog.processors.JSONRenderer(default=str)
        self._trace: Any = structlog.processors.format_exc_info
        if not as_json:
            colours = sys.stderr.isatty()
            plain = structlog.dev.plain_traceback
            self._render = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain, pad_event_to=0)

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "fedbroker_event", None)
        said: _Event = {"event": record.getMessage(), "logger": record.name} if event is None else dict(event)
        said["level"] = record.levelname.lower()
        if record.exc_info:
            said["exc_info"] = record.exc_info
        self._stamp(None, "", said)
        ordered: _Event = {key: said[key] for key in _FIRST if key in said} | dict(said)
        ordered = {key: _shown(key, value) for key, value in self._trace(None, record.levelname, ordered).items()}
        return without_secrets(str(self._render(None, record.levelname.lower(), ordered)))


def _shown(key: str, value: object) -> object:
    """Return a text as one printable line, or a traceback as several; other values unchanged."""
    if not isinstance(value, str):
        return value
    return "\n".join(printable(line) for line in value.split("\n")) if key == "exception" else printable(value)


def _processors() -> list[Any]:
    return [structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars, _to_record]


def _to_record(_: object, __: str, event: _Event) -> tuple[tuple[str], dict[str, Any]]:
    """Convert an event for the standard library: text for any handler, and the event itself for ours."""
    exc_info = event.pop("exc_info", None)
    words = [str(event.get("event", "")), *(f"{key}={value!r}" for key, value in event.items() if key != "event")]
    text = without_secrets(" ".join(words))
    return (text,), {"extra": {"fedbroker_event": event}, "exc_info": exc_info}
