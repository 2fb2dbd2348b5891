"""The handle of silos' data: its options, and one clear line for each value that cannot be meant."""

from __future__ import annotations

import numpy as np
import pytest

import fedbroker
from fedbroker.context.values.data import Draw, SiloData
from fedbroker.errors import UsageError


def test_options_are_kept_as_plain_values():
    handle = fedbroker.data(
        "rows",
        batch_size=np.int64(32),
        epochs=np.int32(5),
        shuffle=True,
        seed=7,
        limit=100,
        drop_remainder=True,
        round=3,
    )
    assert repr(handle) == (
        "SiloData(name='rows', batch_size=32, epochs=5, shuffle=True, seed=7, limit=100, drop_remainder=True, round=3)"
    )
    assert not handle.is_plain
    assert fedbroker.data("rows", batch_size=32).is_plain


def test_repr_shows_what_was_given():
    assert repr(fedbroker.data("rows")) == "SiloData(name='rows')"
    assert repr(SiloData("rows", draw=Draw(2, 7))) == "SiloData(name='rows', draw=Draw(count=2, seed=7))"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1 and at most 2147483647"),
        ({"epochs": None}, "epochs is None; it must be a whole number"),
        ({"epochs": True}, "epochs is True; it must be a whole number"),
        ({"epochs": 2.0}, "epochs is 2.0; it must be a whole number"),
        ({"epochs": 2**31}, "epochs is 2147483648; it must be at least 1"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"limit": "10"}, "limit is '10'; it must be a whole number"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": 1.5}, "batch_size is 1.5; it must be a whole number"),
        ({"shuffle": 1000}, "shuffle is 1000; it must be True or False; all rows of a client are shuffled, without a"),
        ({"shuffle": True, "seed": "x"}, "seed is 'x'; it must be a whole number"),
        ({"shuffle": True, "seed": 1, "round": -1}, "round is -1; it must be at least 0"),
        ({"seed": 1}, "seed has no effect without shuffle"),
        ({"shuffle": True, "round": 1}, "round has no effect without seed"),
        ({"drop_remainder": True}, "drop_remainder has no effect without batch_size"),
        ({"drop_remainder": 1, "batch_size": 2}, "drop_remainder is 1; it must be True or False"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_in_one_line(options, message):
    with pytest.raises(UsageError) as caught:
        fedbroker.data("rows", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
