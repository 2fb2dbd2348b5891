"""TFF's own local context, for comparison, and structural equality of results."""

from __future__ import annotations

import signal

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.computation import function_utils


def local_context():
    """Return TFF's native context.

    It ends its worker with SIGINT and waits for that without a limit, so the worker must not inherit an ignored SIGINT.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return tff.backends.native.create_sync_local_cpp_execution_context()


def pack_arguments(comp, args):
    """Return a call's arguments as TFF passes them to a context."""
    return function_utils.pack_args(comp.type_signature.parameter, args, {})


def assert_same(found, expected):
    """Assert that containers, dtypes and values are the same at every level."""
    if isinstance(expected, tf.data.Dataset):  # its private TensorFlow class depends on its source
        assert isinstance(found, tf.data.Dataset)
        assert found.element_spec == expected.element_spec
        assert_same(list(found.as_numpy_iterator()), list(expected.as_numpy_iterator()))
        return
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif hasattr(expected, "__attrs_attrs__"):
        for attribute in expected.__attrs_attrs__:
            assert_same(getattr(found, attribute.name), getattr(expected, attribute.name))
    else:
        assert found == expected


def assert_close(found, expected, rtol):
    """Assert that containers and dtypes are the same, and floating-point numbers within ``rtol``."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_close(found[key], expected[key], rtol)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, rtol)
    elif hasattr(expected, "__attrs_attrs__"):
        for attribute in expected.__attrs_attrs__:
            assert_close(getattr(found, attribute.name), getattr(expected, attribute.name), rtol)
    elif isinstance(expected, (float, np.ndarray, np.generic)) and np.asarray(expected).dtype.kind in "fc":
        assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol / 100)
    else:
        assert_same(found, expected)
