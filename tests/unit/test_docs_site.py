"""The documentation site: built without warnings, usable offline, with every public name in its reference."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]
MODULES = ("__init__", "errors", "program", "testing")


def public(module: Path) -> list[str]:
    """Return a module's ``__all__``, read from its source, since some imports need TensorFlow."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


def build(directory: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=PROCESS_SECONDS)


def warnings(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("INFO"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    done = build(ROOT, directory)
    assert (done.returncode, warnings(done)) == (0, "")
    return directory


def test_orphaned_page_and_broken_link_are_found(tmp_path):
    (checks,) = re.findall(r"^validation:\n(?:  .*\n)+", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(f"site_name: some\nnav: [index.md]\n{checks}")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](#here)\n")
    (tmp_path / "docs" / "lost.md").write_text("lost\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "lost.md" in warnings(done)
    assert "#here" in done.stdout + done.stderr
    assert "2 warnings" in warnings(done)


def test_every_public_name_is_in_the_reference_with_its_docstring(site):
    page = (site / "api.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'<h\d id="([\w.]+)"', page))
    for module in MODULES:
        missing = set(public(ROOT / "fedbroker" / f"{module}.py")) - {name.rpartition(".")[2] for name in shown}
        assert not missing, module
    # Functions show their arguments, each with a description.
    assert page.count("quorum_fraction") >= 2
    assert ":func:" not in page


def test_site_has_no_external_resources(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", text)
        elsewhere = [tag for tag in tags if re.search(r'(?:src|href)="?(?:https?:)?//', tag)]
        assert not elsewhere, page.name
        assert "mermaid" not in text, f"{page.name}: what draws these comes from elsewhere"
    for diagram in site.glob("assets/*.svg"):
        text = diagram.read_text(encoding="utf-8")
        assert re.findall(r"[\w-]*:?//[^\s\"]+", text) == ["http://www.w3.org/2000/svg"], diagram.name


def test_links_out_of_docs_lead_to_copies(site):
    assert 'href="files/config/silo.example.toml"' in (site / "silo.html").read_text(encoding="utf-8")
    copy = site / "files" / "config" / "silo.example.toml"
    assert copy.read_bytes() == (ROOT / "config" / "silo.example.toml").read_bytes()


def test_search_works_offline(site):
    assert (site / "search" / "search_index.js").read_text(encoding="utf-8").startswith("var __index = {")
    assert '<script src="assets/iframe-worker.js"></script>' in (site / "index.html").read_text(encoding="utf-8")
    assert "window.Worker" in (site / "assets" / "iframe-worker.js").read_text(encoding="utf-8")
