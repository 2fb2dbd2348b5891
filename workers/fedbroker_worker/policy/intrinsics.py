"""The effect of TFF's federated operators on a silo's values, known before they run: whose data go into which value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from fedbroker.graphs import calculus
from fedbroker.graphs.dataflow import TensorFlow
from fedbroker.graphs.expressions import (
    NO_NAMES,
    Combined,
    Computed,
    Function,
    Input,
    Known,
    NotUnderstood,
    Struct,
    Value,
    leaves,
    select,
)
from fedbroker.graphs.reductions import NotRecognised, Total, recognise
from fedbroker.graphs.tensors import fixed_shapes, type_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["GIVEN", "Clients", "Refused", "Server", "intrinsic", "is_given", "may_leave"]

GIVEN: Final = Input("given", opaque=True)
"""A value that the coordinator sent, without any data of the silo."""

DEALT: Final = "it adds up the silo's values with others that the coordinator chose for single clients"


@dataclass(frozen=True, slots=True)
class Clients(Value):
    """A value of each client.

    Attributes:
        data: True if it may hold data of the silo.
        dealt: True if it may hold values that the coordinator chose for each client separately.
    """

    data: bool
    dealt: bool


@dataclass(frozen=True, slots=True)
class Server(Value):
    """A value that the silo has on behalf of the server: its part of an aggregate, or what the coordinator sent.

    Attributes:
        member: the value itself.
    """

    member: Value


@dataclass(frozen=True, slots=True)
class Refused(Value):
    """An aggregate that is not recognised.

    Attributes:
        number: the number of the aggregate in its computation, from 1.
        type: the type of its result, for people.
        why: one line that says why it is not recognised.
        of: the number of aggregates in its computation.
        shapes: the shape of each tensor of its result, left to right, as its computation declares them; None if the
            computation leaves one open, or picks clients by values that the coordinator dealt to them.
    """

    number: int
    type: str
    why: str
    of: int = 0
    shapes: tuple[tuple[int, ...], ...] | None = None


def may_leave(member: Value) -> bool:
    """Return whether a tensor is a recognised aggregate, or made only of constants and the coordinator's values."""
    return (isinstance(member, Input) and isinstance(member.name, Total)) or is_given(member)


@dataclass(frozen=True, slots=True, eq=False)
class _Operator(Function):
    """An intrinsic."""

    apply: Callable[[Value], Value]

    def call(self, argument: Value | None) -> Value:
        """See :class:`Function`."""
        if argument is None:
            raise NotUnderstood("an intrinsic in it is called without an argument")
        return self.apply(argument)


def intrinsic(uri: str, numbers: Callable[[], int]) -> Function:
    """Return an intrinsic as a function of abstract values.

    Args:
        uri: its name.
        numbers: returns the number of the next aggregate.

    Raises:
        NotUnderstood: a silo does not know this intrinsic.
    """
    if uri == "federated_aggregate":
        return _Operator(lambda argument: _aggregate(argument, numbers()))
    if uri not in _OPERATORS:
        raise NotUnderstood(f"it holds the intrinsic {uri[:40]!r}")
    return _Operator(_OPERATORS[uri])


def _aggregate(argument: Value, number: int) -> Value:
    values, zero, accumulate, merge, report = (select(argument, index) for index in range(5))
    functions = (accumulate, merge, report)
    if not isinstance(values, Clients) or not all(isinstance(function, Function) for function in functions):
        raise NotUnderstood("it aggregates something else than clients' values")
    type_ = type_text(accumulate.type.result) if isinstance(accumulate, TensorFlow | calculus.Closure) else "?"
    if values.data and values.dealt:
        return Server(Refused(number, type_, DEALT))
    try:
        return Server(recognise(zero, *functions))  # type: ignore[arg-type]  # checked above
    except NotRecognised as error:
        return Server(Refused(number, type_, error.why, shapes=_shapes(report)))


def _shapes(function: Value) -> tuple[tuple[int, ...], ...] | None:
    """Return the shapes of a function's result, if it declares them."""
    return fixed_shapes(function.type.result) if isinstance(function, TensorFlow | calculus.Closure) else None


def _map(argument: Value) -> Value:
    function, values = select(argument, 0), select(argument, 1)
    _check_closed(function)
    if not isinstance(values, Clients):
        raise NotUnderstood("it maps something else than clients' values")
    return values


