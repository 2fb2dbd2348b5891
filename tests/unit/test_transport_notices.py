"""The lock on an enrolled silo's name, where the broker admits every login: at most one holder, never lost."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.transport.amqp.exceptions import Locked
from fedbroker.transport.silo.notices import NoticeQueue


class Broker:
    """A replicated queue on three nodes, reduced to its consumer count, which includes consumers of a dead node."""

    def __init__(self):
        self.consumers: list[Connection] = []
        self.down: set[int] = set()

    async def is_reachable(self, node):
        return node not in self.down

    def lose(self, node):
        self.down.add(node)

    def mend(self, node):
        self.down.discard(node)
        self.consumers = [one for one in self.consumers if one.endpoint != node]


class Connection:
    """A silo's connection to a node."""

    def __init__(self, broker, endpoint=0):
        self.broker = broker
        self.endpoint = endpoint

    async def expect(self, *queues):
        return [len(self.broker.consumers) for _ in queues]

    async def consume(self, queue, handler, *, prefetch, exclusive):
        assert exclusive
        self.broker.consumers.append(self)

    def end(self):
        if self.endpoint not in self.broker.down:
            self.broker.consumers = [one for one in self.broker.consumers if one is not self]


async def handler(_):
    raise AssertionError("nothing comes")


@pytest.fixture
def broker():
    return Broker()


@pytest.fixture
def mailbox(broker):
    return lambda: NoticeQueue("airports", "ewr", handler, enrolled=True, is_reachable=broker.is_reachable)


async def taken(one, broker, node=0):
    """Return the connection that holds the lock, or None if another silo holds it."""
    line = Connection(broker, node)
    try:
        await one.consume(line)
    except Locked:
        line.end()  # as a connection does
        return None
    return line


async def test_lock_has_one_holder(broker, mailbox):
    first, second = mailbox(), mailbox()
    line = await taken(first, broker)
    for _ in range(3):
        assert await taken(second, broker) is None
    line.end()
    assert await taken(second, broker)
    assert await taken(first, broker) is None


async def test_concurrent_requests_have_at_most_one_holder(broker, mailbox):
    first, second = mailbox(), mailbox()
    met = asyncio.Barrier(2)

    class Meeting(Connection):
        async def consume(self, *args, **options):
            await met.wait()
            await super().consume(*args, **options)
            await met.wait()

    async def take(one):
        line = Meeting(broker)
        try:
            await one.consume(line)
        except Locked:
            line.end()
            return False
        return True

    assert sum(await asyncio.gather(take(first), take(second))) == len(broker.consumers) <= 1
    for one in (first, second, first):
        await taken(one, broker)
        assert len(broker.consumers) == 1


async def test_holder_regains_the_lock_despite_its_lost_connection(broker, mailbox):
    one, stranger = mailbox(), mailbox()
    line = await taken(one, broker, 0)
    broker.lose(0)
    line.end()
    line = await taken(one, broker, 1)
    assert line
    assert await taken(stranger, broker, 1) is None
    broker.lose(1)
    line.end()
    assert await taken(stranger, broker, 2) is None
    assert await taken(one, broker, 2)
    for node in (0, 1):
        broker.mend(node)
    assert len(broker.consumers) == 1
    assert await taken(stranger, broker, 2) is None


async def test_former_holder_does_not_take_the_lock_from_its_successor(broker, mailbox):
    one, stranger = mailbox(), mailbox()
    line = await taken(one, broker, 0)
    broker.lose(0)
    line.end()
    broker.mend(0)
    assert await taken(stranger, broker, 1)
    assert await taken(one, broker, 1) is None
    assert await taken(one, broker, 0) is None
