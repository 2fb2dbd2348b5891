"""Secure sums: refused, or computed in plaintext if the program's author allows it.

In plaintext, they are computed as in TFF's own test backend: ordinary aggregates with the same range checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.test import compiler as test_compiler
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb
from tensorflow_federated.python.core.impl.compiler import transformations
from tensorflow_federated.python.core.impl.context_stack import context_stack_impl

from fedbroker.plan.rewrite import Block, walk

__all__ = ["SECURE", "SecureSum", "in_plaintext", "secure_intrinsics"]

SecureSum: TypeAlias = Literal["refuse", "plaintext"]
"""The handling of secure intrinsics: a PlanError, or ordinary aggregates that the coordinator sees."""

_IN_THE_OPEN: Final = 'or pass secure_sum="plaintext" to the context if that is acceptable'
_SUM: Final = (
    "there is no secure aggregation here: the coordinator would see each silo's sum; "
    f"use tff.federated_sum (or an aggregator without secure sums), {_IN_THE_OPEN}"
)

SECURE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "federated_secure_sum": _SUM,
        "federated_secure_sum_bitwidth": _SUM,
        "federated_secure_modular_sum": _SUM,
        "federated_secure_select": (
            f"use tff.federated_select if the server may see the clients' keys, {_IN_THE_OPEN}"
        ),
    }
)
"""The intrinsics whose promise fedbroker cannot keep, each with its replacement."""


def secure_intrinsics(block: Block) -> tuple[str, ...]:
    """Return the names of the secure intrinsics in ``block``, each once."""
    return tuple(
        dict.fromkeys(part.uri for part in walk(block) if isinstance(part, bb.Intrinsic) and part.uri in SECURE)
    )


def in_plaintext(comp: tff.framework.ConcreteComputation) -> tff.framework.ConcreteComputation:
    """Replace the secure intrinsics of ``comp`` by ordinary ones that compute, and check, the same."""
    # Flatten first: the replacement nests deeper, and protobuf's parser accepts at most a hundred levels.
    flat = transformations.to_call_dominant(comp.to_building_block())
    return test_compiler.replace_secure_intrinsics_with_bodies(
        tff.framework.ConcreteComputation(computation_proto=flat.proto, context_stack=context_stack_impl.context_stack)
    )
