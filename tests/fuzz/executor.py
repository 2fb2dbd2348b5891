"""An executor in memory that identifies each value by a hash of its contents, and computes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fedbroker.errors import ComputationFailed
from fedbroker.runtime import Ref
from fedbroker.runtime.values import struct


class Memory:
    """A stand-in for the runtime's client.

    A value is only its name, so that a struct of a struct of itself takes no more memory than any other.
    """

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, ...]] = {}
        self._functions: dict[str, Ref] = {}
        self._count = 0

    async def value(self, *serialized) -> Ref:
        return self._made(b"".join(map(bytes, serialized)))

    async def function(self, name: str, serialized: bytes) -> Ref:
        if name not in self._functions:
            self._functions[name] = await self.value(serialized)
        return self._functions[name]

    async def struct_of(self, elements: Sequence[tuple[str, bytes]]) -> Ref:
        return self._struct([(name, _name(bytes(value))) for name, value in elements])

    async def struct(self, elements: Sequence[tuple[str, Ref]]) -> Ref:
        return self._struct([(name, self._name_of(ref)) for name, ref in elements])

    async def select(self, source: Ref, index: int) -> Ref:
        parts = self._parts(source)
        if not 0 <= index < len(parts):
            raise ComputationFailed("NOT_FOUND", "no such element")
        return self._keep((parts[index],))

    async def call(self, function: Ref, argument: Ref | None) -> Ref:
        return self._made(b"call", self._name_of(function), self._name_of(argument) if argument else b"none")

    async def compute(self, ref: Ref) -> bytes:
        parts = self._parts(ref)
        return b"".join(struct((None, [part]) for part in parts)) if parts else self._name_of(ref)

    async def dispose(self, refs: Sequence[Ref]) -> None:
        for ref in refs:
            if ref not in self._functions.values():
                self.values.pop(ref.id, None)

    def _struct(self, elements: Sequence[tuple[str, bytes]]) -> Ref:
        named = [part for name, value in elements for part in (name.encode("utf-8", "surrogatepass"), value)]
        return self._keep((_name(b"struct", *named), *(value for _, value in elements)))

    def _made(self, *parts: bytes) -> Ref:
        return self._keep((_name(*parts),))

    def _keep(self, value: tuple[bytes, ...]) -> Ref:
        self._count += 1
        self.values[str(self._count)] = value
        return Ref(str(self._count))

    def _parts(self, ref: Ref) -> tuple[bytes, ...]:
        return self._value(ref)[1:]

    def _name_of(self, ref: Ref) -> bytes:
        return self._value(ref)[0]

    def _value(self, ref: Ref) -> tuple[bytes, ...]:
        if ref.id not in self.values:
            raise ComputationFailed("NOT_FOUND", "no such value")
        return self.values[ref.id]


def _name(*parts: bytes) -> bytes:
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.digest()
