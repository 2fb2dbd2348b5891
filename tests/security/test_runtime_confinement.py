"""A graph that bypassed the silo's list of ops, inside the real C++ runtime.

The attacker writes graphs, or controls the whole process of the C++ runtime. The silo's list of ops is not involved
here: all graphs go straight to the runtime. They must find no file of the silo's user, leave none behind, and reach no
other process; with either of the two defences that protect files switched off, and with the runtime on the host's
network. The kernel is asked which of them it has, and it must have one.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import ComputationFailed, RuntimeUnavailable
from fedbroker.runtime import Runtime
from fedbroker.runtime.host.confinement import DEFENCES, Confinement
from fedbroker.runtime.protos import executor_pb2

MARK = secrets.token_hex(16)
"""The content that must not be found."""
NAME = f"fb-{secrets.token_hex(8)}"
"""Name of the files that hold it."""
SECONDS = 60.0
SYSTEM = tuple(map(Path, ("/lib", "/lib64", "/usr/lib")))
ALL = ("namespace", ())
MOUNT_ALONE = ("namespace", tuple(name for name in DEFENCES if name != "mount"))
LANDLOCK_ALONE = ("namespace", tuple(name for name in DEFENCES if name != "landlock"))
ON_THE_HOST_S_NETWORK = ("none", ())
LANDLOCK_ALONE_ON_THE_HOST_S_NETWORK = ("none", tuple(name for name in DEFENCES if name != "landlock"))
WAYS = {
    "all": ALL,
    "mount alone": MOUNT_ALONE,
    "landlock alone": LANDLOCK_ALONE,
    "no namespaces": ON_THE_HOST_S_NETWORK,
    "landlock alone, no namespaces": LANDLOCK_ALONE_ON_THE_HOST_S_NETWORK,
}
NOTHING = {"namespace": ("namespace", DEFENCES), "none": ("none", DEFENCES)}


@functools.cache
def kernel_has(defence):
    """Return whether this kernel has a defence, determined without our own code."""
    if defence == "landlock":
        return ctypes.CDLL(None).syscall(444, None, ctypes.c_long(0), 1) > 0
    made = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/"],
        capture_output=True,
        timeout=SECONDS,
    )
    return made.returncode == 0


def protected(way):
    """Return whether a runtime started in this way must keep a graph from files."""
    isolation, without = way
    mount = isolation == "namespace" and "mount" not in without and kernel_has("mount")
    return mount or ("landlock" not in without and kernel_has("landlock"))


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS.keys())
def way(request):
    return request.param


async def ran(way, *graphs):
    """Run graphs; return for each its result as bytes, or its error message."""
    isolation, without = way
    runtime = Runtime(isolation=isolation, without=without, log=lambda _: None)
    try:
        async with asyncio.timeout(SECONDS):
            executor = await runtime.executor(0)
            outcomes = [await outcome(executor, graph) for graph in graphs]
        assert runtime.restarts == 0  # no graph crashed the runtime
        assert runtime.confinement.protects_files == protected(way)
        return outcomes
    finally:
        await runtime.close()


async def outcome(executor, graph):
    try:
        return bytes(await executor.compute(await executor.call(await executor.value(graph), None)))
    except ComputationFailed as error:
        return error.detail.encode()


def graph(body):
    computation = tff.tensorflow.computation(body)
    return executor_pb2.Value(computation=tff.framework.serialize_computation(computation)).SerializeToString()


# --- files ---

READERS = {
    "ReadFile": lambda path: tf.io.read_file(path),
    "TextLineDataset": lambda path: tf.data.TextLineDataset(path).reduce("", lambda all, line: all + line),
    "FixedLengthRecordDataset": lambda path: tf.data.FixedLengthRecordDataset(path, 1).reduce("", lambda a, b: a + b),
}
WRITERS = {
    "WriteFile": lambda path: [tf.io.write_file(path, MARK)],
    "SaveV2": lambda path: [tf.raw_ops.SaveV2(prefix=path, tensor_names=["a"], shape_and_slices=[""], tensors=[MARK])],
    "CacheDataset": lambda path: [],
}


def reads(op, path):
    return graph(lambda: READERS[op](str(path)))


def lists(pattern):
    return graph(lambda: tf.io.matching_files(str(pattern)))


def writes(op, path):
    def cached():
        numbers = tf.data.Dataset.range(3).map(lambda n: tf.strings.as_string(n) + MARK).cache(str(path))
        return numbers.reduce("", lambda all, one: all + one)

    def written():
        with tf.control_dependencies(WRITERS[op](str(path))):
            return tf.constant(1)

    return graph(cached if op == "CacheDataset" else written)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Write files of this user with a mark in them; yield them and their directories."""
    directories = [tmp_path_factory.mktemp("marked"), Path.home(), Path(tempfile.gettempdir())]
    files = [directory / NAME for directory in directories]
    for file in files:
        file.write_text(MARK)
    yield files
    for file in files:
        file.unlink()


