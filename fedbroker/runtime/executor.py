"""Executors of the C++ runtime: values in them, and the computations that stay for their next user."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedbroker.errors import RuntimeFailure, RuntimeUnavailable
from fedbroker.runtime.cache_keys import with_content_keys
from fedbroker.runtime.protos import Proto, executor_pb2
from fedbroker.runtime.service import Service
from fedbroker.runtime.values import Buffer, framed, number_of, struct, unframe

__all__ = ["CACHE_BYTES", "Executor", "FunctionCache", "Ref", "SharedExecutor"]

CACHE_BYTES: Final = 64 << 20
"""Maximal size in bytes of the unused computations that an executor keeps: several models' training graphs."""

_VALUE_IN: Final = number_of(executor_pb2.CreateValueRequest, "value")
_VALUE_OUT: Final = number_of(executor_pb2.ComputeResponse, "value")
# Disposing takes milliseconds. A runtime that has stopped must not delay the end of a session.
_DISPOSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Ref:
    """Reference to a value inside an executor."""

    id: str


@dataclass(slots=True)
class _Function:
    id: str
    size: int
    users: int = 0


class FunctionCache:
    """The functions in one executor: their ids in the runtime, and their numbers of users.

    Args:
        max_bytes: functions without users are disposed of, longest unused first, as long as all take more bytes.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._cached: OrderedDict[str, _Function] = OrderedDict()  # least recently used first
        self._bytes = 0

    def use(self, name: str) -> str | None:
        """Return the id of a cached function, which stays as long as it is used; None if it is not cached."""
        function = self._cached.get(name)
        if function is None:
            return None
        function.users += 1
        self._cached.move_to_end(name)
        return function.id

    def add(self, name: str, identity: str, size: int) -> bool:
        """Add a function with its maker as first user. Return False if another user's is cached already."""
        if name in self._cached:
            return False
        self._cached[name] = _Function(identity, size, 1)
        self._bytes += size
        return True

    def release(self, names: Iterable[str]) -> list[str]:
        """Release one user's functions.

        Returns:
            The ids of the functions to dispose of for lack of room, longest unused first.
        """
        for name in names:
            self._cached[name].users -= 1
        evicted: list[str] = []
        unused = deque(name for name, function in self._cached.items() if function.users == 0)
        while self._bytes > self._max_bytes and unused:
            function = self._cached.pop(unused.popleft())
            self._bytes -= function.size
            evicted.append(function.id)
        return evicted


@dataclass(eq=False)
class SharedExecutor:
    """An executor inside the runtime, shared by any number of :class:`Executor`.

    Attributes:
        service: connection to the runtime.
        identity: the executor's id, as a protobuf message.
        users: how many share it now.
        stale: no longer to be shared: it is gone, the runtime does not respond, or it holds values with unknown ids.
        functions: the computations that stay in it.
    """

    service: Service
    identity: Proto
    users: int = 0
    stale: bool = False
    functions: FunctionCache = field(default_factory=FunctionCache)

    @classmethod
    async def create(cls, service: Service, clients: int) -> SharedExecutor:
        """Create an executor whose CLIENTS placement has ``clients`` members.

        Raises:
            RuntimeUnavailable: the runtime is gone.
        """
        request = executor_pb2.GetExecutorRequest()
        cardinality = request.cardinalities.add()
        cardinality.placement.uri = "clients"
        cardinality.cardinality = clients
        response = await service.call("GetExecutor", request.SerializeToString())
        return cls(service, executor_pb2.GetExecutorResponse.FromString(response).executor)

    async def close(self) -> None:
        """Dispose of the executor. Bounded in time; errors of a runtime that is gone are ignored."""
        request = executor_pb2.DisposeExecutorRequest(executor=self.identity)
        with contextlib.suppress(RuntimeFailure, TimeoutError):
            async with asyncio.timeout(_DISPOSE_SECONDS):
                await self.service.call("DisposeExecutor", request.SerializeToString())


