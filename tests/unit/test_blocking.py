"""The tests' watch over event loops finds a blocking call of our own code, and lets tests and logs write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import blockbuster
import pytest

from fedbroker import log
from tests.support.blocking import watching


@pytest.fixture(scope="module", autouse=True)
def watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Watch the event loops of these tests; with ``--blocking`` those of all tests are watched."""
    if request.config.getoption("--blocking"):
        yield
        return
    with watching():
        yield


def own(source):
    """Return a function ``run`` of that source, compiled as if it were in fedbroker."""
    file = f"{log.__file__.removesuffix('log.py')}example.py"
    names = {"read": Path(__file__).read_bytes, "asyncio": asyncio}
    exec(compile(source, file, "exec"), names)
    return names["run"]


async def test_a_blocking_call_of_our_coroutine_fails():
    run = own("async def run():\n    read()")
    with pytest.raises(blockbuster.BlockingError, match="Blocking call to"):
        await run()


async def test_a_blocking_call_of_our_callback_fails():
    future = asyncio.get_running_loop().create_future()
    run = own(
        "def run(future):\n    try:\n        read()\n    except BaseException as error:\n"
        "        future.set_exception(error)"
    )
    asyncio.get_running_loop().call_soon(run, future)
    with pytest.raises(blockbuster.BlockingError):
        await future


async def test_another_thread_may_block():
    assert await own("async def run():\n    return await asyncio.to_thread(read)")()


async def test_a_test_may_block():
    assert Path(__file__).read_bytes()  # noqa: ASYNC240 -- that is what it is about


async def test_a_log_line_may_be_written():
    own("def run():\n    pass")
    await own("async def run():\n    import logging\n    logging.getLogger('fedbroker').warning('written')")()
