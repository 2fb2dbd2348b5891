"""Views for the administrator of a silo: structs that go over the control socket and to the page, as JSON.

They hold names, types, numbers and times, never values of the silo's data. Times are in seconds since 1970.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = ["ReadView", "SiloState", "SourceView", "StatusView", "WorkState", "WorkView"]

SiloState: TypeAlias = Literal["joining", "standing by", "in its cohort", "paused", "leaving"]

WorkState: TypeAlias = Literal[
    "received",
    "waiting for blobs",
    "computing",
    "masking",
    "sending",
    "answered",
    "refused",
    "failed",
    "lacking",
    "cancelled",
    "interrupted",
    "begun",
]
"""How far a work item is, or how it ended: as in the audit log, whose first lines are ``begun``."""


class SourceView(msgspec.Struct, frozen=True):
    """A data source as the silo announces it.

    Attributes:
        name: its name.
        columns: ``name: type`` of each.
        rows: their number; None if unknown.
        clients: the number of clients.
    """

    name: str
    columns: list[str]
    rows: int | None
    clients: int


class ReadView(msgspec.Struct, frozen=True):
    """A data source that work reads.

    Attributes:
        source: its name.
        columns: ``name: type`` of each, as the coordinator asked for them.
    """

    source: str
    columns: list[str]


class WorkView(msgspec.Struct, frozen=True, kw_only=True):
    """One work item: what was asked, by whom, and what left.

    Attributes:
        id: numbers the work items of this process from 1; those of the audit log count down from -1.
        changed: greater than that of every earlier change of any work item.
        session: id of its session.
        stage: number of its client stage.
        coordinator: id of the coordinator.
        key: fingerprint of the key that signed it; empty if it was not signed.
        key_name: the name of that key in ``[security]``; empty without one.
        computation: the computation's name, as the coordinator claims; nothing at the silo confirms it.
        received: when it arrived.
        clients: the number of the silo's clients in it.
        reads: the data sources that it reads.
        state: how far it is, or how it ended.
        since: when it got into this state.
        seconds: from its arrival to its reply; None while it runs.
        rule: of a refusal by the policy, the key of ``[policy]``.
        why: why it was refused, failed or was cancelled.
        releases: the values that its reply holds, in words.
        masked: the number of its outputs that left masked.
        silos: the number of silos over which these are summed.
        bytes_in: bytes of the coordinator's computations and values that it uses.
        bytes_out: bytes of its outputs.
        explained: whether its computations can be described.
    """

    id: int
    changed: int
    session: str
    stage: int
    coordinator: str
    key: str = ""
    key_name: str = ""
    computation: str = ""
    received: float
    clients: int
    reads: list[ReadView] = []
    state: WorkState
    since: float
    seconds: float | None = None
    rule: str = ""
    why: str = ""
    releases: list[str] = []
    masked: int = 0
    silos: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    explained: bool = False


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """The present state of a silo, and its counters since its process started.

    Attributes:
        silo: its name.
        cohort: its cohort.
        state: its state.
        paused_since: since when it is paused; None if it is not.
        pause_kept: whether the pause outlives the process.
        connected: whether it is connected to the broker.
        broker: the broker's URL without password.
        since: when the process started.
        pid: its process id.
        version: of its distribution.
        python: of its interpreter.
        incarnation: differs for each start.
        running: the number of running work items.
        sessions: the number of sessions with values here.
        answered: the number of work items that were answered with outputs.
        refused: the number that the policy or the silo's state refused.
        failed: the number that failed.
        bytes_out: bytes of all outputs.
        replies_failed: replies that could not be sent.
        restarts: how often the C++ runtime died.
        sources: the data sources as announced.
        policy: the policy in one line.
        guarantee: one sentence: how much a coordinator can learn.
        roster: one line about the roster of masked sums; empty if the silo has none.
        audit_file: the audit log; empty without one.
        signers: names or fingerprints of the keys that may send work; empty if any publisher may.
    """

    silo: str
    cohort: str
    state: SiloState
    paused_since: float | None
    pause_kept: bool
    connected: bool
    broker: str
    since: float
    pid: int
    version: str
    python: str
    incarnation: str
    running: int
    sessions: int
    answered: int
    refused: int
    failed: int
    bytes_out: int
    replies_failed: int
    restarts: int
    sources: list[SourceView]
    policy: str
    guarantee: str
    roster: str
    audit_file: str
    signers: list[str]
