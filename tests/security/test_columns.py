"""A malicious coordinator asks a source for columns that its query does not select.

A source offers only the result of the administrator's query. A file may hold more columns; neither their names nor SQL
in place of a name may return them.
"""

from __future__ import annotations

import pytest
from fedbroker_worker.service import SiloService

from fedbroker.broker import PrivateBroker
from fedbroker.wire.messages import Compute, Data, Done, Failed
from tests.support.attackers import Keyring, malicious_coordinator
from tests.support.transports import eventually
from tests.support.worker import ALLOW_CLIENT_RESULTS, echo_ops

SECRET = b"QZX-salary"
NAMES = [
    "salary",
    '"salary"',
    "x, salary",
    'x", "salary',
    'x" from (select salary as x',
    "*",
    "* exclude x",
    "people.salary",
    "(select max(salary) from read_csv_auto('people.csv'))",
    "x'; select salary --",
    "rowid",
    "filename",
]


@pytest.fixture
async def attacker(broker: PrivateBroker, cohort: str, tmp_path):
    (tmp_path / "people.csv").write_text(f"x,salary\n1,{SECRET.decode()}\n2,{SECRET.decode()}\n")
    sources = {"rows": {"query": f"select x from read_csv_auto('{tmp_path}/people.csv')"}}
    keyring = Keyring()
    own = keyring.silo_settings(tmp_path, broker.url, cohort, sources=sources, policy=ALLOW_CLIENT_RESULTS)
    async with SiloService(own), malicious_coordinator(broker.url, cohort, keyring, "b") as one:
        await eventually(lambda: "ewr" in one.coordinator.silos)
        yield one


async def test_unselected_columns_of_a_source_cannot_be_read(attacker):
    client = attacker.client()
    assert isinstance(await client.send(client.item(echo_ops("rows", (("x", "int64"),)))), Done)
    for name in NAMES:
        for dtype in ("string", "int64"):
            for columns in (((name, dtype),), (("x", "int64"), (name, dtype))):
                reply = await client.send(client.item([Data(1, "rows", columns), Compute(1)]))
                assert isinstance(reply, Failed), (name, reply)
                assert SECRET.decode() not in f"{reply.cause} {reply.hint}", name
