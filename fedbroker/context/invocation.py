"""One invocation of one plan: its stages in turn, at the silos and at the server, up to the result."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from fedbroker import tracing
from fedbroker.context.masking import PlanMasking
from fedbroker.context.orders import InvocationOrders
from fedbroker.context.progress import Watch
from fedbroker.context.selection import Requirements, requirements_of
from fedbroker.context.server_stages import ServerSide
from fedbroker.context.settings import Settings
from fedbroker.context.values.arguments import Argument, ClientValues, SharedValue, client_count, read_arguments
from fedbroker.context.values.binding import Binding, bind_type, check_source, combined_error
from fedbroker.context.values.codec import assemble, serialize
from fedbroker.context.values.data import SiloData
from fedbroker.context.values.masking import read_totals
from fedbroker.context.values.ops import BoundData, StageOps, output_count, parts_of
from fedbroker.context.values.sequences import SequenceReader, has_sequences, read_sequences
from fedbroker.context.values.validation import check_reply
from fedbroker.deadline import Deadline
from fedbroker.errors import DataError, DeadlineExceeded, UsageError
from fedbroker.log import get_logger
from fedbroker.plan.model import ClientStage, Plan, ServerStage, Slot, identity_of
from fedbroker.runtime import Executor
from fedbroker.session.events import Origin
from fedbroker.session.journal import SessionJournal
from fedbroker.session.masking import mask_members
from fedbroker.session.merge_scheduler import MergeScheduler
from fedbroker.session.ports import LateJoiner, StageWork
from fedbroker.session.roster import Member
from fedbroker.session.stage_state import Policy
from fedbroker.text import seconds_text
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.codec import Buffer
from fedbroker.wire.messages import SHUFFLE

__all__ = ["Attempt", "Host", "SessionLike", "invoke", "silo_columns"]

_log = get_logger(__name__)


class SessionLike(Protocol):
    """The interface of a session for an invocation, implemented by :class:`fedbroker.session.session.Session`."""

    @property
    def session_id(self) -> str:
        """The session's id."""
        ...

    @property
    def membership(self) -> Sequence[Member]:
        """The membership at its start."""
        ...

    @property
    def policy(self) -> Policy:
        """The treatment of stragglers and the order of merging."""
        ...

    @property
    def journal(self) -> SessionJournal | None:
        """The record to resume from after being killed; None without a journal."""
        ...

    async def run_stage(self, work: StageWork) -> Sequence[str]:
        """Run one client stage, and return the participants, in membership order."""
        ...

    async def close(self, error: BaseException | None = None) -> None:
        """End the session; after an error, tell the silos that it is over."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of an invocation.

    Attributes:
        deadline: deadline of the whole invocation.
        join: deadline for reaching a broker that does not listen yet, the same for all attempts.
        watch: display of the invocation; None without one.
        orders: orders of the rows that silos shuffle, the same for all attempts.
        origin: the computation, and the program's run and round.
    """

    deadline: Deadline
    join: Deadline
    watch: Watch | None
    orders: InvocationOrders
    origin: Origin = field(default_factory=Origin)


class Host(Protocol):
    """The interface of a coordinator for an invocation; :class:`fedbroker.context.coordinator.Coordinator` has it."""

    settings: Settings

    async def executor(self, clients: int) -> Executor:
        """Return an executor of the coordinator's runtime with that many clients."""
        ...

    async def gather(self, requirements: Requirements, attempt: Attempt) -> Sequence[Member]:
        """Wait for the silos that the requirements name, and return a membership."""
        ...

    async def start_session(
        self, members: Sequence[Member], clients: Mapping[str, int], fingerprint: str, attempt: Attempt
    ) -> SessionLike:
        """Start a session with a membership and the number of clients of each member."""
        ...

    async def resume_session(self, fingerprint: str, attempt: Attempt) -> SessionLike | None:
        """Return the session with that fingerprint in which an earlier process was killed; None if none was."""
        ...


