"""A coordinator with valid keys requests false aggregates, in order to read single clients' values.

The silo holds five clients, one row each. It lets only aggregates leave (``client_results = "refuse"``), over at least
five clients (``min_clients = 5``), and only those recognised as sums, counts, minima or maxima (``aggregates =
"recognised"``). Each attack below passes the first two rules: the value that it returns is placed at the server and was
made of all clients. The third rule must refuse it before anything is computed, with a hint that names the refused
aggregate and the reason. If ``aggregates`` is ``"any"``, the first attack succeeds.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker_worker.policy.rules import PolicySettings
from tensorflow_federated.python.core.impl.compiler import building_block_factory as factory
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan import make_plan
from fedbroker.plan.model import ClientStage
from fedbroker.runtime.protos import computation_pb2, executor_pb2
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Call, Compute, Data, Done, Drop, Failed, Seeds, Select, Struct, Value
from tests.support.worker import load_settings, running_silo

pytestmark = [pytest.mark.broker, pytest.mark.runtime, pytest.mark.timeout(600)]

F = np.float32
SOURCE = {
    "rows": {
        "query": "select (i * 1000 + 7)::float as x, 'secret ' || i as t, i::varchar as who from range(5) t(i)",
        "clients": "who",
    }
}
STRICT = PolicySettings(min_clients=5, client_results="refuse", aggregates="recognised")
CLIENTS = 5
COLUMN = tff.TensorType(F, [None])
ROWS = tff.FederatedType(tff.StructType([(None, COLUMN)]), tff.CLIENTS)
TEXTS = tff.FederatedType(tff.StructType([(None, tff.TensorType(np.str_, [None]))]), tff.CLIENTS)


@pytest.fixture
async def silo(broker, cohort, tmp_path):
    """Run a silo with that policy."""
    own = dataclasses.replace(load_settings(tmp_path, broker.url, cohort, SOURCE), policy=STRICT)
    async with running_silo(own) as (_, client):
        yield client


def function(body, *types):
    """Return a TensorFlow computation."""
    return tff.tensorflow.computation(tf.autograph.experimental.do_not_convert(body), *types)


first_row = function(lambda columns: columns[0][0], ROWS.member)
first_text = function(lambda columns: columns[0][0], TEXTS.member)


def aggregate(zero, accumulate, merge, report=None, *, of=first_row, rows=ROWS):
    """Return the stage in which a silo aggregates the transformed first row of each client."""
    type_ = accumulate.type_signature.result
    identity = report or function(lambda total: total, type_)

    @tff.federated_computation(rows)
    def whole(columns):
        return tff.federated_aggregate(tff.federated_map(of, columns), zero(), accumulate, merge, identity)

    return stage(whole)


def stage(comp, level=0):
    """Return the computation of a client stage, as a value for a silo."""
    stages = [one for one in make_plan(comp).stages if isinstance(one, ClientStage)]
    return stages[level].computation


def asked(computation, column=("x", "float32")):
    """Return ops that call a computation with the silo's rows."""
    return [
        Data(1, "rows", (column,)),
        Struct(2, (("", 1),)),
        Value(3, digest_of(computation)),
        Call(4, 3, 2),
        Compute(4),
    ]


async def refused(silo, program, blobs, **options):
    reply = await silo.send(silo.item(program, clients=CLIENTS, **options), blobs)
    assert isinstance(reply, Failed), "the attack succeeded"
    assert (reply.error_type, reply.rule) == ("refused", "aggregates"), reply
    assert total_of(await done(silo, asked(SUM), [SUM])) == [10035.0]  # an honest one passes
    return reply.hint or reply.cause


async def done(silo, program, blobs, **options):
    item = silo.item(program, clients=CLIENTS, **options)
    reply = await silo.send(item, blobs)
    assert isinstance(reply, Done), reply
    return await silo.outputs(item, blobs) if options.get("session") is None else []


