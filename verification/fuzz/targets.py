"""What is fuzzed: functions of bytes that do what the bytes say, and assert that nothing comes of it but what may.

`TARGETS` has them by name. Both drivers run them: `test_fuzz.py`, on the corpus and on what Hypothesis makes up, and
`fuzz.py`, on what the coverage of the last try suggests.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any
from uuid import UUID

from colocache.core.group import messages
from colocache.core.group.messages import MAX_BUS, NO_NUMBER, Event, decode, encode, split_targets
from colocache.core.keys import namespace_of, prefix, wire
from colocache.errors import ConfigError, WireError
from colocache.runtime.journal import JournalReader
from verification.fuzz.dice import Dice
from verification.fuzz.files import Files, journal_file
from verification.fuzz.forge import Forge
from verification.fuzz.values import CODEC, PICKLE
from verification.fuzz.world import DEAD, KEYS, ME, STRANGER, A, B, World, low_limits

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


# --- Files


def journal(data: bytes) -> None:
    """Whatever a stream's file holds, and whenever it is cut short: its events, in order, or None."""
    dice = Dice(data)
    with journal_file(dice) as (descriptor, cut), at_most(64 << 10):
        reader = JournalReader.of(descriptor, ME)
        try:
            first = 1 + dice.below(9)
            _check_journal(reader, first)
            cut()
            _check_journal(reader, first)
        finally:
            reader.close()


def _check_journal(reader: JournalReader, first: int) -> None:
    last, events = reader.last(), reader.events(first)
    assert last is None or 0 <= last <= NO_NUMBER
    if events is not None:
        assert last is not None
        assert [number for number, _ in events] == list(range(first, last + 1))


def seats(data: bytes) -> None:
    """Whatever lies in the group's directory: members are found, watched, cleaned away; a seat taken, or ConfigError.

    And nothing outside of the directory is touched, whatever links lead there.
    """
    dice = Dice(data)
    with Files(dice) as files:
        for _ in range(2):
            found = [*files.directory.scan(), *files.directory.remains()]
            for sighting in found:
                files.look_at(sighting.incarnation)
            files.directory.clean()
        assert files.directory.watch(dice.blob(40)) is None
        refused_or(ConfigError, files.join, STRANGER)


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
    target.__name__: target for target in (frames, forged, parts, keys, peer, values, journal, seats)
}
