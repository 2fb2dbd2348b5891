"""TFF's own connection to a remote worker: its ``RemoteExecutor`` over gRPC. Imports TensorFlow."""

from __future__ import annotations

from typing import Any

import grpc
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.native import compiler
from tensorflow_federated.python.core.environments.tensorflow_frontend import tensorflow_computation
from tensorflow_federated.python.core.impl.execution_contexts import sync_execution_context
from tensorflow_federated.python.core.impl.executor_stacks import python_executor_stacks
from tensorflow_federated.python.core.impl.executors import remote_executor, remote_executor_grpc_stub

LARGEST = 2_000_000_000  # bytes: gRPC's default is 4 MiB
OPTIONS = tuple((f"grpc.max_{way}_message_length", LARGEST) for way in ("send", "receive"))


class Calls(grpc.UnaryUnaryClientInterceptor):
    """Counts the calls of a channel: TFF makes them one after another, so each is a round trip."""

    def __init__(self) -> None:
        self.count = 0

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401
        self.count += 1
        return continuation(client_call_details, request)


def remote_context(port: int, calls: Calls) -> Any:  # noqa: ANN401
    """Return an execution context built as TFF's native one is, around a worker that runs already.

    Args:
        port: of the worker, or of a proxy to it, on this machine.
        calls: counts the calls to it.
    """
    channel = grpc.intercept_channel(grpc.insecure_channel(f"127.0.0.1:{port}", OPTIONS), calls)
    stub = remote_executor_grpc_stub.RemoteExecutorGrpcStub(channel)

    def executor(cardinalities: dict[Any, int]) -> Any:  # noqa: ANN401
        remote = remote_executor.RemoteExecutor(stub)
        remote.set_cardinalities({tff.CLIENTS: 0, **cardinalities})
        return remote

    return sync_execution_context.SyncExecutionContext(
        executor_fn=python_executor_stacks.ResourceManagingExecutorFactory(executor),
        compiler_fn=compiler.desugar_and_transform_to_native,
        transform_args=tensorflow_computation.transform_args,
        transform_result=tensorflow_computation.transform_result,
    )
