"""Ops with fused structs compute the same outputs as before, and leave the same values behind."""

from __future__ import annotations

import pytest
from fedbroker_worker.work import replay
from fedbroker_worker.work.replay import FusedStruct, fuse_structs
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.wire.messages import Call, Compute, Data, Drop, Select, Struct, Value

BLOBS = {"a": b"1", "b": b"22", "large": bytes(replay.MAX_FUSED + 1)}
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


@settings(max_examples=2000)
@given(st.lists(OPS, max_size=10), st.booleans())
def test_fused_ops_compute_the_same(program, last):
    held = {5: "held", 6: "held"}
    before = ran(program, held)
    if before is None:
        return  # an error in both cases
    after = ran(fuse_structs(program, BLOBS, ends_session=last, session_refs=held), held)
    assert after is not None
    assert after[0] == before[0]
    if not last:
        assert after[1] == before[1]


def test_values_of_a_struct_are_fused():
    program = [Value(1, "a"), Value(2, "b"), Struct(3, (("x", 1), ("", 2))), Call(4, 9, 3), Compute(4), Drop((1, 2, 4))]
    joined = [FusedStruct(3, (("x", "a"), ("", "b"))), Call(4, 9, 3), Compute(4)]
    assert fuse_structs(program, BLOBS, ends_session=False) == [*joined, Drop((4,))]
    assert fuse_structs(program[:-1], BLOBS, ends_session=True) == joined


@pytest.mark.parametrize("before", [[], [Drop((5,))], [Drop((5,)), Value(5, "b"), Drop((5,))]])
def test_value_with_a_used_id_replaces_it(before):
    program = [*before, Value(5, "a"), Struct(3, (("x", 5),)), Drop((5,))]
    assert fuse_structs(program, BLOBS, ends_session=False, session_refs={5}) == program
    again = [Drop((5,)), Value(5, "a"), Struct(3, (("x", 5),))]
    assert fuse_structs(again, BLOBS, ends_session=False, session_refs={5}) == again


def test_reused_kept_or_large_values_are_not_fused():
    for used in ([Compute(1)], [Struct(5, (("", 1),))], [Value(1, "b")]):
        program = [Value(1, "a"), Struct(3, (("x", 1),)), *used]
        assert not any(
            isinstance(step, FusedStruct) and step.ref == 3 for step in fuse_structs(program, BLOBS, ends_session=True)
        ), used
    later = [Struct(3, (("x", 5),)), Value(5, "a"), Drop((5,))]
    assert fuse_structs(later, BLOBS, ends_session=False) == later
    kept = [Value(1, "a"), Struct(3, (("x", 1),))]
    assert fuse_structs(kept, BLOBS, ends_session=False) == kept
    large = [Value(1, "large"), Struct(3, (("x", 1),))]
    assert fuse_structs(large, BLOBS, ends_session=True) == large
