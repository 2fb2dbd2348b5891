"""Asyncio client of the C++ runtime's gRPC service: requests as bytes, errors as ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc

from fedbroker.errors import ComputationFailed, RuntimeFailure, RuntimeUnavailable
from fedbroker.runtime.resources import StallWatch
from fedbroker.text import printable

__all__ = ["Service"]

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
# Bytes of an error message, which may quote whole tensors: as many as gRPC allows for a message by default.
_LONGEST_MESSAGE: Final = 4 << 20
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # The error message of a failed computation travels as metadata. gRPC would replace a longer one by its own error.
    ("grpc.max_metadata_size", _LONGEST_MESSAGE),
    ("grpc.absolute_max_metadata_size", _LONGEST_MESSAGE),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
# A connection fails some milliseconds before the host process reports the end; on a loaded machine it takes longer.
_EXIT_REPORT_SECONDS: Final = 1.0
# TFF: only UNAVAILABLE and FAILED_PRECONDITION may succeed on another try; the second means that the executor and all
# its values are gone.
_GONE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.CANCELLED)
_CLOSED: Final = "the C++ runtime was closed"
_RESTARTED: Final = "it restarts with the next request"
# gRPC's message for an exception: memory ran out outside of TensorFlow's allocator, and locks may never be released.
_THROWN: Final = "Unexpected error in RPC handling"
# Messages of TensorFlow and gRPC when memory runs out: for a tensor, for anything else, for a thread.
_NO_MEMORY: Final = ("OOM when allocating", _THROWN, "Server Threadpool Exhausted")
_TOO_LARGE: Final = "compute over less data at a time, or raise runtime_memory_bytes"
# Signs of the same in the last log lines of a runtime that ended by itself.
_OUT_OF_MEMORY: Final = ("terminate called", "pthread_create() failed", "Could not create grpc_sync_server")
_STALLED: Final = "the C++ runtime made no progress and was ended, probably for lack of memory"


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
        stalled_before = self._watch.stalled
        try:
            with self._watch.request():
                response: bytes = await self._calls[method](request)
        except grpc.aio.AioRpcError as error:
            if self._watch.stalled and not stalled_before:  # this request, or a concurrent one, is the cause
                raise ComputationFailed("ABORTED", _STALLED, hint=_TOO_LARGE) from None
            raise await self._translated(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            # only the request was cancelled, not this task
            if self._closed and not (task is not None and task.cancelling()):
                raise RuntimeUnavailable(_CLOSED) from None
            raise
        return response

    async def close(self) -> None:
        """Close the connection. Pending requests fail."""
        self._closed = True
        self._watch.close()
        await self._channel.close()

    async def _translated(self, error: grpc.aio.AioRpcError) -> RuntimeFailure:
        code, detail = error.code(), printable(" ".join((error.details() or "no details").split()), _LONGEST_MESSAGE)
        is_gone = code in _GONE
        # The connection may fail, in several ways, before the exit report arrives.
        exit_text = await self._exit_report(_EXIT_REPORT_SECONDS if code is grpc.StatusCode.UNAVAILABLE else 0.0)
        if exit_text is not None:
            hint = f"{_RESTARTED}; {_TOO_LARGE}" if _died_of_memory(exit_text) else _RESTARTED
            return RuntimeUnavailable(f"the C++ runtime is gone: {exit_text}", retryable=True, hint=hint)
        if is_gone:
            return RuntimeUnavailable(f"the C++ runtime does not respond: {detail}", retryable=True, hint=_RESTARTED)
        if code is grpc.StatusCode.UNKNOWN and detail == _THROWN:
            self._broken()
        return ComputationFailed(code.name, detail, hint=_TOO_LARGE if _contains_any(detail, _NO_MEMORY) else "")


def _died_of_memory(exit_text: str) -> bool:
    """Return whether a runtime ended for lack of memory, judged by its exit status and last log lines.

    gRPC's ``gpr_malloc`` aborts without a message when memory runs out (grpc, src/core/lib/gpr/alloc.cc). Every other
    abort names the check that failed.
    """
    return _contains_any(exit_text, _OUT_OF_MEMORY) or ("SIGABRT" in exit_text and "Check failed" not in exit_text)


def _contains_any(text: str, signs: Sequence[str]) -> bool:
    return any(sign in text for sign in signs)
