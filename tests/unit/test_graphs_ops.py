"""The list of TensorFlow's ops agrees with the registry of the installed TensorFlow."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from fedbroker.graphs import ops_of_graph
from fedbroker.graphs.graphdef import FAMILIES, known_ops, why_refused

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import ops

sys.path.pop(0)

# Attributes of these names are, as a rule, a file, an address or a program.
TELLING = re.compile(
    r"file(name|names|_pattern|_name)?|.*_file|path|.*_path(_prefix)?|.*dir(s|ectory)?|.*address|.*urls?|server"
    r"|memory_region_name|descriptor_source|token|(mlir_|host_mlir_)?module|graph_def|target|shard_dir|.*checkpoint.*"
)
HARMLESS = {
    "ShardedFilename": "makes text",
    "ShardedFilespec": "makes text",
}


def definitions():
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    buffer = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    return op_def_pb2.OpList.FromString(buffer).op


def test_list_is_that_of_the_installed_tensorflow():
    assert "".join(ops.lines(ops.registered())) == ops.LIST.read_text(), "run scripts/ops.py, and read the difference"


def test_every_op_is_known():
    assert set(known_ops()) == set(ops.registered())


def test_every_family_is_explained_and_not_empty():
    assert set(ops.FAMILIES) == set(FAMILIES) == {family for family in known_ops().values() if family}


def test_every_exception_matches_a_pattern():
    patterns = [pattern for patterns in ops.FAMILIES.values() for pattern in patterns]
    for op in ops.EXCEPTIONS:
        assert known_ops()[op] == ""
        assert any(re.fullmatch(pattern, op) for pattern in patterns), op


def test_every_op_with_a_file_or_an_address_is_refused():
    found = 0
    for op in definitions():
        names = [one.name for one in (*op.input_arg, *op.attr)]
        telling = [name for name in names if TELLING.fullmatch(name)]
        if telling and op.name not in HARMLESS:
            found += 1
            assert known_ops()[op.name], f"{op.name} takes {telling}"
    assert found > 60


EXAMPLES = {
    "files": """
        ReadFile WriteFile MatchingFiles MatchingFilesDataset WholeFileReaderV2 TextLineDataset TFRecordDatasetV2
        FixedLengthRecordDatasetV2 SqlDataset ExperimentalSqlDataset ExperimentalLMDBDataset LMDBReader CSVDatasetV2
        SnapshotDatasetV2 SaveDatasetV2 LoadDataset CacheDatasetV2 RecordInput SaveV2 RestoreV2 MergeV2Checkpoints
        ImmutableConst Skipgram InitializeTableFromTextFileV2 FixedUnigramCandidateSampler DecodeProtoV2
        CreateSummaryFileWriter WriteScalarSummary LoadAndRemapMatrix
    """,
    "network": """
        _Send _Recv RpcCall CollectiveReduceV2 DataServiceDatasetV4 RemoteCall TPUExecute DebugIdentityV3 NcclAllReduce
        RegisterDatasetV2
    """,
    "python": "PyFunc PyFuncStateless EagerPyFunc",
    "code": "DatasetFromGraph DeserializeIterator XlaCallModule SymbolicGradient",
    "output": "Print PrintV2",
    "shared": "Stage MapStage OrderedMapUnstage GetSessionHandleV2",
    "in_place": "InplaceUpdate InplaceAdd InplaceSub _ParallelConcatUpdate",
    "processes": "Abort",
    "": """
        MatMul ReadVariableOp Snapshot Assert TensorSliceDataset ReduceDataset BatchDatasetV2 MapDefun MapDataset
        _FusedMatMul DecodeCSV TensorSummaryV2
    """,
}


@pytest.mark.parametrize("family", EXAMPLES)
def test_ops_belong_to_families(family):
    assert {known_ops()[op] for op in EXAMPLES[family].split()} == {family}


@pytest.mark.parametrize("op", ["NoSuchOp", "", "readfile", "ReadFile ", "MatMul\x00", "Custom>Op"])
def test_unknown_op_is_refused(op):
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="n", op=op)
    assert "unknown" in why_refused(op)
    assert op in ops_of_graph(graph.SerializeToString())
