"""The algorithms of ``tff.learning``, and the kinds of models and metrics that they accept."""

from __future__ import annotations

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.support import computations as c
from tests.support.conformance import feature

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F = np.float32
CLOSE = 1e-5

algorithms = tff.learning.algorithms
optimizers = tff.learning.optimizers
SGD = optimizers.build_sgdm(0.1)
MOMENTUM = optimizers.build_sgdm(0.1, momentum=0.9)

ONE_EACH = c.client_data(8, 5, 0)  # one client for each silo, one of them without rows: the order of additions is fixed
SEVERAL = c.client_data(8, 5, 0, 3, 6)  # some silos have two


@functools.cache
def linear():
    """Return a functional model with four inputs, which TFF builds faster than a Keras model."""

    @tf.function
    def predict(weights, x, training):
        del training
        (kernel, bias), _ = weights
        return tf.matmul(x, kernel) + bias

    def loss(output, label, sample_weight=None):
        del sample_weight
        return tf.reduce_mean(tf.square(output - label))

    return tff.learning.models.FunctionalModel(
        initial_weights=((np.ones([4, 1], F), np.zeros([1], F)), ()),
        predict_on_batch_fn=predict,
        loss_fn=loss,
        metrics_fns=tff.learning.metrics.create_functional_metric_fns(
            lambda: collections.OrderedDict(
                error=tf.keras.metrics.MeanSquaredError(), examples=tff.learning.metrics.NumExamplesCounter()
            )
        ),
        input_spec=c.BATCHES,
    )


@functools.cache
def averaging():
    """Return the federated averaging process that several tests share."""
    return algorithms.build_weighted_fed_avg(c.regression, SGD, optimizers.build_adam(0.1))


def examples(output):
    return output.metrics["client_work"]["train"]["num_examples"]


@feature("learning", "build_weighted_fed_avg", "a Keras model; Adam at the server")
def test_weighted_fed_avg(same):
    output = same.rounds(averaging(), [SEVERAL], rtol=CLOSE)
    assert examples(output) == 22


@feature("learning", "get_model_weights, set_model_weights, get_hparams, set_hparams")
def test_state_of_a_process(same):
    process = averaging()
    state = same(process.initialize)
    weights = same(process.get_model_weights, state)
    doubled = tff.learning.models.ModelWeights([2 * part for part in weights.trainable], [])
    state = same(process.set_model_weights, state, doubled)
    np.testing.assert_array_equal(same(process.get_model_weights, state).trainable[0], np.full([4, 1], 2, F))
    hparams = same(process.get_hparams, state)
    hparams["finalizer"]["learning_rate"] = 0.5
    state = same(process.set_hparams, state, hparams)
    assert same(process.get_hparams, state)["finalizer"]["learning_rate"] == 0.5
    assert examples(same(process.next, state, ONE_EACH)) == 13


@feature("learning", "build_unweighted_fed_avg", "momentum at the clients, Yogi at the server")
def test_unweighted_fed_avg(same):
    process = algorithms.build_unweighted_fed_avg(linear(), MOMENTUM, optimizers.build_yogi(0.1))
    output = same.rounds(process, [ONE_EACH])
    assert output.metrics["client_work"]["train"]["examples"] == 13


@feature("learning", "optimizers.build_adamw, build_rmsprop", "at the clients and at the server; most others above")
def test_optimizers(same):
    process = algorithms.build_weighted_fed_avg(linear(), optimizers.build_adamw(0.1), optimizers.build_rmsprop(0.1))
    same.rounds(process, [ONE_EACH])


@feature("learning", "build_weighted_fed_avg_with_optimizer_schedule")
def test_fed_avg_with_schedule(same):
    process = algorithms.build_weighted_fed_avg_with_optimizer_schedule(
        linear(), lambda number: 0.1 / tf.cast(number + 1, tf.float32), optimizers.build_sgdm
    )
    output = same.rounds(process, [ONE_EACH])
    assert output.metrics["client_work"]["client_learning_rate"] == F(0.05)
    assert output.state.client_work == 2


