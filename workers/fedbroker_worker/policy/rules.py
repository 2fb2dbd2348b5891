"""The rules of ``[policy]``: plain functions of a work item, its contents, and the totals of its session.

Each function returns if its rule is kept, and raises if not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedbroker.graphs import why_refused
from fedbroker.text import seconds_text
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
"""The most ops that a refusal names; it counts the others."""


def check_sources(policy: PolicySettings, item: WorkItem) -> None:
    """Check that a program reads only allowed sources.

    Raises:
        PolicyRefused: the program reads a source that is not in ``sources``.
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
    """Check that each aggregate over data covers at least ``min_clients`` clients.

    Raises:
        PolicyRefused: it covers fewer, but at least one.
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
    """Check that a computation holds only known and allowed ops.

    Raises:
        PolicyRefused: it holds others; the error names some of them.
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
        f"it was not done within {seconds_text(policy.max_seconds)}, and no work item gets more here",
        hint="ask less of the clients, or have the silo's administrator raise max_seconds",
        by_data=True,
    )


def check_failures(policy: PolicySettings, before: int) -> None:
    """Check that fewer than ``max_failures`` work items of a session have failed.

    Each failure tells the coordinator something about the data.

    Args:
        policy: the silo's policy.
        before: the number of the session's work items that failed.

    Raises:
        PolicyRefused: too many have failed.
    """
    if before >= policy.max_failures:
        raise PolicyRefused(
            "max_failures",
            f"work of this session has failed {policy.max_failures} times, and nothing more of it is done",
            hint="correct the computation, and run it again",
        )


def check_bytes_out(policy: PolicySettings, before: int, now: int) -> None:
    """Check that a session's results stay within ``max_bytes_out``.

    Args:
        policy: the silo's policy.
        before: bytes that already left in this session.
        now: bytes that are to leave now.

    Raises:
        PolicyRefused: the sum is over the limit.
    """
    if before + now > policy.max_bytes_out:
        raise PolicyRefused(
            "max_bytes_out",
            f"the session's results would take more than the {policy.max_bytes_out} bytes that may leave",
            hint=_LESS,
            by_data=True,
        )


def check_bytes_left(policy: PolicySettings, before: int) -> None:
    """Check that a session may still return bytes.

    A session that has used up ``max_bytes_out`` does no more work, because a failure alone tells something about the
    data.

    Args:
        policy: the silo's policy.
        before: bytes that already left in this session.

    Raises:
        PolicyRefused: no bytes are left.
    """
    if before >= policy.max_bytes_out:
        raise PolicyRefused(
            "max_bytes_out",
            f"nothing more of this session is done: no more than {policy.max_bytes_out} bytes may leave",
            hint=_LESS,
        )


_LESS: Final = "return less from the clients, or have the silo's administrator raise max_bytes_out"
