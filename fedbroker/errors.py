"""Every error that fedbroker raises, in one tree. Its first level says who can act.

    FedbrokerError
    ├── ConfigError            you: a setting, a URL, an argument
    │   ├── UsageError
    │   ├── ContextClosed      the execution context was closed, or belongs to the parent of a forked process
    │   └── JournalError       the coordinator's journal cannot be written: its disk is full
    ├── BrokerError            the broker's operator
    │   ├── BrokerUnreachable
    │   ├── BrokerRefused      wrong password, unknown vhost, no permission
    │   ├── BrokerLost
    │   ├── TopologyMismatch   a queue or exchange exists with other arguments
    │   └── BrokerStartError   a private node did not start
    ├── CohortError            the silos' administrators
    │   ├── CohortTimeout      too few silos joined in time
    │   └── NameTaken          another silo has this name
    ├── SiloError              the administrator of the named silo
    │   ├── DataError          a source, column or type differs from what was asked for
    │   └── PolicyRefusal      the silo's policy refused; names the rule
    ├── DeadlineExceeded       a stage or an invocation ran out of time
    │   └── StragglerTimeout   too few silos answered a stage in time; names the missing
    ├── PlanError              the author of the computation
    ├── RuntimeFailure         the C++ runtime
    │   ├── RuntimeUnavailable it cannot be started or isolated
    │   └── ComputationFailed  it rejected or failed a computation; carries its message
    ├── MaskingError           a masked sum that the silos' or the coordinator's checks do not allow
    └── WireError              a foreign or damaged message
        ├── Missing            a blob that was announced did not arrive
        └── Forged             a message that is unsigned, signed by another key, changed, or replayed

Each class has a stable ``code`` (see ``docs/errors.md``). Many errors name the silo, the stage and the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fedbroker.text import count_text, printable, seconds_text
from fedbroker.tracebacks import rendered

__all__ = [
    "BrokerError",
    "BrokerLost",
    "BrokerRefused",
    "BrokerStartError",
    "BrokerUnreachable",
    "CohortError",
    "CohortTimeout",
    "ComputationFailed",
    "ConfigError",
    "ContextClosed",
    "DataError",
    "DeadlineExceeded",
    "FedbrokerError",
    "Forged",
    "JournalError",
    "MaskingError",
    "Missing",
    "NameTaken",
    "PlanError",
    "PolicyRefusal",
    "RuntimeFailure",
    "RuntimeUnavailable",
    "SiloError",
    "StragglerTimeout",
    "TopologyMismatch",
    "UsageError",
    "WireError",
]


class FedbrokerError(Exception):
    """Base class of all errors that fedbroker raises.

    Args:
        what: what happened, one clause without a full stop.
        hint: what to do about it, one clause; may be empty.

    Attributes:
        code: stable code of the error, explained in ``docs/errors.md``.
        what: what happened.
        hint: what to do about it, or empty.
        retryable: True if the same call may succeed on another try, because a process died or a connection was lost.
        computation: the name of the computation that was invoked, or None outside of an invocation.
        earlier: the error of the first attempt, if this is the error of a later one; None if both are the same.
    """

    code: ClassVar[str] = "FB0000"
    retryable: bool = False
    computation: str | None = None
    earlier: FedbrokerError | None = None

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def because(self, cause: FedbrokerError) -> None:
        """Add the cause to this error; its remedy replaces this one's."""
        self.what = f"{self.what}; the cause: {cause.what}"
        self.hint = cause.hint

    def _render_traceback_(self) -> list[str]:
        """Return the traceback that IPython shows: it ends at the user's line."""
        return rendered(self)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy the fields; the arguments of the constructor are not kept."""
        return _restored, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        """Return one printable line: the code, the computation, what happened, also at first, what to do."""
        where = f"{self.computation}: " if self.computation else ""
        first = f" (the first attempt: {self.earlier.what})" if self.earlier is not None else ""
        line = f"[{self.code}] {where}{self.what}{first}" + (f"; {self.hint}" if self.hint else "")
        return printable(" ".join(filter(None, map(str.strip, line.splitlines()))), None)


def _restored(kind: type[FedbrokerError], args: tuple[object, ...], fields: dict[str, object]) -> FedbrokerError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class ConfigError(FedbrokerError):
    """A setting is missing, misspelt or out of range."""

    code = "FB1001"


class UsageError(ConfigError, TypeError, ValueError):
    """An argument is invalid; also a ``TypeError`` and a ``ValueError``, which TFF's own contexts raise."""

    code = "FB1002"


