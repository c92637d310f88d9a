"""What interrupts calls in chaos: it finds nothing where all is well, and does find what is broken."""

from __future__ import annotations

import threading
from collections import Counter
from random import Random
from typing import Any

import pytest

from colocache import Cache
from colocache.operations.load import Duty
from colocache.values import carrier, msgpack_codec
from tests.conftest import NewCache
from verification.chaos.interrupted import Attempt, Interrupted, Witness

MOST = 20_000  # calls; of those that find what is broken, hardly any takes a hundredth of them


def interrupted(cache: Cache, wanted: str, enough_counts: int) -> tuple[list[str], Counter[str]]:
    """Interrupt calls until something is found, or so many of them were; return what was found, and the counts."""
    dice, counts, found, enough, witness = Random(7), Counter[str](), list[str](), threading.Event(), Witness()
    keys: list[str] = []

    def draw() -> Attempt:
        counts["calls"] += 1
        if counts[wanted] >= enough_counts or counts["calls"] > MOST:
            enough.set()
        keys[:] = [f"k{counts['calls']}"]
        return call()

    def call() -> Attempt:
        value: Any = [{"number": dice.random()} for _ in range(300)]
        got = yield lambda: cache.get_or_load(keys[0], lambda: value)
        assert got == value

    def accuse(what: str, **details: Any) -> None:
        found.append(f"{what}: {details}")
        enough.set()

    def count(what: str) -> None:
        counts[what] += 1

    def use() -> None:
        assert cache.get_or_load("the handler's", lambda: 7) == 7

    def look() -> None:
        witness.look(lambda: cache.get_or_load(keys[0], list))

    witness.thread.start()
    try:
        Interrupted(cache, dice, use, draw, look, count, accuse).run(enough)
    finally:
        witness.end()
        witness.thread.join()
    return found, counts


def test_nothing_is_found_where_all_is_well(new_cache: NewCache) -> None:
    found, counts = interrupted(new_cache(), "interrupted", 200)
    assert found == []
    assert counts["interrupted"] >= 200
    assert counts["handled"] > 0


def test_a_load_that_is_not_given_back_is_found(new_cache: NewCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = new_cache(load_timeout=0.05)
    monkeypatch.setattr(Duty, "give_back", lambda duty: None)
    found, _ = interrupted(cache, "calls", MOST)
    assert found[0].startswith("stuck")


def test_an_exception_that_is_swallowed_is_found(new_cache: NewCache, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (msgpack_codec, carrier):
        for name in ("raise_if_foreign", "raise_if_from_handler"):
            monkeypatch.setattr(module, name, lambda error: None, raising=False)
    found, _ = interrupted(new_cache(), "calls", MOST)
    assert found[0].startswith(("swallowed", "another exception"))
