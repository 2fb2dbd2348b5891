"""The site: built without a warning, whole without a network, with every public name in its reference."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = ("__init__", "errors", "program", "testing")


def public(module: Path) -> list[str]:
    """Its ``__all__``; read, since importing some of them takes TensorFlow."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout + done.stderr
    return directory


def test_every_public_name_is_in_the_reference_with_what_is_said_of_it(site):
    page = (site / "api.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'<h\d id="([\w.]+)"', page))
    for module in MODULES:
        missing = set(public(ROOT / "fedbroker" / f"{module}.py")) - {name.rpartition(".")[2] for name in shown}
        assert not missing, module
    # Decorated functions show their real arguments, with words for each.
    assert page.count("join_timeout") >= 2
    assert ":func:" not in page


def test_nothing_comes_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", text)
        elsewhere = [tag for tag in tags if re.search(r'(?:src|href)="?(?:https?:)?//', tag)]
        assert not elsewhere, page.name
        assert "mermaid" not in text, f"{page.name}: what draws these comes from elsewhere"


def test_links_out_of_docs_lead_to_copies(site):
    assert 'href="files/config/silo.example.toml"' in (site / "silo.html").read_text(encoding="utf-8")
    copy = site / "files" / "config" / "silo.example.toml"
    assert copy.read_bytes() == (ROOT / "config" / "silo.example.toml").read_bytes()
