"""Silo processes refuse work that their policy forbids, name the reason, and continue to serve the coordinator."""

from __future__ import annotations

import contextlib
import tomllib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import FedbrokerError, PolicyRefusal
from fedbroker.testing import local_cohort
from tests.support.computations import COLUMN, sum_numbers
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SOURCES = {
    "numbers": {"source": "duckdb", "query": "select i::float as x from range(10) t(i)"},
    "other": {"source": "duckdb", "query": "select i::float as x from range(3) t(i)"},
    "pairs": {
        "source": "duckdb",
        "query": "select i::float as x, i % 2 as who from range(10) t(i)",
        "clients": "who",
    },
}

ROWS = tff.FederatedType(COLUMN, tff.CLIENTS)
SEQUENCE = tff.FederatedType(tff.SequenceType(np.float32), tff.CLIENTS)


@contextlib.contextmanager
def cohort_of(broker, name, policy, **options):
    """Run a silo with this policy, and a context over it."""
    with (
        local_cohort(1, sources=SOURCES, cohort=name, broker=broker.url, policy=policy) as silos,
        fedbroker.create_sync_execution_context(
            broker.url, cohort=name, min_silos=1, **context_settings(**options)
        ) as context,
    ):
        yield silos, context


def run(context, comp, *args):
    return context.invoke(comp, pack_arguments(comp, args))


def total_with(function):
    """Return the sum of a function's results over the clients of a source."""
    computation = tff.tensorflow.computation(function, COLUMN)

    @tff.federated_computation(ROWS)
    def total(columns):
        return tff.federated_sum(tff.federated_map(computation, columns))

    return total


total = total_with(lambda x: tf.reduce_sum(x))


@tff.federated_computation(ROWS)
def doubled(columns):
    return tff.federated_map(tff.tensorflow.computation(lambda x: x * 2, COLUMN), columns)


@tff.federated_computation(ROWS)
def both(columns):
    """Return an aggregate and each client's value."""
    sums = tff.federated_map(tff.tensorflow.computation(lambda x: tf.reduce_sum(x), COLUMN), columns)
    return tff.federated_sum(sums), sums


@tff.federated_computation(ROWS)
def untouched(columns):
    return columns


def refusal(context, comp, *args):
    with pytest.raises(PolicyRefusal) as caught:
        run(context, comp, *args)
    error = caught.value
    assert (error.silo, error.stage, error.retryable) == ("silo-0", 0, False)
    assert error.session
    assert "\n" not in str(error)
    assert f"silo 'silo-0' refused client stage 0 by its policy ({error.rule})" in str(error)
    assert sum_numbers(context) == 45.0  # the silo continues to work
    return error


def test_source_outside_the_policy_is_refused(broker, cohort):
    with cohort_of(broker, cohort, {"sources": ["numbers"]}) as (_, context):
        error = refusal(context, total, fedbroker.data("other"))
        assert error.rule == "sources"
        assert "source 'other' may not be read at this silo (allowed: numbers)" in str(error)


def test_aggregate_of_too_few_clients_is_refused(broker, cohort):
    with cohort_of(broker, cohort, {"min_clients": 2}) as (_, context):
        with pytest.raises(PolicyRefusal) as caught:
            run(context, total, fedbroker.data("numbers"))
        assert caught.value.rule == "min_clients"
        assert "over 1 client, and the minimum is 2" in str(caught.value)
        assert run(context, total, fedbroker.data("pairs")) == 45.0


def test_source_with_too_few_rows_is_refused(broker, cohort):
    with cohort_of(broker, cohort, {"min_rows": 11}) as (_, context):
        with pytest.raises(PolicyRefusal) as caught:
            run(context, total, fedbroker.data("numbers"))
        assert caught.value.rule == "min_rows"
        assert "source 'numbers' has fewer rows than this silo computes over" in str(caught.value)
        assert "10" not in caught.value.cause
    with cohort_of(broker, f"{cohort}-2", {"min_rows": 10}) as (_, context):
        assert run(context, total, fedbroker.data("numbers")) == 45.0


@pytest.mark.parametrize("comp", [doubled, both, untouched])
def test_client_values_stay_at_the_silo_by_default(broker, cohort, comp):
    with cohort_of(broker, cohort, None) as (_, context):
        assert refusal(context, comp, fedbroker.data("numbers")).rule == "client_results"


