"""Rendering of our kustomizations, limited to the features that they use, so that checks need no client.

``python -m tests.support.kustomize DIRECTORY`` writes each of our kustomizations, rendered, into a file there. If
``kubectl`` is installed, a test checks that both agree.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["BROKER", "EXAMPLES", "KUBERNETES", "OVERLAYS", "render", "title"]

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "config" / "kubernetes"
BROKER = KUBERNETES / "broker"
OVERLAYS = sorted(path.parent for path in KUBERNETES.glob("*/overlays/*/kustomization.yaml"))
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/kubernetes/*/kustomization.yaml"))

Document = dict[str, Any]

# The key that identifies an element of a list which a patch changes rather than replaces.
_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}
_KNOWN = {"apiVersion", "kind", "resources", "namespace", "patches", "configMapGenerator"}
_CLUSTER_WIDE = {"Namespace"}


def title(directory: Path) -> str:
    """Return a unique title of a kustomization: its owner and its own name."""
    return f"{directory.parent.parent.name}-{directory.name}"


def render(directory: Path) -> list[Document]:
    """Return the documents of a kustomization, in the order of its files."""
    (said,) = _documents(directory / "kustomization.yaml")
    assert said.keys() <= _KNOWN, f"{directory}: {said.keys() - _KNOWN} is not rendered here"
    found = [one for name in said.get("resources", ()) for one in _resource(directory / name)]
    found += [_config_map(directory, one) for one in said.get("configMapGenerator", ())]
    for patch in said.get("patches", ()):
        for change in _documents(directory / patch["path"]):
            (target,) = [one for one in found if _identity(one) == _identity(change)]
            if change.get("$patch") == "delete":
                found.remove(target)
            else:
                _merge(target, change)
    for one in found:
        if "namespace" in said and one["kind"] not in _CLUSTER_WIDE:
            one["metadata"]["namespace"] = said["namespace"]
    return found


def _resource(path: Path) -> Iterator[Document]:
    yield from render(path) if path.is_dir() else _documents(path)


def _documents(path: Path) -> list[Document]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def _identity(document: Document) -> tuple[str, ...]:
    return document["apiVersion"], document["kind"], document["metadata"]["name"]


def _config_map(directory: Path, said: Document) -> Document:
    assert said["options"] == {"disableNameSuffixHash": True}
    data = {name: (directory / name).read_text() for name in said["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": said["name"]}, "data": data}


def _merge(target: Document, change: Document) -> None:
    """Apply a strategic merge: tables are merged, null removes, lists are replaced except lists of named elements."""
    for key, value in change.items():
        old = target.get(key)
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value)
        elif isinstance(value, list) and isinstance(old, list) and key in _KEYS:
            _merge_list(old, value, _KEYS[key])
        else:
            target[key] = copy.deepcopy(value)


def _merge_list(old: list[Document], new: list[Document], key: str) -> None:
    """Merge a list of named elements; those of the patch come first, as in kustomize."""
    for one in reversed(new):
        same = [other for other in old if other[key] == one[key]]
        if one.get("$patch") == "delete":
            old.remove(*same)
        elif same:
            old.remove(same[0])
            _merge(same[0], one)
            old.insert(0, same[0])
        else:
            old.insert(0, copy.deepcopy(one))


def main() -> None:
    """Write the rendered kustomizations into the directory that the first argument names."""
    for overlay in (*OVERLAYS, *EXAMPLES):
        (Path(sys.argv[1]) / f"{title(overlay)}.yaml").write_text(yaml.safe_dump_all(render(overlay)))


if __name__ == "__main__":
    main()
