"""TFF's MapReduce forms: converted to a form and back, computations give the same results on a cohort."""

from __future__ import annotations

import collections
import re
import runpy

import grpc
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from fedbroker.errors import PlanError
from tests.support import computations as c
from tests.support.conformance import feature
from tests.support.local_tff import assert_close, assert_same, pack_arguments
from tests.support.pages import blocks

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FORMS = tff.backends.mapreduce
F, N = np.float32, np.int32
STATE = collections.OrderedDict(rounds=N, total=F)
AT_SERVER = tff.FederatedType(STATE, tff.SERVER)
INTS = tff.FederatedType(N, tff.CLIENTS)
SEQUENCES = tff.FederatedType(tff.SequenceType(F), tff.CLIENTS)

add = tff.tensorflow.computation(lambda a, b: a + b, (F, F))
square = tff.tensorflow.computation(lambda a: a * a, F)
whole = tff.tensorflow.computation(lambda a: tf.cast(a, tf.int32), F)
TABLE, KEYS = tff.TensorType(F, [3]), tff.FederatedType(tff.TensorType(N, [2]), tff.CLIENTS)
pick = tff.tensorflow.computation(lambda table, key: tf.gather(table, key), (TABLE, N))
size = tff.tensorflow.computation(lambda table: tf.size(table), TABLE)
total = tff.tensorflow.computation(lambda ds: ds.reduce(np.float32(0), lambda a, b: a + b), tff.SequenceType(F))


def to_map_reduce(comp):
    return FORMS.get_map_reduce_form_for_computation(comp)


def to_distribute_aggregate(comp):
    return FORMS.get_distribute_aggregate_form_for_computation(comp)


def to_broadcast(comp):
    return FORMS.get_broadcast_form_for_computation(comp)


def back(form):
    """Return the computation that a form represents."""
    if isinstance(form, FORMS.MapReduceForm):
        return FORMS.get_computation_for_map_reduce_form(form)
    if isinstance(form, FORMS.DistributeAggregateForm):
        return FORMS.get_computation_for_distribute_aggregate_form(form)
    return FORMS.get_computation_for_broadcast_form(form)


def agrees(same, theirs, comp, original, *data):
    """Run rounds of ``comp``; compare both contexts with each other and with TFF's result of ``original``."""
    state = theirs.invoke(start, None)
    for values in data:
        found = same(comp, state, values)
        assert_same(found, theirs.invoke(original, pack_arguments(original, (state, values))))
        state = found[0]
    return found


@tff.federated_computation
def start():
    zero = tff.tensorflow.computation(lambda: collections.OrderedDict(rounds=0, total=0.0))
    return tff.federated_eval(zero, tff.SERVER)


@tff.federated_computation(AT_SERVER, c.AT_CLIENTS)
def step(state, values):
    """Run one step with server state, two broadcasts, five aggregates and an update."""
    weigh = tff.tensorflow.computation(lambda v, rounds: v + tf.cast(rounds, tf.float32), (F, N))
    shift = tff.tensorflow.computation(lambda v, s: v + s["total"], (F, STATE))
    rounds = tff.federated_map(tff.tensorflow.computation(lambda s: s["rounds"] + 1, STATE), state)
    moved = tff.federated_map(shift, (values, tff.federated_broadcast(state)))
    weights = tff.federated_map(weigh, (values, tff.federated_broadcast(rounds)))
    weighted, total = tff.federated_mean(moved, weights), tff.federated_sum(values)
    update = tff.tensorflow.computation(
        lambda rounds, total: collections.OrderedDict(rounds=rounds, total=total), (N, F)
    )
    found = collections.OrderedDict(
        mean=tff.federated_mean(moved), weighted=weighted, least=tff.federated_min(moved), most=tff.federated_max(moved)
    )
    return tff.federated_map(update, (rounds, total)), tff.federated_zip(found)


@tff.federated_computation(AT_SERVER, INTS)
def secure_step(state, values):
    """Compute each kind of secure sum, and an ordinary sum."""
    count = tff.tensorflow.computation(
        lambda s, n, m: collections.OrderedDict(rounds=s["rounds"] + n, total=s["total"] + tf.cast(m, tf.float32)),
        (STATE, N, N),
    )
    bits, open_sum = tff.federated_secure_sum_bitwidth(values, 8), tff.federated_sum(values)
    sums = (tff.federated_secure_sum(values, 100), FORMS.federated_secure_modular_sum(values, 7), open_sum)
    return tff.federated_map(count, (state, bits, open_sum)), tff.federated_zip(sums)


@tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
def scaled(factor, values):
    """Scale client values by a number that the server computes."""
    times = tff.tensorflow.computation(lambda v, k, s: v * k - s, (F, F, F))
    squared = tff.federated_broadcast(tff.federated_map(square, factor))
    return tff.federated_map(times, (values, squared, tff.federated_broadcast(factor)))


@tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
def newton(point, values):
    """Take one Newton step towards the least sum of log cosh (point - value): derivatives, then a line search."""
    derivatives = tff.tensorflow.computation(
        lambda v, x: collections.OrderedDict(
            loss=tf.math.log(tf.cosh(x - v)), slope=tf.tanh(x - v), curvature=1 - tf.tanh(x - v) ** 2
        ),
        (F, F),
    )
    candidates = tff.tensorflow.computation(
        lambda x, d: x - d["slope"] / d["curvature"] * tf.constant([1.0, 0.5, 0.25, 0.125]),
        (F, derivatives.type_signature.result),
    )
    losses = tff.tensorflow.computation(lambda v, xs: tf.math.log(tf.cosh(xs - v)), (F, tff.TensorType(F, [4])))
    best = tff.tensorflow.computation(
        lambda xs, losses: xs[tf.argmin(losses)], (tff.TensorType(F, [4]), tff.TensorType(F, [4]))
    )
    here = tff.federated_map(derivatives, (values, tff.federated_broadcast(point)))
    there = tff.federated_map(candidates, (point, tff.federated_sum(here)))
    found = tff.federated_sum(tff.federated_map(losses, (values, tff.federated_broadcast(there))))
    loss = tff.tensorflow.computation(lambda d: d["loss"], derivatives.type_signature.result)
    return tff.federated_map(best, (there, found)), tff.federated_sum(tff.federated_map(loss, here))


@tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
def standardised(scale, values):
    """Standardise each client's value by mean and deviation, which depends on the mean."""
    by = tff.tensorflow.computation(lambda v, variance, s: v / tf.sqrt(variance) * s, (F, F, F))
    off = tff.federated_map(c.minus, (values, tff.federated_broadcast(tff.federated_mean(values))))
    variance = tff.federated_broadcast(tff.federated_mean(tff.federated_map(square, off)))
    return tff.federated_map(by, (off, variance, tff.federated_broadcast(scale)))


@feature("mapreduce", "get_state_initialization_computation")
def test_state_initialization(same, theirs):
    found = same(FORMS.get_state_initialization_computation(start))
    assert_same(found, theirs.invoke(start, None))


@feature(
    "mapreduce",
    "MapReduceForm",
    "over rounds; has secure sums, masked or in plaintext",
)
def test_map_reduce_form(same_secure, theirs):
    form = to_map_reduce(step)
    assert not form.securely_aggregates_tensors
    found = agrees(same_secure, theirs, back(form), step, [1.0, 2.0, 5.0], [4.0, 8.0, 16.0], [0.5, 1.5, 2.0])
    assert found[0] == {"rounds": 3, "total": 4.0}


def test_map_reduce_form_needs_secure_sums_as_in_tff(ours, theirs):
    comp = back(to_map_reduce(step))
    arguments = pack_arguments(comp, (theirs.invoke(start, None), [1.0, 2.0, 3.0]))
    with pytest.raises(PlanError, match="federated_secure_sum_bitwidth cannot be planned"):
        ours.invoke(comp, arguments)
    with pytest.raises(grpc.RpcError):
        theirs.invoke(comp, arguments)


@feature("mapreduce", "DistributeAggregateForm", "converted and back, over rounds; several broadcasts and aggregates")
def test_distribute_aggregate_form(same, theirs):
    form = to_distribute_aggregate(step)
    assert len(form.server_to_client_broadcast.type_signature.result) == 2
    assert len(form.client_to_server_aggregation.type_signature.result) == 5
    found = agrees(same, theirs, back(form), step, [1.0, 2.0, 5.0], [4.0, 8.0], [0.5, 1.5, 2.0])
    assert found[0] == {"rounds": 3, "total": 4.0}