OTHERS = ("/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/environ", "/proc/self/maps", "/proc/version")


@pytest.mark.parametrize("op", READERS)
async def test_a_graph_reads_no_file_of_the_silos_user(way, marked, op):
    own = [Path(__file__), Path(sys.prefix) / "pyvenv.cfg", Path(f"/proc/{os.getpid()}/environ")]
    paths = [*marked, *map(Path, OTHERS), *own]
    told = await ran(way, *(reads(op, path) for path in paths))
    for path, words in zip(paths, told, strict=True):
        assert MARK.encode() not in words, path
        assert b"No such file" in words or b"ermission" in words, (path, words)


async def test_a_graph_lists_no_directory(way, marked):
    socket_directories = Path(tempfile.gettempdir()) / "fedbroker-*" / "*"
    patterns = [*(file.parent / "*" for file in marked), socket_directories, "/etc/*", "/proc/*", "/home/*", "/*"]
    found = await ran(way, *(lists(one) for one in patterns))
    for pattern, words in zip(patterns, found, strict=True):
        assert not any(name in words for name in (b"/fb-", b"runtime.sock", b"passwd", b"/1/")), (pattern, words)


@pytest.mark.parametrize("op", WRITERS)
async def test_a_graph_writes_no_file(way, marked, op):
    directories = [*(file.parent for file in marked), *map(Path, ("/dev/shm", "/var/tmp", "/run", "/", "/etc"))]
    targets = [directory / f"written-{NAME}" for directory in directories]
    words = await ran(way, *(writes(op, target) for target in targets), *(writes(op, file) for file in marked))
    left = [path for directory in directories for path in directory.glob(f"written-{NAME}*")]
    for path in left:
        path.unlink()
    assert left == []
    assert [file.read_text() for file in marked] == [MARK] * len(marked)
    assert all(word for word in words)


@pytest.mark.parametrize("isolation", NOTHING)
async def test_without_the_defences_the_same_graphs_succeed(marked, isolation):
    """Prove that the tests above can fail: without the defences the graphs read and write files."""
    target = marked[0].parent / "written"
    graphs = [
        *(reads(op, marked[0]) for op in READERS),
        lists(marked[0].parent / "*"),
        *(writes(op, f"{target}-{op}") for op in WRITERS),
    ]
    *found, listed, _, _, _ = await ran(NOTHING[isolation], *graphs)
    assert [MARK.encode() in words for words in found] == [True] * len(READERS), found
    assert os.fsencode(marked[0]) in listed
    assert {path.name.partition(".")[0].split("-")[1].split("_")[0] for path in target.parent.glob("written*")} == set(
        WRITERS
    )
    for path in target.parent.glob("written*"):
        path.unlink()


async def test_one_session_leaves_nothing_for_the_next_one(way):
    """Write in one session and read in another: a runtime's sessions share its file system, even in memory."""
    places = [f"{directory}/left-{NAME}" for directory in ("/tmp", "/dev/shm", "", "/dev", "/proc", "/etc")]
    told = await ran(way, *(writes("WriteFile", one) for one in places), *(reads("ReadFile", one) for one in places))
    assert not any(MARK.encode() in words for words in told)


# --- the verdict ---


async def confinement_of(isolation, mode, without):
    runtime = Runtime(isolation=isolation, confinement=mode, without=without)
    try:
        await runtime.start()
        return runtime.confinement
    finally:
        await runtime.close()


