"""Which version of the protocol members speak with each other, and publish in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colocache.core.hosts.versions import HELLO, MAX_FEATURES, MAX_HELLO, Hello, Versions, why_silent
from colocache.errors import WireError

LEASE = 3.0

numbers = st.integers(1, (1 << 16) - 1)
names = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)
hellos = st.builds(
    lambda one, other, release, features: Hello(min(one, other), max(one, other), release, frozenset(features)),
    numbers, numbers, st.just("") | names, st.lists(names, max_size=MAX_FEATURES),
)  # fmt: skip


@given(hellos, st.binary(max_size=100))
def test_a_hello_comes_back_as_it_was_also_from_a_later_release_that_says_more(hello: Hello, more: bytes) -> None:
    assert Hello.unpack(hello.pack() + more) == hello


@given(st.binary(max_size=300) | hellos.map(Hello.pack).flatmap(lambda frame: st.sampled_from(_damaged(frame))))
def test_whatever_the_bytes_are_nothing_but_a_wire_error_is_raised(frame: bytes) -> None:
    try:
        hello = Hello.unpack(frame)
    except WireError:
        return
    assert 0 < hello.lowest <= hello.highest
    assert len(hello.features) <= MAX_FEATURES


def _damaged(frame: bytes) -> list[bytes]:
    cut = [frame[:end] for end in range(len(frame))]
    flipped = [frame[:at] + bytes((frame[at] ^ 255,)) + frame[at + 1 :] for at in range(len(frame))]
    return cut + flipped


@pytest.mark.parametrize("end", range(len(HELLO) + 6))
def test_a_hello_that_is_cut_off_is_refused(end: int) -> None:
    with pytest.raises(WireError):
        Hello.unpack(Hello(1, 2).pack()[:end])


def test_no_frame_of_the_protocol_is_taken_for_a_hello_and_none_is_too_long() -> None:
    assert HELLO[0] not in (*range(0x90, 0xA0), 0xDC, 0xDD), "an array of msgpack, which every other frame is"
    with pytest.raises(WireError, match="5000 bytes that is no Hello"):
        Hello.unpack(Hello(1, 2).pack().ljust(5000))
    longest = Hello(1, 2, "r" * 64, frozenset(f"{number:064}" for number in range(MAX_FEATURES)))
    assert len(longest.pack()) <= MAX_HELLO + 200
    with pytest.raises(WireError):
        Hello.unpack(HELLO + b"\x00\x01\x00\x02\x00\x41" + b"\x01a" * 65)


@pytest.mark.parametrize(
    "hello",
    [
        Hello(0, 1), Hello(2, 1), Hello(1, 1 << 16), Hello(1, 1, "x" * 65), Hello(1, 1, "ä"), Hello(1, 1, "\n"),
        Hello(1, 1, "", frozenset([""])), Hello(1, 1, "", frozenset(map(str, range(65)))),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_not_written(hello: Hello) -> None:
    with pytest.raises(ValueError, match=r"no member can say this|printable letters"):
        hello.pack()


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [((1, 1), (1, 1), 1), ((1, 3), (2, 5), 3), ((2, 2), (1, 9), 2), ((1, 2), (3, 4), None), ((7, 9), (1, 6), None)],
)
def test_two_speak_the_highest_version_of_both(
    one: tuple[int, int], other: tuple[int, int], shared: int | None
) -> None:
    assert Hello(*one).shared(Hello(*other)) == Hello(*other).shared(Hello(*one)) == shared


def test_publications_fall_at_once_for_an_older_member_and_rise_a_lease_after_it_has_left() -> None:
    versions = Versions(Hello(1, 3), LEASE)
    assert versions.publication(0.0) == 3
    versions.hear(b"new", Hello(2, 4), 0.0)
    assert versions.publication(0.0) == 3
    versions.hear(b"old", Hello(1, 1), 1.0)
    assert versions.publication(1.0) == 1
    assert (versions.request(b"new"), versions.request(b"old"), versions.request(b"unknown")) == (3, 1, None)
    versions.forget(b"old", 5.0)
    assert versions.publication(5.0 + LEASE - 0.001) == 1
    assert versions.publication(5.0 + LEASE) == 3
    assert versions.request(b"old") is None


def test_a_member_that_is_updated_in_place_raises_publications_a_lease_later() -> None:
    versions = Versions(Hello(1, 3), LEASE)
    versions.hear(b"m", Hello(1, 2), 0.0)
    versions.hear(b"m", Hello(1, 3), 10.0)
    assert versions.request(b"m") == 3
    assert versions.publication(10.0 + LEASE - 0.001) == 2
    assert versions.publication(10.0 + LEASE) == 3


def test_who_shares_no_version_is_a_stranger_and_does_not_hold_the_others_back() -> None:
    versions, future = Versions(Hello(2, 3, "0.2"), LEASE), Hello(4, 5, "0.9")
    versions.hear(b"future", future, 0.0)
    versions.hear(b"mate", Hello(2, 2), 0.0)
    assert versions.strangers() == {b"future": future}
    assert versions.request(b"future") is None
    assert versions.publication(0.0) == 2
    versions.forget(b"future", 1.0)
    assert versions.strangers() == {}


def test_who_is_too_new_for_what_an_old_member_needs_is_named_until_the_old_one_has_left() -> None:
    versions, new = Versions(Hello(1, 3), LEASE), Hello(2, 3)
    versions.hear(b"new", new, 0.0)
    assert versions.deaf(0.0) == {}
    versions.hear(b"old", Hello(1, 1), 0.0)
    assert versions.deaf(0.0) == {b"new": new}
    assert versions.request(b"new") == 3
    versions.forget(b"old", 1.0)
    assert versions.deaf(1.0 + LEASE) == {}


def test_a_feature_is_used_only_if_all_have_it() -> None:
    versions = Versions(Hello(1, 1, "", frozenset({"copies", "zones"})), LEASE)
    assert versions.has_all("copies")
    versions.hear(b"m", Hello(1, 1, "", frozenset({"zones"})), 0.0)
    assert not versions.has_all("copies")
    assert versions.has_all("zones")
    assert not versions.has_all("what nobody has")


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.none() | hellos, st.floats(0.1, 5)), max_size=20),
    st.integers(1, 5), st.integers(0, 5),
)  # fmt: skip
def test_every_member_understands_all_publications_or_is_named(
    events: list[tuple[bytes, Hello | None, float]], lowest: int, more: int
) -> None:
    """For a lease after it has left, nothing is published that is too new for it."""
    versions, now = Versions(Hello(lowest, lowest + more), LEASE), 0.0
    left: list[tuple[float, Hello]] = []
    present: dict[bytes, Hello] = {}
    for member, hello, pause in events:
        now += pause
        if member in present:
            left.append((now, present.pop(member)))
        if hello is None:
            versions.forget(member, now)
        else:
            versions.hear(member, hello, now)
            present[member] = hello
        published = versions.publication(now)
        listening = [*present.values(), *(gone for at, gone in left if now < at + LEASE)]
        assert versions.mine.lowest <= published <= versions.mine.highest
        assert all(published <= each.highest for each in listening if versions.mine.shared(each) is not None)


def test_the_log_says_what_a_stranger_speaks_and_which_side_to_update() -> None:
    old, new = Hello(1, 2, "0.1.0"), Hello(3, 4, "0.9.0")
    assert "web2 speaks the versions 3 to 4 of the protocol (colocache 0.9.0)" in why_silent("web2", old, new)
    assert why_silent("web2", old, new).endswith("update colocache in this process")
    assert why_silent("web2", new, old).endswith("update colocache in web2")
