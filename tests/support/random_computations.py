"""Random federated computations, as lists of small steps that hypothesis can shrink.

Values are small whole numbers in float32, so that sums are exact in any order.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from hypothesis import strategies as st

STEPS = (
    "map",
    "map_pair",
    "map_server",
    "apply",
    "zip_server",
    "broadcast",
    "sum",
    "mean",
    "min",
    "max",
    "aggregate",
    "eval_server",
    "eval_clients",
    "value_server",
    "value_clients",
)


@dataclass(frozen=True)
class Step:
    """One step: an operation, its operands among the values so far (modulo their number), and a constant."""

    kind: str
    left: int
    right: int
    constant: int


random_steps = st.lists(
    st.builds(Step, st.sampled_from(STEPS), st.integers(0, 30), st.integers(0, 30), st.integers(-3, 3)),
    min_size=1,
    max_size=9,
)


def build_computation(program: list[Step], returned: list[int], *, nested: bool, all_equal: bool):
    """Build a computation over one clients-placed and one server-placed number.

    Args:
        program: the steps, in order.
        returned: which values to return (modulo their number).
        nested: return a nested struct, else a flat one.
        all_equal: whether all-equal values at clients may be returned; TFF has no such value without clients.
    """

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS), tff.FederatedType(np.float32, tff.SERVER))
    def generated(at_clients, at_server):
        clients, server = [at_clients], [at_server]
        for step in program:
            _take(step, clients, server)
        every = server + [value for value in clients if all_equal or not value.type_signature.all_equal]
        chosen = [every[index % len(every)] for index in returned]
        if nested:
            return collections.OrderedDict(first=chosen[0], rest=tuple(chosen), none=())
        return tuple(chosen)

    return generated


def _take(step: Step, clients: list, server: list) -> None:
    at_clients = clients[step.left % len(clients)]
    other = clients[step.right % len(clients)]
    at_server = server[step.left % len(server)]
    constant = np.float32(step.constant)
    plus = tff.tensorflow.computation(lambda x: x + constant, np.float32)
    mixed = tff.tensorflow.computation(lambda x, y: x * 2 - y, (np.float32, np.float32))
    number = tff.tensorflow.computation(lambda: tf.constant(constant))
    match step.kind:
        case "map":
            clients.append(tff.federated_map(plus, at_clients))
        case "map_pair":
            clients.append(tff.federated_map(mixed, (at_clients, other)))
        case "map_server" | "apply":
            server.append(tff.federated_map(plus, at_server))
        case "zip_server":
            server.append(tff.federated_map(mixed, (at_server, server[step.right % len(server)])))
        case "broadcast":
            clients.append(tff.federated_broadcast(at_server))
        case "sum":
            server.append(tff.federated_sum(at_clients))
        case "mean":
            # Rounded, so that results computed from it stay exact in any order.
            rounded = tff.tensorflow.computation(lambda x: tf.round(x), np.float32)
            server.append(tff.federated_map(rounded, tff.federated_mean(at_clients)))
        case "min":
            server.append(tff.federated_min(at_clients))
        case "max":
            server.append(tff.federated_max(at_clients))
        case "aggregate":
            server.append(_aggregate(at_clients, plus))
        case "eval_server":
            server.append(tff.federated_eval(number, tff.SERVER))
        case "eval_clients":
            clients.append(tff.federated_eval(number, tff.CLIENTS))
        case "value_server":
            server.append(tff.federated_value(constant, tff.SERVER))
        case "value_clients":
            clients.append(tff.federated_value(constant, tff.CLIENTS))


def _aggregate(values, report):
    """Aggregate count and sum together; report the sum and a constant."""
    pair = tff.types.to_type((np.float32, np.int32))
    zero = tff.tensorflow.computation(lambda: (tf.constant(0.0), tf.constant(0)))
    accumulate = tff.tensorflow.computation(lambda a, v: (a[0] + v, a[1] + 1), (pair, np.float32))
    merge = tff.tensorflow.computation(lambda a, b: (a[0] + b[0], a[1] + b[1]), (pair, pair))
    first = tff.tensorflow.computation(lambda a: a[0] + tf.cast(a[1], tf.float32), pair)
    return tff.federated_map(report, tff.federated_aggregate(values, zero(), accumulate, merge, first))
