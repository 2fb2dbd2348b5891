"""``python -m tests.fuzz.guided TARGET [libFuzzer's options]``: the same targets, with coverage-guided inputs.

Needs Atheris, which `make guided` installs in addition to the locked environment. New inputs are kept in .cache/fuzz.
Runs until it is stopped, unless an option limits it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fedbroker", "fedbroker_worker"]):
    from tests.fuzz.running import CORPUS
    from tests.fuzz.targets import TARGETS

FOUND = Path(__file__).parents[2] / ".cache" / "fuzz"


def main() -> None:
    """Fuzz one target."""
    name, *options = sys.argv[1:]
    if name not in TARGETS:
        sys.exit(f"no target is called {name}: choose from {', '.join(TARGETS)}")
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    where = f"-artifact_prefix={CORPUS / name}/failed-"  # where the tests find it
    atheris.Setup([sys.argv[0], where, *options, str(found), str(CORPUS / name)], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
