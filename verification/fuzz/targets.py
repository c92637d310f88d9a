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

from colocache.core.group import messages
from colocache.core.group.messages import MAX_BUS, NO_NUMBER, Event, decode, encode, split_targets
from colocache.core.keys import namespace_of, prefix, wire
from colocache.errors import WireError
from colocache.runtime import frames as host_frames
from verification.fuzz.dice import Dice
from verification.fuzz.files import Files, forged_board, head_of
from verification.fuzz.forge import Forge
from verification.fuzz.shelf import Scribbled
from verification.fuzz.values import CODEC, PICKLE
from verification.fuzz.world import DEAD, KEYS, ME, A, B, World, low_limits

MAX_ERROR = 500  # letters of an error's text, which may end in a log: however long that is which it is about
PAUSES = (0.0, 0.001, 0.02, 0.1, 0.25, 0.5, 1.0)  # s
MAX_STEPS = 40


# --- Frames and what they are made of


def frames(data: bytes) -> None:
    """Any bytes are one message and nothing more, which is the same when sent on; or a WireError."""
    with at_most(4 * len(data) + (2 << 20)):
        message = refused_or(WireError, decode, data)
    if message is not None:
        assert decode(encode(message)) == message
        assert refused_or(WireError, decode, data + b"\0") is None, "a frame ends where its message does"


def forged(data: bytes) -> None:
    """The same, of frames that are nearly messages."""
    frames(Forge(Dice(data)).frame()[0])


def parts(data: bytes) -> None:
    """What a field's check lets pass can be used without a further thought; and nothing is too long to be sent on."""
    with at_most(4 * len(data) + (2 << 20)):
        record = refused_or(WireError, messages.unpack_record, data)
    if record is not None:
        assert messages.unpack_record(messages.pack_record(record)) == record
    if len(data) % 24 == 0:
        assert len(messages.pack_positions(messages.unpack_positions(data))) <= len(data)
    namespace = refused_or(ValueError, namespace_of, data)
    assert namespace is not None or not messages._is_key(data)
    _split(data)


def _split(data: bytes) -> None:
    dice, targets = Dice(data), []
    while dice and len(targets) < 3000:
        target = dice.pick((b"k\0", b"k\2ab", b"t", b"n", b"*", b"")) + dice.blob(400)
        targets += [target] * dice.pick((1, 1, 2, 200, 2000)) if messages._is_target(target) else []
    events = [Event(ME, NO_NUMBER, part) for part in split_targets(targets)]
    assert [target for event in events for target in event.targets] == targets
    for event in events:
        assert len(encode(event)) <= MAX_BUS
        assert decode(encode(event)) == event


def keys(data: bytes) -> None:
    """Keys are equal on the wire if they are equal in Python, and only then; or they are refused by a TypeError."""
    dice = Dice(data)
    one, other = _key(dice, 0), _key(dice, 0)
    wires = [refused_or(TypeError, lambda key: wire(prefix("users"), key), key) for key in (one, other)]
    if None not in wires:
        assert (wires[0] == wires[1]) == (one == other)
        assert all(messages._is_key(each) and namespace_of(each) == "users" for each in wires)


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


# --- A peer


def peer(data: bytes) -> None:
    """A member says what it likes, on the bus and on links, while the peer works and time passes.

    Nothing is raised; what is to be refused is refused, and leaves no trace; the tables stay within their limits, and
    every frame that the peer sends is a good one; and when all is over, every call has returned, the peer has nothing
    left to do, and serves and invalidates as if it were new.
    """
    dice = Dice(data)
    with low_limits():
        world = World()
        forge = Forge(dice, lambda: world.peer._members._digest)
        for _ in range(MAX_STEPS):
            if not dice or world.peer.expelled:
                break
            _step(world, forge, dice)
        world.come_to_rest()


def _step(world: World, forge: Forge, dice: Dice) -> None:
    kind = dice.below(32)
    if kind < 20:
        frame, bus = forge.frame()
        world.receive(frame, bus=bus)
    elif kind < 24:
        world.pass_time(dice.pick(PAUSES))
    else:
        _calls(world, forge, dice)[kind - 24]()


def _rare_call(world: World, dice: Dice) -> None:
    key = dice.pick(KEYS[dice.pick((A, B, ME))])
    dice.pick((
        world.abandon, lambda: world.get_fenced(key), lambda: world.count(key, 1), lambda: world.count(key, None),
        lambda: world.catch_up({dice.pick((A, B, ME, DEAD)): dice.below(20)}),
    ))()  # fmt: skip


def _calls(world: World, forge: Forge, dice: Dice) -> tuple[Callable[[], None], ...]:
    wires = [key for of_member in KEYS.values() for key in of_member]
    return (
        world.answer,
        lambda: world.read(dice.pick(wires)),
        world.load,
        world.fail,
        lambda: _rare_call(world, dice),
        lambda: world.set(dice.pick(wires), dice.below(2) == 1),
        lambda: world.invalidate((b"k" + dice.pick(wires),)),
        lambda: world.reap(forge.incarnation(), dice.pick((None, 0, 5, NO_NUMBER)), [(1, forge.event())]),
    )


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
    target.__name__: target for target in (frames, forged, parts, keys, peer, values, bus, head, region, shelf)
}
