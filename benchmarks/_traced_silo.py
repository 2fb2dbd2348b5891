"""A real silo that records the functions that it passes: a child process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fedbroker_worker.config import load
from fedbroker_worker.service import SiloService

from benchmarks._calls import Calls
from benchmarks._children import say, serve


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Serve; begin or end a round, or report the functions, at each order."""
    calls = Calls()
    calls.install()
    async with SiloService(load(Path(first["settings"]), {})):
        say(ready=True)
        async for order in words:
            if order["do"] == "report":
                say(functions=calls.common())
                continue
            if order["do"] == "start":
                calls.start()
            else:
                calls.stop()
            say(done=True)


if __name__ == "__main__":
    serve(main)
