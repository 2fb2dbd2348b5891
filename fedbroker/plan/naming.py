"""What a computation is called in logs and errors.

Imports TFF only.
"""

from __future__ import annotations

import re
from typing import Final

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks as bb

from fedbroker.plan.rewrite import Block

__all__ = ["UNNAMED", "name_of", "name_of_block"]

UNNAMED: Final = "computation"

# TFF keeps no name, but makes those of parameter and locals from that of the decorated function.
_PARAMETER: Final = re.compile(r"(.+)_arg(_\d+)?")
_LOCAL: Final = re.compile(r"fc_(.+)_symbol_\d+")


def name_of(comp: tff.framework.ConcreteComputation) -> str:
    """The name of the function that ``comp`` was made of, or ``computation`` where that cannot be told."""
    return name_of_block(comp.to_building_block())


def name_of_block(block: Block) -> str:
    """The same of a computation's building block, as it is before it is compiled."""
    if not isinstance(block, bb.Lambda):
        return UNNAMED
    named = _PARAMETER.fullmatch(block.parameter_name or "") or _LOCAL.fullmatch(_first_local(block.result))
    return named[1] if named else UNNAMED


def _first_local(block: Block) -> str:
    return str(block.locals[0][0]) if isinstance(block, bb.Block) and block.locals else ""
