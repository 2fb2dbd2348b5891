"""Compare a masked round with Flower's SecAgg+: the same model, as many nodes, both with silos that may drop out."""

from __future__ import annotations

from pathlib import Path

from benchmarks._federation import Federation, federation
from benchmarks._report import Judged, Report, Row
from benchmarks.secure import MODES, measured, quantized_round, sides
from fedbroker.broker import PrivateBroker

NODES = 4
APP = Path(__file__).parent / "_flower_secagg"
COLUMNS = ("s", "bytes up from each")
SIZES = {"1 KB": (250, 20, 5, 1), "40 MB": (10_000_000, 2, 3, 1)}
"""float32 in the model, the bar for how many times as fast fedbroker is, and the timed rounds of it and of Flower."""

FEWER_BYTES = 0.5
MODE = "masked, silos may drop out"


def run(quick: bool) -> Report:
    """Measure both sizes; with ``quick`` only the small one."""
    rows: list[Row] = []
    with PrivateBroker() as broker, federation(NODES, APP) as theirs:
        for name, (numbers, bar, ours, others) in SIZES.items():
            if quick and numbers > 250:
                continue
            rows += _rows(name, numbers, bar, broker.url, ours, theirs, others)
    return Report(
        "secagg",
        f"A round of averaging with masked updates and {NODES} nodes, compared with Flower 1.42's SecAgg+",
        COLUMNS,
        rows,
        (
            "Both sides lose up to one node without failing, and quantize updates to 22 bits. Flower runs without TLS "
            "and without authentication of its nodes; fedbroker's messages are signed. Bytes are those of all messages "
            "of a node in a round.",
        ),
    )


def _rows(name: str, numbers: int, bar: float, url: str, turns: int, theirs: Federation, rounds: int) -> list[Row]:
    with sides(url, f"secagg-{numbers}", NODES, {MODE: MODES[MODE]}) as (found, pids):
        ours = measured(found, pids, url, numbers, turns, quantized_round)[MODE]
        seconds, size = ours.median, float(ours.bytes_up)
    up, *each = theirs.rounds(numbers, rounds)
    median = sorted(each)[len(each) // 2]
    figures = dict(zip(COLUMNS, (median, up), strict=True))
    return [
        Row(f"{name}: fedbroker, {NODES} silos", dict(zip(COLUMNS, (seconds, size), strict=True))),
        Row(f"{name}: Flower, {NODES} SuperNodes", figures, Judged(median / seconds, "≥", bar)),
        Row(f"{name}: bytes, compared with Flower's", {}, Judged(size / up, "≤", FEWER_BYTES)),
    ]
