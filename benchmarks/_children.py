"""Child processes of a benchmark that exchange lines of JSON with it; each ends when the benchmark does.

A child is a module that calls :func:`serve`. A message may contain a password: it goes through standard input, never
onto a command line.
"""

from __future__ import annotations

import asyncio
import json
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0


class Child:
    """A process that runs a module; usable with ``with``.

    Args:
        module: its name.
        words: the first message to it.
    """

    def __init__(self, module: str, **words: object) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tell(**words)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def tell(self, **words: object) -> None:
        """Send a message; :meth:`hear` returns the answer."""
        assert self._process.stdin is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        """Return its next answer.

        Raises:
            RuntimeError: the child ended, or did not answer within five minutes.
        """
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise RuntimeError(f"{self._name} {'ended' if readable else 'does not answer'}")
        return dict(json.loads(line))

    def ask(self, **words: object) -> dict[str, Any]:
        """Send a message and return the answer."""
        self.tell(**words)
        return self.hear()

    def close(self) -> None:
        """End it by closing its standard input."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def say(**words: object) -> None:
    """Send an answer to the parent."""
    print(json.dumps(words), flush=True)


def serve(main: Callable[[dict[str, Any], AsyncIterator[dict[str, Any]]], Awaitable[None]]) -> None:
    """Run a child: ``main`` gets the first message, and an iterator of the later ones that ends with standard input."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

        async def told() -> AsyncIterator[dict[str, Any]]:
            while line := await reader.readline():
                yield dict(json.loads(line))

        words = told()
        await main(await anext(words), words)

    asyncio.run(run())
