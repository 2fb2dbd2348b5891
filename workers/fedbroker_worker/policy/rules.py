"""The table ``[policy]`` of a silo's settings, and the refusal of each of its rules.

:class:`~fedbroker_worker.policy.guard.Guard` applies the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta

from fedbroker.graphs import known_ops, why_refused
from fedbroker.masking.members import MAX_MEMBERS, MIN_MEMBERS
from fedbroker.text import count_text, seconds_text
from fedbroker_worker.errors import PolicyRefused, SettingsError
from fedbroker_worker.options import nearest, read_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


__all__ = [
    "LONGEST_STAGE",
    "PolicySettings",
    "check_ops",
    "no_bytes_left",
    "out_of_time",
    "read_policy",
    "refuse_client_values",
    "source_refused",
    "too_few_clients",
    "too_few_rows",
    "too_few_silos",
    "too_many_bytes",
    "too_many_failures",
]

GIB: Final = 1 << 30

LONGEST_STAGE: Final = 7 * 86_400.0
"""The most seconds for one work item, and the default: without ``max_seconds``, its coordinator sets the limit."""

LISTED: Final = 5
"""The most ops that a refusal names, so that it stays one readable line; it counts the others."""

_DO_WITHOUT: Final = "do without them, or have the silo's administrator name them in allow_ops"
_LESS: Final = "return less from the clients, or have the silo's administrator raise max_bytes_out"

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """The table ``[policy]``.

    Attributes:
        sources: names of the data sources that computations may read; None for all sources of the silo.
        min_clients: the least number of clients of a source; a source with fewer is not read. A source without any
            client is never read.
        min_rows: the least number of rows of a source, over all of its clients; nothing is computed over a source with
            fewer.
        client_results: whether values of single clients may leave, or only aggregates.
        aggregates: which aggregates may leave: any; only sums, counts, minima and maxima over clients that the silo
            recognises; or only masked sums, so that the coordinator learns only the sum over all silos. A masked sum
            need not be recognised, but its shape must be fixed: it would otherwise tell what the mask hides.
        min_sum_silos: the least number of silos with clients over which a masked sum is formed.
        refuse_ops: TensorFlow ops that are refused in addition to the default list.
        allow_ops: ops of the default list that this silo allows.
        max_bytes_out: the most bytes that all results of one session may take.
        max_failures: the most work items of one session that may fail because of data; later ones are refused.
        error_detail: how much a coordinator is told about a failed computation: the op and its position, or the C++
            runtime's whole message, which quotes values; None for the position where values of single clients may not
            leave.
        max_seconds: the most seconds for one work item, even if its coordinator allows more.
        audit_file: the file that records each request and each output that left; empty for no record.
    """

    sources: Annotated[Names, Meta(description='a list of names of data sources, such as ["flights"]')] | None = None
    min_clients: Annotated[int, Meta(ge=1, le=1_000_000_000, description="a number, at least 1")] = 1
    min_rows: Annotated[int, Meta(ge=0, le=1_000_000_000_000, description="a number, at least 0")] = 0
    client_results: Literal["refuse", "allow"] = "refuse"
    aggregates: Literal["any", "recognised", "masked"] = "any"
    min_sum_silos: Annotated[int, Meta(ge=MIN_MEMBERS, le=MAX_MEMBERS, description="a number from 3 to 1024")] = (
        MIN_MEMBERS
    )
    refuse_ops: Annotated[Names, Meta(description='a list of TensorFlow ops, such as ["MatMul"]')] = ()
    allow_ops: Annotated[Names, Meta(description='a list of TensorFlow ops, such as ["PrintV2"]')] = ()
    max_bytes_out: Annotated[int, Meta(ge=0, description="a number of bytes")] = GIB
    max_failures: Annotated[int, Meta(ge=1, le=1_000_000, description="a number, at least 1")] = 4
    error_detail: Annotated[Literal["position", "full"] | None, Meta(description='"position" or "full"')] = None
    max_seconds: Annotated[float, Meta(gt=0, le=LONGEST_STAGE, description="a number of seconds, up to 7 days")] = (
        LONGEST_STAGE
    )
    audit_file: Annotated[str, Meta(description='a file, such as "audit.log"')] = ""

    @property
    def errors_in_full(self) -> bool:
        """True if the C++ runtime's whole message on a failed computation may leave."""
        return (self.error_detail or ("full" if self.client_results == "allow" else "position")) == "full"

    @property
    def summary(self) -> str:
        """The policy in one line, for people."""
        sources = "any source" if self.sources is None else f"sources {', '.join(self.sources) or 'none'}"
        clients = f"with at least {count_text(self.min_clients, 'client')}"
        clients += f" and {count_text(self.min_rows, 'row')}" if self.min_rows else ""
        aggregates = _AGGREGATES[self.aggregates]
        results = f"only {aggregates} leave"
        if self.client_results == "allow":
            results = "client values may leave" + (f", and {aggregates}" if self.aggregates == "recognised" else "")
        if self.aggregates == "masked" or self.min_sum_silos > MIN_MEMBERS:
            results += f"; masked sums over at least {self.min_sum_silos} silos"
        errors = "errors with full text" if self.errors_in_full else "errors with position only"
        ops = [f"refused ops: {', '.join(self.refuse_ops)}"] if self.refuse_ops else []
        ops += [f"allowed ops: {', '.join(self.allow_ops)}"] if self.allow_ops else []
        log = f"audit log {self.audit_file}" if self.audit_file else "no audit log"
        limits = f"at most {self.max_bytes_out:,} bytes per session, {seconds_text(self.max_seconds)} per work item, "
        limits += f"{self.max_failures} failures per session"
        return "; ".join([f"{sources} {clients}", results, errors, limits, *ops, log])

    @property
    def guarantee(self) -> str:
        """One sentence, for people: how much a coordinator can learn of this silo's data."""
        if self.client_results == "allow" or self.errors_in_full:
            return "a coordinator may learn values of single clients" + (
                "" if self.client_results == "allow" else " from the text of errors (error_detail)"
            )
        match self.aggregates:
            case "masked":
                return (
                    f"a coordinator learns only sums over at least {self.min_sum_silos} silos with clients, never this"
                    " silo's part of a sum"
                )
            case "recognised":
                return "a coordinator learns only sums, counts, minima and maxima over this silo's clients"
            case _:
                return "a coordinator learns any aggregate over this silo's clients that it defines"


