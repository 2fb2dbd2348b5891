"""A coordinator with valid keys asks silos for masked sums that would tell it one silo's values.

The silos' workers and the C++ runtime are real. Each promise is one of the silo's alone, so that no broker is needed.
The promises: a silo masks for members of the roster only, once for each stage, for work that is the same at all silos,
over enough silos with clients; with ``aggregates = "masked"`` nothing else leaves. Refusals are in the audit log.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker_worker.masking.sums import digest_after
from fedbroker_worker.policy.rules import PolicySettings

from fedbroker.masking.members import MaskKey, Member
from fedbroker.masking.request import encode_request
from fedbroker.masking.results import read_masked
from fedbroker.masking.rings import Ring
from fedbroker.masking.work import NO_WORK
from fedbroker.runtime.protos import executor_pb2
from fedbroker.trust import Identity
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Call, Compute, Data, Done, Failed, Need, Select, Struct, Value
from tests.support.masked_workers import (
    COHORT,
    COORDINATOR,
    MEMBER,
    masked_cohort,
    ops_of,
    serialized,
    sum_of,
    two_sums,
    with_fields,
)

pytestmark = pytest.mark.runtime

MASKED = PolicySettings(aggregates="masked")


@pytest.fixture(scope="module")
def function():
    return two_sums()


@pytest.fixture(scope="module")
def other():
    return two_sums(factor=7)


@pytest.fixture
async def silos(tmp_path):
    async with masked_cohort(tmp_path) as cohort:
        yield cohort


@pytest.fixture
async def strict(tmp_path):
    async with masked_cohort(tmp_path, policy=MASKED) as cohort:
        yield cohort


async def refused(silos, ops, blobs, request, *, name="s0", **item) -> Failed:
    """Send work that a silo must refuse; the audit log must say why, and the silo must serve the next request."""
    silo = silos[name]
    sent = [*blobs, *([] if request is None else [encode_request(request)])]
    message, outputs = await silo.send(silos.item(name, ops, request, **item), sent)
    assert isinstance(message, Failed), message
    assert not outputs
    assert "\n" not in message.cause
    assert silo.refused_for()[-1] == message.cause
    next_message, _ = await silo.send(silos.item(name, [Struct(1, ()), Compute(1)], session="next", last=True), [])
    assert isinstance(next_message, Done)
    return message


def replaced(request, silo, member):
    members = tuple(member if known.silo == silo else known for known in request.members)
    return with_fields(request, {"members": members})


async def test_silo_that_is_not_in_the_roster(silos, function):
    request = silos.request(ops_of(function), [function])
    identity = Identity.generate()
    member = Member.signed(COHORT, "s9", "i1", MaskKey().public, identity)
    invented = with_fields(request, {"members": (*request.members, member), "clients": (1, 1, 1, 1)})
    reply = await refused(silos, ops_of(function), [function], invented)
    assert (reply.error_type, reply.cause) == ("refused", "silo 's9' is not in the roster")


async def test_mask_key_that_its_silo_has_not_signed(silos, function):
    request = silos.request(ops_of(function), [function])
    member = Member.signed(COHORT, "s1", "i1", MaskKey().public, Identity.generate())
    reply = await refused(silos, ops_of(function), [function], replaced(request, "s1", member))
    assert reply.cause == "silo 's1' has not signed its mask key"


async def test_mask_key_of_another_cohort(silos, function):
    request = silos.request(ops_of(function), [function])
    member = Member.signed("hospitals", "s1", "i1", MaskKey().public, silos["s1"].identity)
    reply = await refused(silos, ops_of(function), [function], replaced(request, "s1", member))
    assert reply.cause == "silo 's1' has not signed its mask key"


async def test_removed_silo_of_an_older_roster(silos, function):
    request = silos.request(ops_of(function), [function])
    known = {name: key for name, key in silos["s0"].roster.roster.silos.items() if name != "s2"}
    silos["s0"].roster.roster = with_fields(silos["s0"].roster.roster, {"silos": known, "serial": 2})
    reply = await refused(silos, ops_of(function), [function], request)
    assert reply.cause == "silo 's2' is not in the roster"


async def test_two_silos_only(silos, function):
    request = silos.request(ops_of(function), [function])
    two = with_fields(request, {"members": request.members[:2], "clients": request.clients[:2]})
    reply = await refused(silos, ops_of(function), [function], two)
    assert reply.cause == "a masked sum over 2 silos"


async def test_silos_without_clients_do_not_count(silos, function):
    request = silos.request(ops_of(function), [function], clients=(1, 0, 1))
    reply = await refused(silos, ops_of(function), [function], request)
    assert (reply.error_type, reply.rule) == ("refused", "min_sum_silos")
    assert "over 2 silos with clients, and the minimum is 3" in reply.cause


async def test_more_silos_than_the_policy_wants(tmp_path, function):
    async with masked_cohort(tmp_path, 4, PolicySettings(min_sum_silos=5)) as silos:
        reply = await refused(silos, ops_of(function), [function], silos.request(ops_of(function), [function]))
    assert (reply.rule, "the minimum is 5" in reply.cause) == ("min_sum_silos", True)


async def test_clients_that_do_not_exist(silos, function):
    request = silos.request(ops_of(function), [function], clients=(2, 1, 1))
    reply = await refused(silos, ops_of(function), [function], request)
    assert "names 2 clients of silo 's0', which has 1" in reply.cause


async def test_other_outputs_than_the_work_has(silos, function):
    for outputs in [((Ring(4),),), (None, None), ((Ring(4),), (Ring(8),), None)]:
        request = silos.request(ops_of(function), [function], outputs=outputs)
        reply = await refused(silos, ops_of(function), [function], request)
        assert (
            reply.cause == f"a masked sum describes {len(outputs)} output{'s' * (len(outputs) > 1)}, and the work has 2"
        )


async def test_other_tensors_than_the_outputs_have(silos, function):
    for rings, cause in [
        ((Ring(4), Ring(4)), "an output of 1 tensors, of which a masked sum describes 2"),
        ((Ring(8),), "a masked sum of int32 with 8 bytes for each number"),
    ]:
        request = silos.request(ops_of(function), [function], outputs=(rings, (Ring(8),)))
        reply = await refused(silos, ops_of(function), [function], request, session=f"s{len(rings)}")
        assert reply.cause == cause


async def test_float_is_not_masked(silos, function):
    ops = ops_of(function, (2,))
    reply = await refused(silos, ops, [function], silos.request(ops, [function], outputs=((Ring(4),),)))
    assert (reply.error_type, reply.cause) == ("refused", "values of dtype float cannot be masked")


async def test_request_that_cannot_be_read(silos, function):
    blob = b"\x93nonsense"
    item = with_fields(silos.item("s0", ops_of(function)), {"masking": digest_of(blob)})
    message, _ = await silos["s0"].send(item, [function, blob])
    assert (message.error_type, message.cause) == ("refused", "a masking request cannot be read")


async def test_different_work_at_different_silos(silos, function, other):
    request = silos.request(ops_of(other), [other])
    reply = await refused(silos, ops_of(function), [function], request)
    assert (reply.error_type, reply.cause) == ("refused", "the silos of a masked sum are asked for different work")


async def test_different_work_at_an_earlier_stage(silos, function, other):
    first = ops_of(function, ())
    for name in silos.silos:
        blob = other if name == "s1" else function
        ops = ops_of(blob, ())
        message, _ = await silos[name].send(silos.item(name, ops), [blob])
        assert isinstance(message, Done)
    later = [Select(20, 2, 0), Compute(20)]
    earlier = digest_after(NO_WORK, silos.item("", first), {digest_of(function): function})
    request = silos.request(later, [], earlier=earlier, outputs=((Ring(4),),))
    (first_reply, _), (second, _), (third, _) = await silos.replies(later, [], request, stage=1)
    assert isinstance(first_reply, Done)
    assert isinstance(third, Done)
    assert second.cause == "the silos of a masked sum are asked for different work"


async def test_two_lists_of_members_give_noise(tmp_path, function):
    async with masked_cohort(tmp_path, 4) as silos:
        ops = ops_of(function)
        whole = silos.request(ops, [function])
        three = with_fields(whole, {"members": whole.members[:3], "clients": whole.clients[:3]})
        replies = await silos.replies(ops, [function], three, ["s0", "s1"])
        replies += await silos.replies(ops, [function], whole, ["s2"])
        assert sum_of(replies, three)[0][1] != 9


async def test_stage_is_masked_once(silos, function, other):
    ops = ops_of(function)
    request = silos.request(ops, [function])
    replies = await silos.replies(ops, [function], request)
    silo = silos["s0"]

    again, _ = await silo.send(silos.item("s0", ops, request), [function, encode_request(request)])
    assert again == replies[0][0]  # the remembered reply, bit for bit
    changed = silos.request(ops_of(other), [other])
    kept, outputs = await silo.send(silos.item("s0", ops_of(other), changed), [other, encode_request(changed)])
    assert (kept, outputs) == replies[0]

    silo.sessions.end("s1", COORDINATOR)
    silo.tasks._reply_cache.clear()
    for asked, blob in ((request, function), (changed, other)):
        reply = await refused(silos, ops_of(blob), [blob], asked)
        assert (reply.error_type, reply.cause) == ("lost", "this silo has masked for this stage before")
        # Another coordinator that the silo trusts, which reuses the session's name, gets nothing either.
        item = silos.item("s0", ops_of(blob), asked)
        message, _ = await silo.send(item, [blob, encode_request(asked)], by="another")
        assert message.cause == "this silo has masked for this stage before"

    silo.end("s1")
    message, _ = await silo.send(silos.item("s0", ops_of(other), changed), [other, encode_request(changed)])
    assert message.cause == "the coordinator ended the session"


async def test_restarted_silo_has_other_keys(silos, function, other):
    request = silos.request(ops_of(function), [function])
    await silos.replies(ops_of(function), [function], request)
    silos["s0"].restart()
    for blob in (function, other):
        asked = silos.request(ops_of(blob), [blob], members=request.members)
        reply = await refused(silos, ops_of(blob), [blob], asked, session="s1")
        assert (reply.error_type, reply.cause) == (
            "lost",
            "the masked sum names a mask key that this silo no longer has",
        )


async def test_ordinary_aggregate_where_only_masked_sums_leave(strict, function):
    reply = await refused(strict, ops_of(function), [function], None)
    assert (reply.error_type, reply.rule) == ("refused", "aggregates")
    for word in ("tff.learning.secure_aggregator", "secure_sum_then_finalize", 'secure_sum="masked"'):
        assert word in reply.hint
    ops = ops_of(function, (0, 2))
    reply = await refused(strict, ops, [function], strict.request(ops, [function], outputs=((Ring(4),), None)))
    assert reply.rule == "aggregates"


async def test_only_masked_sums_leave(strict, function):
    request = strict.request(ops_of(function), [function])
    assert sum_of(await strict.replies(ops_of(function), [function], request), request)[0][1] == 9


def dealt(*values) -> bytes:
    """Return a value that is dealt to single clients."""
    value = executor_pb2.Value()
    value.federated.type.placement.value.uri = "clients"
    for number in values:
        member = value.federated.value.add()
        member.array.dtype = 3
        member.array.int32_list.value.append(number)
    value.federated.type.member.tensor.dtype = 3
    return value.SerializeToString(deterministic=True)


def weighted():
    """Return a computation that multiplies each client's rows by a number that the coordinator has dealt it."""

    @tff.tensorflow.computation(MEMBER, np.int32)
    def local(struct, factor):
        return tf.reduce_sum(struct[0]) * factor

    @tff.federated_computation(tff.FederatedType(MEMBER, tff.CLIENTS), tff.FederatedType(np.int32, tff.CLIENTS))
    def run(values, factors):
        return tff.federated_sum(tff.federated_map(local, (values, factors)))

    return serialized(run)


