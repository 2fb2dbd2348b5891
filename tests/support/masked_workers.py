"""Silos of masked sums with the real C++ runtime and without a broker, and a coordinator that may lie to them."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import psutil
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker_worker.masking.exchanges import Exchanges
from fedbroker_worker.masking.keys import MaskKeys
from fedbroker_worker.masking.sums import SiloSums, digest_after
from fedbroker_worker.policy.audit import AuditLog, read_audit
from fedbroker_worker.policy.guard import Guard
from fedbroker_worker.policy.rules import PolicySettings
from fedbroker_worker.sources.catalog import Catalog
from fedbroker_worker.sources.seeds import SiloSeeds
from fedbroker_worker.work.sessions import Sessions
from fedbroker_worker.work.tasks import ReplyCache, WorkTasks
from fedbroker_worker.work.worker import Worker
from tensorflow_federated.python.core.backends.native import compiler

from fedbroker.masking.coordinator import CoordinatorSum
from fedbroker.masking.offers import Offer
from fedbroker.masking.pairwise import add
from fedbroker.masking.request import MaskingRequest, encode_request
from fedbroker.masking.results import read_masked
from fedbroker.masking.rings import Ring
from fedbroker.masking.roster import Roster
from fedbroker.masking.steps import Refusal, decode_step, encode_step
from fedbroker.masking.survivors import Revealed
from fedbroker.masking.work import NO_WORK
from fedbroker.runtime import Runtime
from fedbroker.runtime.protos import executor_pb2
from fedbroker.runtime.runtimes import Runtimes
from fedbroker.transport import BlobStore, Signed
from fedbroker.trust import Identity
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import (
    Call,
    Compute,
    Data,
    Done,
    EndSession,
    MaskNotice,
    MaskReply,
    Op,
    Select,
    Value,
    WorkItem,
)
from tests.support.wait import LOADED
from tests.support.worker import load_settings, new_runtimes

COHORT = "airports"
COORDINATOR = Identity(hashlib.sha256(b"coordinator").digest()).public.fingerprint
MEMBER = tff.StructType([tff.TensorType(np.int32, [None])])
RINGS = (Ring(4), Ring(8))
"""The rings of the two masked outputs of :func:`two_sums`."""


def serialized(computation) -> bytes:
    """Return a TFF computation as a blob."""
    compiled = compiler.desugar_and_transform_to_native(computation)
    proto = tff.framework.ConcreteComputation.get_proto(compiled)
    return bytes(executor_pb2.Value(computation=proto).SerializeToString(deterministic=True))


def two_sums(factor: int = 1) -> bytes:
    """Return a computation whose results are an int32[2] and an int64 that may be masked, and a float32."""

    @tff.tensorflow.computation(MEMBER)
    def local(struct):
        total = tf.reduce_sum(struct[0]) * factor
        return tf.stack([total, tf.size(struct[0])]), tf.cast(total, tf.int64), tf.cast(total, tf.float32)

    @tff.federated_computation(tff.FederatedType(MEMBER, tff.CLIENTS))
    def run(values):
        results = tff.federated_map(local, values)
        return tuple(tff.federated_sum(results[at]) for at in range(3))

    return serialized(run)


def ops_of(function: bytes, outputs: Sequence[int] = (0, 1), *, first: int = 0) -> tuple[Op, ...]:
    """Return operations that compute some results of a function over the silo's rows."""
    data, loaded, result, selected = range(first, first + 4)
    ops: list[Op] = [Data(data, "rows", (("k", "int32"),)), Value(loaded, digest_of(function))]
    ops.append(Call(result, loaded, data))
    for at, output in enumerate(outputs):
        ops += [Select(selected + at, result, output), Compute(selected + at)]
    return tuple(ops)


class FixedRoster:
    """A roster that a test may change."""

    path = Path("/etc/fedbroker/cohort.roster")

    def __init__(self, keys: Mapping[str, Identity]) -> None:
        self.roster = Roster(COHORT, 1, 4e9, {name: str(own.public) for name, own in keys.items()})

    def current(self) -> Roster:
        """See ``fedbroker_worker.roster.RosterFile``."""
        return self.roster


class Replies:
    """The place of a silo's transport: it keeps what the silo sends."""

    def __init__(self) -> None:
        self.blobs = BlobStore()
        self.steps: asyncio.Queue[tuple[object, bytes]] = asyncio.Queue()
        self.last: tuple[object, Mapping[str, bytes]] | None = None

    async def reply(self, _item, message, outputs, *_) -> None:
        """See ``SiloTransport.reply``."""
        self.last = message, outputs

    async def mask_reply(self, _item, message, content, *_) -> None:
        """See ``SiloTransport.mask_reply``."""
        self.steps.put_nowait((message, bytes(content)))


