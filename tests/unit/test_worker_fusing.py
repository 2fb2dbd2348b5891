"""Ops with fused structs compute the same outputs as before, and leave the same values behind."""

from __future__ import annotations

import pytest
from fedbroker_worker.work import fusing
from fedbroker_worker.work.fusing import ComputedElements, FusedStruct, fuse
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.wire.messages import Call, Compute, Data, Drop, Select, Struct, Value

BLOBS = {"a": b"1", "b": b"22", "large": bytes(fusing.MAX_FUSED + 1)}
REFS = st.integers(1, 6)


def ran(program, held=()):
    """Run ops symbolically; return outputs and remaining values, or None if an op uses a missing value."""
    refs, outputs = dict(held), []
    for op in program:
        try:
            match op:
                case Value(ref, blob):
                    refs[ref] = blob
                case Data(ref, name):
                    refs[ref] = f"data {name}"
                case Struct(ref, elements):
                    refs[ref] = tuple((name, refs[one]) for name, one in elements)
                case FusedStruct(ref, elements):
                    refs[ref] = elements
                case Select(ref, source, index):
                    refs[ref] = ("select", refs[source], index)
                case Call(ref, function, argument):
                    refs[ref] = ("call", refs[function], argument and refs[argument])
                case Compute(ref):
                    outputs.append(refs[ref])
                case ComputedElements(source, indices):
                    outputs += [("select", refs[source], index) for index in indices]
                case Drop(gone):
                    for ref in gone:
                        refs.pop(ref)
        except KeyError:
            return None
    return outputs, refs


ELEMENTS = st.lists(st.tuples(st.sampled_from(["", "x"]), REFS), max_size=3).map(tuple)
OPS = st.one_of(
    st.builds(Value, REFS, st.sampled_from(sorted(BLOBS))),
    st.builds(Data, REFS, st.just("source"), st.just(())),
    st.builds(Struct, REFS, ELEMENTS),
    st.builds(Select, REFS, REFS, st.integers(0, 2)),
    st.builds(Call, REFS, REFS, st.none() | REFS),
    st.builds(Compute, REFS),
    st.builds(Drop, st.lists(REFS, max_size=3, unique=True).map(tuple)),
)


RUNS = st.one_of(
    OPS.map(lambda op: [op]),
    st.builds(  # elements of a struct, most of them computed right after that
        lambda source, refs, kept: [
            *[Select(ref, source, index) for index, ref in enumerate(refs)],
            *[Compute(ref) for ref in reversed(refs) if ref not in kept],
            Drop(tuple(refs)),
        ],
        REFS,
        st.lists(REFS, min_size=1, max_size=3, unique=True),
        st.sets(REFS, max_size=1),
    ),
)


@settings(max_examples=2000)
@given(st.lists(RUNS, max_size=10).map(lambda runs: [op for run in runs for op in run]), st.booleans())
def test_fused_ops_compute_the_same(program, last):
    held = {5: "held", 6: "held"}
    before = ran(program, held)
    if before is None:
        return  # an error in both cases
    after = ran(fuse(program, BLOBS, ends_session=last, session_refs=held), held)
    assert after is not None
    assert after[0] == before[0]
    if not last:
        assert after[1] == before[1]


SELECTED = [Call(1, 9, None), Select(2, 1, 0), Select(3, 1, 1)]


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_outputs_of_a_struct_are_computed_with_it(order):
    program = [*SELECTED, *map(Compute, order), Drop((9, 1, 2, 3))]
    whole = [Call(1, 9, None), ComputedElements(1, tuple(ref - 2 for ref in order))]
    assert fuse(program, {}, ends_session=False) == [*whole, Drop((9, 1))]
    assert fuse(program[:-1], {}, ends_session=True) == whole


@pytest.mark.parametrize(
    ("later", "drop"),
    [
        ([Compute(2)], (2, 3)),  # an element is not computed: it is kept for a later stage, and may be large
        ([Compute(2), Compute(3)], (2,)),  # an element is needed later
        ([Compute(2), Compute(3), Call(4, 2, None)], (2, 3)),
        ([Compute(2), Compute(2)], (2, 3)),
        ([Drop((1,)), Compute(2), Compute(3)], (2, 3)),
        ([Select(4, 2, 0), Compute(2), Compute(3), Compute(4)], (2, 3, 4)),  # elements of two structs
    ],
)
def test_other_elements_are_selected_one_by_one(later, drop):
    program = [*SELECTED, *later, Drop(drop)]
    assert fuse(program, {}, ends_session=False) == program


def test_values_of_a_struct_are_fused():
    program = [Value(1, "a"), Value(2, "b"), Struct(3, (("x", 1), ("", 2))), Call(4, 9, 3), Compute(4), Drop((1, 2, 4))]
    joined = [FusedStruct(3, (("x", "a"), ("", "b"))), Call(4, 9, 3), Compute(4)]
    assert fuse(program, BLOBS, ends_session=False) == [*joined, Drop((4,))]
    assert fuse(program[:-1], BLOBS, ends_session=True) == joined


@pytest.mark.parametrize("before", [[], [Drop((5,))], [Drop((5,)), Value(5, "b"), Drop((5,))]])
def test_value_with_a_used_id_replaces_it(before):
    program = [*before, Value(5, "a"), Struct(3, (("x", 5),)), Drop((5,))]
    assert fuse(program, BLOBS, ends_session=False, session_refs={5}) == program
    again = [Drop((5,)), Value(5, "a"), Struct(3, (("x", 5),))]
    assert fuse(again, BLOBS, ends_session=False, session_refs={5}) == again


def test_reused_kept_or_large_values_are_not_fused():
    for used in ([Compute(1)], [Struct(5, (("", 1),))], [Value(1, "b")]):
        program = [Value(1, "a"), Struct(3, (("x", 1),)), *used]
        assert not any(
            isinstance(step, FusedStruct) and step.ref == 3 for step in fuse(program, BLOBS, ends_session=True)
        ), used
    later = [Struct(3, (("x", 5),)), Value(5, "a"), Drop((5,))]
    assert fuse(later, BLOBS, ends_session=False) == later
    kept = [Value(1, "a"), Struct(3, (("x", 1),))]
    assert fuse(kept, BLOBS, ends_session=False) == kept
    large = [Value(1, "large"), Struct(3, (("x", 1),))]
    assert fuse(large, BLOBS, ends_session=True) == large
