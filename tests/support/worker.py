"""A silo in this process, a coordinator that sends it hand-made work items, and their programs."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from fedbroker_worker.config import Settings, load
from fedbroker_worker.service import SiloService

from fedbroker.deadline import Deadline
from fedbroker.runtime.protos import computation_pb2, executor_pb2
from fedbroker.transport import Dead
from fedbroker.wire import Buffer, digest_of
from fedbroker.wire.messages import Call, Compute, Data, Done, Failed, Need, Op, Value, WorkItem
from tests.support.transports import RecordingCoordinator, coordinator_transport, eventually

SILO = "ewr"
ALLOW_CLIENT_RESULTS = {"client_results": "allow"}
"""The policy of silos in tests that read clients' values."""

ROWS = "select i::float as x, (i % 3)::int as k from range(100) t(i)"


def write_settings(
    directory: Path,
    url: str,
    cohort: str,
    sources: Mapping[str, Mapping[str, object]] | None = None,
    policy: Mapping[str, object] = ALLOW_CLIENT_RESULTS,
    **silo: object,
) -> Path:
    """Write a silo.toml with these sources, or one called ``rows`` by default; return its path."""
    tables: dict[str, Mapping[str, object]] = {
        "silo": {"name": SILO, "cohort": cohort, "broker": url, "heartbeat": 0.5} | silo,
        "policy": policy,
    }
    for name, options in (sources if sources is not None else {"rows": {"query": ROWS}}).items():
        tables[f"data.{name}"] = {"source": "duckdb"} | options
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )
    path = directory / "silo.toml"
    path.write_text(text)
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def load_settings(*args: object, **kwargs: object) -> Settings:
    """Load such settings."""
    return load(write_settings(*args, **kwargs), {})  # type: ignore[arg-type]


class WorkClient:
    """Sends work items to one silo, as a coordinator does, without any state."""

    def __init__(self, coordinator: RecordingCoordinator, silo: str = SILO) -> None:
        self.coordinator = coordinator
        self.silo = silo

    @property
    def transport(self):
        """Return the coordinator's transport."""
        return self.coordinator.transport

    def item(
        self,
        program: Sequence[Op],
        *,
        session: str | None = None,
        stage: int = 0,
        clients: int = 1,
        fresh: Mapping[str, int] | None = None,
        seconds: float = 30.0,
        lease: float = 60.0,
        last: bool = True,
    ) -> WorkItem:
        """Return a work item."""
        session = session or secrets.token_hex(4)
        return WorkItem(
            session,
            stage,
            self.silo,
            self.transport.coordinator_id,
            clients,
            tuple(program),
            dict(fresh or {}),
            seconds,
            lease,
            last,
        )

    async def send(self, item: WorkItem, blobs: Sequence[Buffer] = ()) -> Done | Failed | Need | Dead:
        """Send an item with the blobs in the same message; return the reply."""
        inline = {digest_of(blob): blob for blob in blobs}
        return await self.transport.request(item, inline, Deadline.after(max(item.timeout, 10)))

    async def outputs(self, item: WorkItem, blobs: Sequence[Buffer] = ()) -> list[bytes]:
        """Return the outputs of an item that must succeed."""
        reply = await self.send(item, blobs)
        assert isinstance(reply, Done), reply
        deadline = Deadline.after(30)
        return [bytes(await self.transport.results.get(digest, deadline)) for digest, _ in reply.outputs]

    async def refused(self, item: WorkItem, blobs: Sequence[Buffer] = ()) -> tuple[str, str]:
        """Return kind and line of an item that must fail; the silo must serve the next one."""
        reply = await self.send(item, blobs)
        assert isinstance(reply, Failed), reply
        assert "\n" not in reply.cause
        await self.check()
        return reply.error_type, f"{reply.cause}; {reply.hint}"

    async def check(self) -> None:
        """Run an item that must succeed."""
        assert len(await self.outputs(self.item(echo_ops()))) == 1


def echo_ops(name: str = "rows", columns: Sequence[tuple[str, str]] = (("x", "float32"),)) -> list[Op]:
    """Return ops that send a source's columns back, which a real work item should not do."""
    return [Data(1, name, tuple(columns)), Compute(1)]


def call_ops(function: bytes, name: str = "rows", columns: Sequence[tuple[str, str]] = (("x", "float32"),)) -> list[Op]:
    """Return ops that call a function with a source's columns."""
    return [Data(1, name, tuple(columns)), Value(2, digest_of(function)), Call(3, 2, 1), Compute(3)]


def identity_computation() -> bytes:
    """Return a computation that returns its argument, as a serialized value made without TensorFlow."""
    function = computation_pb2.Computation()
    getattr(function, "lambda").parameter_name = "x"
    getattr(function, "lambda").result.reference.name = "x"
    return bytes(executor_pb2.Value(computation=function).SerializeToString())


@asynccontextmanager
async def running_silo(own: Settings, **options: object) -> AsyncIterator[tuple[SiloService, WorkClient]]:
    """Run a silo in this process, and a coordinator that has heard of it."""
    async with SiloService(own, **options) as service, work_client(own) as client:  # type: ignore[arg-type]
        yield service, client


@asynccontextmanager
async def work_client(own: Settings, url: str | None = None) -> AsyncIterator[WorkClient]:
    """Open a coordinator that has heard of a silo."""
    async with coordinator_transport(url or own.silo.broker, own.silo.cohort) as coordinator:
        await eventually(
            lambda: own.silo.name in coordinator.silos, 60
        )  # the silo may be a process that is still starting
        yield WorkClient(coordinator, own.silo.name)


def child_runtimes(of: int) -> list[psutil.Process]:
    """Return the C++ runtimes that descend from a process."""
    found = []
    for child in psutil.Process(of).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.name() == "worker_binary" and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def new_runtimes() -> Callable[[], list[psutil.Process]]:
    """Return a function that lists this process's C++ runtimes started from now on; other tests may have their own."""
    before = {runtime.pid for runtime in child_runtimes(os.getpid())}
    return lambda: [runtime for runtime in child_runtimes(os.getpid()) if runtime.pid not in before]
