"""Wrappers made for a signature: they bind as the function does, and find by the key that is stored under."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core.entry import DEAD, Entry, Home
from colocache.functions.arguments import Arguments
from colocache.functions.specialised import has_one_part, may_be_specialised, specialise

default = (1, 2)


def none(): ...
def one(x): ...
def one_by_position(x, /): ...
def two(x, y=default): ...
def kinds(a, b=2, /, c=3, *, e=5, d): ...
def rest(a, *others): ...
def all_the_rest(*others): ...
def by_name_only(*, b, a=1): ...


FUNCTIONS = [none, one, one_by_position, two, kinds, rest, all_the_rest, by_name_only]


class Looked(dict[Any, Entry]):
    """The entries of a space; notes what was looked for."""

    def __init__(self) -> None:
        self.keys_found: list[Any] = []

    def __getitem__(self, key: Any) -> Entry:
        self.keys_found.append(key)
        return super().__getitem__(key)


class Store:
    """A near store that is told which entries stand, and notes which it was asked for."""

    def __init__(self) -> None:
        self.standing = False
        self.asked: list[Entry] = []

    def lets(self, entry: Entry, now: float) -> bool:
        self.asked.append(entry)
        return self.standing and entry.expires > now


class Keyspace:
    """A keyspace of a process on a host, whose bell can be rung."""

    def __init__(self) -> None:
        self.store = Store()
        self.entries = Looked()
        self.bell = memoryview(bytearray(8)).cast("Q")
        self.bell[0] = 7
        self.near = self.entries, self.bell


class Wrapped:
    """A function's wrapper, with the calls that it could not serve."""

    def __init__(self, function: Callable[..., Any], *, ignore: Sequence[str] = (), waits: bool = False) -> None:
        self.keyspace = Keyspace()
        self.missed: list[tuple[Any, Any]] = []
        self.signature = inspect.signature(function)
        self.arguments = Arguments(function, ignore)

        def miss(args: Any, kwargs: Any) -> str:
            self.missed.append((args, kwargs))
            return "missed"

        async def amiss(args: Any, kwargs: Any) -> str:
            return miss(args, kwargs)

        find = amiss if waits else miss
        self.call = specialise(function, self.signature, self.arguments.kept, self.keyspace, find, waits=waits)

    def hold(self, key: Any, value: Any) -> Entry:
        """Have a value found under a key, that was compared at the present bell."""
        entry = self.keyspace.entries[key] = Entry(Home(self.keyspace.store), key, value, 0, (), 0, math.inf, 0)
        entry.bell, entry.until = self.keyspace.bell[0], math.inf
        return entry


arguments = st.lists(st.integers(0, 3), max_size=4)
by_name = st.dictionaries(st.sampled_from("abcdexyz"), st.integers(0, 3), max_size=4)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@settings(derandomize=True, deadline=None, max_examples=200)
@given(args=arguments, kwargs=by_name)
def test_a_call_looks_for_the_key_that_it_is_stored_under(function: Any, args: Any, kwargs: Any) -> None:
    wrapped = Wrapped(function)
    try:
        bound = wrapped.signature.bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            wrapped.call(*args, **kwargs)
        return
    bound.apply_defaults()
    key = wrapped.arguments.key_of(bound.args, bound.kwargs)
    assert wrapped.call(*args, **kwargs) == "missed"
    assert wrapped.missed == [(bound.args, bound.kwargs)]
    assert wrapped.keyspace.entries.keys_found == [key[0] if has_one_part(wrapped.arguments.kept) else key]  # type: ignore[index]


def test_what_is_held_is_served_and_counted_and_what_is_dead_is_not() -> None:
    wrapped = Wrapped(one)
    entry = wrapped.hold(5, "held")
    assert [wrapped.call(5), wrapped.call(x=5)] == ["held", "held"]
    assert entry.hits == 2
    assert wrapped.keyspace.store.asked == []
    entry.die()
    assert wrapped.call(5) == "missed"
    entry.expires = entry.until = time.monotonic()
    assert wrapped.call(5) == "missed", "it has expired just now"
    assert entry.hits == 2
    assert wrapped.keyspace.store.asked == [entry] * 2


