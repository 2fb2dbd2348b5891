"""TensorFlow's importer and runtime in a separate process: malformed graphs sometimes crash them.

A process that has imported TensorFlow and run nothing passes each request on to a child, and forks another child after
a crash. Each request therefore has one answer, even if a child dies. A request is a graph, and whether to run it. The
answer names the graph's ops, or is ``refused`` if TensorFlow does not import it, or ``crash``, also on a time-out.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import struct
import subprocess
import sys
from io import FileIO
from multiprocessing.util import Finalize
from typing import Any

__all__ = ["CRASH", "REFUSED", "imported"]

REFUSED, CRASH = b"refused", b"crash"
MOST_MILLISECONDS = 2000
MOST_SECONDS = 20
_LENGTH = struct.Struct("<I")


def imported(graph: bytes, *, run: bool) -> bytes:
    """Import a graph, and optionally run its output ``out``; return its ops, or ``REFUSED`` or ``CRASH``."""
    process = _process()
    _write(process.stdin, (b"r" if run else b"i") + graph)
    answer = _read(process.stdout)
    assert answer is not None, "TensorFlow's process is gone"
    return answer


@functools.cache
def _process() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    # At the end of any process, including a pool's; it ends with its input.
    Finalize(None, process.communicate, exitpriority=10)
    return process


def _serve(source: Any, sink: Any) -> None:
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    # The same setting as in TFF's C++ runtime.
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.graph_options.optimizer_options.opt_level = tf.compat.v1.OptimizerOptions.L0
    options = tf.compat.v1.RunOptions(timeout_in_ms=MOST_MILLISECONDS)
    while (data := _read(source)) is not None:
        signal.alarm(MOST_SECONDS)
        graph = tf.Graph()
        try:
            with graph.as_default():
                tf.graph_util.import_graph_def(tf.compat.v1.GraphDef.FromString(data[1:]), name="")
            whole = graph.as_graph_def()
        except Exception:
            signal.alarm(0)
            _write(sink, REFUSED)
            continue
        if data[:1] == b"r":
            # Effects that precede an error show in the directory.
            with contextlib.suppress(Exception), tf.compat.v1.Session(graph=graph, config=config) as session:
                session.run("out:0", options=options)
        signal.alarm(0)
        functions = {function.signature.name for function in whole.library.function}
        nodes = [*whole.node, *(node for function in whole.library.function for node in function.node_def)]
        _write(sink, "\n".join(sorted({node.op for node in nodes} - functions)).encode())


def _main() -> None:
    import tensorflow  # noqa: F401 - so that children inherit the import

    source, sink = FileIO(0, "rb", closefd=False), FileIO(1, "wb", closefd=False)
    child = None
    while (request := _read(source)) is not None:
        child = child or _Child()
        answer = child.answer(request)
        if answer is None:
            child.close()
            child = None
        _write(sink, CRASH if answer is None else answer)
    if child is not None:
        child.close()


class _Child:
    """A fork that answers requests until it crashes."""

    def __init__(self) -> None:
        (requests, to), (of, answers) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(to)
            os.close(of)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the signal ends it
            _serve(FileIO(requests, "rb"), FileIO(answers, "wb"))
            os._exit(0)
        os.close(requests)
        os.close(answers)
        self._to, self._of = FileIO(to, "wb"), FileIO(of, "rb")

    def answer(self, request: bytes) -> bytes | None:
        """Return the child's answer, or None after a crash."""
        try:
            _write(self._to, request)
            return _read(self._of)
        except BrokenPipeError:
            return None

    def close(self) -> None:
        """End the child with its input, and wait for its end."""
        self._to.close()
        self._of.close()
        os.waitpid(self._pid, 0)


def _write(sink: Any, data: bytes) -> None:
    left = memoryview(_LENGTH.pack(len(data)) + data)
    while left:
        left = left[sink.write(left) :]


def _read(source: Any) -> bytes | None:
    head = _exactly(source, _LENGTH.size)
    return None if head is None else _exactly(source, _LENGTH.unpack(head)[0])


def _exactly(source: Any, size: int) -> bytes | None:
    found = b""
    while len(found) < size:
        more = source.read(size - len(found))
        if not more:
            return None
        found += more
    return found


if __name__ == "__main__":
    _main()
