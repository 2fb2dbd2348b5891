"""``sbom.py DIRECTORY``: what a coordinator and a silo are made of, as CycloneDX 1.5, from the locked requirements.

The same locks give the same bytes: it holds no time, and its number is derived from its content. The hashes of a
component are those of its distributions, of which an installation takes one.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A silo takes its C++ runtime out of the wheel of TFF that runtime.txt locks.
BILLS = {
    "coordinator": ("pyproject.toml", ("coordinator",)),
    "silo": ("workers/pyproject.toml", ("silo", "runtime")),
    "silo-3.12": ("workers/pyproject.toml", ("silo-3.12", "runtime")),
}
_PINNED = re.compile(r"^([\w.-]+)==([^\s\\;]+)(?: ; [^\\\n]*)?((?: *\\\n +--hash=sha256:[0-9a-f]{64})+)", re.MULTILINE)
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


def main(directory: Path) -> None:
    """Write one file for each role, and for each lock of it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (project, locks) in BILLS.items():
        path = directory / f"sbom-{name}.cdx.json"
        text = "".join((ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8") for lock in locks)
        path.write_text(bill(text, ROOT / project), encoding="utf-8")
        print(path)


def bill(locked: str, project: Path) -> str:
    """Return the bill of materials of a project with locked packages."""
    ours = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    components = [_component(*found) for found in _PINNED.findall(locked)]
    content = {
        "metadata": {"component": {"type": "application", "name": ours["name"], "version": ours["version"]}},
        "components": sorted(components, key=lambda component: component["name"]),
    }
    number = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{number}", "version": 1}
    return json.dumps(head | content, indent=2) + "\n"


def _component(name: str, version: str, hashes: str) -> dict[str, object]:
    name = re.sub(r"[-_.]+", "-", name).lower()
    purl = f"pkg:pypi/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": one} for one in _HASH.findall(hashes)],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