def total_of(outputs):
    """Return the numbers in the only output."""
    value = executor_pb2.Value.FromString(outputs[0])
    found = []
    waiting = [value]
    while waiting:
        one = waiting.pop(0)
        if one.HasField("struct"):
            waiting += [element.value for element in one.struct.element]
        elif one.HasField("federated"):
            waiting += one.federated.value
        elif one.array.content:
            found += np.frombuffer(one.array.content, F).tolist()
        else:
            found += list(one.array.float32_list.value)
    return found


def pair(type_, other=None):
    return tff.StructType([(None, type_), (None, other or type_)])


LIST = tff.TensorType(F, [None])
plus = function(lambda so_far, value: so_far + value, pair(tff.TensorType(F)))
zero = function(lambda: tf.constant(0.0))
SUM = aggregate(zero, plus, plus)


def concatenates():
    append = function(lambda so_far, value: tf.concat([so_far, [value]], 0), pair(LIST, tff.TensorType(F)))
    join = function(lambda one, other: tf.concat([one, other], 0), pair(LIST))
    return aggregate(function(lambda: tf.zeros([0])), append, join)


def keeps_the_first_client():
    keep = function(lambda kept, value: tf.where(tf.equal(kept, 0.0), value, kept), pair(tff.TensorType(F)))
    return aggregate(zero, keep, keep)


def keeps_the_last_client():
    return aggregate(zero, function(lambda _, value: tf.identity(value), pair(tff.TensorType(F))), plus)


def picks_the_client_with_a_value():
    pick = function(
        lambda kept, value: kept + tf.where(tf.equal(kept, 0.0) & (value > 2000), value, 0.0), pair(tff.TensorType(F))
    )
    return aggregate(zero, pick, plus)


def writes_one_number_behind_another():
    shift = function(
        lambda so_far, value: so_far * 65536 + tf.cast(value, tf.float64),
        pair(tff.TensorType(np.float64), tff.TensorType(F)),
    )
    merge = function(lambda one, other: one + other, pair(tff.TensorType(np.float64)))
    return aggregate(function(lambda: tf.constant(0.0, tf.float64)), shift, merge)


def begins_with_another_number():
    return aggregate(function(lambda: tf.constant(1.0)), plus, plus)


def grows_with_each_client():
    grow = function(lambda so_far, value: tf.pad(so_far, [[0, 1]]) + value, pair(LIST, tff.TensorType(F)))
    return aggregate(function(lambda: tf.zeros([0])), grow, function(lambda one, _: one, pair(LIST)))


def draws_by_chance():
    drawn = function(lambda kept, value: tf.where(tf.random.uniform([]) < 0.5, value, kept), pair(tff.TensorType(F)))
    return aggregate(zero, drawn, plus)


def counts_its_calls():
    def body(so_far, value):
        counter = tf.Variable(0.0)
        with tf.control_dependencies([counter.assign_add(1.0)]):
            return so_far + value * tf.cast(counter.read_value() < 2.0, tf.float32)

    return aggregate(zero, function(body, pair(tff.TensorType(F))), plus)


def merges_by_joining():
    join = function(lambda one, other: one + 65536.0 * other, pair(tff.TensorType(F)))
    return aggregate(zero, plus, join)


def hides_the_others_behind_a_huge_number():
    """Lose the total so far in a huge number, which is subtracted again; the shapes keep this order."""

    def body(so_far, value):
        huge = tf.exp(tf.abs(value) * 0.0001 + 70.0)
        hidden = tf.ensure_shape(so_far + huge, [])
        return tf.ensure_shape(hidden + (tf.sin(value * 1e-30) - huge), []) + value

    return aggregate(zero, function(body, pair(tff.TensorType(F))), plus)


