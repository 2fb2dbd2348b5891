"""Sizes in bytes of values of a TFF type, if its shape determines them."""

from __future__ import annotations

import math

import numpy as np
import tensorflow_federated as tff

__all__ = ["human_bytes", "static_bytes"]


def static_bytes(type_: tff.Type) -> int | None:
    """Return the bytes of one value (of one client, if clients-placed) without headers; None if no shape says so."""
    if isinstance(type_, tff.FederatedType):
        return static_bytes(type_.member)
    if isinstance(type_, tff.TensorType):
        shape = type_.shape
        if shape is None or None in shape or type_.dtype.type is np.str_:
            return None
        return int(math.prod(shape) * np.dtype(type_.dtype).itemsize)
    if isinstance(type_, tff.StructType):
        sizes = [static_bytes(element) for _, element in tff.structure.iter_elements(type_)]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    return None


def human_bytes(size: int | None) -> str:
    """Format ``size`` for people, in powers of 1024; ``?`` if it is unknown."""
    if size is None:
        return "? B"
    amount = float(size)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
