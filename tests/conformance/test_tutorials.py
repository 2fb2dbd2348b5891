"""The programs of TFF's tutorials that no other test here covers, in other words and over made-up data."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.support import computations as c
from tests.support.conformance import feature

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F, N = np.float32, np.int32
CLOSE = 1e-5
Odict = collections.OrderedDict

BATCH = tff.types.tensorflow_to_type(Odict(x=tf.TensorSpec([None, 3], tf.float32), y=tf.TensorSpec([None], tf.int32)))
MODEL = tff.types.to_type(Odict(weights=tff.TensorType(F, [3, 2]), bias=tff.TensorType(F, [2])))
BATCHES = tff.SequenceType(BATCH)


def batches(*sizes, seed):
    """Return a list of batches of these sizes."""
    rng = np.random.default_rng(seed)
    return [Odict(x=rng.random((size, 3), F), y=rng.integers(0, 2, size, N)) for size in sizes]


@tf.function
def loss_of(model, batch):
    predicted = tf.nn.softmax(tf.matmul(batch["x"], model["weights"]) + model["bias"])
    return -tf.reduce_mean(tf.reduce_sum(tf.one_hot(batch["y"], 2) * tf.math.log(predicted), axis=[1]))


@tff.tensorflow.computation(MODEL, BATCH)
def batch_loss(model, batch):
    return loss_of(model, batch)


@tff.tensorflow.computation(MODEL, BATCH, F)
def batch_train(model, batch, rate):
    """Take one step, with variables that the graph initializes."""
    variables = Odict((name, tf.Variable(name=name, initial_value=value)) for name, value in model.items())

    @tf.function
    def stepped(variables, batch):
        with tf.GradientTape() as tape:
            loss = loss_of(variables, batch)
        for variable, gradient in zip(
            tf.nest.flatten(variables), tf.nest.flatten(tape.gradient(loss, variables)), strict=True
        ):
            variable.assign_sub(rate * gradient)
        return variables

    return stepped(variables, batch)


@tff.tensorflow.computation(MODEL, BATCH, F)
def batch_train_purely(model, batch, rate):
    """Take one step without a variable."""
    with tf.GradientTape() as tape:
        tape.watch(model)
        loss = loss_of(model, batch)
    return tf.nest.map_structure(lambda value, gradient: value - rate * gradient, model, tape.gradient(loss, model))


def local_train_with(step):
    @tff.federated_computation(MODEL, F, BATCHES)
    def local_train(model, rate, all_batches):
        @tff.federated_computation((MODEL, F), BATCH)
        def one(model_and_rate, batch):
            model, rate = model_and_rate
            return step(model, batch, rate), rate

        trained, _ = tff.sequence_reduce(all_batches, (model, rate), one)
        return trained

    return local_train


@tff.federated_computation(MODEL, BATCHES)
def local_eval(model, all_batches):
    @tff.tensorflow.computation((MODEL, F), BATCH)
    def one(model_and_total, batch):
        model, total = model_and_total
        return model, total + batch_loss(model, batch)

    _, total = tff.sequence_reduce(all_batches, (model, 0.0), one)
    return total


@feature("tutorials", "Custom Federated Algorithms, Part 1", "temperatures: placed values, datasets, means")
def test_custom_federated_algorithms_1(same):
    readings = tff.FederatedType(tff.SequenceType(F), tff.CLIENTS)
    half = tff.tensorflow.computation(lambda x: tf.add(x, 0.5), F)

    @tff.tensorflow.computation(tff.SequenceType(F))
    def local_mean(sequence):
        total, count = sequence.reduce((0.0, 0), lambda state, x: (state[0] + x, state[1] + 1))
        return total / tf.cast(count, tf.float32)

    pairs = tff.SequenceType(Odict(A=N, B=N))
    products = tff.tensorflow.computation(lambda ds: ds.reduce(N(0), lambda total, x: total + x["A"] * x["B"]), pairs)
    floats = tff.FederatedType(F, tff.CLIENTS)
    same(tff.federated_computation(lambda: "a greeting"))
    same(tff.federated_computation(lambda x: tff.federated_mean(x), floats), [68.5, 70.0, 69.5])
    same(tff.federated_computation(lambda x: tff.federated_map(half, x), floats), [1.0, 3.0, 2.0])
    same(products, [Odict(A=2, B=3), Odict(A=4, B=5)])
    same(
        tff.federated_computation(lambda x: tff.federated_mean(tff.federated_map(local_mean, x)), readings),
        [[68.0, 70.0], [71.0], [68.0, 72.0, 70.0]],
    )


@feature("tutorials", "Custom Federated Algorithms, Part 2", "sequence_reduce whose state is a model and a rate")
@pytest.mark.parametrize("step", [batch_train, batch_train_purely])
def test_custom_federated_algorithms_2(same, step):
    local_train = local_train_with(step)
    at_server = tff.FederatedType(MODEL, tff.SERVER)
    data_type = tff.FederatedType(BATCHES, tff.CLIENTS)

    @tff.federated_computation(at_server, data_type)
    def evaluated(model, data):
        return tff.federated_mean(tff.federated_map(local_eval, [tff.federated_broadcast(model), data]))

    @tff.federated_computation(at_server, tff.FederatedType(F, tff.SERVER), data_type)
    def trained(model, rate, data):
        spread = [tff.federated_broadcast(model), tff.federated_broadcast(rate), data]
        return tff.federated_mean(tff.federated_map(local_train, spread))

    model = Odict(weights=np.zeros([3, 2], F), bias=np.zeros([2], F))
    data = [batches(4, 2, seed=1), batches(3, seed=2), batches(1, 1, 1, seed=3)]
    same(local_eval, model, data[0], rtol=CLOSE)
    model = same(local_train, model, 0.1, data[0], rtol=CLOSE)
    first = same(evaluated, model, data, rtol=CLOSE)
    for rate in (0.5, 0.4):
        model = same(trained, model, rate, data, rtol=CLOSE)
    assert same(evaluated, model, data, rtol=CLOSE) < first


@feature("tutorials", "Building Your Own Federated Learning Algorithm", "an IterativeProcess written by hand")
def test_own_algorithm(same):
    weights_type = tff.types.to_type((tff.TensorType(F, [4, 1]), tff.TensorType(F, [1])))
    dataset_type = tff.SequenceType(tff.types.tensorflow_to_type(c.BATCHES))
    optimizer = tff.learning.optimizers.build_sgdm(0.05)

    @tff.tensorflow.computation(dataset_type, weights_type)
    @tf.function
    def client_update(dataset, initial):
        weights = tuple(initial)
        state = optimizer.initialize(tf.nest.map_structure(tf.TensorSpec.from_tensor, weights))
        for batch in dataset:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = tf.reduce_mean(tf.square(tf.matmul(batch["x"], weights[0]) + weights[1] - batch["y"]))
            state, weights = optimizer.next(state, weights=weights, gradients=tape.gradient(loss, weights))
        return weights

    server_update = tff.tensorflow.computation(lambda mean: mean, weights_type)
    server_init = tff.tensorflow.computation(lambda: (tf.ones([4, 1]), tf.zeros([1])))

    @tff.federated_computation
    def initialize():
        return tff.federated_eval(server_init, tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType(weights_type, tff.SERVER), tff.FederatedType(dataset_type, tff.CLIENTS)
    )
    def next_round(weights, data):
        updated = tff.federated_map(client_update, (data, tff.federated_broadcast(weights)))
        return tff.federated_map(server_update, tff.federated_mean(updated))

    process = tff.templates.IterativeProcess(initialize_fn=initialize, next_fn=next_round)
    weights = same(process.initialize)
    for _ in range(3):
        weights = same(process.next, weights, c.client_data(8, 5, 4), rtol=CLOSE)


@feature(
    "tutorials", "Random noise generation", "from a seed that is broadcast: equal; from the clients' own: different"
)
def test_random_noise(same):
    noise = tff.tensorflow.computation(
        lambda seed: tf.random.stateless_normal([], seed=seed), tff.TensorType(np.int64, [2])
    )

    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.int64, [2]), tff.SERVER))
    def from_seed(seed):
        values = tff.federated_map(noise, tff.federated_broadcast(seed))
        return tff.federated_min(values), tff.federated_max(values)

    @tff.tensorflow.computation
    def own_noise():
        return tf.random.Generator.from_non_deterministic_state().normal([])

    @tff.federated_computation
    def own():
        values = tff.federated_eval(own_noise, tff.CLIENTS)
        return tff.federated_min(values), tff.federated_max(values)

    # Without an argument at the clients, TFF's own context has no clients.
    least, most = same.run_ours(from_seed, np.array([1, 2]))
    assert least == most == tf.random.stateless_normal([], seed=[1, 2]).numpy()
    first, second = same.run_ours(own), same.run_ours(own)
    assert first[0] < first[1]
    assert len({*first, *second}) == 4


@feature("tutorials", "Implementing Custom Aggregations", "a factory with a state and measurements of its own")
def test_custom_aggregation(same):
    class ScaledSum(tff.aggregators.UnweightedAggregationFactory):
        """Adds values, times a factor that grows each round."""

        def create(self, value_type):
            @tff.federated_computation
            def initialize():
                return tff.federated_value(1.0, tff.SERVER)

            scale = tff.tensorflow.computation(
                lambda value, factor: tf.nest.map_structure(lambda one: one * factor, value), (value_type, F)
            )
            grow = tff.tensorflow.computation(lambda factor: factor * 2.0, F)

            @tff.federated_computation(initialize.type_signature.result, tff.FederatedType(value_type, tff.CLIENTS))
            def next_round(state, value):
                total = tff.federated_sum(tff.federated_map(scale, (value, tff.federated_broadcast(state))))
                return tff.templates.MeasuredProcessOutput(
                    tff.federated_map(grow, state), total, tff.federated_zip(Odict(factor=state, total=total))
                )

            return tff.templates.AggregationProcess(initialize, next_round)

    process = ScaledSum().create(tff.types.to_type(Odict(z=F, a=(F, F))))
    values = [Odict(z=float(x), a=(1.0, 2.0)) for x in range(4)]
    output = same.rounds(process, [values], rounds=3)
    assert output.measurements["factor"] == 4.0


@feature("tutorials", "Client-efficient large-model learning via federated_select", "each client trains its own rows")
def test_select_rows_of_a_model(same):
    table, rows = tff.TensorType(F, [6, 2]), tff.TensorType(F, [2])
    keys_type, data_type = tff.TensorType(N, [2]), tff.TensorType(F, [2, 2])
    pick = tff.tensorflow.computation(lambda model, key: tf.gather(model, key), (table, N))

    @tff.tensorflow.computation(tff.SequenceType(rows), keys_type, data_type)
    def client_update(selected, keys, data):
        """Return the whole table's update, which is zero but for the client's own rows."""
        model = selected.batch(2).reduce(tf.zeros([2, 2]), lambda _, batch: tf.reshape(batch, [2, 2]))
        return tf.scatter_nd(tf.expand_dims(keys, 1), (data - model) / 2.0, [6, 2])

    @tff.federated_computation(
        tff.FederatedType(table, tff.SERVER),
        tff.FederatedType(keys_type, tff.CLIENTS),
        tff.FederatedType(data_type, tff.CLIENTS),
    )
    def train(model, keys, data):
        selected = tff.federated_select(keys, tff.federated_value(6, tff.SERVER), model, pick)
        update = tff.federated_mean(tff.federated_map(client_update, (selected, keys, data)))
        add = tff.tensorflow.computation(lambda a, b: a + b, (table, table))
        return tff.federated_map(add, (model, update))

    model = np.zeros([6, 2], F)
    for _ in range(2):
        model = same(
            train, model, [[0, 1], [4, 1], [5, 3]], [np.full([2, 2], x, F) for x in (1.0, 2.0, 4.0)], rtol=CLOSE
        )
    assert not np.any(model[2])
