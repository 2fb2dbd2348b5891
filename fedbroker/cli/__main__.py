"""``python -m fedbroker.cli``: the same as the command ``fedbroker``."""

from __future__ import annotations

from fedbroker.cli import main

if __name__ == "__main__":
    main()
