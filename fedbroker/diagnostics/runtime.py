"""Checks of the C++ runtime on this machine: that it starts and computes, and how it is confined."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from fedbroker.diagnostics.finding import Finding
from fedbroker.errors import FedbrokerError, RuntimeUnavailable
from fedbroker.runtime import Isolation, Runtime
from fedbroker.runtime.protos import computation_pb2, executor_pb2

if TYPE_CHECKING:
    from fedbroker.runtime.host.confinement import Confinement, Mode

__all__ = ["check_runtime"]

SECONDS: Final = 30.0
"""Time limit for starting the C++ runtime and running one small computation on it: usually a second or two."""


async def check_runtime(
    isolation: Isolation = "namespace", *, memory: int | None = None, confinement: Mode = "best-effort"
) -> list[Finding]:
    """Start the C++ runtime, run the identity function on it, and report its confinement.

    Args:
        isolation: see :class:`fedbroker.runtime.Runtime`.
        memory: bytes that it may allocate; None for the default.
        confinement: see :class:`fedbroker.runtime.Runtime`.

    Returns:
        The findings ``runtime`` and ``confinement``; only the first if the runtime does not work.
    """
    started = time.monotonic()
    runtime = Runtime(isolation=isolation, memory=memory, confinement=confinement)
    try:
        async with asyncio.timeout(SECONDS):
            executor = await runtime.executor(1)
            function, argument = await executor.value(_identity()), await executor.struct([])
            await executor.compute(await executor.call(function, argument))
            in_force = runtime.confinement
    except TimeoutError:
        slow = RuntimeUnavailable(
            f"the C++ runtime returned no result within {SECONDS:g} s", hint="check the machine's load"
        )
        return [Finding.problem("runtime", slow)]
    except FedbrokerError as error:
        return [Finding.problem("runtime", error)]
    finally:
        await runtime.close()
    text = f"started with isolation {isolation!r} and ran a computation in {time.monotonic() - started:.1f} s"
    return [Finding.ok("runtime", text), _confinement(in_force)]


def _confinement(confinement: Confinement) -> Finding:
    """Report the defences that remain if a graph gets past a silo's list of ops."""
    if not confinement.protects_files:
        exposed = RuntimeUnavailable(
            f"a graph that gets past a silo's policy could read this user's files; missing: {confinement.missing}",
            hint='see docs/silo.md, "How the C++ runtime is confined"',
        )
        return Finding.warning("confinement", exposed)
    missing = f"; missing: {confinement.missing}" if confinement.refused else ""
    return Finding.ok("confinement", f"{', '.join(confinement.in_force)}{missing}")


def _identity() -> bytes:
    """Return the identity function as a serialized ``executor.Value``."""
    function = computation_pb2.Computation()
    body = getattr(function, "lambda")
    body.parameter_name = body.result.reference.name = "x"
    return bytes(executor_pb2.Value(computation=function).SerializeToString())
