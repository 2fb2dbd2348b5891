"""Functions of sequences may have variables and tables, which each call initializes."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.support.local_tff import assert_same

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(900)]

N = np.int32
Odict = collections.OrderedDict
NUMBERS = tff.SequenceType(N)
PAIR = tff.types.to_type(Odict(total=N, count=N))


def counted(x):
    counter = tf.Variable(5)
    return counter.assign_add(x, read_value=True)


def started(x):
    """Return a variable whose initial value is the argument."""
    variable = tf.Variable(x)
    return variable.assign_add(5, read_value=True)


def of_two(x):
    """Return the sum of two variables of other shapes, which a function of the graph changes."""
    one, two = tf.Variable(x), tf.Variable(tf.stack([x, x]))

    @tf.function
    def changed(one, two):
        one.assign_add(2)
        two.assign_add([3, 4])
        return one.read_value() + tf.reduce_sum(two.read_value()) - 2 * x - 4

    return changed(one, two)


def looked_up(x):
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.range(100), tf.range(5, 105)), default_value=-1
    )
    return tf.ensure_shape(table.lookup(x), [])  # TensorFlow forgets it on import


FUNCTIONS = {
    "a variable": counted,
    "a variable of the argument": started,
    "two variables": of_two,
    "a table": looked_up,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_with_initialization(direct, kind):
    plus_five = FUNCTIONS[kind]
    mapped = tff.tensorflow.computation(plus_five, N)
    made = tff.tensorflow.computation(lambda n: tf.data.Dataset.range(3).map(lambda at: n + tf.cast(at, tf.int32)), N)
    step = tff.tensorflow.computation(
        lambda state, x: Odict(total=state["total"] + plus_five(x), count=state["count"] + 1), (PAIR, N)
    )

    @tff.federated_computation(NUMBERS)
    def folded(numbers):
        zero = Odict(total=0, count=0)
        return (
            tff.sequence_reduce(numbers, zero, step),
            tff.sequence_sum(tff.sequence_map(mapped, numbers)),
            tff.sequence_reduce(tff.sequence_map(mapped, numbers), zero, step),
        )

    @tff.federated_computation(tff.FederatedType(NUMBERS, tff.CLIENTS), tff.FederatedType(N, tff.CLIENTS), NUMBERS)
    def everywhere(at_clients, starts, unplaced):
        sequences = tff.federated_map(made, starts)
        return tff.federated_map(folded, at_clients), tff.federated_map(folded, sequences), folded(unplaced)

    def expected(numbers):
        once, count = sum(numbers) + 5 * len(numbers), N(len(numbers))
        return Odict(total=N(once), count=count), N(once), Odict(total=N(once + 5 * len(numbers)), count=count)

    lists = [[1, 2, 3], [], [7]] * 4
    made_lists = [[at, at + 1, at + 2] for at in range(12)]
    assert_same(
        direct(everywhere, lists, list(range(12)), [4, 5]),
        ([expected(one) for one in lists], [expected(one) for one in made_lists], expected([4, 5])),
    )
