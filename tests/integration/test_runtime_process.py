"""The runtime's processes: start, death, end. Executed by path, this file is a program that owns a runtime."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

import fedbroker
from fedbroker.errors import RuntimeUnavailable
from fedbroker.runtime import Runtime
from fedbroker.runtime.host import supervisor
from fedbroker.runtime.process import RuntimeProcess, host_process, installed_binary
from fedbroker.runtime.protos import array_pb2, data_type_pb2, executor_pb2
from tests.support.shell_paths import SHELL_PATHS
from tests.support.transports import eventually
from tests.support.wait import wait_until

ROOT = str(Path(fedbroker.__file__).parent.parent)
PROMPT_SECONDS = 3.0
both = pytest.mark.parametrize("isolation", ["namespace", "none"])


def three() -> bytes:
    array = array_pb2.Array(dtype=data_type_pb2.DT_INT32, shape=array_pb2.ArrayShape())
    array.int32_list.value.append(3)
    return executor_pb2.Value(array=array).SerializeToString()


async def serves(runtime):
    executor = await runtime.executor(1)
    answer = await executor.compute(await executor.value(three()))
    await executor.close()
    return answer == three()


def family(pid):
    """Return the host process and its descendants: supervisor, child, worker."""
    supervisor = psutil.Process(pid)
    return [supervisor, *supervisor.children(recursive=True)]


async def started(runtime):
    """Return the three processes of a runtime that never becomes ready."""
    return await asyncio.to_thread(wait_until, lambda: runtime.pid and len(found := family(runtime.pid)) == 3 and found)


def living(process):
    """Return whether a process runs; a zombie that waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_of(pids):
    """Return the processes that have not ended yet."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def all_gone(processes, seconds=PROMPT_SECONDS):
    """Wait until all processes have ended."""
    return wait_until(lambda: not any(map(living, processes)), seconds, f"the end of {processes}")


@pytest.fixture
def base(tmp_path_factory, monkeypatch):
    """Return the directory of runtimes' own directories; it must be empty at the end."""
    # pytest's own temporary directories have paths that are too long for a socket
    with tempfile.TemporaryDirectory(prefix="rt") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(directory)
        monkeypatch.setattr(tempfile, "tempdir", None)
        assert list(Path(directory).glob("fedbroker-*")) == []


