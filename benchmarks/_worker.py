"""TFF's own worker, unchanged: a C++ runtime on a port of this machine. A child process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from benchmarks._children import say, serve
from fedbroker.runtime.process import RuntimeProcess, installed_binary
from fedbroker.runtime.resources import share_of_memory

START_SECONDS = 30.0


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Start the worker, which ends with this process."""
    process = RuntimeProcess("none", installed_binary(), share_of_memory(), lambda _: None, START_SECONDS)
    await process.start()
    try:
        say(port=int(process.target.rpartition(":")[2]))
        async for _ in words:
            pass
    finally:
        await process.close()


if __name__ == "__main__":
    serve(main)
