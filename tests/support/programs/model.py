"""Generated programs as data: steps with their source and their evaluation in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.support.programs.shapes import Sequence, literal_text, text_of

__all__ = ["CLIENTS", "NOWHERE", "SERVER", "Env", "Made", "Output", "Parameter", "Program", "Step"]

NOWHERE, CLIENTS, SERVER = "nowhere", "clients", "server"

Env = Mapping[str, Any]
"""Values by name; a value at clients is a list with one for each client."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the program, with its argument."""

    name: str
    place: str
    shape: Any
    value: Any
    all_equal: bool = False

    @property
    def type_text(self) -> str:
        member = text_of(self.shape) if not isinstance(self.shape, Sequence) else text_of(self.shape.element)
        if isinstance(self.shape, Sequence):
            member = f"tff.SequenceType(tff.types.to_type({member}))"
        if self.place == NOWHERE:
            return member
        equal = ", all_equal=True" if self.all_equal else ""
        return f"tff.FederatedType({member}, tff.{self.place.upper()}{equal})"

    @property
    def value_text(self) -> str:
        return _value_text(self.argument, isinstance(self.argument, list))

    @property
    def argument(self):
        """Return the argument of a call: of an all-equal value at clients, one."""
        return self.value[0] if self.all_equal else self.value


def _value_text(value, is_list: bool) -> str:
    if is_list:
        return f"[{', '.join(_value_text(one, isinstance(one, list)) for one in value)}]"
    return literal_text(value)


@dataclass(frozen=True)
class Made:
    """The value that a step makes.

    Attributes:
        code: its expression.
        place: its placement.
        shape: its shape (at clients: of one client's).
        size: the largest absolute value of its numbers.
        uses: names of variables in the expression.
        evaluate: the same in NumPy; None if the value depends on chance.
        beyond: the reason for which TFF's own context cannot run it; None if it can.
        made: True for a sequence that TensorFlow makes.
    """

    code: str
    place: str
    shape: Any
    size: int
    uses: frozenset[str]
    evaluate: Callable[[Env], Any] | None
    beyond: str | None = None
    made: bool = False


@dataclass(frozen=True)
class Step:
    """One binding of the program: the operation's name, the variable, and its value."""

    kind: str
    name: str
    value: Made

    def __getattr__(self, name: str):
        return getattr(self.value, name)


@dataclass(frozen=True)
class Output:
    """One value that the program returns.

    Attributes:
        code: its expression.
        name: the variable whose value it is.
        observes: True if the variable depends on chance: its value is known from this result.
    """

    code: str
    name: str
    observes: bool = False


@dataclass(frozen=True)
class Program:
    """A program, its arguments, and the number of silos.

    Attributes:
        nested: True if it takes and returns nested structs.
        secure: True if it has secure sums, to be computed in plaintext.
    """

    parameters: tuple[Parameter, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]
    silos: int
    nested: bool
    secure: bool

    @property
    def source(self) -> str:
        """Return the program as Python source that binds ``program`` and ``arguments``."""
        names = [one.name for one in self.parameters]
        types = ", ".join(f"{one.name}={one.type_text}" for one in self.parameters)
        if self.nested:
            head = [f"@tff.federated_computation(tff.types.to_type(Odict({types})))", "def program(parameters):"]
            head += [f'    {name} = parameters["{name}"]' for name in names]
        else:
            types = ", ".join(one.type_text for one in self.parameters)
            head = [f"@tff.federated_computation({types})", f"def program({', '.join(names)}):"]
        lines = [f"    {step.name} = {step.code}  # {step.kind}" for step in self.steps]
        first, *rest = (output.code for output in self.outputs)
        if self.nested:
            result = f"Odict(rest=({''.join(f'{code}, ' for code in rest)}), first={first}, none=())"
        else:
            result = f"({first}, {', '.join(rest)})"
        values = [f"{one.name}={one.value_text}" for one in self.parameters]
        arguments = [f"Odict({', '.join(values)})"] if self.nested else [one.value_text for one in self.parameters]
        return "\n".join(
            [
                "from tests.support.programs.parts import *",
                "",
                "",
                *head,
                *lines,
                f"    return {result}",
                "",
                "",
                f"arguments = ({', '.join(arguments)},)",
                f'silos, secure_sum = {self.silos}, "{"plaintext" if self.secure else "refuse"}"',
                "",
            ]
        )

    @property
    def beyond(self) -> frozenset[str]:
        """Return the reasons for which TFF's own context cannot run it."""
        return frozenset(step.beyond for step in self.steps if step.beyond is not None)

    def results(self, result) -> list:
        """Return the values of the outputs, in their order, from the program's result."""
        return [result["first"], *result["rest"]] if self.nested else list(result)

    def expected(self, results: list) -> list:
        """Evaluate the program in NumPy, with the values that depend on chance taken from ``results``."""
        env: dict[str, Any] = {one.name: one.value for one in self.parameters}
        clients = self.clients
        by_name = {step.name: step for step in self.steps}
        for output, result in zip(self.outputs, results, strict=True):
            if output.observes:
                spread = by_name[output.name].place == CLIENTS and not isinstance(result, list)
                env[output.name] = [result] * clients if spread else result
        env["clients"] = clients
        for step in self.steps:
            if step.evaluate is not None:
                env[step.name] = step.evaluate(env)
        return [env[output.name] for output in self.outputs]

    @property
    def clients(self) -> int:
        """Return the number of clients."""
        return len(next(one.value for one in self.parameters if one.place == CLIENTS))

    def returning(self, outputs: tuple[Output, ...]) -> Program:
        """Return the program with other outputs, and without the steps that these do not need."""
        needed = {output.name for output in outputs}
        kept = []
        for step in reversed(self.steps):
            if step.name in needed:
                needed |= step.uses
                kept.append(step)
        return replace(self, steps=tuple(reversed(kept)), outputs=outputs)

    def cut(self) -> list[Program]:
        """Return smaller programs, each with fewer outputs or the value of one step only."""
        observing = {output.name: output for output in self.outputs if output.observes}
        found = []
        for step in self.steps:
            if isinstance(step.shape, Sequence):
                continue
            wanted = Output(step.name, step.name, observes=step.evaluate is None)
            alone = self.returning((wanted,))
            drawn = [observing[one.name] for one in alone.steps if one.evaluate is None and one.name != step.name]
            found.append(self.returning((wanted, *drawn)))
        return sorted(found, key=lambda program: len(program.steps))
