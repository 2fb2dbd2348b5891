"""The model, once for Keras and once for TFF, and the accuracy that all rows in one place would give."""

import collections

import tensorflow as tf
import tensorflow_federated as tff

from examples.digits.data import pooled

BATCHES = collections.OrderedDict(x=tf.TensorSpec([None, 64], tf.float32), y=tf.TensorSpec([None], tf.int32))


def keras_model() -> tf.keras.Model:
    """Return a small network; the seeds make its first weights the same each time."""
    first, second = (tf.keras.initializers.GlorotUniform(seed) for seed in (1, 2))
    return tf.keras.Sequential(
        [
            tf.keras.layers.InputLayer(input_shape=(64,)),
            tf.keras.layers.Dense(32, "relu", kernel_initializer=first),
            tf.keras.layers.Dense(10, kernel_initializer=second),
        ]
    )


def model() -> tff.learning.models.VariableModel:
    """Return the model for TFF, which calls this function where it needs one."""
    return tff.learning.models.from_keras_model(
        keras_model(),
        input_spec=BATCHES,
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def central_accuracy(tables: dict, epochs: int = 20) -> float:
    """Train on the rows of all silos in one place; return the accuracy on all held-out rows."""
    tf.keras.utils.set_random_seed(1)
    central = keras_model()
    central.compile(
        tf.keras.optimizers.SGD(0.1),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf.keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    x, y = pooled(tables, "train")
    central.fit(x, y, batch_size=20, epochs=epochs, verbose=0)
    return float(central.evaluate(*pooled(tables, "test"), verbose=0, return_dict=True)["accuracy"])
