"""Values that are too large, or for which there is no memory: the caller has them, and the cache does not toil."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from colocache import Cache, MsgpackCodec, PickleCodec
from colocache.core.host.shelf import Shelf
from colocache.core.options import MAX_VALUE
from colocache.values.large import MOST, Large, takes_more_than
from tests import ROOT

if TYPE_CHECKING:
    from tests.conftest import Call, NewCache


LIMIT = 1000
ITSELF: list[object] = []
ITSELF.append(ITSELF)

#: Values that take more than so many bytes, and values that do not. Each of the latter takes nearly as many.
TAKE_MORE: dict[str, Any] = {
    "text": "x" * LIMIT, "bytes": b"x" * LIMIT, "numbers": [0] * LIMIT, "a set": {*range(LIMIT)},
    "a dict": dict.fromkeys(range(LIMIT // 2 + 1)), "nested": [[[["x" * 400] * 2, ("y" * 300,)]]], "itself": ITSELF,
}  # fmt: skip
TAKE_LESS: dict[str, Any] = {
    "text": "x" * (LIMIT - 3), "numbers": [0] * (LIMIT - 3), "a dict": dict.fromkeys(range(40), "x" * 9),
    "nested": [[["x" * 400], ("y" * 400,)]], "another type": Large(),
}  # fmt: skip


@pytest.mark.parametrize("value", TAKE_MORE.values(), ids=TAKE_MORE.keys())
def test_what_takes_too_much_is_found_without_encoding_it(value: Any) -> None:
    assert takes_more_than(value, LIMIT)
    if value is not ITSELF:
        assert len(MsgpackCodec().encode(value)) > LIMIT


@pytest.mark.parametrize("value", TAKE_LESS.values(), ids=TAKE_LESS.keys())
def test_nothing_that_takes_less_is_taken_for_large(value: Any) -> None:
    assert not takes_more_than(value, LIMIT)


def test_only_types_whose_size_is_known_are_looked_into() -> None:
    class Parts(list[int]):
        def __iter__(self) -> Any:
            raise AssertionError("users' code must not run here")

    assert not takes_more_than([Parts([1] * 2 * LIMIT)], LIMIT)


def test_only_so_many_keys_are_known() -> None:
    known = Large()
    for number in range(3 * MOST):
        known.note(b"%d" % number)
        assert known.holds(b"%d" % number)
        assert len(known._keys) <= MOST
    known.forget(b"%d" % number)
    assert not known.holds(b"%d" % number)


class Counting(MsgpackCodec):
    """A codec that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def encode(self, value: Any) -> bytes:
        self.encoded += 1
        return super().encode(value)


def test_a_value_that_was_too_large_is_not_encoded_again_while_it_is(
    call: Call, new_cache: NewCache, caplog: pytest.LogCaptureFixture
) -> None:
    codec = Counting()
    cache, large = new_cache(codec=codec), [b"x" * 1000] * 2000
    for _ in range(5):
        assert call(cache, "get_or_load", "k", lambda: large) is large
    assert codec.encoded == 1
    assert cache.stats().oversize == 5
    assert call(cache, "get_or_load", "k", lambda: b"small") == b"small"
    assert cache.get("k") == b"small", "it is kept at once"
    assert call(cache, "get_or_load", "k2", lambda: large) is large
    assert codec.encoded == 3


def test_values_of_other_codecs_are_encoded_each_time(call: Call, new_cache: NewCache) -> None:
    cache, large = new_cache(codec=PickleCodec(key=bytes(32))), b"x" * (MAX_VALUE + 1)
    for _ in range(2):
        assert call(cache, "get_or_load", "k", lambda: large) is large
    assert cache.stats().oversize == 2
    assert not cache._member.carrier.takes_more_than(large, MAX_VALUE)


def test_a_value_that_a_small_shelf_does_not_take_is_not_encoded_again(call: Call, new_cache: NewCache) -> None:
    codec = Counting()
    cache, large = new_cache(codec=codec, shelf="1MiB"), [b"x" * 1000] * 200
    for _ in range(3):
        assert call(cache, "get_or_load", "k", lambda: large) is large
    assert codec.encoded == 1
    assert cache.stats().oversize == 3


class Starved(MsgpackCodec):
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