@functools.cache
def falling():
    """Return federated averaging whose server learning rate decreases each round."""
    rate = optimizers.schedule_learning_rate(MOMENTUM, lambda number: 0.1 / tf.cast(number + 1, tf.float32))
    return algorithms.build_weighted_fed_avg(linear(), SGD, rate)


@feature("learning", "optimizers.schedule_learning_rate", "at the server")
def test_scheduled_optimizer(same):
    assert same.rounds(falling(), [ONE_EACH]).state.finalizer["round_num"] == 2


@feature("learning", "build_weighted_fed_prox", "a Keras model; Adagrad at the server")
def test_weighted_fed_prox(same):
    process = algorithms.build_weighted_fed_prox(c.regression, 0.5, SGD, optimizers.build_adagrad(0.1))
    assert examples(same.rounds(process, [SEVERAL], rtol=CLOSE)) == 22


@feature("learning", "build_unweighted_fed_prox")
def test_unweighted_fed_prox(same):
    same.rounds(algorithms.build_unweighted_fed_prox(linear(), 0.5, MOMENTUM), [ONE_EACH])


@feature("learning", "build_fed_sgd", "a Keras model; its loop an iterator's")
def test_fed_sgd(same):
    process = algorithms.build_fed_sgd(
        c.regression, optimizers.build_adam(0.1), loop_implementation=tff.learning.LoopImplementation.DATASET_ITERATOR
    )
    assert examples(same.rounds(process, [SEVERAL], rtol=CLOSE)) == 22


@feature("learning", "build_weighted_mime_lite")
def test_weighted_mime_lite(same):
    process = algorithms.build_weighted_mime_lite(c.regression, MOMENTUM, optimizers.build_sgdm(0.5))
    assert examples(same.rounds(process, [SEVERAL], rtol=CLOSE)) == 22


@feature("learning", "build_unweighted_mime_lite")
def test_unweighted_mime_lite(same):
    same.rounds(algorithms.build_unweighted_mime_lite(linear(), optimizers.build_adagrad(0.1)), [ONE_EACH])


@feature("learning", "build_mime_lite_with_optimizer_schedule")
def test_mime_lite_with_schedule(same):
    process = algorithms.build_mime_lite_with_optimizer_schedule(
        linear(), lambda number: 0.1 / tf.cast(number + 1, tf.float32), MOMENTUM
    )
    same.rounds(process, [ONE_EACH])


def reconstruction():
    """Return a model with one global layer and one that each client reconstructs."""
    shared = tf.keras.layers.Dense(2, kernel_initializer="ones", name="shared")
    own = tf.keras.layers.Dense(1, kernel_initializer="ones", name="own")
    model = tf.keras.Sequential([tf.keras.layers.InputLayer(input_shape=(4,)), shared, own])
    return tff.learning.models.ReconstructionModel.from_keras_model_and_layers(
        model, global_layers=[shared], local_layers=[own], input_spec=c.BATCHES
    )


RECONSTRUCTION = {
    "loss_fn": tf.keras.losses.MeanSquaredError,
    "metrics_fn": lambda: [tff.learning.metrics.NumExamplesCounter(), tf.keras.metrics.MeanAbsoluteError()],
    "dataset_split_fn": tff.learning.models.ReconstructionModel.build_dataset_split_fn(split_dataset=True),
}


@feature("learning", "build_fed_recon, ReconstructionModel", "each client's own layer stays with it")
def test_fed_recon(same):
    process = algorithms.build_fed_recon(
        reconstruction, **RECONSTRUCTION, server_optimizer_fn=optimizers.build_adam(0.1), client_optimizer_fn=MOMENTUM
    )
    output = same.rounds(process, [ONE_EACH])
    assert examples(output) == 5  # loss of the second batch of each client
    assert [part.shape for part in output.state.global_model_weights.trainable] == [(4, 2), (2,)]