class MaskedSilo:
    """One silo: its keys, its worker and its audit log."""

    max_work = 16

    def __init__(self, name, identity, roster, directory, runtimes, policy, start=1) -> None:
        directory.mkdir()
        sources = {"rows": {"query": f"select (i + {start})::int as k from range(3) t(i)"}}
        settings = load_settings(directory, "amqp://localhost", COHORT, sources, policy={}, name=name)
        self.name, self.identity, self.roster, self.policy = name, identity, roster, policy
        self.incarnation = "i1"
        self.log = directory / "audit.log"
        self.transport = Replies()
        self.catalog = Catalog(settings.data, settings.directory, limits=settings.limits, min_rows=0)
        self.sessions = Sessions(runtimes, 16)
        self.start()

    def start(self) -> None:
        """Start the silo's process, as it were: again, it has another incarnation and other mask keys."""
        self.keys = MaskKeys(COHORT, self.name, self.incarnation, self.identity, self.policy.min_sum_silos)
        exchanges = Exchanges(self.incarnation, self.transport.mask_reply, AuditLog(self.log))
        self.sums = SiloSums(self.keys, self.roster, self.policy.min_sum_silos, exchanges)
        self.worker = Worker(
            self.name,
            self.incarnation,
            self.transport.blobs,
            self.catalog,
            SiloSeeds(self.name, None),
            self.sessions,
            Guard(self.policy),
            audit=AuditLog(self.log),
            sums=self.sums,
            max_work=self.max_work,
        )
        cache = ReplyCache(1 << 20)
        self.tasks = WorkTasks(
            self.name,
            self.incarnation,
            self.transport,
            self.worker,
            self.sessions,
            cache,
            exchanges=exchanges,
        )

    def restart(self) -> None:
        """Start another process of this silo."""
        self.incarnation = "i2"
        self.start()

    async def send(self, item: WorkItem, blobs: Sequence[bytes], by: str = COORDINATOR):
        """Send a work item; return the reply and its blobs."""
        for blob in blobs:
            self.transport.blobs.put(blob)
        self.transport.last = None
        await self.tasks.answer(item, Signed(by))
        assert self.transport.last is not None
        return self.transport.last

    def notice(self, step, content, *, session="s1", stage=0, by=COORDINATOR, incarnation=None) -> None:
        """Send a notice about a masked sum."""
        notice = MaskNotice(session, stage, incarnation or self.incarnation, step)
        self.sums.exchanges.on_notice(notice, content if isinstance(content, bytes) else encode_step(content), by)

    async def step(self, kind) -> object:
        """Return the content of the silo's next step, which must be of this kind."""
        async with asyncio.timeout(30 * LOADED):
            message, content = await self.transport.steps.get()
        assert isinstance(message, MaskReply)
        assert (message.step == "refused") == (kind is Refusal), content
        assert (message.silo, message.incarnation) == (self.name, self.incarnation)
        return decode_step(content, kind)

    async def answer(self, step, content, kind, **notice) -> object:
        """Send a notice; return the content of the answer."""
        self.notice(step, content, **notice)
        return await self.step(kind)

    def end(self, session: str, by: str = COORDINATOR) -> None:
        """End a session."""
        self.tasks.end_session(EndSession(session, self.incarnation), by)

    @property
    def lines(self) -> Sequence[Mapping[str, object]]:
        """The lines of the audit log."""
        found = read_audit(self.log.read_bytes().splitlines(keepends=True))
        assert found.problem is None
        return found.lines

    def refused_for(self) -> list[str]:
        """Return why steps and work items were refused, as the audit log says it."""
        if not self.log.exists():
            return []
        return [str(line["why"]) for line in self.lines if line["outcome"] in ("refused", "failed")]

    async def refuses(self, step, content, why: str) -> None:
        """Send a notice that must be refused: the coordinator is told why, and the audit log has a line of it."""
        refusal = await self.answer(step, content, Refusal)
        assert (refusal.step, why in refusal.reason) == (step, True), refusal
        assert self.refused_for()[-1] == refusal.reason
        assert self.transport.steps.empty()


class MaskedCohort:
    """Three or more silos and their coordinator."""

    def __init__(self, silos: Sequence[MaskedSilo], runtimes: Callable[[], Sequence[psutil.Process]]) -> None:
        self.silos = {silo.name: silo for silo in silos}
        self.runtimes = runtimes

    def __getitem__(self, name: str) -> MaskedSilo:
        """Return a silo."""
        return self.silos[name]

    def __iter__(self):
        """Iterate over the silos."""
        return iter(self.silos.values())

    def request(self, ops, blobs, *, earlier=NO_WORK, outputs=tuple((ring,) for ring in RINGS), **changed):
        """Return a request of all silos, each with one client."""
        members = tuple(silo.keys.member for silo in sorted(self, key=lambda silo: silo.name))
        work = digest_after(earlier, self.item("", ops), {digest_of(blob): blob for blob in blobs})
        return with_fields(MaskingRequest(members, (1,) * len(members), False, work, tuple(outputs)), changed)

    def item(self, silo, ops, request=None, *, session="s1", stage=0, clients=1, last=False, seconds=60.0) -> WorkItem:
        """Return a work item."""
        item = WorkItem(session, stage, silo, "c1", clients, tuple(ops), {}, seconds, 60.0, last)
        return item if request is None else with_fields(item, {"masking": digest_of(encode_request(request))})

    async def replies(self, ops, blobs, request, names=None, **item):
        """Send the same work to several silos; return their replies with their blobs."""
        names, blobs = names or list(self.silos), [*blobs, encode_request(request)]
        sent = [self[name].send(self.item(name, ops, request, **item), blobs) for name in names]
        return await asyncio.gather(*sent)


