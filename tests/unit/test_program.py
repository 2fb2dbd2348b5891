"""Silos' data as a data source of federated programs."""

from __future__ import annotations

import collections
import copy

import numpy as np
import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.context.values.data import Draw
from fedbroker.errors import UsageError
from fedbroker.program import SiloDataSource, SiloDataSourceIterator

ROWS = tff.SequenceType(collections.OrderedDict(x=tff.TensorType(np.float32, [None])))


def source(**options):
    return SiloDataSource("delays", ROWS, batch_size=32, **options)


def test_type_is_placed_at_clients():
    assert source().federated_type == tff.FederatedType(ROWS, tff.CLIENTS)
    assert source().iterator().federated_type == tff.FederatedType(ROWS, tff.CLIENTS)


def test_data_source_is_exported_by_fedbroker():
    assert fedbroker.program.SiloDataSource is SiloDataSource
    assert {"program", "testing"} <= set(dir(fedbroker))


def test_each_selection_is_a_new_draw():
    iterator = source(seed=1).iterator()
    handles = [iterator.select(2) for _ in range(20)]
    assert {(handle.name, handle.batch_size, handle.draw.count) for handle in handles} == {("delays", 32, 2)}
    assert len({handle.draw.seed for handle in handles}) == 20


def test_selection_without_a_number_is_all_silos():
    assert source().iterator().select() == fedbroker.data("delays", batch_size=32)


def test_selections_are_repeatable_with_a_seed():
    assert source(seed=1).iterator().select(1) == source(seed=1).iterator().select(1)
    assert source(seed=1).iterator().select(1) != source(seed=2).iterator().select(1)
    assert source().iterator().select(1) != source().iterator().select(1)


def test_restored_iterator_continues_its_draws():
    iterator = source(seed=3).iterator()
    iterator.select(2)
    restored = SiloDataSourceIterator.from_bytes(iterator.to_bytes())
    copied = copy.deepcopy(iterator)
    assert restored == iterator == copied
    assert restored.federated_type.is_equivalent_to(iterator.federated_type)
    assert restored.select(2) == iterator.select(2) == copied.select(2)
    assert restored != source(seed=3).iterator()


def test_each_selection_shuffles_as_a_round_of_its_own():
    iterator = source(seed=4, shuffle=True, epochs=2, limit=10, drop_remainder=True).iterator()
    handles = [iterator.select(), iterator.select(2), iterator.select()]
    assert [(handle.seed, handle.round) for handle in handles] == [(4, 0), (4, 1), (4, 2)]
    assert {(handle.epochs, handle.limit, handle.drop_remainder) for handle in handles} == {(2, 10, True)}
    restored = SiloDataSourceIterator.from_bytes(iterator.to_bytes())
    assert restored == copy.deepcopy(iterator) == iterator
    assert restored.select() == iterator.select()


def test_state_of_an_earlier_version_is_restored():
    iterator = source(seed=3).iterator()
    iterator.select(2)
    state = iterator.to_bytes()
    assert b'{"name":"delays","batch_size":32,"seed":3,"selections":1}' in state
    assert SiloDataSourceIterator.from_bytes(state).select(2) == iterator.select(2)


def test_options_of_a_source_are_checked():
    with pytest.raises(UsageError, match="epochs is 0"):
        source(epochs=0)


@pytest.mark.parametrize("k", [0, -1, 1.5, "2"])
def test_invalid_number_is_refused(k):
    with pytest.raises(UsageError, match="silos cannot be selected"):
        source().iterator().select(k)


def test_draws_with_equal_seeds_are_equal():
    assert Draw(2, 7).of("abcd") == Draw(2, 7).of(reversed("abcd"))
