"""A gateway to which other hosts say what they like, while time passes and this host invalidates things itself."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from colocache.core.host.board import PAGE, Board
from colocache.core.host.numbers import Numbers
from colocache.core.hosts.event import KEYS, MAX_HASHES, WRITES, Event
from colocache.core.hosts.gateway import SECOND, Gateway, Reply, Send, Times
from colocache.core.hosts.layout import ENTRIES, LANES, UNTIL, WORDS
from colocache.core.hosts.log import HostLog
from colocache.core.hosts.messages import (
    LARGEST,
    Ack,
    Ask,
    Known,
    Message,
    News,
    Ping,
    Pong,
    Replayed,
    Reset,
    Told,
    View,
    decode,
    encode,
)
from colocache.core.hosts.rows import ALIVE, ENDED, ENDED_AT, LIVE, Host, Row
from verification.fuzz.dice import Dice

PAUSES = tuple(int(seconds * SECOND) for seconds in (0, 0.001, 0.1, 0.5, 3.0, 31.0, 700.0))
NUMBERS = (0, 1, 2, 3, 5, 4096, 8191, 8192, 8193, 1 << 40, (1 << 63) - 1)
ME, IDS = b"m" * 16, tuple(bytes([97 + number]) * 16 for number in range(4))


class _Fences:
    """The order of a machine on which nobody else stores anything."""

    @staticmethod
    def order() -> None:
        """Do nothing."""

    def full(self) -> None:
        """Do nothing."""


class _Lanes:
    def lock(self, lane: int) -> bool:
        return True

    def unlock(self, lane: int) -> None:
        pass


class _Meetings:
    def __init__(self) -> None:
        self.known: set[bytes] = set()

    def are_complete(self, established: bool, forgotten: Set[bytes]) -> bool:
        return True

    def tell(self, host: Host) -> None:
        self.known.add(host.id)

    def end(self, host: bytes, goodbye: bool) -> None:
        self.known.discard(host)

    def given_up(self) -> set[int]:
        return set()

    def give_up(self, places: Set[int]) -> None:
        pass


class Attacked:
    """One gateway, over memory of its own."""

    def __init__(self) -> None:
        self.words = [0] * WORDS
        self.now = SECOND
        fences: Any = _Fences()
        self.board = Board([1], [1] * (1 + PAGE), PAGE, Numbers(1), fences)
        self.log = HostLog(self.words, _Lanes(), fences, lambda lane: True)
        self.row = Row(self.words, fences, 0)
        self.gateway = Gateway(
            Host(ME, "me", "10.0.0.1:7400", 1), self.words, self.row, self.log, self.board, fences, _Meetings(),
            Times(), now=self.now,
        )  # fmt: skip

    def step(self, dice: Dice) -> None:
        """Do something, and look at what comes of it."""
        kind = dice.below(16)
        if kind < 10:
            message = decode(encode(_message(dice)))
            self._check(self.gateway.receive(message, self.now))
        elif kind < 13:
            self.now += dice.pick(PAUSES)
            self._check(self.gateway.tick(self.now))
            self._check([Reply(self.gateway.ping(dice.pick((None, *IDS)), self.now))])
        else:
            self.log.append(Event(KEYS, (dice.below(1 << 16),)))
            self._check(self.gateway.look(self.now))

    def _check(self, outs: list[Send | Reply]) -> None:
        for out in outs:
            frame = encode(out.message)
            assert len(frame) <= LARGEST
            assert decode(frame) == out.message
        assert len(self.row.ids()) < ENTRIES
        longest = self.now + self.gateway.times.lease
        assert self.words[UNTIL] <= longest, "current for longer than a lease from now"
        assert all(self.row.largest(id, ALIVE) <= longest for id in self.row.ids()), "heard of later than now"

    def come_to_rest(self) -> None:
        """End: an event is stamped and told, whatever has come before."""
        position = self.log.append(Event(KEYS, (7,)))
        before = self.board.label((7,))
        self._check(self.gateway.look(self.now))
        assert self.log.is_stamped(*position)
        assert not self.board.stands(before)


# --- Nearly messages


def _message(dice: Dice) -> Message:
    id = dice.pick((*IDS, ME))
    make = dice.below(8)
    if make == 0:
        return Ping(_host(dice, id), dice.pick(NUMBERS), _view(dice))
    if make == 1:
        return Pong(
            _host(dice, id), dice.pick((ME, *IDS)), dice.pick(NUMBERS), _numbers(dice), _numbers(dice), _view(dice),
            deaf=dice.pick(NUMBERS),
        )  # fmt: skip
    if make == 2:
        return Told(id, dice.below(LANES), dice.pick(NUMBERS), _event(dice))
    if make == 3:
        return Ack(id, dice.pick((ME, *IDS)), _numbers(dice))
    if make == 4:
        return Ask(id, dice.pick((ME, *IDS)), _numbers(dice))
    if make == 5:
        events = tuple([_event(dice) for _ in range(dice.below(4))])
        return Replayed(id, dice.below(LANES), dice.pick(NUMBERS), events)
    if make == 6:
        return Reset(id, _numbers(dice))
    return News(id, _roster(dice))


def _host(dice: Dice, id: bytes) -> Host:
    return Host(id, dice.pick(("a", "b", "", "é" * 32)), dice.pick(("10.0.0.2:7400", "")), dice.pick((0, 1, 1 << 40)))


def _numbers(dice: Dice) -> dict[int, int]:
    return {dice.below(LANES): dice.pick(NUMBERS) for _ in range(dice.below(3))}


def _event(dice: Dice) -> Event:
    hashes = tuple([dice.below(1 << 16) for _ in range(dice.below(MAX_HASHES + 1))])
    return Event(KEYS + dice.below(WRITES), hashes, dice.once_in(2))


def _roster(dice: Dice) -> tuple[Known, ...]:
    found = []
    for _ in range(dice.below(4)):
        state = dice.pick((LIVE, ENDED, ENDED_AT))
        last = _numbers(dice) if state == ENDED_AT else None
        found.append(Known(_host(dice, dice.pick((*IDS, ME, dice.bytes(16).ljust(16, b"z")))), state, last))
    return tuple(found)


def _view(dice: Dice) -> View:
    forgotten = {dice.pick(IDS): _numbers(dice)} if dice.once_in(2) else {}
    silent, unheard = ({dice.pick((*IDS, ME)): dice.pick(NUMBERS)} for _ in range(2))
    return View(dice.below(1 << 16), dice.below(1 << 16), _roster(dice), forgotten, silent, unheard)
