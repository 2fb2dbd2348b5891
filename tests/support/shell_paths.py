"""Paths that a shell script needs if a test starts it in place of the C++ runtime, which does not need them."""

from __future__ import annotations

from pathlib import Path

from fedbroker.runtime.process import installed_binary

SHELL_PATHS = (*map(Path, ("/bin", "/dev/zero", "/lib", "/lib64", "/usr")), installed_binary())
