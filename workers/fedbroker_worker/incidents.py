"""What only the silo's own log may show of a failure, under a short random id that the reply shows as well.

The program's author quotes the id, the silo's administrator finds the detail. Imports the base only.
"""

from __future__ import annotations

import secrets

from fedbroker.log import get_logger

__all__ = ["log_detail", "new_id", "see"]

_log = get_logger(__name__)


def new_id() -> str:
    """Return a random id that tells nothing of what it stands for."""
    return secrets.token_hex(4)


def see(incident: str) -> str:
    """Return the clause by which a reply refers to the silo's log."""
    return f"detail in the silo's log under id {incident}"


def log_detail(detail: str, *, traceback: bool = False) -> str:
    """Write the detail of a failure to the silo's log, at a level that no setting leaves out.

    Args:
        detail: what happened, in any words.
        traceback: log that of the exception that is being handled, too.

    Returns:
        The id under which it was logged.
    """
    incident, line = new_id(), " ".join(detail.split())
    if traceback:
        _log.exception("failure_detail", id=incident, detail=line)
    else:
        _log.error("failure_detail", id=incident, detail=line)
    return incident
