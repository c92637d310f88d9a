"""A child of multiprocessing ends by ``os._exit``, and still leaves."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from colocache import Cache


def _use(directory: str) -> None:
    Cache("test", directory=directory).set("k", 1)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_leaves_nothing_of_itself(run_dir: str, method: str) -> None:
    child = multiprocessing.get_context(method).Process(target=_use, args=(run_dir,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert os.listdir(run_dir) == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_what_a_child_of_multiprocessing_stores_stays_with_its_parent(run_dir: str, method: str) -> None:
    with Cache("test", directory=run_dir) as cache:
        cache.start()
        child = multiprocessing.get_context(method).Process(target=_use, args=(run_dir,))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert cache.get("k") == 1
        assert len(cache.members()) == 1
