"""A pytest plugin for TFF's own tests: their context factories make contexts on a cohort instead.

Where a test module names its default context in its ``__main__`` block, that context is set for the whole module, as
running the file would; TFF's examples get the context that TFF itself sets as the default. With ``UPSTREAM=stock``
nothing is replaced.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
from pathlib import Path

import pytest
import tensorflow_federated as tff
from absl import flags
from tensorflow_federated.python.core.backends import native, test
from tensorflow_federated.python.core.backends.native import execution_contexts as native_contexts
from tensorflow_federated.python.core.backends.test import execution_contexts as test_contexts

import fedbroker
from fedbroker.testing import local_cohort

SILOS = 3
_MAIN = re.compile(r"set_(sync|async)_(local|test)_cpp_execution_context\(\s*(?:default_num_clients=(\d+))?")


class Contexts:
    """Contexts on one cohort, each kind made once."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._cohort = None
        self._made = {}

    def create(self, kind: str, secure_sum: str, *, default_num_clients: int = 0, **_ignored: object):
        """Return a context in place of TFF's factories; arguments about the local runtime's concurrency are ignored."""
        key = (kind, secure_sum, default_num_clients)
        if self._cohort is None:
            self._cohort = self._stack.enter_context(local_cohort(SILOS, policy={"client_results": "allow"}))
        if key not in self._made:
            create = getattr(fedbroker, f"create_{kind}_execution_context")
            self._made[key] = create(
                self._cohort.url,
                cohort=self._cohort.cohort,
                min_silos=SILOS,
                options=fedbroker.Options(default_num_clients=default_num_clients, secure_sum=secure_sum),
            )
            self._stack.callback(self._made[key].close)
        return self._made[key]

    def set(self, *args: object, **kwargs: object) -> None:
        tff.framework.get_context_stack().set_default_context(self.create(*args, **kwargs))

    def close(self) -> None:
        self._stack.close()


contexts = Contexts()


def pytest_configure() -> None:
    flags.FLAGS.mark_as_parsed()
    # TFF ends its worker with SIGINT and waits for that without a limit: it must not inherit an ignored one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("UPSTREAM") == "stock":
        return
    for word, secure_sum, modules in (
        ("local", "refuse", (native, native_contexts)),
        ("test", "plaintext", (test, test_contexts)),
    ):
        for kind in ("sync", "async"):
            for verb, function in (("create", contexts.create), ("set", contexts.set)):
                name = f"{verb}_{kind}_{word}_cpp_execution_context"
                for module in modules:
                    setattr(module, name, functools.partial(function, kind, secure_sum))


def pytest_unconfigure() -> None:
    contexts.close()


@pytest.fixture(autouse=True, scope="module")
def default_context(request: pytest.FixtureRequest):
    """Set the context that the module's ``__main__`` block would set."""
    stack = tff.framework.get_context_stack()
    before = stack.current
    _, _, main = Path(request.module.__file__).read_text(encoding="utf-8").partition("__main__")
    if named := _MAIN.search(main):
        kind, word, clients = named.groups()
        module = native_contexts if word == "local" else test_contexts
        options = {} if clients is None else {"default_num_clients": int(clients)}
        getattr(module, f"set_{kind}_{word}_cpp_execution_context")(**options)
    elif "upstream_examples" in request.path.parts:  # they rely on the context that TFF sets when it is imported
        native_contexts.set_sync_local_cpp_execution_context()
    yield
    stack.set_default_context(before)
