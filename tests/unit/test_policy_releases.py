"""The values that a reply releases, in words."""

from __future__ import annotations

import numpy as np
from fedbroker_worker.policy.intrinsics import GIVEN, Refused, Server
from fedbroker_worker.policy.releases import releases
from fedbroker_worker.sources.columns import ColumnType, clients_value, member_value

from fedbroker.graphs.expressions import Input, Struct
from fedbroker.graphs.reductions import Total
from fedbroker.runtime.protos import executor_pb2

FLOAT32 = 1  # TensorFlow's number


def at_server(*shapes):
    """Return a serialized struct of float32 arrays, placed at the server."""
    types = [ColumnType(str(at), "float32", shape[1:]) for at, shape in enumerate(shapes)]
    arrays = {str(at): np.zeros(shape, np.float32) for at, shape in enumerate(shapes)}
    value = executor_pb2.Value.FromString(
        clients_value(types, [member_value("t", types, arrays, scalar=False)], scalar=False)
    )
    value.federated.type.placement.value.uri = "server"
    return value.SerializeToString()


def total(*shape):
    return Input(Total("sum", FLOAT32, shape))


def test_recognised_aggregates_are_named_by_their_reduction():
    label = Server(Struct.of([total(3), total(3), GIVEN, Refused(1, "float32[4]", "no")]))
    assert releases([at_server((3,), (3,), (2, 2), (4,))], [label]) == [
        "sum of float32[3], 2 times",
        "float32[2,2] of the coordinator's own",
        "float32[4] of an aggregate that is not recognised",
    ]


def test_values_without_labels_have_their_types():
    assert releases([at_server((3,), (4,))]) == ["float32[3]", "float32[4]"]
    assert releases([b""]) == ["a value that cannot be read"]


def test_values_of_clients_are_named_as_such():
    types = [ColumnType("x", "float32", ())]
    member = member_value("t", types, {"x": np.zeros(3, np.float32)}, scalar=False)
    assert releases([clients_value(types, [member], scalar=False)]) == ["values of single clients"]