def fails_for_some_totals():
    """Stop with an error where the clients so far have a large total: the function waits for the check, not its sum."""

    @tf.function(autograph=False)
    def checked(so_far, value):
        tf.raw_ops.Assert(condition=so_far < 6000.0, data=[so_far])
        return so_far + value

    add = function(lambda so_far, value: checked(so_far, value), pair(tff.TensorType(F)))
    return by_hand(with_no_waits(add))


def fails_for_an_argument_that_it_ignores():
    """Compute a tensor that does not exist for a large total, and pass it to a function that has no use for it."""

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def added(so_far, value, unused):
        return so_far + value

    def body(so_far, value):
        return added(so_far, value, tf.gather([1.0], tf.cast(so_far > 6000.0, tf.int32)))

    return by_hand(function(body, pair(tff.TensorType(F))))


def with_no_waits(comp):
    """Return the computation; in the functions of its graph no node waits for another one."""
    proto = computation_pb2.Computation.FromString(tff.framework.serialize_computation(comp).SerializeToString())
    graph = tf.compat.v1.GraphDef.FromString(proto.tensorflow.graph_def.value)
    for node in (node for one in graph.library.function for node in one.node_def):
        node.input[:] = [source for source in node.input if not source.startswith("^")]
    proto.tensorflow.graph_def.value = graph.SerializeToString(deterministic=True)
    return tff.framework.deserialize_computation(proto)


def multiplies():
    times = function(lambda so_far, value: so_far * value, pair(tff.TensorType(F)))
    return aggregate(function(lambda: tf.constant(1.0)), times, times)


def joins_text():
    text = tff.TensorType(np.str_)
    join = function(lambda so_far, value: tf.strings.join([so_far, value]), pair(text))
    return aggregate(function(lambda: tf.constant("")), join, join, of=first_text, rows=TEXTS)


def adds_text():
    text = tff.TensorType(np.str_)
    add = function(lambda so_far, value: so_far + value, pair(text))
    return aggregate(function(lambda: tf.constant("")), add, add, of=first_text, rows=TEXTS)


def samples():
    @tff.federated_computation(ROWS)
    def whole(columns):
        factory = tff.aggregators.UnweightedReservoirSamplingFactory(sample_size=5)
        return factory.create(tff.TensorType(F)).next(
            tff.federated_value((), tff.SERVER), tff.federated_map(first_row, columns)
        )

    return stage(whole)


