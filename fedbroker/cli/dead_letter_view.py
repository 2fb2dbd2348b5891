"""Dead letters as tables and as JSON, and their work items as a readable listing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import assert_never

import msgspec

from fedbroker.cli.common import age_text, console, table
from fedbroker.deadletters.bundle import WorkBundle
from fedbroker.deadletters.record import DeadLetter
from fedbroker.narrowing import is_dict, is_list
from fedbroker.text import bytes_text, printable, seconds_text
from fedbroker.wire.messages import Call, Compute, Data, Drop, Op, Seeds, Select, Struct, Value

__all__ = ["as_json", "listing", "print_letter", "print_letters", "work_as_json"]

SHORT = 8
"""Minimal number of characters of an id to show."""


def as_json(letter: DeadLetter) -> dict[str, object]:
    """Return a letter's envelope as JSON."""
    return {
        "id": letter.id,
        "reason": letter.reason,
        "silo": letter.silo,
        "session": letter.session_id,
        "stage": letter.stage,
        "died": letter.died.isoformat() if letter.died is not None else None,
        "age": _age(letter),
        "size": letter.size,
        "deliveries": letter.deliveries,
        "coordinator": letter.coordinator,
        "flaw": letter.flaw or None,
    }


def work_as_json(bundle: WorkBundle) -> dict[str, object]:
    """Return a letter's work item as JSON."""
    item = bundle.item
    return {
        "clients": item.clients,
        "seconds": item.timeout,
        "lease": item.lease,
        "last": item.ends_session,
        "kept": list(bundle.earlier_refs),
        "ops": [msgspec.to_builtins(op) for op in item.ops],
        "listing": listing(item.ops),
        "blobs": [{"digest": name, "size": size, "inside": inside} for name, size, inside in _blobs(bundle)],
    }


def print_letters(letters: Sequence[DeadLetter]) -> None:
    """Print one line for each letter, with ids shortened as far as they stay unique."""
    shown = table("id", "reason", "silo", "session", "stage", "age", "size", "deliveries", right=("age", "size"))
    length = _unique_length(letters)
    for one in letters:
        count = f"{one.deliveries}+"  # the broker forgets the count; the reason gives a minimum
        stage = "-" if one.stage is None else str(one.stage)
        middle = (one.silo, one.session_id or "-", stage, age_text(_age(one)), bytes_text(one.size))
        shown.add_row(*map(printable, (one.id[:length], one.reason, *middle, count)))
    console().print(shown)


def print_letter(letter: DeadLetter, bundle: WorkBundle | None) -> None:
    """Print a letter's envelope, headers, work item and blobs."""
    from rich.table import Table

    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(letter, bundle):
        facts.add_row(printable(name), printable(value))
    out = console()
    out.print(facts)
    if bundle is None:
        return
    out.print("\noperations")
    for line in listing(bundle.item.ops):
        out.print(f"  {printable(line)}", soft_wrap=True)
    if bundle.digests:
        blobs = table("blob", "size", "where", right=("size",))
        for digest, size, inside in _blobs(bundle):
            where = "in the letter" if inside else "sent separately" if size else "in the silo's cache at that time"
            blobs.add_row(printable(digest), "-" if size is None else bytes_text(size), where)
        out.print()
        out.print(blobs)


def listing(program: Sequence[Op]) -> list[str]:
    """Return a work item as text, one line for each op: ``%3 = call %2(%1)``."""
    outputs = 0
    lines: list[str] = []
    for op in program:
        lines.append(_op_text(op) + (f"  -> output {outputs}" if isinstance(op, Compute) else ""))
        outputs += isinstance(op, Compute)
    return lines


def _op_text(op: Op) -> str:
    match op:
        case Value(ref, blob):
            return f"%{ref} = value {blob}"
        case Data(ref, name, columns, scalar):
            read = ", ".join(f"{column}: {dtype}" for column, dtype in columns)
            return f"%{ref} = data {name}({read}){' one row' if scalar else ''}"
        case Seeds(ref, order):
            return f"%{ref} = seeds {order}"
        case Struct(ref, elements):
            inner = ", ".join(f"{name}=%{one}" if name else f"%{one}" for name, one in elements)
            return f"%{ref} = struct <{inner}>"
        case Select(ref, source, index):
            return f"%{ref} = select %{source}[{index}]"
        case Call(ref, function, argument):
            return f"%{ref} = call %{function}({'' if argument is None else f'%{argument}'})"
        case Compute(ref):
            return f"compute %{ref}"
        case Drop(refs):
            return f"drop {', '.join(f'%{ref}' for ref in refs)}"
        case _:
            assert_never(op)


def _facts(letter: DeadLetter, bundle: WorkBundle | None) -> list[tuple[str, str]]:
    died = letter.died.isoformat() if letter.died is not None else "at an unknown time"
    facts = [
        ("id", letter.id),
        ("reason", letter.reason),
        ("died", f"{died}, {age_text(_age(letter))} ago" if letter.died is not None else died),
        ("deliveries", f"{letter.deliveries} or more"),
        ("silo", letter.silo),
        ("coordinator", letter.coordinator),
        ("size", f"{letter.size} bytes"),
    ]
    if bundle is None:
        facts.append(("unreadable", letter.flaw))
    else:
        item = bundle.item
        stage = f"{item.stage}{', the last one of this silo' if item.ends_session else ''}"
        facts += [("session", item.session_id), ("stage", stage), ("clients", str(item.clients))]
        facts += [("time", f"{seconds_text(item.timeout)}, lease {seconds_text(item.lease)}")]
        if bundle.earlier_refs:
            facts.append(("uses", ", ".join(f"%{ref}" for ref in bundle.earlier_refs) + " of an earlier stage"))
    return facts + [(f"header {name}", text) for name, text in _flat(letter.headers)]


def _flat(value: object, path: str = "") -> list[tuple[str, str]]:
    """Flatten headers into pairs of path and text; x-death is a list of maps."""
    if is_dict(value):
        return [line for key, one in value.items() for line in _flat(one, f"{path}.{key}".lstrip("."))]
    if is_list(value) and any(isinstance(one, dict) for one in value):
        return [line for at, one in enumerate(value) for line in _flat(one, f"{path}[{at}]")]
    return [(path, ", ".join(map(str, value)) if is_list(value) else str(value))]


def _blobs(bundle: WorkBundle) -> list[tuple[str, int | None, bool]]:
    """Return digest, size if known, and whether the letter contains it, for each blob."""
    blobs: list[tuple[str, int | None, bool]] = []
    for digest in bundle.digests:
        inside = bundle.blobs.get(digest)
        known = bundle.item.incoming.get(digest)
        blobs.append((digest, memoryview(inside).nbytes if inside is not None else known, inside is not None))
    return blobs


def _age(letter: DeadLetter) -> float | None:
    return None if letter.died is None else max(0.0, round((datetime.now(UTC) - letter.died).total_seconds(), 1))


def _unique_length(letters: Sequence[DeadLetter]) -> int:
    ids = {letter.id for letter in letters}
    longest = max(map(len, ids), default=SHORT)
    return next((n for n in range(SHORT, longest) if len({id[:n] for id in ids}) == len(ids)), longest)