class ContextClosed(ConfigError):
    """The execution context was closed, before the call or while it ran; or the process was forked from its own."""

    code = "FB1004"


class JournalError(ConfigError):
    """A coordinator's journal cannot be written; the invocation ends, and its session can be resumed.

    Attributes:
        directory: the directory of the journal.
    """

    code = "FB1003"

    def __init__(self, directory: str, why: str) -> None:
        super().__init__(
            f"the journal (journal={directory!r}) cannot be written: {why}",
            hint="free space there, then invoke the computation again: its session resumes from the journal",
        )
        self.directory = directory


class BrokerError(FedbrokerError):
    """The broker cannot be used."""

    code = "FB2000"


class BrokerUnreachable(BrokerError):
    """No AMQP server answers at that address.

    Attributes:
        retryable: True if nothing listens there yet; False if another server answers, or TLS failed.
    """

    code = "FB2001"

    def __init__(self, what: str, *, retryable: bool = False, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.retryable = retryable


class BrokerRefused(BrokerError):
    """The broker refuses: wrong password, unknown vhost or no permission."""

    code = "FB2002"


class BrokerLost(BrokerError):
    """The connection was lost and not restored in time."""

    code = "FB2003"
    retryable = True


class TopologyMismatch(BrokerError):
    """A queue or an exchange exists with other arguments than ours."""

    code = "FB2004"


class BrokerStartError(BrokerError):
    """A private RabbitMQ node did not start."""

    code = "FB2005"


class CohortError(FedbrokerError):
    """The cohort does not meet the program's needs."""

    code = "FB3000"


class CohortTimeout(CohortError):
    """Too few silos joined in time.

    Attributes:
        cohort: the cohort's name.
        wanted: how many silos were needed.
        present: names of the silos that are present and, if data was asked for, have it.
        missing: names of silos that were present before.
    """

    code = "FB3001"

    def __init__(
        self,
        cohort: str,
        wanted: int,
        present: Sequence[str],
        missing: Sequence[str],
        seconds: float,
        *,
        data: str = "",
        ignored: Sequence[FedbrokerError] = (),
    ) -> None:
        gone = f"; gone: {', '.join(missing)}" if missing else ""
        which = f" with data {data!r}" if data else ""
        why = f"; {count_text(len(ignored), 'silo')} ignored: {ignored[0].what}" if ignored else ""
        start = f"start more silos (`fedbroker-silo run`), or {'select fewer' if data else 'lower min_silos'}"
        super().__init__(
            f"cohort {cohort!r} has {len(present)} of {count_text(wanted, 'silo')}{which} "
            f"after {seconds_text(seconds)} (present: {', '.join(present) or 'none'}{gone}{why})",
            hint=ignored[0].hint if ignored else start,
        )
        self.cohort = cohort
        self.wanted = wanted
        self.present = tuple(present)
        self.missing = tuple(missing)


class NameTaken(CohortError):
    """Another silo has this name in this cohort.

    Attributes:
        cohort: the cohort's name.
        silo: the taken name.
    """

    code = "FB3002"

    def __init__(self, cohort: str, silo: str) -> None:
        super().__init__(
            f"a silo named {silo!r} is already in cohort {cohort!r}",
            hint="change [silo] name of this silo, or stop the other one",
        )
        self.cohort = cohort
        self.silo = silo


class SiloError(FedbrokerError):
    """A silo failed at its part of a stage.

    Attributes:
        silo: its name.
        stage: the number of the client stage, or None if it failed outside one.
        session: the session's id, or None.
        cause: the silo's own message.
        retryable: True if its runtime died or its values were lost; False if its data or the computation is wrong.
    """

    code = "FB4001"

    def __init__(
        self,
        silo: str,
        cause: str,
        *,
        stage: int | None = None,
        session: str | None = None,
        retryable: bool = False,
        hint: str = "",
    ) -> None:
        where = f" in client stage {stage}" if stage is not None else ""
        super().__init__(f"silo {silo!r} failed{where}: {cause}", hint=hint)
        self.silo = silo
        self.stage = stage
        self.session = session
        self.cause = cause
        self.retryable = retryable


class DataError(SiloError):
    """A silo's data does not match the computation.

    Attributes:
        source: the name of the data source.
        column: the column, or None if the source as a whole does not match.
        expected: what the computation needs.
        found: what the silo has.
        others: the errors of further columns and silos, which the line names too.
    """

    code = "FB4002"
    others: tuple[DataError, ...] = ()

    def __init__(
        self, silo: str, source: str, *, column: str | None = None, expected: str, found: str, hint: str = ""
    ) -> None:
        at = f"column {column!r} of source {source!r}" if column is not None else f"source {source!r}"
        super().__init__(silo, f"{at}: expected {expected}, found {found}", hint=hint)
        self.source = source
        self.column = column
        self.expected = expected
        self.found = found


class PolicyRefusal(SiloError):
    """A silo refused its part of a stage, by its administrator's policy.

    Attributes:
        rule: the key of ``[policy]`` in its settings that refused, such as ``client_results``.
    """

    code = "FB4003"

    def __init__(
        self, silo: str, rule: str, cause: str, *, stage: int | None = None, session: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(silo, cause, stage=stage, session=session, hint=hint)
        where = f" client stage {stage}" if stage is not None else ""
        self.what = f"silo {silo!r} refused{where} by its policy ({rule}): {cause}"
        self.rule = rule


class DeadlineExceeded(FedbrokerError):
    """Time ran out.

    Attributes:
        silos: names of the silos that did not answer.
        stage: the number of the client stage, or None.
        session: the session's id, or None.
        unread: the silos among ``silos`` that never picked up their work (the broker dead-lettered it).
    """

    code = "FB6001"

    def __init__(
        self,
        what: str,
        *,
        silos: Sequence[str] = (),
        unread: Sequence[str] = (),
        stage: int | None = None,
        session: str | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(what, hint=hint)
        self.silos = tuple(silos)
        self.unread = tuple(unread)
        self.stage = stage
        self.session = session


class StragglerTimeout(DeadlineExceeded):
    """A stage timed out with fewer answers than the quorum; ``silos`` names the missing silos."""

    code = "FB6002"


class PlanError(FedbrokerError):
    """A computation cannot be divided into stages; names the intrinsic and an alternative.

    Attributes:
        intrinsic: the obstacle: an intrinsic's URI, ``data`` or ``xla``; or None.
    """

    code = "FB5001"

    def __init__(self, what: str, *, intrinsic: str | None = None, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.intrinsic = intrinsic


class RuntimeFailure(FedbrokerError):
    """TFF's C++ runtime failed."""

    code = "FB8000"


class RuntimeUnavailable(RuntimeFailure):
    """The C++ runtime cannot be started, cannot be isolated, or died during a request.

    Attributes:
        retryable: True if it died and will be restarted; False if it cannot be started.
    """

    code = "FB8001"

    def __init__(self, what: str, *, retryable: bool = False, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.retryable = retryable


class ComputationFailed(RuntimeFailure):
    """The C++ runtime rejected or failed a computation.

    Attributes:
        status: the gRPC status name, such as ``INVALID_ARGUMENT``.
        detail: the runtime's own message.
        stage: the number of the server stage, or None where it failed elsewhere.
        silo: the silo whose partial aggregate did not merge with the earlier ones; empty where another step failed.
    """

    code = "FB8002"

    def __init__(
        self, status: str, detail: str, *, stage: int | None = None, silo: str = "", merged: str = "", hint: str = ""
    ) -> None:
        merging = f" while merging the partial of silo {silo!r} with those of {merged}" if silo else ""
        where = f"server stage {stage} failed{merging}: " if stage is not None else ""
        super().__init__(f"{where}{status}: {' '.join(detail.split())}", hint=hint)
        self.status = status
        self.detail = detail
        self.stage = stage
        self.silo = silo


class MaskingError(FedbrokerError):
    """A masked sum cannot be formed, or a participant asks for more than the sum."""

    code = "FB9001"


class WireError(FedbrokerError):
    """A message is foreign or damaged, or exceeds a limit."""

    code = "FB7001"


class Missing(WireError):
    """A blob is missing and will not arrive: lost, evicted, or never sent.

    Attributes:
        digest: its content address.
    """

    code = "FB7002"

    def __init__(self, digest: str, what: str, *, hint: str = "send the blob again") -> None:
        super().__init__(f"blob {digest}: {what}", hint=hint)
        self.digest = digest


class Forged(WireError):
    """A message is unsigned, signed by another key, changed, sent in another context, or replayed."""

    code = "FB7003"
