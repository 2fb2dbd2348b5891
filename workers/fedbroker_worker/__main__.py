"""``python -m fedbroker_worker``: the same as the command ``fedbroker-silo``."""

from __future__ import annotations

from fedbroker_worker.cli.app import main

if __name__ == "__main__":
    main()
