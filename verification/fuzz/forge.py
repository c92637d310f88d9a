"""Frames as a hostile, or a broken, member might send them: of every kind, mostly good enough to be believed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from colocache.core.group import messages
from colocache.core.group.messages import MAX_STREAMS, MAX_TAG, MAX_TAGS, NO_NUMBER, Record, pack_positions
from colocache.core.keys import MAX_BODY, MAX_NAMESPACE, prefix, wire
from verification.fuzz.dice import Dice
from verification.fuzz.world import DEAD, FORGOTTEN, KEYS, ME, SEATS, STRANGER, A, B

HEAD = bytes((messages.PROTOCOL,))
KINDS = [(code, record._fields, checks, rest) for code, record, checks, rest in messages._TABLE]
KINDS = [*KINDS[:22], *KINDS[:1] * 3, *KINDS[22:], *KINDS[:1] * 3]  # events, which all turns on, come in swarms
ROWS = ((1, 0, 2, 3, 5, 8), (64, 65, 200))
ODD = 12  # one value in so many is none of the good ones

# For each kind of field: what a member might say, and what no member would.
NUMBERS = (
    (*range(13), 20, NO_NUMBER),
    (1023, 1024, 1025, 1 << 31, 1 << 32, NO_NUMBER - 1, 1 << 63, (1 << 64) - 1, -1, -2),
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
FLAGS = ((True, False), (1, None))
STRANGE: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, "", "a", b"", b"x", b"\xff" * 24, [], [1], {}, {"a": 1}, 1 << 63,
    msgpack.ExtType(5, b"a"), msgpack.Timestamp(1),
)  # fmt: skip


class Forge:
    """Makes frames off dice. ``digest`` gives what a member sends that knows the same members as the receiver."""

    def __init__(self, dice: Dice, digest: Callable[[], bytes] = lambda: bytes(8)) -> None:
        self._dice = dice
        self._fields: dict[Callable[[Any], bool], Callable[[], Any]] = {
            messages._identity: self.incarnation, messages._digest: lambda: self._one_of(((digest(),), (b"short",))),
            messages._count: self.number, messages._number: self.number, messages._delta: self.number,
            messages._start: lambda: self._one_of(STARTS),
            messages._seconds: lambda: self._one_of(SECONDS), messages._flag: lambda: self._one_of(FLAGS),
            messages._name: lambda: self._one_of(TEXTS), messages._tag: lambda: self._one_of(TEXTS),
            messages._key: lambda: self._one_of(WIRES), messages._payload: lambda: self._one_of(PAYLOADS),
            messages._target: self.target, messages._positions: self._positions,
            messages._blob: self._record, messages._event_frame: self.event,
        }  # fmt: skip

    def frame(self) -> tuple[bytes, bool]:
        """Return a frame, and whether it comes by the bus; one in six is damaged, as a whole or in one field."""
        code, names, checks, rest = self._dice.pick(KINDS)
        fields = [code, *(self._field(name, check) for name, check in zip(names, checks, strict=False))]
        if rest is not None:
            for _ in range(self._one_of(ROWS)):
                fields += [self._fields[check]() for check in rest.row]
        if self._dice.once_in(ODD):
            fields[self._dice.below(len(fields))] = self._dice.pick(STRANGE)
        return self._perhaps_damaged(HEAD + msgpack.packb(fields)), ("to" in names) == self._dice.once_in(ODD)

    def _perhaps_damaged(self, frame: bytes) -> bytes:
        dice = self._dice
        if not dice.once_in(ODD):
            return frame
        at = dice.below(len(frame))
        return frame[:at] + dice.blob(8) + frame[at + dice.below(9) :]

    def _field(self, name: str, check: Callable[[Any], bool]) -> Any:
        if name == "to":
            return self._one_of(((ME,), (A, B, STRANGER, b"")))
        if name == "sender":
            return self._one_of(((A, B), (ME, STRANGER, DEAD, FORGOTTEN, b"")))
        return self._fields[check]()

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
        return self._dice.below(1 << 64) if self._dice.once_in(ODD) else self._one_of(NUMBERS)

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
        return HEAD + msgpack.packb([1, self.incarnation(), self.number(), *targets])
