"""What the processes of `chaos.py` do: read and write without end, and judge every read."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from random import Random
from time import monotonic, monotonic_ns
from typing import Any, NamedTuple

import colocache
from colocache import Receipt
from verification.chaos.board import KEYS, PAGES, ROWS, SPACE, SPACES, TAGS, WRITERS, Board, Due, keys_of, own_key
from verification.chaos.register import Register
from verification.chaos.strain import Strain

SLOW = (0.0,) * 12 + (0.02, 0.02, 0.1)  # s; what a load may take once it has read the source
MARGIN = 0.1  # s beyond the lease, because a scheduler may be late between a look at the clock and the next step
GRACE = 4.0  # s; a call that took this much longer than it may was stopped, and may have given up before it announced
TASKS = 3

Wait = bool | float
Call = Callable[[], Receipt]


class Unlucky(Exception):
    """Raised by a loader, now and then."""


class Hand(NamedTuple):
    """One thread at work."""

    row: int  # its counters on the board
    writer: int  # its cells
    dice: Random

    @property
    def may_set(self) -> bool:
        """Whether it is the only one of its slot that sets: of two sets under way at once either may be the last."""
        return self.writer % WRITERS == 0


class Work:
    """Threads and tasks that read and write through one cache until they are told to finish.

    ``hard``: under a strain that is drawn by the seed; if not, under none, and at a pace for days. Who does not write
    announces nothing.
    """

    def __init__(
        self, cache: colocache.Cache, directory: Path, slot: int, slots: int, seed: int, *, hard: bool, writes: bool
    ) -> None:
        self._cache = cache
        self._slot = slot
        self._board = Board(directory, slots)
        self._register = Register(directory)
        self._keys = (*keys_of(slots), *PAGES)
        self._own = dict.fromkeys(keys_of(slots), 0)  # what this process has announced, it never reads back old
        self._pause = 1.0 if hard else 40.0
        self._incomplete = threading.local()
        self._enough = threading.Event()
        strain = Strain.draw(Random(seed), cache.config.lease) if hard else Strain()
        strain.prepare()
        cache.start()
        cache._tell_incomplete = self._hear_incomplete  # type: ignore[method-assign]
        self._board.inherit(slot)
        self._board.note("begins", slot=slot, **strain._asdict())
        self._spaces = {path: cache.namespace(path) if path else cache for path in SPACES}
        self._threads = strain.impose(cache, Random(f"{seed} loss"), self._enough)
        self._writes = writes
        write = self._write if writes else self._read
        for number, body in enumerate((write, write, self._run_tasks, self._read, self._read)):
            hand = Hand(slot * ROWS + number, slot * WRITERS + number, Random(f"{seed} {number}"))
            self._threads.append(threading.Thread(target=self._run, args=(body, hand)))
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """End the threads."""
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def look_back(self) -> None:
        """Read every key once more."""
        for key in self._keys:
            self._get(Hand(self._slot * ROWS, self._slot * WRITERS, Random(key)), key)
        self._register.close()

    def _run(self, body: Callable[[Hand], None], hand: Hand) -> None:
        try:
            while not self._enough.is_set():
                body(hand)
        except Exception:
            self._board.accuse("error", slot=self._slot, error=traceback.format_exc())
        finally:
            self._register.close()

    def _run_tasks(self, hand: Hand) -> None:
        async def run() -> None:
            write = self._awrite if self._writes else self._aread
            await asyncio.gather(write(hand), *[self._aread(hand) for _ in range(TASKS)])

        asyncio.run(run(), debug=False)

    # --- Reading

    def _read(self, hand: Hand) -> None:
        dice = hand.dice
        for _ in range(dice.randrange(1, 100)):
            if dice.random() < 0.05:
                self._get_many(hand, dice.choice(list(SPACES)))
            else:
                self._get(hand, dice.choice(self._keys))
        self._enough.wait(self._pause * dice.uniform(0, 0.02))  # or nobody else would come to anything on two cores

    def _get(self, hand: Hand, key: str) -> None:
        def load() -> Any:
            value, late = self._load(hand, key)
            self._enough.wait(late)
            return value

        dues, began = self._dues(key), monotonic_ns()
        with suppress(Unlucky):
            value = self._space(key).get_or_load(key, load, tags=TAGS.get(key, ()))
            self._judge(hand.row, key, dues, began, value)

    def _get_many(self, hand: Hand, path: str) -> None:
        keys = [f"k{number}" for number in hand.dice.sample(SPACES[path], 4)]
        dues, began = {key: self._dues(key) for key in keys}, monotonic_ns()
        for key, value in self._spaces[path].get_many(keys).items():
            self._judge(hand.row, str(key), dues[str(key)], began, value)

    def _load(self, hand: Hand, key: str) -> tuple[Any, float]:
        """What the source has, or what is made of cached parts; and for how long the loader keeps it to itself."""
        self._board.count(hand.row, loads=1)
        if hand.dice.random() < 0.02 and not self._enough.is_set():
            raise Unlucky
        late = hand.dice.choice(SLOW)
        if key not in PAGES:
            return self._register.read(key), late
        read = {
            part: self._space(part).get_or_load(part, lambda part=part: self._load(hand, part)[0], tags=TAGS[part])
            for part in PAGES[key]
        }
        return read, late

    async def _aread(self, hand: Hand) -> None:
        dice = hand.dice
        while not self._enough.is_set():
            for _ in range(dice.randrange(1, 50)):
                await self._aget(hand, dice.choice(KEYS), dice.choice((None, None, 0.002)))
            await asyncio.sleep(self._pause * dice.uniform(0, 0.03))

    async def _aget(self, hand: Hand, key: str, patience: float | None) -> None:
        async def load() -> Any:
            value, late = self._load(hand, key)
            await asyncio.sleep(late)
            return value

        dues, began = self._dues(key), monotonic_ns()
        try:
            async with asyncio.timeout(patience):
                value = await self._space(key).aget_or_load(key, load, tags=TAGS[key])
        except TimeoutError:
            if patience is None:
                raise
            self._board.count(hand.row, impatient=1)
        except Unlucky:
            pass
        else:
            self._judge(hand.row, key, dues, began, value)
            self._board.count(hand.row, async_reads=1)

    # --- Judging

    def _dues(self, key: str) -> dict[str, Due]:
        """What a read of a key, or of the parts of a page, must give at least."""
        return {part: max(self._board.due(part), Due(self._own[part], "own")) for part in PAGES.get(key, (key,))}

    def _judge(self, row: int, key: str, dues: dict[str, Due], began: int, value: Any) -> None:
        self._board.count(row, reads=1)
        for part, version in (value if key in PAGES else {key: value}).items():
            if version >= dues[part].version:
                continue
            if self._board.may_come_late(part, version):
                self._board.count(row, late_sets=1)
                continue
            now = monotonic_ns()
            self._board.accuse(
                "stale", slot=self._slot, key=key, part=part, got=version, due=dues[part].version, why=dues[part].why,
                began=began, returned=now, truth=self._register.read(part), stats=asdict(self._cache.stats()),
            )  # fmt: skip

    # --- Writing

    def _write(self, hand: Hand) -> None:
        wait = hand.dice.choice((True, True, True, False, 0.02))
        ways = (self._keys_change, self._a_tag_changes, self._a_space_changes, self._set)
        hand.dice.choices(ways, (12, 3, 1, 4 * hand.may_set))[0](hand, wait)
        self._enough.wait(self._pause * hand.dice.expovariate(30))

    def _keys_change(self, hand: Hand, wait: Wait) -> None:
        keys = hand.dice.sample(KEYS, hand.dice.choice((1, 1, 1, 3)))
        pages = [page for page, parts in PAGES.items() if set(parts) & set(keys)]
        of_space = {path: [key for key in (*keys, *pages) if SPACE.get(key, "") == path] for path in SPACES}
        # The root last, for its pages are made of what the others have.
        calls: list[Call] = [
            lambda path=path, some=some: self._spaces[path].invalidate(*some, wait=wait)
            for path, some in sorted(of_space.items(), reverse=True)
            if some
        ]
        self._announce(hand, "by_key", keys, wait, calls)

    def _a_tag_changes(self, hand: Hand, wait: Wait) -> None:
        tag = hand.dice.choice(TAGS[hand.dice.choice(KEYS)])
        keys = [key for key in KEYS if tag in TAGS[key]]
        self._announce(hand, "by_tag", keys, wait, [lambda: self._cache.invalidate_tags(tag, wait=wait)])

    def _a_space_changes(self, hand: Hand, wait: Wait) -> None:
        path = hand.dice.choice(list(SPACES))
        keys = [key for key in KEYS if SPACE[key].startswith(path)]
        calls: list[Call] = [lambda: self._spaces[path].clear(wait=wait)]
        if path:
            calls.append(lambda: self._cache.invalidate(*PAGES, wait=wait))
        self._announce(hand, "by_namespace", keys, wait, calls)

    def _announce(self, hand: Hand, how: str, keys: Iterable[str], wait: Wait, calls: list[Call]) -> None:
        versions, began = self._commit(how, keys, wait), monotonic()
        self._told(hand, how, wait, versions, began, [call() for call in calls])

    async def _awrite(self, hand: Hand) -> None:
        dice = hand.dice
        while not self._enough.is_set():
            key = dice.choice([key for key in KEYS if not any(key in parts for parts in PAGES.values())])
            wait = dice.choice((True, False))
            versions, began = self._commit("by_key", (key,), wait), monotonic()
            receipt = await self._space(key).ainvalidate(key, wait=wait)
            self._told(hand, "by_key", wait, versions, began, [receipt])
            await asyncio.sleep(self._pause * dice.expovariate(10))

    def _set(self, hand: Hand, wait: Wait) -> None:
        key = own_key(self._slot)
        versions, began = self._commit("by_set", (key,), wait), monotonic()
        self._board.begin_set(self._slot, versions[key])
        self._incomplete.told = False
        kept = self._cache.set(key, versions[key], wait="all" if wait is True else "stored")
        complete = wait is True and not self._incomplete.told
        self._settle(hand, versions, complete, in_time=monotonic() - began < GRACE)
        self._board.end_set(self._slot)
        self._board.note("is told", slot=self._slot, how="by_set", versions=versions, kept=kept, complete=complete)
        self._board.count(hand.row, by_set=1)

    def _commit(self, how: str, keys: Iterable[str], wait: Wait) -> dict[str, int]:
        versions = self._register.write(keys)
        self._board.note("commits", slot=self._slot, how=how, wait=wait, versions=versions)
        return versions

    def _told(
        self, hand: Hand, how: str, wait: Wait, versions: dict[str, int], began: float, receipts: list[Receipt]
    ) -> None:
        limit = len(receipts) * (self._cache.config.lease if wait else 0.0)
        complete = all(receipt.complete for receipt in receipts)
        self._settle(hand, versions, complete, in_time=monotonic() - began < limit + GRACE)
        self._board.note("is told", slot=self._slot, how=how, versions=versions, receipts=receipts)
        counted = {how: 1, "unawaited": not wait, "awaited": wait is True, "complete": wait is True and complete}
        self._board.count(hand.row, **counted)

    def _settle(self, hand: Hand, versions: dict[str, int], complete: bool, in_time: bool) -> None:
        if complete:
            self._board.acknowledge(hand.writer, versions)
        if complete or in_time:
            self._own.update({key: max(version, self._own[key]) for key, version in versions.items()})
            self._board.announce(hand.writer, versions, self._cache.config.lease * 1.05 + MARGIN)

    def _hear_incomplete(self, receipt: Receipt) -> None:
        """What `set` does not return."""
        self._incomplete.told = True
        colocache.Cache._tell_incomplete(self._cache, receipt)

    def _space(self, key: str) -> colocache.Space:
        return self._spaces[SPACE.get(key, "")]
