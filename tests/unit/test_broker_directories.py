"""Directories of private nodes: leftovers of killed nodes are removed, those in use are kept."""

from __future__ import annotations

import fcntl
import os
import time

import pytest

from fedbroker.broker import directories
from fedbroker.broker.directories import PREFIX, link_to, make_temporary, remove_leftovers, usable


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(directories, "_PLACES", ())
    return tmp_path


def aged(path):
    os.utime(path, (time.time() - 3600,) * 2)
    return path


def left_behind(name, place):
    directory = place / f"{PREFIX}{name}"
    directory.mkdir()
    (directory / "lock").touch()
    (directory / "mnesia").mkdir()
    return directory


def test_directories_of_killed_nodes_are_removed(place):
    abandoned = aged(left_behind("abandoned", place))
    never_locked = place / f"{PREFIX}never-locked"
    never_locked.mkdir()
    young, used, other = left_behind("young", place), left_behind("used", place), place / "other"
    other.mkdir()
    with (used / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        aged(used), aged(other), aged(never_locked)
        remove_leftovers()
    assert not abandoned.exists()
    assert not never_locked.exists()
    assert young.exists()
    assert used.exists()
    assert other.exists()


def test_links_are_removed_with_their_node_and_the_data_are_kept(place):
    data = place / "a b"
    data.mkdir()
    (data / "lock").touch()
    link = link_to(data)
    assert usable(link)
    assert link.resolve() == data
    with (data / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        aged(link.parent)
        remove_leftovers()
        assert link.exists()
    remove_leftovers()
    assert not link.parent.exists()
    assert (data / "lock").exists()


def test_temporary_directory_avoids_unusable_places(tmp_path, monkeypatch):
    spaced = tmp_path / "a b"
    spaced.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spaced))
    monkeypatch.setattr(directories, "_PLACES", (str(tmp_path),))
    assert make_temporary().parent == tmp_path