_AGGREGATES: Final = {
    "any": "aggregates",
    "recognised": "sums, counts, minima and maxima",
    "masked": "masked sums",
}


def read_policy(
    table: Mapping[str, object], file: str, sources: Collection[str], audit_file: str | None = None
) -> PolicySettings:
    """Read the table.

    Args:
        table: its keys and values.
        file: the name of the settings file, for errors.
        sources: the names of the silo's data sources.
        audit_file: replaces the table's ``audit_file`` unless None.

    Raises:
        SettingsError: a key or a value is wrong, or names a source or an op that does not exist.
    """

    def label(key: str) -> str:
        return f"{key!r} in [policy] of {file}"

    own = {} if audit_file is None else {"audit_file": audit_file}
    policy = read_table(PolicySettings, {**table, **own}, label=label)
    for name in policy.sources or ():
        _check(label("sources"), f"[data.{name}] does not exist", name, sources)
    for key in ("refuse_ops", "allow_ops"):
        for op in getattr(policy, key):
            _check(label(key), f"TensorFlow has no op {op!r}", op, known_ops())
    both = sorted({*policy.refuse_ops} & {*policy.allow_ops})
    if both:
        raise SettingsError(
            f"{label('allow_ops')}: {both[0]!r} is in 'refuse_ops', too", hint="remove it from one of the two"
        )
    if policy.aggregates == "masked" and (policy.client_results == "allow" or policy.errors_in_full):
        key, value = ("client_results", "allow") if policy.client_results == "allow" else ("error_detail", "full")
        raise SettingsError(
            f"{label('aggregates')}: {key!r} lets values of single clients leave without a mask",
            hint=f'remove {key} = "{value}", or choose other aggregates',
        )
    return policy


def _check(label: str, what: str, name: str, valid: Collection[str]) -> None:
    if name not in valid:
        hint = nearest(name, valid)
        raise SettingsError(f"{label}: {what}", hint=hint if len(hint) < 200 else "see TensorFlow's list of raw ops")


