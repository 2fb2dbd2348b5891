"""Aggregates recognised as sums, minima or maxima are that to TensorFlow, bit for bit; others are refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedbroker.graphs.expressions import Input, Known, Struct, Value, leaves
from fedbroker.graphs.reductions import NotRecognised, Total, recognise
from tests.support.aggregates import Graph, evaluate, trace

NUMPY = {"sum": np.add, "min": np.minimum, "max": np.maximum}
TYPES = ("float32", "float64", "int8", "uint8", "int32", "int64", "uint64")
COMBINE = {"sum": tf.add, "min": tf.minimum, "max": tf.maximum}


def extreme(reduction, dtype):
    """Return the constant that leaves a reduction unchanged."""
    if reduction == "sum":
        return np.zeros((), dtype)[()]
    info = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(dtype)
    return np.array(info.max if reduction == "min" else info.min, dtype)[()]


@dataclass(frozen=True)
class Aggregate:
    """An aggregate: zero, accumulate and merge."""

    zero: Graph
    accumulate: Graph
    merge: Graph

    def recognised(self) -> list[Total | None]:
        """Return the total of each tensor; None for a tensor that stays its zero for all client values."""
        zero = self.zero.function.call(None)
        found = leaves(recognise(zero, self.accumulate.function, self.merge.function))
        assert all(isinstance(leaf, Input | Known) for leaf in found)
        return [leaf.name if isinstance(leaf, Input) else None for leaf in found]


def check(aggregate: Aggregate, totals: list[Total | None], seed: int, *, close: bool = False) -> None:
    """Check that TensorFlow's result has the same bits as NumPy's sums, minima or maxima."""
    drawn = np.random.default_rng(seed)

    def number(spec):
        dtype = spec.dtype.as_numpy_dtype
        if np.issubdtype(dtype, np.integer):
            info = np.iinfo(dtype)
            return drawn.integers(info.min, info.max, spec.shape, dtype, endpoint=True)  # sums wrap around
        return drawn.normal(size=spec.shape).astype(dtype)

    zero = aggregate.zero.run()
    specs = dict(placeholders(aggregate.accumulate.graph))
    clients = [[number(specs[name]) for name in aggregate.accumulate.groups[1]] for _ in range(4)]
    so_far = zero
    expected = [np.array(one) for one in zero]
    for client in clients:
        alone = aggregate.accumulate.run(zero, client)
        so_far = aggregate.accumulate.run(so_far, client)
        with np.errstate(over="ignore"):
            expected = [
                old if total is None else NUMPY[total.reduction](old, new)
                for total, old, new in zip(totals, expected, alone, strict=True)
            ]
    other = aggregate.accumulate.run(zero, clients[0])
    merged = aggregate.merge.run(so_far, other)
    for total, one, wanted, right, both in zip(totals, so_far, expected, other, merged, strict=True):
        assert one.shape == (wanted.shape if total is None else total.shape)
        if close and one.dtype.kind == "f":
            np.testing.assert_allclose(one, wanted, rtol=1e-3, atol=1e-5)
        else:
            assert one.tobytes() == np.asarray(wanted).tobytes()
        with np.errstate(over="ignore"):
            sums = wanted if total is None else NUMPY[total.reduction](one, right)
        assert np.asarray(both).tobytes() == np.asarray(sums).tobytes()


def placeholders(graph):
    for node in graph.node:
        if node.op == "Placeholder":
            shape = tf.TensorShape(node.attr["shape"].shape)
            yield f"{node.name}:0", tf.TensorSpec(shape, tf.as_dtype(node.attr["dtype"].type))


# Ways to write the same reduction, and ways to write another one.

SAME = {
    "itself": lambda x: x,
    "identity": tf.identity,
    "identity_n": lambda x: tf.identity_n([x, x])[1],
    "stopped": tf.stop_gradient,
    "snapshot": lambda x: tf.raw_ops.Snapshot(input=x),
    "ensured": lambda x: tf.ensure_shape(x, x.shape),
    "after_nothing": lambda x: after(tf.no_op(), x),
}

MAPS = {
    "itself": lambda x: x,
    "one": tf.ones_like,
    "negated": lambda x: tf.zeros_like(x) - x,
    "squared": lambda x: x * x,
    "doubled": lambda x: x + x if x.dtype.is_integer else x * 2,
    "cast": lambda x: tf.cast(tf.cast(x, tf.float64), x.dtype),
    "selected": lambda x: tf.where(x > x[::-1], x, tf.zeros_like(x)),
}

ZEROS = {
    "constant": lambda shape, value: tf.constant(np.full(shape, value)),
    "filled": lambda shape, value: tf.fill(tf.constant(shape), tf.constant(value)),
    "broadcast": lambda shape, value: tf.broadcast_to(tf.constant(value), tf.constant(shape)),
    "reshaped": lambda shape, value: tf.reshape(tf.constant(np.full([1, *shape], value)), tf.constant(shape)),
    "identity": lambda shape, value: tf.identity(tf.constant(np.full(shape, value))),
}


def after(op, x):
    with tf.control_dependencies([op]):
        return tf.identity(x)


def adding(reduction):
    """Draw ways to combine two tensors."""
    ways = {"plain": COMBINE[reduction]}
    if reduction == "sum":
        ways |= {
            "old": lambda a, b: tf.raw_ops.Add(x=a, y=b) if a.dtype != tf.uint64 else a + b,
            "many": lambda a, b: tf.raw_ops.AddN(inputs=[a, b]) if a.dtype != tf.uint64 else a + b,
        }
    return ways


@st.composite
def tensors(draw):
    """Draw the aggregation of one tensor."""
    reduction = draw(st.sampled_from(sorted(NUMPY)))
    dtype = draw(st.sampled_from(TYPES))
    shape = draw(st.sampled_from([(3,), (2, 2), (1,)]))
    pick = {name: draw(st.sampled_from(sorted(SAME))) for name in ("before", "behind", "in_merge")}
    made = draw(st.sampled_from(sorted(MAPS)))
    combined = [draw(st.sampled_from(sorted(adding(reduction)))) for _ in range(2)]
    zero = draw(st.sampled_from(sorted(ZEROS)))
    turned = draw(st.booleans())
    return reduction, dtype, shape, pick, made, combined, zero, turned


def honest(parts) -> Aggregate:
    """Return the aggregate that is written in these ways."""
    specs = [tf.TensorSpec(shape, dtype) for _, dtype, shape, *_ in parts]

    def zero():
        return [ZEROS[way](shape, extreme(reduction, dtype)) for reduction, dtype, shape, _, _, _, way, _ in parts]

    def accumulate(so_far, values):
        results = []
        for (reduction, _, _, pick, made, combined, _, turned), old, value in zip(parts, so_far, values, strict=True):
            pair = SAME[pick["before"]](old), MAPS[made](value)
            results.append(SAME[pick["behind"]](adding(reduction)[combined[0]](*(pair[::-1] if turned else pair))))
        return results

    def merge(one, other):
        return [
            SAME[pick["in_merge"]](adding(reduction)[combined[1]](left, right))
            for (reduction, _, _, pick, _, combined, _, _), left, right in zip(parts, one, other, strict=True)
        ]

    return Aggregate(trace(zero), trace(accumulate, specs, specs), trace(merge, specs, specs))


laws = settings(max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@laws
@given(parts=st.lists(tensors(), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_every_form_of_a_sum_is_recognised_and_is_a_sum(parts, seed):
    aggregate = honest(parts)
    totals = aggregate.recognised()
    assert [(total.reduction, total.shape) for total in totals] == [(part[0], part[2]) for part in parts]
    check(aggregate, totals, seed)


@laws
@given(
    parts=st.lists(tensors(), min_size=1, max_size=2),
    where=st.sampled_from(["zero", "accumulate", "merge"]),
    mutation=st.sampled_from(["op", "input", "control", "number", "result"]),
    at=st.integers(0, 1000),
    op=st.sampled_from(
        ["Sub", "Mul", "Maximum", "Minimum", "AddV2", "Neg", "Identity", "Placeholder", "SquaredDifference"]
    ),
    seed=st.integers(0, 1000),
)
def test_changed_graph_is_recognised_only_if_it_is_still_a_sum(parts, where, mutation, at, op, seed):
    aggregate = honest(parts)
    changed = replace(aggregate, **{where: mutated(getattr(aggregate, where), mutation, at, op)})
    try:
        totals = changed.recognised()
    except NotRecognised:
        return
    try:
        check(changed, totals, seed, close=True)  # the order of additions may differ
    except (tf.errors.OpError, ValueError, TypeError):  # TensorFlow does not run it
        return


def mutated(function: Graph, mutation: str, at: int, op: str) -> Graph:
    """Return a graph with one change."""
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(function.graph)
    node = graph.node[at % len(graph.node)]
    names = [one.name for one in graph.node]
    match mutation:
        case "op" if node.op != "Placeholder":
            node.op = op
        case "input" if node.input:
            node.input[at % len(node.input)] = names[(at // 7) % len(names)]
        case "control":
            node.input.append(f"^{names[(at // 7) % len(names)]}")
        case "number" if node.op == "Const":
            value = node.attr["value"].tensor
            kept = tf.make_ndarray(value)
            if kept.size:
                kept = kept.copy()
                kept.flat[at % kept.size] += 1
            value.CopyFrom(tf.make_tensor_proto(kept))
        case "result":
            results = list(function.results)
            results[at % len(results)] = f"{names[(at // 7) % len(names)]}:0"
            return replace(function, graph=graph, results=results)
    return replace(function, graph=graph)


# Aggregates that are refused, each for a reason.

VECTOR = tf.TensorSpec([3], tf.float32)
COUNT = tf.TensorSpec([3], tf.int32)
PLUS = trace(lambda a, b: [a[0] + b[0]], [VECTOR], [VECTOR])
ZERO = trace(lambda: [tf.zeros([3])])


def counted():
    variable = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])
    return tf.raw_ops.ReadVariableOp(resource=variable, dtype=tf.float32)


def checked(condition, x):
    return after(tf.raw_ops.Assert(condition=tf.reduce_all(condition), data=[condition]), x)


NONE = {
    "concatenates": (ZERO, trace(lambda a, x: [tf.concat([a[0], x[0]], 0)], [VECTOR], [VECTOR]), PLUS, "joins values"),
    "keeps_the_first": (
        ZERO,
        trace(lambda a, x: [tf.where(tf.equal(a[0], 0.0), x[0], a[0])], [VECTOR], [VECTOR]),
        PLUS,
        "SelectV2",
    ),
    "keeps_the_last": (ZERO, trace(lambda a, x: [tf.identity(x[0])], [VECTOR], [VECTOR]), PLUS, "keeps or replaces"),
    "packs_into_one_number": (
        trace(lambda: [tf.zeros([3], tf.int64)]),
        trace(
            lambda a, x: [a[0] * (1 << 32) + x[0]],
            [tf.TensorSpec([3], tf.int64)],
            [tf.TensorSpec([3], tf.int64)],
        ),
        trace(lambda a, b: [a[0] + b[0]], [tf.TensorSpec([3], tf.int64)], [tf.TensorSpec([3], tf.int64)]),
        "adds other values than it should",
    ),
    "starts_at_one": (trace(lambda: [tf.ones([3])]), PLUS, PLUS, "zero is not the neutral element of a sum"),
    "starts_with_unequal_numbers": (trace(lambda: [tf.constant([0.0, 0.0, 1.0])]), PLUS, PLUS, "zero is not"),
    "draws_its_zero": (trace(lambda: [tf.random.uniform([3])]), PLUS, PLUS, "zero is not a constant"),
    "draws": (
        ZERO,
        trace(lambda a, x: [a[0] + tf.where(tf.random.uniform([]) < 0.5, x[0], a[0])], [VECTOR], [VECTOR]),
        PLUS,
        "Random",
    ),
    "remembers": (ZERO, trace(lambda a, x: [a[0] + x[0] * counted()], [VECTOR], [VECTOR]), PLUS, "VarHandleOp"),
    "adds_itself": (ZERO, trace(lambda a, x: [a[0] + a[0]], [VECTOR], [VECTOR]), PLUS, "twice"),
    "subtracts": (ZERO, trace(lambda a, x: [a[0] - x[0]], [VECTOR], [VECTOR]), PLUS, "Sub"),
    "merges_by_the_first": (ZERO, PLUS, trace(lambda a, b: [tf.identity(a[0])], [VECTOR], [VECTOR]), "merge keeps"),
    "merges_otherwise": (ZERO, PLUS, trace(lambda a, b: [tf.maximum(a[0], b[0])], [VECTOR], [VECTOR]), "merge does"),
    "joins_text": (
        trace(lambda: [tf.constant("")]),
        trace(lambda a, x: [a[0] + x[0]], [tf.TensorSpec([], tf.string)], [tf.TensorSpec([], tf.string)]),
        trace(lambda a, x: [a[0] + x[0]], [tf.TensorSpec([], tf.string)], [tf.TensorSpec([], tf.string)]),
        "accumulate computes with Add(V2)? of something else than numbers",
    ),
    "looks_at_the_sum_so_far": (
        ZERO,
        trace(lambda a, x: [checked(a[0] < 9.0, a[0] + x[0])], [VECTOR], [VECTOR]),
        PLUS,
        "may fail, depending on its total so far",
    ),
    "passes_on_after_a_look": (
        ZERO,
        PLUS,
        trace(lambda a, b: [checked(b[0] < 1.0, tf.identity(a[0]))], [VECTOR], [VECTOR]),
        "merge computes with a check",
    ),
    "swaps": (
        trace(lambda: [tf.zeros([3]), tf.zeros([3])]),
        trace(lambda a, x: [a[1] + x[0], a[0] + x[1]], [VECTOR] * 2, [VECTOR] * 2),
        trace(lambda a, b: [a[0] + b[0], a[1] + b[1]], [VECTOR] * 2, [VECTOR] * 2),
        "in its tensor 1 of 2",
    ),
    "is_a_product": (
        trace(lambda: [tf.ones([3])]),
        trace(lambda a, x: [a[0] * x[0]], [VECTOR], [VECTOR]),
        trace(lambda a, x: [a[0] * x[0]], [VECTOR], [VECTOR]),
        "Mul",
    ),
}


@pytest.mark.parametrize("name", sorted(NONE))
def test_other_aggregates_are_refused_with_their_reason(name):
    zero, accumulate, merge, why = NONE[name]
    with pytest.raises(NotRecognised, match=why):
        Aggregate(zero, accumulate, merge).recognised()


def test_report_may_select_but_not_compute():
    zero = ZERO.function.call(None)
    half = trace(lambda a: [a[0] / 2], [VECTOR])
    same = trace(lambda a: [tf.identity(a[0])], [VECTOR])
    total = Input(Total("sum", 1, (3,)))

    def report(graph):
        computation = graph.computation
        computation.tensorflow.parameter.CopyFrom(computation.tensorflow.parameter.struct.element[0])
        return evaluate(computation)

    assert recognise(zero, PLUS.function, PLUS.function, report(same)) == total
    with pytest.raises(NotRecognised, match="report computes something \\(RealDiv\\)"):
        recognise(zero, PLUS.function, PLUS.function, report(half))


def test_node_named_like_an_argument_is_not_the_argument():
    """TensorFlow feeds an output of a node: the fed value is used, with any op of the node."""
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(PLUS.graph)
    for node in graph.node:
        if node.op == "Placeholder":
            node.op = "RandomUniform"
    assert Aggregate(ZERO, replace(PLUS, graph=graph), PLUS).recognised() == [Total("sum", 1, (3,))]
    double = replace(PLUS, groups=[PLUS.groups[0], PLUS.groups[0]])
    with pytest.raises(NotRecognised, match="two of its parameters are one tensor"):
        Aggregate(ZERO, double, PLUS).recognised()


def test_function_named_like_an_op_is_refused():
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(PLUS.graph)
    graph.library.function.add().signature.name = "AddV2"
    with pytest.raises(NotRecognised, match="has the name of an op"):
        Aggregate(ZERO, replace(PLUS, graph=graph), PLUS).recognised()


OTHER_TYPES = [
    *((dtype, reduction) for dtype in ("float16", "bfloat16") for reduction in sorted(NUMPY)),
    ("complex64", "sum"),
]


@pytest.mark.parametrize(("dtype", "reduction"), OTHER_TYPES)
def test_other_types(dtype, reduction):
    spec = tf.TensorSpec([2], dtype)
    start = 0 if reduction == "sum" else (spec.dtype.max if reduction == "min" else spec.dtype.min)
    zero = trace(lambda: [tf.constant(start, spec.dtype, [2])])
    function = trace(lambda a, b: [COMBINE[reduction](a[0], b[0])], [spec], [spec])
    (total,) = Aggregate(zero, function, function).recognised()
    assert (total.reduction, total.dtype) == (reduction, spec.dtype.as_datatype_enum)


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinity_is_neutral_for_minimum_and_maximum(infinity):
    zero = trace(lambda: [tf.constant(np.full([3], infinity, np.float32))])
    lower, upper = (
        trace(lambda a, b, f=function: [f(a[0], b[0])], [VECTOR], [VECTOR]) for function in (tf.minimum, tf.maximum)
    )
    right, wrong = (lower, upper) if infinity > 0 else (upper, lower)
    assert Aggregate(zero, right, right).recognised()
    with pytest.raises(NotRecognised, match="zero is not"):
        Aggregate(zero, wrong, wrong).recognised()


def test_a_struct_keeps_its_layout():
    zero: Value = evaluate(trace(lambda: [tf.zeros([3]), tf.zeros([3])]).computation).call(None)  # type: ignore[attr-defined]
    assert isinstance(zero, Struct)
    function = trace(lambda a, b: [a[0] + b[0], a[1] + b[1]], [VECTOR] * 2, [VECTOR] * 2).function
    assert recognise(zero, function, function) == Struct.of([Input(Total("sum", 1, (3,)))] * 2)


def test_passed_on_tensor_keeps_its_zero():
    """Check each client's value against a bound, as TFF's secure sums in plaintext do."""
    bound = trace(lambda: [tf.zeros([3]), tf.constant(9.0)])
    pair = [VECTOR, tf.TensorSpec([], tf.float32)]

    def accumulate(so_far, value):
        return [checked(value[0] < so_far[1], so_far[0] + value[0]), tf.identity(so_far[1])]

    merge = trace(lambda a, b: [a[0] + b[0], a[1] + b[1]], pair, pair)
    zero = bound.function.call(None)
    found = leaves(recognise(zero, trace(accumulate, pair, [VECTOR]).function, merge.function))
    assert found == [Input(Total("sum", 1, (3,))), leaves(zero)[1]]


@pytest.mark.parametrize("times", [1, 3])
def test_functions_of_the_graph_are_inlined(times):
    """TensorFlow leaves function calls in a graph, of a zero without arguments, for instance."""

    def wrapped(function):
        for _ in range(times):
            function = tf.function(function)
        return function

    zero = trace(lambda: [wrapped(lambda: tf.zeros([3]))()])
    plus = trace(lambda a, b: [wrapped(lambda x, y: x + y)(a[0], b[0])], [VECTOR], [VECTOR])
    assert any("PartitionedCall" in node.op for node in zero.graph.node)
    assert Aggregate(zero, plus, plus).recognised() == [Total("sum", 1, (3,))]
    joined = trace(lambda a, b: [wrapped(lambda x, y: tf.concat([x, y], 0))(a[0], b[0])], [VECTOR], [VECTOR])
    with pytest.raises(NotRecognised, match="ConcatV2"):
        Aggregate(zero, joined, plus).recognised()


def test_function_that_the_optimizer_may_replace_is_refused():
    plus = trace(lambda a, b: [tf.function(lambda x, y: x + y)(a[0], b[0])], [VECTOR], [VECTOR])
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(plus.graph)
    for function in graph.library.function:
        function.attr["api_implements"].s = b"sum"
    with pytest.raises(NotRecognised, match="may replace a function"):
        Aggregate(ZERO, replace(plus, graph=graph), PLUS).recognised()
