"""The recorder of function calls counts our functions that every round passes, in all threads, each once per file."""

from __future__ import annotations

import json
import threading

from benchmarks._calls import Calls, Function
from fedbroker.deadline import Deadline
from fedbroker.wire.blobs import digest_of

DEADLINE, BLOBS = "fedbroker/deadline.py", "fedbroker/wire/blobs.py"


def recorded(*rounds):
    calls = Calls()
    calls.install()
    try:
        for one in rounds:
            calls.start()
            one()
            calls.stop()
    finally:
        calls.remove()
    return calls.common()


def test_only_functions_of_every_round_count():
    def both():
        Deadline.after(1)
        digest_of(b"x")

    assert recorded(both, lambda: Deadline.after(1)) == [Function(DEADLINE, "after")]
    assert Function(BLOBS, "digest_of") in recorded(both, both)


def test_other_threads_count():
    def elsewhere():
        thread = threading.Thread(target=Deadline.after, args=(1,))
        thread.start()
        thread.join()

    assert recorded(elsewhere) == [Function(DEADLINE, "after")]


def test_foreign_functions_do_not_count():
    assert recorded(lambda: json.loads("[1]")) == []
