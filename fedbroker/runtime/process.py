"""The C++ runtime's processes, as the owner sees them: start, readiness, log, exit, stop."""

from __future__ import annotations

import asyncio
import collections
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final, Literal, TypeAlias
from urllib.parse import quote

from fedbroker.deadline import Deadline
from fedbroker.errors import RuntimeUnavailable
from fedbroker.runtime.host import supervisor
from fedbroker.runtime.host.confinement import DEFENCES, Confinement, Mode, files_of
from fedbroker.runtime.protos import package_directory
from fedbroker.text import printable, seconds_text

__all__ = ["Isolation", "RuntimeProcess", "host_process", "installed_binary"]

Isolation: TypeAlias = Literal["namespace", "none"]

# The host must stay small: it sees only the name of the package, and nothing of the package is executed.
_BOOT: Final = (
    "import sys; package = sys.modules['fedbroker'] = type(sys)('fedbroker'); package.__path__ = [sys.argv[1]]; "
    "from fedbroker.runtime.host.supervisor import main; main(sys.argv[2:])"
)
# A graph can read its process's environment, and ours may hold passwords: only these variables are passed on.
_ENVIRONMENT: Final = ("PATH", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD")
_ENVIRONMENT_PREFIXES: Final = ("LC_", "TF_", "XLA_", "OMP_", "KMP_", "MKL_", "GRPC_", "CUDA_", "MALLOC_", "GLIBC_")
# glibc has eight arenas for each processor, and the runtime a thread for each request: memory freed in one arena is not
# reused in another. With one arena for each processor, large values take a third less memory, and less time.
_ARENAS: Final = "MALLOC_ARENA_MAX"
# Large values use pages of 2 MiB, where the kernel has them: otherwise 100 MiB means 25,600 page faults each time,
# which take as long as all the rest. Keeping freed memory would save as much again, for a third more memory.
_TUNABLES: Final = "GLIBC_TUNABLES"
_LARGE_PAGES: Final = "glibc.malloc.hugetlb=1"
# oneDNN, which TensorFlow uses on processors with AVX-512 VNNI by default, waits or aborts where TensorFlow's own
# allocator reports that memory ran out, and its results differ in the last bits from those of other processors.
_ONEDNN: Final = "TF_ENABLE_ONEDNN_OPTS"
# Longer than the host takes for an orderly end (``_ORDERLY_SECONDS``); close() adds at most twice ``_KILL_SECONDS``.
_STOP_SECONDS: Final = 2.0
# For the pipes of a process that has ended or was killed to close: a matter of milliseconds on an idle machine.
_KILL_SECONDS: Final = 0.5
# Between two checks whether the host process was reaped.
_POLL_SECONDS: Final = 0.005
# The last log lines tell why the runtime ended; an error quotes three, as many as a failed check of TensorFlow takes.
_MAX_LINES: Final = 20
_QUOTED_LINES: Final = 3
# A graph can make the runtime log any text, of any length.
_MAX_LINE_BYTES: Final = 64 << 10


def installed_binary() -> Path:
    """Return the path of TFF's ``worker_binary``.

    Raises:
        RuntimeUnavailable: neither TFF's wheel nor fedbroker-runtime is installed.
    """
    try:
        path = package_directory() / "data" / "worker_binary"
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(str(error), hint="install the locked requirements") from None
    if not path.is_file():
        raise RuntimeUnavailable(f"{path} does not exist", hint="install tensorflow-federated 0.87.0's manylinux wheel")
    return path


class RuntimeProcess:
    """One start of the runtime; it ends with this process, however this process ends.

    Args:
        isolation: ``"namespace"``: in a user and network namespace of its own; ``"none"``: on the host's network.
        binary: path of ``worker_binary``.
        memory: bytes that it may allocate.
        log: called in the event loop with each line that the runtime writes. If the loop is too busy to read them, some
            lines are lost; the runtime never waits.
        start_timeout: seconds until it must be ready.
        confinement: ``"required"`` refuses to run where the user's files cannot be protected.
        readable: further files and directories that it may read and execute.
        without: defences to leave out, for tests of the others.

    Attributes:
        target: the gRPC address at which it serves, after the start.
    """

    def __init__(
        self,
        isolation: Isolation,
        binary: Path,
        memory: int,
        log: Callable[[str], None],
        start_timeout: float,
        *,
        confinement: Mode = "best-effort",
        readable: Sequence[Path] = (),
        without: Sequence[str] = (),
    ) -> None:
        self._isolation: Isolation = isolation
        self._binary = binary.absolute()
        self._memory = memory
        self._log = log
        self._start_timeout = start_timeout
        self._mode = confinement
        self._readable = tuple(map(os.fspath, readable))
        self._without = dict.fromkeys(DEFENCES if confinement == "off" else without, "switched off")
        self._log_lines: collections.deque[str] = collections.deque(maxlen=_MAX_LINES)
        self._reports: dict[str, str] = {}
        self._stopped = False
        self._stop_reason = ""
        self._reported = asyncio.Event()
        self._status = _LineProtocol(self._on_status)
        self._output = _LineProtocol(self._on_output)
        self._child: subprocess.Popen[bytes] | None = None
        self.target = ""

    @property
    def alive(self) -> bool:
        """True if it runs, as far as is known."""
        return self._child is not None and not self._status.ended.is_set() and supervisor.EXITED not in self._reports

    @property
    def pid(self) -> int | None:
        """Process id of the host process."""
        return self._child.pid if self._child is not None else None

    @property
    def confinement(self) -> Confinement:
        """Outcome of each defence; nothing is in force before the start."""
        return Confinement.parse(self._reports.get(supervisor.CONFINEMENT, ""))

    async def start(self) -> None:
        """Start the runtime. Returns when it serves at ``target``.

        Raises:
            RuntimeUnavailable: it did not start, could not be isolated, or is not confined as required.
        """
        try:
            await self._launch()
            async with asyncio.timeout(self._start_timeout):
                await self._reported.wait()
            if supervisor.READY not in self._reports:
                await _wait(_KILL_SECONDS, self._output.ended)
                raise self._failure()
            if self._mode == "required" and not self.confinement.protects_files:
                raise RuntimeUnavailable(
                    f"the C++ runtime could read this user's files: {self.confinement.missing}",
                    hint='allow it a mount namespace or Landlock, or set runtime_confinement = "best-effort"',
                )
        except TimeoutError:
            await self.close()
            raise self._failure() from None
        except BaseException:
            await self.close()
            raise
        scheme, _, path = self._reports[supervisor.READY].partition(":")
        self.target = f"{scheme}:{quote(path)}"

    def stop(self, reason: str = "") -> None:
        """Ask it to end, without waiting. ``exit_report`` then returns the reason, if one is given."""
        self._stopped = True  # a start that has no child yet fails
        self._stop_reason = self._stop_reason or reason
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()

    async def close(self) -> None:
        """End it: an orderly stop, then SIGKILL. Takes under three seconds; may be called again."""
        child = self._child
        if child is None:
            return
        self.stop()
        if not await _wait(_STOP_SECONDS, self._status.ended):
            child.kill()  # the kernel ends its descendants
            await _wait(_KILL_SECONDS, self._status.ended)
        self._status.close()
        self._output.close()
        for pipe in (child.stdout, child.stderr):  # a start that was cancelled had not handed them over
            if pipe is not None:
                pipe.close()
        if supervisor.DIRECTORY in self._reports:
            supervisor.remove(self._reports[supervisor.DIRECTORY])
        # Its streams have ended, so it is a matter of milliseconds. Not in a thread: none can be started at interpreter
        # exit.
        deadline = Deadline.after(_KILL_SECONDS)
        while child.poll() is None and not deadline.passed():  # noqa: ASYNC110 -- no event signals the exit
            await asyncio.sleep(_POLL_SECONDS)

    async def exit_report(self, seconds: float) -> str | None:
        """Return how it ended, for a log line; None if it is not known to have ended after so many seconds."""
        await _wait(seconds, self._status.ended)
        if self.alive:
            return None
        if self._stop_reason:
            return self._stop_reason
        await _wait(_KILL_SECONDS, self._output.ended)
        exit_text = self._reports.get(supervisor.EXITED, "its host process ended")
        if self._log_lines and _explained_by_log(exit_text):
            return f"{exit_text}, last log lines: {self._last_lines()}"
        return exit_text

    async def _launch(self) -> None:
        binary = os.fspath(self._binary)
        base, files, without = await asyncio.to_thread(self._prepare, binary)
        if self._stopped:
            raise RuntimeUnavailable("the C++ runtime was stopped before it started")
        # Not in a thread of its own: the kernel ends the child together with the thread that started it.
        try:
            self._child = host_process(self._isolation, binary, base, self._memory, files, without)
        except OSError as error:
            raise RuntimeUnavailable(f"the C++ runtime's host process did not start: {error}") from error
        await self._status.read(_pipe(self._child.stdout))
        await self._output.read(_pipe(self._child.stderr))

    def _prepare(self, binary: str) -> tuple[str, tuple[str, ...], Mapping[str, str]]:
        """Return the directory for temporary files, the files that the runtime may read, and the defences to omit.

        This blocks: the program's loader lists its libraries.
        """
        base, files, without = tempfile.gettempdir(), self._readable, self._without
        if self._isolation == "namespace" and len(os.fsencode(base)) > supervisor.longest_base():
            raise RuntimeUnavailable(
                f"a Unix socket cannot have so long a path as one in {base}", hint="set TMPDIR to a shorter one"
            )
        try:
            files += files_of(binary, _environment(os.environ))
        except OSError as error:
            unknown = f"the files that {binary} needs are not known: {error.strerror}"
            without = {"mount": unknown, "landlock": unknown, **without}
        return base, files, without

    def _on_status(self, line: str | None) -> None:
        event, _, detail = (line or "").partition(" ")
        if line is not None:
            self._reports.setdefault(event, detail)
        if event not in (supervisor.DIRECTORY, supervisor.CONFINEMENT):
            self._reported.set()

    def _on_output(self, line: str | None) -> None:
        if line is None:
            return
        line = printable(line)
        self._log_lines.append(line)
        self._log(line)

    def _last_lines(self) -> str:
        return " | ".join(list(self._log_lines)[-_QUOTED_LINES:]) or "it wrote nothing"

    def _failure(self) -> RuntimeUnavailable:
        if supervisor.FORBIDDEN in self._reports:
            return RuntimeUnavailable(
                f"the C++ runtime cannot be isolated here: {self._reports[supervisor.FORBIDDEN]}",
                hint='allow user namespaces, or set isolation = "none" if other users cannot reach this host',
            )
        if supervisor.FAILED in self._reports:
            return RuntimeUnavailable(f"the C++ runtime did not start: {self._reports[supervisor.FAILED]}")
        exit_text = self._reports.get(supervisor.EXITED, f"not ready within {seconds_text(self._start_timeout)}")
        return RuntimeUnavailable(
            f"the C++ runtime did not start ({exit_text}): {self._last_lines()}",
            hint=f"run {self._binary} in a shell to see why",
        )


class _LineProtocol(asyncio.Protocol):
    """Protocol that passes on the lines of a pipe, and None at its end."""

    def __init__(self, on_line: Callable[[str | None], None]) -> None:
        self._on_line = on_line
        self._buffer = b""
        self._transport: asyncio.ReadTransport | None = None
        self.ended = asyncio.Event()

    async def read(self, pipe: IO[bytes]) -> None:
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, pipe)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _MAX_LINE_BYTES:
            lines.append(self._buffer)
            self._buffer = b""
        for line in lines:
            self._pass_on(line)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._buffer:
            self._pass_on(self._buffer)
        self._on_line(None)
        self.ended.set()

    def _pass_on(self, line: bytes) -> None:
        try:
            self._on_line(os.fsdecode(line).rstrip())
        except Exception as error:  # the caller's log function: report the error, and keep reading
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the log function of the C++ runtime failed", "exception": error}
            )


def host_process(
    isolation: Isolation,
    binary: str,
    base: str,
    memory: int,
    files: Sequence[str] = (),
    without: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[bytes]:
    """Start the host process in a session of its own, so that no signal to our process group reaches it."""
    package = str(Path(supervisor.__file__).parents[2])
    reasons = "\n".join(f"{name}={' '.join(reason.split())}" for name, reason in without.items())
    arguments = (isolation, os.path.abspath(binary), base, str(os.getpid()), str(memory), "\n".join(files), reasons)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, package, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(os.environ),
        cwd="/",
        start_new_session=True,
    )


def _pipe(end: IO[bytes] | None) -> IO[bytes]:
    assert end is not None, "made with pipes"
    return end


async def _wait(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    passed = {
        name: value for name, value in environ.items() if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    return {_ARENAS: str(max(2, os.cpu_count() or 2)), _TUNABLES: _LARGE_PAGES, _ONEDNN: "0", **passed}


def _explained_by_log(exit_text: str) -> bool:
    """Return whether its last log lines explain the exit: not if it was killed, by a person or for lack of memory."""
    return "SIGKILL" not in exit_text and "SIGTERM" not in exit_text