async def test_factor_of_zero_for_all_silos_but_one(strict):
    function, factor = weighted(), dealt(1)
    data = Data(0, "rows", (("k", "int32"),))
    ops = [data, Value(1, digest_of(factor)), Value(2, digest_of(function))]
    ops += [Struct(3, (("", 0), ("", 1))), Call(4, 2, 3), Compute(4)]
    request = strict.request(ops, [function, factor], outputs=((Ring(4),),))
    reply = await refused(strict, ops, [function, factor], request)
    assert (reply.rule, "deals values to single clients" in reply.cause) == ("aggregates", True)


def shaped_by_data():
    """Return a computation with a tensor as long as a sum of rows, which is declared to have two elements."""

    @tff.tensorflow.computation(MEMBER)
    def local(struct):
        row = tf.zeros([tf.reduce_sum(struct[0])], tf.int32)
        row.set_shape([2])
        return row

    zero = tff.tensorflow.computation(lambda: tf.zeros([2], tf.int32))
    vector = tff.TensorType(np.int32, [2])
    last = tff.tensorflow.computation(lambda _, value: value, vector, vector)
    same = tff.tensorflow.computation(lambda total: total, vector)

    @tff.federated_computation(tff.FederatedType(MEMBER, tff.CLIENTS))
    def run(values):
        return tff.federated_aggregate(tff.federated_map(local, values), zero(), last, last, same)

    return serialized(run)