@pytest.fixture
def owner():
    """Start this file as a program in its own process; end it with the test."""
    started = []

    def start(*arguments, prefix=()):
        process = subprocess.Popen(
            [*prefix, sys.executable, __file__, *arguments],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finished(process, seconds=60):
    output, errors = process.communicate(timeout=seconds)
    return process.returncode, output, errors


# --- start and end ---


@both
@pytest.mark.alone
async def test_runtime_serves_from_start_to_close_and_leaves_nothing(base, isolation):
    runtime = Runtime(isolation=isolation)
    await runtime.start()
    processes = family(runtime.pid)
    assert [one.name() for one in processes][-1] == "worker_binary"
    assert len(list(base.iterdir())) == (1 if isolation == "namespace" else 0)
    assert await serves(runtime)
    start = time.monotonic()
    await runtime.close()
    assert time.monotonic() - start < PROMPT_SECONDS
    assert not [one for one in processes if one.is_running()]
    await runtime.close()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        await runtime.executor(1)


async def test_directory_is_private(base):
    runtime = Runtime()
    await runtime.start()
    (directory,) = base.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    await runtime.close()


async def test_runtime_has_its_own_namespaces(base):
    runtime = Runtime()
    await runtime.start()
    worker = family(runtime.pid)[-1].pid
    for kind in ("user", "net", "pid", "mnt", "ipc"):
        assert os.readlink(f"/proc/{worker}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    await runtime.close()


async def test_message_limit_is_that_of_protocol_buffers(base):
    # Nothing is sent: two gibibytes would need several times as much memory.
    runtime = Runtime()
    await runtime.start()
    assert "--grpc_max_message_length_megabytes=2047" in family(runtime.pid)[-1].cmdline()
    await runtime.close()


async def test_host_process_is_small(base):
    runtime = Runtime()
    await runtime.start()
    supervisor, child, _ = family(runtime.pid)
    for one in (supervisor, child):
        assert one.memory_full_info().uss < 12 << 20
        assert not [path for path in one.memory_maps() if "_asyncio" in path.path or "grpc" in path.path]
    await runtime.close()


async def test_many_runtimes_run_side_by_side(base):
    runtimes = [Runtime(isolation=isolation) for isolation in ("none", "namespace") * 3]
    await asyncio.gather(*(runtime.start() for runtime in runtimes))
    ports = [family(runtime.pid)[-1].cmdline()[1] for runtime in runtimes[::2]]
    assert len(set(ports)) == len(ports)
    assert all(await asyncio.gather(*(serves(runtime) for runtime in runtimes)))
    await asyncio.gather(*(runtime.close() for runtime in runtimes))


def test_event_loops_in_several_threads_have_their_own_runtimes(base, caplog):
    served = []

    async def use():
        runtime = Runtime()
        await runtime.start()
        served.extend([await serves(runtime) for _ in range(30)])
        await runtime.close()

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served == [True] * 90
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_cancelled_start_leaves_no_process(base):
    binary = base / "silent"
    binary.write_text("#!/bin/sh\nexec sleep 60\n")
    binary.chmod(0o700)
    runtime = Runtime(binary=binary, readable=SHELL_PATHS)
    start = asyncio.create_task(runtime.start())
    processes = await started(runtime)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert all_gone(processes)
    await runtime.close()


@pytest.mark.alone
@pytest.mark.parametrize("turns", range(6))
async def test_start_cancelled_at_any_turn_closes_its_pipes(base, turns):
    process = RuntimeProcess("namespace", installed_binary(), 1 << 30, lambda _: None, 20)
    starting = asyncio.create_task(process.start())
    async with asyncio.timeout(30):
        while process.pid is None:  # noqa: ASYNC110 -- each turn of the loop counts
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    child = process._child
    assert child.poll() is not None
    assert [pipe.closed for pipe in (child.stdin, child.stdout, child.stderr)] == [True] * 3


async def test_close_ends_a_running_start(base):
    binary = base / "silent"
    binary.write_text("#!/bin/sh\nexec sleep 60\n")
    binary.chmod(0o700)
    runtime = Runtime(binary=binary, readable=SHELL_PATHS)
    start = asyncio.create_task(runtime.start())
    processes = await started(runtime)
    async with asyncio.timeout(PROMPT_SECONDS):
        await runtime.close()
    with pytest.raises(RuntimeUnavailable):
        await start
    assert all_gone(processes)


# --- death ---


@both
@pytest.mark.parametrize("victim", [0, 1, 2], ids=["supervisor", "child", "worker"])
@pytest.mark.alone
async def test_death_fails_running_requests_and_the_next_executor_restarts(base, isolation, victim):
    runtime = Runtime(isolation=isolation)
    await runtime.start()
    executor = await runtime.executor(1)
    ref = await executor.value(three())
    processes = family(runtime.pid)
    processes[2].suspend()  # so that the request has certainly started
    request = asyncio.create_task(executor.compute(ref))
    await asyncio.wait([request], timeout=0.2)
    assert not request.done()
    processes[victim].kill()
    with pytest.raises(RuntimeUnavailable, match="SIGKILL" if victim == 2 else "gone"):
        async with asyncio.timeout(PROMPT_SECONDS):
            await request
    assert await serves(runtime)
    assert runtime.restarts == 1
    assert all_gone(processes)
    with pytest.raises(RuntimeUnavailable):
        await executor.value(three())
    await executor.close()
    await runtime.close()


async def test_concurrent_executors_after_a_death_share_one_restart(base):
    runtime = Runtime()
    await runtime.start()
    family(runtime.pid)[2].kill()
    assert all(await asyncio.gather(*(serves(runtime) for _ in range(5))))
    assert runtime.restarts == 1
    await runtime.close()


@both
@pytest.mark.parametrize("way", ["plain", "forked"])
def test_runtime_ends_with_its_killed_owner(base, owner, isolation, way):
    process = owner("serve", isolation, way)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    processes = [psutil.Process(pid) for pid in pids]
    assert len(processes) == 3
    process.kill()
    assert all_gone(processes)


@both
@pytest.mark.alone
def test_sigterm_to_the_host_process_cleans_up(base, owner, isolation):
    process = owner("serve", isolation, "plain")
    processes = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    processes[0].terminate()
    assert all_gone(processes)
    wait_until(lambda: not list(base.iterdir()), PROMPT_SECONDS)


@both
@pytest.mark.parametrize("way", ["returns", "exits", "thread", "under request"])
@pytest.mark.alone
def test_interpreter_exits_without_close(base, owner, isolation, way):
    process = owner("forget", isolation, way)
    code, output, errors = finished(process, seconds=20)
    assert (code, errors) == (7 if way == "exits" else 0, "")
    assert all_gone(processes_of(map(int, output.split())))
    wait_until(lambda: not list(base.iterdir()), PROMPT_SECONDS)


# --- signals ---


@both
def test_owner_with_blocked_signals_can_start_and_end_a_runtime(base, owner, isolation):
    code, output, errors = finished(owner("deaf", isolation))
    assert (code, output, errors) == (0, "served\n", "")


@both
async def test_sigint_does_not_reach_the_runtimes_processes(base, isolation):
    runtime = Runtime(isolation=isolation)
    await runtime.start()
    for one in family(runtime.pid):
        assert os.getpgid(one.pid) != os.getpgrp()
        one.send_signal(signal.SIGINT)
    assert await serves(runtime)
    assert runtime.restarts == 0
    await runtime.close()


# --- what the kernel allows ---


def test_missing_namespaces_error_names_the_setting(base, owner):
    forbid = ("unshare", "--user", "--map-root-user", "sh", "-c")
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    code, output, errors = finished(owner("once", "namespace", prefix=(*forbid, script, "sh")))
    assert code == 0, errors
    assert "cannot be isolated here" in output
    assert 'isolation = "none"' in output
    assert "served" not in output


def test_isolation_none_works_without_namespaces(base, owner):
    forbid = ("unshare", "--user", "--map-root-user", "sh", "-c")
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    assert finished(owner("once", "none", prefix=(*forbid, script, "sh")))[:2] == (0, "served\n")


def test_runtime_starts_without_pid_namespaces(base, owner):
    forbid = ("unshare", "--user", "--map-root-user", "sh", "-c")
    script = 'echo 0 > /proc/sys/user/max_pid_namespaces && exec "$@"'
    assert finished(owner("once", "namespace", prefix=(*forbid, script, "sh")))[:2] == (0, "served\n")


@both
def test_ordinary_user_can_start_a_runtime(base, owner, isolation):
    ordinary = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    assert finished(owner("once", isolation, prefix=ordinary))[:2] == (0, "served\n")


# --- a start that fails ---


@both
async def test_output_of_a_runtime_that_exits_is_in_the_error(base, isolation):
    binary = base / "broken"
    binary.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    binary.chmod(0o700)
    lines: list[str] = []
    with pytest.raises(RuntimeUnavailable, match=r"exit status 3.*out of luck"):
        await Runtime(isolation=isolation, binary=binary, readable=SHELL_PATHS, log=lines.append).start()
    assert lines == ["out of luck"]


@both
@pytest.mark.alone
async def test_runtime_that_never_listens_is_an_error(base, isolation):
    binary = base / "silent"
    binary.write_text("#!/bin/sh\necho thinking\nexec sleep 60\n")
    binary.chmod(0o700)
    runtime = Runtime(isolation=isolation, binary=binary, readable=SHELL_PATHS, start_timeout=0.5)
    start = time.monotonic()
    with pytest.raises(RuntimeUnavailable, match=r"not ready within 0.5 s.*thinking"):
        await runtime.start()
    assert time.monotonic() - start < 0.5 + PROMPT_SECONDS


async def test_missing_binary_is_named(base):
    with pytest.raises(RuntimeUnavailable, match=r"/no/such/binary.*No such file"):
        await Runtime(binary=Path("/no/such/binary")).start()


async def test_path_too_long_for_a_socket_names_the_variable(base, monkeypatch):
    deep = base / ("d" * (supervisor.longest_base() - len(str(base))))
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(RuntimeUnavailable, match="TMPDIR"):
        await Runtime().start()


@pytest.mark.parametrize("name", ["plain", "with space", "a%41?b#c&d", "é"])
async def test_socket_path_may_have_special_characters_and_maximal_length(base, monkeypatch, name):
    room = supervisor.longest_base() - len(os.fsencode(f"{base}/{name}"))
    odd = base / (name + "d" * room)
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    runtime = Runtime()
    await runtime.start()
    assert await serves(runtime)
    await runtime.close()
    assert list(odd.iterdir()) == []


# --- output and environment ---


async def test_output_goes_to_the_log(base, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    lines: list[str] = []
    runtime = Runtime(log=lines.append)
    await runtime.start()
    await eventually(lambda: any("listening on" in line for line in lines))  # it is ready before it writes so
    await runtime.close()


async def test_failing_log_function_is_reported_and_harmless(base, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reports.append(context["message"]))

    def fail(_line):
        raise ValueError("the log is full")

    runtime = Runtime(log=fail)
    await runtime.start()
    assert await serves(runtime)
    await runtime.close()
    assert set(reports) == {"the log function of the C++ runtime failed"}


@pytest.mark.alone
def test_unread_output_does_not_block_the_runtime(base):
    binary = base / "talker"
    flood = "head -c 3000000 /dev/zero | tr '\\0' '\\n' >&2"
    binary.write_text(f'#!/bin/sh\n{flood}\nexec {installed_binary()} "$@"\n')
    binary.chmod(0o700)
    process = host_process("namespace", str(binary), str(base), 1 << 30, [str(binary), *map(str, SHELL_PATHS)])
    said = [process.stdout.readline().split()[0].decode() for _ in range(3)]
    assert said == [supervisor.DIRECTORY, supervisor.CONFINEMENT, supervisor.READY]
    process.stdin.close()
    words = process.stderr.read()  # more than a pipe holds
    assert 0 < len(words) < 1_000_000
    assert process.stdout.read() == b""
    assert process.wait(PROMPT_SECONDS) == 0
    process.stdout.close()
    process.stderr.close()


async def test_secrets_are_removed_from_the_runtimes_environment(base, monkeypatch):
    monkeypatch.setenv("FEDBROKER_URL", "amqp://user:secret@broker/")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runtime = Runtime()
    await runtime.start()
    for one in family(runtime.pid):
        environment = one.environ()
        assert "FEDBROKER_URL" not in environment
        assert environment["OMP_NUM_THREADS"] == "1"
    await runtime.close()


@pytest.mark.parametrize(("chosen", "used"), [(None, "0"), ("0", "0"), ("1", "1")])
async def test_onednn_is_off_unless_the_environment_says_otherwise(base, monkeypatch, chosen, used):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", chosen)
    runtime = Runtime()
    await runtime.start()
    assert {one.environ()["TF_ENABLE_ONEDNN_OPTS"] for one in family(runtime.pid)} == {used}
    await runtime.close()


async def test_proxy_settings_are_ignored(base, monkeypatch):
    for name in ("http_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    runtime = Runtime(isolation="none")
    await runtime.start()
    assert await serves(runtime)
    await runtime.close()


# --- the programs ---


async def serve(isolation, way):
    """Own a runtime until killed; with ``forked``, a child holds all descriptors open until its input ends."""
    runtime = Runtime(isolation=isolation, log=lambda _line: None)
    await runtime.start()
    if way == "forked" and os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print(*(one.pid for one in family(runtime.pid)), flush=True)
    await asyncio.Event().wait()


async def own(isolation, way, kept):
    """Start a runtime and leave it running."""
    runtime = Runtime(isolation=isolation, log=lambda _line: None)
    kept.append(runtime)
    await runtime.start()
    print(*(one.pid for one in family(runtime.pid)), flush=True)
    if way == "under request":
        executor = await runtime.executor(1)
        ref = await executor.value(three())
        family(runtime.pid)[2].suspend()
        kept.append(asyncio.create_task(executor.compute(ref)))
        await asyncio.wait([kept[-1]], timeout=0.2)
    if way == "exits":
        sys.exit(7)


def forget(isolation, way):
    """Exit without close, in one of several ways."""
    kept: list[object] = []
    if way != "thread":
        asyncio.run(own(isolation, way, kept))
        return
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(own(isolation, way, kept), loop).result()


async def once(isolation):
    """Start, use, close; print an error, if any."""
    runtime = Runtime(isolation=isolation, log=lambda _line: None)
    try:
        await runtime.start()
    except RuntimeUnavailable as error:
        print(error)
        return
    assert await serves(runtime)
    await runtime.close()
    print("served")


def deaf(isolation):
    """Run the same with signals blocked and ignored."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(once(isolation))


def main(program, *arguments):
    match program:
        case "serve":
            asyncio.run(serve(*arguments))
        case "forget":
            forget(*arguments)
        case "once":
            asyncio.run(once(*arguments))
        case "deaf":
            deaf(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
