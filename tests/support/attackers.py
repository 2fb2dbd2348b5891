"""The attackers of tests/security: each holds the keys and permissions of its role and may send any message.

A raw client without keys, a malicious coordinator and a malicious silo with valid keys. The fourth attacker, the
broker's operator, is in ``tests.support.broker_operator``. tests/security/README.md explains the roles.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedbroker_worker.config import Settings

from fedbroker.transport import topology
from fedbroker.trust import Identity
from fedbroker.trust.envelope import MessageContext, wrap
from fedbroker.trust.keyring import Keys
from fedbroker.wire import Buffer, digest_of, encode
from fedbroker.wire.messages import Announce, Done, Failed, Leave, Message, Need, WorkItem
from tests.support.transports import (
    EchoSilo,
    QueueAdmin,
    RecordingCoordinator,
    coordinator_transport,
    queue_admin,
    silo_transport,
)
from tests.support.worker import SILO, WorkClient, load_settings

__all__ = ["Keyring", "MaliciousCoordinator", "MaliciousSilo", "malicious_coordinator", "malicious_silo", "raw_client"]

raw_client = queue_admin
"""A connection to the broker without any key: publishes any bytes with any properties, reads and deletes queues."""


def _identities(*names: str) -> Mapping[str, Identity]:
    return {name: Identity.generate() for name in names}


@dataclass(frozen=True)
class Keyring:
    """The keys of a cohort: each coordinator knows every silo, and each silo every coordinator.

    Attributes:
        coordinators: secrets by name; ``a`` is the honest one in most tests, ``b`` the malicious one.
        silos: secrets by name.
    """

    coordinators: Mapping[str, Identity] = field(default_factory=lambda: _identities("a", "b"))
    silos: Mapping[str, Identity] = field(default_factory=lambda: _identities("ewr", "jfk"))

    def of_coordinator(self, name: str, *, seal: bool = False) -> Keys:
        """Return the keys that a coordinator holds."""
        return Keys(self.coordinators[name], {silo: own.public for silo, own in self.silos.items()}, seal)

    def of_silo(self, name: str, *, seal: bool = False) -> Keys:
        """Return the keys that a silo holds."""
        others = {coordinator: own.public for coordinator, own in self.coordinators.items()}
        return Keys(self.silos[name], others, seal)

    def silo_settings(
        self, directory: Path, url: str, cohort: str, *, name: str = SILO, seal: bool = False, **options: object
    ) -> Settings:
        """Return the settings of a real silo with these keys; for the options see ``tests.support.worker.settings``."""
        made = load_settings(directory, url, cohort, **options)
        silo = dataclasses.replace(made.silo, name=name)
        return dataclasses.replace(made, silo=silo, keys=self.of_silo(name, seal=seal))


class MaliciousCoordinator:
    """A coordinator with valid keys and its role's permissions at the broker, without the checks of our own code.

    Attributes:
        coordinator: a regular connection under the same identity, which receives the silos' replies.
        key: its name in routing keys.
    """

    def __init__(
        self, coordinator: RecordingCoordinator, cohort: str, own: Identity, keys: Keys, raw: QueueAdmin
    ) -> None:
        self.coordinator = coordinator
        self.key = coordinator.transport.coordinator_id
        self._cohort = cohort
        self._own = own
        self._keys = keys
        self._raw = raw

    def client(self, silo: str = SILO) -> WorkClient:
        """Return a client that sends well-formed work items to a silo and awaits the replies."""
        return WorkClient(self.coordinator, silo)

    async def send_work(
        self,
        item: WorkItem,
        blobs: Sequence[Buffer] = (),
        *,
        seal: bool = False,
        issued: float | None = None,
        message_id: str | None = None,
        about: MessageContext | None = None,
    ) -> None:
        """Sign any work item, with any time and context, and publish it to the item's silo."""
        about = about or MessageContext("work", self._cohort, item.silo, item.session_id, item.stage)
        body = self.signed(encode(item, list(blobs)), about, seal=seal, issued=issued)
        await self._raw.publish(
            topology.WORK.name,
            topology.work_key(self._cohort, item.silo, self.key),
            body,
            correlation_id=f"{about.session_id}.{about.stage}.{about.silo}",
            message_id=message_id or secrets.token_hex(12),
        )

    async def send_notice(
        self, silo: str, notice: Message | bytes, *, seal: bool = False, issued: float | None = None
    ) -> None:
        """Sign any notice, or any bytes, and put it into a silo's mailbox."""
        body = notice if isinstance(notice, bytes) else encode(notice)
        about = MessageContext("mail", self._cohort, silo)
        await self._raw.publish(
            topology.MAIL.name,
            topology.silo_key(self._cohort, silo),
            self.signed(body, about, seal=seal, issued=issued),
        )

    def signed(self, body: bytes, about: MessageContext, *, seal: bool = False, issued: float | None = None) -> bytes:
        """Return a body signed with any context and time."""
        reader = self._keys.others[about.silo] if seal else None
        return wrap(body, about, self._own, now=time.time() if issued is None else issued, seal_to=reader)


