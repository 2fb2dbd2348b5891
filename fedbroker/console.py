"""Run a command line: an error ends it with one line and an exit code, and with a traceback only on request."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, cast

from fedbroker.errors import (
    BrokerError,
    CohortError,
    ConfigError,
    FedbrokerError,
    SiloError,
    UsageError,
)
from fedbroker.text import printable, without_secrets
from fedbroker.tracebacks import is_debugging

if TYPE_CHECKING:
    from cyclopts import MissingArgumentError

__all__ = ["exit_code", "one_line", "run"]

# As in a shell: 128 plus the number of SIGINT or SIGPIPE.
_INTERRUPTED = 130
_PIPE_CLOSED = 141
_OTHER = 5
_CODES: tuple[tuple[type[FedbrokerError], int], ...] = (
    (ConfigError, 2),
    (BrokerError, 3),
    (CohortError, 4),
    (SiloError, 4),
)


def run(app: Callable[[], object]) -> NoReturn:
    """Call a command line and end the process with its exit code.

    An integer that ``app`` returns is the exit code; any other result means 0. An error becomes one line on standard
    error and the code of :func:`exit_code`; ``FEDBROKER_DEBUG=1`` adds the traceback. Ctrl-C gives 130, even if SIGINT
    was ignored at the start.
    """
    _restore_interrupts()
    try:
        code = app()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush at exit
        sys.exit(_PIPE_CLOSED)
    except Exception as error:
        sys.exit(_failed(error))
    sys.exit(code if isinstance(code, int) else 0)


def exit_code(error: BaseException) -> int:
    """Return 2 for an error that the caller can correct, 3 for the broker, 4 for cohort, silos and data, else 5."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), _OTHER)


def one_line(error: BaseException) -> str:
    """Return what happened and what to do, on one printable line, without secrets."""
    if isinstance(error, FedbrokerError):
        text = str(error)
    else:
        text = f"[{FedbrokerError.code}] unexpected {type(error).__name__}: {error}; set FEDBROKER_DEBUG=1 for details"
    return printable(without_secrets(" ".join(text.split())), None)


def _restore_interrupts() -> None:
    """Install Python's handler of SIGINT, which it omits if the signal is ignored, as after ``&`` in a script."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _failed(error: Exception) -> int:
    error = _usage(_first(error))
    if is_debugging():
        lines = without_secrets("".join(traceback.format_exception(error))).split("\n")
        sys.stderr.write("\n".join(printable(line, None) for line in lines))
    terminal = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = "\x1b[1;31merror:\x1b[0m" if terminal else "error:"
    sys.stderr.write(f"{label} {one_line(error)}\n")
    return exit_code(error)


def _first(error: Exception) -> Exception:
    """Return the first error of ours in a group, since concurrent tasks fail as a group."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    leaves = [_first(inner) for inner in group.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, FedbrokerError)), leaves[0])


def _usage(error: Exception) -> Exception:
    """Return a command-line mistake as our own UsageError."""
    if (cyclopts := sys.modules.get("cyclopts")) is None or not isinstance(error, cyclopts.CycloptsError):
        return error
    usage = UsageError(str(error).rstrip(". \n"), hint="see --help")
    if isinstance(error, cyclopts.MissingArgumentError):
        argument = cast("MissingArgumentError", error).argument
        variables = argument.parameter.env_var if argument is not None else None
        if argument is not None and variables:
            usage = UsageError(f"{argument.name} is missing", hint=f"give it, or set {' or '.join(variables)}")
    usage.__cause__ = error
    return usage
