"""Errors as they leave a context: named, and retryable in TFF's sense only where a retry may help."""

from __future__ import annotations

import pytest
import tensorflow_federated as tff

from fedbroker.context.failures import leaving
from fedbroker.errors import (
    BrokerLost,
    ComputationFailed,
    DataError,
    DeadlineExceeded,
    PlanError,
    RuntimeUnavailable,
    SiloError,
    UsageError,
)
from tests.support import computations as c

RETRYABLE = [
    BrokerLost("the broker went away"),
    RuntimeUnavailable("the C++ runtime is gone", retryable=True),
    SiloError("ewr", "its runtime died", stage=0, retryable=True),
]
FINAL = [
    RuntimeUnavailable("no user namespaces"),
    SiloError("ewr", "INVALID_ARGUMENT: assertion failed", stage=0),
    DataError("ewr", "flights", expected="int32", found="str"),
    ComputationFailed("INTERNAL", "no such op", stage=1),
    DeadlineExceeded("a stage took too long"),
    PlanError("no such intrinsic"),
    UsageError("a list was given"),
]


@pytest.mark.parametrize("error", RETRYABLE, ids=lambda error: type(error).__name__)
def test_what_died_or_was_lost_is_retryable(error):
    kind, before, code = type(error), vars(error).copy(), error.code
    left = leaving(error, c.total)
    assert left is error
    assert isinstance(left, tff.framework.RetryableError)
    assert isinstance(left, kind)
    assert (type(left).__name__, left.code) == (kind.__name__, code)
    assert {**before, "computation": "total"} == vars(left)


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_what_would_fail_again_is_not(error):
    assert not isinstance(leaving(error, c.total), tff.framework.RetryableError)


def test_the_computation_is_named_behind_the_code():
    error = leaving(SiloError("ewr", "no such table", stage=0, hint="look"), c.two_barriers)
    assert str(error) == "[FB4001] two_barriers: silo 'ewr' failed in client stage 0: no such table; look"


def test_leaving_twice_changes_nothing():
    once = leaving(BrokerLost("gone"), c.total)
    kind = type(once)
    assert type(leaving(once, c.total)) is kind
