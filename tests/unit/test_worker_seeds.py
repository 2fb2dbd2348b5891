"""Seeds of a silo's clients: different for each of them, the same again, and not known to who has no key."""

from __future__ import annotations

import numpy as np
from fedbroker_worker.sources.seeds import SiloSeeds

from fedbroker.runtime.protos import executor_pb2
from fedbroker.trust.keyring import Keys
from fedbroker.trust.keys import Identity
from fedbroker.wire.messages import Seeds

ONE, TWO = Seeds(1, "0" * 32), Seeds(1, "1" * 32)


def seeds(silo, op=ONE, keys=None, clients=1):
    value = executor_pb2.Value.FromString(SiloSeeds(silo, keys).value(op, clients))
    members = [member.struct.element[0].value.array for member in value.federated.value]
    assert all(list(array.shape.dim) == [2] for array in members)
    return [tuple(np.frombuffer(array.content, "<i8").tolist()) for array in members]


def keys(identity):
    return Keys(identity, {"coordinator": Identity.generate().public})


def test_seeds_differ_by_order_silo_client_and_key():
    identity, other = Identity.generate(), Identity.generate()
    found = [
        *seeds("ewr", clients=3),
        *seeds("jfk", clients=3),
        *seeds("ewr", TWO),
        *seeds("ewr", keys=keys(identity)),
        *seeds("ewr", keys=keys(other)),
    ]
    assert len(set(found)) == len(found) == 9
    assert seeds("ewr", clients=3) == found[:3]
    assert seeds("ewr", keys=keys(identity)) == found[7:8]
    assert seeds("ewr", clients=0) == []
