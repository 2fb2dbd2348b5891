"""Sums of silos' partials in NumPy, tensor by tensor, with the bits that the merge's own computation has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import tensorflow_federated as tff

from fedbroker.context.values.codec import MEMBERS, filled, read, split, write
from fedbroker.errors import WireError
from fedbroker.plan.secure_partials import tensors_of
from fedbroker.runtime.values import struct
from fedbroker.wire.blobs import Buffer

__all__ = ["PartialSums", "member_of"]

Array: TypeAlias = np.ndarray[Any, Any]

_SAME_VERSION: Final = "use the same version at both ends"


class PartialSums:
    """The sums of the partials of one server stage.

    Args:
        types: for each merge, the type of its partials: tensors with known shapes, in structs.
    """

    def __init__(self, types: Sequence[tff.Type]) -> None:
        self._types = tuple(types)
        self._tensors = [list(tensors_of(type_)) for type_ in types]
        self._totals: list[list[Array]] | None = None

    def add(self, partials: Sequence[Buffer]) -> None:
        """Add one silo's partials; the first silo's are copied. May be called in a thread, for one silo at a time.

        Args:
            partials: one for each merge, as the silo sent them.

        Raises:
            WireError: they are not of the merges' types.
        """
        if len(partials) != len(self._types):
            raise WireError(f"{len(partials)} partial aggregates, and not {len(self._types)}", hint=_SAME_VERSION)
        arrays = [
            list(_arrays(member_of(partial), type_, tensors))
            for partial, type_, tensors in zip(partials, self._types, self._tensors, strict=True)
        ]
        if self._totals is None:
            self._totals = [[array.copy() for array in one] for one in arrays]
            return
        with np.errstate(all="ignore"):  # sums overflow as TensorFlow's do, without a warning
            for totals, one in zip(self._totals, arrays, strict=True):
                for total, array in zip(totals, one, strict=True):
                    np.add(total, array, out=total)

    def value(self) -> list[Buffer]:
        """Return the serialized struct of the sums, in parts."""
        assert self._totals is not None, "no silo sent partials"
        pairs = zip(self._types, self._totals, strict=True)
        return struct((None, write(filled(type_, iter(totals)), type_)) for type_, totals in pairs)


def member_of(partial: Buffer) -> Buffer:
    """Return the member of a serialized server-placed value.

    Raises:
        WireError: it has another number of members than one.
    """
    members = split(partial, MEMBERS)
    if len(members) != 1:
        raise WireError(f"a silo's partial aggregate has {len(members)} values", hint=_SAME_VERSION)
    return members[0]


def _arrays(data: Buffer, type_: tff.Type, tensors: Sequence[tff.TensorType]) -> Iterator[Array]:
    """Yield the tensors of a serialized value; large ones are views of it."""
    try:
        value = read(data, type_)
        found = tff.structure.flatten(value) if isinstance(value, tff.structure.Struct) else [value]
        for tensor, array in zip(tensors, map(np.asarray, found), strict=True):
            if array.dtype != tensor.dtype or array.shape != tuple(tensor.shape or ()):
                raise ValueError(f"a tensor is {array.dtype}{list(array.shape)}, and not {tensor}")
            yield array
    except (TypeError, ValueError) as error:
        raise WireError(f"a silo's partial aggregate is not of its type: {error}", hint=_SAME_VERSION) from None
