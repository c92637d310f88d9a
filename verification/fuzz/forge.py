"""Frames as a hostile, or a broken, member might send them: of every kind, mostly good enough to be believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

from colocache.core.group import messages
from colocache.core.group.messages import MAX_STREAMS, MAX_TAG, MAX_TAGS, NO_NUMBER, Record, pack_positions
from colocache.core.keys import MAX_BODY, MAX_NAMESPACE, prefix, wire
from verification.fuzz.dice import Dice
from verification.fuzz.world import DEAD, FORGOTTEN, KEYS, ME, SEATS, STRANGER, A, B

EVENT, *OTHERS = get_args(messages.Message)
KINDS = [*OTHERS, *[EVENT] * 7]  # most depends on events, so they come in swarms
ROWS = ((1, 0, 2, 3, 5, 8), (64, 65, 200))
ODD = 12  # one value in so many is a bad one

# For each kind of field: what a member might say, and what no member would.
NUMBERS = (
    (*range(13), 20, NO_NUMBER),
    (1023, 1024, 1025, 1 << 31, 1 << 32, NO_NUMBER - 1, -1, -2, -1 << 63),
)
SECONDS = ((1.0, 0.0, 0.05, 0.3, 3.0, 30.0, 1e6, math.inf), (5e-324, 1e308, -0.0, math.nan, -1.0, -math.inf))
TEXTS = (
    (*SEATS.values(), "t", "u", "unknown", "é" * 125),
    ("", "..", "../../etc/passwd", "/tmp/x", "a\0b", "a\nb", "host/-1", "host/99999", "😀", "a" * 299 + "😀", "x" * 300,
     "x" * 301, "@abstract", "ipc:///tmp/x", "tcp://0.0.0.0:1"),
)  # fmt: skip
NAMESPACES = (("users", "", "users/old", "none"), ("n" * MAX_NAMESPACE, "n" * 256, "n" * 257))
PAYLOADS = ((b"v", b"", b"w" * 999), (bytes(70_000),))
STARTS = ((b"\0int\5", b"", b"\0int\xff"), (b"\0int", b"\0int" + bytes(64), bytes(69)))
WIRES = (
    tuple(key for of_member in KEYS.values() for key in of_member),
    (wire(prefix("n" * MAX_NAMESPACE), "k" * (MAX_BODY - 1)), b"\0s", b"", b"\5user", b"\2\xff\xfesk", b"\0" * 402),
)
FLAGS = (True, False)
DIGESTS = (bytes(8), b"a digest")


class Forge:
    """Makes frames off dice. ``digest`` gives what a member sends that knows the same members as the receiver."""

    def __init__(self, dice: Dice, digest: Callable[[], bytes] = lambda: bytes(8)) -> None:
        self._dice = dice
        self._fields: dict[Any, Callable[[], Any]] = {
            messages.Identity: self.incarnation, messages.Digest: lambda: self._one_of(((digest(),), DIGESTS)),
            messages.Count: self.number, messages.Number: self.number, messages.Delta: self.number,
            messages.Start: lambda: self._one_of(STARTS), messages.Seconds: self._seconds,
            messages.Flag: lambda: self._dice.pick(FLAGS), messages.Seat: self._text,
            messages.Key: self._key, messages.Payload: lambda: self._one_of(PAYLOADS),
            messages.Positions: self._positions, messages.Tags: lambda: self._rows(self._text),
            messages.Targets: lambda: self._rows(self.target), messages.Keys: lambda: self._rows(self._key),
            messages.Records: lambda: self._rows(self._record), messages.Seats: lambda: self._rows(self._text),
            messages.EventFrames: lambda: self._rows(self.event),
            messages.Silent: lambda: self._rows(lambda: (self.incarnation(), self._seconds())),
            messages.Members: lambda: self._rows(self._member),
        }  # fmt: skip

    def frame(self) -> tuple[bytes, bool]:
        """Return a frame, and whether it comes by the bus. One in so many is damaged."""
        kind = self._dice.pick(KINDS)
        hints = get_type_hints(kind, include_extras=True)
        message = kind(*(self._field(name, hint) for name, hint in hints.items()))
        return self._perhaps_damaged(messages.encode(message)), ("to" in hints) == self._dice.once_in(ODD)

    def _perhaps_damaged(self, frame: bytes) -> bytes:
        dice = self._dice
        if not dice.once_in(ODD):
            return frame
        at = dice.below(len(frame))
        return frame[:at] + dice.blob(8) + frame[at + dice.below(9) :]

    def _field(self, name: str, hint: Any) -> Any:
        if name == "to":
            return self._one_of(((ME,), (A, B, STRANGER)))
        if name == "sender":
            return self._one_of(((A, B), (ME, STRANGER, DEAD, FORGOTTEN)))
        return self._fields[hint]()

    def _rows(self, value: Callable[[], Any]) -> tuple[Any, ...]:
        return tuple(value() for _ in range(self._one_of(ROWS)))

    def _one_of(self, words: tuple[Sequence[Any], Sequence[Any]]) -> Any:
        good, odd = words
        return self._dice.pick(odd if self._dice.once_in(ODD) else good)

    # --- Fields

    def incarnation(self) -> bytes:
        """Return an incarnation, of somebody or nobody."""
        known = (A, B, ME, STRANGER, DEAD, FORGOTTEN)
        place = self._dice.below(len(known) + 1)
        return known[place] if place < len(known) else self._dice.bytes(1).ljust(16, b"s")

    def number(self) -> int:
        """Return a number."""
        return self._dice.below(1 << 64) - (1 << 63) if self._dice.once_in(ODD) else self._one_of(NUMBERS)

    def _seconds(self) -> float:
        return self._one_of(SECONDS)

    def _text(self) -> str:
        return self._one_of(TEXTS)

    def _key(self) -> bytes:
        return self._one_of(WIRES)

    def _member(self) -> tuple[Any, ...]:
        return self.incarnation(), self._text(), self.number(), self.number(), self._seconds()

    def target(self) -> bytes:
        """Return what an event can hit, or something of the kind."""
        kind = self._dice.below(8)
        if kind < 5:
            return b"k" + self._one_of(WIRES)
        if kind == 5:
            return b"t" + self._one_of(TEXTS).encode()
        if kind == 6:
            return b"n" + self._one_of(NAMESPACES).encode()
        return self._one_of(((messages.EVERYTHING,), (b"*a", b"", b"x", b"t" + b"x" * (MAX_TAG + 1))))

    def _positions(self) -> bytes:
        if self._dice.once_in(ODD):
            return self._dice.blob(72)
        if self._dice.once_in(ODD):
            return pack_positions({number.to_bytes(16, "big"): number for number in range(MAX_STREAMS)})
        streams = [self.incarnation() for _ in range(self._dice.below(4))]
        return b"".join(pack_positions({stream: self.number() % (1 << 64)}) for stream in streams)

    def _record(self) -> bytes:
        if self._dice.once_in(ODD):
            return self._dice.blob(40)
        tags = [self._one_of(TEXTS) for _ in range(self._dice.pick((0, 1, 2, MAX_TAGS, MAX_TAGS + 1)))]
        record = Record(self.number(), b"found", self._one_of(SECONDS), self._one_of(SECONDS), tuple(tags))
        return messages.pack_record(record)

    def event(self) -> bytes:
        """Return the frame of an event, or something of the kind."""
        if self._dice.once_in(ODD):
            return self._dice.blob(40)
        targets = [self.target() for _ in range(1 + self._dice.below(4))]
        return messages.encode(messages.Event(self.incarnation(), self.number(), tuple(targets)))
