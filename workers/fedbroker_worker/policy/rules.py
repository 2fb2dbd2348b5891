"""What ``[policy]`` allows: plain functions of a work item, of what is in it, and of what its session sent before.

Each returns if its rule is kept, and raises if not. Imports wire's messages and this distribution's modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedbroker.graphs import why_refused
from fedbroker.quantities import seconds_text
from fedbroker.wire.messages import Data
from fedbroker_worker.errors import PolicyRefused

if TYPE_CHECKING:
    from collections.abc import Collection

    from fedbroker.wire.messages import WorkItem
    from fedbroker_worker.policy.settings import PolicySettings

__all__ = [
    "check_bytes_left",
    "check_bytes_out",
    "check_clients",
    "check_failures",
    "check_ops",
    "check_sources",
    "out_of_time",
    "refuse_client_values",
]

LISTED: Final = 5
"""Ops that a refusal names."""


def check_sources(policy: PolicySettings, item: WorkItem) -> None:
    """Only sources that may be read are.

    Raises:
        PolicyRefused: the program reads another.
    """
    if policy.sources is None:
        return
    for op in item.program:
        if isinstance(op, Data) and op.name not in policy.sources:
            allowed = ", ".join(policy.sources) or "none"
            raise PolicyRefused(
                "sources", f"source {op.name!r} may not be read here (may be: {allowed})", hint="use one of those"
            )


def check_clients(policy: PolicySettings, item: WorkItem) -> None:
    """Data are read only where enough clients' values go into each aggregate.

    Raises:
        PolicyRefused: there are fewer, but not none.
    """
    reads = any(isinstance(op, Data) for op in item.program)
    if reads and 0 < item.clients < policy.min_clients:
        raise PolicyRefused(
            "min_clients",
            f"an aggregate would be over {item.clients} client{'s' * (item.clients != 1)}, and the least is"
            f" {policy.min_clients}",
            hint="leave this silo out, or have its administrator lower min_clients",
        )


def check_ops(policy: PolicySettings, ops: Collection[str]) -> None:
    """Only ops that are known and allowed are in a computation.

    Raises:
        PolicyRefused: there are others; names some of them.
    """
    refused = sorted((op, why) for op in ops if (why := _why_refused(policy, op)))
    if refused:
        named = ", ".join(f"{op[:80]} ({why})" for op, why in refused[:LISTED])
        more = f", and {len(refused) - LISTED} more" if len(refused) > LISTED else ""
        raise PolicyRefused(
            "refuse_ops", f"a computation holds TensorFlow ops that are refused here: {named}{more}", hint=_DO_WITHOUT
        )


_DO_WITHOUT: Final = "do without them, or have the silo's administrator name them in allow_ops"


def _why_refused(policy: PolicySettings, op: str) -> str:
    """Why an op is refused, or nothing if it is not."""
    if op in policy.refuse_ops:
        return "refused by this silo"
    if op in policy.allow_ops:
        return ""
    return why_refused(op)


def refuse_client_values(policy: PolicySettings) -> None:
    """Values of single clients are among the outputs.

    Raises:
        PolicyRefused: they may not leave.
    """
    if policy.client_results == "refuse":
        raise PolicyRefused(
            "client_results",
            "the result holds values of single clients, and only aggregates may leave",
            hint='aggregate them, or have the silo\'s administrator set client_results = "allow"',
        )


def out_of_time(policy: PolicySettings) -> PolicyRefused:
    """A work item took longer than this silo lets any."""
    return PolicyRefused(
        "max_seconds",
        f"it was not done within {seconds_text(policy.max_seconds)}, and no work item gets more here",
        hint="ask less of the clients, or have the silo's administrator raise max_seconds",
        by_data=True,
    )


def check_failures(policy: PolicySettings, before: int) -> None:
    """A session goes on only while few of its work items have failed: each failure tells something of the data.

    Args:
        policy: holds the bound.
        before: work items of the session that failed.

    Raises:
        PolicyRefused: they are too many.
    """
    if before >= policy.max_failures:
        raise PolicyRefused(
            "max_failures",
            f"work of this session has failed {policy.max_failures} times, and nothing more of it is done",
            hint="correct the computation, and run it again",
        )


def check_bytes_out(policy: PolicySettings, before: int, now: int) -> None:
    """A session's results stay within their bound.

    Args:
        policy: holds the bound.
        before: bytes that left in this session already.
        now: bytes that are to leave.

    Raises:
        PolicyRefused: they are too many together.
    """
    if before + now > policy.max_bytes_out:
        raise PolicyRefused(
            "max_bytes_out",
            f"the session's results would take more than the {policy.max_bytes_out} bytes that may leave",
            hint=_LESS,
            by_data=True,
        )


def check_bytes_left(policy: PolicySettings, before: int) -> None:
    """A session whose bytes have all left does nothing more: whether that would fail tells something of the data, too.

    Args:
        policy: holds the bound.
        before: bytes that left in this session already.

    Raises:
        PolicyRefused: none are left.
    """
    if before >= policy.max_bytes_out:
        raise PolicyRefused(
            "max_bytes_out",
            f"nothing more of this session is done: no more than {policy.max_bytes_out} bytes may leave",
            hint=_LESS,
        )


_LESS: Final = "return less from the clients, or have the silo's administrator raise max_bytes_out"
