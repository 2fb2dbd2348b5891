"""Metrics as TensorBoard's event files, written and read without TensorFlow."""

from __future__ import annotations

import os
import secrets
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from fedbroker.errors import UsageError
from fedbroker.tracking.tracker import Tracker

__all__ = ["TensorBoard", "read_scalars"]

_VERSION: Final = "brain.Event:2"
_PATTERN: Final = "events.out.tfevents.*"

# A record: its length (8 bytes), that length's checksum (4), the record, its checksum (4).
_LENGTH: Final = struct.Struct("<QI")
_CHECKSUM: Final = 4


class TensorBoard(Tracker):
    """Metrics of rounds as scalars for TensorBoard: ``tensorboard --logdir DIRECTORY``.

    Each round is in the file when the call returns. A resumed program writes another file in the same directory; it
    tells TensorBoard from which round on earlier files no longer count.

    Args:
        directory: of the event files of one program; made if it does not exist.

    Raises:
        UsageError: tensorboard is not installed.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._protocol = _protocol()
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO | None = None
        self._records: Any = None
        self._last: int | None = None

    def __call__(self, round: int, metrics: Mapping[str, float]) -> None:
        """See :meth:`Tracker.__call__`.

        Raises:
            OSError: the file cannot be written.
        """
        from tensorboard.summary.writer.record_writer import RecordWriter

        protocol = self._protocol
        events: list[Any] = []
        if self._file is None:
            # The time comes first: TensorBoard reads a directory's files in the order of their names.
            name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}.{secrets.token_hex(4)}"
            self._file = (self._directory / name).open("xb")
            self._records = RecordWriter(self._file)
            events.append(protocol.Event(file_version=_VERSION))
        if self._last is None or round < self._last:
            start = protocol.SessionLog(status=protocol.SessionLog.START)
            events.append(protocol.Event(step=round, session_log=start))
        self._last = round
        summary = protocol.Event(step=round)
        for name, value in metrics.items():
            summary.summary.value.add(tag=name, simple_value=value)
        for event in (*events, summary):
            event.wall_time = time.time()
            self._records.write(event.SerializeToString())
        self._file.flush()

    def close(self, error: BaseException | None = None) -> None:
        """See :meth:`Tracker.close`."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_scalars(directory: Path) -> dict[str, dict[int, float]]:
    """Return the scalars of a directory's event files and of those below it: by metric, then by round.

    A metric of a directory below has its path before the name: ``eval/loss``.

    Raises:
        UsageError: the directory has no event file, or tensorboard is not installed.
    """
    files = sorted(directory.rglob(_PATTERN))
    if not files:
        raise UsageError(f"{directory} has no event files", hint="give a CSV file, or a directory of event files")
    of_each: dict[str, dict[str, dict[int, float]]] = {}
    for file in files:
        below = file.parent.relative_to(directory).as_posix()
        _add_file(file, of_each.setdefault("" if below == "." else f"{below}/", {}))
    return {prefix + name: points for prefix, curves in of_each.items() for name, points in curves.items()}


def _add_file(file: Path, curves: dict[str, dict[int, float]]) -> None:
    """Add a file's scalars to those of its directory's earlier files."""
    protocol = _protocol()
    for record in _records(file):
        event = protocol.Event.FromString(record)
        if event.session_log.status == protocol.SessionLog.START:  # the program was resumed
            for points in curves.values():
                for round in [round for round in points if round >= event.step]:
                    del points[round]
        for value in event.summary.value:
            number = _scalar(value)
            if number is not None:
                curves.setdefault(value.tag, {})[event.step] = number


def _scalar(value: Any) -> float | None:  # noqa: ANN401 -- of a generated class
    """Return the number of a summary; None if it is another kind of summary, such as a histogram."""
    if value.WhichOneof("value") == "simple_value":
        return float(value.simple_value)
    if value.WhichOneof("value") != "tensor" or value.metadata.plugin_data.plugin_name not in {"", "scalars"}:
        return None
    from tensorboard.util import tensor_util

    array: Any = cast("Any", tensor_util).make_ndarray(value.tensor)
    return float(array) if array.size == 1 and array.dtype.kind in "biuf" else None


def _records(file: Path) -> Iterator[bytes]:
    """Yield the records of a file up to one that was not written to its end."""
    content = file.read_bytes()
    at = 0
    while at + _LENGTH.size <= len(content):
        length, _ = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        if at + length + _CHECKSUM > len(content):
            return
        yield content[at : at + length]
        at += length + _CHECKSUM


def _protocol() -> Any:  # noqa: ANN401 -- generated classes
    try:
        from tensorboard.compat.proto import event_pb2
    except ModuleNotFoundError:
        raise UsageError("tensorboard is not installed", hint="pip install tensorboard") from None
    return cast("Any", event_pb2)