async def test_this_kernel_has_one_of_both_defences():
    found = await confinement_of("namespace", "required", ())
    assert found.protects_files
    assert ("mount" in found.in_force, "landlock" in found.in_force) == (kernel_has("mount"), kernel_has("landlock"))
    assert found.in_force.keys() >= {"network", "limits", "capabilities", "seccomp"}


@pytest.mark.parametrize("isolation", ["namespace", "none"])
async def test_a_runtime_that_requires_confinement_does_not_start_without_it(isolation, caplog):
    with pytest.raises(RuntimeUnavailable, match=r"could read this user's files.*mount, (.*, )?landlock: switched off"):
        await confinement_of(isolation, "required", ("mount", "landlock"))
    found = await confinement_of(isolation, "best-effort", ("mount", "landlock"))
    assert not found.protects_files
    assert "runtime_unconfined" in caplog.text
    assert (await confinement_of(isolation, "off", ())).in_force.keys() <= {"network", "pid"}


@pytest.mark.parametrize(
    ("in_force", "verdict"),
    [
        (("mount", "landlock", "seccomp"), True),
        (("mount",), True),
        (("landlock",), True),
        (("network", "pid", "ipc", "limits", "capabilities", "seccomp"), False),
        ((), False),
    ],
)
def test_one_of_two_defences_protects_files(in_force, verdict):
    missing = {name: "why" for name in DEFENCES if name not in in_force}
    found = Confinement(dict.fromkeys(in_force, ""), missing)
    assert found.protects_files == verdict
    assert Confinement.parse(found.line) == found


STARTS_ONE = """
import asyncio, json, sys
from fedbroker.runtime import Runtime

async def main():
    runtime = Runtime(isolation=sys.argv[1])
    await runtime.start()
    print(json.dumps(dict(runtime.confinement.in_force)))
    await runtime.close()

asyncio.run(main())
"""
ORDINARY = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
IN_A_CONTAINER = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    *('echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh"),
)


