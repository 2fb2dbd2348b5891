"""TFF's MapReduce forms: compiled to one and back, a computation gives the same; and what no form holds."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_federated as tff

from tests.support import computations as c
from tests.support.conformance import feature
from tests.support.tff import assert_close, assert_same

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PAGE = Path(__file__).parents[2] / "docs" / "mapreduce.md"
FORMS = tff.backends.mapreduce
F, N = np.float32, np.int32
STATE = collections.OrderedDict(rounds=N, total=F)
AT_SERVER = tff.FederatedType(STATE, tff.SERVER)
INTS = tff.FederatedType(N, tff.CLIENTS)


@tff.federated_computation(AT_SERVER, c.AT_CLIENTS)
def step(state, values):
    """State at the server, a broadcast of it, two aggregates, an update."""
    shift = tff.tensorflow.computation(lambda v, s: v + s["total"], (F, STATE))
    update = tff.tensorflow.computation(
        lambda s, mean, largest: collections.OrderedDict(rounds=s["rounds"] + 1, total=s["total"] + mean - largest),
        (STATE, F, F),
    )
    moved = tff.federated_map(shift, (values, tff.federated_broadcast(state)))
    mean, largest = tff.federated_mean(moved), tff.federated_max(values)
    return tff.federated_map(update, (state, mean, largest)), mean


@tff.federated_computation(AT_SERVER, INTS)
def secure_step(state, values):
    count = tff.tensorflow.computation(
        lambda s, n: collections.OrderedDict(rounds=s["rounds"] + n, total=s["total"]), (STATE, N)
    )
    total = tff.federated_secure_sum_bitwidth(values, 8)
    return tff.federated_map(count, (state, total)), tff.federated_secure_sum(values, 100)


@tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
def scaled(factor, values):
    times = tff.tensorflow.computation(lambda v, k: v * k, (F, F))
    squared = tff.federated_map(tff.tensorflow.computation(lambda k: k * k, F), factor)
    return tff.federated_map(times, (values, tff.federated_broadcast(squared)))


@tff.federated_computation(c.AT_SERVER, c.AT_CLIENTS)
def standardised(state, values):
    """The mean, then what depends on it: two rounds between server and clients."""
    mean = tff.federated_mean(values)
    off = tff.federated_map(c.minus, (values, tff.federated_broadcast(mean)))
    return state, tff.federated_mean(tff.federated_map(tff.tensorflow.computation(lambda v: v * v, F), off))


def through_map_reduce(comp):
    return FORMS.get_computation_for_map_reduce_form(FORMS.get_map_reduce_form_for_computation(comp))


def through_distribute_aggregate(comp):
    form = FORMS.get_distribute_aggregate_form_for_computation(comp)
    return FORMS.get_computation_for_distribute_aggregate_form(form)


def start():
    return collections.OrderedDict(rounds=N(0), total=F(0))


@feature("mapreduce", "MapReduceForm", 'there and back; it holds secure sums always, so `secure_sum="plaintext"`')
def test_map_reduce_form(same_in_plaintext):
    back = through_map_reduce(step)
    found = same_in_plaintext(back, start(), [1.0, 2.0, 6.0])
    assert_same(found, same_in_plaintext.run_theirs(step, start(), [1.0, 2.0, 6.0]))
    assert_same(same_in_plaintext.run_ours(back, found[0], [4.0]), same_in_plaintext.run_theirs(step, found[0], [4.0]))


@feature("mapreduce", "DistributeAggregateForm", "there and back")
def test_distribute_aggregate_form(same):
    found = same(through_distribute_aggregate(step), start(), [1.0, 2.0, 6.0])
    assert_same(found, same.run_theirs(step, start(), [1.0, 2.0, 6.0]))


@feature("mapreduce", "BroadcastForm", "there and back")
def test_broadcast_form(same):
    back = FORMS.get_computation_for_broadcast_form(FORMS.get_broadcast_form_for_computation(scaled))
    assert same(back, 2.0, [1.0, 2.0, 3.0, 4.0]) == [4.0, 8.0, 12.0, 16.0]


@feature("mapreduce", "forms with secure sums", 'with `secure_sum="plaintext"`')
@pytest.mark.parametrize("through", [through_map_reduce, through_distribute_aggregate])
def test_secure_sums(same_in_plaintext, through):
    found = same_in_plaintext(through(secure_step), start(), [1, 2, 100])
    assert_same(found, same_in_plaintext.run_theirs(secure_step, start(), [1, 2, 100]))
    assert found[1] == 103


@feature("mapreduce", "weighted FedAvg's `next` as MapReduceForm and DistributeAggregateForm", "there and back")
@pytest.mark.parametrize("through", [through_map_reduce, through_distribute_aggregate])
def test_fed_avg(same_in_plaintext, through):
    process = tff.learning.algorithms.build_weighted_fed_avg(c.regression, tff.learning.optimizers.build_sgdm(0.01))
    state, data = same_in_plaintext.theirs.invoke(process.initialize, None), c.client_data(5, 9, 12)
    found = same_in_plaintext(through(process.next), state, data)
    expected = same_in_plaintext.run_theirs(process.next, state, data)
    # Forms lose the names of containers: the numbers are compared.
    assert_close(_numbers(found), _numbers(expected), 1e-6)


@feature("mapreduce", "several rounds between server and clients", "no form holds it; a plan does")
def test_several_rounds(same):
    for form in (FORMS.get_map_reduce_form_for_computation, FORMS.get_distribute_aggregate_form_for_computation):
        with pytest.raises(ValueError, match="broadcast dependent on aggregate"):
            form(standardised)
    with pytest.raises(TypeError, match="expects a computation whose result is client data"):
        FORMS.get_broadcast_form_for_computation(standardised)
    assert same(standardised, 0.0, [1.0, 2.0, 6.0])[1] == pytest.approx(14 / 3)
    assert same.barriers == [2]


def test_the_pages_program_runs(tmp_path, silos):
    (page,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    program = tmp_path / "program.py"
    page, found = re.subn(
        r'"amqps://coordinator:[^"]*", cohort="airports"', f'"{silos.url}", cohort="conformance"', page
    )
    assert found == 1
    program.write_text(page)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    refusal, *explanation, result = done.stdout.strip().splitlines()
    assert refusal.startswith("no form: Detected broadcast dependent on aggregate")
    assert any("round trips: 2" in line for line in explanation)
    assert result == "variance 4.667"


def _numbers(value):
    """What is in a result, left to right, whatever its containers."""
    return tff.structure.flatten(tff.structure.from_container(value, recursive=True))
