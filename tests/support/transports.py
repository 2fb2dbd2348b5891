"""Both ends of a cohort for tests, a silo and a coordinator, and an administrator's connection."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aio_pika

from fedbroker.deadline import Deadline
from fedbroker.transport import CoordinatorTransport, Signed, SiloTransport
from fedbroker.trust.keyring import Keys
from fedbroker.wire import DEFAULT_LIMITS, Buffer, Limits, digest_of
from fedbroker.wire.coding import Compression
from fedbroker.wire.messages import Announce, Done, EndSession, Leave, Op, Value, WorkItem
from tests.support.wait import LOADED

HEARTBEAT = 0.3


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait for a condition; raise TimeoutError if it does not become true."""
    async with asyncio.timeout(seconds * LOADED):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)


def work_item(
    silo: str, key: str, *, session: str = "s1", stage: int = 0, blobs: dict[str, int] | None = None, seconds: float = 9
) -> WorkItem:
    """Return a work item that names blobs."""
    program: tuple[Op, ...] = tuple(Value(at, digest) for at, digest in enumerate(blobs or {}))
    return WorkItem(session, stage, silo, key, 1, program, blobs or {}, seconds, seconds, False)


class EchoSilo:
    """A silo that answers a work item with the blobs that it names, or with ``b"ok"``.

    Attributes:
        items: the received work items, in order.
        ended: the sessions that were given up.
        answer: the handler of a work item; may be replaced.
    """

    def __init__(
        self,
        url: str,
        cohort: str,
        name: str = "ewr",
        *,
        heartbeat: float = HEARTBEAT,
        limits: Limits = DEFAULT_LIMITS,
        compression: Compression = "off",
        keys: Keys | None = None,
        patience: float = 5.0,
        enrolled: bool = False,
        renew_seconds: float = 600.0,
    ) -> None:
        self.name = name
        self.incarnation = secrets.token_hex(4)
        self.items: list[WorkItem] = []
        self.ended: list[EndSession] = []
        self.announced = 0
        self._signed: dict[tuple[str, int], Signed] = {}
        self.answer: Callable[[WorkItem], Awaitable[None]] = self.echo
        self.patience = patience
        self._cohort = cohort
        self._heartbeat = heartbeat
        self.transport = SiloTransport(
            url,
            cohort,
            name,
            announcement=self._announcement,
            on_work=self._on_work,
            on_session_end=lambda message, _: self.ended.append(message),
            heartbeat=heartbeat,
            limits=limits,
            compression=compression,
            keys=keys,
            spread=0.1,
            enrolled=enrolled,
            renew_seconds=renew_seconds,
        )

    def _announcement(self) -> Announce:
        self.announced += 1
        return Announce(self._cohort, self.name, self.incarnation, self._heartbeat)

    async def _on_work(self, item: WorkItem, signed: Signed) -> None:
        self.items.append(item)
        self._signed[item.session_id, item.stage] = signed
        await self.answer(item)

    async def echo(self, item: WorkItem) -> None:
        """Reply with the named blobs."""
        deadline = Deadline.after(item.timeout)
        blobs: list[Buffer] = [
            await self.transport.blobs.get(op.blob, deadline, self.patience) for op in item.ops if isinstance(op, Value)
        ]
        await self.send(item, blobs or [b"ok"], deadline)

    def gated(self) -> asyncio.Event:
        """Hold back replies from now on until the returned event is set."""
        gate = asyncio.Event()

        async def answer(item: WorkItem) -> None:
            await gate.wait()
            await self.echo(item)

        self.answer = answer
        return gate

    async def send(self, item: WorkItem, blobs: list[Buffer], deadline: Deadline) -> None:
        """Reply with these blobs."""
        outputs = {digest_of(blob): blob for blob in blobs}
        sizes = tuple((digest, len(blob)) for digest, blob in outputs.items())
        done = Done(item.session_id, item.stage, self.name, self.incarnation, sizes, 0.0)
        await self.transport.reply(item, done, outputs, deadline, self._signed[item.session_id, item.stage])