@feature("learning", "build_fed_recon_eval")
def test_fed_recon_eval(same):
    output = same.rounds(algorithms.build_fed_recon_eval(reconstruction, **RECONSTRUCTION), [SEVERAL], rtol=CLOSE)
    assert output.metrics["client_work"]["eval"]["current_round_metrics"]["num_examples"] == 7
    assert output.metrics["client_work"]["eval"]["total_rounds_metrics"]["num_examples"] == 14


@feature("learning", "build_fed_kmeans")
def test_fed_kmeans(same):
    process = algorithms.build_fed_kmeans(2, (4,), random_seed=(1, 2))
    points = [dataset.unbatch().map(lambda row: row["x"]) for dataset in SEVERAL]
    output = same.rounds(process, [points], rtol=CLOSE)
    assert output.metrics["client_work"]["num_examples"] == 22
    assert sum(output.state.finalizer) == 2 + 2 * 22


@feature("learning", "build_fed_eval, model_from_functional", "metrics of this round and of all rounds")
def test_fed_eval(same):
    def model():
        counters = [tff.learning.metrics.NumExamplesCounter, tf.keras.metrics.MeanAbsoluteError]
        return tff.learning.models.model_from_functional(linear(), counters)

    output = same.rounds(algorithms.build_fed_eval(model), [SEVERAL], rtol=CLOSE)
    metrics = output.metrics["client_work"]["eval"]
    assert metrics["current_round_metrics"]["num_examples"] == 22
    assert metrics["total_rounds_metrics"]["num_examples"] == 44


@feature("learning", "build_personalization_eval_computation", "the clients' metrics in the order of the clients")
def test_personalization_eval(same):
    def evaluate(model, dataset):
        def add(total, batch):
            return total + tf.reduce_sum(tf.abs(model.predict_on_batch(batch["x"], training=False) - batch["y"]))

        return collections.OrderedDict(error=dataset.batch(2).reduce(0.0, add))

    def fine_tuning():
        rate = tf.Variable(0.05, trainable=False)

        @tf.function
        def tune(model, train, test):
            def step(steps, batch):
                with tf.GradientTape() as tape:
                    loss = model.forward_pass(batch).loss
                for variable, gradient in zip(
                    model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
                ):
                    variable.assign_sub(rate * gradient)
                return steps + 1

            steps = train.batch(2).reduce(0, step)
            return collections.OrderedDict(steps=steps, tuned=evaluate(model, test))

        return tune

    evaluation = algorithms.build_personalization_eval_computation(
        c.regression, collections.OrderedDict(tuned=fine_tuning), tf.function(evaluate)
    )
    data = [collections.OrderedDict(train_data=d.unbatch(), test_data=d.unbatch().take(2)) for d in ONE_EACH]
    weights = tff.learning.models.ModelWeights([np.ones([4, 1], F), np.zeros([1], F)], [])
    found = same(evaluation, weights, data)
    assert found["tuned"]["steps"].tolist() == [4, 3, 0]
    assert np.all(found["tuned"]["tuned"]["error"][:2] != found["baseline_metrics"]["error"][:2])


@feature("learning", "functional_model_from_keras")
def test_functional_model_from_keras(same):
    model = tff.learning.models.functional_model_from_keras(
        tf.keras.Sequential([tf.keras.layers.InputLayer(input_shape=(4,)), tf.keras.layers.Dense(1)]),
        tf.keras.losses.MeanSquaredError(),
        c.BATCHES,
        collections.OrderedDict(batches=tff.learning.metrics.NumBatchesCounter),
    )
    output = same.rounds(algorithms.build_weighted_fed_avg(model, SGD), [ONE_EACH], rounds=1)
    assert output.metrics["client_work"]["train"]["batches"] == 4


def classifier():
    """Return a model with batch normalization (statistics that are not trainable) and metrics that keep vectors."""
    layers = [
        tf.keras.layers.InputLayer(input_shape=(4,)),
        tf.keras.layers.BatchNormalization(),
        tf.keras.layers.Dense(1, "sigmoid", kernel_initializer="ones"),
    ]
    return tff.learning.models.from_keras_model(
        tf.keras.Sequential(layers),
        input_spec=c.BATCHES,
        loss=tf.keras.losses.BinaryCrossentropy(),
        metrics=[
            tf.keras.metrics.AUC(num_thresholds=5, name="auc"),
            tf.keras.metrics.BinaryAccuracy(),
            tff.learning.metrics.NumBatchesCounter(),
        ],
    )


