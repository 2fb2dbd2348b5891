"""The filter of ops and TensorFlow's importer read adversarial graphs alike: what can run, the filter has reported.

Graphs are made of attacks and of ordinary ones, nested in functions, branches and loops, by edits that shadow names,
rewire inputs, add arguments, calls by name, gradients and control inputs, and drop or hide attributes. TensorFlow
imports and runs what the filter admits: see ``tests/fuzz/graphs.py``; ``make fuzz`` tries many more.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedbroker.graphs import Unreadable, ops_of_graph
from tests.fuzz.graphs import EDITS, PLACE, admits, edited
from tests.fuzz.running import corpus

SEEDS = corpus("graph")


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(SEEDS), st.lists(st.integers(0, 2**32), min_size=1, max_size=5))
def test_filter_reports_every_op_that_tensorflow_can_run(graph, edits):
    for edit in edits:
        graph = edited(graph, random.Random(edit), SEEDS)
    admits(graph)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_each_edit_changes_something(edit):
    import tensorflow as tf

    changed = 0
    for seed in range(30):
        for data in SEEDS:
            graph = tf.compat.v1.GraphDef.FromString(data)
            try:
                edit(graph, random.Random(seed), SEEDS)
            except (ValueError, IndexError):
                continue
            changed += graph.SerializeToString(deterministic=True) != data
    assert changed > 20


def test_corpus_has_graphs_of_each_outcome():
    def outcome(data):
        try:
            return "reported" if "CacheDataset" in str(sorted(ops_of_graph(data))) else "in memory"
        except Unreadable:
            return "unreadable"

    outcomes = [outcome(data) for data in SEEDS]
    assert all(outcomes.count(one) >= 2 for one in ("reported", "in memory", "unreadable"))
    assert sum(PLACE in data for data in SEEDS) >= 5