async def invoke(plan: Plan, argument: object, host: Host, attempt: Attempt) -> object:
    """Run a plan.

    Args:
        plan: plan of the computation.
        argument: as TFF passes it to an execution context.
        host: the coordinator; a plan without client stages uses its runtime only.
        attempt: the attempt that this is.

    Returns:
        The result in the Python containers that the computation's type names.

    Raises:
        FedbrokerError: see :mod:`fedbroker.errors`; a ``UsageError`` if an argument is not of its type.
    """
    options = host.settings.options
    arguments = await asyncio.to_thread(read_arguments, plan, argument)
    fingerprint, session = "", None
    if plan.client_stages and options.journal is not None:
        fingerprint = await asyncio.to_thread(_fingerprint, plan, arguments)
        session = await host.resume_session(fingerprint, attempt)
    members: Sequence[Member] = ()
    if session is not None:
        members = session.membership
        if session.journal is not None:
            attempt.orders.restore(session.journal.orders)
    elif plan.client_stages:
        members = await host.gather(requirements_of(arguments.values()), attempt)
    if any(stage.masked for stage in plan.client_stages):  # before any silo computes
        keys = host.settings.trusted
        mask_members(members, host.settings.cohort, {} if keys is None else keys.others)
    at_silos = any(isinstance(argument, SiloData) for argument in arguments.values())
    bound = await asyncio.to_thread(_bind, plan, arguments, members, attempt.orders) if at_silos else {}
    client_ranges = _client_ranges(arguments, bound, members, options.default_num_clients)
    shared = {name: argument.value for name, argument in arguments.items() if isinstance(argument, SharedValue)}
    server = ServerSide(host.executor, shared)
    run = _Run(plan, host, attempt, server, StageOps(client_ranges, arguments, bound))
    try:
        if not plan.client_stages:
            await run.stages(None)
        else:
            if session is None:
                clients = {silo: len(clients) for silo, clients in client_ranges.items()}
                session = await host.start_session(members, clients, fingerprint, attempt)
            await _run_session(run, session, attempt.orders)
        values = await run.result()
    except BaseException:
        await asyncio.shield(server.close())
        raise
    result, _ = await asyncio.gather(asyncio.to_thread(assemble, plan, values), asyncio.shield(server.close()))
    return result


async def _run_session(run: _Run, session: SessionLike, orders: InvocationOrders) -> None:
    if run.plan.exposed:
        _log.warning("secure_sums_in_plaintext", session=session.session_id, intrinsics=run.plan.exposed)
    try:
        if session.journal is not None and orders.recorded:
            await session.journal.record_orders(orders.recorded)
        await run.stages(session)
    except BaseException as error:
        await asyncio.shield(session.close(error))
        raise
    await session.close()


