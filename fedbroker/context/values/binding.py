"""Binds a silo's columns to the value that a computation takes.

The columns arrive in the silo's runtime as a struct of arrays. The *binder* makes the expected value of them there: see
:mod:`fedbroker.context.values.binder`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tensorflow_federated as tff

from fedbroker.context.values.binder import Leaf, make_binder
from fedbroker.context.values.data import SiloData
from fedbroker.errors import DataError, UsageError
from fedbroker.text import printable
from fedbroker.wire.messages import Column, Source

__all__ = ["Binding", "bind_type", "check_source", "combined_error"]


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """The columns to read from a source, and the value to make of them; the same for every silo.

    Attributes:
        expected: the member type.
        leaves: one leaf for each column, in the order of the binder's parameter.
        scalar: True if each column has one row, passed without its first dimension.
        rows: number of rows that a source must have, or None for any number.
        shuffles: True if the binder takes each client's seed, too.
        binder: a TFF computation ``{<c0,c1,…>}@CLIENTS -> {expected}@CLIENTS``, as a serialized executor value; with a
            second parameter, ``{<int64[2]>}@CLIENTS``, if it shuffles.
    """

    expected: tff.Type
    leaves: tuple[Leaf, ...]
    scalar: bool
    rows: int | None
    shuffles: bool
    binder: bytes


def bind_type(handle: SiloData, expected: tff.Type) -> Binding:
    """Return the binding of ``handle`` to a parameter ``{expected}@CLIENTS``; the same object in each round.

    Raises:
        UsageError: no source can fit that type, or the handle's options do not fit it.
    """
    return _bind_type(replace(handle, draw=None, seed=None, round=None), expected)


@functools.lru_cache(maxsize=256)
def _bind_type(handle: SiloData, expected: tff.Type) -> Binding:
    sequence = isinstance(expected, tff.SequenceType)
    tensors = list(_tensors(expected.element if sequence else expected))
    if not tensors:
        raise UsageError(f"{expected} holds no tensor to bind data to", hint="declare at least one column")
    if not sequence:
        _check_array(handle, expected)
    batch = _batch(handle, tensors, expected) if sequence else None
    scalar = not sequence and all(not type_.shape for _, type_ in tensors)
    stacked = batch is not None or not (sequence or scalar)
    if stacked and any(not type_.shape for _, type_ in tensors):
        raise UsageError(
            f"{expected} mixes scalars with arrays of rows",
            hint="give every column a first dimension for its rows, or none",
        )
    leaves = tuple(
        Leaf(column, _dtype_name(type_), tuple(type_.shape[1:] if stacked else type_.shape))
        for column, type_ in tensors
    )
    rows: set[int] = {type_.shape[0] for _, type_ in tensors} - {None} if stacked and not sequence else set[int]()
    if len(rows) > 1:
        raise UsageError(f"{expected} asks for columns of different lengths", hint="they come from the same rows")
    binder = make_binder(expected, leaves, handle, batch, scalar=scalar)
    return Binding(expected, leaves, scalar, 1 if scalar else next(iter(rows), None), handle.shuffle, binder)


def check_source(
    binding: Binding, handle: SiloData, silo: str, sources: Mapping[str, Source]
) -> tuple[tuple[str, str], ...]:
    """Check that a silo's source fits the binding, by its announcement.

    A source without rows fits any type, because nothing told the silo which types its columns have.

    Returns:
        Name (or ``#`` and position) and dtype of each column to read, in the order of ``binding.leaves``; with the
        row shape (``float32[?,4]``) where a source without rows was announced with another one.

    Raises:
        DataError: the source does not fit; names the silo, each column that does not fit, and the expected and the
            announced type.
    """
    source = sources.get(handle.name)
    if source is None:
        raise DataError(
            silo,
            handle.name,
            expected="a source of that name",
            found=", ".join(sorted(sources)) or "none at all",
            hint=f"add [data.{handle.name}] to its silo.toml",
        )
    positional = [leaf for leaf in binding.leaves if leaf.column.startswith("#")]
    if positional and len(source.columns) != len(binding.leaves):
        raise DataError(
            silo,
            handle.name,
            expected=f"{len(binding.leaves)} column{'s' * (len(binding.leaves) > 1)}, as the type has no names",
            found=", ".join(column.name for column in source.columns),
            hint="name the columns in the type, or select fewer in the source",
        )
    # The number of rows is announced for all clients together: it tells nothing about a single client's rows.
    if source.clients == 1 and None not in (binding.rows, source.rows) and source.rows != binding.rows:
        raise DataError(silo, handle.name, expected=f"{binding.rows} rows", found=f"{source.rows}")
    columns: list[tuple[str, str]] = []
    errors: list[DataError] = []
    for index, leaf in enumerate(binding.leaves):
        column = _column(source, leaf, index)
        try:
            _check_column(leaf, column, handle, silo, source)
        except DataError as error:
            errors.append(error)
        else:
            fits = column is None or _fits(column.shape, leaf.row)
            columns.append((leaf.column, leaf.dtype if fits else leaf.dtype + _sizes(leaf.row)))
    if errors:
        raise combined_error(errors)
    return tuple(columns)


def combined_error(errors: Sequence[DataError]) -> DataError:
    """Return the first error with the line of all; silos with the same cause are named together."""
    first, *others = errors
    if others:
        silos: dict[str, list[str]] = {}
        for error in errors:
            silos.setdefault(error.cause, []).append(repr(error.silo))
        first.others = tuple(others)
        first.what = "; ".join(
            f"silo{'s' * (len(names) > 1)} {', '.join(names)} failed: {cause}" for cause, names in silos.items()
        )
    return first


def _column(source: Source, leaf: Leaf, index: int) -> Column | None:
    if leaf.column.startswith("#"):
        return source.columns[index]
    name = printable(leaf.column)  # names are announced in printable form
    return next((column for column in source.columns if column.name == name), None)


def _check_column(leaf: Leaf, column: Column | None, handle: SiloData, silo: str, source: Source) -> None:
    expected = _describe(leaf.dtype, leaf.row)
    if column is None:
        names = ", ".join(column.name for column in source.columns)
        raise DataError(silo, handle.name, column=leaf.column, expected=expected, found=f"columns {names}")
    if source.rows == 0:
        return
    if not (_converts(column.dtype, leaf.dtype) and _fits(column.shape, leaf.row)):
        raise DataError(
            silo,
            handle.name,
            column=column.name,
            expected=expected,
            found=_describe(column.dtype, column.shape),
            hint="cast it in the source's query, or change the computation's type",
        )


def _describe(dtype: str, row: Sequence[int | None]) -> str:
    return dtype + _sizes(row) if row else dtype


def _sizes(row: Sequence[int | None]) -> str:
    return f"[{','.join('?' if n is None else str(n) for n in row)}]"


def _converts(found: str, expected: str) -> bool:
    if "str" in (found, expected) or found == expected:
        return found == expected
    have, want = np.dtype(found), np.dtype(expected)
    return bool(np.can_cast(have, want, "same_kind") or (have.kind in "iu" and want.kind == "f"))


def _fits(found: Sequence[int | None], expected: Sequence[int | None]) -> bool:
    return len(found) == len(expected) and all(
        None in (have, want) or have == want for have, want in zip(found, expected, strict=True)
    )


def _tensors(type_: tff.Type) -> Iterator[tuple[str, tff.TensorType]]:
    """Iterate over column and type of each tensor in ``type_``, left to right."""
    counter = iter(range(1 << 30))

    def visit(part: tff.Type, path: tuple[str, ...]) -> Iterator[tuple[str, tff.TensorType]]:
        if isinstance(part, tff.TensorType):
            position = next(counter)
            yield ".".join(path) if path and all(path) else f"#{position}", part
        elif isinstance(part, tff.StructType):
            for name, element in tff.structure.iter_elements(part):
                yield from visit(element, (*path, name or ""))
        else:
            raise UsageError(f"data cannot be bound to {part}", hint="use tensors, structs of them, or a sequence")

    return visit(type_, ())


def _dtype_name(type_: tff.TensorType) -> str:
    return "str" if type_.dtype.type is np.str_ else str(np.dtype(type_.dtype).name)


def _batch(
    handle: SiloData, tensors: Sequence[tuple[str, tff.TensorType]], expected: tff.Type
) -> tuple[int, bool] | None:
    """Return the rows in each element and whether a shorter last one is dropped; None for single rows.

    A first dimension of unknown length is always a batch. A first dimension of fixed length is a batch if it equals
    ``batch_size``.
    """
    first = {type_.shape[0] if type_.shape else () for _, type_ in tensors}
    if handle.batch_size is None:
        if None in first:
            raise UsageError(
                f"{expected} takes batches, and no batch_size was given",
                hint=f'say how many rows: fedbroker.data("{handle.name}", batch_size=32)',
            )
        return None
    if first == {None}:
        return handle.batch_size, handle.drop_remainder
    if first == {handle.batch_size}:
        return handle.batch_size, True
    raise UsageError(
        f"{expected} does not take batches of {handle.batch_size} rows",
        hint="the first dimension of each tensor must be open (?) or the batch size",
    )


def _check_array(handle: SiloData, expected: tff.Type) -> None:
    """Refuse options of sequences for a type that is none."""
    options = {"epochs": handle.epochs > 1, "shuffle": handle.shuffle, "limit": handle.limit is not None}
    given = " and ".join(name for name, is_given in options.items() if is_given)
    if given:
        raise UsageError(
            f"{expected} is no sequence, which {given} need{'s' * (' ' not in given)}",
            hint="declare a sequence, tff.SequenceType(…), or leave them out",
        )