async def test_shape_that_tells_what_its_mask_hides(strict):
    function = shaped_by_data()
    ops = [Data(0, "rows", (("k", "int32"),)), Value(1, digest_of(function)), Call(2, 1, 0), Compute(2)]
    request = strict.request(ops, [function], outputs=((Ring(4),),))
    reply = await refused(strict, ops, [function], request)
    assert reply.rule == "aggregates"
    assert reply.cause == "a masked aggregate came out in another shape than its computation declares"


async def test_partial_is_in_no_reply_and_no_cache(silos, function):
    ops = ops_of(function)
    request = silos.request(ops, [function])
    replies = await silos.replies(ops, [function], request)
    for at, (silo, (message, outputs)) in enumerate(zip(silos, replies, strict=True)):
        total = 3 * (100 * at + 2)
        partials = [np.array([total, 3], np.int32), np.array([total], np.int64)]
        _, masked = read_masked(outputs[message.outputs[0][0]], request.rings)
        assert all(
            elements.tolist() != partial.tolist() for (_, elements), partial in zip(masked, partials, strict=True)
        )
        cached = silo.tasks._reply_cache.get("s1", 0, COORDINATOR)
        assert cached is not None
        kept = [*outputs.values(), *cached[1].values(), silo.log.read_bytes()]
        assert not any(partial.tobytes() in bytes(data) for partial in partials for data in kept)


async def test_lacking_blobs_come_with_the_work_again(silos, function):
    ops = ops_of(function)
    request = silos.request(ops, [function])
    for silo in silos:
        message, _ = await silo.send(silos.item(silo.name, ops, request), [function])
        assert isinstance(message, Need)
        assert message.digests == (digest_of(encode_request(request)),)
    replies = await silos.replies(ops, [function], request)
    assert sum_of(replies, request)[0][1] == 9
