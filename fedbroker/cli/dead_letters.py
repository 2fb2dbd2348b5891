"""``fedbroker dead-letters``: the archive of dead-lettered work items, kept for a week."""

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
from fedbroker.text import count_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fedbroker.deadletters.archive import Archive
    from fedbroker.deadletters.bundle import WorkBundle

__all__ = ["app"]

T = TypeVar("T")

TIME: Final = 120.0
"""Seconds for an operation on the archive, including the wait for other readers; ten thousand letters take about 20."""
EXPIRES: Final = 600.0
"""Seconds after which a requeued letter is dead-lettered again by default: enough to start a silo that is down."""
LONGEST: Final = 3000.0
"""Maximal lifetime of a requeued letter in seconds. A silo's queue is deleted, with its messages, an hour after the
silo left: the letter must be dead-lettered again before that.
"""

Id = Annotated[str, cyclopts.Parameter(help="The letter's id, or its first characters.")]
Save = Annotated[
    Path | None, cyclopts.Parameter(help="Save the letter's raw body in this file, for `fedbroker-silo replay`.")
]
Silo = Annotated[str | None, cyclopts.Parameter(help="Replay at this silo. Default: the letter's silo.")]
Blobs = Annotated[Path | None, cyclopts.Parameter(help="Directory of blobs: files named by their digests.")]
Out = Annotated[Path | None, cyclopts.Parameter(help="Save the outputs in this directory, named by their digests.")]
KeysFile = Annotated[
    Path | None,
    cyclopts.Parameter(
        env_var="FEDBROKER_KEYS", help="The coordinator's file of keys, for silos that require signed work."
    ),
]
Allowed = Annotated[Seconds, cyclopts.Parameter(help="Seconds that the silo may take.")]
Expires = Annotated[
    float,
    cyclopts.Parameter(
        validator=cyclopts.validators.Number(gt=0, lte=LONGEST),
        help="Seconds, up to 3000, after which the work is dead-lettered again if the silo has not picked it up.",
    ),
]
Yes = Annotated[bool, cyclopts.Parameter(negative="", help="Do not ask. Required if standard input is not a terminal.")]

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
    """List a cohort's dead letters, oldest first.

    The broker forgets the number of deliveries: the column shows the minimum that
    the reason allows.
    """
    from fedbroker.cli.dead_letter_view import as_json, print_letters

    letters = _archive(url, cohort, lambda archive: archive.letters())
    if json:
        print_json([as_json(letter) for letter in letters])
    elif letters:
        print_letters(letters)
    else:
        print(f"cohort {cohort} has no dead letters")


@app.command(help_epilogue=_SHOW)
def show(id: Id, /, *, url: Url, cohort: Cohort, save: Save = None, json: Json = False) -> None:
    """Show one dead letter: headers, operations and blobs."""
    from fedbroker.cli.dead_letter_view import as_json, print_letter, work_as_json

    letter, body = _archive(url, cohort, lambda archive: archive.find(id))
    bundle = None if letter.flaw else _opened(body)
    if save is not None:
        _save(save, body)
    if json:
        more = {"routing_key": letter.key, "headers": letter.headers}
        print_json(as_json(letter) | more | (work_as_json(bundle) if bundle is not None else {}))
        return
    print_letter(letter, bundle)


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
    """Run a dead-lettered work item at its silo, in a new session.

    Prints the outputs, which are the bytes that the original work would have
    given. The letter stays in the archive, and the coordinator that sent it gets
    no message. Blobs that are not in the letter come from the silo's cache or from
    --blobs. Work that continues a session cannot be replayed alone.
    `fedbroker-silo replay` does the same at the silo, without a broker.
    """
    from fedbroker.cli.replay import print_replayed, replay_work
    from fedbroker.deadletters.bundle import save_blobs
    from fedbroker.trust.keyring import coordinator_keys

    trusted = None if keys is None else coordinator_keys(keys)
    configure("auto", "error")
    letter, body = _archive(url, cohort, lambda archive: archive.find(id))
    bundle = _opened(body)
    if blobs is not None:
        bundle = bundle.with_files(blobs)
    replayed = asyncio.run(replay_work(url, cohort, bundle, silo or letter.silo, seconds, keys=trusted))
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
    """Put a dead-lettered work item back into its silo's queue.

    The letter leaves the archive once the broker has confirmed that the silo's
    queue has it. The reply goes to the coordinator that sent the work; if that
    coordinator is gone or has closed the session, the reply is ignored. To see
    the outputs, use `replay`.
    """
    letter, waits = _archive(url, cohort, lambda archive: archive.requeue(id, expires))
    if json:
        print_json(
            {"id": letter.id, "silo": letter.silo, "coordinator": letter.coordinator, "coordinator_present": waits}
        )
        return
    print(f"{letter.id} is in the queue of silo {letter.silo}")
    if not waits:
        print(f"its coordinator {letter.coordinator} seems to be gone, so the reply will be ignored")


@app.command(help_epilogue=_PURGE)
def purge(*, url: Url, cohort: Cohort, yes: Yes = False, json: Json = False) -> None:
    """Delete all dead letters of a cohort."""
    if not yes and not _confirmed(_archive(url, cohort, lambda archive: archive.count()), cohort):
        print("no dead letters deleted")
        return
    deleted = _archive(url, cohort, lambda archive: archive.purge())
    if json:
        print_json({"deleted": deleted})
    else:
        print(f"{count_text(deleted, 'dead letter')} deleted")


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


def _confirmed(letters: int, cohort: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("purge needs confirmation, and standard input is not a terminal", hint="add --yes")
    question = f"Delete {count_text(letters, 'dead letter')} of cohort {cohort} permanently? [y/N] "
    return input(question).strip().lower() in ("y", "yes")


def _save(file: Path, body: bytes) -> None:
    try:
        file.write_bytes(body)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}", hint="name another file") from None
