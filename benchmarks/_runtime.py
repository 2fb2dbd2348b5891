"""The C++ runtime alone: takes a value, calls a function, returns the result. A child process, without TensorFlow.

It measures the runtime's time for a stage without any communication: the lower bound for the stage.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks._children import say, serve
from fedbroker.runtime import Runtime


async def main(first: dict[str, Any], words: AsyncIterator[dict[str, Any]]) -> None:
    """Run one stage at each order, with the values in the files that the first message names."""
    function, argument = (Path(first[name]).read_bytes() for name in ("function", "argument"))  # noqa: ASYNC240
    runtime = Runtime(isolation="none", log=lambda _: None)
    try:
        await runtime.start()
        executor = await runtime.executor(first["clients"])
        called = await executor.value(function)
        say(ready=True)
        async for _ in words:
            start = time.perf_counter()
            given = await executor.value(argument)
            result = await executor.call(called, given)
            answer = await executor.compute(result)
            seconds = time.perf_counter() - start
            await executor.dispose([given, result])
            say(seconds=seconds, bytes=len(answer))
    finally:
        await runtime.close()


if __name__ == "__main__":
    serve(main)
