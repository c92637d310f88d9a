"""A shelf over whose memory somebody scribbles: what is there to be found, and what must always be true."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable

from colocache.core.host import hashes
from colocache.core.host.board import Board
from colocache.core.host.layout import ShelfMemory, geometry
from colocache.core.host.numbers import Numbers
from colocache.core.host.record import Miss, Outcome, Record
from colocache.core.host.shelf import Shelf
from colocache.core.hosts.lease import FOREVER
from colocache.core.keys import prefix, wire
from verification.fuzz.dice import Dice

CAPACITY = 64 << 10  # bytes: one ring, which a short story fills
MARKS = 1 << 12
KEYS = tuple(wire(prefix("users" if number % 2 else ""), f"k{number}") for number in range(6))
SIZES = (3, 0, 700, 2_000, 7_000, 20_000)  # of payloads; the last is too large
WORDS = (0, 1, 8, 16, 4096, 7168, 65536, 1 << 32, 1 << 39, (1 << 40) - 1, 1 << 63, (1 << 64) - 1)


class FreeLocks:
    """Locks that nobody else has."""

    def lock(self, ring: int, /) -> bool:
        """Take one."""
        return True

    def unlock(self, ring: int, /) -> None:
        """Give it back."""


class NoFences:
    """The fences of a world with one thread."""

    def order(self) -> None:
        """Do nothing."""

    def full(self) -> None:
        """Do nothing."""


class Scribbled:
    """Two processes that share a shelf; and what each key may show: what was stored since its last event."""

    def __init__(self) -> None:
        sizes = geometry(CAPACITY)
        mapping = mmap.mmap(-1, sizes.total_size)
        self._memory = memoryview(mapping)
        self._sizes = sizes
        self._now = 1000.0
        self._left = 1 << 20  # bytes by which the shelf may still grow
        marks, bell = (memoryview(array("Q", bytes(8 * size))) for size in (1 + MARKS, 1))
        numbers = [Numbers(writer) for writer in (1, 2)]
        self._boards = [Board(bell, marks, MARKS, each, NoFences()) for each in numbers]
        memory = ShelfMemory.over(mapping, sizes, self._grow)
        self._shelves = [
            Shelf(memory, board, each, NoFences(), FreeLocks(), lambda: self._now, FOREVER)
            for board, each in zip(self._boards, numbers, strict=True)
        ]
        self._may_show: dict[bytes, set[bytes]] = {key: set() for key in KEYS}
        self._stored = 0

    def _grow(self, start: int, end: int) -> bool:
        self._left -= end - start
        return self._left >= 0

    # --- What processes do

    def step(self, dice: Dice) -> None:
        """Do one thing."""
        who, key = dice.below(2), dice.pick(KEYS)
        steps: tuple[Callable[[int, bytes, Dice], None], ...] = (
            self._find, self._set, self._add, self._fill, self._change, self._replace, self._invalidate, self._scribble,
        )  # fmt: skip
        dice.pick(steps)(who, key, dice)
        for each in KEYS:
            self._find(1 - who, each, dice)

    def _payload(self, dice: Dice) -> bytes:
        self._stored += 1
        return b"%d " % self._stored + bytes(dice.pick(SIZES))

    def _hash(self, key: bytes) -> tuple[int, tuple[int, ...]]:
        return hashes.key_hash(key), hashes.path_hashes("users" if b"users" in key else "")

    def _find(self, who: int, key: bytes, dice: Dice) -> None:
        hash, _ = self._hash(key)
        record = self._shelves[who].find(key, hash, self._now)
        if record is not None:
            assert bytes(record.payload) in self._may_show[key], "what was never stored, or is void by now"

    def _set(self, who: int, key: bytes, dice: Dice) -> None:
        hash, others = self._hash(key)
        payload = self._payload(dice)
        outcome, _ = self._shelves[who].set(key, hash, payload, others, self._now + 60)
        self._may_show[key] = {payload} if outcome is Outcome.STORED else set()

    def _add(self, who: int, key: bytes, dice: Dice) -> None:
        hash, others = self._hash(key)
        payload = self._payload(dice)
        outcome, _ = self._shelves[who].add(key, hash, payload, others, self._now + 60)
        if outcome is Outcome.STORED:
            self._may_show[key] = {payload}

    def _fill(self, who: int, key: bytes, dice: Dice) -> None:
        hash, others = self._hash(key)
        found = self._shelves[who].look(key, hash, others, self._now)
        if isinstance(found, Miss):
            is_late, payload = dice.once_in(3), self._payload(dice)
            if is_late:
                self._invalidate(1 - who, key, dice)
            outcome, _ = self._shelves[who].fill(key, hash, payload, found, self._now + 60)
            if outcome is Outcome.STORED and not is_late:
                self._may_show[key].add(payload)

    def _change(self, who: int, key: bytes, dice: Dice) -> None:
        hash, others = self._hash(key)
        payload = self._payload(dice)
        outcome, _ = self._shelves[who].change(key, hash, lambda record: (payload, self._now + 60), others)
        if outcome is Outcome.STORED:
            self._may_show[key] = {payload}

    def _replace(self, who: int, key: bytes, dice: Dice) -> None:
        hash, others = self._hash(key)
        record = self._shelves[1 - who].find(key, hash, self._now)
        if isinstance(record, Record):
            payload = self._payload(dice)
            outcome, _ = self._shelves[who].replace(
                key, hash, record.version, payload, others, self._now + 60, lambda: True
            )
            if outcome is Outcome.STORED:
                self._may_show[key] = {payload}

    def _invalidate(self, who: int, key: bytes, dice: Dice) -> None:
        hash, others = self._hash(key)
        if dice.once_in(4):
            self._boards[who].invalidate(others[-1:], related=True)
            for each in KEYS:
                if others[-1] in self._hash(each)[1]:
                    self._may_show[each] = set()
        else:
            self._boards[who].invalidate((hash,))
            self._may_show[key] = set()

    # --- What somebody does to the memory

    def _scribble(self, who: int, key: bytes, dice: Dice) -> None:
        sizes, memory = self._sizes, self._memory
        parts = (
            (0, 8 * 16), (sizes.index_offset, sizes.used_offset), (sizes.data_offset, sizes.data_offset + 9000),
            (sizes.data_offset + sizes.small_size, sizes.total_size), (sizes.used_offset, sizes.data_offset),
        )  # fmt: skip
        start, end = dice.pick(parts)
        place = start + dice.below((end - start) // 8) * 8
        kind = dice.below(4)
        if kind == 0:
            memory[place : place + 8] = dice.pick(WORDS).to_bytes(8, "little")
        elif kind == 1:
            damage = dice.blob(30)[: len(memory) - place]
            memory[place : place + len(damage)] = damage
        elif kind == 2:  # as if a store had been lost, or come twice
            other = start + dice.below((end - start) // 8) * 8
            size = min(dice.pick((8, 64, 512, 4096)), len(memory) - max(place, other))
            memory[place : place + size] = bytes(memory[other : other + size])
        else:
            word = int.from_bytes(memory[place : place + 8], "little") + dice.pick((16, -16, 1, -1, 1 << 40))
            memory[place : place + 8] = (word % (1 << 64)).to_bytes(8, "little")

    def come_to_rest(self) -> None:
        """Whatever the memory is like, what is stored now is found, and the shelf says how full it is."""
        for shelf in self._shelves:
            assert shelf.entries() >= 0
            shelf.taken()
            assert shelf.resets() >= 0
        for who, key in enumerate(KEYS):
            hash, others = self._hash(key)
            payload = b"last of %d" % who
            outcome, _ = self._shelves[who % 2].set(key, hash, payload, others, self._now + 60)
            if outcome is Outcome.STORED:
                record = self._shelves[1 - who % 2].find(key, hash, self._now)
                assert record is not None
                assert record.payload == payload
            else:
                assert outcome is Outcome.DECLINED, outcome
                assert self._left < 0, "there is room"
