"""The command ``fedbroker-silo replay``: run a saved work item in this process, over this silo's own data.

It needs no broker and sends nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import pdb
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedbroker.deadletters.bundle import WorkBundle, save_blobs
from fedbroker.errors import ConfigError, DeadlineExceeded
from fedbroker.log import configure
from fedbroker.runtime import Runtime
from fedbroker.text import seconds_text
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Data, Seeds, blobs_of
from fedbroker_worker.errors import SessionLost, SettingsError, WorkRefused
from fedbroker_worker.policy.guard import Guard
from fedbroker_worker.sources.catalog import Catalog
from fedbroker_worker.sources.seeds import SiloSeeds
from fedbroker_worker.work.replay import replay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedbroker.runtime import Ref
    from fedbroker.wire.blobs import Buffer
    from fedbroker_worker.config import Settings

__all__ = ["replay_file"]

SECONDS: Final = 3600.0
"""Time limit of a run without the debugger, so that a script does not wait for ever. The item's own time has passed."""


@dataclass(frozen=True, slots=True)
class _Outputs:
    silo: str
    seconds: float
    blobs: Sequence[Buffer]


def replay_file(
    settings: Settings,
    file: Path,
    *,
    blobs: Path | None = None,
    out: Path | None = None,
    as_json: bool = False,
    debug: bool = False,
) -> None:
    """Run the work item in a file and print its outputs' digests and sizes.

    The outputs are the bytes that the silo would send, without masks: those of a masked sum are this silo's own part of
    it, and stay on this machine. Changes the working directory to that of the settings.

    Args:
        settings: the silo's settings.
        file: the body of a dead letter.
        blobs: a directory with the blobs that are not in the file, each in a file that is named by its digest.
        out: a directory for the outputs.
        as_json: print JSON.
        debug: stop in the debugger before the first operation and where the work item fails, and set no time limit.

    Raises:
        ConfigError: a file cannot be read or written, or the settings are another silo's.
        WireError: the file holds no work item.
        WorkRefused: blobs are missing.
        SessionLost: the work item continues a session.
        PolicyRefused: the silo's policy refuses the work item.
        SiloError: the silo's data do not fit the work item.
        RuntimeFailure: the C++ runtime cannot be started, or refused an operation.
        DeadlineExceeded: the run took more than an hour.
    """
    configure(settings.silo.log_format, "error")
    bundle = WorkBundle.opened(_body(file))
    if blobs is not None:
        bundle = bundle.with_files(blobs)
    _check(bundle, settings)
    out = out.absolute() if out is not None else None
    os.chdir(settings.directory)
    try:
        outputs = asyncio.run(_run(settings, bundle, None if debug else SECONDS))
    except Exception as error:
        if debug:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            pdb.post_mortem(error.__traceback__)
        raise
    if out is not None:
        save_blobs(out, outputs.blobs)
    _print(outputs, as_json=as_json)


async def _run(settings: Settings, bundle: WorkBundle, seconds: float | None) -> _Outputs:
    """Run the same steps as for work from the broker, with a separate runtime and sources."""
    item = bundle.item
    named = {op.name for op in item.ops if isinstance(op, Data)}
    # Sources that the work item does not name may be missing on a machine that is used to debug.
    sources = {name: source for name, source in settings.data.items() if name in named}
    catalog = Catalog(sources, settings.directory)
    silo = settings.silo
    runtime = Runtime(isolation=silo.isolation, memory=silo.runtime_memory_bytes, confinement=silo.runtime_confinement)
    seeds = SiloSeeds(silo.name, settings.keys)
    refs: dict[int, Ref] = {}

    async def load(op: Data | Seeds) -> bytes:
        return await catalog.load(op, item.clients) if isinstance(op, Data) else seeds.value(op, item.clients)

    started = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            await catalog.open()
            executor = await runtime.executor(item.clients)
            if seconds is None:
                pdb.set_trace()
            outputs = await replay(item.ops, executor, refs, bundle.blobs, load)
            return _Outputs(settings.silo.name, time.monotonic() - started, outputs)
    except TimeoutError:
        raise DeadlineExceeded(f"the work item was not done within {SECONDS:g} s", hint="--pdb sets no limit") from None
    finally:
        await runtime.close()
        await catalog.close()


def _body(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}",
            hint="name the file that `fedbroker dead-letters show --save` wrote",
        ) from None


def _check(bundle: WorkBundle, settings: Settings) -> None:
    """Check that the work item can run here, before the runtime and the sources start."""
    item = bundle.item
    if item.silo != settings.silo.name:
        raise SettingsError(
            f"the work item is for silo {item.silo!r}, the settings are those of {settings.silo.name!r}",
            hint=f"use its settings, or set FEDBROKER_SILO_NAME={item.silo} to run it over these data",
        )
    if bundle.earlier_refs:
        kept = ", ".join(f"%{ref}" for ref in bundle.earlier_refs)
        raise SessionLost(
            f"the work item continues session {item.session_id} with values of an earlier stage ({kept})",
            hint="it cannot be run alone: run the computation again",
        )
    if bundle.missing:
        raise WorkRefused(
            f"blobs that the work item needs are not in the file: {', '.join(bundle.missing)}",
            hint="put each into a file of that name, and name the directory with --blobs",
        )
    guard = Guard(settings.policy)
    guard.check_item(item)
    guard.check_blobs([bundle.blobs[digest] for digest in blobs_of(item.ops)], [])


def _print(outputs: _Outputs, *, as_json: bool) -> None:
    named = [(digest_of(blob), len(blob)) for blob in outputs.blobs]
    if as_json:
        sizes = [{"digest": digest, "size": size} for digest, size in named]
        print(json.dumps({"silo": outputs.silo, "seconds": outputs.seconds, "outputs": sizes}))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f"silo {outputs.silo} was done after {seconds_text(outputs.seconds)}")
    if named:
        table = Table(box=None, pad_edge=False)
        for heading in ("output", "digest", "bytes"):
            table.add_column(heading, justify="right" if heading == "bytes" else "left", overflow="fold")
        for at, (digest, size) in enumerate(named):
            table.add_row(str(at), digest, str(size))
        console.print(table)
