"""Notebooks with a real kernel: what they show and keep, failing and interrupted cells, and cells that run again."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import nbformat
import pytest

from fedbroker.testing import local_cohort
from fedbroker.transport.topology import coordinator_prefix
from tests.support.notebook import open_notebook, size_of
from tests.support.pages import ROOT, blocks
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EXAMPLE = ROOT / "examples" / "airports" / "delays.ipynb"
COHORT = "notebooks"
ENDLESS = {
    "source": "duckdb",
    "query": "select sum(a.i * b.i)::float as x from range(100000000) a(i), range(100000000) b(i)",
}
ROWS = {"source": "duckdb", "query": "select 3.0::float as x"}

START = """\
import fedbroker
import numpy as np
import tensorflow_federated as tff
context = fedbroker.set_sync_execution_context({url!r}, cohort={cohort!r}, min_silos=3)
"""
PROGRAM = """\
@tff.tensorflow.computation(np.float32)
def half(x):
    return x / 2

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def next_fn(x):
    return tff.federated_mean(tff.federated_map(half, x))
"""
ROUNDS = """\
with context.run("<b>digits</b>", rounds=30) as run:
    for number in run:
        mean = next_fn(fedbroker.data("rows"))
        run.report({"loss": mean / number})
mean
"""
LOOP = """\
for _ in range(30):
    mean = next_fn([1.0, 2.0, 3.0])
"""


@pytest.fixture(scope="module")
def silos(broker):
    sources = {name: {"rows": ROWS, "endless": ENDLESS} for name in ("ewr", "jfk", "lga")}
    with local_cohort(sources, cohort=COHORT, broker=broker.url) as silos:
        yield silos


@pytest.fixture(scope="module")
def notebook(silos, tmp_path_factory):
    """Open a notebook whose first cells have run."""
    root = str(ROOT)
    with open_notebook(tmp_path_factory.mktemp("notebook"), PYTHONPATH=root) as notebook:
        assert notebook.run(START.format(url=silos.url, cohort=COHORT)) == []  # TensorFlow's notes are off
        assert notebook.run(PROGRAM) == []
        yield notebook


def text_of(output) -> str:
    """Return an error's text without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output["traceback"]))


def test_thirty_rounds_leave_nothing_but_the_result(notebook):
    before = len(notebook.displays)
    display, result = notebook.run(ROUNDS)
    assert result["data"]["text/plain"] == "1.5"
    assert display["data"] == {"text/plain": "", "text/html": ""}
    assert size_of([display, result]) < 400
    kinds = [kind for kind, _ in notebook.displays[before:]]
    assert kinds[0] == "display_data"
    assert set(kinds[1:]) == {"update_display_data"}
    pages = [data["text/html"] for _, data in notebook.displays[before:-1]]
    assert any("&lt;b&gt;digits&lt;/b&gt;: round" in page and "loss" in page for page in pages)
    assert not any("<b>digits" in page for page in pages)


def test_display_has_a_bar_for_each_silo(notebook):
    before = len(notebook.displays)
    (display,) = notebook.run(LOOP)
    assert display["data"]["text/html"] == ""
    pages = [data["text/html"] for _, data in notebook.displays[before:-1]]
    assert any(all(f'aria-label="{silo}: answered' in page for silo in ("ewr", "jfk", "lga")) for page in pages)
    assert all(len(page) < 10_000 for page in pages)
    assert not any(re.search("https?://|<script|<link|<img|<style|url\\(", page) for page in pages)


def test_error_is_the_line_of_the_cell(notebook):
    outputs = notebook.run('rate = 2\nnext_fn(fedbroker.data("nothing"))\nrate')
    assert [output["output_type"] for output in outputs] == ["error"]
    text = text_of(outputs[0])
    assert '----> 2 next_fn(fedbroker.data("nothing"))' in text
    assert re.findall(r"^(?:Cell|File) .*", text, re.MULTILINE) == [re.search(r"Cell In\[\d+\], line 2", text)[0]]
    assert text.splitlines()[-1].startswith("DataError: [FB")
    assert size_of(outputs) < 3_000