class MaliciousSilo:
    """A silo with valid keys and its role's permissions at the broker, without the checks of our own code.

    Attributes:
        silo: a regular connection under the same identity, which announces it and receives work; replace
            ``silo.answer`` to control its replies.
    """

    def __init__(self, silo: EchoSilo, cohort: str, own: Identity, keys: Keys, raw: QueueAdmin) -> None:
        self.silo = silo
        self._cohort = cohort
        self._own = own
        self._keys = keys
        self._raw = raw

    async def reply(
        self,
        item: WorkItem,
        reply: Done | Failed | Need | Message | bytes,
        attachments: Sequence[Buffer] = (),
        *,
        seal_to: str | None = None,
        about: MessageContext | None = None,
        key: str | None = None,
    ) -> None:
        """Sign any reply, or any bytes, and publish it to the coordinator of a work item, or under any routing key.

        Args:
            item: the work item to answer.
            reply: a message or raw bytes.
            attachments: bytes to send in the same message.
            seal_to: the coordinator to seal it to.
            about: the context that the signature covers; the item's own session and stage unless given.
            key: the routing key; the item's own unless given.
        """
        body = reply if isinstance(reply, bytes) else encode(reply, list(attachments))
        about = about or MessageContext("reply", self._cohort, self.silo.name, item.session_id, item.stage)
        key = key or topology.reply_key(item.coordinator_id, item.session_id, item.stage, self.silo.name)
        await self._raw.publish(
            topology.REPLY.name,
            key,
            self.signed(body, about, seal_to=seal_to),
            correlation_id=f"{item.session_id}.{item.stage}.{self.silo.name}",
        )

    async def reply_with_outputs(self, item: WorkItem, outputs: Sequence[bytes], *, seal_to: str | None = None) -> None:
        """Reply to a work item with any outputs, in the same message."""
        sizes = tuple((digest_of(output), len(output)) for output in outputs)
        done = Done(item.session_id, item.stage, self.silo.name, self.silo.incarnation, sizes, 0.0)
        await self.reply(item, done, outputs, seal_to=seal_to)

    async def announce(self, said: Announce | Leave | bytes, *, issued: float | None = None) -> None:
        """Sign any announcement, or any bytes, and publish it in the lobby."""
        body = said if isinstance(said, bytes) else encode(said)
        about = MessageContext("lobby", self._cohort, self.silo.name)
        await self._raw.publish(
            topology.LOBBY.name,
            topology.silo_key(self._cohort, self.silo.name),
            self.signed(body, about, issued=issued),
        )

    def signed(
        self, body: bytes, about: MessageContext, *, seal_to: str | None = None, issued: float | None = None
    ) -> bytes:
        """Return a body signed with any context and time."""
        reader = None if seal_to is None else self._keys.others[seal_to]
        return wrap(body, about, self._own, now=time.time() if issued is None else issued, seal_to=reader)


@asynccontextmanager
async def malicious_coordinator(
    url: str, cohort: str, keyring: Keyring, name: str = "b", *, seal: bool = False, **options: object
) -> AsyncIterator[MaliciousCoordinator]:
    """Connect a malicious coordinator with the keys of ``name``; for the options see ``tests.support.transports``."""
    keys = keyring.of_coordinator(name, seal=seal)
    async with coordinator_transport(url, cohort, keys=keys, **options) as coordinator, queue_admin(url) as raw:
        yield MaliciousCoordinator(coordinator, cohort, keyring.coordinators[name], keys, raw)


@asynccontextmanager
async def malicious_silo(
    url: str, cohort: str, keyring: Keyring, name: str = "jfk", *, seal: bool = False, **options: object
) -> AsyncIterator[MaliciousSilo]:
    """Connect a malicious silo with the keys of ``name``; for the options see ``tests.support.transports``."""
    keys = keyring.of_silo(name, seal=seal)
    async with silo_transport(url, cohort, name, keys=keys, **options) as silo, queue_admin(url) as raw:
        yield MaliciousSilo(silo, cohort, keyring.silos[name], keys, raw)