class DropoutRun:
    """The coordinator's side of one sum from which silos may drop out.

    Args:
        cohort: the silos.
        request: the request, with ``dropouts``.
    """

    def __init__(self, cohort: MaskedCohort, request: MaskingRequest, *, session="s1", stage=0) -> None:
        self.cohort, self.request = cohort, request
        keys = {silo.name: silo.identity.public for silo in cohort}
        occasion = request.occasion(session, stage)
        self.sum = CoordinatorSum(request.checked_members(), occasion, keys)
        self.work: dict[str, asyncio.Task[object]] = {}

    async def start(self, ops, blobs, names=None, **item) -> None:
        """Send the work, and take the silos' offers."""
        for name in names or list(self.cohort.silos):
            silo = self.cohort[name]
            item_ = self.cohort.item(name, ops, self.request, **item)
            self.work[name] = asyncio.create_task(silo.send(item_, [*blobs, encode_request(self.request)]))
        for name in names or list(self.cohort.silos):
            self.sum.add_offer(name, await self.cohort[name].step(Offer))

    async def share(self, dropped=(), **notice) -> None:
        """Let the silos share the stage, and take their values; those that drop out get no notice."""
        self.sharing = self.sum.fix_sharing()
        for name in self.work:
            if name not in dropped:
                self.cohort[name].notice("sharing", self.sharing[name], **notice)
        for name, work in self.work.items():
            if name not in dropped:
                message, outputs = await work
                assert isinstance(message, Done), message
                blob = outputs[message.outputs[-1][0]]
                self.sum.add_values(name, read_masked(blob, self.request.rings)[1])

    async def sign(self, **notice) -> None:
        """Take the signatures of the survivors."""
        self.survivors = self.sum.close()
        for name in self.survivors:
            self.sum.add_signature(name, await self.cohort[name].answer("survivors", self.survivors, bytes, **notice))

    async def unmask(self, **notice) -> list[list[int]]:
        """Return the sum."""
        for name in self.survivors:
            revealed = await self.cohort[name].answer("unmask", dict(self.sum.signatures), Revealed, **notice)
            self.sum.add_revealed(name, revealed)
        return listed(self.sum.result())


def with_fields(struct, changed):
    """Return a message with other values of some fields."""
    return msgspec.structs.replace(struct, **changed)


def sum_of(replies, request) -> list[list[int]]:
    """Return the sum over the silos' replies, as lists of integers."""
    total = None
    for message, outputs in replies:
        assert isinstance(message, Done), message
        _, values = read_masked(outputs[message.outputs[-1][0]], request.rings)
        if total is None:
            total = values
        else:
            add(total, values)
    return listed(total or [])


def listed(total) -> list[list[int]]:
    """Return a sum as lists of integers."""
    dtypes = {1: "int8", 2: "int16", 3: "int32", 4: "int32", 8: "int64"}
    return [ring.values(elements, np.dtype(dtypes[ring.width])).tolist() for ring, elements in total]


@asynccontextmanager
async def masked_cohort(
    directory: Path, count: int = 3, policy: PolicySettings | None = None, *, shared: bool = True
) -> AsyncIterator[MaskedCohort]:
    """Run silos ``s0``, ``s1``, …: silo number i has the rows i·100 + 1, 2 and 3.

    With ``shared``, they share one C++ runtime, which saves time.
    """
    policy = dataclasses.replace(policy or PolicySettings(), audit_file="audit.log")
    identities = {f"s{at}": Identity(hashlib.sha256(f"s{at}".encode()).digest()) for at in range(count)}
    roster = FixedRoster(identities)
    own = new_runtimes()
    async with AsyncExitStack() as stack:
        silos: list[MaskedSilo] = []
        for at, (name, identity) in enumerate(identities.items()):
            if at == 0 or not shared:
                runtimes = Runtimes(lambda: Runtime(isolation="none"))
                await runtimes.start()
                stack.push_async_callback(runtimes.close)
            silo = MaskedSilo(name, identity, roster, directory / name, runtimes, policy, 100 * at + 1)
            await silo.catalog.open()
            stack.push_async_callback(silo.catalog.close)
            stack.push_async_callback(silo.sessions.close)
            stack.push_async_callback(silo.tasks.close)
            silos.append(silo)
        yield MaskedCohort(silos, own)
