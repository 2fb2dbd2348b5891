"""The audit log's lines of a masked sum after the reply: the shares that leave, and the steps that were refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedbroker_worker.policy.audit import now

if TYPE_CHECKING:
    from fedbroker.masking.survivors import Revealed
    from fedbroker.transport import Signed
    from fedbroker.wire.messages import WorkItem

__all__ = ["REVEALED", "refused_step", "released_shares"]

REVEALED: Final = "revealed"
"""The outcome of the line that names the shares that leave."""


def released_shares(item: WorkItem, signed: Signed, revealed: Revealed, size: int) -> dict[str, object]:
    """Return the line that is written before shares leave: whose masks they help to remove.

    Args:
        item: the work item of the masked sum.
        signed: its signer.
        revealed: the shares.
        size: their size in bytes.
    """
    survivors, dropped = sorted(revealed.seeds), sorted(revealed.keys)
    releases = [f"share of the seed of silo {silo}, which is in the sum" for silo in survivors]
    releases += [f"share of the stage key of silo {silo}, which has dropped out" for silo in dropped]
    facts = {"survivors": survivors, "dropped": dropped, "releases": releases, "bytes_out": size}
    return {**_line(item, signed, "unmask", REVEALED), **facts}


def refused_step(item: WorkItem, signed: Signed, step: str, why: str) -> dict[str, object]:
    """Return the line that is written when a coordinator's notice is refused.

    Args:
        item: the work item of the masked sum.
        signed: its signer.
        step: the notice's step.
        why: one line.
    """
    nothing: list[str] = []
    return {**_line(item, signed, step, "refused"), "why": why, "releases": nothing, "bytes_out": 0}


def _line(item: WorkItem, signed: Signed, step: str, outcome: str) -> dict[str, object]:
    return {
        "time": now(),
        "silo": item.silo,
        "coordinator": item.coordinator_id,
        "signed_by": signed.by,
        "session": item.session_id,
        "claimed_name": item.computation,
        "stage": item.stage,
        "clients": item.clients,
        "sources": [],
        "outcome": outcome,
        "rule": "",
        "step": step,
    }