ATTACKS = {
    concatenates: "aggregate 1 of 1, of type float32[?]: its accumulate joins values (ConcatV2) instead of adding them",
    keeps_the_first_client: "its accumulate computes with SelectV2 instead of adding",
    keeps_the_last_client: "its accumulate keeps or replaces values instead of adding them",
    picks_the_client_with_a_value: "its accumulate adds its total so far twice",
    writes_one_number_behind_another: "its accumulate adds other values than it should",
    begins_with_another_number: "its zero is not the neutral element of a sum",
    grows_with_each_client: "its accumulate computes with Pad instead of adding",
    draws_by_chance: "its accumulate computes with RandomUniform instead of adding",
    counts_its_calls: "it holds a state",
    merges_by_joining: "its merge adds other values than it should",
    hides_the_others_behind_a_huge_number: "its accumulate adds more than one floating-point number",
    fails_for_some_totals: "its accumulate may fail, depending on its total so far",
    fails_for_an_argument_that_it_ignores: "its accumulate may fail, depending on its total so far",
    multiplies: "its accumulate computes with Mul instead of adding",
    samples: "of type <random_seed=int64[2],random_values=int32[?],samples=float32[?]>: its accumulate computes with",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_a_silo_refuses_an_aggregate_that(silo, attack):
    computation = attack()
    assert ATTACKS[attack] in await refused(silo, asked(computation), [computation])


@pytest.mark.parametrize(
    ("attack", "why"),
    [(joins_text, "joins values (StringJoin)"), (adds_text, "computes with Add of something else than numbers")],
    ids=lambda one: getattr(one, "__name__", ""),
)
async def test_a_silo_refuses_an_aggregate_of_text_that(silo, attack, why):
    computation = attack()
    assert f"its accumulate {why}" in await refused(silo, asked(computation, ("t", "str")), [computation])


async def test_each_client_can_be_read_if_any_aggregate_may_leave(broker, cohort, tmp_path):
    """Show the rule's purpose: the two others do not stop the attack."""
    policy = dataclasses.replace(STRICT, aggregates="any")
    computation = concatenates()
    async with running_silo(
        dataclasses.replace(load_settings(tmp_path, broker.url, cohort, SOURCE), policy=policy)
    ) as (
        _,
        client,
    ):
        item = client.item(asked(computation), clients=CLIENTS)
        assert total_of(await client.outputs(item, [computation])) == [7, 1007, 2007, 3007, 4007]


async def test_a_silo_refuses_to_compute_with_an_aggregate(silo):
    computation = after_the_sum("halves")
    assert "would compute with an aggregate" in await refused(silo, asked(computation), [computation])


async def test_a_silo_refuses_a_report_that_computes(silo):
    computation = after_the_sum("reports")
    assert "its report computes something (Mul)" in await refused(silo, asked(computation), [computation])


def after_the_sum(way):
    """Build a stage by hand, unlike any plan's: the silo computes with the sum before it leaves."""
    half = function(lambda total: total * 0.5, tff.TensorType(F))
    if way == "reports":
        return by_hand(plus, report=half)
    return by_hand(plus, then=lambda total: factory.create_federated_apply(half.to_building_block(), total))


def by_hand(accumulate, *, report=None, then=lambda total: total):
    """Return a stage that aggregates first rows; no planner simplifies its graphs."""
    add, reported = plus.to_building_block(), report or function(lambda total: total, tff.TensorType(F))
    inputs = bb.Reference("inputs", tff.StructType([(None, ROWS)]))
    values = factory.create_federated_map(first_row.to_building_block(), bb.Selection(inputs, index=0))
    functions = (accumulate.to_building_block(), add, reported.to_building_block())
    total = factory.create_federated_aggregate(values, bb.Call(zero.to_building_block()), *functions)
    body = bb.Lambda("inputs", inputs.type_signature, bb.Struct([then(total)]))
    return serialized(body.proto)


async def test_a_silo_resolves_shadowed_names_as_the_runtime_does(silo):
    """Hide a name that a function uses for its addition: a later, honest addition has the same name."""
    keep = function(lambda so_far, value: 0.0 * so_far + value, pair(tff.TensorType(F))).to_building_block()
    add, same = plus.to_building_block(), function(lambda total: total, tff.TensorType(F)).to_building_block()
    inputs = bb.Reference("inputs", tff.StructType([(None, ROWS)]))
    values = factory.create_federated_map(first_row.to_building_block(), bb.Selection(inputs, index=0))
    rows, named = bb.Reference("rows", values.type_signature), bb.Reference("add", add.type_signature)
    whole = factory.create_federated_aggregate(rows, bb.Call(zero.to_building_block()), add, add, same)
    operands = [bb.Selection(whole.argument, index=at) for at in (0, 1, 3, 4)]
    total = bb.Call(whole.function, bb.Struct([*operands[:2], named, *operands[2:]]))
    aggregates = bb.Lambda("rows", rows.type_signature, total)
    called = bb.Call(bb.Reference("aggregates", aggregates.type_signature), values)
    body = bb.Block([("add", keep), ("aggregates", aggregates), ("add", add)], bb.Struct([called]))
    computation = serialized(bb.Lambda("inputs", inputs.type_signature, body).proto)
    assert "its accumulate adds other values than it should" in await refused(silo, asked(computation), [computation])


def serialized(proto):
    value = executor_pb2.Value()
    value.computation.ParseFromString(proto.SerializeToString())
    return value.SerializeToString()


async def test_a_silo_refuses_client_values_kept_by_an_earlier_stage(silo):
    """Keep values in a first stage that lets nothing leave, and send them in a second one."""
    both = concatenates()
    keep = [*asked(both)[:-1], Select(5, 4, 0), Drop((1, 2, 3, 4))]
    assert isinstance(await silo.send(silo.item(keep, session="kept", clients=CLIENTS, last=False), [both]), Done)
    hint = await refused(silo, [Compute(5)], [], session="kept", stage=1)
    assert "its accumulate joins values (ConcatV2)" in hint


async def test_a_silo_releases_no_kept_value_under_a_reused_id(silo):
    """Drop in the second stage a value that the first one kept, and reuse its id for a number, for a struct."""
    both, blob = concatenates(), given(3.0)
    keep = [*asked(both)[:-1], Select(5, 4, 0), Drop((1, 2, 3, 4))]
    assert isinstance(await silo.send(silo.item(keep, session="ids", clients=CLIENTS, last=False), [both]), Done)
    swap = [Drop((5,)), Value(5, digest_of(blob)), Struct(6, (("", 5),))]
    swapped = silo.item(swap, session="ids", stage=1, clients=CLIENTS, last=False)
    assert isinstance(await silo.send(swapped, [blob]), Done)
    outputs = await silo.outputs(silo.item([Compute(5)], session="ids", stage=2, clients=CLIENTS), [])
    assert total_of(outputs) == [3.0]


async def test_a_silo_refuses_to_aggregate_kept_values_of_clients_in_another_way(silo):
    """Concatenate in a later stage the values that an earlier stage mapped: labels of kept values are kept, too."""

    @tff.federated_computation(ROWS)
    def rows(columns):
        return tff.federated_map(first_row, columns)

    mapped = stage(rows)
    keep = [*asked(mapped)[:-1], Select(5, 4, 0), Drop((1, 2, 3, 4))]
    assert isinstance(await silo.send(silo.item(keep, session="later", clients=CLIENTS, last=False), [mapped]), Done)

    append = function(lambda so_far, value: tf.concat([so_far, [value]], 0), pair(LIST, tff.TensorType(F)))
    join = function(lambda one, other: tf.concat([one, other], 0), pair(LIST))
    same, empty = function(lambda total: total, LIST), function(lambda: tf.zeros([0]))

    @tff.federated_computation(tff.FederatedType(F, tff.CLIENTS))
    def collect(values):
        return tff.federated_aggregate(values, empty(), append, join, same)

    collected = stage(collect)
    program = [Struct(6, (("", 5),)), Value(7, digest_of(collected)), Call(8, 7, 6), Compute(8)]
    hint = await refused(silo, program, [collected], session="later", stage=1)
    assert "its accumulate joins values (ConcatV2)" in hint


async def test_a_silo_refuses_to_pick_a_client_by_a_mask_from_the_coordinator(silo):
    """Multiply the rows by a mask, zero for all clients but one: the sum is one client's row."""
    times = function(lambda columns, factor: columns[0][0] * factor, tff.StructType([(None, ROWS.member), (None, F)]))

    @tff.federated_computation(ROWS, tff.FederatedType(F, tff.CLIENTS))
    def picked(columns, mask):
        return tff.federated_sum(tff.federated_map(times, (columns, mask)))

    def mask(*numbers):
        value = executor_pb2.Value()
        value.federated.type.placement.value.uri = "clients"
        value.federated.type.member.tensor.dtype = 1
        for number in numbers:
            array = value.federated.value.add().array
            array.dtype = 1
            array.shape.SetInParent()
            array.float32_list.value.append(number)
        return value.SerializeToString()

    computation = stage(picked)

    def program(blob):
        return [
            Data(1, "rows", (("x", "float32"),)),
            Value(2, digest_of(blob)),
            Struct(3, (("", 1), ("", 2))),
            Value(4, digest_of(computation)),
            Call(5, 4, 3),
            Compute(5),
        ]

    one, all_ = mask(0, 0, 1, 0, 0), mask(2, 2, 2, 2, 2)
    hint = await refused(silo, program(one), [one, computation])
    assert "with others that the coordinator chose for single clients" in hint
    assert total_of(await done(silo, program(all_), [all_, computation])) == [20070.0]  # the same for all of them


async def test_a_sum_that_has_the_shape_of_client_rows_is_refused(silo):
    """Start from a scalar zero: by broadcasting, the total would have the rows' own shape."""
    column = function(lambda columns: columns[0] * tf.ones([2]), ROWS.member)
    add = function(lambda so_far, value: so_far + value, pair(tff.TensorType(F, [None]), tff.TensorType(F, [None])))
    start = function(lambda: tf.zeros([1]))
    computation = aggregate(start, add, add, of=column)
    reply = await silo.send(silo.item(asked(computation), clients=CLIENTS), [computation])
    assert isinstance(reply, Failed)
    assert (reply.rule, "came out in another shape" in reply.cause) == ("aggregates", True), reply


async def test_a_silo_refuses_client_values_and_names_the_rule(silo):
    @tff.federated_computation(ROWS)
    def rows(columns):
        return tff.federated_map(first_row, columns)

    computation = stage(rows)
    reply = await silo.send(silo.item(asked(computation), clients=CLIENTS), [computation])
    assert isinstance(reply, Failed)
    assert reply.rule == "client_results"


@pytest.mark.parametrize(
    ("name", "uri"), [("federated_collect", "federated_collect"), ("a_future_one", "federated_anything")]
)
async def test_a_silo_refuses_an_unknown_intrinsic(silo, name, uri):
    proto = computation_pb2.Computation()
    outer = getattr(proto, "lambda")
    outer.parameter_name = "inputs"
    outer.result.call.function.intrinsic.uri = uri
    outer.result.call.argument.reference.name = "inputs"
    computation = serialized(proto)
    hint = await refused(silo, asked(computation), [computation])
    assert hint


def given(number):
    """Return a number at the server, as the coordinator sends one."""
    value = executor_pb2.Value()
    value.federated.type.placement.value.uri = "server"
    value.federated.type.all_equal = True
    value.federated.type.member.tensor.dtype = 1
    array = value.federated.value.add().array
    array.dtype = 1
    array.shape.SetInParent()
    array.float32_list.value.append(number)
    return value.SerializeToString()


async def test_the_coordinators_values_and_recognised_totals_leave(silo):
    blob = given(3.0)
    program = [*asked(SUM)[:-1], Value(6, digest_of(blob)), Struct(7, (("", 4), ("", 6))), Compute(7)]
    assert sorted(total_of(await done(silo, program, [SUM, blob]))) == [3.0, 10035.0]


async def test_sums_over_shuffled_rows_leave_and_the_seeds_do_not(silo):
    """A binder takes the seeds together with the columns; they are data of single clients."""
    seeds = tff.FederatedType(tff.StructType([(None, tff.TensorType(np.int64, [2]))]), tff.CLIENTS)
    parity = function(lambda columns, seed: columns[0][0] + 0 * tf.cast(seed[0][0] % 2, F), ROWS.member, seeds.member)

    @tff.federated_computation(ROWS, seeds)
    def total(columns, seed):
        return tff.federated_sum(tff.federated_map(parity, (columns, seed)))

    computation = stage(total)
    program = [
        Data(1, "rows", (("x", "float32"),)),
        Seeds(2, "0" * 32),
        Struct(3, (("", 1), ("", 2))),
        Value(4, digest_of(computation)),
        Call(5, 4, 3),
        Compute(5),
    ]
    assert total_of(await done(silo, program, [computation])) == [10035.0]
    reply = await silo.send(silo.item([Seeds(1, "0" * 32), Compute(1)], clients=CLIENTS))
    assert isinstance(reply, Failed)
    assert reply.rule == "client_results"
