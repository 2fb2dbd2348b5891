"""Fixtures for tests with the real C++ runtime: a runtime of ours, and TFF's own local context."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedbroker.context.loop import LoopThread
from fedbroker.runtime import Runtime
from tests.support.gated_source import gated_source
from tests.support.management import Admin, ManagementBroker, management_broker
from tests.support.worker import ROWS


@pytest.fixture(scope="session")
def loop_thread():
    thread = LoopThread("tests")
    yield thread
    thread.stop()


@pytest.fixture(scope="session")
def runtime(loop_thread):
    runtime = Runtime()
    loop_thread.run(runtime.start())
    yield runtime
    loop_thread.run(runtime.close())


@pytest.fixture(scope="session")
def managed_broker() -> Iterator[ManagementBroker]:
    """Run a private broker with the management API."""
    with management_broker() as one:
        yield one


@pytest.fixture(scope="session")
def office(managed_broker: ManagementBroker, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """Initialise an administrator of that broker and its virtual host."""
    one = Admin(tmp_path_factory.mktemp("admin"), {"FEDBROKER_ADMIN_URL": managed_broker.api})
    one.done("init", "--broker", managed_broker.public)
    return one


@pytest.fixture
async def own_runtime():
    """Start a runtime in the test's own event loop."""
    one = Runtime()
    await one.start()
    yield one
    await one.close()


@pytest.fixture(scope="session")
def tff_local():
    """Return ``run(comp, *args)``, which invokes on TFF's own local context."""
    from tests.support.local_tff import local_context, pack_arguments

    context = local_context()
    return lambda comp, *args: context.invoke(comp, pack_arguments(comp, args))


@pytest.fixture
def direct(loop_thread, runtime):
    """Return ``run(comp, *args, silos=n)``, which invokes on executors of one runtime, without a broker."""
    from tests.support.direct_cohort import direct_run

    return direct_run(loop_thread, runtime)


@pytest.fixture
def masked(loop_thread, runtime):
    """Return ``run(comp, *args, silos=n)``, which invokes with masked sums, without masks and without a broker."""
    from tests.support.masked_plans import masked_run

    return masked_run(loop_thread, runtime)


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """Return two sources, one of which blocks until it is released and counts its reads."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return {"rows": {"query": ROWS}, "waiting": gated_source(tmp_path, waits=True)}
