"""The permissions of docs/security.md suffice for a silo and a coordinator, and allow the silo nothing else."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import aio_pika
import pytest

from tests.support.broker_tools import write_rabbitmqctl
from tests.support.management import environment, management_broker
from tests.support.pages import blocks
from tests.support.transports import assert_both_directions_work, coordinator_transport, eventually, silo_transport
from tests.support.wait import PROCESS_SECONDS

PASSWORDS = {"ewr": secrets.token_hex(8), "coordinator": secrets.token_hex(8)}
COHORT = f"t{secrets.token_hex(6)}"
LARGE = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def users(broker, tmp_path_factory):
    """Create the page's two users by its commands; return their URLs."""
    environ = {
        **os.environ,
        "PATH": f"{write_rabbitmqctl(broker, tmp_path_factory.mktemp('bin'))}:{os.environ['PATH']}",
    }
    directory = tmp_path_factory.mktemp("passwords")
    for user, password in PASSWORDS.items():
        (directory / f"{user}.password").write_text(f"{password}\n")
    _, silo, coordinator = (block.replace("airports", COHORT) for block in blocks("docs/security.md", "sh"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", silo + coordinator],
        env=environ,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    here = broker.url.rpartition("@")[2]
    yield tuple(f"amqp://{user}:{password}@{here}" for user, password in PASSWORDS.items())
    for user in PASSWORDS:
        broker.ctl("delete_user", user)


@pytest.fixture
def untouched():
    """Run a broker without enrolled silos."""
    with management_broker() as one:
        yield one


def test_administrator_commands_have_their_documented_effect(untouched, tmp_path):
    commands, *_ = blocks("docs/security.md", "sh")
    (tmp_path / "admin.url").write_text(untouched.api)
    (tmp_path / "fedbroker").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedbroker.cli "$@"\n')
    (tmp_path / "fedbroker").chmod(0o700)
    done = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            commands.replace("vhost fedbroker", "vhost page").replace("airports", COHORT),
        ],
        env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert f"user {COHORT}.ewr: see fedbroker-admin/silos/{COHORT}/ewr" in done.stdout
    assert f"revoked {COHORT}.ewr" in done.stdout
    assert (tmp_path / "fedbroker-admin" / "coordinators" / "coordinator" / "broker.url").exists()


async def test_permissions_suffice_for_work_and_blobs_in_both_directions(users):
    ewr, coordinator = users
    async with coordinator_transport(coordinator, COHORT) as theirs, silo_transport(ewr, COHORT) as silo:
        await assert_both_directions_work(theirs, silo, LARGE)
    await eventually(lambda: any(leave.silo == "ewr" for leave in theirs.leaves))


@pytest.fixture
async def as_ewr(users, broker):
    """Return a function that tries an action as the silo's user and returns whether it is refused; all queues exist."""
    async with coordinator_transport(users[1], COHORT) as theirs, silo_transport(broker.url, COHORT, "jfk"):
        connection = await aio_pika.connect(users[0])
        async with connection:

            async def refused(action, *arguments):
                channel = await connection.channel()
                try:
                    await action(channel, theirs.transport.coordinator_id, *arguments)
                except aio_pika.exceptions.ChannelClosed as error:
                    if "ACCESS_REFUSED" not in str(error):
                        raise
                    return True
                await channel.close()
                return False

            yield refused


async def publish(channel, key, exchange, routing_key):
    target = await channel.get_exchange(f"fedbroker.{exchange}", ensure=False)
    await target.publish(aio_pika.Message(b""), routing_key.format(key=key, cohort=COHORT), mandatory=False)


async def listen(channel, key, exchange, routing_key):
    queue = await channel.get_queue(f"fedbroker.work.{COHORT}.ewr", ensure=False)
    await queue.bind(f"fedbroker.{exchange}", routing_key.format(key=key, cohort=COHORT))


async def read(channel, key, queue):
    await (await channel.get_queue(f"fedbroker.{queue}".format(key=key, cohort=COHORT), ensure=False)).get(
        no_ack=True, fail=False
    )


async def delete(channel, key, queue):
    await channel.queue_delete(f"fedbroker.{queue}".format(key=key, cohort=COHORT))


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        (publish, ("reply", "{key}.s.0.jfk")),
        (publish, ("results", "{key}.jfk")),
        (publish, ("lobby", "{cohort}.jfk")),
        (publish, ("work", "{cohort}.jfk.{key}")),
        (publish, ("dead", "{cohort}.jfk.{key}")),
        (listen, ("reply", "{key}.#")),
        (listen, ("results", "{key}.*")),
        (listen, ("work", "{cohort}.jfk.*")),
        (read, ("callback.{key}",)),
        (read, ("results.{key}",)),
        (read, ("work.{cohort}.jfk",)),
        (read, ("dead.{cohort}",)),
        (delete, ("callback.{key}",)),
        (delete, ("work.{cohort}.jfk",)),
    ],
)
async def test_silo_is_refused_other_silos_queues_and_names(as_ewr, action, arguments):
    assert await as_ewr(action, *arguments)


async def test_silo_is_allowed_its_own_queues_and_names(as_ewr):
    assert not await as_ewr(publish, "reply", "{key}.s.0.ewr")
    assert not await as_ewr(publish, "lobby", "{cohort}.ewr")
