"""The work consumer's handling of deliveries and its reports of forgeries, without a broker."""

from __future__ import annotations

import asyncio
import gc

from fedbroker.transport.amqp.message import Delivery
from fedbroker.transport.blobs.store import BlobStore
from fedbroker.transport.signed_messages import SiloEnvelopes
from fedbroker.transport.silo.work_consumer import ForgeryReports, WorkConsumer
from fedbroker.wire.codec import encode
from fedbroker.wire.limits import DEFAULT_LIMITS
from fedbroker.wire.messages import MAX_FORGERY_REPORTS
from tests.support.transports import eventually, work_item


class Channel:
    """Records the acknowledged deliveries."""

    def __init__(self):
        self.acked = []

    async def basic_ack(self, tag):
        self.acked.append(tag)


async def test_message_delivered_twice_in_one_read_is_handled_once():
    channel, handled, release, failed = Channel(), [], asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))

    async def on_work(item, signed):
        handled.append(item)
        await release.wait()

    async def ready(deadline):
        return None

    inbox = WorkConsumer(
        None,
        "ewr",
        on_work,
        ready,
        BlobStore(1 << 20),
        DEFAULT_LIMITS,
        SiloEnvelopes("airports", "ewr", None),
        max_items=4,
        renew_seconds=60.0,
    )
    body = encode(work_item("ewr", "k1"))
    for tag in (1, 2):  # no handler runs between the two
        await inbox.take(Delivery(body, "airports.ewr.0", "", "m1", {}, tag > 1, tag, channel))
    await eventually(lambda: bool(handled))
    release.set()
    await eventually(lambda: sorted(channel.acked) == [1, 2])
    await inbox.close()
    gc.collect()
    assert len(handled) == 1
    assert failed == []


def test_each_coordinator_receives_a_report_once():
    reports = ForgeryReports()
    reports.add("work", "one")
    assert reports.take("a") == ("work: one",)
    assert reports.take("a") == ()
    reports.add("work", "two")
    assert reports.take("b") == ("work: one", "work: two")
    assert reports.take("a") == ("work: two",)


def test_most_recent_reports_are_kept():
    reports = ForgeryReports()
    for number in range(3 * MAX_FORGERY_REPORTS):
        reports.add("work", str(number))
    assert reports.take() == tuple(
        f"work: {number}" for number in range(2 * MAX_FORGERY_REPORTS, 3 * MAX_FORGERY_REPORTS)
    )
    assert reports.take() == ()