def _apply(argument: Value) -> Value:
    function, value = select(argument, 0), select(argument, 1)
    if not isinstance(function, Function) or not isinstance(value, Server):
        raise NotUnderstood("it applies a function to something else than a value at the server")
    if isinstance(value.member, Refused):
        shapes = None if value.member.shapes is None else _shapes(function)
        return Server(replace(value.member, shapes=shapes))
    _check_closed(function)
    return Server(function.call(value.member))


def _broadcast(argument: Value) -> Value:
    if not isinstance(argument, Server):
        raise NotUnderstood("it broadcasts something else than a value at the server")
    return Clients(data=not is_given(argument.member), dealt=False)


def _eval_at_clients(argument: Value) -> Value:
    _check_closed(argument)
    return Clients(data=False, dealt=False)


def _eval_at_server(argument: Value) -> Value:
    if not isinstance(argument, Function):
        raise NotUnderstood("it evaluates something else than a function")
    _check_closed(argument)
    return Server(argument.call(None))


def _value_at_clients(argument: Value) -> Value:
    return Clients(data=not is_given(_unplaced(argument)), dealt=False)


def _value_at_server(argument: Value) -> Value:
    return Server(_unplaced(argument))


def _zip_at_clients(argument: Value) -> Value:
    parts = leaves(argument)
    if not all(isinstance(part, Clients) for part in parts):
        raise NotUnderstood("it zips something else than clients' values")
    clients = [part for part in parts if isinstance(part, Clients)]
    return Clients(any(part.data for part in clients), any(part.dealt for part in clients))


def _zip_at_server(argument: Value) -> Value:
    def member(value: Value) -> Value:
        if isinstance(value, Struct):
            return Struct.of([member(element) for element in value.elements])
        if not isinstance(value, Server):
            raise NotUnderstood("it zips something else than values at the server")
        return value.member

    return Server(member(argument))


def _select(argument: Value) -> Value:
    keys, _, value, function = (select(argument, index) for index in range(4))
    _check_closed(function)
    if not isinstance(keys, Clients) or not isinstance(value, Server):
        raise NotUnderstood("it selects by something else than clients' keys")
    return Clients(keys.data or not is_given(value.member), keys.dealt)


def _sequence(argument: Value) -> Value:
    _unplaced(argument)
    return Computed("a sequence", NO_NAMES, pure=False)


_OPERATORS: Final[Mapping[str, Callable[[Value], Value]]] = {
    "args_into_sequence": _sequence,
    "federated_apply": _apply,
    "federated_broadcast": _broadcast,
    "federated_eval_at_clients": _eval_at_clients,
    "federated_eval_at_server": _eval_at_server,
    "federated_map": _map,
    "federated_map_all_equal": _map,
    "federated_select": _select,
    "federated_value_at_clients": _value_at_clients,
    "federated_value_at_server": _value_at_server,
    "federated_zip_at_clients": _zip_at_clients,
    "federated_zip_at_server": _zip_at_server,
    "sequence_map": _sequence,
    "sequence_reduce": _sequence,
}


def _unplaced(value: Value) -> Value:
    if any(isinstance(leaf, Clients | Server | Refused) for leaf in leaves(value)):
        raise NotUnderstood("it places a value that is placed already")
    return value


def is_given(member: Value) -> bool:
    """Return whether a value certainly holds no data of the silo."""
    return all(map(_is_given_tensor, leaves(member)))


def _is_given_tensor(tensor: Value) -> bool:
    match tensor:
        case Known():
            return True
        case Input():
            return tensor == GIVEN
        case Computed() | Combined():
            return tensor.pure and tensor.inputs <= {GIVEN.name}
        case _:
            return False


def _check_closed(function: Value) -> None:
    """Check that a function refers to no value of a client or an aggregate.

    Raises:
        NotUnderstood: it may refer to one.
    """
    pending, seen = [function], 0
    while pending:
        value = pending.pop()
        seen += 1
        if seen > MOST_CAPTURED:
            raise NotUnderstood("a function in it refers to too much")
        if isinstance(value, calculus.Closure):
            pending += value.captured()
        elif isinstance(value, Struct):
            pending += leaves(value)
        elif not isinstance(value, Function) and not is_given(value):
            raise NotUnderstood("a function in it refers to a value outside of it")


MOST_CAPTURED: Final = 10_000
"""The most values that a function may refer to: it bounds the time that a hostile computation can take."""
