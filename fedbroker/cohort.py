"""A cohort without TFF: wait for its silos and list them."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from fedbroker.deadline import Deadline
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.events import Listener
from fedbroker.session.html import members_html
from fedbroker.session.roster import Member
from fedbroker.text import count_text, one_line_repr
from fedbroker.trust.keyring import coordinator_keys
from fedbroker.wire.limits import DEFAULT_LIMITS, Limits

__all__ = ["Cohort"]


class Cohort:
    """The silos of one cohort, as a coordinator sees them.

    ``async with fedbroker.Cohort(url, "airports") as cohort: await cohort.wait(min_silos=3)``

    Args:
        url: of the broker.
        name: of the cohort.
        keys: a TOML file with this coordinator's secret and its silos' public keys; None: nothing is signed.
        on_event: called with each event, such as a silo that joins or leaves; must not block.
        limits: bounds on messages and the requests of silos; None for :class:`fedbroker.Limits`' own.

    Raises:
        ConfigError: the URL, the name or the file of keys is malformed.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        keys: str | os.PathLike[str] | None = None,
        on_event: Listener | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._name = name
        self._cohort = CoordinatorCohort(
            url,
            name,
            limits=DEFAULT_LIMITS if limits is None else limits,
            keys=None if keys is None else coordinator_keys(Path(keys)),
            listeners=() if on_event is None else (on_event,),
        )

    @property
    def name(self) -> str:
        """Return the cohort's name."""
        return self._name

    @property
    def silos(self) -> tuple[Member, ...]:
        """Return the silos that are present, by name."""
        return self._cohort.silos

    async def open(self, timeout: float = 60.0) -> None:  # noqa: ASYNC109 the public name
        """Connect, within ``timeout`` seconds, and read the announcements that wait at the broker.

        Raises:
            BrokerError: the broker cannot be reached, refuses us, or has other queues than ours.
        """
        await self._cohort.open(Deadline.after(timeout))

    async def close(self) -> None:
        """Disconnect and leave nothing behind at the broker. Bounded in time."""
        await self._cohort.close()

    async def wait(self, min_silos: int, timeout: float = 60.0) -> tuple[Member, ...]:  # noqa: ASYNC109 the public name
        """Wait until enough silos are present; return them by name.

        Raises:
            CohortTimeout: too few silos were present in time; names the present and the missing silos.
        """
        return await self._cohort.gather(min_silos, timeout)

    async def __aenter__(self) -> Self:
        await self._cohort.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        silos = self.silos
        names = ", ".join(silo.name for silo in silos)
        return one_line_repr("Cohort", repr(self._name), count_text(len(silos), "silo"), *([names] if names else []))

    def _repr_html_(self) -> str:
        return members_html(f"cohort {self._name}", self.silos)
