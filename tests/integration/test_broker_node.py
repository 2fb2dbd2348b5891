"""A private broker: it starts, keeps its data over a kill, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aio_pika
import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerStartError, ConfigError, UsageError
from tests.support.wait import PROCESS_SECONDS

pytestmark = pytest.mark.broker


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of processes that have the directory in their arguments or environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if int(entry.name) != os.getpid() and str(directory).encode() in b"\0".join(text):
            found.append(text[0].replace(b"\0", b" ").decode())
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline, clock = Deadline.after(seconds), threading.Event()
    while not condition():
        assert not deadline.passed(), "it did not come true in time"
        clock.wait(0.02)


def nothing_left(directory: Path) -> bool:
    return not processes_of(directory) and not directory.exists()


async def round_trip(url: str) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), queue.name)
        message = await queue.get(timeout=5)
        assert message.body == b"hello"


async def test_node_accepts_its_generated_password(broker: PrivateBroker) -> None:
    await round_trip(broker.url)
    password = broker.url.split(":")[2].split("@")[0]
    with pytest.raises(aio_pika.exceptions.AMQPConnectionError, match="ACCESS_REFUSED"):
        await aio_pika.connect(broker.url.replace(password, "guess"))
    with pytest.raises(aio_pika.exceptions.AMQPConnectionError, match="ACCESS_REFUSED"):
        await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{broker.port}/")
    assert password not in repr(broker)


def test_node_listens_on_the_loopback_only(broker: PrivateBroker) -> None:
    pids = {link.parent.parent.name for link in _sockets_of(broker.directory)}
    assert pids
    inodes = {os.readlink(link) for link in _sockets_of(broker.directory)}
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = row.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                listening.add(local.split(":")[0])
    assert listening
    assert listening <= {"0100007F", "00000000000000000000000001000000"}


def _sockets_of(directory: Path) -> Iterator[Path]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory).encode() not in (entry / "environ").read_bytes():
                continue
            yield from (link for link in (entry / "fd").iterdir() if os.readlink(link).startswith("socket:"))
        except OSError:
            continue


def test_secret_files_are_readable_only_by_their_owner(broker: PrivateBroker) -> None:
    assert stat.S_IMODE(broker.directory.stat().st_mode) == 0o700
    password = broker.url.split(":")[2].split("@")[0]
    holders = [file for file in broker.directory.iterdir() if file.is_file() and password in file.read_text()]
    assert {file.name for file in holders} == {"credentials.json", "rabbitmq.conf"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in holders} == {0o600}
    seen = " ".join(processes_of(broker.directory))
    assert password not in seen


def test_ctl_runs_on_this_node(broker: PrivateBroker) -> None:
    assert "/" in broker.ctl("list_vhosts")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        broker.ctl("no_such_command")
    assert "no_such_command" in failure.value.stderr + failure.value.stdout


async def test_data_in_a_given_directory_survive_stop_and_kill(tmp_path: Path) -> None:
    directory = tmp_path / "kept"
    async with PrivateBroker(directory=directory) as node:
        login = re.findall(r"//(.*)@", node.url)
        await _publish_durable(node.url, b"before the stop")
    assert directory.exists()
    assert processes_of(directory) == []
    # The queue is on disk by now: a node killed within a second of a declaration may lose it.
    async with PrivateBroker(directory=directory) as node:
        first = node.url
        assert re.findall(r"//(.*)@", first) == login
        node.kill()
        assert not node.running
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", node.port), timeout=1)
        node.start()
        assert node.url == first
        assert await _get_durable(first) == b"before the stop"
        with pytest.raises(BrokerStartError, match="another private broker uses"):
            PrivateBroker(directory=directory).start()
        await round_trip(first)


async def _publish_durable(url: str, body: bytes) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue("kept", durable=True)
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue.name)


async def _get_durable(url: str) -> bytes:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue("kept", durable=True)
        message = await queue.get(timeout=5)
        await message.ack()
        return message.body


async def test_directory_may_have_a_space_in_its_path(tmp_path: Path) -> None:
    place = tmp_path / "a 'b' $c"
    for _ in range(2):
        with PrivateBroker(directory=place) as node:
            assert node.directory == place
            await round_trip(node.url)
            assert "fedbroker" in node.ctl("list_users")
            (link,) = [Path(line) for line in node.ctl("eval", 'os:getenv("HOME").').strip('"\n').splitlines()]
            assert link.resolve() == place
        assert not link.parent.exists()
        assert (place / "mnesia").is_dir()


async def test_temporary_files_may_have_a_space_in_their_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a b"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with PrivateBroker() as node:
        await round_trip(node.url)
        directory = node.directory
    assert nothing_left(directory)


async def test_settings_and_plugins_reach_the_node() -> None:
    small = {"max_message_size": "65536", "disk_free_limit.absolute": "100MB"}
    node = PrivateBroker(extra_conf=_example() | small, plugins=["rabbitmq_consistent_hash_exchange"])
    with node:
        directory = node.directory
        async with await aio_pika.connect(node.url) as connection:
            channel = await connection.channel()
            await channel.declare_exchange("spread", type="x-consistent-hash")
            with pytest.raises(aio_pika.exceptions.ChannelClosed, match="max size"):
                await channel.default_exchange.publish(aio_pika.Message(b"x" * 100_000), "nowhere")
    assert nothing_left(directory)
    with pytest.raises(UsageError, match="not started"):
        _ = node.url
    with pytest.raises(UsageError, match="not running"):
        node.kill()


def _example() -> dict[str, str]:
    """Return the operators' example; a server must accept each line of it."""
    text = (Path(__file__).parents[2] / "config" / "rabbitmq" / "rabbitmq.conf").read_text()
    lines = (line.split(" = ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return dict(lines)


_PARENT = """
import sys, threading
from fedbroker.broker import PrivateBroker
node = PrivateBroker()
node.start()
print(node.directory, flush=True)
threading.Event().wait()
"""


def test_node_ends_with_its_killed_parent_despite_a_forked_child() -> None:
    """Kill a parent whose child holds a copy of the supervisor's pipe, so that the pipe never closes."""
    fork = "import os\nif os.fork() == 0:\n    os.close(1)\n    os.read(0, 1)\n    os._exit(0)\n"
    program = _PARENT.replace("threading.Event().wait()", fork + "threading.Event().wait()")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True, env=_environment()
    ) as parent:
        assert parent.stdout is not None
        directory = Path(parent.stdout.readline().strip())
        assert any("beam" in line for line in processes_of(directory))
        parent.kill()
        wait_until(lambda: nothing_left(directory))


def test_node_ends_with_its_killed_supervisor() -> None:
    with PrivateBroker() as node:
        directory = node.directory
        supervisor = int(_pid_of(directory, "supervisor.py"))
        os.kill(supervisor, signal.SIGKILL)
        assert node.wait(10)
        wait_until(lambda: not processes_of(directory))
    assert nothing_left(directory)


def _pid_of(directory: Path, word: str) -> str:
    return next(
        entry.name
        for entry in Path("/proc").glob("[0-9]*")
        if (line := _cmdline(entry)) and word in line and str(directory) in line
    )


def _cmdline(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.alone
async def test_cancelled_start_leaves_no_process() -> None:
    node = PrivateBroker()
    entering = asyncio.create_task(node.__aenter__())
    await asyncio.to_thread(wait_until, lambda: bool(node._directory and processes_of(node._directory)))
    directory = node._directory
    assert directory is not None
    entering.cancel()
    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert time.monotonic() - began < 5
    assert nothing_left(directory)


def test_port_in_use_is_an_error(broker: PrivateBroker) -> None:
    with pytest.raises(BrokerStartError, match=f"port {broker.port} is in use"):
        PrivateBroker(broker.port).start()


def test_invalid_setting_raises_the_servers_message() -> None:
    node = PrivateBroker(extra_conf={"max_message_size": "lots"})
    began = time.monotonic()
    with pytest.raises(BrokerStartError) as failure:
        node.start()
    assert "lots" in str(failure.value)
    assert "\n" not in str(failure.value)
    assert time.monotonic() - began < 20
    assert not node.running


def test_unknown_plugin_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no plugin 'rabbitmq_telepathy'"):
        PrivateBroker(plugins=["rabbitmq_telepathy"]).start()


def test_line_break_in_a_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="line break"):
        PrivateBroker(extra_conf={"max_message_size": "1\nlisteners.tcp.other = 0.0.0.0:5672"}).start()


def test_missing_server_error_explains_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDBROKER_RABBITMQ_HOME", str(tmp_path))
    with pytest.raises(BrokerStartError, match="apt-get install rabbitmq-server"):
        PrivateBroker().start()


def test_unusable_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerStartError, match="the directory cannot be used"):
        PrivateBroker(directory=tmp_path / "file" / "below").start()