def test_client_values_leave_the_silo_if_allowed(broker, cohort):
    with cohort_of(broker, cohort, {"client_results": "allow"}) as (_, context):
        (found,) = run(context, doubled, fedbroker.data("numbers"))
        np.testing.assert_array_equal(found, np.arange(10) * 2)


def reads_a_file(x):
    return tf.reduce_sum(x) + tf.cast(tf.strings.length(tf.io.read_file(__file__)), tf.float32)


def calls_python(x):
    return tf.ensure_shape(tf.numpy_function(np.sum, [x], tf.float32), [])


def prints(x):
    with tf.control_dependencies([tf.print(x, output_stream="file://stolen")]):
        return tf.reduce_sum(x)


def reads_in_a_map(x):
    lengths = tf.data.Dataset.from_tensor_slices(x).map(lambda y: reads_a_file(tf.stack([y])))
    return lengths.reduce(0.0, lambda a, b: a + b)


@pytest.mark.parametrize(
    ("function", "op"),
    [(reads_a_file, "ReadFile"), (calls_python, "PyFunc"), (prints, "PrintV2"), (reads_in_a_map, "ReadFile")],
)
def test_ops_with_side_effects_are_refused(broker, cohort, function, op):
    with cohort_of(broker, cohort, None) as (silos, context):
        error = refusal(context, total_with(function), fedbroker.data("numbers"))
        assert error.rule == "refuse_ops"
        assert op in error.cause
        assert not (silos.silos["silo-0"].directory / "stolen").exists()


def test_ops_are_refused_or_allowed_by_the_policy(broker, cohort):
    policy = {"refuse_ops": ["Prod"], "allow_ops": ["ReadFile"]}
    with cohort_of(broker, cohort, policy) as (_, context):
        error = refusal(context, total_with(lambda x: tf.reduce_prod(x)), fedbroker.data("numbers"))
        assert (error.rule, "Prod (refused by this silo)" in error.cause) == ("refuse_ops", True)
        with pytest.raises(FedbrokerError) as caught:  # it runs, and finds no file where the C++ runtime is confined
            run(context, total_with(reads_a_file), fedbroker.data("numbers"))
        assert not isinstance(caught.value, PolicyRefusal)


@tff.federated_computation(SEQUENCE)
def added(sequences):
    add = tff.tensorflow.computation(lambda one: one.reduce(np.float32(0), lambda a, b: a + b), SEQUENCE.member)
    return tff.federated_sum(tff.federated_map(add, sequences))


def test_ops_in_a_sent_sequence_are_checked(broker, cohort, tmp_path):
    (tmp_path / "lines").write_text("1\n2\n")
    lines = tf.data.TextLineDataset(str(tmp_path / "lines")).map(lambda line: tf.strings.to_number(line))
    with cohort_of(broker, cohort, None) as (_, context):
        error = refusal(context, added, [lines])
        assert (error.rule, "TextLineDataset" in error.cause) == ("refuse_ops", True)
        assert run(context, added, [tf.data.Dataset.from_tensor_slices(np.float32([1, 2])).cache()]) == 3.0


@tff.tensorflow.computation(COLUMN)
def spread(x):
    return tf.fill([100], tf.reduce_sum(x))


@tff.federated_computation(ROWS)
def padded(columns):
    return tff.federated_sum(tff.federated_map(spread, columns))


def test_bytes_out_of_a_session_are_limited(broker, cohort):
    with cohort_of(broker, cohort, {"max_bytes_out": 80}) as (_, context):
        error = refusal(context, padded, fedbroker.data("numbers"))
        assert error.rule == "max_bytes_out"
        assert "more than the 80 bytes" in error.cause


def test_report_marks_the_silo_as_refused(broker, cohort):
    with cohort_of(broker, cohort, None) as (silos, context):
        settings = tomllib.loads((silos.silos["silo-0"].directory / "silo.toml").read_text())
        assert settings["policy"] == {"client_results": "refuse", "min_clients": 1}
        with pytest.raises(PolicyRefusal):
            run(context, doubled, fedbroker.data("numbers"))
        (stage,) = context.last_session.stages
        assert dict(stage.dropped) == {"silo-0": "refused"}
