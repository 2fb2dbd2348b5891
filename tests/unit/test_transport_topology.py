"""The topology is a contract with brokers' operators: this test fixes names, kinds, arguments and keys."""

from __future__ import annotations

from fedbroker.transport import topology as t


def test_exchanges() -> None:
    assert {exchange.name: exchange.kind for exchange in t.EXCHANGES} == {
        "fedbroker.work": "topic",
        "fedbroker.reply": "topic",
        "fedbroker.blobs": "direct",
        "fedbroker.results": "topic",
        "fedbroker.lobby": "topic",
        "fedbroker.mail": "direct",
        "fedbroker.dead": "topic",
    }


def test_queues_and_bindings() -> None:
    queues = [
        t.work_queue("c", "s"),
        t.blobs_queue("c", "s"),
        t.mailbox("c", "s"),
        t.lobby_queue("c"),
        t.archive("c"),
        t.callback_queue("k"),
        t.results_queue("k"),
        t.roster_queue("k", "c"),
        t.reading_lock("c"),
    ]
    found = {queue.name: {(binding.exchange.name, binding.key) for binding in queue.bindings} for queue in queues}
    assert found == {
        "fedbroker.work.c.s": {("fedbroker.work", "c.s.*")},
        "fedbroker.blobs.c.s": {("fedbroker.blobs", "c"), ("fedbroker.blobs", "c.s")},
        "fedbroker.mailbox.c.s": {("fedbroker.mail", "c.s")},
        "fedbroker.lobby.c": {("fedbroker.lobby", "c.*")},
        "fedbroker.dead.c": {("fedbroker.dead", "c.#")},
        "fedbroker.callback.k": {("fedbroker.reply", "k.#"), ("fedbroker.dead", "*.*.k")},
        "fedbroker.results.k": {("fedbroker.results", "k.*")},
        "fedbroker.roster.k": {("fedbroker.lobby", "c.*")},
        "fedbroker.reading.c": set(),
    }
    exclusive = ["fedbroker.blobs.c.s", "fedbroker.mailbox.c.s", "fedbroker.roster.k", "fedbroker.reading.c"]
    assert [queue.name for queue in queues if queue.exclusive] == exclusive


def test_arguments() -> None:
    assert t.work_queue("c", "s").arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 3,
        "x-single-active-consumer": True,
        "x-dead-letter-exchange": "fedbroker.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-expires": 3_600_000,
        "x-consumer-timeout": 86_400_000,
    }
    assert t.blobs_queue("c", "s").arguments == {}
    assert t.lobby_queue("c").arguments == {
        "x-message-ttl": 60_000,
        "x-max-length": 20_000,
        "x-dead-letter-exchange": "fedbroker.mail",
    }
    assert t.archive("c").arguments == {
        "x-queue-type": "quorum",
        "x-message-ttl": 604_800_000,
        "x-max-length": 10_000,
        "x-delivery-limit": 1_000_000,
    }
    assert t.callback_queue("k").arguments == t.results_queue("k").arguments == {"x-expires": 600_000}
    assert t.roster_queue("k", "c").arguments == {"x-message-ttl": 30_000, "x-max-length": 20_000}


def test_keys() -> None:
    assert t.work_key("c", "s", "k") == "c.s.k"
    assert t.reply_key("k", "session", 3, "s") == "k.session.3.s"
    assert t.results_key("k", "s") == "k.s"
    assert t.silo_key("c", "s") == t.blobs_key("c", "s") == "c.s"
    assert t.blobs_key("c", None) == "c"
    assert t.coordinator_id_of("c", "k") == "2e7d2c03-k"


def test_keys_fit_into_amqp() -> None:
    longest = "x" * 63
    assert len(t.reply_key(longest, longest, 10**9, longest)) <= 255