LABELLED = [
    dataset.map(lambda row: collections.OrderedDict(x=row["x"], y=tf.cast(row["y"] > 0, tf.float32)))
    for dataset in ONE_EACH
]


@feature("learning", "Keras models with batch normalization; metrics of vectors and counts")
@pytest.mark.filterwarnings("ignore:Batch Normalization contains:UserWarning")
def test_keras_model_with_statistics(same):
    output = same.rounds(algorithms.build_weighted_fed_avg(classifier, SGD), [LABELLED])
    assert len(output.state.global_model_weights.non_trainable) == 2
    assert output.metrics["client_work"]["train"]["num_batches"] == 4


@feature("learning", "metrics.finalize_then_sample", "every client's metrics, in the order of the clients")
def test_sampled_metrics(same):
    process = algorithms.build_unweighted_fed_avg(
        linear(), SGD, metrics_aggregator=tff.learning.metrics.finalize_then_sample
    )
    output = same.rounds(process, [SEVERAL], rounds=1, rtol=CLOSE)
    assert output.metrics["client_work"]["train"]["examples"].tolist() == [8, 5, 0, 3, 6]


@feature("learning", "metrics.secure_sum_then_finalize", "with given ranges and the default; masked, or in plaintext")
def test_secure_metrics(same_secure):
    pair = [(0.0, 100.0), (0.0, 100.0)]  # of a metric that is a mean
    secure = functools.partial(
        tff.learning.metrics.secure_sum_then_finalize,
        metric_value_ranges=collections.OrderedDict(loss=pair, mean_absolute_error=pair, num_examples=[(0, 100)]),
    )
    process = algorithms.build_unweighted_fed_avg(c.regression, SGD, metrics_aggregator=secure)
    assert examples(same_secure.rounds(process, [ONE_EACH], rounds=1)) == 13


@feature("learning", "add_debug_measurements, add_debug_measurements_with_mixed_dtype")
def test_debug_measurements(same):
    values, weights = [np.array(row, F) for row in ([3, 4], [0, 0], [6, 8])], [F(1), F(2), F(1)]
    for add in (tff.learning.add_debug_measurements, tff.learning.add_debug_measurements_with_mixed_dtype):
        process = add(tff.aggregators.MeanFactory()).create(tff.TensorType(F, [2]), tff.TensorType(F))
        output = same.rounds(process, [values, weights], rounds=1)
        assert output.measurements["average_client_norm"] == 15 / 4


@feature("learning", "updates that are not finite", "left out")
def test_updates_that_are_not_finite(same):
    (first, *rest) = ONE_EACH
    infinite = first.map(lambda row: collections.OrderedDict(x=row["x"] * np.inf, y=row["y"]))
    output = same.rounds(falling(), [[infinite, *rest]])
    assert np.all(np.isfinite(output.state.global_model_weights.trainable[0]))


@feature("learning", "templates.compose_learning_process", "distributor, client work, aggregator and finalizer")
def test_composed_process(same):
    templates = tff.learning.templates
    weights = tff.tensorflow.computation(lambda: tff.learning.models.ModelWeights(*linear().initial_weights))
    type_ = weights.type_signature.result
    process = templates.compose_learning_process(
        weights,
        templates.build_broadcast_process(type_),
        templates.build_functional_model_delta_client_work(
            model=linear(), optimizer=SGD, client_weighting=tff.learning.ClientWeighting.NUM_EXAMPLES
        ),
        tff.aggregators.MeanFactory().create(type_.trainable, tff.TensorType(F)),
        templates.build_apply_optimizer_finalizer(optimizers.build_adagrad(0.1), type_),
    )
    same.rounds(process, [ONE_EACH])