def test_once_nobody_has_said_for_how_long_what_is_held_may_be_served_the_store_is_asked() -> None:
    wrapped = Wrapped(one)
    store, entry = wrapped.keyspace.store, wrapped.hold(5, "held")
    entry.until = time.monotonic()
    assert wrapped.call(5) == "missed"
    store.standing = True
    assert wrapped.call(5) == "held"
    assert store.asked == [entry] * 2
    assert entry.hits == 1


def test_after_an_event_the_store_says_whether_what_is_held_stands() -> None:
    wrapped = Wrapped(one)
    store, entry = wrapped.keyspace.store, wrapped.hold(5, "held")
    for bell in (entry.bell, None):  # it was compared before an event of some key, or never
        entry.bell = bell
        wrapped.keyspace.bell[0] += 1
        store.standing = False
        assert wrapped.call(5) == "missed"
        store.standing = True
        assert wrapped.call(5) == "held"
    assert store.asked == [entry] * 4
    assert entry.hits == 2
    entry.expires = DEAD
    assert wrapped.call(5) == "missed"


def test_entries_and_their_bell_are_taken_in_one_step() -> None:
    """Otherwise an entry of one region could be compared with the bell of another one, whose numbers may be equal."""
    wrapped = Wrapped(one)
    keyspace, entry = wrapped.keyspace, wrapped.hold(5, "of the region before")

    class Rejoined(dict[Any, Entry]):
        def __getitem__(self, key: Any) -> Entry:
            bell = memoryview(bytearray(8)).cast("Q")
            bell[0] = 8
            keyspace.near = Looked(), bell
            return entry

    keyspace.near = Rejoined(), keyspace.bell
    entry.bell = 8
    assert wrapped.call(5) == "missed"
    assert keyspace.store.asked == [entry]


def test_what_cannot_be_hashed_is_missed() -> None:
    wrapped = Wrapped(two)
    assert wrapped.call([1]) == "missed"
    assert wrapped.missed[0][0][1] is default, "the very object"


class Thing:
    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> int:
        return self.number


@pytest.mark.parametrize("parameters", ["self", "self, x", "self, /, x", "self, *, x", "self, *x", "self=None, x=2"])
def test_a_method_finds_what_is_held_for_its_object(parameters: str) -> None:
    names: dict[str, Any] = {}
    exec(f"def method({parameters}): ...", names)
    wrapped = Wrapped(names["method"])
    arguments: tuple[Any, ...] = (Thing(7),)
    named = {"x": 1} if "*, x" in parameters else {}
    if "x" in parameters and not named:
        arguments = (Thing(7), 1)
    bound = wrapped.signature.bind(*arguments, **named)
    bound.apply_defaults()
    key = wrapped.arguments.key_of(bound.args, bound.kwargs)
    wrapped.hold(key[0] if has_one_part(wrapped.arguments.kept) else key, "held")  # type: ignore[index]
    assert wrapped.call(*arguments, **named) == "held"
    assert wrapped.call(Thing(8), *arguments[1:], **named) == "missed"


@pytest.mark.parametrize("odd", ["text", 5, Thing, object(), None])
def test_what_is_called_self_and_is_no_object_of_its_own_kind_is_missed(odd: Any) -> None:
    def method(self: Any, x: int) -> None: ...
    def many(*self: Any) -> None: ...

    assert Wrapped(method).call(odd, 1) == "missed"
    assert Wrapped(many).call(odd, 1) == "missed"


def test_a_coroutine_function_becomes_one() -> None:
    wrapped = Wrapped(two, waits=True)
    assert inspect.iscoroutinefunction(wrapped.call)
    wrapped.hold((1, 2), "held")
    with pytest.raises(StopIteration) as end:
        wrapped.call(1, 2).send(None)
    assert end.value.value == "held"


def test_signatures_without_a_place_for_each_argument_are_left_alone() -> None:
    def named(**options): ...
    def open_(*args, flag=False): ...
    def shadow(_cc_entry): ...

    assert not any(may_be_specialised(inspect.signature(function)) for function in (named, open_, shadow))
    assert all(may_be_specialised(inspect.signature(function)) for function in FUNCTIONS)
