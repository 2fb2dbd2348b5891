"""``python -m tests.fuzz.guided TARGET [libFuzzer's options]``: the same targets, with inputs led by what they reach.

Needs Atheris, which `make guided` puts beside the locked environment. What is found on the way is kept in .cache/fuzz.
Never ends by itself where no option says so.
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
        sys.exit(f"there is no target {name}: there are {', '.join(TARGETS)}")
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    where = f"-artifact_prefix={CORPUS / name}/failed-"  # where the tests find it
    atheris.Setup([sys.argv[0], where, *options, str(found), str(CORPUS / name)], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
