"""Assembles the result for the caller from the stages' serialized outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow_federated as tff
from tensorflow_federated.python.core.environments.tensorflow_frontend import tensorflow_computation
from tensorflow_federated.python.core.impl.types import type_conversions

from fedbroker.context.composite_tensors import together
from fedbroker.context.values import deserialize, federate, members
from fedbroker.plan.model import FunctionResult, Plan, Slot, Template
from fedbroker.wire.codec import Buffer

__all__ = ["ResultValues", "assemble"]


@dataclass(frozen=True, slots=True)
class ResultValues:
    """Serialized values of the result's slots, by name: one or, for a clients-placed slot, one for each silo."""

    by_slot: Mapping[str, Sequence[Buffer]]


def assemble(plan: Plan, values: ResultValues) -> object:
    """Return the result in the Python containers of the computation's type, with TFF's own dtypes."""
    python = _fill(plan.result, values)
    contained = type_conversions.type_to_py_container(python, together(plan.type.result))
    return tensorflow_computation.transform_result(contained)


def _fill(template: Template, values: ResultValues) -> object:
    if isinstance(template, Slot):
        return _value(template, values.by_slot[template.name])
    if isinstance(template, FunctionResult):
        return template.computation
    return tff.structure.Struct([(name, _fill(element, values)) for name, element in template.elements])


def _value(slot: Slot, parts: Sequence[Buffer]) -> object:
    type_ = slot.type
    if not isinstance(type_, tff.FederatedType) or type_.placement is not tff.CLIENTS:
        return deserialize(parts[0], type_)
    every = [member for part in parts for member in members(part)]
    if not every:
        return []
    # The runtime does not distinguish all-equal values from others: it returns one value for each client.
    return deserialize(federate(every[:1] if type_.all_equal else every, type_), type_)
