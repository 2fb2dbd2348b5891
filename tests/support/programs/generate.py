"""Generate programs: each choice is made by a function, so that a seeded generator or hypothesis makes it."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from tests.support.programs import shapes
from tests.support.programs.model import CLIENTS, NOWHERE, SERVER, Output, Parameter, Program, Step
from tests.support.programs.operands import Operands, Pick, Variable
from tests.support.programs.sequences import SEQUENCES
from tests.support.programs.shapes import MODULUS, SHAPES, Sequence
from tests.support.programs.steps import SECURE, STEPS

__all__ = ["generate", "program_of_seed", "programs"]

MOST_STEPS = 10
MAKING = {name: SEQUENCES[name] for name in ("sequence made by TensorFlow", "federated_select")}


def program_of_seed(seed: int, number: int) -> Program:
    """Return program ``number`` of a seed."""
    return generate(random.Random(f"{seed}/{number}").choice)


@st.composite
def programs(draw) -> Program:
    """Draw a program that hypothesis can shrink."""
    return generate(lambda options: draw(st.sampled_from(list(options))))


def generate(pick: Pick) -> Program:
    """Generate a program: its parameters, then its steps, then the values that it returns."""
    clients = pick((1, 2, 3, 4))
    parameters = [_parameter(pick, "p0", CLIENTS, clients)]
    for place in pick(((), (SERVER,), (NOWHERE,), (SERVER, NOWHERE), (SERVER, CLIENTS))):
        parameters.append(_parameter(pick, f"p{len(parameters)}", place, clients))
    for place in pick(((), (), (CLIENTS,), (SERVER,), (NOWHERE,), (CLIENTS, SERVER), (CLIENTS, NOWHERE))):
        parameters.append(_sequence(pick, f"p{len(parameters)}", place, clients))
    variables = [Variable(one.name, one.place, one.shape, MODULUS) for one in parameters]
    secure = pick((True, False, False, False, False))
    steps: list[Step] = []
    for _ in range(pick(range(1, MOST_STEPS + 1))):
        step = _step(pick, variables, len(steps), secure=secure)
        if step is not None:
            steps.append(step)
            variables.append(Variable(step.name, step.place, step.shape, step.size, made=step.made))
    outputs = _outputs(pick, variables, steps)
    program = Program(tuple(parameters), tuple(steps), outputs, pick((1, 2, 3)), pick((True, False)), secure)
    return program.returning(outputs)


def _parameter(pick: Pick, name: str, place: str, clients: int) -> Parameter:
    shape, all_equal = pick(SHAPES), place == CLIENTS and name != "p0" and pick((True, False))

    def value():
        return shapes.make(shape, pick(range(20)))

    one = value()
    if place != CLIENTS:
        return Parameter(name, place, shape, one)
    every = [one] * clients if all_equal else [one, *(value() for _ in range(clients - 1))]
    return Parameter(name, place, shape, every, all_equal)


def _sequence(pick: Pick, name: str, place: str, clients: int) -> Parameter:
    element = pick(SHAPES)

    def value():
        return [shapes.make(element, pick(range(20))) for _ in range(pick(range(4)))]

    return Parameter(name, place, Sequence(element), [value() for _ in range(clients)] if place == CLIENTS else value())


def _step(pick: Pick, variables: list[Variable], number: int, *, secure: bool) -> Step | None:
    of = Operands(pick, variables)
    tables = [STEPS] * 6 + [MAKING]
    if of.sequences(NOWHERE, CLIENTS, SERVER):
        tables += [SEQUENCES] * 3
    if secure:
        tables += [SECURE] * 2
    if isinstance(variables[-1].shape, Sequence) and variables[-1].name.startswith("v"):
        tables += [SEQUENCES] * 12  # else few would be used
    table = pick(tables)
    kind = pick(list(table))
    made = table[kind](of)
    return None if made is None else Step(kind, f"v{number}", made)


def _outputs(pick: Pick, variables: list[Variable], steps: list[Step]) -> tuple[Output, ...]:
    """Choose values to return: those that nothing else uses, some others, and in some way all that depend on chance."""
    used = frozenset().union(*(step.uses for step in steps))
    returned = [one.name for one in variables if not isinstance(one.shape, Sequence)]
    names = [name for name in returned if name.startswith("v") and name not in used]
    names = [*names, *(pick(returned) for _ in range(pick((0, 0, 1, 2)) if names else 1))]
    outputs = [Output(name, name) for name in names]
    outputs += [Output(_observed(pick, step), step.name, observes=True) for step in steps if step.evaluate is None]
    return tuple(outputs)


def _observed(pick: Pick, step: Step) -> str:
    name = step.name
    if step.place != NOWHERE:
        return name
    return pick(
        (
            name,
            f"same({shapes.text_of(step.shape)})({name})",
            f"tff.federated_value({name}, tff.SERVER)",
            f"tff.federated_value({name}, tff.CLIENTS)",
            f"tff.federated_value(same({shapes.text_of(step.shape)})({name}), tff.SERVER)",
        )
    )
