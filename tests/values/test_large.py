"""Values that are too large, or for which there is no memory: the caller has them, and the cache does not toil."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from colocache import Cache, MsgpackCodec, OversizeError
from colocache.core.host.shelf import Shelf
from colocache.values import large
from colocache.values.large import LEAST, MOST, SHARE, Large
from tests import ROOT

if TYPE_CHECKING:
    from tests.conftest import Call, NewCache


def test_what_is_too_large_is_known_for_a_multiple_of_the_time_that_it_took_to_find_out() -> None:
    known = Large()
    known.note(b"k", 100.0, 100.5)
    until = 100.5 + SHARE * 0.5
    assert [known.holds(b"k", now) for now in (100.5, math.nextafter(until, 0), until)] == [True, True, False]
    assert not known.holds(b"other", 100.5)
    known.forget(b"k")
    assert not known.holds(b"k", 100.5)


def test_what_is_found_out_at_once_is_not_remembered() -> None:
    known = Large()
    known.note(b"k", 100.0, 100.0 + LEAST / 2)
    assert not known.holds(b"k", 100.0 + LEAST)


def test_only_so_many_keys_are_known() -> None:
    known = Large()
    for number in range(3 * MOST):
        known.note(b"%d" % number, 0.0, 1.0)
        assert known.holds(b"%d" % number, 1.0)
        assert len(known._until) <= MOST


class Counting:
    """A codec that counts, and takes no value above a size."""

    name = "counting"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, value: Any) -> bytes:
        self.encoded += 1
        if len(value) > 100:
            raise OversizeError("too large")
        return bytes(value)

    def decode(self, payload: bytes) -> bytes:
        return payload


def test_a_value_that_was_too_large_is_not_encoded_again_at_the_next_load(
    call: Call, new_cache: NewCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "LEAST", 0.0)
    monkeypatch.setattr(large, "SHARE", 1e9)
    codec = Counting()
    cache = new_cache(codec=codec)
    for _ in range(5):
        assert call(cache, "get_or_load", "k", lambda: b"x" * 1000) == b"x" * 1000
    assert codec.encoded == 1
    assert cache.stats().oversize == 5
    assert call(cache, "get_or_load", "other", lambda: b"small") == b"small"
    assert call(cache, "set", "k", b"small"), "who sets a value wants to have it kept"
    assert cache.get("k") == b"small"


class Starved(Counting):
    """A codec that has no memory."""

    def encode(self, value: Any) -> bytes:
        raise MemoryError


def test_a_value_for_which_there_is_no_memory_is_used_and_not_kept(
    call: Call, new_cache: NewCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache = new_cache(codec=Starved())
    assert call(cache, "get_or_load", "k", lambda: b"v") == b"v"
    assert call(cache, "set", "k", b"v") is False
    assert call(cache, "add", "k", b"v") is False
    assert call(cache, "get", "k") is None
    assert cache.stats().oversize == 3
    assert "is used, and not kept: there is not enough memory to encode it" in caplog.text


def test_a_value_for_which_there_is_no_memory_to_keep_it_is_used(
    call: Call, cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "fill", fill)
        assert call(cache, "get_or_load", "k", lambda: "v") == "v"
    assert "is used, and not kept: there is not enough memory to keep it" in caplog.text
    assert call(cache, "get_or_load", "k", lambda: "w") == "w", "the duty to load it was given back"
    assert call(cache, "get", "k") == "w"


@pytest.mark.parametrize("value", ["x", [1], {"a": {1, 2}}], ids=["plain", "list", "with a set"])
def test_an_error_of_memory_stays_one(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = MsgpackCodec()

    def pack(*_: Any) -> bytes:
        raise MemoryError

    monkeypatch.setattr(codec, "_pack", pack)
    with pytest.raises(MemoryError):
        codec.encode(value)


IN_A_SMALL_SPACE = """
import mmap, resource, sys
import colocache

cache = colocache.Cache("small", directory=sys.argv[1], shelf="8MiB")
assert cache.get_or_load("first", lambda: 1) == 1
value = [b"y" * (1 << 20)] * 100
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.RLIM_INFINITY))
assert cache.get_or_load("k", lambda: value) is value
assert cache.set("k", value) is False
assert cache.get("k") is None
assert cache.get_or_load("small", lambda: 2) == cache.get("small") == 2
assert cache.stats().oversize == 2
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to this limit")
def test_in_a_process_that_has_hardly_any_memory_left_a_large_value_is_used(run_dir: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_SMALL_SPACE, run_dir], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "not enough memory" in done.stderr