def test_interrupted_cell_stops_and_the_next_one_works(notebook, silos):
    stopper = threading.Thread(target=interrupt_when_busy, args=(notebook, silos))
    stopper.start()
    outputs = notebook.run('next_fn(fedbroker.data("endless"))')
    stopper.join()
    errors = [output for output in outputs if output["output_type"] == "error"]
    assert [error["ename"] for error in errors] == ["KeyboardInterrupt"]
    assert text_of(errors[0]).count("asyncio") == 0
    assert {output["output_type"] for output in outputs} <= {"error", "display_data"}
    assert {output["data"]["text/html"] for output in outputs if output["output_type"] == "display_data"} <= {""}
    (result,) = notebook.run("print(next_fn([2.0, 4.0, 6.0]))")[-1:]
    assert result["text"] == "2.0\n"


def interrupt_when_busy(notebook, silos):
    log = Path(silos.silos["ewr"].log)
    seen = log.read_text().count("work_received")
    wait_until(lambda: log.read_text().count("work_received") > seen, 60, "a silo that computes")
    notebook.interrupt()


def test_cells_run_again(notebook, silos):
    assert notebook.run("first = context") == []
    assert notebook.run(START.format(url=silos.url, cohort=COHORT)) == []
    assert notebook.run(PROGRAM) == []
    outputs = notebook.run("print(next_fn([2.0, 4.0, 6.0]), first)")
    assert outputs[-1]["text"] == f"2.0 SyncBrokerContext(cohort='{COHORT}', min_silos=3, closed)\n"


def test_async_cell_has_a_display_too(notebook, silos):
    notebook.run(f"other = fedbroker.create_async_execution_context({silos.url!r}, cohort={COHORT!r}, min_silos=3)")
    notebook.run(
        "from tests.support.local_tff import pack_arguments\nargument = pack_arguments(next_fn, ([1.0, 2.0, 3.0],))"
    )
    outputs = notebook.run("for _ in range(30):\n    mean = await other.invoke(next_fn, argument)\nmean")
    assert outputs[-1]["data"]["text/plain"] == "1.0"
    assert [output["data"]["text/html"] for output in outputs[:-1]] == [""]
    assert notebook.run("other.close()") == []


def test_all_outputs_of_the_notebook_are_small(notebook):
    assert size_of(notebook.outputs) < 20_000


def descendants(pid: int) -> set[int]:
    """Return a process's children, theirs, and so on."""
    found = {int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()}
    return found.union(*map(descendants, found))


def queues(broker) -> set[str]:
    """Return the queues of the cohort's coordinators: the broker has other tests' as well."""
    prefix = coordinator_prefix(COHORT)
    return {name for name in broker.ctl("list_queues", "name").split() if f".{prefix}-" in name}


def test_closed_context_leaves_no_process_and_no_queue(notebook, broker):
    """After failed and interrupted calls, too."""
    children = descendants(notebook.pid)
    names = queues(broker)
    assert children
    assert notebook.run("context.close()") == []
    assert descendants(notebook.pid) < children
    assert any(".callback." in name for name in names)
    wait_until(lambda: not queues(broker), 10, "the context's queues are still there")


def test_example_is_the_page_and_leaves_no_process(tmp_path):
    example = nbformat.read(EXAMPLE, as_version=4)
    cells = [cell.source + "\n" for cell in example.cells if cell.cell_type == "code"]
    assert cells == blocks("docs/notebooks.md", "python")
    assert not any(cell.get("outputs") for cell in example.cells)
    with open_notebook(tmp_path) as notebook:
        first, plan, rounds, report, last = map(notebook.run, cells)
        assert first == []
        assert "2 round trips" not in plan[0]["data"]["text/html"]
        assert "1 round trip" in plan[0]["data"]["text/html"]
        assert rounds[0]["data"]["text/plain"] == ""
        assert float(rounds[1]["data"]["text/plain"]) == pytest.approx((47 / 3 + 15 + 67 / 4) / 3, rel=1e-5)
        assert len(rounds) == 2
        assert report[0]["data"]["text/html"].count('role="img"') == 3 + 4  # silos, and the legend
        assert "delays, round 30" in report[0]["data"]["text/html"]
        assert last == []
        assert notebook.run(cells[0]) == []  # a closed simulation can be started again
        assert size_of(notebook.outputs) < 20_000
        children = descendants(notebook.pid)
        assert len(children) > 3
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 30, "the end of all processes")
