"""The C++ runtime's processes, seen from ours: start, readiness, death, end.

Imports its neighbour ``host`` for the words they share, protos and the base.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import fedbroker
from fedbroker.errors import RuntimeUnavailable
from fedbroker.runtime import host
from fedbroker.runtime.protos import package_directory

__all__ = ["Isolation", "RuntimeProcess", "installed_binary"]

Isolation: TypeAlias = Literal["namespace", "none"]

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from fedbroker.runtime.host import main; main(sys.argv[2:])"
_STOP_SECONDS = 2.0
_START_SLACK = 5.0
_WORDS_KEPT = 20


def installed_binary() -> Path:
    """TFF's ``worker_binary``.

    Raises:
        RuntimeUnavailable: TFF's wheel is not installed.
    """
    try:
        path = package_directory() / "data" / "worker_binary"
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(str(error), hint="install the locked requirements") from None
    if not path.is_file():
        raise RuntimeUnavailable(f"there is no {path}", hint="install tensorflow-federated 0.87.0's manylinux wheel")
    return path


class RuntimeProcess:
    """One start of the runtime; ends with this process, however that ends.

    Args:
        isolation: ``"namespace"``: in a user and network namespace of its own; ``"none"``: on the host's network.
        binary: path of ``worker_binary``.
        log: called with each line that it writes.
        start_timeout: seconds that it may take to be ready.
    """

    def __init__(self, isolation: Isolation, binary: Path, log: Callable[[str], None], start_timeout: float) -> None:
        self._isolation = isolation
        self._binary = binary
        self._log = log
        self._start_timeout = start_timeout
        self._words: collections.deque[str] = collections.deque(maxlen=_WORDS_KEPT)
        self._directory: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None
        self.target = ""

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Of the host process."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Return when it serves at ``target``, a gRPC address.

        Raises:
            RuntimeUnavailable: it did not start, or could not be isolated.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="fedbroker-"))  # mode 0700
        root = Path(fedbroker.__file__).parent.parent
        arguments = [str(self._binary), str(self._directory), self._isolation, str(self._start_timeout)]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _BOOT, str(root), *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._drain = asyncio.create_task(self._listen(self._process))
        try:
            word, _, rest = (await self._first_line(self._process)).partition(" ")
            if word != host.READY:
                raise self._failure(word, rest)
            self.target = rest
        except BaseException:
            await asyncio.shield(self.close())
            raise

    async def close(self) -> None:
        """End it: an orderly stop, then SIGKILL. Under three seconds; may be called again."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None, "started with a pipe"
            process.stdin.close()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.gather(self._drain, return_exceptions=True)
            self._drain = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    async def _first_line(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None, "started with a pipe"
        try:
            async with asyncio.timeout(self._start_timeout + _START_SLACK):
                return (await process.stdout.readline()).decode(errors="replace").strip()
        except TimeoutError:
            return ""

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Take in all that it writes: a full pipe would stop it."""
        assert process.stderr is not None, "started with a pipe"
        while True:
            try:
                line = await process.stderr.readline()
            except ValueError:  # longer than the reader's limit; the reader has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._words.append(text)
            self._log(text)

    def _failure(self, word: str, rest: str) -> RuntimeUnavailable:
        if word == host.FORBIDDEN:
            return RuntimeUnavailable(
                f"the C++ runtime cannot be isolated here: {rest}",
                hint='allow user namespaces, or set isolation = "none" where other means keep strangers from this host',
            )
        said = self._words[-1] if self._words else "it said nothing"
        return RuntimeUnavailable(
            f"the C++ runtime did not start within {self._start_timeout:g} s: {said}",
            hint=f"run {self._binary} by hand",
        )
