"""Asyncio client of the C++ runtime's gRPC service: executors and the values in them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from fedbroker.errors import ComputationFailed, RuntimeFailure, RuntimeUnavailable
from fedbroker.runtime.cache_keys import with_own_keys
from fedbroker.runtime.framing import Buffer, framed, unframe
from fedbroker.runtime.functions import Functions
from fedbroker.runtime.protos import Proto, executor_pb2
from fedbroker.runtime.stall import StallWatch
from fedbroker.runtime.values import struct
from fedbroker.text import printable

__all__ = ["Executor", "Kept", "Ref", "Service"]

_METHODS: Final = (
    "GetExecutor",
    "CreateValue",
    "CreateCall",
    "CreateStruct",
    "CreateSelection",
    "Compute",
    "Dispose",
    "DisposeExecutor",
)
_LONGEST_WORDS: Final = 4 << 20
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # The error message of a failed computation travels as metadata. gRPC would replace a longer one by its own error.
    ("grpc.max_metadata_size", _LONGEST_WORDS),
    ("grpc.absolute_max_metadata_size", _LONGEST_WORDS),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_VALUE_IN: Final = executor_pb2.CreateValueRequest.DESCRIPTOR.fields_by_name["value"].number
_VALUE_OUT: Final = executor_pb2.ComputeResponse.DESCRIPTOR.fields_by_name["value"].number
_GOODBYE_SECONDS: Final = 1.0
_EXIT_REPORT_SECONDS: Final = 1.0
# TFF: only UNAVAILABLE and FAILED_PRECONDITION may succeed on another try; the second means that the executor and all
# its values are gone.
_GONE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.CANCELLED)
_CLOSED: Final = "the C++ runtime was closed"
_ANEW: Final = "it is started anew with the next request"
# gRPC's message for an exception: memory ran out outside of TensorFlow's allocator, and locks may never be released.
_THROWN: Final = "Unexpected error in RPC handling"
# Messages of TensorFlow and gRPC when memory runs out: for a tensor, for anything else, for a thread.
_NO_MEMORY: Final = ("OOM when allocating", _THROWN, "Server Threadpool Exhausted")
_TOO_LARGE: Final = "compute over less at a time, or raise runtime_memory_bytes"
# Signs of the same in the last log lines of a runtime that ended by itself.
_OUT_OF_MEMORY: Final = ("terminate called", "pthread_create() failed", "Could not create grpc_sync_server")
_STALLED: Final = "the C++ runtime made no progress and was ended, as after a lack of memory"


@dataclass(frozen=True, slots=True)
class Ref:
    """Reference to a value inside an executor."""

    id: str


class Service:
    """A connection to one runtime.

    Args:
        target: its gRPC address.
        exit_report: waits up to the given number of seconds for the runtime's end; returns how it ended, or None.
        broken: called when the runtime has thrown an unexpected exception.
        watch: notified of each pending request; closed with this service.
    """

    def __init__(
        self,
        target: str,
        exit_report: Callable[[float], Awaitable[str | None]],
        broken: Callable[[], None],
        watch: StallWatch,
    ) -> None:
        self._exit_report = exit_report
        self._broken = broken
        self._watch = watch
        self._closed = False
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        # Requests and responses are bytes: no serializers.
        self._calls: dict[str, Any] = {
            name: self._channel.unary_unary(f"/tensorflow_federated.v0.ExecutorGroup/{name}") for name in _METHODS
        }

    async def call(self, method: str, request: bytes) -> bytes:
        """Send one request and return its response. Cancelling the await cancels the request.

        Raises:
            ComputationFailed: the runtime rejected the request; carries its message.
            RuntimeUnavailable: the runtime, or the executor in it, is gone.
        """
        if self._closed:
            raise RuntimeUnavailable(_CLOSED)
        too_late = self._watch.stalled
        try:
            with self._watch.request():
                answer: bytes = await self._calls[method](request)
        except grpc.aio.AioRpcError as error:
            if self._watch.stalled and not too_late:  # this request, or a concurrent one, is the cause
                raise ComputationFailed("ABORTED", _STALLED, hint=_TOO_LARGE) from None
            raise await self._translated(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # only the request was cancelled, not this task
            if self._closed and not (task is not None and task.cancelling()):
                raise RuntimeUnavailable(_CLOSED) from None
            raise
        return answer

    async def close(self) -> None:
        """Close the connection. Pending requests fail."""
        self._closed = True
        self._watch.close()
        await self._channel.close()

    async def _translated(self, error: grpc.aio.AioRpcError) -> RuntimeFailure:
        code, detail = error.code(), printable(" ".join((error.details() or "no details").split()), _LONGEST_WORDS)
        gone = code in _GONE
        # The connection may fail, in several ways, before the exit report arrives.
        how = await self._exit_report(_EXIT_REPORT_SECONDS if code is grpc.StatusCode.UNAVAILABLE else 0.0)
        if how is not None:
            hint = f"{_ANEW}; {_TOO_LARGE}" if _died_of_memory(how) else _ANEW
            return RuntimeUnavailable(f"the C++ runtime is gone: {how}", retryable=True, hint=hint)
        if gone:
            return RuntimeUnavailable(f"the C++ runtime does not answer: {detail}", retryable=True, hint=_ANEW)
        if code is grpc.StatusCode.UNKNOWN and detail == _THROWN:
            self._broken()
        return ComputationFailed(code.name, detail, hint=_TOO_LARGE if _tells(detail, _NO_MEMORY) else "")


@dataclass(eq=False)
class Kept:
    """An executor inside the runtime, shared by any number of :class:`Executor`.

    Attributes:
        service: connection to the runtime.
        identity: the executor's id, as a protobuf message.
        users: how many share it now.
        stale: no longer to be shared: it is gone, the runtime does not answer, or it holds values with unknown ids.
        functions: the computations that stay in it.
    """

    service: Service
    identity: Proto
    users: int = 0
    stale: bool = False
    functions: Functions = field(default_factory=Functions)

    @classmethod
    async def create(cls, service: Service, clients: int) -> Kept:
        """Create an executor whose CLIENTS placement has ``clients`` members.

        Raises:
            RuntimeUnavailable: the runtime is gone.
        """
        request = executor_pb2.GetExecutorRequest()
        cardinality = request.cardinalities.add()
        cardinality.placement.uri = "clients"
        cardinality.cardinality = clients
        answer = await service.call("GetExecutor", request.SerializeToString())
        return cls(service, executor_pb2.GetExecutorResponse.FromString(answer).executor)

    async def close(self) -> None:
        """Dispose of the executor. Bounded in time; errors of a runtime that is gone are ignored."""
        request = executor_pb2.DisposeExecutorRequest(executor=self.identity)
        with contextlib.suppress(RuntimeFailure, TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self.service.call("DisposeExecutor", request.SerializeToString())


class Executor:
    """Values in an executor of the runtime, with a fixed number of clients; made by ``Runtime.executor``.

    A value is computed when its content is requested.

    Args:
        kept: the executor that holds the values.
        released: called once, on close.
    """

    def __init__(self, kept: Kept, released: Callable[[], None]) -> None:
        self._kept = kept
        self._identity = kept.identity
        self._prefix = executor_pb2.CreateValueRequest(executor=kept.identity).SerializeToString()
        self._released = released
        self._live: set[str] = set()
        self._functions: dict[str, Ref] = {}  # by name; shared with other users of the executor
        self._closed = False
        self._after: list[Callable[[], None]] = []
        self._calls: set[str] = set()  # calls that are not known to have ended
        self._made_of: dict[str, Sequence[str]] = {}

    @property
    def unfinished(self) -> bool:
        """True if a call may still be running: no value computed since depends on it."""
        return bool(self._calls)

    def when_closed(self, call: Callable[[], None]) -> None:
        """Register a function to call once this executor is closed."""
        self._after.append(call)

    async def value(self, *serialized: Buffer) -> Ref:
        """Create a value from the parts of a serialized ``executor.Value``, which are passed on unchanged."""
        request = b"".join((self._prefix, *framed(_VALUE_IN, serialized)))
        return self._ref(executor_pb2.CreateValueResponse, await self._call("CreateValue", request))

    async def function(self, name: str, serialized: Buffer) -> Ref:
        """Create a computation as a value, which stays in the runtime for its next user.

        Args:
            name: identifies the computation, for example its digest.
            serialized: an ``executor.Value``.
        """
        if name in self._functions:
            return self._functions[name]
        functions = self._kept.functions
        known = functions.use(name)
        if known is not None:
            ref = Ref(known)
        else:
            ref = await self.value(*with_own_keys(serialized))
            if self._closed or not functions.add(name, ref.id, len(serialized)):
                return ref  # closed, or another user was faster: dispose of it with the other values
            self._live.discard(ref.id)
        self._functions[name] = ref
        return ref

    async def struct_of(self, elements: Sequence[tuple[str, Buffer]]) -> Ref:
        """Create a struct of serialized values in one request. An empty name means no name."""
        return await self.value(*struct((name, with_own_keys(value)) for name, value in elements))

    async def struct(self, elements: Sequence[tuple[str, Ref]]) -> Ref:
        """Create a struct of values. An empty name means no name."""
        request = executor_pb2.CreateStructRequest(executor=self._identity)
        for name, ref in elements:
            element = request.element.add(value_ref=_proto(ref))
            if name:
                element.name = name
        made = self._ref(executor_pb2.CreateStructResponse, await self._ask("CreateStruct", request))
        return self._note(made, [ref for _, ref in elements])

    async def select(self, source: Ref, index: int) -> Ref:
        """Select an element of a struct."""
        request = executor_pb2.CreateSelectionRequest(executor=self._identity, source_ref=_proto(source), index=index)
        made = self._ref(executor_pb2.CreateSelectionResponse, await self._ask("CreateSelection", request))
        return self._note(made, [source])

    async def call(self, function: Ref, argument: Ref | None) -> Ref:
        """Return the result of a call, which may still be running."""
        request = executor_pb2.CreateCallRequest(executor=self._identity, function_ref=_proto(function))
        if argument is not None:
            request.argument_ref.CopyFrom(_proto(argument))
        made = self._ref(executor_pb2.CreateCallResponse, await self._ask("CreateCall", request))
        self._calls.add(made.id)
        return self._note(made, [function] if argument is None else [function, argument])

    async def compute(self, ref: Ref) -> memoryview:
        """Return a value's content, a read-only serialized ``executor.Value``. Waits without a time limit.

        Raises:
            ComputationFailed: the computation failed; carries the runtime's message.
            RuntimeUnavailable: the runtime died.
        """
        request = executor_pb2.ComputeRequest(executor=self._identity, value_ref=_proto(ref))
        content = unframe(await self._ask("Compute", request), _VALUE_OUT)
        self._settle(ref)
        return content

    async def dispose(self, refs: Sequence[Ref]) -> None:
        """Dispose of values. Functions stay."""
        functions = {ref.id for ref in self._functions.values()}
        refs = [ref for ref in refs if ref.id not in functions]
        if not refs:
            return
        self._live.difference_update(ref.id for ref in refs)
        request = executor_pb2.DisposeRequest(executor=self._identity, value_ref=[_proto(ref) for ref in refs])
        await self._ask("Dispose", request)

    async def close(self) -> None:
        """Dispose of every value made here. Bounded in time; errors of a runtime that is gone are ignored."""
        if self._closed:
            return
        spare = self._kept.functions.release(self._functions)
        self._functions.clear()
        left = [Ref(one) for one in (*self._live, *spare)]
        try:
            if left:
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self.dispose(left)
        except TimeoutError:
            self._kept.stale = True
        except RuntimeFailure:
            pass
        finally:
            self._closed = True
            self._released()
            for call in self._after:
                call()

    async def _ask(self, method: str, request: Proto) -> bytes:
        return await self._call(method, request.SerializeToString())

    async def _call(self, method: str, request: bytes) -> bytes:
        if self._closed:
            raise RuntimeUnavailable("the executor was closed")
        try:
            return await self._kept.service.call(method, request)
        # a request without a response may have made values with unknown ids
        except (RuntimeUnavailable, asyncio.CancelledError):
            self._kept.stale = True
            raise

    def _note(self, made: Ref, parts: Sequence[Ref]) -> Ref:
        self._made_of[made.id] = [part.id for part in parts]
        return made

    def _settle(self, ref: Ref) -> None:
        """Mark a value, and every value that it was made of, as computed."""
        left = [ref.id]
        while left:
            one = left.pop()
            self._calls.discard(one)
            left += self._made_of.pop(one, ())

    def _ref(self, kind: Proto, answer: bytes) -> Ref:
        ref = Ref(kind.FromString(answer).value_ref.id)
        self._live.add(ref.id)
        return ref


def _proto(ref: Ref) -> Proto:
    return executor_pb2.ValueRef(id=ref.id)


def _died_of_memory(how: str) -> bool:
    """Return whether a runtime ended for lack of memory, judged by its exit status and last log lines.

    gRPC's ``gpr_malloc`` aborts without a message when memory runs out (grpc, src/core/lib/gpr/alloc.cc). Every other
    abort names the check that failed.
    """
    return _tells(how, _OUT_OF_MEMORY) or ("SIGABRT" in how and "Check failed" not in how)


def _tells(text: str, signs: Sequence[str]) -> bool:
    return any(sign in text for sign in signs)
