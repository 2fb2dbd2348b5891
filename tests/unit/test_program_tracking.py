"""``TrackingReleaseManager``, and the files of TFF's own release managers, which ``fedbroker curves`` reads."""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedbroker.context.run import Run
from fedbroker.program import TrackingReleaseManager
from fedbroker.tracking import CSV
from fedbroker.tracking.curves import read_curves


class Reference(tff.program.MaterializableValueReference):
    """A value that a platform keeps until it is asked for."""

    @property
    def type_signature(self):
        return tff.TensorType(np.float32)

    async def get_value(self):
        return np.float32(0.5)


VALUE = collections.OrderedDict(
    train=collections.OrderedDict(loss=Reference(), examples=np.int64(3)),
    weights=[np.zeros((2, 2)), tf.constant(2.0)],
    name="a",
)


async def test_numbers_of_a_structure_are_released_to_each_tracker(tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    trackers = CSV(first), CSV(second)
    manager, evaluation = TrackingReleaseManager(*trackers), TrackingReleaseManager(*trackers, prefix="eval/")
    for key in (1, 2):
        await manager.release(VALUE, key)
        await evaluation.release({"loss": 0.25}, key)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text().splitlines() == [
        "round,train/loss,train/examples,weights/1,eval/loss",
        "1,0.5,3.0,2.0,0.25",
        "2,0.5,3.0,2.0,0.25",
    ]


async def test_metrics_are_reported_to_the_run_around_the_program():
    reported, events = [], []
    with Run("line", None, 1, lambda *told: reported.append(told), owner=None, emit=events.append):
        await TrackingReleaseManager().release({"loss": 1.0}, 0)  # an evaluation before the first round
        await TrackingReleaseManager(prefix="train/").release({"loss": 0.5}, 7)
    assert reported == [(7, {"train/loss": 0.5})]
    assert [event.name for event in events] == ["run_started", "round_finished", "run_finished"]
    await TrackingReleaseManager().release({"loss": 0.5}, 8)
    assert len(reported) == 1


async def test_curves_of_tffs_own_release_managers_are_read(tmp_path):
    csv = tff.program.CSVFileReleaseManager(tmp_path / "metrics.csv", key_fieldname="round")
    tensorboard = tff.program.TensorBoardReleaseManager(tmp_path / "logs")
    for key in (1, 2, 3):
        value = {"loss": np.float32(0.5 * key), "weights": np.zeros(3, np.float32)}
        await csv.release(value, key)
        await tensorboard.release(value, key)
    expected = {"loss": [(1, 0.5), (2, 1.0), (3, 1.5)]}
    assert read_curves(tmp_path / "metrics.csv") == expected
    tensorboard._summary_writer.close()
    assert read_curves(tmp_path / "logs") == expected