@feature("mapreduce", "BroadcastForm", "converted and back")
def test_broadcast_form(same):
    comp = back(to_broadcast(scaled))
    assert same(comp, 2.0, [1.0, 2.0, 3.0, 4.0]) == [2.0, 6.0, 10.0, 14.0]
    assert_same(same.run_ours(comp, 3.0, [1.0, -1.0]), same.run_theirs(scaled, 3.0, [1.0, -1.0]))


@feature("mapreduce", "forms with secure sums", "of each kind, masked or in plaintext")
def test_secure_sums(same_secure):
    forms = to_map_reduce(secure_step), to_distribute_aggregate(secure_step)
    assert forms[0].securely_aggregates_tensors
    for form in forms:
        found = agrees(same_secure, same_secure.theirs, back(form), secure_step, [1, 2, 100])
        assert found == ({"rounds": 103, "total": 103.0}, (103, 5, 103))


@feature(
    "mapreduce",
    "weighted FedAvg's `next` as MapReduceForm and DistributeAggregateForm",
    "returns a plain tuple, as TFF does",
)
def test_fed_avg(same_secure, theirs):
    process = tff.learning.algorithms.build_weighted_fed_avg(c.regression, tff.learning.optimizers.build_sgdm(0.01))
    state, data = theirs.invoke(process.initialize, None), c.client_data(5, 9, 12)
    expected = theirs.invoke(process.next, pack_arguments(process.next, (state, data)))
    again = theirs.invoke(process.next, pack_arguments(process.next, (expected.state, data)))
    for form in (to_map_reduce(process.next), to_distribute_aggregate(process.next)):
        comp = back(form)
        found = same_secure(comp, state, data)
        # Forms lose the classes of containers, so only their contents are compared.
        assert_close(_leaves(found), _leaves(expected), 1e-6)
        assert_close(_leaves(same_secure.run_ours(comp, found[0], data)), _leaves(again), 1e-6)


@feature("mapreduce", "an empty struct in place of a state", "converted and back; both forms")
def test_empty_state(same_secure):
    @tff.federated_computation(tff.FederatedType((), tff.SERVER), c.AT_CLIENTS)
    def mean(nothing, values):
        return nothing, tff.federated_mean(values)

    for form in (to_map_reduce(mean), to_distribute_aggregate(mean)):
        found = same_secure(back(form), (), [1.0, 2.0, 6.0])
        assert_same(found, same_secure.run_theirs(mean, (), [1.0, 2.0, 6.0]))


