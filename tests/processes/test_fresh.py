"""A process that has just started: its very first call does all that later ones do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from colocache import Cache
from tests import ROOT

FRESH = """\
import json, os, colocache
cache = colocache.Cache("fresh")
first = {first}
print(json.dumps([first, *[{first} for _ in range(3)]]), flush=True)
os._exit(0)
"""


def _fresh(first: str) -> list[Any]:
    """What the first calls of a new process return, each the same expression."""
    done = subprocess.run(
        [sys.executable, "-c", FRESH.format(first=first)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    results: list[Any] = json.loads(done.stdout)
    return results


@pytest.fixture(params=["alone", "beside another"], autouse=True)
def _other(request: pytest.FixtureRequest, new_cache: Any) -> None:
    """Have another process in the group, or not."""
    if request.param != "alone":
        new_cache("fresh").start()


def test_its_first_add_adds() -> None:
    assert _fresh("cache.add('k', 1)") == [True, False, False, False]


def test_its_first_incr_counts() -> None:
    assert _fresh("cache.incr('n', initial=0)") == [1, 2, 3, 4]


def test_its_first_set_sets() -> None:
    assert _fresh("[cache.set('k', 1), cache.get('k')]") == [[True, 1]] * 4


def test_its_first_invalidation_is_complete() -> None:
    assert _fresh("cache.invalidate('k').complete") == [True] * 4


def test_its_first_compare_and_set_sets() -> None:
    assert _fresh("[cache.set('k', 1), cache.cas('k', 2, cache.gets('k')[1]), cache.get('k')]") == [[True, True, 2]] * 4


def test_its_first_read_gives_what_others_have(new_cache: Any) -> None:
    cache: Cache = new_cache("fresh")
    cache.set("there", 7)
    assert _fresh("cache.get('there')") == [7] * 4
    assert _fresh("cache.get_or_load('there', lambda: 'loaded')") == [7] * 4
    assert _fresh("cache.touch('there', ttl=60)") == [True] * 4
    assert _fresh("cache.incr('there')") == [8, 9, 10, 11]
