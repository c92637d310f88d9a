"""What is fuzzed: functions of bytes that do what the bytes say, and assert that nothing comes of it but what may.

`TARGETS` has them by name. Both drivers run them: `test_fuzz.py`, on the corpus and on what Hypothesis makes up, and
`fuzz.py`, on what the coverage of the last try suggests.
"""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any
from uuid import UUID

from colocache.core.hosts import messages, requests
from colocache.core.hosts.versions import Hello
from colocache.core.keys import namespace_of, prefix, wire
from colocache.errors import WireError
from colocache.runtime import frames as host_frames
from verification.fuzz.dice import Dice
from verification.fuzz.files import Files, forged_board, head_of
from verification.fuzz.gateway import Attacked
from verification.fuzz.shelf import Scribbled
from verification.fuzz.values import CODEC, PICKLE

MAX_ERROR = 500  # letters of an error's text, which may end in a log: however long that is which it is about
MAX_STEPS = 40


# --- Frames of other hosts


def frames(data: bytes) -> None:
    """Any bytes are one message of a host, which is the same when sent on; or a WireError."""
    with at_most(40 * len(data) + (2 << 20)):
        message = refused_or(WireError, messages.decode, data)
    if message is not None:
        assert messages.decode(messages.encode(message)) == message


def asked(data: bytes) -> None:
    """Any bytes are one request, or one answer, which is the same when sent on; or a WireError."""
    for decode in (requests.decode_request, requests.decode_answer):
        with at_most(40 * len(data) + (2 << 20)):
            found = refused_or(WireError, decode, data)
        if found is not None:
            assert decode(requests.encode(found)) == found


def hello(data: bytes) -> None:
    """Any bytes are one Hello; or a WireError. What can be read can be said."""
    found = refused_or(WireError, Hello.unpack, data)
    if found is not None:
        assert Hello.unpack(found.pack()) == found


def gateway(data: bytes) -> None:
    """Other hosts say what they like. Nothing is raised, all that is said to them is good, and no lease grows too long.

    And when it is over, this host's own events are stamped and told.
    """
    dice, world = Dice(data), Attacked()
    for _ in range(MAX_STEPS):
        if not dice:
            break
        world.step(dice)
    world.come_to_rest()


# --- Keys


def keys(data: bytes) -> None:
    """Keys are equal on the wire if they are equal in Python, and only then; or they are refused by a TypeError."""
    dice = Dice(data)
    one, other = _key(dice, 0), _key(dice, 0)
    wires = [refused_or(TypeError, lambda key: wire(prefix("users"), key), key) for key in (one, other)]
    if None not in wires:
        assert (wires[0] == wires[1]) == (one == other)
        assert all(namespace_of(each) == "users" for each in wires)


def _key(dice: Dice, depth: int) -> Any:
    parts: tuple[Callable[[], Any], ...] = (
        lambda: tuple(_key(dice, depth + 1) for _ in range(dice.below(4))),
        lambda: dice.blob().decode("utf-8", "surrogateescape"),
        lambda: dice.pick((0, 1, -1, 255, 256, True, False, None, 10**5000, 1.0, 0.5, [], {})),
        lambda: int.from_bytes(dice.blob(9), "big", signed=True),
        lambda: dice.blob(40),
        lambda: UUID(bytes=dice.bytes(16).ljust(16)),
        lambda: date.fromordinal(1 + dice.below(3000000)),
    )
    return parts[0 if not depth else dice.below(len(parts))]()


# --- Values


def values(data: bytes) -> None:
    """Any bytes are a value that could have been sent; or a ValueError. Nothing is unpickled that is not signed."""
    with at_most(160 * len(data) + 12_000_000):
        value = refused_or(ValueError, CODEC.decode, data)
    if value is not None:
        assert type(CODEC.decode(CODEC.encode(value))) is type(value)
    assert refused_or(ValueError, PICKLE.decode, data) is None


# --- What the processes of a host share


def bus(data: bytes) -> None:
    """Any bytes on the bus are one frame, which is the same when sent on; or a ValueError."""
    with at_most(10 * len(data) + (1 << 20)):
        frame = refused_or(ValueError, host_frames.decode, data)
    if frame is not None:
        assert len(frame.hashes) <= host_frames.IN_A_FRAME
        assert host_frames.encode(frame.kind, frame.sender, frame.number, array("Q", frame.hashes)) == data


def head(data: bytes) -> None:
    """Whatever a board's file holds: what its head says can be used as it is."""
    dice = Dice(data)
    content = forged_board(dice) if dice.once_in(2) else dice.rest()
    found = head_of(content)
    if found.can_be_ended:
        assert 0 < 8 * max(found.bell, found.root) < len(content)
    assert len(found.inodes(19)) == 19
    assert isinstance(found.lives and found.is_whole, bool)


def region(data: bytes) -> None:
    """Whatever lies in the group's directory: a region can be joined and used; or ConfigError says what to do.

    And nothing outside of the directory is touched, whatever links lead there.
    """
    with Files(Dice(data)) as files:
        for _ in range(2):
            files.join()


def shelf(data: bytes) -> None:
    """Whatever somebody scribbles over a shelf: nobody finds what was not stored, or is void, and nothing is raised.

    And what is stored after that is found.
    """
    dice, world = Dice(data), Scribbled()
    for _ in range(MAX_STEPS):
        if not dice:
            break
        world.step(dice)
    world.come_to_rest()


# --- What every target asserts


def refused_or(error: type[Exception], use: Callable[[Any], Any], argument: Any) -> Any:
    """Return what a function gives; None if it raises the one error that it may, with a text that is not too long."""
    try:
        return use(argument)
    except error as refusal:
        text = str(refusal)
    assert len(text) <= MAX_ERROR, f"an error of {len(text)} letters"
    return None


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Assert that no more memory than so many bytes is taken at any time in here."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= size, f"{peak} bytes were taken, and {size} are allowed"


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (frames, asked, hello, gateway, keys, values, bus, head, region, shelf)
}
