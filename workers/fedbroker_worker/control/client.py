"""The command line's end of the control socket."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from fedbroker.text import printable, seconds_text
from fedbroker_worker.control.listening import connect, peer_of
from fedbroker_worker.control.protocol import MAX_REPLY, Malformed, Rejection, decode_reply, encode
from fedbroker_worker.errors import ControlDenied, ControlFailed, ServiceNotRunning

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from fedbroker_worker.control.protocol import Reply, Request

__all__ = ["ANSWER_SECONDS", "ask", "find"]

ANSWER_SECONDS: Final = 10.0
"""Seconds for the service to answer: it does so in milliseconds, unless its event loop is blocked."""

_READ: Final = 1 << 16
_START: Final = "start it with `fedbroker-silo run` or its service, or name its socket with --socket"
_OTHER_USER: Final = "run this as the user of the silo's service, or as root"


def find(places: Sequence[Path], request: Request, seconds: float = ANSWER_SECONDS) -> tuple[Path, Reply]:
    """Ask the service that listens at the first of these places; return its socket and its reply.

    Raises:
        ServiceNotRunning: nothing listens at any of them.
        ControlDenied: this user may not connect.
        ControlFailed: the service did not answer, or rejected the request.
    """
    denied: ControlDenied | None = None
    for place in places:
        try:
            return place, ask(place, request, seconds)
        except ServiceNotRunning:
            continue
        except ControlDenied as error:
            denied = denied or error
    if denied is not None:
        raise denied
    if not places:
        raise ServiceNotRunning('this silo has no control socket (control = "none")', hint="remove `control` in [silo]")
    raise ServiceNotRunning(
        f"no service of this silo is running: nothing listens at {' or '.join(map(_shown, places))}", hint=_START
    )


def ask(place: Path, request: Request, seconds: float = ANSWER_SECONDS) -> Reply:
    """Ask the service that listens at a place. Blocks for ``seconds`` at most.

    Raises:
        ServiceNotRunning: nothing listens there.
        ControlDenied: this user may not connect.
        ControlFailed: the service did not answer, or rejected the request.
    """
    until = time.monotonic() + seconds
    try:
        sock = connect(place, seconds)
    except PermissionError:
        raise ControlDenied(f"user {os.geteuid()} may not use {_shown(place)}", hint=_OTHER_USER) from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise ServiceNotRunning(f"no service listens at {_shown(place)}", hint=_START) from None
    except OSError as error:  # TimeoutError, too
        raise ControlFailed(f"{_shown(place)} cannot be used: {error.strerror or 'no answer in time'}") from None
    with sock:
        _check_owner(sock, place)
        try:
            sock.sendall(encode(request))
        except BrokenPipeError:
            pass  # it has replied without reading
        except OSError as error:
            raise ControlFailed(f"the silo's service did not take the request: {error}") from None
        line = _read_line(sock, until, seconds)
    try:
        reply = decode_reply(line)
    except Malformed as error:
        raise ControlFailed(
            f"the silo's service answered something that is not understood: {error}",
            hint="use the version of the running service, or start the service again after an upgrade",
        ) from None
    if isinstance(reply, Rejection):
        reason = printable(reply.reason, 500)
        raise ControlDenied(reason, hint=_OTHER_USER) if reply.denied else ControlFailed(reason)
    return reply


def _check_owner(sock: socket.socket, place: Path) -> None:
    """Check that the service runs as the owner of the socket's directory: others could only pretend to be it."""
    uid = peer_of(sock)
    if uid not in (0, os.geteuid(), place.parent.stat().st_uid):
        raise ControlDenied(
            f"{_shown(place)} belongs to user {uid}, who does not own its directory",
            hint="have the silo's service listen in a directory of its own user ([silo] control)",
        )


def _read_line(sock: socket.socket, until: float, seconds: float) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) <= MAX_REPLY:
        left = until - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            received = sock.recv(_READ)
        except TimeoutError:
            raise ControlFailed(
                f"the silo's service did not answer within {seconds_text(seconds)}",
                hint="see the service's log; its event loop may be blocked",
            ) from None
        except OSError as error:
            raise ControlFailed(f"the silo's service closed the connection: {error.strerror}") from None
        if not received:
            raise ControlFailed("the silo's service closed the connection", hint="try again; see its log")
        line += received
    return bytes(line)


def _shown(place: Path) -> str:
    return printable(str(place), None)
