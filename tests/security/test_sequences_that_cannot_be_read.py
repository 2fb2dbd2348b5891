"""A silo replies with an unreadable sequence: that silo alone fails, and the error names it."""

from __future__ import annotations

from contextlib import asynccontextmanager

import numpy as np
import pytest
import tensorflow as tf

import fedbroker
from fedbroker.deadline import Deadline
from tests.security.test_graphs import answer_of, counting
from tests.support.cache_attacks import sequence_made
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments
from tests.support.transports import silo_transport

pytestmark = [pytest.mark.broker, pytest.mark.runtime]


def failing(number):
    return tf.strings.to_number(tf.strings.join(["x", tf.strings.as_string(number)]), tf.int64)


HONEST = sequence_made(lambda: tf.data.Dataset.range(3))
BAD = {
    "fails": sequence_made(lambda: tf.data.Dataset.range(3).map(failing)),
    "never ends": sequence_made(lambda: tf.data.Dataset.range(3).repeat().filter(lambda n: n > 7)),
    "of strings": sequence_made(lambda: tf.data.Dataset.from_tensors("a")),
    "of vectors": sequence_made(lambda: tf.data.Dataset.from_tensors(np.arange(3))),
    "huge": sequence_made(lambda: tf.data.Dataset.range(20_000_000)),
}


@asynccontextmanager
async def asked_of(broker, cohort, attack, **options):
    """Open a context with an honest silo, and a silo that replies with an unreadable sequence."""
    async with silo_transport(broker.url, cohort, "jfk") as jfk, silo_transport(broker.url, cohort, "ewr") as ewr:

        def answers(end, graph):
            async def answer(item):
                await end.send(item, [answer_of(graph)], Deadline.after(item.timeout))

            end.answer = answer

        answers(jfk, BAD[attack])
        answers(ewr, HONEST)
        async with fedbroker.create_async_execution_context(
            broker.url, cohort=cohort, min_silos=2, **context_settings(stage=10, retries=0, **options)
        ) as context:
            yield context


@pytest.mark.parametrize("attack", BAD)
async def test_unreadable_sequence_fails_only_its_silo(broker, cohort, attack):
    async with asked_of(broker, cohort, attack, stragglers="drop", quorum=1) as context:
        (found,) = await context.invoke(counting, pack_arguments(counting, [[3, 3]]))
        assert context.last_session.stages[0].dropped == {"jfk": "refused"}
    assert [int(number) for number in found] == [0, 1, 2]


@pytest.mark.parametrize("attack", ["fails", "never ends"])
async def test_error_of_an_unreadable_sequence_names_silo_and_stage(broker, cohort, attack):
    async with asked_of(broker, cohort, attack) as context:
        with pytest.raises(fedbroker.errors.SiloError, match="a sequence in it") as caught:
            await context.invoke(counting, pack_arguments(counting, [[3, 3]]))
    assert (caught.value.silo, caught.value.stage) == ("jfk", 0)
    assert caught.value.hint
