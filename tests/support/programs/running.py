"""Run generated programs, and compare their results with their evaluation in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.programs.model import CLIENTS, Program
from tests.support.programs.shapes import V, dtype_of, is_struct

__all__ = ["Wrong", "check", "load", "skeleton"]

RTOL = 1e-6
"""For means, whose sums are exact but whose quotients may be computed in another way."""


class Wrong(AssertionError):
    """A program whose result is not that of its evaluation."""


def load(source: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the computation and the arguments of a program's source."""
    names: dict[str, Any] = {}
    exec(compile(source, "program", "exec"), names)
    return names["program"], names["arguments"]


def check(program: Program, result) -> None:
    """Compare a result with the evaluation in NumPy of the same program.

    Raises:
        Wrong: it names the first output that differs, and both values.
    """
    results = program.results(result)
    shapes = {one.name: one for one in (*program.parameters, *program.steps)}
    for output, found, expected in zip(program.outputs, results, program.expected(results), strict=True):
        value = shapes[output.name]
        spread = output.code == output.name and value.place == CLIENTS
        try:
            if not spread:
                _compare(value.shape, found, expected)
            elif isinstance(found, list):
                assert len(found) == len(expected), f"{len(found)} clients"
                for one, other in zip(found, expected, strict=True):
                    _compare(value.shape, one, other)
            else:  # all-equal
                for one in expected:
                    _compare(value.shape, found, one)
        except AssertionError as error:
            raise Wrong(f"{output.code} is {found}, not {expected}: {error}") from None


def _compare(shape, found, expected) -> None:
    if is_struct(shape):
        assert list(_names(found)) == (list(shape) if isinstance(shape, dict) else [None] * len(shape)), "names"
        parts = shape.values() if isinstance(shape, dict) else shape
        for part, one, other in zip(parts, _elements(found), _elements(expected), strict=True):
            _compare(part, one, other)
        return
    assert np.asarray(found).dtype == dtype_of(shape), f"dtype {np.asarray(found).dtype}"
    assert np.shape(found) == ((2,) if shape is V else ()), f"shape {np.shape(found)}"
    np.testing.assert_allclose(found, expected, rtol=RTOL if np.asarray(found).dtype.kind == "f" else 0)


def _names(struct) -> list:
    return list(struct) if isinstance(struct, dict) else [None] * len(struct)


def _elements(struct) -> list:
    return list(struct.values()) if isinstance(struct, dict) else list(struct)


def skeleton(value):
    """Return containers, names and dtypes of a value, without its numbers."""
    if isinstance(value, dict):
        return type(value), [(name, skeleton(part)) for name, part in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [skeleton(part) for part in value]
    return type(value), np.asarray(value).dtype, np.shape(value)


Run = Callable[[Program], Any]
