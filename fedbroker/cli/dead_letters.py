"""``fedbroker dead-letters``: dead-lettered work items, kept for a week."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import cyclopts

from fedbroker.cli.common import Cohort, Json, Seconds, Url, print_json
from fedbroker.deadline import Deadline
from fedbroker.errors import ConfigError, UsageError
from fedbroker.log import configure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fedbroker.deadletters.archive import Archive
    from fedbroker.deadletters.bundle import WorkBundle

__all__ = ["app"]

T = TypeVar("T")

TIME: Final = 120.0
"""Seconds for an operation on the archive, including the wait for other readers; ten thousand letters take about 20."""
EXPIRES: Final = 600.0
LONGEST: Final = 3000.0
"""Maximal lifetime of a requeued letter in seconds. A silo's queue is deleted, with its messages, an hour after the
silo left: the letter must be dead-lettered again before that.
"""

Id = Annotated[str, cyclopts.Parameter(help="The letter's id, or its first characters.")]
Save = Annotated[
    Path | None, cyclopts.Parameter(help="Write the letter's raw body to this file, for `fedbroker-silo replay`.")
]
Silo = Annotated[str | None, cyclopts.Parameter(help="Run it at another silo than its own.")]
Blobs = Annotated[Path | None, cyclopts.Parameter(help="A directory of blobs: files named by their digests.")]
Out = Annotated[Path | None, cyclopts.Parameter(help="Save the outputs in this directory, named by their digests.")]
KeysFile = Annotated[
    Path | None,
    cyclopts.Parameter(env_var="FEDBROKER_KEYS", help="A coordinator's file of keys, for silos that want work signed."),
]
Allowed = Annotated[Seconds, cyclopts.Parameter(help="How long the silo may take, in seconds.")]
Expires = Annotated[
    float,
    cyclopts.Parameter(
        validator=cyclopts.validators.Number(gt=0, lte=LONGEST),
        help="Seconds, up to 3000, after which it is a dead letter again if the silo has not picked it up.",
    ),
]
Yes = Annotated[bool, cyclopts.Parameter(negative="", help="Do not ask; needed where standard input is no terminal.")]

app = cyclopts.App(name=("dead-letters", "dead"), help_format="plaintext")

_LIST = """Examples:
  export FEDBROKER_URL=amqps://me:secret@broker.example/
  fedbroker dead-letters list --cohort airports
  fedbroker dead-letters list --cohort airports --json | jq -r '.[] | select(.silo == "ewr").id'"""

_SHOW = """Examples:
  fedbroker dead-letters show 53c2 --cohort airports
  fedbroker dead-letters show 53c2 --cohort airports --save item
  fedbroker-silo replay item    at the silo"""

_REPLAY = """Examples:
  fedbroker dead-letters replay 53c2 --cohort airports
  fedbroker dead-letters replay 53c2 --cohort airports --out outputs --json
  fedbroker dead-letters replay 53c2 --cohort airports --blobs blobs"""

_REQUEUE = """Examples:
  fedbroker dead-letters requeue 53c2 --cohort airports
  fedbroker dead-letters requeue 53c2 --cohort airports --expires 60"""

_PURGE = """Examples:
  fedbroker dead-letters purge --cohort airports          asks first
  fedbroker dead-letters purge --cohort airports --yes    for programs"""


@app.command(name="list", help_epilogue=_LIST)
def list_(*, url: Url, cohort: Cohort, json: Json = False) -> None:
    """List a cohort's dead letters, the oldest first.

    Deliveries are the least that the reason tells: the broker forgets the count.
    """
    from fedbroker.cli.dead_letter_view import as_json, print_letters

    letters = _archive(url, cohort, lambda archive: archive.letters())
    if json:
        print_json([as_json(letter) for letter in letters])
    elif letters:
        print_letters(letters)
    else:
        print(f"no dead letters in cohort {cohort}")


@app.command(help_epilogue=_SHOW)
def show(id: Id, /, *, url: Url, cohort: Cohort, save: Save = None, json: Json = False) -> None:
    """Show one dead letter: headers, program (operation by operation), blobs."""
    from fedbroker.cli.dead_letter_view import as_json, print_letter, program_as_json

    letter, body = _archive(url, cohort, lambda archive: archive.find(id))
    parcel = None if letter.flaw else _opened(body)
    if save is not None:
        _save(save, body)
    if json:
        more = {"routing_key": letter.key, "headers": letter.headers}
        print_json(as_json(letter) | more | (program_as_json(parcel) if parcel is not None else {}))
        return
    print_letter(letter, parcel)


@app.command(help_epilogue=_REPLAY)
def replay(
    id: Id,
    /,
    *,
    url: Url,
    cohort: Cohort,
    silo: Silo = None,
    blobs: Blobs = None,
    out: Out = None,
    seconds: Allowed = 600.0,
    keys: KeysFile = None,
    json: Json = False,
) -> None:
    """Run a dead work item at its silo in a session of its own; print its outputs.

    The letter stays where it is. The outputs are the bytes that the original
    would have given; its coordinator does not hear of them. Work that continues
    a session cannot be replayed alone, and is refused. Blobs that are not in the
    letter are taken from the silo's cache or from --blobs. `fedbroker-silo
    replay` does the same at the silo, under a debugger.
    """
    from fedbroker.cli.replay import print_replayed, run_again
    from fedbroker.deadletters.bundle import save_blobs
    from fedbroker.trust.keyring import coordinator_keys

    trusted = None if keys is None else coordinator_keys(keys)
    configure("auto", "error")
    letter, body = _archive(url, cohort, lambda archive: archive.find(id))
    parcel = _opened(body)
    if blobs is not None:
        parcel = parcel.with_files(blobs)
    replayed = asyncio.run(run_again(url, cohort, parcel, silo or letter.silo, seconds, keys=trusted))
    if out is not None:
        save_blobs(out, [content for _, content in replayed.outputs])
    if json:
        print_json(replayed.as_json())
    else:
        print_replayed(replayed)


@app.command(help_epilogue=_REQUEUE)
def requeue(
    id: Id,
    /,
    *,
    url: Url,
    cohort: Cohort,
    expires: Expires = EXPIRES,
    json: Json = False,
) -> None:
    """Send a dead work item to its silo again, as it was, and out of the archive.

    It leaves the archive once the broker has confirmed that the silo's queue
    has it. The silo may take as long as it might have then. The answer goes to
    the coordinator that sent it. That may be gone, or have given the session up,
    and then no process receives it: to see what comes of the work use `replay`.
    """
    letter, waits = _archive(url, cohort, lambda archive: archive.requeue(id, expires))
    if json:
        print_json(
            {"id": letter.id, "silo": letter.silo, "coordinator": letter.coordinator, "coordinator_there": waits}
        )
        return
    print(f"{letter.id} is in the queue of silo {letter.silo}")
    if not waits:
        print(f"its coordinator {letter.coordinator} seems to be gone: then nobody hears the answer")


@app.command(help_epilogue=_PURGE)
def purge(*, url: Url, cohort: Cohort, yes: Yes = False, json: Json = False) -> None:
    """Delete all dead letters of a cohort."""
    if not yes and not _agreed(_archive(url, cohort, lambda archive: archive.count()), cohort):
        print("nothing was deleted")
        return
    deleted = _archive(url, cohort, lambda archive: archive.purge())
    if json:
        print_json({"deleted": deleted})
    else:
        print(f"{deleted} dead letters deleted")


def _archive(url: str, cohort: str, use: Callable[[Archive], Awaitable[T]]) -> T:
    """Run an operation on a cohort's archive."""
    from fedbroker.deadletters.archive import open_archive

    async def run() -> T:
        async with open_archive(url, cohort, Deadline.after(TIME)) as archive:
            return await use(archive)

    return asyncio.run(run())


def _opened(body: bytes) -> WorkBundle:
    from fedbroker.deadletters.bundle import WorkBundle

    return WorkBundle.opened(body)


def _agreed(letters: int, cohort: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("purge deletes for good and there is nobody to ask", hint="add --yes")
    return input(f"Delete {letters} dead letters of cohort {cohort} for good? [y/N] ").strip().lower() in ("y", "yes")


def _save(file: Path, body: bytes) -> None:
    try:
        file.write_bytes(body)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}", hint="name another file") from None
