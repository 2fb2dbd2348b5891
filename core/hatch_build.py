"""Adds the shared modules of the package ``fedbroker`` to the wheel of ``fedbroker-core``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SharedModules(BuildHookInterface[Any]):
    """Adds the files and directories that ``modules`` names; an editable installation finds them in their place."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them, if a wheel with copies is built."""
        if version == "editable":
            return
        package = Path(self.root).parent / "fedbroker"
        for name in self.config["modules"]:
            build_data["force_include"][str(package / name)] = f"fedbroker/{name}"
