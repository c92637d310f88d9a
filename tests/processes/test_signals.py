"""Processes whose calls are interrupted by exceptions of signal handlers, as by soft time limits: others go on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from colocache import Cache
from tests import ROOT
from tests.conftest import NewCache

INTERRUPTED = """\
import random, signal, sys
import colocache

class TimeIsUp(Exception):
    pass

def handler(*_):
    if armed:
        raise TimeIsUp

armed = False
signal.signal(signal.SIGALRM, handler)
cache = colocache.Cache("interrupted")
cache.start()
dice = random.Random(sys.argv[1])
for line in sys.stdin:
    interrupted = 0
    for number in range(200):
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 5e-4))
            try:
                cache.get_or_load((line, number), lambda: number)
                cache.incr("n", initial=0)
                cache.set("k", number)
                cache.invalidate("k")
            finally:
                armed = False
        except TimeIsUp:
            interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(interrupted, flush=True)
"""


@pytest.fixture
def cache(new_cache: NewCache) -> Cache:
    return new_cache("interrupted", load_timeout=120)


def test_a_process_that_is_interrupted_anywhere_leaves_no_lock_and_no_load_behind(cache: Cache, run_dir: str) -> None:
    seed = str(int.from_bytes(os.urandom(4), "big"))
    print(f"seed {seed}")
    cache.start()
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, seed],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    interrupted = 0
    for batch in range(10):
        line = f"{batch}\n"
        process.stdin.write(line)
        process.stdin.flush()
        interrupted += int(process.stdout.readline())
        # Now it waits for the next line, and does nothing that would make good what it has left behind.
        assert cache.set("k", batch)
        assert cache.incr("n") is not None
        loaded = [cache.get_or_load((line, number), lambda: -1) for number in range(200)]
        assert all(value in (number, -1) for number, value in enumerate(loaded))
        assert cache.stats().fallbacks == 0
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()
    assert interrupted > 200
    assert len(cache.members()) == 1
