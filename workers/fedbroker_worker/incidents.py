"""Details of failures that only the silo's own log may show, under a short random id that the reply shows, too.

The program's author quotes the id, and the silo's administrator finds the detail in the log.
"""

from __future__ import annotations

import secrets

from fedbroker.log import get_logger

__all__ = ["log_detail", "new_id", "see"]

_log = get_logger(__name__)


def new_id() -> str:
    """Return a random id, which reveals nothing about its incident."""
    return secrets.token_hex(4)


def see(incident: str) -> str:
    """Return the clause by which a reply refers to the silo's log."""
    return f"detail in the silo's log under id {incident}"


def log_detail(detail: str, *, traceback: bool = False) -> str:
    """Write the detail of a failure to the silo's log, at a level that every ``log_level`` includes.

    Args:
        detail: the full description of the failure.
        traceback: also log the traceback of the exception that is being handled.

    Returns:
        The id under which it was logged.
    """
    incident, line = new_id(), " ".join(detail.split())
    if traceback:
        _log.exception("failure_detail", id=incident, detail=line)
    else:
        _log.error("failure_detail", id=incident, detail=line)
    return incident
