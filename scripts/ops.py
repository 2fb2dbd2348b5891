"""Writes the list of TensorFlow's ops by which graphs are checked: all registered ops, refused ones with their family.

A family is a pattern of names; harmless ops that match a pattern are listed as exceptions. Run it with a new version of
TensorFlow, and read the difference: an op that fits no family becomes allowed.

    python scripts/ops.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

LIST: Final = Path(__file__).parents[1] / "fedbroker" / "graphs" / "ops.txt"

ALLOWED: Final = "-"

FAMILIES: Final = {
    "files": (
        r"Read.*",
        r"Write.*",
        r".*Save(V\d|Slices|Dataset.*)?",
        r".*Restore.*",
        r".*Checkpoint.*",
        r".*File.*",
        r"Load.*",
        r".*Record.*",
        r".*Reader.*",
        r".*(TextLine|CSV|Sql|LMDB|Cache|Snapshot.*)Dataset.*",
        r"SnapshotDataset.*|SnapshotNested.*",
        r".*Summary.*Writer|.*SummaryWriter.*|CreateSummary.*|ImportEvent",
        r"ImmutableConst",  # maps a file into memory
        r"GenerateVocabRemapping|FixedUnigramCandidateSampler|Skipgram",  # each reads a vocabulary
        r"(En|De)codeProto.*",  # their descriptors may be in a file
    ),
    "network": (
        r"Rpc.*|.*RpcFuture.*",
        r"DataService.*|RegisterDataset.*",
        r"_?(Xla|Host)?(Send|Recv)([A-Z].*)?|_Xla(Send|Recv).*",
        r"_?Nccl.*",
        r"Collective.*",
        r"RemoteCall",
        r"Distributed.*|_?.*Distributed(TPU|Host).*",
        r"DTensor.*|CopyToMesh.*|Relayout.*",
        r"AllToAll|CrossReplicaSum|XlaAllReduce|XlaReduceScatter",
        r"WorkerHeartbeat",
        r".*(TPU|Tpu).*",
        r"(In|Out)feed.*|Prelinearize.*",
        r"Debug.*",  # their results go to a URL
    ),
    "output": (r"Print.*", r"Fact"),
    "processes": (r"Abort",),
    "python": (r".*Py(thon)?(Func|Call).*",),
    # A graph, a program or its state as a value, which cannot be checked in advance.
    "code": (
        r"DatasetFromGraph",
        r"(Des|S)erializeIterator",
        r"SymbolicGradient",
        r"XlaCallModule|XlaCustomCall.*|XlaLaunch.*|_?XlaHostCompute.*|_XlaRun|_XlaCompile.*|_XlaMerge",
        r".*(Mlir|MLIR).*|TfLite.*",
    ),
    # TensorFlow shares tensors' memory: what one of these writes, everything sees that was made of the same constant.
    "in_place": (r"Inplace.*", r"_ParallelConcatUpdate"),
    # State that one graph leaves in the process for another.
    "shared": (
        r"(Stage|StageClear|StagePeek|StageSize|Unstage)",
        r"(Ordered)?Map(Stage|Unstage.*|Peek|Size|Clear|IncompleteSize)",
        r".*Session(Handle.*|Tensor)",
    ),
}
"""Why ops are refused, and which: each pattern matches whole names."""

EXCEPTIONS: Final = frozenset(
    {
        *("ReadVariableOp", "ReadVariableXlaSplitND"),  # a variable of the graph's own
        *("ShardedFilename", "ShardedFilespec"),  # text, no file
    }
)
"""Ops that a pattern takes in and that do no harm."""


def family_of(op: str) -> str:
    """Why an op is refused, or ``-``."""
    if op in EXCEPTIONS:
        return ALLOWED
    fits = (name for name, patterns in FAMILIES.items() if any(re.fullmatch(pattern, op) for pattern in patterns))
    return next(fits, ALLOWED)


def lines(ops: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the list, in order."""
    yield from (f"{op} {family_of(op)}\n" for op in sorted(ops))


def registered() -> list[str]:
    """Every op of the installed TensorFlow, those included that only its runtime uses."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    every = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return [op.name for op in every.op]


if __name__ == "__main__":
    LIST.write_text("".join(lines(registered())), encoding="ascii")
    sys.stdout.write(f"{LIST.name} is written\n")
