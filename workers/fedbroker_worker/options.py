"""Convert a table of settings into a dataclass, key by key, so that each mistake is one line that names its key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, Final, Literal, TypeVar

import msgspec

from fedbroker_worker.errors import SettingsError

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

__all__ = ["nearest", "read_table"]

T = TypeVar("T")

_CUTOFF: Final = 0.5
"""The least similarity, by difflib, of a valid key that is suggested for a misspelt one.

Lower than difflib's default of 0.6, because the keys to choose from are few.
"""


def read_table(
    model: type[T],
    table: Mapping[str, object],
    *,
    label: Callable[[str], str],
    lenient: Collection[str] = (),
) -> T:
    """Convert a table into a ``model``.

    Args:
        model: a dataclass; its annotations are types of :mod:`msgspec`, with ``msgspec.Meta`` for bounds and for a
            description, which becomes the hint of an error. A field without default is required.
        table: the settings, by key.
        label: returns the name of a key in an error, such as ``'name' in [silo]``.
        lenient: keys whose value may be text that stands for a number or a truth value.

    Raises:
        SettingsError: a key is unknown or missing, or its value is of another type or out of bounds.
    """
    fields = {field.name: field for field in dataclasses.fields(typing.cast("Any", model))}
    for key in table:
        if key not in fields:
            raise SettingsError(f"unknown key {label(key)}", hint=nearest(key, fields))
    hints = _annotations(model)
    values: dict[str, object] = {}
    for key, field in fields.items():
        if key in table:
            values[key] = _value(hints[key], table[key], label(key), strict=key not in lenient)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{label(key)} is missing", hint=f"add it: {_description(hints[key])}")
    return model(**values)


def nearest(key: str, valid: Iterable[str]) -> str:
    """Return the hint for a misspelt key: the most similar valid key, or all valid keys."""
    choices = list(valid)
    close = difflib.get_close_matches(key.lower(), choices, n=1, cutoff=_CUTOFF)
    return f"did you mean {close[0]!r}?" if close else f"valid are {', '.join(sorted(choices))}"


def _annotations(model: type[object]) -> dict[str, object]:
    return typing.get_type_hints(model, include_extras=True)


def _value(annotation: object, value: object, name: str, *, strict: bool) -> object:
    try:
        return msgspec.convert(value, typing.cast("Any", annotation), strict=strict)
    except msgspec.ValidationError as error:
        problem = str(error).split(" - at `", 1)[0].replace("`", "")
        raise SettingsError(
            f"{name}: {problem[0].lower()}{problem[1:]}", hint=f"it is {_description(annotation)}"
        ) from None


def _description(annotation: object) -> str:
    """Return the description of a key from its annotation; for an optional key, that of its other types."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        others = [type_ for type_ in typing.get_args(annotation) if type_ is not types.NoneType]
        return " or ".join(map(_description, others))
    metadata = getattr(annotation, "__metadata__", ())
    for meta in metadata:
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    bare = typing.get_args(annotation)[0] if metadata else annotation
    if metadata and typing.get_origin(bare) in (typing.Union, types.UnionType):
        return _description(bare)
    if typing.get_origin(bare) is Literal:
        return " or ".join(f'"{choice}"' for choice in typing.get_args(bare))
    return str(getattr(bare, "__name__", bare))
