"""Compile a TFF computation into a flat list of local values, with TFF's own native compiler.

The result is call-dominant: each local value is one call, whose arguments are references and selections. Secure sums
are refused, masked, or computed in plaintext if the program's author allows it: as in TFF's own test backend, by
ordinary aggregates with the same range checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.native import compiler as native
from tensorflow_federated.python.core.backends.test import compiler as test_compiler
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import transformations

from fedbroker.errors import PlanError
from fedbroker.plan.blocks import (
    Block,
    as_computation,
    bind,
    element_types,
    name_of_block,
    parameter_of,
    proto_of,
    untyped,
    walk,
)
from fedbroker.plan.functions import holds_function
from fedbroker.plan.masked import with_moduli_as_locals
from fedbroker.plan.model import Slot
from fedbroker.plan.moduli import with_moduli_of_one_dtype
from fedbroker.plan.selects import SELECTS, with_rows_in_order
from fedbroker.plan.sequences import SEQUENCE_INTRINSICS, sequences_as_tensorflow

__all__ = ["DEFECT", "SECURE", "Flat", "SecureSum", "contents_of", "flatten"]

SecureSum: TypeAlias = Literal["refuse", "plaintext", "masked"]
"""The handling of secure sums: a PlanError, ordinary aggregates that the coordinator sees, or masked sums."""

_SUM: Final = (
    "the coordinator would see each silo's sum: pass keys= of a cohort with a roster, and sums are masked (see "
    'docs/secure-sums.md); or use tff.federated_sum, or Options(secure_sum="plaintext"), if that is acceptable'
)

SECURE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "federated_secure_sum": _SUM,
        "federated_secure_sum_bitwidth": _SUM,
        "federated_secure_modular_sum": _SUM,
    }
)
"""The intrinsics whose promise depends on keys, each with its replacement.