class _Run:
    """The stages of one invocation, in turn."""

    def __init__(self, plan: Plan, host: Host, attempt: Attempt, server: ServerSide, ops: StageOps) -> None:
        self.plan = plan
        self.host = host
        self.deadline = attempt.deadline
        self.server = server
        self.ops = ops
        self.masking = PlanMasking(plan)
        self.returned: defaultdict[str, dict[str, Buffer]] = defaultdict(dict)  # slot, silo
        self.participants: Sequence[str] = ()

    async def stages(self, session: SessionLike | None) -> None:
        for index, stage in enumerate(self.plan.stages):
            if isinstance(stage, ServerStage):
                await self._at_server(stage)
            elif session is not None:
                await self._at_clients(stage, session, self.plan.stages[index + 1 :])

    async def result(self) -> dict[str, Sequence[Buffer]]:
        """Return the values of the result's slots: one or, for silos' values, one for each participant.

        Sequences in the server's values are read in its runtime now; silos' were read with their replies.
        """
        values: dict[str, Sequence[Buffer]] = {}
        sequences: list[Slot] = []
        for slot in self.plan.result_slots:
            if slot.name in self.returned:
                values[slot.name] = [self.returned[slot.name][silo] for silo in self.participants]
            else:
                values[slot.name] = [self.server.values[slot.name]]
                if has_sequences(slot.type):
                    sequences.append(slot)
        if sequences:
            values |= await self._read(sequences)
        return values

    async def _read(self, slots: Sequence[Slot]) -> dict[str, Sequence[Buffer]]:
        """Return the server's values of slots, with tensors in place of sequences."""
        seconds = min(self.host.settings.timeouts.stage, self.deadline.left())
        values: dict[str, Sequence[Buffer]] = {}
        try:
            async with asyncio.timeout(seconds):
                executor = await self.host.executor(0)
                try:
                    for slot in slots:
                        values[slot.name] = [await read_sequences(self.server.values[slot.name], slot.type, executor)]
                finally:
                    await asyncio.shield(executor.close())
        except TimeoutError:
            raise DeadlineExceeded(
                f"the sequences of the result were not read within {seconds_text(seconds)}",
                hint="raise Timeouts(stage=), or reduce the sequences before they are returned",
            ) from None
        return values

    async def _at_server(self, stage: ServerStage) -> None:
        seconds = min(self.host.settings.timeouts.stage, self.deadline.left())
        try:
            async with asyncio.timeout(seconds):
                with tracing.span("server stage", stage=stage.number):
                    await self.server.run(stage)
        except TimeoutError:
            raise DeadlineExceeded(
                f"server stage {stage.number} took more than {seconds_text(seconds)}",
                stage=stage.number,
                hint="raise Timeouts(stage=), or give the coordinator a faster machine",
            ) from None

    async def _at_clients(self, stage: ClientStage, session: SessionLike, later: Sequence[object]) -> None:
        later_stages = [stage for stage in later if isinstance(stage, ClientStage)]
        server_values = await self._sent(stage, session.journal)
        keep = [slot.name for later_stage in later_stages for slot in later_stage.inputs]
        ops = await asyncio.to_thread(self.ops.write, stage, server_values, keep, last=not later_stages)
        following = later[0] if later else None
        clients = sum(map(len, self.ops.client_ranges.values()))
        masking = await self.masking.stage(stage, following, ops, self.ops.blobs, clients, server_values)
        merges = MergeScheduler(session.policy.merge_order)
        reads = any(has_sequences(slot.type) for slot in stage.returned)
        reader = SequenceReader(stage, self.host.executor) if reads else None
        if stage.partials:
            assert isinstance(following, ServerStage), "a stage whose partials are merged follows"
            self.server.begin(following, merges, len(ops))
        work = StageWork(
            stage=stage.number,
            last=not later_stages,
            ops=ops,
            blobs=self.ops.blobs,
            merges=merges,
            accept=partial(self._accept, stage, reader),
            enlist=self._enlist if stage is self.plan.client_stages[0] and masking is None else None,
            check=partial(check_reply, stage),
            outputs=output_count(stage),
            read=None if reader is None else reader.read,
            computation=self.plan.name,
            masking=masking,
        )
        self.participants = await session.run_stage(work)
        if masking is not None and isinstance(following, ServerStage):
            total = masking.total
            self.server.values |= await asyncio.to_thread(read_totals, following.sums, total.shapes, total.elements)

    def _accept(
        self, stage: ClientStage, reader: SequenceReader | None, silo: str, outputs: Sequence[Buffer]
    ) -> Sequence[Buffer]:
        """Keep the values that a silo returns, and return its partials."""
        parts, count = parts_of(stage, outputs), len(stage.partials)
        for slot, output in zip(stage.returned, parts[count:], strict=True):
            self.returned[slot.name][silo] = output if reader is None else reader.take(slot, silo, output)
        return parts[:count]

    async def _sent(self, stage: ClientStage, journal: SessionJournal | None) -> Mapping[str, Buffer]:
        """Return the server's values that the stage needs: those sent before, if we were killed in this stage."""
        recorded = journal.sent(stage.number) if journal is not None else None
        if recorded is not None:
            return recorded
        server_values = {
            slot.name: self.server.values[slot.name] for slot in stage.inputs if slot.name in self.server.values
        }
        if journal is not None:
            await journal.record_sent(stage.number, server_values)
        return server_values

    def _enlist(self, newcomer: Member, straggler: str) -> LateJoiner | None:
        """Return the work of a late joiner in a straggler's place; only for the first client stage.

        In later stages a silo may need values that it kept from an earlier one.
        """
        bound, clients = self.ops.bound, len(self.ops.client_ranges[straggler])
        try:
            columns = {name: silo_columns(data.binding, data.handle, newcomer) for name, data in bound.items()}
            own_clients = _clients_in_data(bound, [newcomer])[newcomer.name] if bound else clients
        except (DataError, UsageError):
            return None
        if own_clients != clients and client_count(self.ops.arguments) is not None:
            return None
        ops = self.ops.enlist(newcomer.name, straggler, own_clients, columns)
        if not self.masking.is_work_of_stage(ops, self.ops.blobs):
            return None
        return LateJoiner(ops, own_clients)


