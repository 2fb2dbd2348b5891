"""What a shell script needs that a test starts in the C++ runtime's place, and that the runtime itself does not."""

from __future__ import annotations

from pathlib import Path

from fedbroker.runtime.process import installed_binary

SHELL = (*map(Path, ("/bin", "/dev/zero", "/lib", "/lib64", "/usr")), installed_binary())
