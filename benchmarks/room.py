"""The cost of memory for a large blob: the same pieces written into each kind of it, in turns, in one run.

python -m benchmarks.room [--mib SIZE] [--turns N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

from fedbroker.wire.blobs import Buffer, allocate
from fedbroker.wire.limits import DEFAULT_LIMITS

KINDS: dict[str, Callable[[int], Buffer]] = {"bytearray": bytearray, "allocate": allocate}


def seconds(kind: Callable[[int], Buffer], pieces: Sequence[bytes]) -> float:
    """Time to allocate memory for all pieces, write them one after another, and free it."""
    start = time.perf_counter()
    into, at = memoryview(kind(sum(map(len, pieces)))), 0
    for piece in pieces:
        into[at : at + len(piece)] = piece
        at += len(piece)
    del into
    return time.perf_counter() - start


def main() -> None:
    """Print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    piece = os.urandom(DEFAULT_LIMITS.large_chunk)
    pieces = [piece] * max(1, (options.mib << 20) // len(piece))
    found: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(options.turns):
        for name, kind in KINDS.items():
            found[name].append(seconds(kind, pieces))
    first = statistics.median(next(iter(found.values())))
    for name, times in found.items():
        median = statistics.median(times)
        print(f"{name:<10} {median * 1e3:6.0f} ms   {median / first:.2f}")


if __name__ == "__main__":
    main()