class Executor:
    """Values in an executor of the runtime, with a fixed number of clients; made by ``Runtime.executor``.

    A value is computed when its content is requested.

    Args:
        shared: the executor that holds the values.
        released: called once, on close.
    """

    def __init__(self, shared: SharedExecutor, released: Callable[[], None]) -> None:
        self._shared = shared
        self._identity = shared.identity
        self._prefix = executor_pb2.CreateValueRequest(executor=shared.identity).SerializeToString()
        self._released = released
        self._live: set[str] = set()
        self._functions: dict[str, Ref] = {}  # by name; shared with other users of the executor
        self._closed = False
        self._on_close: list[Callable[[], None]] = []
        self._calls: set[str] = set()  # calls that are not known to have ended
        self._parts_of: dict[str, Sequence[str]] = {}

    @property
    def unfinished(self) -> bool:
        """True if a call may still be running: no value computed since depends on it."""
        return bool(self._calls)

    def on_close(self, call: Callable[[], None]) -> None:
        """Register a function to call once this executor is closed."""
        self._on_close.append(call)

    async def value(self, *serialized: Buffer) -> Ref:
        """Create a value from the parts of a serialized ``executor.Value``, which are passed on unchanged."""
        request = b"".join((self._prefix, *framed(_VALUE_IN, serialized)))
        return self._ref(executor_pb2.CreateValueResponse, await self._send("CreateValue", request))

    async def function(self, name: str, serialized: Buffer) -> Ref:
        """Create a computation as a value, which stays in the runtime for its next user.

        Args:
            name: identifies the computation, for example its digest.
            serialized: an ``executor.Value``.
        """
        if name in self._functions:
            return self._functions[name]
        functions = self._shared.functions
        cached = functions.use(name)
        if cached is not None:
            ref = Ref(cached)
        else:
            ref = await self.value(*with_content_keys(serialized))
            if self._closed or not functions.add(name, ref.id, len(serialized)):
                return ref  # closed, or another user was faster: dispose of it with the other values
            self._live.discard(ref.id)
        self._functions[name] = ref
        return ref

    async def struct_of(self, elements: Sequence[tuple[str, Buffer]]) -> Ref:
        """Create a struct of serialized values in one request. An empty name means no name."""
        return await self.value(*struct((name, with_content_keys(value)) for name, value in elements))

    async def struct(self, elements: Sequence[tuple[str, Ref]]) -> Ref:
        """Create a struct of values. An empty name means no name."""
        request = executor_pb2.CreateStructRequest(executor=self._identity)
        for name, ref in elements:
            element = request.element.add(value_ref=_proto(ref))
            if name:
                element.name = name
        result = self._ref(executor_pb2.CreateStructResponse, await self._send("CreateStruct", request))
        self._parts_of[result.id] = [ref.id for _, ref in elements]
        return result

    async def select(self, source: Ref, index: int) -> Ref:
        """Select an element of a struct."""
        request = executor_pb2.CreateSelectionRequest(executor=self._identity, source_ref=_proto(source), index=index)
        result = self._ref(executor_pb2.CreateSelectionResponse, await self._send("CreateSelection", request))
        self._parts_of[result.id] = [source.id]
        return result

    async def call(self, function: Ref, argument: Ref | None) -> Ref:
        """Return the result of a call, which may still be running."""
        request = executor_pb2.CreateCallRequest(executor=self._identity, function_ref=_proto(function))
        if argument is not None:
            request.argument_ref.CopyFrom(_proto(argument))
        result = self._ref(executor_pb2.CreateCallResponse, await self._send("CreateCall", request))
        self._calls.add(result.id)
        self._parts_of[result.id] = [function.id] if argument is None else [function.id, argument.id]
        return result

    async def compute(self, ref: Ref) -> memoryview:
        """Return a value's content, a read-only serialized ``executor.Value``. Waits without a time limit.

        Raises:
            ComputationFailed: the computation failed; carries the runtime's message.
            RuntimeUnavailable: the runtime died.
        """
        request = executor_pb2.ComputeRequest(executor=self._identity, value_ref=_proto(ref))
        content = unframe(await self._send("Compute", request), _VALUE_OUT)
        self._mark_computed(ref)
        return content

    async def dispose(self, refs: Sequence[Ref]) -> None:
        """Dispose of values. Functions stay."""
        functions = {ref.id for ref in self._functions.values()}
        refs = [ref for ref in refs if ref.id not in functions]
        if not refs:
            return
        self._live.difference_update(ref.id for ref in refs)
        request = executor_pb2.DisposeRequest(executor=self._identity, value_ref=[_proto(ref) for ref in refs])
        await self._send("Dispose", request)

    async def close(self) -> None:
        """Dispose of every value made here. Bounded in time; errors of a runtime that is gone are ignored."""
        if self._closed:
            return
        unused = self._shared.functions.release(self._functions)
        self._functions.clear()
        remaining = [Ref(value_id) for value_id in (*self._live, *unused)]
        try:
            if remaining:
                async with asyncio.timeout(_DISPOSE_SECONDS):
                    await self.dispose(remaining)
        except TimeoutError:
            self._shared.stale = True
        except RuntimeFailure:
            pass
        finally:
            self._closed = True
            self._released()
            for call in self._on_close:
                call()

    async def _send(self, method: str, request: Proto | bytes) -> bytes:
        if self._closed:
            raise RuntimeUnavailable("the executor was closed")
        try:
            content = request if isinstance(request, bytes) else request.SerializeToString()
            return await self._shared.service.call(method, content)
        # a request without a response may have made values with unknown ids
        except (RuntimeUnavailable, asyncio.CancelledError):
            self._shared.stale = True
            raise

    def _mark_computed(self, ref: Ref) -> None:
        """Mark a value, and every value that it was made of, as computed."""
        pending = [ref.id]
        while pending:
            value_id = pending.pop()
            self._calls.discard(value_id)
            pending += self._parts_of.pop(value_id, ())

    def _ref(self, kind: Proto, response: bytes) -> Ref:
        ref = Ref(kind.FromString(response).value_ref.id)
        self._live.add(ref.id)
        return ref


def _proto(ref: Ref) -> Proto:
    return executor_pb2.ValueRef(id=ref.id)