@pytest.mark.parametrize(
    ("prefix", "isolation", "defence"),
    [(ORDINARY, "namespace", "mount"), (ORDINARY, "none", "landlock"), (IN_A_CONTAINER, "none", "landlock")],
    ids=["user", "user, no namespaces", "namespaces forbidden"],
)
def test_neither_root_nor_namespaces_are_needed(prefix, isolation, defence):
    done = subprocess.run(
        [*prefix, sys.executable, "-c", STARTS_ONE, isolation],
        env={**os.environ, "PYTHONPATH": str(Path(fedbroker.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout)
    assert (defence in held) == kernel_has(defence)
    assert {"limits", "capabilities", "seccomp"} <= held.keys()


# --- the rest of the machine ---

INTERPRETER = Path(sys.executable).resolve()
PROBE = Path(__file__).parents[1] / "support" / "confinement_probe.py"
"""A program that attempts forbidden actions; here it runs in place of the C++ runtime."""


async def probed(tmp_path, isolation, only=None, **known):
    """Run the probe in place of the C++ runtime, with all defences or with one; it is given some of our numbers."""
    program = tmp_path / "probe"
    facts = "".join(f"{name} = {value}\n" for name, value in {"OWNER": os.getpid(), **known}.items())
    program.write_text(f"#!{INTERPRETER} -ISs\n{facts}{PROBE.read_text()}")
    program.chmod(0o700)
    lines: list[str] = []
    runtime = Runtime(
        isolation=isolation,
        binary=program,
        readable=[INTERPRETER.parents[1], *SYSTEM],
        without=[name for name in DEFENCES if only not in (None, name)],
        log=lines.append,
    )
    with pytest.raises(RuntimeUnavailable, match="exit status 0"):
        await runtime.start()
    return {**json.loads(lines[-1]), "missing": runtime.confinement.refused}


both = pytest.mark.parametrize("isolation", ["namespace", "none"])


@both
async def test_runtime_reaches_no_other_process(tmp_path, isolation):
    found = await probed(tmp_path, isolation)
    for name in ("kill", "tgkill", "ptrace", "process_vm_readv", "pidfd_open", "F_SETOWN"):
        assert found[name] == "EPERM", name
    for name in ("prlimit64", "setpriority", "sched_setscheduler", "sched_setaffinity", "ioprio_set"):
        assert found[name] == "EPERM", name
    # The filter permits threads and abort().
    assert (found["fork"], found["own signal"], found["own limit"]) == ("ok", "ok", "ok")


@both
async def test_runtime_has_no_privileges_and_can_gain_none(tmp_path, isolation):
    found = await probed(tmp_path, isolation)
    assert (found["effective"], found["no_new_privs"]) == (0, 1)
    if isolation == "namespace":  # without capabilities to begin with, the bounding set stays
        assert found["bounding"] == 0
    for name in ("unshare", "clone with a namespace", "mount", "setns"):
        assert found[name] == "EPERM", name
    assert found["clone3"] == "ENOSYS"


@both
async def test_runtime_opens_no_connection_and_no_other_socket(tmp_path, isolation):
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = await probed(tmp_path, isolation, PORT=server.getsockname()[1])
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    for name in ("connection", "datagram", "unix socket", "abstract socket"):
        assert found[name] in ("EPERM", "EACCES"), name
    for name in ("sendto", "sendmsg", "multipath", "sctp"):
        assert found[name] == "EPERM", name
    assert found["tcp"] == "ok"


@both
async def test_runtime_has_no_shared_memory_and_no_writable_file(tmp_path, isolation, segment):
    found = await probed(tmp_path, isolation, SHARED=segment)
    assert found["shmget"] == "EPERM"
    for name in ("write", "create", "truncate"):
        assert found[name] in ("EPERM", "EACCES", "EROFS", "ENOENT"), (name, found[name])
    assert found["grow"] == "EFBIG"
    assert found["core"] <= 1
    assert found["files"] <= 4096


@both
async def test_runtime_may_use_only_the_system_calls_that_it_needs(tmp_path, isolation):
    found = await probed(tmp_path, isolation)
    for name in ("io_uring_setup", "bpf", "keyctl", "perf_event_open", "userfaultfd"):
        assert found[name] == "EPERM", name
    assert found["x32"] == "ENOSYS"


@pytest.fixture(scope="module")
def segment():
    """Return the key of a System V shared memory segment of ours."""
    key = secrets.randbelow(1 << 30) + 1
    identifier = ctypes.CDLL(None).shmget(key, 4096, 0o1600)
    assert identifier >= 0
    yield key
    ctypes.CDLL(None).shmctl(identifier, 0, None)


@pytest.mark.parametrize(
    ("isolation", "only", "what", "holds"),
    [
        ("namespace", "mount", "create", "ENOENT"),
        ("namespace", "mount", "write", "EROFS"),
        ("namespace", "ipc", "shmget", "ENOENT"),
        ("none", "limits", "grow", "EFBIG"),
        ("namespace", "capabilities", "bounding", 0),
        ("none", "landlock", "create", "EACCES"),
        ("none", "landlock", "kill", "EPERM"),
        ("none", "landlock", "ptrace", "EPERM"),
        ("none", "landlock", "connection", "EACCES"),
        ("none", "seccomp", "kill", "EPERM"),
        ("none", "seccomp", "create", "EPERM"),
        ("none", "seccomp", "truncate", "EPERM"),
        ("none", "seccomp", "connection", "EPERM"),
        ("none", "seccomp", "prlimit64", "EPERM"),
        ("none", "seccomp", "F_SETOWN", "EPERM"),
        ("none", "seccomp", "unshare", "EPERM"),
    ],
)
async def test_each_defence_holds_without_the_others(tmp_path, segment, probes, isolation, only, what, holds):
    for defence in (only, "none of them"):
        if (isolation, defence) not in probes:
            probes[isolation, defence] = await probed(tmp_path, isolation, defence, SHARED=segment)
    if only in ("mount", "landlock") and not kernel_has(only):
        assert only in probes[isolation, only]["missing"]
        return
    assert probes[isolation, only][what] == holds
    assert probes[isolation, "none of them"][what] != holds


@pytest.fixture(scope="module")
def probes():
    """Cache of probe results, by isolation and defence."""
    return {}