``federated_secure_select`` is not among them: the server's value is sent to every silo, which selects by itself. The
keys never leave the silo, so that it is planned as ``federated_select`` in every mode.
"""

DEFECT: Final = (
    "this is a defect of fedbroker: report this line, the versions of fedbroker and tensorflow-federated, and the "
    "program's text, which holds no arguments: print(computation.to_building_block().formatted_representation())"
)
"""The hint of errors that no program should cause."""

PARAMETER_PREFIX = "arg"


@dataclass(frozen=True, slots=True)
class Flat:
    """A computation as bindings.

    Attributes:
        name: the computation's name in logs and errors.
        parameters: leaves of the parameter; references to them have the slot's name.
        locals: name and value, each one call, in an order in which they can be evaluated.
        result: structs, selections and references.
        once: names of unplaced locals that are evaluated exactly once, at the coordinator, even if they are pure.
        exposed: the secure sums that are computed in plaintext.
        masked: the secure sums that are masked.
    """

    name: str
    parameters: tuple[Slot, ...]
    locals: tuple[tuple[str, Block], ...]
    result: Block
    once: frozenset[str] = frozenset()
    exposed: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()


def flatten(comp: tff.framework.ConcreteComputation, secure_sum: SecureSum) -> Flat:
    """Compile ``comp`` and split it into its bindings.

    Raises:
        PlanError: it contains something that cannot run on a cohort.
    """
    block = comp.to_building_block()
    contents = contents_of(block)
    exposed = contents.secure if secure_sum == "plaintext" else ()
    masked = contents.secure if secure_sum == "masked" else ()
    _check_supported(block, contents, exposed or masked)
    try:
        if exposed:
            comp = _in_plaintext(comp)
        if contents.selects:
            comp = with_rows_in_order(comp)
        if contents.sequences:
            comp = sequences_as_tensorflow(comp)
        compiled: Block = untyped(native).desugar_and_transform_to_native(comp).to_building_block()
    except Exception as error:  # TFF raises many types here; all mean the same to the caller
        raise PlanError(
            f"cannot compile the computation: {type(error).__name__}: {_first_line(error)}", hint=DEFECT
        ) from error
    _check_supported(compiled, contents_of(compiled), masked)
    function = _as_lambda(compiled)
    parameters, arguments = _split_parameter(function)
    locals_, result = _split_body(function.result)
    # TFF's names are random. These depend on the computation only, so that the stages' digests do, too.
    names = {name: f"v{index}" for index, (name, _) in enumerate(locals_)}
    values = arguments | {name: bb.Reference(names[name], value.type_signature) for name, value in locals_}
    renamed, once = with_moduli_as_locals([(names[name], bind(value, values)) for name, value in locals_])
    return Flat(name_of_block(block), parameters, renamed, bind(result, values), once, exposed, masked)


# --- what a computation contains ---


@dataclass(frozen=True, slots=True)
class Contents:
    """The parts of a computation that need a treatment of their own.

    Attributes:
        secure: names of the secure intrinsics, each once.
        sequences: True if it contains a sequence intrinsic.
        selects: True if it contains ``federated_select``, or the secure one.
        refused: the first part that cannot be planned at all, and its replacement.
    """

    secure: tuple[str, ...]
    sequences: bool
    selects: bool
    refused: PlanError | None


def contents_of(block: Block) -> Contents:
    """Look at each part of a computation once."""
    uris: dict[str, None] = {}
    refused: PlanError | None = None
    for part in walk(block):
        if isinstance(part, bb.Intrinsic):
            uris[part.uri] = None
        elif refused is None:
            refused = _refused(part)
    secure = tuple(uri for uri in uris if uri in SECURE)
    return Contents(secure, not SEQUENCE_INTRINSICS.isdisjoint(uris), not SELECTS.isdisjoint(uris), refused)


def _refused(part: Block) -> PlanError | None:
    if isinstance(part, bb.Data):
        return PlanError(
            "a Data building block cannot be planned",
            intrinsic="data",
            hint='pass fedbroker.data("name") as the argument instead',
        )
    if isinstance(part, bb.CompiledComputation) and proto_of(part).WhichOneof("computation") == "xla":
        return PlanError(
            "tff.jax.computation cannot be planned: TFF 0.87's C++ runtime does not run XLA",
            intrinsic="xla",
            hint="write it with tff.tensorflow.computation",
        )
    return None


def _check_supported(block: Block, contents: Contents, allowed: tuple[str, ...]) -> None:
    """Check that a computation can run on a cohort.

    Args:
        block: the computation.
        contents: its parts.
        allowed: the secure sums to compute in plaintext, or to mask.

    Raises:
        PlanError: names the first intrinsic or construct that cannot be planned, and its replacement.
    """
    _check_signature(block.type_signature)
    for uri in contents.secure:
        if uri not in allowed:
            raise PlanError(f"{uri} cannot be planned", intrinsic=uri, hint=SECURE[uri])
    if contents.refused is not None:
        raise contents.refused


def _check_signature(type_: tff.Type) -> None:
    if not isinstance(type_, tff.FunctionType):
        raise PlanError(
            f"only a function can be invoked, not a value of type {type_}",
            hint="wrap it in a tff.federated_computation",
        )
    if holds_function(type_.parameter):
        raise PlanError(
            f"the parameter holds a function ({type_.parameter}), which becomes part of the computation in a call",
            hint="call it, or explain a computation in which the function is called",
        )


def _in_plaintext(comp: tff.framework.ConcreteComputation) -> tff.framework.ConcreteComputation:
    """Replace the secure intrinsics of ``comp`` by ordinary ones that compute, and check, the same."""
    # Flatten first: the replacement nests deeper, and protobuf's parser accepts at most a hundred levels.
    flat = with_moduli_of_one_dtype(transformations.to_call_dominant(comp.to_building_block()))
    replaced: tff.framework.ConcreteComputation = untyped(test_compiler).replace_secure_intrinsics_with_bodies(
        as_computation(flat)
    )
    return replaced


# --- bindings ---


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "no message"


def _as_lambda(block: Block) -> bb.Lambda:
    """Return the block as a Lambda; a single TensorFlow computation is wrapped in a Lambda that calls it."""
    if isinstance(block, bb.Block) and isinstance(block.result, bb.Lambda):
        inner = block.result
        return bb.Lambda(inner.parameter_name, inner.parameter_type, bb.Block(block.locals, inner.result))
    if isinstance(block, bb.Lambda):
        return block
    assert isinstance(block.type_signature, tff.FunctionType)
    parameter = block.type_signature.parameter
    name = None if parameter is None else "whole"
    call = bb.Call(block, None if parameter is None else bb.Reference("whole", parameter))
    return bb.Lambda(name, parameter, bb.Block([("called", call)], bb.Reference("called", call.type_signature)))


def _split_body(body: Block) -> tuple[list[tuple[str, Block]], Block]:
    """Return bindings and result, of blocks that may be nested in the result position."""
    locals_: list[tuple[str, Block]] = []
    while isinstance(body, bb.Block):
        locals_.extend(body.locals)
        body = body.result
    return locals_, body


def _split_parameter(function: bb.Lambda) -> tuple[tuple[Slot, ...], dict[str, Block]]:
    """Return the parameter's leaves, and the expression that builds the parameter from them."""
    if function.parameter_name is None:
        return (), {}
    slots: list[Slot] = []

    def expand(type_: tff.Type, path: tuple[int, ...]) -> Block:
        if isinstance(type_, tff.StructType) and _holds_federated(type_):
            return bb.Struct(
                [(name, expand(part, (*path, index))) for index, (name, part) in enumerate(element_types(type_))]
            )
        slot = Slot("_".join([PARAMETER_PREFIX, *map(str, path)]), type_, path)
        slots.append(slot)
        return bb.Reference(slot.name, type_)

    whole = expand(parameter_of(function), ())
    return tuple(slots), {function.parameter_name: whole}


def _holds_federated(type_: tff.Type) -> bool:
    return any(isinstance(part, tff.FederatedType) for part in _parts(type_))


def _parts(type_: tff.Type) -> list[tff.Type]:
    return [type_, *(part for child in type_.children() for part in _parts(child))]
