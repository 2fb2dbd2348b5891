"""The policy of masked sums: its settings, its words, and the labels that may leave with and without a mask."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_federated as tff
from fedbroker_worker.errors import PolicyRefused, SettingsError
from fedbroker_worker.policy.aggregates import check_dealt, check_labels, check_shapes
from fedbroker_worker.policy.intrinsics import DEALT, GIVEN, Clients, Refused, Server
from fedbroker_worker.policy.rules import PolicySettings, read_policy

from fedbroker.graphs.expressions import NO_NAMES, Computed, Input, Struct
from fedbroker.graphs.reductions import Total
from fedbroker.plan import make_plan
from fedbroker.plan.model import ClientStage
from fedbroker.runtime.protos import executor_pb2
from fedbroker.wire.messages import Value
from tests.support import computations
from tests.support.labels import labels_of_plan

MASKED, RECOGNISED = PolicySettings(aggregates="masked"), PolicySettings(aggregates="recognised")
SUM = Server(Input(Total("sum", 3, (2,))))
OTHER = Server(Refused(1, "int32[2]", "its accumulate computes with If", shapes=((2,), ())))
OPEN = Server(Refused(1, "int32[?]", "its accumulate computes with If"))
PICKED = Server(Refused(1, "int32", DEALT))
OWN = Server(GIVEN)
HALVED = Server(Computed("RealDiv", frozenset([Total("sum", 3, (2,))]), pure=True))
CLIENT = Clients(data=True, dealt=False)
INTS = tff.FederatedType(np.int32, tff.CLIENTS)


def policy(**table):
    return read_policy(table, "silo.toml", [])


@pytest.mark.parametrize(("policy", "masked", "label"), [
    *[(MASKED, True, label) for label in (SUM, OTHER, OWN, Struct.of([SUM, OTHER]))],
    *[(RECOGNISED, True, label) for label in (SUM, OTHER, OWN)],
    *[(RECOGNISED, False, label) for label in (SUM, OWN)],
    *[(MASKED, False, label) for label in (OWN, GIVEN, Struct.of([]), Struct.of([OWN, GIVEN]))],
])  # fmt: skip
def test_outputs_that_may_leave(policy, masked, label):
    check_labels(policy, [label], [masked])


@pytest.mark.parametrize(("policy", "masked", "label", "rule"), [
    *[(MASKED, False, label, "aggregates") for label in (SUM, OTHER, OPEN, HALVED, Struct.of([OWN, SUM]))],
    *[(MASKED, True, label, "aggregates") for label in (OPEN, PICKED, HALVED, Struct.of([SUM, OPEN]))],
    *[(RECOGNISED, True, label, "aggregates") for label in (OPEN, PICKED, HALVED)],
    (RECOGNISED, False, OTHER, "aggregates"),
    *[(MASKED, masked, CLIENT, "client_results") for masked in (False, True)],
])  # fmt: skip
def test_outputs_that_may_not_leave(policy, masked, label, rule):
    with pytest.raises(PolicyRefused) as error:
        check_labels(policy, [OWN, label], [False, masked])
    assert error.value.rule == rule


def at_server(*shapes):
    value = executor_pb2.Value()
    value.federated.type.placement.value.uri = "server"
    struct = value.federated.value.add().struct
    for shape in shapes:
        array = struct.element.add().value.array
        array.dtype = 3
        array.shape.dim.extend(shape)
    return value.SerializeToString()


def test_declared_shapes_are_compared_with_the_output():
    check_shapes([at_server((2,), ())], [OTHER])
    for shapes in [((3,), ()), ((2,),), ((2,), (), ()), ((), (2,))]:
        with pytest.raises(PolicyRefused, match="another shape than its computation declares") as error:
            check_shapes([at_server(*shapes)], [OTHER])
        assert error.value.by_data


def test_dealt_values_are_refused_for_masked_sums_only():
    value = executor_pb2.Value()
    value.federated.type.placement.value.uri = "clients"
    value.federated.value.add().array.dtype = 3
    blob, ops = value.SerializeToString(), [Value(1, "00" * 16)]
    check_dealt(RECOGNISED, ops, {"00" * 16: blob})
    with pytest.raises(PolicyRefused, match="deals values to single clients"):
        check_dealt(MASKED, ops, {"00" * 16: blob})
    value.federated.type.all_equal = True
    check_dealt(MASKED, ops, {"00" * 16: value.SerializeToString()})


@tff.federated_computation(INTS)
def secure(x):
    return tff.federated_secure_sum(x, 10), tff.federated_secure_sum_bitwidth(x, 4)


def test_secure_sums_of_tff_leave_with_masks():
    labels = labels_of_plan(secure, "masked")
    check_labels(MASKED, labels, [True] * len(labels))
    with pytest.raises(PolicyRefused, match="without a mask"):
        check_labels(MASKED, labels)


def test_learning_with_secure_aggregates_leaves_with_masks():
    create = tff.learning.secure_aggregator().create
    aggregator = create(tff.to_type(tff.TensorType(np.float32, [3])), tff.TensorType(np.float32))
    labels = labels_of_plan(aggregator.next, "masked")
    assert len(labels) == 18
    check_labels(MASKED, labels, [True] * len(labels))


def test_client_values_and_masked_sums_exclude_each_other():
    for table in ({"client_results": "allow"}, {"client_results": "allow", "error_detail": "position"}):
        with pytest.raises(SettingsError, match=r"'aggregates' in \[policy\] of silo\.toml.*client_results"):
            policy(aggregates="masked", **table)
    with pytest.raises(SettingsError, match=r"'aggregates' in \[policy\] of silo\.toml.*error_detail"):
        policy(aggregates="masked", error_detail="full")


@pytest.mark.parametrize("fewest", [2, 0, -1, 1025, True, "3"])
def test_fewest_silos_that_hide_nothing(fewest):
    with pytest.raises(SettingsError, match=r"'min_sum_silos'.*from 3 to 1024"):
        policy(min_sum_silos=fewest)


@pytest.mark.parametrize(
    ("table", "guarantee"),
    [
        ({}, "any aggregate"),
        ({"client_results": "allow"}, "values of single clients"),
        ({"aggregates": "recognised", "error_detail": "full"}, "values of single clients from the text of errors"),
        ({"aggregates": "recognised"}, "only sums, counts, minima and maxima"),
        ({"aggregates": "masked", "min_sum_silos": 7}, "only sums over at least 7 silos with clients"),
    ],
)
def test_guarantee_is_one_sentence(table, guarantee):
    found = policy(**table).guarantee
    assert guarantee in found
    assert "\n" not in found


def test_summary_names_masked_sums():
    assert "only masked sums leave; masked sums over at least 3 silos" in policy(aggregates="masked").summary
    assert "masked" not in policy().summary


def test_labels_of_computed_constants_are_the_coordinators_own():
    check_labels(MASKED, [Server(Computed("Add", NO_NAMES, pure=True))])


def test_federated_averaging_with_secure_metrics_leaves_with_masks():
    process = tff.learning.algorithms.build_weighted_fed_avg(
        computations.regression,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.1),
        model_aggregator=tff.learning.secure_aggregator(),
        metrics_aggregator=tff.learning.metrics.secure_sum_then_finalize,
    )
    (stage,) = [
        stage for stage in make_plan(process.next, secure_sum="masked").stages if isinstance(stage, ClientStage)
    ]
    assert (stage.partials, stage.returned) == ((), ())
    labels = labels_of_plan(process.next, "masked")
    check_labels(MASKED, labels, [True] * len(labels))
    check_labels(RECOGNISED, labels, [True] * len(labels))