@feature("mapreduce", "DistributeAggregateForm where MapReduceForm is refused", "sequences, several client values")
def test_only_distribute_aggregate_form(same):
    @tff.federated_computation(c.AT_SERVER, SEQUENCES)
    def sequences(state, values):
        reduced = tff.federated_computation(lambda one: tff.sequence_reduce(one, 0.0, add), SEQUENCES.member)
        return state, tff.federated_sum(tff.federated_map(reduced, values))

    @tff.federated_computation(c.AT_SERVER, [c.AT_CLIENTS, c.AT_CLIENTS])
    def several(state, values):
        return state, tff.federated_mean(values[0], values[1])

    for comp, error, data in (
        (sequences, "the intrinsic sequence_reduce", [[1.0, 2.0], [], [4.0]]),
        (several, "was of non-federated type", ([1.0, 2.0, 6.0], [1.0, 1.0, 2.0])),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            to_map_reduce(comp)
        found = same(back(to_distribute_aggregate(comp)), 3.0, data)
        assert_same(found, same.run_theirs(comp, 3.0, data))


@feature("mapreduce", "MapReduceForm where DistributeAggregateForm is refused", "federated_aggregate")
def test_only_map_reduce_form(same_secure, theirs):
    @tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
    def aggregate(state, values):
        total = tff.federated_aggregate(values, 0.0, add, add, square)
        return tff.federated_map(add, (state, total)), total

    with pytest.raises(ValueError, match=r"found \(<float32,float32> -> float32\)@SERVER"):
        to_distribute_aggregate(aggregate)
    found = same_secure(back(to_map_reduce(aggregate)), 3.0, [1.0, 2.0, 3.0])
    assert_same(found, theirs.invoke(aggregate, pack_arguments(aggregate, (3.0, [1.0, 2.0, 3.0]))))


@feature("mapreduce", "one round that no form holds", "other arguments, results or placements; federated_select")
def test_rounds_that_no_form_represents(same):
    without_state = tff.federated_computation(lambda x: (tff.federated_sum(x), tff.federated_mean(x)), c.AT_CLIENTS)

    @tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS, c.AT_CLIENTS)
    def three_arguments(state, values, weights):
        return state, tff.federated_mean(values, weights)

    @tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
    def three_results(state, values):
        return state, tff.federated_sum(values), tff.federated_mean(values)

    @tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
    def result_at_clients(state, values):
        return tff.federated_map(add, (state, tff.federated_sum(values))), tff.federated_map(square, values)

    @tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
    def other_state(state, values):
        return tff.federated_map(whole, state), tff.federated_sum(values)

    @tff.federated_computation(tff.FederatedType(TABLE, tff.SERVER), KEYS)
    def select(table, keys):
        chosen = tff.federated_select(keys, tff.federated_map(size, table), table, pick)
        return table, tff.federated_sum(tff.federated_map(total, chosen))

    values = [1.0, 2.0, 6.0]
    for comp, error, arguments in (
        (without_state, "to take two arguments", [values]),
        (three_arguments, "to take two arguments", [3.0, values, [1.0, 1.0, 2.0]]),
        (three_results, "to return two values", [3.0, values]),
        (result_at_clients, "same placement|unbound references", [3.0, values]),
        (other_state, "not assignable to the state|should all match", [3.0, values]),
        (select, "the intrinsic federated_select|not splittable", [np.array([2, 3, 5], F), [[0, 1], [2, 2]]]),
    ):
        for compiled in (to_map_reduce, to_distribute_aggregate):
            with pytest.raises((TypeError, ValueError), match=error):
                compiled(comp)
        with pytest.raises(TypeError, match="`BroadcastForm`"):
            to_broadcast(comp)
        same(comp, *arguments)
    # The check counts arguments, results and rounds, and ignores placements.
    FORMS.check_computation_compatible_with_map_reduce_form(result_at_clients)


@feature("mapreduce", "several rounds between server and clients", "no form holds them; a plan does")
def test_several_rounds(same):
    for refused in (
        FORMS.check_computation_compatible_with_map_reduce_form,
        to_map_reduce,
        to_distribute_aggregate,
    ):
        with pytest.raises(ValueError, match="Detected broadcast dependent on aggregate"):
            refused(newton)
    with pytest.raises(TypeError, match="expects a computation whose result is client data"):
        to_broadcast(newton)
    with pytest.raises(ValueError, match="containing 2 aggregations, but broadcast form does not allow aggregation"):
        to_broadcast(standardised)

    point, losses = 8.0, []
    for _ in range(3):
        point, loss = same(newton, point, [1.0, 2.0, 6.0])
        losses.append(loss)
    assert losses == sorted(losses, reverse=True)
    found = same(standardised, 1.0, [1.0, 2.0, 6.0])
    np.testing.assert_allclose(found, np.array([-2, -1, 3]) / np.sqrt(14 / 3), rtol=1e-6)
    assert same.barriers == [2, 2, 2, 3]


def test_program_of_the_page_prints_its_output(silos, tmp_path, capsys):
    (code,) = blocks("docs/mapreduce.md", "python")
    (output,) = blocks("docs/mapreduce.md", "text")
    here = f'"{silos.url}", cohort="{silos.cohort}"'
    code, found = re.subn(r'"amqps://coordinator:[^"]*", cohort="airports"', here, code)
    assert found == 1
    # TensorFlow traces a graph from source, which must be in a file.
    program = tmp_path / "program.py"
    program.write_text(code, encoding="utf-8")
    stack = tff.framework.get_context_stack()
    before = stack.current
    try:
        runpy.run_path(str(program))
    finally:
        used = stack.current
        stack.set_default_context(before)
        if used is not before:
            used.close()
    assert _without_sizes(capsys.readouterr().out) == _without_sizes(output)


def _without_sizes(text):
    """Remove computation sizes: TensorFlow numbers its functions through a whole process."""
    return re.sub(r"(?<=computation  )\S+ \S+(?=,)", "…", text)


def _leaves(value):
    """Return the leaves of a result from left to right, without its containers."""
    return tff.structure.flatten(tff.structure.from_container(value, recursive=True))
