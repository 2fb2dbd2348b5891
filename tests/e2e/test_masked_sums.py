"""Masked sums of real silos: the bits of the plaintext sums, and clear errors where silos cannot take part."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import MaskingError, SiloError
from tests.support.local_tff import pack_arguments
from tests.support.masked_cohort import masked_cohort, masked_context

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

COLUMN = tff.TensorType(np.int32, [None])
COUNTS = tff.StructWithPythonType([("rows", np.int32), ("sums", (np.int64, (2,)))], collections.OrderedDict)


@tff.tensorflow.computation(COLUMN)
def statistics(column):
    wide = tf.cast(column, tf.int64)
    return collections.OrderedDict(rows=tf.size(column), sums=tf.stack([tf.reduce_sum(wide), tf.reduce_max(wide)]))


@tff.tensorflow.computation(COLUMN)
def mean(column):
    return tf.reduce_mean(tf.cast(column, tf.float32))


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def summed(columns):
    """Return a secure sum and an ordinary one."""
    secure = tff.federated_secure_sum(tff.federated_map(statistics, columns), 1000)
    return secure, tff.federated_sum(tff.federated_map(mean, columns))


def invoke(context):
    secure, ordinary = context.invoke(summed, pack_arguments(summed, (fedbroker.data("numbers"),)))
    return int(secure["rows"]), secure["sums"].tolist(), float(ordinary)


EXPECTED = (1 + 2 + 3, [1 + 3 + 6, 1 + 2 + 3], 1.0 + 1.5 + 2.0)
"""The sums over the silos s00, s01 and s02 of ``numbered``."""


@pytest.fixture(scope="module")
def silos(broker):
    with masked_cohort(broker, "masked-sums", 3) as silos:
        yield silos


def test_sums_are_those_of_plaintext(silos):
    with masked_context(silos, secure_sum="plaintext") as context:
        assert invoke(context) == EXPECTED
    with masked_context(silos) as context:
        assert [invoke(context) for _ in range(3)] == [EXPECTED] * 3
        assert context.last_session.participants == ("s00", "s01", "s02")


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def columns_summed(columns):
    return tff.federated_secure_sum(columns, 1000)


def test_silo_whose_values_have_another_shape_is_named(silos):
    with masked_context(silos) as context, pytest.raises(SiloError, match=r"its masked values have the shapes \[\d\]"):
        context.invoke(columns_summed, pack_arguments(columns_summed, (fedbroker.data("numbers"),)))


def test_silo_without_a_roster_is_named_before_any_work_is_sent(silos):
    silos.restart("s01", security={"roster_key": None, "roster": None})
    try:
        with masked_context(silos) as context:
            with pytest.raises(MaskingError, match=r"silo 's01' takes part in no masked sums.*roster"):
                invoke(context)
            assert context.last_session is None
    finally:
        roster = {"roster_key": str(silos.administrator.public), "roster": str(silos.roster_path)}
        silos.restart("s01", security=roster)


def test_two_silos_are_too_few(silos):
    with (
        masked_context(silos, min_silos=2, max_silos=2) as context,
        pytest.raises(MaskingError, match=r"over 2 silos, where at least 3 are needed.*min_silos=3"),
    ):
        invoke(context)


@pytest.mark.parametrize("stragglers", ["drop", "replace"])
def test_sums_from_which_silos_may_drop_out(silos, stragglers):
    with masked_context(silos, stragglers=stragglers) as context:
        assert [invoke(context) for _ in range(3)] == [EXPECTED] * 3
        (stage,) = context.last_session.stages
        assert stage.participants == stage.masking.members == ("s00", "s01", "s02")
        assert stage.masking.threshold == 3
        assert 0 < stage.masking.seconds < 2
        assert context.last_session.late == 0
