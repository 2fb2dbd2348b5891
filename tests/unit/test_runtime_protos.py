"""The generated modules without TFF: light, and harmless to a full import before or after."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedbroker
from fedbroker.runtime import protos
from tests.support.wait import PROCESS_SECONDS

LIGHT = """
import json, sys
import fedbroker.runtime.runtime, fedbroker.runtime.service
from fedbroker.runtime.protos import array_pb2, computation_pb2, data_type_pb2, executor_pb2
assert executor_pb2.Value(array=array_pb2.Array(dtype=data_type_pb2.DT_INT32)).SerializeToString()
heavy = [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "tensorflow_federated", "jax")]
print(json.dumps({"heavy": [name for name in heavy if not name.endswith("_pb2")]}))
"""

BEFORE = """
import json
from fedbroker.runtime import protos
import numpy as np
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import executor_pb2 as theirs
from tensorflow_federated.python.core.impl.executors import value_serialization
value, _ = value_serialization.serialize_value(np.int32(3), tff.TensorType(np.int32))
parsed = protos.executor_pb2.Value.FromString(value.SerializeToString())
print(json.dumps({"same": theirs is protos.executor_pb2, "class": type(value) is protos.executor_pb2.Value,
                  "parsed": list(parsed.array.int32_list.value), "package": tff.__version__}))
"""


def run(script: str) -> dict[str, object]:
    """Return the last line that a fresh interpreter prints."""
    root = str(Path(fedbroker.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_runtime_modules_import_neither_tensorflow_nor_tff():
    assert run(LIGHT) == {"heavy": []}


def test_later_full_import_has_the_same_classes():
    assert run(BEFORE) == {"same": True, "class": True, "parsed": [3], "package": "0.87.0"}


def test_modules_after_a_full_import_are_tffs():
    import tensorflow_federated  # noqa: F401
    from tensorflow_federated.proto.v0 import executor_pb2 as theirs

    spec = importlib.util.spec_from_file_location("protos_once_more", protos.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.executor_pb2 is theirs
    assert again.package_directory() == protos.package_directory()


def test_missing_runtime_error_names_both_distributions(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match="neither tensorflow-federated nor fedbroker-runtime"):
        protos.package_directory()
