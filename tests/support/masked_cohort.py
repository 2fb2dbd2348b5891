"""Real silos with keys and a roster, as their administrators would set them up for masked sums.

with masked_cohort(broker, cohort, 3) as silos, masked_context(silos, min_silos=3) as context:
    …
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import fedbroker
from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.masking.roster import Roster, new_roster, parse_roster, write_roster
from fedbroker.testing import LocalCohort, SiloProcess, Sources, local_cohort
from fedbroker.trust import Identity, Public
from tests.support.context_settings import context_settings

MASKED: Mapping[str, object] = {"aggregates": "masked"}
"""The ``[policy]`` of silos that insist on masked sums."""

START_SECONDS = 60.0


def numbered(count: int) -> dict[str, Sources]:
    """Return silos ``s00``, ``s01``, …; the source ``numbers`` of ``s00`` has one row, x = 1, that of ``s01`` two, …"""
    query = "select (i + 1)::int as x from range({rows}) t(i)"
    return {f"s{at:02}": {"numbers": {"source": "duckdb", "query": query.format(rows=at + 1)}} for at in range(count)}


class MaskedCohort:
    """A running cohort whose silos take part in masked sums.

    Args:
        local: the cohort, with ``security="sign"`` or ``"seal"``.

    Attributes:
        administrator: the identity that signs the roster.
        publics: the silos' public keys, by name.
    """

    def __init__(self, local: LocalCohort) -> None:
        assert local.roster is not None, "made with keys"
        assert local.keys is not None, "made with keys"
        self.local = local
        self.url, self.cohort, self.silos = local.url, local.cohort, local.silos
        self.keys: Path = local.keys
        self.roster_path: Path = local.roster
        self.administrator = Identity.parse((self.roster_path.parent / "administrator.key").read_text())
        self.publics: dict[str, Public] = dict(self.roster.keys)

    @property
    def roster(self) -> Roster:
        """The installed roster, which may have expired; all silos read the same file."""
        content = self.roster_path.read_bytes()
        return parse_roster(content, self.administrator.public, self.cohort, 0.0)

    def identity(self, name: str) -> Identity:
        """Return a silo's secret."""
        return Identity.parse((self.silos[name].directory / "secret.key").read_text())

    def install(self, publics: Mapping[str, Public], *, lifetime: float = 3600.0, by: Identity | None = None) -> Roster:
        """Replace the roster; the silos read it with their next announcement.

        Args:
            publics: the public keys by name.
            lifetime: seconds until it expires; less than 0 for an expired one.
            by: who signs it; None for the administrator.
        """
        roster = new_roster(self.cohort, publics, time.time(), self.roster, lifetime)
        new = self.roster_path.with_suffix(".new")
        new.write_bytes(write_roster(roster, by or self.administrator))
        new.replace(self.roster_path)
        return roster

    def revoke(self, name: str) -> Roster:
        """Install a roster without a silo."""
        return self.install({silo: key for silo, key in self.publics.items() if silo != name})

    def restart(
        self, name: str, *, policy: Mapping[str, object] | None = None, security: Mapping[str, object] | None = None
    ) -> SiloProcess:
        """Restart a silo, with more keys of ``[policy]`` and ``[security]``; a value of None removes its key."""
        silo = self.silos[name]
        silo.stop()
        path = silo.directory / "silo.toml"
        document = tomllib.loads(path.read_text())
        for table, changed in (("policy", policy or {}), ("security", security or {})):
            document[table] = {key: value for key, value in {**document[table], **changed}.items() if value is not None}
        sources = {f"data.{source}": options for source, options in document.pop("data", {}).items()}
        path.write_text("".join(f"[{table}]\n{_lines(keys)}" for table, keys in {**document, **sources}.items()))
        silo.start()
        silo.wait_ready(Deadline.after(START_SECONDS))
        return silo


@contextmanager
def masked_cohort(
    broker: PrivateBroker | str,
    cohort: str,
    silos: int | Mapping[str, Sources] = 3,
    *,
    policy: Mapping[str, object] | None = None,
    security: str = "seal",
    **options: object,
) -> Generator[MaskedCohort]:
    """Run silos with keys and a roster within the block.

    Args:
        broker: the broker, or its URL.
        cohort: the cohort's name.
        silos: their number, for those of :func:`numbered`; or each silo's data sources by its name.
        policy: keys of each silo's ``[policy]``, such as :data:`MASKED`.
        security: ``sign`` or ``seal``.
        **options: of :func:`fedbroker.testing.local_cohort`.
    """
    url = broker if isinstance(broker, str) else broker.url
    by_name = numbered(silos) if isinstance(silos, int) else silos
    with local_cohort(
        by_name,
        cohort=cohort,
        broker=url,
        policy=policy,
        security=security,
        **options,  # type: ignore[arg-type]
    ) as local:
        yield MaskedCohort(local)


@contextmanager
def masked_context(
    silos: MaskedCohort, *, secure_sum: str = "masked", min_silos: int | None = None, **options: object
) -> Generator[fedbroker.SyncBrokerContext]:
    """Return a context over such a cohort, with its keys; by default it waits for all of its silos.

    Args:
        silos: the cohort.
        secure_sum: of the context.
        min_silos: of the context; None for all.
        **options: of :func:`fedbroker.create_sync_execution_context`.
    """
    with fedbroker.create_sync_execution_context(
        silos.url,
        cohort=silos.cohort,
        keys=silos.keys,
        min_silos=len(silos.silos) if min_silos is None else min_silos,
        **context_settings(secure_sum=secure_sum, **options),
    ) as context:
        yield context


def _lines(table: Mapping[str, object]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)
