"""Settings of a coordinator: a program passes them when it makes a context, and they are checked before any use."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from fedbroker.errors import ConfigError
from fedbroker.plan.compiler import SecureSum
from fedbroker.runtime.host.confinement import Mode
from fedbroker.runtime.resources import MIN_MEMORY
from fedbroker.session.events import Listener
from fedbroker.session.roster import Member
from fedbroker.session.stage_state import MergeOrder, Policy, Stragglers
from fedbroker.transport.amqp.url import parse
from fedbroker.trust.keyring import Keys, coordinator_keys
from fedbroker.wire.coding import Compression, check_compression
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits
from fedbroker.wire.messages import check_name

__all__ = ["Eligible", "Options", "Select", "Settings", "Timeouts"]

Select: TypeAlias = Literal["all", "random"] | Callable[[Sequence[Member]], Iterable[Member]]
"""The choice of the present silos that take part; a function gets them sorted by name and returns some of them."""

Eligible: TypeAlias = Callable[[Member], bool]
"""A rule on the announcement of a silo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits of a context, in seconds.

    Attributes:
        join: to wait for a broker that does not listen yet, and then for ``min_silos``. A refused login, a wrong
            virtual host and a failure of TLS end the wait at once.
        stage: for each stage.
        total: for an invocation as a whole, with all its waits and attempts; None for no limit.
        grace: from the quorum's answer until a stage closes without the silos that have not answered; None waits for
            them until the stage's time is up. It needs ``stragglers="drop"`` or ``"replace"``.

    Raises:
        ConfigError: a number is out of range.
    """

    join: float = 60.0
    stage: float = 300.0
    total: float | None = None
    grace: float | None = None

    def __post_init__(self) -> None:
        for name, seconds in (("join", self.join), ("stage", self.stage), ("total", self.total)):
            if seconds is not None and not 0 < seconds < math.inf:
                raise ConfigError(f"Timeouts({name}=) is {seconds} s", hint="it must be positive")
        if self.grace is not None and not 0 <= self.grace < math.inf:
            raise ConfigError(f"Timeouts(grace=) is {self.grace} s", hint="use a number of seconds, or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of a context that most programs leave as they are.

    Attributes:
        select: the silos that take part if more are present: ``"all"`` (with ``max_silos``, the first by name),
            ``"random"``, or a function that gets the silos that are present and returns some of them.
        eligible: a rule on the announcement of a silo (name, version, capabilities, data sources); others take no part.
        retries: the number of further attempts, each with a fresh membership, after a process died or data was lost.
            Errors that would only repeat (data, the computation, time) are raised at once.
        default_num_clients: the number of clients if no argument determines it; None for one at each silo.
        merge_order: the order in which partial aggregates are merged. ``"membership"`` gives the same bits for the same
            answers, unless more than 128 MiB would have to be held for that; ``"arrival"`` takes the least memory.
            ``last_session`` tells which it was.
        secure_sum: ``"masked"`` computes secure sums so that the coordinator sees their totals only; it needs
            ``keys``, and silos with a roster. ``"plaintext"`` computes the same sums in the open, with TFF's range
            checks: the coordinator then sees each silo's sum. ``"refuse"`` raises a ``PlanError`` for them. None is
            ``"masked"`` with keys and ``"refuse"`` without.
        journal: a directory for the records of running sessions. If the program is killed and run again, the same
            computation with the same argument continues, and no silo computes twice. It holds partial
            aggregates; one program uses it at a time.
        compression: zstd for models and other large values on their way out: ``"auto"`` compresses those of which a
            sample shrinks, ``"on"`` all. A silo has a setting of its own for its results.
        limits: bounds on messages, blobs and the requests of silos; None for :class:`fedbroker.Limits`' own.
        metrics: ``HOST:PORT``, such as ``"127.0.0.1:9464"``, where the context serves metrics over HTTP for
            Prometheus, without a password, until it is closed; None for nowhere. Port 0 is any free one:
            ``context.metrics_url`` tells.
        events: publish the events of ``on_event`` at the broker, for ``fedbroker board``. They hold names, times, sizes
            and the metrics that the program reports, in plaintext. None publishes them unless messages are sealed.
        isolation: of the coordinator's C++ runtime; ``"none"`` for hosts that isolate it by other means.
        runtime_confinement: of the coordinator's C++ runtime, behind the namespaces: ``"required"`` does not start it
            if a graph in it could read this user's files; ``"off"`` confines nothing.
        runtime_memory_bytes: the memory that the coordinator's C++ runtime may allocate; None for three quarters of the
            machine's.

    Raises:
        ConfigError: a value is out of range.
    """

    select: Select = "all"
    eligible: Eligible | None = None
    retries: int = 2
    default_num_clients: int | None = None
    merge_order: MergeOrder = "membership"
    secure_sum: SecureSum | None = None
    journal: str | os.PathLike[str] | None = None
    compression: Compression = "off"
    limits: Limits | None = None
    metrics: str | None = None
    events: bool | None = None
    isolation: Literal["namespace", "none"] = "namespace"
    runtime_confinement: Mode = "best-effort"
    runtime_memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.metrics is not None:
            from fedbroker.metrics.exposition import parse_address

            parse_address(self.metrics)
        check_compression(self.compression)
        for name, value, choices in (
            ("merge_order", self.merge_order, get_args(MergeOrder)),
            ("secure_sum", self.secure_sum, (None, *get_args(SecureSum))),
            ("runtime_confinement", self.runtime_confinement, get_args(Mode)),
            ("events", self.events, (None, True, False)),
        ):
            if value not in choices:
                words = [json.dumps(choice) for choice in choices if choice is not None]
                raise ConfigError(f"{name} is {value!r}", hint=f"use {' or '.join(words)}")
        if self.select not in ("all", "random") and not callable(self.select):
            raise ConfigError(f"select is {self.select!r}", hint='use "all", "random", or a function of the silos')
        if self.eligible is not None and not callable(self.eligible):
            raise ConfigError(f"eligible is {self.eligible!r}", hint="it must be a function")
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}", hint="it must not be negative; 0 for a single attempt")
        if self.default_num_clients is not None and self.default_num_clients < 0:
            raise ConfigError(
                f"default_num_clients is {self.default_num_clients}",
                hint="it must not be negative; leave it out for one client at each silo",
            )
        if self.runtime_memory_bytes is not None and self.runtime_memory_bytes < MIN_MEMORY:
            raise ConfigError(
                f"runtime_memory_bytes is {self.runtime_memory_bytes}",
                hint=f"it must be at least {MIN_MEMORY}, of which the C++ runtime's threads take a part; "
                "None for three quarters of the memory",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a coordinator; see :func:`fedbroker.set_sync_execution_context`.

    Raises:
        ConfigError: a value is out of range, or the URL or the cohort's name is malformed.
    """

    url: str = field(repr=False)
    cohort: str
    min_silos: int
    max_silos: int | None = None
    stragglers: Stragglers = "fail"
    quorum: int | None = None
    quorum_fraction: float | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    keys: str | os.PathLike[str] | None = None
    on_event: Listener | None = field(default=None, repr=False)
    progress: bool | None = None
    options: Options = field(default_factory=Options)
    policy: Policy = field(init=False)
    trusted: Keys | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parse(self.url)
        check_name("cohort", self.cohort)
        if self.min_silos < 1:
            raise ConfigError(f"min_silos is {self.min_silos}", hint="it must be at least 1")
        if self.max_silos is not None and self.max_silos < self.min_silos:
            raise ConfigError(
                f"max_silos is {self.max_silos}, less than min_silos ({self.min_silos})",
                hint="raise it, or leave it out",
            )
        if self.options.secure_sum == "masked" and self.keys is None:
            raise ConfigError(
                'secure_sum is "masked", and the context has no keys',
                hint="pass keys= of a cohort with a roster: see docs/secure-sums.md",
            )
        if self.on_event is not None and not callable(self.on_event):
            raise ConfigError(f"on_event is {self.on_event!r}", hint="it must be a function")
        if self.progress not in (None, False, True):
            raise ConfigError(f"progress is {self.progress!r}", hint="use None, False or True")
        quorum = self._quorum()
        policy = Policy(self.stragglers, quorum, self.timeouts.grace, self.options.merge_order)
        object.__setattr__(self, "policy", policy)
        object.__setattr__(self, "trusted", None if self.keys is None else coordinator_keys(Path(self.keys)))

    @property
    def limits(self) -> Limits:
        """Bounds on messages, blobs and the requests of silos."""
        return DEFAULT_LIMITS if self.options.limits is None else self.options.limits

    @property
    def secure_sum(self) -> SecureSum:
        """The handling of secure sums: by default, a context with keys masks them and one without refuses them."""
        chosen = self.options.secure_sum
        return chosen if chosen is not None else "refuse" if self.keys is None else "masked"

    @property
    def publishes_events(self) -> bool:
        """True if events are published at the broker: by default unless the broker is to read nothing."""
        chosen = self.options.events
        return chosen if chosen is not None else self.trusted is None or not self.trusted.seal

    def _quorum(self) -> int | float:
        """Return the quorum as the session's policy takes it: a float is a fraction there."""
        number, fraction = self.quorum, self.quorum_fraction
        if self.stragglers == "fail" and (number, fraction, self.timeouts.grace) != (None, None, None):
            raise ConfigError(
                "quorum, quorum_fraction and grace have no meaning if every silo must answer",
                hint='add stragglers="drop" or "replace", or leave them out',
            )
        if number is not None and fraction is not None:
            raise ConfigError("quorum and quorum_fraction are both given", hint="leave one of them out")
        # Not every caller is type-checked.
        is_integer = isinstance(number, int)  # pyright: ignore[reportUnnecessaryIsInstance]
        if number is not None and (isinstance(number, bool) or not is_integer or number < 1):
            raise ConfigError(
                f"quorum is {number!r}", hint="use a number of silos from 1 on, or quorum_fraction for a fraction"
            )
        if fraction is not None and not 0.0 < fraction <= 1.0:
            raise ConfigError(
                f"quorum_fraction is {fraction!r}",
                hint="use a fraction above 0.0 and up to 1.0, or quorum for a number",
            )
        if fraction is not None:
            return float(fraction)
        return self.min_silos if number is None else number