def source_refused(policy: PolicySettings, name: str) -> PolicyRefused:
    """Return the refusal to read a source that is not in ``sources``."""
    allowed = ", ".join(policy.sources or ()) or "none"
    return PolicyRefused(
        "sources", f"source {name!r} may not be read at this silo (allowed: {allowed})", hint="use one of those"
    )


def too_few_clients(policy: PolicySettings, clients: int) -> PolicyRefused:
    """Return the refusal of an aggregate over fewer than ``min_clients`` clients."""
    return PolicyRefused(
        "min_clients",
        f"an aggregate would be over {clients} client{'s' * (clients != 1)}, and the minimum is {policy.min_clients}",
        hint="leave this silo out, or have its administrator lower min_clients",
    )


def too_few_silos(fewest: int, silos: int) -> PolicyRefused:
    """Return the refusal of a masked sum over fewer silos with clients than ``min_sum_silos``, which is ``fewest``."""
    return PolicyRefused(
        "min_sum_silos",
        f"a masked sum would be over {count_text(silos, 'silo')} with clients, and the minimum is {fewest}",
        hint="wait for more silos (min_silos), or have the silo's administrator lower min_sum_silos",
    )


def too_few_rows(source: str) -> PolicyRefused:
    """Return the refusal to compute over a source with fewer than ``min_rows`` rows; it does not tell their number."""
    return PolicyRefused(
        "min_rows",
        f"source {source!r} has fewer rows than this silo computes over",
        hint="leave this silo out, or have its administrator lower min_rows",
        by_data=True,
    )


def check_ops(policy: PolicySettings, ops: Collection[str]) -> None:
    """Check that a computation holds only known and allowed ops.

    Raises:
        PolicyRefused: it holds others; the error names some of them.
    """
    refused = sorted((op, why) for op in ops if (why := _why_refused(policy, op)))
    if refused:
        named = ", ".join(f"{op[:80]} ({why})" for op, why in refused[:LISTED])
        more = f", and {len(refused) - LISTED} more" if len(refused) > LISTED else ""
        raise PolicyRefused(
            "refuse_ops", f"a computation holds TensorFlow ops that this silo refuses: {named}{more}", hint=_DO_WITHOUT
        )


def _why_refused(policy: PolicySettings, op: str) -> str:
    """Return why an op is refused; empty if it is allowed."""
    if op in policy.refuse_ops:
        return "refused by this silo"
    if op in policy.allow_ops:
        return ""
    return why_refused(op)


def refuse_client_values(policy: PolicySettings) -> None:
    """Refuse outputs with values of single clients, unless the policy allows these.

    Raises:
        PolicyRefused: values of single clients may not leave.
    """
    if policy.client_results == "refuse":
        raise PolicyRefused(
            "client_results",
            "the result holds values of single clients, and only aggregates may leave",
            hint='aggregate them, or have the silo\'s administrator set client_results = "allow"',
        )


def out_of_time(policy: PolicySettings) -> PolicyRefused:
    """Return the refusal of a work item that took longer than ``max_seconds``."""
    return PolicyRefused(
        "max_seconds",
        f"it was not done within {seconds_text(policy.max_seconds)}, the limit of this silo",
        hint="reduce the clients' work, or have the silo's administrator raise max_seconds",
        by_data=True,
    )


def too_many_failures(policy: PolicySettings) -> PolicyRefused:
    """Return the refusal of more work of a session of which ``max_failures`` work items have failed."""
    return PolicyRefused(
        "max_failures",
        f"work of this session has failed {policy.max_failures} times, and the silo refuses its further work",
        hint="correct the computation, and run it again",
    )


def too_many_bytes(policy: PolicySettings) -> PolicyRefused:
    """Return the refusal of outputs that would take a session over ``max_bytes_out``."""
    return PolicyRefused(
        "max_bytes_out",
        f"the session's results would take more than the {policy.max_bytes_out} bytes that may leave",
        hint=_LESS,
        by_data=True,
    )


def no_bytes_left(policy: PolicySettings) -> PolicyRefused:
    """Return the refusal of more work of a session that has used up ``max_bytes_out``."""
    return PolicyRefused(
        "max_bytes_out",
        f"the session has used up its {policy.max_bytes_out} bytes, and the silo refuses its further work",
        hint=_LESS,
    )