@contextmanager
def command_line(*arguments: str, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    command = [*prefix, sys.executable, "-m", "fedbroker.cli", *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=_environment(), start_new_session=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


IN_BACKGROUND = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
"""Runs a command as a script's background job: with SIGINT ignored."""


@pytest.mark.parametrize(
    ("ending", "prefix"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGINT, IN_BACKGROUND)],
    ids=["SIGINT", "SIGTERM", "SIGINT in the background"],
)
async def test_command_serves_until_a_signal(ending: signal.Signals, prefix: Sequence[str]) -> None:
    with command_line("broker", "run", "--json", prefix=prefix) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        facts = json.loads(await asyncio.to_thread(process.stdout.readline))
        await round_trip(facts["url"])
        os.killpg(process.pid, ending)  # as Ctrl-C in a terminal does
        assert await asyncio.to_thread(process.wait, 15) == 0
        assert process.stderr.read() == ""
    assert nothing_left(Path(facts["directory"]))


async def test_command_prints_its_url_when_ready(tmp_path: Path) -> None:
    with command_line("broker", "run", "--dir", str(tmp_path / "kept")) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert re.fullmatch(r"ready amqp://fedbroker:[0-9a-f]{32}@127\.0\.0\.1:\d+/\n", line)
        await round_trip(line.split()[1])
        beam = int(_pid_of(tmp_path / "kept", "beam"))
        os.kill(beam, signal.SIGKILL)
        assert await asyncio.to_thread(process.wait, 15) == 3
        assert process.stderr is not None
        assert "FB2003" in process.stderr.read()
    wait_until(lambda: processes_of(tmp_path / "kept") == [])


def test_command_refuses_a_port_in_use(broker: PrivateBroker) -> None:
    with command_line("broker", "run", "--port", str(broker.port)) as process:
        out, err = process.communicate(timeout=PROCESS_SECONDS)
    assert process.returncode == 3
    assert out == ""
    assert err.count("\n") == 1
    assert "in use" in err


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
