"""Refuse computations that cannot run on a cohort, before a message is sent."""

from __future__ import annotations

from collections.abc import Collection

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.errors import PlanError
from fedbroker.plan.functions import holds_function
from fedbroker.plan.rewrite import Block, walk
from fedbroker.plan.secure import SECURE, secure_intrinsics

__all__ = ["check_supported"]


def check_supported(block: Block, exposed: Collection[str] = ()) -> None:
    """Check that a computation can run on a cohort.

    Args:
        block: the computation.
        exposed: the secure intrinsics to compute in plaintext.

    Raises:
        PlanError: names the first intrinsic or construct that cannot be planned, and its replacement.
    """
    _check_signature(block.type_signature)
    for uri in (uri for uri in secure_intrinsics(block) if uri not in exposed):
        raise PlanError(f"{uri} cannot be planned", intrinsic=uri, hint=SECURE[uri])
    for part in walk(block):
        if isinstance(part, bb.Data):
            raise PlanError(
                "a Data building block cannot be planned",
                intrinsic="data",
                hint='pass fedbroker.data("name") as the argument instead',
            )
        if isinstance(part, bb.CompiledComputation) and part.proto.WhichOneof("computation") == "xla":
            raise PlanError(
                "tff.jax.computation cannot be planned: TFF 0.87's C++ runtime does not run XLA",
                intrinsic="xla",
                hint="write it with tff.tensorflow.computation",
            )


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
