"""A child of multiprocessing ends by ``os._exit``, and still says goodbye."""

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
    left = [name for _, _, names in os.walk(run_dir) for name in names]
    assert left == ["0.seat"], "a seat is a file that is locked while it is taken"