def _fingerprint(plan: Plan, arguments: Mapping[str, Argument]) -> str:
    """Return an id of this computation with this argument, which is the same in another process."""
    parts: list[Buffer] = [identity_of(plan).encode()]
    for slot in plan.parameters:
        match arguments[slot.name]:
            case SharedValue(value):
                parts.append(value)
            case ClientValues(values):
                parts.append(serialize(list(values), slot.type))
            case handle:
                parts.append(repr(handle).encode())
    return digest_of("".join(digest_of(part) for part in parts).encode())


def _bind(
    plan: Plan, arguments: Mapping[str, Argument], members: Sequence[Member], orders: InvocationOrders
) -> dict[str, BoundData]:
    """Bind every data handle, and check it for every member before any work is sent.

    Raises:
        DataError: sources do not fit; names each silo and column.
    """
    bound: dict[str, BoundData] = {}
    errors: list[DataError] = []
    for slot in plan.parameters:
        handle = arguments[slot.name]
        if isinstance(handle, SiloData):
            binding = bind_type(handle, slot.type.member)
            columns: dict[str, tuple[tuple[str, str], ...]] = {}
            for member in members:
                try:
                    columns[member.name] = silo_columns(binding, handle, member)
                except DataError as error:
                    errors += [error, *error.others]
            bound[slot.name] = BoundData(handle, binding, columns, orders.of(handle))
    if errors:
        raise combined_error(errors)
    return bound


def silo_columns(binding: Binding, handle: SiloData, member: Member) -> tuple[tuple[str, str], ...]:
    """Return name and dtype of the columns that a member is to read.

    Raises:
        DataError: its source does not fit, or it cannot shuffle rows.
    """
    columns = check_source(binding, handle, member.name, member.sources)
    if handle.shuffle and SHUFFLE not in member.capabilities:
        version = f" (version {member.version})" if member.version else ""
        raise DataError(
            member.name,
            handle.name,
            expected="a silo that can shuffle rows",
            found=f"one of an earlier version{version}",
            hint="update the silo, or leave out shuffle",
        )
    return columns


def _client_ranges(
    arguments: Mapping[str, Argument], bound: Mapping[str, BoundData], members: Sequence[Member], default: int | None
) -> dict[str, range]:
    """Return the clients of each silo: those of its data, or its share of the lists or of the default number."""
    names = [member.name for member in members]
    count = client_count(arguments)
    if not bound:
        count = default if count is None else count
        return split_clients(len(names) if count is None else count, names) if names else {}
    sizes = _clients_in_data(bound, members)
    if count is not None and count != sum(sizes.values()):
        raise UsageError(
            f"a list of {count} client values was given together with data of {sum(sizes.values())} clients",
            hint="give one value for each client of the data",
        )
    client_ranges: dict[str, range] = {}
    start = 0
    for name in names:
        client_ranges[name] = range(start, start + sizes[name])
        start += sizes[name]
    return client_ranges


def split_clients(count: int, silos: Sequence[str]) -> dict[str, range]:
    """Split ``count`` clients over silos in consecutive blocks of nearly equal size, the longer ones first."""
    quotient, remainder = divmod(count, len(silos))
    ranges: dict[str, range] = {}
    start = 0
    for index, silo in enumerate(silos):
        stop = start + quotient + (index < remainder)
        ranges[silo] = range(start, stop)
        start = stop
    return ranges


def _clients_in_data(bound: Mapping[str, BoundData], members: Sequence[Member]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for member in members:
        counts = {data.handle.name: member.sources[data.handle.name].clients for data in bound.values()}
        if len(set(counts.values())) > 1:
            raise UsageError(f"at silo {member.name!r} the sources stand for different numbers of clients: {counts}")
        sizes[member.name] = next(iter(counts.values()))
    return sizes
