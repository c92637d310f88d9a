"""What the processes of `campaign.py` do: read, write the source, and invalidate, without end; every read is judged."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from colocache import Receipt
from verification.chaos.board import KEYS, PAGES, ROWS, SPACE, SPACES, TAGS
from verification.chaos.values import value_of
from verification.chaos.work import Unlucky
from verification.network import sight
from verification.network.checker import Checker, UnderWay

SLOW: Final = (0.0,) * 14 + (0.02, 0.1)  # s; what a load may take once it has read the source
READ: Final = (*KEYS, *PAGES)
TASKS: Final = 2
NOT_WAITED: Final = 0.2  # the share of writes whose receipt nobody waits for: only the lease bounds them
PROMPT: Final = 0.1  # s


Call = Callable[[bool], Receipt]  # which announces; whether it waits


class Hand(NamedTuple):
    """One thread at work: its row in the files, and its dice."""

    row: int
    dice: Random


class Work:
    """Threads and tasks that read and write through one cache until they are told to finish."""

    def __init__(self, cache: Any, directory: Path, slot: int, slots: int, seed: float, hosts: int) -> None:
        """Join, and begin. There are so many ``hosts`` in the group."""
        self._cache, self._slot, self._hosts = cache, slot, hosts
        self._checker = Checker(directory, slots, slot)
        self._board = self._checker.board
        self._under_way = UnderWay(directory, slots)
        self._enough = threading.Event()
        self._has_been_current = False
        cache.start()
        self._spaces = {path: cache.namespace(path) if path else cache for path in SPACES}
        self._mine = threading.local()
        self._functions = {path: self._function(space) for path, space in self._spaces.items()}
        self._board.note("begins", slot=slot)
        bodies = (self._write, self._read, self._read, self._run_tasks)
        hands = [Hand(slot * ROWS + number, Random(f"{seed} {number}")) for number in range(len(bodies))]
        self._threads = [
            threading.Thread(target=self._run, args=each) for each in zip(bodies, hands, strict=True)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """End the threads."""
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _run(self, body: Callable[[Hand], None], hand: Hand) -> None:
        self._mine.hand = hand
        try:
            while not self._enough.is_set():
                body(hand)
        except Exception:
            self._board.accuse("error", slot=self._slot, error=traceback.format_exc())
        finally:
            self._checker.register.close()

    # --- Reading

    def _read(self, hand: Hand) -> None:
        dice = hand.dice
        for _ in range(dice.randrange(1, 60)):
            way = dice.random()
            if way < 0.05:
                self._get_many(hand, dice.choice(list(SPACES)))
            elif way < 0.5:
                self._call(hand, dice.choice(READ))
            else:
                self._get(hand, dice.choice(READ))
        self._enough.wait(dice.uniform(0, 0.05))  # or nobody else would come to anything on two cores

    def _get(self, hand: Hand, key: str) -> None:
        look = self._checker.look(key)
        with suppress(Unlucky), self._under_way.call(hand.row):
            value = self._space(key).get_or_load(key, lambda: self._load(hand, key), tags=TAGS[key])
            self._checker.judge(hand.row, key, look, value)

    def _call(self, hand: Hand, key: str) -> None:
        look = self._checker.look(key)
        with suppress(Unlucky), self._under_way.call(hand.row):
            self._checker.judge(hand.row, key, look, self._functions[SPACE.get(key, "")](key))

    def _get_many(self, hand: Hand, path: str) -> None:
        keys = [f"k{number}" for number in hand.dice.sample(SPACES[path], 4)]
        looks = {key: self._checker.look(key) for key in keys}
        with self._under_way.call(hand.row):
            found = self._spaces[path].get_many(keys)
        for key, value in found.items():
            self._checker.judge(hand.row, key, looks[key], value)

    def _function(self, space: Any) -> Any:
        """A function whose results are values of the keys, beside those of `get_or_load`."""

        @space.cached(tags=lambda key: (*TAGS[key], _of(key)))  # type: ignore[untyped-decorator]
        def read(key: str) -> Any:
            return self._load(self._mine.hand, key)

        return read

    def _load(self, hand: Hand, key: str) -> Any:
        """What the source has, or what is made of cached parts; and a while later, now and then."""
        value, late = self._source(hand, key)
        self._enough.wait(late)
        return value

    def _source(self, hand: Hand, key: str) -> tuple[Any, float]:
        self._board.count(hand.row, loads=1)
        if hand.dice.random() < 0.02 and not self._enough.is_set():
            raise Unlucky
        late = hand.dice.choice(SLOW)
        if key not in PAGES:
            return value_of(key, self._checker.register.read(key)), late
        read = {
            part: self._space(part).get_or_load(part, lambda part=part: self._load(hand, part), tags=TAGS[part])
            for part in PAGES[key]
        }
        return read, late

    def _run_tasks(self, hand: Hand) -> None:
        async def run() -> None:
            await asyncio.gather(*[self._aread(hand) for _ in range(TASKS)])

        asyncio.run(run(), debug=False)

    async def _aread(self, hand: Hand) -> None:
        dice = hand.dice
        while not self._enough.is_set():
            for _ in range(dice.randrange(1, 30)):
                await self._aget(hand, dice.choice(KEYS))
            await asyncio.sleep(dice.uniform(0, 0.05))

    async def _aget(self, hand: Hand, key: str) -> None:
        async def load() -> Any:
            value, late = self._source(hand, key)
            await asyncio.sleep(late)
            return value

        look = self._checker.look(key)
        with suppress(Unlucky):
            value = await self._space(key).aget_or_load(key, load, tags=TAGS[key])
            self._checker.judge(hand.row, key, look, value)
            self._board.count(hand.row, async_reads=1)

    # --- Writing

    def _write(self, hand: Hand) -> None:
        ways = (self._keys_change, self._a_tag_changes, self._a_space_changes)
        hand.dice.choices(ways, (80, 15, 2))[0](hand)
        self._enough.wait(hand.dice.expovariate(8))

    def _keys_change(self, hand: Hand) -> None:
        keys = hand.dice.sample(KEYS, hand.dice.choice((1, 1, 1, 3)))
        pages = [page for page, parts in PAGES.items() if set(parts) & set(keys)]
        of_space = {path: [key for key in (*keys, *pages) if SPACE.get(key, "") == path] for path in SPACES}
        # The root last, for its pages are made of what the others have; and then the functions, for so are theirs.
        calls: list[Call] = [
            lambda wait, path=path, some=some: self._spaces[path].invalidate(*some, wait=wait)  # type: ignore[misc]
            for path, some in sorted(of_space.items(), reverse=True)
            if some
        ]
        self._announce(hand, "by_key", keys, [*calls, self._functions_change(*keys, *pages)])

    def _functions_change(self, *keys: str) -> Call:
        return lambda wait: self._cache.invalidate_tags(*map(_of, keys), wait=wait)

    def _a_tag_changes(self, hand: Hand) -> None:
        tag = hand.dice.choice(TAGS[hand.dice.choice(KEYS)])
        keys = [key for key in KEYS if tag in TAGS[key]]
        # Each page has the tag of its parts, and so have the functions' results.
        self._announce(hand, "by_tag", keys, [lambda wait: self._cache.invalidate_tags(tag, wait=wait)])

    def _a_space_changes(self, hand: Hand) -> None:
        path = hand.dice.choice(list(SPACES))
        calls: list[Call] = [lambda wait: self._spaces[path].clear(wait=wait)]  # with the functions in it
        if path:
            calls += [lambda wait: self._cache.invalidate(*PAGES, wait=wait), self._functions_change(*PAGES)]
        self._announce(hand, "by_namespace", [key for key in KEYS if SPACE[key].startswith(path)], calls)

    def _announce(self, hand: Hand, how: str, keys: Iterable[str], calls: Iterable[Call]) -> None:
        is_announced, before = self._is_established(), self._board.deletions
        versions, waits = self._checker.commit(how, keys), hand.dice.random() >= NOT_WAITED
        receipts = []
        for call in calls:
            with self._under_way.call(hand.row):
                receipts.append(call(waits))
        complete = all(receipt.complete for receipt in receipts)
        seconds = sum(receipt.seconds for receipt in receipts)
        self._checker.told(
            hand.row, versions, complete=complete, is_announced=is_announced, how=how, waits=waits, seconds=seconds,
            waited_out=sorted({host for receipt in receipts for host in receipt.waited_out}),
        )  # fmt: skip
        is_excused = not complete and (not waits or bool(before % 2 or self._board.deletions != before))
        if not complete and not is_excused:
            self._board.accuse("incomplete", slot=self._slot, how=how, versions=versions)
        self._board.count(hand.row, excused=is_excused, prompt=complete and seconds < PROMPT, **{how: 1})

    def _is_established(self) -> bool:
        """Whether this host has been current since this process knows it: a host says nothing before it is."""
        if not self._has_been_current:
            self._has_been_current = sight.is_current(self._cache, self._hosts)
        return self._has_been_current

    def _space(self, key: str) -> Any:
        return self._spaces[SPACE.get(key, "")]


def _of(key: str) -> str:
    """The tag of the functions' results that are values of a key, for they have keys of their own."""
    return f"of {key}"
