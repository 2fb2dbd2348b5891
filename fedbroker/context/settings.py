"""How a coordinator works: what a program passes when it makes a context, checked before anything is tried.

Imports the session's policy, the plan's secure sums, transport's URLs, metrics' addresses, the runtime's least memory,
wire and the base.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from fedbroker.errors import ConfigError
from fedbroker.metrics.address import parse_address
from fedbroker.plan.secure import SecureSum
from fedbroker.runtime.confinement import Mode
from fedbroker.runtime.memory import LEAST_MEMORY
from fedbroker.session.events import Listener
from fedbroker.session.merge_scheduler import MergeOrder
from fedbroker.session.roster import Member
from fedbroker.session.straggler_policy import Policy, Stragglers
from fedbroker.transport.amqp.url import parse
from fedbroker.trust.files import coordinator_keys
from fedbroker.trust.guard import Keys
from fedbroker.wire.coding import Compression, check_compression
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.names import check_name

__all__ = ["Eligible", "Select", "Settings"]

Select: TypeAlias = Literal["all", "random"] | Callable[[Sequence[Member]], Iterable[Member]]
"""Which of the silos that are there take part; a function gets them by name and returns some of them."""

Eligible: TypeAlias = Callable[[Member], bool]
"""A rule on what a silo announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a coordinator works; see :func:`fedbroker.create_sync_execution_context`.

    Raises:
        ConfigError: a value is out of range, or the URL or the cohort's name is malformed.
    """

    url: str = field(repr=False)
    cohort: str
    min_silos: int = 1
    max_silos: int | None = None
    select: Select = "all"
    eligible: Eligible | None = None
    join_timeout: float = 60.0
    stage_timeout: float = 300.0
    deadline: float | None = None
    stragglers: Stragglers = "fail"
    quorum: int | float | None = None
    grace: float | None = None
    merge_order: MergeOrder = "membership"
    retries: int = 2
    default_num_clients: int | None = None
    secure_sum: SecureSum = "refuse"
    isolation: Literal["namespace", "none"] = "namespace"
    runtime_confinement: Mode = "best-effort"
    runtime_memory_bytes: int | None = None
    on_event: Listener | None = field(default=None, repr=False)
    progress: bool | None = None
    journal: str | os.PathLike[str] | None = None
    limits: Limits = DEFAULT_LIMITS
    compression: Compression = "off"
    keys: str | os.PathLike[str] | None = None
    metrics: str | None = None
    policy: Policy = field(init=False)
    trusted: Keys | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parse(self.url)
        check_name("cohort", self.cohort)
        if self.metrics is not None:
            parse_address(self.metrics)
        check_compression(self.compression)
        self._check_counts()
        if self.secure_sum not in get_args(SecureSum):
            raise ConfigError(
                f"secure_sum is {self.secure_sum!r}", hint='use "refuse", or "plaintext" to compute in the open'
            )
        if self.runtime_confinement not in get_args(Mode):
            raise ConfigError(
                f"runtime_confinement is {self.runtime_confinement!r}", hint='use "best-effort", "required" or "off"'
            )
        if self.select not in ("all", "random") and not callable(self.select):
            raise ConfigError(f"select is {self.select!r}", hint='use "all", "random", or a function of the silos')
        for name, call in (("eligible", self.eligible), ("on_event", self.on_event)):
            if call is not None and not callable(call):
                raise ConfigError(f"{name} is {call!r}", hint="it must be a function")
        if self.progress not in (None, False, True):
            raise ConfigError(f"progress is {self.progress!r}", hint="use None, False or True")
        for name, seconds in (
            ("join_timeout", self.join_timeout),
            ("stage_timeout", self.stage_timeout),
            ("deadline", self.deadline),
        ):
            if seconds is not None and not 0 < seconds < math.inf:
                raise ConfigError(f"{name} is {seconds} s", hint="it must be positive")
        if self.stragglers == "fail" and (self.quorum is not None or self.grace is not None):
            raise ConfigError(
                "quorum and grace have no meaning where every silo must answer",
                hint='add stragglers="drop" or "replace", or leave them out',
            )
        quorum = self.min_silos if self.quorum is None else self.quorum
        object.__setattr__(self, "trusted", None if self.keys is None else coordinator_keys(Path(self.keys)))
        object.__setattr__(self, "policy", Policy(self.stragglers, quorum, self.grace, self.merge_order))

    def _check_counts(self) -> None:
        if self.min_silos < 1:
            raise ConfigError(f"min_silos is {self.min_silos}", hint="it must be at least 1")
        if self.max_silos is not None and self.max_silos < self.min_silos:
            raise ConfigError(
                f"max_silos is {self.max_silos}, less than min_silos ({self.min_silos})",
                hint="raise it, or leave it out",
            )
        if self.default_num_clients is not None and self.default_num_clients < 0:
            raise ConfigError(
                f"default_num_clients is {self.default_num_clients}",
                hint="it must not be negative; leave it out for one client at each silo",
            )
        if self.runtime_memory_bytes is not None and self.runtime_memory_bytes < LEAST_MEMORY:
            raise ConfigError(
                f"runtime_memory_bytes is {self.runtime_memory_bytes}",
                hint=f"it must be at least {LEAST_MEMORY}, of which the C++ runtime's threads take a part; "
                "None for three quarters of the memory",
            )
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}", hint="it must not be negative; 0 for a single attempt")
