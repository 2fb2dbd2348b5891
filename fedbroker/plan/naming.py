"""Names of computations in logs and errors."""

from __future__ import annotations

import re
from typing import Final

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.rewrite import Block

__all__ = ["UNNAMED", "name_of", "name_of_block"]

UNNAMED: Final = "computation"

# TFF keeps no name, but derives the names of parameter and locals from the name of the decorated function.
_PARAMETER: Final = re.compile(r"(.+)_arg(_\d+)?")
_LOCAL: Final = re.compile(r"fc_(.+)_symbol_\d+")


def name_of(comp: tff.framework.ConcreteComputation) -> str:
    """Return the name of the decorated function of ``comp``, or ``computation`` if it is unknown."""
    return name_of_block(comp.to_building_block())


def name_of_block(block: Block) -> str:
    """Return the name of a computation, given its building block before compilation."""
    if not isinstance(block, bb.Lambda):
        return UNNAMED
    named = _PARAMETER.fullmatch(block.parameter_name or "") or _LOCAL.fullmatch(_first_local(block.result))
    return named[1] if named else UNNAMED


def _first_local(block: Block) -> str:
    return str(block.locals[0][0]) if isinstance(block, bb.Block) and block.locals else ""