class RecordingCoordinator:
    """A coordinator that records announcements."""

    def __init__(
        self,
        url: str,
        cohort: str,
        *,
        key: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
        compression: Compression = "off",
        keys: Keys | None = None,
    ) -> None:
        self.announces: list[Announce] = []
        self.leaves: list[Leave] = []
        self.forged: list[tuple[str, str, str]] = []
        self.transport = CoordinatorTransport(
            url,
            cohort,
            key=key,
            limits=limits,
            compression=compression,
            keys=keys,
            on_announce=self.announces.append,
            on_leave=self.leaves.append,
            on_forged=lambda *what: self.forged.append(what),
        )

    @property
    def silos(self) -> set[str]:
        """Return the silos heard so far."""
        return {announce.silo for announce in self.announces}

    async def ask(self, silo: str, stage: int = 0, seconds: float = 20.0) -> bytes:
        """Request a small reply; return its first output."""
        item = work_item(silo, self.transport.coordinator_id, stage=stage, seconds=seconds)
        done = await self.transport.request(item, {}, Deadline.after(seconds))
        assert isinstance(done, Done), done
        return bytes(await self.transport.results.get(done.outputs[0][0], Deadline.after(seconds)))


@asynccontextmanager
async def silo_transport(url: str, cohort: str, name: str = "ewr", **options: object) -> AsyncIterator[EchoSilo]:
    """Open a silo within the block."""
    silo = EchoSilo(url, cohort, name, **options)  # type: ignore[arg-type]
    await silo.transport.open(Deadline.after(20))
    try:
        yield silo
    finally:
        await silo.transport.close()


@asynccontextmanager
async def coordinator_transport(url: str, cohort: str, **options: object) -> AsyncIterator[RecordingCoordinator]:
    """Open a coordinator within the block."""
    coordinator = RecordingCoordinator(url, cohort, **options)  # type: ignore[arg-type]
    await coordinator.transport.open(Deadline.after(20))
    try:
        yield coordinator
    finally:
        await coordinator.transport.close()


async def assert_both_directions_work(theirs: RecordingCoordinator, silo: EchoSilo, data: bytes) -> None:
    """Check that announcement, work, reply and blobs in both directions pass with the given permissions."""
    await eventually(lambda: silo.name in theirs.silos)
    assert await theirs.ask(silo.name) == b"ok"
    digest, deadline = digest_of(data), Deadline.after(30)
    await theirs.transport.send_blob(digest, data, silo=None, deadline=deadline)
    item = work_item(silo.name, theirs.transport.coordinator_id, stage=1, blobs={digest: len(data)}, seconds=30)
    done = await theirs.transport.request(item, {}, deadline)
    assert isinstance(done, Done)
    assert bytes(await theirs.transport.results.get(digest, deadline)) == data
    assert len(silo.items) == 2


class QueueAdmin:
    """A separate connection that can inspect, publish to and delete queues."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection) -> None:
        self._connection = connection

    async def has_queue(self, name: str) -> bool:
        """Return whether a queue exists."""
        return await self.depth(name) is not None

    async def depth(self, name: str) -> int | None:
        """Return the number of ready messages in a queue; None if it does not exist or is exclusive to others."""
        channel = await self._connection.channel()
        try:
            queue = await channel.declare_queue(name, passive=True)
        except aio_pika.exceptions.ChannelClosed as error:
            return -1 if "RESOURCE_LOCKED" in str(error) else None
        depth = queue.declaration_result.message_count
        await channel.close()
        return depth

    async def holds(self, name: str, messages: int) -> bool:
        """Return whether a queue holds this many messages."""
        return await self.depth(name) == messages

    async def publish(self, exchange: str, key: str, body: bytes, **properties: object) -> None:
        """Publish any message."""
        async with self._connection.channel() as channel:
            target = await channel.get_exchange(exchange, ensure=False)
            await target.publish(aio_pika.Message(body, **properties), key)  # type: ignore[arg-type]

    async def first(self, queue: str) -> aio_pika.abc.AbstractIncomingMessage:
        """Consume a queue's first message and return it; the message is requeued."""
        came: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
        async with self._connection.channel() as channel, asyncio.timeout(10):
            await (await channel.get_queue(queue, ensure=False)).consume(came.put)
            return await came.get()

    async def delete(self, queue: str) -> None:
        """Delete a queue, even if it is in use."""
        async with self._connection.channel() as channel:
            await channel.queue_delete(queue)

    async def declare(self, queue: str, *bindings: tuple[str, str], **options: object) -> None:
        """Declare a queue and its bindings."""
        async with self._connection.channel() as channel:
            declared = await channel.declare_queue(queue, **options)  # type: ignore[arg-type]
            for exchange, key in bindings:
                await declared.bind(exchange, key)


@asynccontextmanager
async def queue_admin(url: str) -> AsyncIterator[QueueAdmin]:
    """Open an administrator's connection within the block."""
    async with await aio_pika.connect(url) as connection:
        yield QueueAdmin(connection)
