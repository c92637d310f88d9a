"""Wire keys: keys that differ stay apart, in every process alike, and a namespace holds what lies below it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import date
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core.keys import MAX_BODY, MAX_NAMESPACE, MAX_WIRE, Key, namespace_of, prefix, wire, within
from colocache.core.parts import MAX_DEPTH
from tests import printed_with_two_hash_seeds, shown

ROOT = prefix("")
quick = settings(derandomize=True, deadline=None, max_examples=200)

#: Parts that a careless encoding mixes up: texts like tags of types, like separators, like numbers; numbers at the
#: borders of bytes; the same bytes as text, as bytes, as UUID.
AWKWARD: list[object] = [
    "", "a", "b", "ab", ":", "a:b", "b:c", "1", "s", "sa", "(", "-", "None", "True", "\0", "\0\0\0\1", "\ud800", "é",
    b"", b"a", b"1", b"sa", b"-", b"\0\0\0\1", b"\xc3\xa9", bytes(16), 0, 1, -1, 127, 128, 255, 256, -128, -129,
    1 << 64, None, True, False, UUID(int=0), UUID(int=1), date.min, date(2024, 2, 29),
    (), ("a",), (("a",),), ("a", "b"),
]  # fmt: skip

texts = st.text(st.characters(), max_size=20)  # lone surrogates included
atoms = texts | st.integers() | st.booleans() | st.none() | st.binary(max_size=20) | st.uuids() | st.dates()
keys = texts | st.recursive(atoms, lambda parts: st.lists(parts, max_size=4).map(tuple), max_leaves=8).filter(
    lambda key: type(key) is tuple
)


def wires(keys: Iterable[Key]) -> list[bytes]:
    return [wire(ROOT, key) for key in keys]


# --- Distinct keys


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a:b", "c"), ("a", "b:c")),
        (("ab", "c"), ("a", "bc")),
        (("a", ("b",)), (("a",), "b")),
        (("a", "b"), (("a", "b"),)),
        ((), ("",)),
        (("a",), "a"),
        (("1",), (1,)),
        (("1",), (b"1",)),
        ((1,), (b"1",)),
        ((None,), ("None",)),
        ((None,), (0,)),
        ((UUID(int=7),), (UUID(int=7).bytes,)),
        ((date.min,), (1,)),
    ],
)
def test_keys_that_look_alike_are_two(one: Key, other: Key) -> None:
    assert wire(ROOT, one) != wire(ROOT, other)


def test_all_pairs_and_nestings_of_awkward_parts_are_apart() -> None:
    flat: list[Any] = [(), *((part,) for part in AWKWARD), *product(AWKWARD, repeat=2)]
    nested = [*((key,) for key in flat), *product(flat[:60], AWKWARD), *product(AWKWARD, flat[:60])]
    tuples = [*flat, *nested, *product(AWKWARD[:12], repeat=3)]
    texts = [part for part in AWKWARD if isinstance(part, str)]
    assert len(set(wires([*texts, *tuples]))) == len({*texts, *tuples}) > 8000


@given(st.lists(st.sampled_from("ab1:"), min_size=2, max_size=6), st.data())
@quick
def test_the_same_parts_in_other_tuples_are_another_key(parts: list[str], data: st.DataObject) -> None:
    def grouped() -> tuple[Any, ...]:
        at = data.draw(st.integers(0, len(parts)))
        how = data.draw(st.sampled_from(("flat", "head", "tail", "joined")))
        head, tail = tuple(parts[:at]), tuple(parts[at:])
        joined = ("".join(head), *tail)
        return {"flat": head + tail, "head": (head, *tail), "tail": (*head, tail), "joined": joined}[how]

    one, other = grouped(), grouped()
    assert (wire(ROOT, one) == wire(ROOT, other)) == (one == other)


@given(keys)
@quick
def test_a_key_in_two_namespaces_is_two_keys(key: Key) -> None:
    assert len({wire(prefix(name), key) for name in ("", "a", "ab", "a/b", "s", "\0")}) == 6


@given(st.lists(st.sampled_from((0, 1, 2, "0", "1")), max_size=5))
@quick
def test_keys_that_are_equal_in_python_are_one(parts: list[object]) -> None:
    as_bools = tuple(bool(part) if part in (0, 1) else part for part in parts)
    assert as_bools == tuple(parts)
    assert wire(ROOT, as_bools) == wire(ROOT, tuple(parts))


# --- The same everywhere


@pytest.mark.parametrize(
    ("namespace", "key", "expected"),
    [
        ("", "42", "007334 32"),
        ("users", "é", "05 7573657273 73c3a9"),
        ("", ("a", -1, None), "00 28 00000002 7361 00000002 69ff 00000001 2d"),
        ("", (True, b"\0", (256,)), "00 28 00000002 6901 00000002 6200 00000008 28 00000003 690100"),
        ("", (UUID(int=1), date.min), "00 28 00000011 75" + "00" * 15 + "01 00000005 64 00000001"),
        ("n", "x" * 200, "01 6e 23 3fe720668d72377c1412bace2fe51ab61edf9f6bad2636cc57bff03d9e100597"),
    ],
)
def test_wire_keys_are_those_of_every_other_release(namespace: str, key: Key, expected: str) -> None:
    # Members of two releases share a group during a rolling upgrade: with two encodings an invalidation would miss.
    assert wire(prefix(namespace), key).hex() == expected.replace(" ", "")


def test_processes_with_different_hash_seeds_agree() -> None:
    program = (
        "from datetime import date; from uuid import UUID\n"
        "from colocache.core.keys import prefix, wire\n"
        "keys = ['a', 'x' * 10_000, '\\ud800', ('a', 1, None, b'b', UUID(int=5), date.min, ('c', ('d',))), (True,)]\n"
        "print([wire(prefix('users'), key).hex() for key in keys])\n"
    )
    assert len(printed_with_two_hash_seeds(program)) == 1


# --- Long keys


def test_a_body_is_hashed_only_beyond_its_limit() -> None:
    longest = "x" * (MAX_BODY - 1)  # one byte says that it is a text
    assert wire(ROOT, longest) == b"\0s" + longest.encode()
    hashed = wire(ROOT, longest + "x")
    assert hashed[:2] == b"\0#"
    assert len(hashed) == 2 + 32


@pytest.mark.parametrize("long", ["é" * 10_000, ("a",) * 10_000, (b"\0" * 10_000,), (1 << 80_000,)])
def test_keys_of_any_length_fit_the_wire(long: Key) -> None:
    assert len(wire(prefix("n" * MAX_NAMESPACE), long)) <= MAX_WIRE
    assert wire(ROOT, long) == wire(ROOT, long)


def test_long_keys_that_differ_at_their_ends_are_apart() -> None:
    ends: list[Key] = [*("x" * 10_000 + end for end in "abc"), *(("x" * 10_000, end) for end in (1, "1", b"1", None))]
    assert len(set(wires(ends))) == len(ends)


@given(keys)
@quick
def test_no_short_key_looks_like_a_hashed_one(key: Key) -> None:
    encoded = wire(ROOT, key)
    assert encoded[1:2] in (b"s", b"(", b"#")
    assert (encoded[1:2] == b"#") == (len(encoded) == 34 and encoded[1] == ord("#"))


def test_lone_surrogates_are_carried() -> None:
    alike = ["\ud800", "\udfff", "\ufffd", "?", "\ud83d\ude00", "\U0001f600", "\ude00\ud83d"]
    assert len(set(wires(alike))) == len(set(wires((text,) for text in alike))) == len(alike)
    assert [namespace_of(wire(prefix(text), text)) for text in alike] == alike


# --- What is not a key


class Opaque:
    """Has no form that is the same in all processes."""

    def __repr__(self) -> str:
        return "Opaque()"


@pytest.mark.parametrize("key", [42, None, b"a", True, UUID(int=1), date.min, 1.5, ["a"], {"a": 1}], ids=shown)
def test_a_key_that_only_lacks_its_tuple_is_refused_with_that_remedy(key: Any) -> None:
    with pytest.raises(TypeError) as caught:
        wire(ROOT, key)
    assert str(caught.value) == f"a key is a str or a tuple, not {type(key).__name__}: {key!r}; write ({key!r},)"
    wire(ROOT, (key,))


@pytest.mark.parametrize("key", [object(), len, print, Opaque()], ids=shown)
def test_a_key_of_another_type_is_refused_by_name(key: Any) -> None:
    with pytest.raises(TypeError) as caught:
        wire(ROOT, key)
    name = type(key).__name__
    assert str(caught.value) == f"a key is a str or a tuple, not {name}: {key!r}; convert it, for example with str()"


@pytest.mark.parametrize("part", [object(), len, Opaque(), OrderedDict(a=1)], ids=shown)
@pytest.mark.parametrize("depth", [1, 3])
def test_a_part_of_another_type_is_refused_by_name(part: object, depth: int) -> None:
    key: Any = ("users", part)
    for _ in range(depth - 1):
        key = (key, 1)
    with pytest.raises(TypeError) as caught:
        wire(ROOT, key)
    text = str(caught.value)
    assert f"{part!r}"[:60] in text
    assert f"of the type {type(part).__name__}, which " in text
    assert "Convert it, for example with str(), or define __cache_key__(self)" in text


def test_errors_about_huge_keys_are_short() -> None:
    for key in (["x" * 10_000], ("x" * 10_000, object()), ("x", ["y" * 10_000, object()])):
        with pytest.raises(TypeError) as caught:
            wire(ROOT, key)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 450


def test_tuples_nest_up_to_a_depth() -> None:
    key: Any = ("a",)
    for _ in range(MAX_DEPTH):
        key = (key,)
    wire(ROOT, key)
    with pytest.raises(TypeError, match=f"nests deeper than {MAX_DEPTH}: "):
        wire(ROOT, (key,))
    for _ in range(100_000):  # deeper than the interpreter could follow
        key = (key,)
    with pytest.raises(TypeError, match="deeper"):
        wire(ROOT, key)


# --- Namespaces


@given(st.text(st.characters(), max_size=MAX_NAMESPACE // 4), keys)
@quick
def test_a_wire_key_says_its_namespace(name: str, key: Key) -> None:
    assert namespace_of(wire(prefix(name), key)) == name


def test_a_namespace_has_a_greatest_length_in_bytes() -> None:
    assert namespace_of(wire(prefix("é" * (MAX_NAMESPACE // 2)), "a")) == "é" * (MAX_NAMESPACE // 2)
    with pytest.raises(
        ValueError, match=f"the namespace 'éé.*' takes 202 bytes: give it a name of at most {MAX_NAMESPACE}"
    ):
        prefix("é" * (MAX_NAMESPACE // 2 + 1))


@pytest.mark.parametrize("malformed", [b"", b"\0", b"\1", b"\1a", b"\5abcde", b"\xff" * 200, b"\1\xffsa"])
def test_a_malformed_wire_key_has_no_namespace(malformed: bytes) -> None:
    with pytest.raises(ValueError, match=r"shorter than its first byte says|can't decode"):
        namespace_of(malformed)


@pytest.mark.parametrize(
    ("namespace", "ancestor", "expected"),
    [
        ("users", "users", True),
        ("users/pages", "users", True),
        ("users/pages/1", "users", True),
        ("users/pages/1", "users/pages", True),
        ("users2", "users", False),
        ("users2/pages", "users", False),
        ("users", "users/pages", False),
        ("pages/users", "users", False),
        ("", "users", False),
        ("", "", True),
        ("users/pages", "", True),
        ("users", "", True),
    ],
)
def test_namespaces_nest_by_slashes(namespace: str, ancestor: str, expected: bool) -> None:
    assert within(namespace, ancestor) is expected


paths = st.lists(st.sampled_from(("a", "b", "ab")), max_size=4).map("/".join)


@given(paths, paths)
@quick
def test_a_namespace_holds_exactly_what_its_path_begins(one: str, other: str) -> None:
    steps, begin = one.split("/"), other.split("/")
    assert within(one, other) == (other == "" or steps[: len(begin)] == begin)
