"""A session's transport whose silos mask: each has the silo's real half of masked sums, and no runtime.

A boundary of our own, so that a session can be driven through many orders of arrival and losses.
"""

from __future__ import annotations

import asyncio
import contextlib

import numpy as np

from fedbroker.errors import MaskingError, Missing
from fedbroker.masking.request import decode_request
from fedbroker.masking.results import write_masked
from fedbroker.masking.steps import Refusal, Sharing, Signatures, SurvivorNames, decode_step, encode_step
from fedbroker.session.masking import StageMasking
from fedbroker.session.ports import StageWork
from fedbroker.session.report import Recorder, SessionReport
from fedbroker.session.roster import BlobCacheIndex, Member
from fedbroker.session.session import Session
from fedbroker.session.stage_state import Policy
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Compute, Done, Failed, MaskReply
from tests.support.masking import COHORT, RINGS, Silos, elements, plain
from tests.support.recorded_outputs import RecordedOutputs

SESSION = "s"
INCARNATION = "i1"
FAIL = Policy()


class MaskedLane:
    """The transport of a session with ``count`` silos that mask.

    Args:
        count: number of silos.
        delays: for each silo, how often the event loop turns before it replies.
        size: number of elements of each tensor, for each silo if it differs.
        clear: outputs in the clear that each silo sends before its masked values.
    """

    coordinator_id = "coordinator"

    def __init__(self, count, *, delays=None, sizes=None, clear=()):
        self.silos = Silos(count)
        self.delays = delays or {}
        self.sizes = sizes or {}
        self.clear = clear
        self.items = {}
        self.inline = {}
        self.stored = {}
        self.ended = []
        self.broadcast = []
        self.lost = {}  # silo -> the step before which it is lost: offer, reply, signature, shares
        self.sums = {}
        self.noticed = {name: asyncio.Queue() for name in self.names}
        self.notices = []
        self.handler = None
        self.changed = {}  # silo and step -> bytes in place of its message
        self.refusals = {}  # silo and step of a notice -> why it refuses it
        self.answering = []
        self.replies = {}  # by silo and stage: silos remember them
        self.slow_notices = 0  # how often the event loop turns until the broker has confirmed a notice
        self.dropped_notices = 0  # this many first notices are lost on the way

    @property
    def names(self):
        return self.silos.names

    @property
    def members(self):
        """The silos as they announced themselves."""
        return tuple(
            Member(name, INCARNATION, mask_key=one.mask_key.hex(), mask_signature=one.signature.hex())
            for name, one in ((name, self.silos.masking[name].member) for name in self.names)
        )

    async def run(self, work, **options):
        """Run a stage, and return the participants."""
        try:
            return await self.session(**options).run_stage(work)
        finally:
            await self.close()

    def session(self, *, policy=FAIL, stage_timeout=20.0, **options):
        clients = dict.fromkeys(self.names, 1)
        recorder = Recorder(SessionReport(session=SESSION, cohort=COHORT, members=self.names))
        options = {"silo_keys": self.silos.roster, "policy": policy, "recorder": recorder} | options
        members = options.pop("members", self.members)
        return Session(SESSION, self, BlobCacheIndex(), members, clients, stage_timeout, **options)

    def work(self, stage=0, work=bytes(32), **options):
        outputs = (RINGS[:2], RINGS[2:], *(None for _ in self.clear))
        masking = StageMasking(outputs, work)
        ops = {name: (*(Compute(at) for at in range(len(outputs))),) for name in self.names}
        options = {"outputs": len(self.clear), "merges": RecordedOutputs()} | options
        return StageWork(stage, True, ops, {}, masking=masking, **options)

    # --- the transport ---

    @property
    def results(self):
        return self

    def __contains__(self, digest):
        return digest in self.stored

    async def get(self, digest, deadline, patience):
        if digest not in self.stored:
            raise Missing(digest, "lost")
        return self.stored[digest]

    def pinned(self, digests):
        return contextlib.nullcontext()

    def spent(self, digest):
        self.stored.pop(digest, None)

    async def fetch(self, silo, session_id, stage, incarnation):
        pass

    async def trouble(self):
        return None

    async def send_blob(self, digest, data, *, silo, deadline, session_id=""):
        self.broadcast.append((digest, silo))

    async def end_session(self, silo, session_id, incarnation):
        self.ended.append(silo)

    @contextlib.contextmanager
    def mask_replies(self, session_id, stage, handler):
        self.handler = handler
        yield
        self.handler = None

    async def send_notice(self, silo, notice, attachments):
        assert notice.incarnation == INCARNATION
        self.notices.append((silo, notice.step))
        if self.dropped_notices:
            self.dropped_notices -= 1
        else:
            self.noticed[silo].put_nowait((notice, *attachments))
        for _ in range(self.slow_notices):
            await asyncio.sleep(0)

    async def close(self):
        tasks = [*self.answering, *self.replies.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def start_request(self, item, inline, deadline, *, unread=None):
        self.items[item.silo] = item
        self.inline[item.silo] = dict(inline)
        key = item.silo, item.stage
        if key not in self.replies:
            self.replies[key] = asyncio.create_task(self.reply(item))
        elif item.silo in self.sums and not self.replies[key].done():
            await self.step(item, "offer", self.sums[item.silo].offer)  # of a coordinator that was killed
        yield _Pending(self.replies[key])

    # --- a silo ---

    async def reply(self, item):
        """Return a silo's reply to a work item."""
        await self.pause(item.silo, "")
        try:
            request = decode_request(self.inline[item.silo][item.masking])
            outputs = await self.with_dropouts(item, request) if request.dropouts else self.masked(item, request)
        except MaskingError as error:
            return Failed(item.session_id, item.stage, item.silo, INCARNATION, "refused", error.what)
        return self.done(item, outputs)

    async def with_dropouts(self, item, request):
        """Return the outputs of a silo that first shares its masks with the others, and then answers notices."""
        members, where = request.checked_members(), request.occasion(item.session_id, item.stage)
        masking = self.silos.masking[item.silo]
        one = self.sums[item.silo] = masking.with_dropouts(members, where, self.silos.roster, request.contributors())
        await self.step(item, "offer", one.offer)
        offers = decode_step(await self.next_notice(item.silo, "sharing"), Sharing)
        await self.pause(item.silo, "reply")
        values = self.values(item.silo)
        one.add_masks(values, offers)
        self.answering.append(asyncio.create_task(self.answer(item, one)))
        return self.packed(values)

    async def answer(self, item, one):
        revealed = None
        while True:
            notice, content = await self.noticed[item.silo].get()
            if (item.silo, notice.step) in self.refusals:
                await self.step(item, "refused", Refusal(notice.step, self.refusals[item.silo, notice.step], "a hint"))
            elif notice.step == "survivors":
                await self.step(item, "signature", one.sign(decode_step(content, SurvivorNames)))
            elif notice.step == "unmask":
                revealed = revealed or one.reveal(decode_step(content, Signatures))
                await self.step(item, "shares", revealed)

    async def step(self, item, step, content):
        await self.pause(item.silo, step)
        reply = MaskReply(item.session_id, item.stage, item.silo, INCARNATION, step)
        if self.handler is not None:
            self.handler(reply, self.changed.get((item.silo, step), encode_step(content)))

    async def pause(self, silo, step):
        """Wait a while before a step; for ever if the silo is lost."""
        for _ in range(self.delays.get(silo, 0)):
            await asyncio.sleep(0)
        if self.lost.get(silo) == step:
            await asyncio.Event().wait()

    async def next_notice(self, silo, step):
        while True:
            notice, content = await self.noticed[silo].get()
            if notice.step == step:
                return content

    def values(self, silo):
        return elements(plain(silo, self.sizes.get(silo, 7)))

    def masked(self, item, request):
        members, where = request.checked_members(), request.occasion(item.session_id, item.stage)
        values = self.values(item.silo)
        self.silos.mask(item.silo, values, members, where, request.contributors())
        return self.packed(values)

    def packed(self, values):
        return [*self.clear, write_masked([(found.size,) for _, found in values], values)]

    def done(self, item, outputs):
        digests = [digest_of(output) for output in outputs]
        self.stored |= dict(zip(digests, outputs, strict=True))
        sizes = tuple((digest, len(output)) for digest, output in zip(digests, outputs, strict=True))
        return Done(item.session_id, item.stage, item.silo, INCARNATION, sizes, 0.0)


class _Pending:
    def __init__(self, reply):
        self.task, self.replied = reply, False

    async def next_response(self):
        if self.replied:
            await asyncio.Event().wait()
        self.replied = True
        return await asyncio.shield(self.task)


def totals(work):
    """Return the sum of a stage as lists of integers."""
    dtypes = ("int32", "int32", "int64", "uint64")
    found = zip(work.masking.total.elements, dtypes, strict=True)
    return [ring.values(one, np.dtype(dtype)).tolist() for (ring, one), dtype in found]
