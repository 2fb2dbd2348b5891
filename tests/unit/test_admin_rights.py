"""The permissions of enrolment: the names that they match, and no others. test_rights.py asks the broker."""

from __future__ import annotations

import re

import pytest

from fedbroker.admin.definitions import (
    NOTHING,
    POLICIES,
    User,
    cohort_queues,
    coordinator_rights,
    silo_queues,
    silo_rights,
)
from fedbroker.transport import topology

EWR = silo_rights("airports", "ewr")
KEY = topology.coordinator_id_of("airports", "a1b2")


def test_silo_may_configure_nothing() -> None:
    assert EWR.configure == NOTHING
    assert all(topic.read == NOTHING for topic in EWR.topics)


def test_silo_may_read_its_own_queues_and_no_exchange() -> None:
    own = {f"fedbroker.{kind}.airports.ewr" for kind in ("work", "blobs", "mailbox")}
    others = {queue.name for queue in (*silo_queues("airports", "jfk"), *cohort_queues("airports"))}
    others |= {exchange.name for exchange in topology.EXCHANGES} | {f"{name}.2" for name in own}
    assert {name for name in own | others if re.search(EWR.read, name)} == own


def test_silo_may_write_to_four_exchanges_by_topic() -> None:
    names = [exchange.name for exchange in topology.EXCHANGES] + ["amq.default", "amq.topic", ""]
    written = {name for name in names if re.search(EWR.write, name)}
    assert written == {topic.exchange.name for topic in EWR.topics}
    assert written == {"fedbroker.lobby", "fedbroker.reply", "fedbroker.results", "fedbroker.work"}


@pytest.mark.parametrize(
    ("exchange", "own", "others"),
    [
        (topology.LOBBY, topology.silo_key("airports", "ewr"), topology.silo_key("airports-2", "ewr")),
        (topology.REPLY, topology.reply_key(KEY, "s", 12, "ewr"), topology.reply_key(KEY, "s", 12, "jfk")),
        (topology.REPLY, topology.reply_key(KEY, "s", 0, "ewr"), topology.reply_key("a1b2", "s", 0, "ewr")),
        (topology.RESULTS, topology.results_key(KEY, "ewr"), topology.results_key(KEY, "jfk.ewr")),
        (topology.WORK, topology.work_key("airports", "ewr", KEY), topology.work_key("airports", "ewr.jfk", KEY)),
    ],
)
def test_routing_keys_of_a_silo_contain_its_name(exchange: topology.Exchange, own: str, others: str) -> None:
    (pattern,) = (topic.write for topic in EWR.topics if topic.exchange == exchange)
    assert re.search(pattern, own)
    assert not re.search(pattern, others)


def test_coordinator_has_no_permissions_in_another_cohort() -> None:
    reply = topology.reply_key(topology.coordinator_id_of("trains", "a1b2"), "s", 0, "ewr")
    assert not any(re.search(topic.write, reply) for topic in EWR.topics)


def test_coordinator_may_not_read_silo_queues() -> None:
    rights = coordinator_rights()
    for queue in silo_queues("airports", "ewr"):
        assert not any(re.search(one, queue.name) for one in (rights.configure, rights.write, rights.read))
    for queue in (*cohort_queues("airports"), topology.callback_queue(KEY), topology.roster_queue(KEY, "airports")):
        assert re.search(rights.configure, queue.name)


def test_queues_of_an_enrolled_silo_never_expire() -> None:
    for queue in silo_queues("airports", "ewr"):
        assert "x-expires" not in queue.arguments
        assert not queue.exclusive
        assert queue.bindings


def test_policies_limit_queues_of_an_absent_silo() -> None:
    work, *others = silo_queues("airports", "ewr")
    for queue in others:
        (found,) = (policy for policy in POLICIES if re.search(policy.pattern, queue.name))
        assert found.definition["message-ttl"]
    assert not any(re.search(policy.pattern, work.name) for policy in POLICIES)


def test_users_of_silos_and_coordinators_are_distinguished() -> None:
    users = [User("airports", "ewr"), User("trains", "ewr"), User.of_certificate("airports", "ewr")]
    assert len(set(map(str, users))) == 3
    assert [User.parse(str(user)) for user in users] == users
    for name in ("coordinator", "guest", "a.b.c.d", "a..b", "A.b", ""):
        assert User.parse(name) is None
