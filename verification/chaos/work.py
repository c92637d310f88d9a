"""What the processes of `chaos.py` do: read, write and count without end, and judge every read."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic, monotonic_ns, sleep
from typing import Any, NamedTuple

import colocache
from colocache import Receipt
from colocache.errors import CannotJoin
from verification.chaos import userland
from verification.chaos.board import FENCED, KEYS, PAGES, ROWS, SPACE, SPACES, TAGS, Board, keys_of, own_key
from verification.chaos.counting import COUNTERS, SPACE_OF, Counting, Known, watch
from verification.chaos.interrupted import Attempt, Interrupted, MainThread, Witness
from verification.chaos.register import Register
from verification.chaos.strain import Strain
from verification.chaos.values import Torn, value_of, version_of

SLOW = (0.0,) * 12 + (0.02, 0.02, 0.1)  # s; what a load may take once it has read the source
SLOWER = (0.0, 0.0, 0.02, 0.1, 0.3)  # s; the same of whoever gets, computes and sets
PROMPT = 0.1  # s; an invalidation takes some microseconds, and more where others compute
JOINING = 60.0  # s; as long as another one joins or leaves, and is stopped, nobody can join
TASKS = 3

Call = Callable[[], Receipt]


class Unlucky(Exception):
    """Raised by a loader, now and then."""


class Hand(NamedTuple):
    """One thread at work."""

    row: int  # its cells and figures
    dice: Random
    may_set: bool  # it is the only one of its slot that sets: of two sets under way at once either may be the last


class Work:
    """Threads and tasks that read and write through one cache until they are told to finish.

    ``hard``: under a strain that is drawn by the seed; if not, under none, and at a pace for days. Who does not write
    announces nothing.
    """

    def __init__(
        self, cache: colocache.Cache, directory: Path, slot: int, slots: int, seed: float, *, hard: bool, writes: bool,
        main: MainThread | None = None,
    ) -> None:  # fmt: skip
        """``main``: where signal handlers run, if the strain is to be that they interrupt calls."""
        self._cache = cache
        self._slot = slot
        self._board = Board(directory, slots)
        self._counting = Counting(directory, slots, slot)
        self._register = Register(directory)
        self._keys = (*keys_of(slots), *PAGES)
        self._pause = 1.0 if hard else 40.0
        self._set = threading.local()
        self._enough = threading.Event()
        strain = Strain.draw(Random(seed)) if hard else Strain()
        strain.prepare()
        self._spaces = {path: cache.namespace(path, fence=path == FENCED) if path else cache for path in SPACES}
        self._counting.inherit()
        keyspaces = {counter: self._spaces[path]._keyspace for counter, path in SPACE_OF.items()}
        watch(self._counting, {counter: each.wire(counter) for counter, each in keyspaces.items()}, self._board.accuse)
        self._join()
        cache._member.tell_not_announced = self._hear_not_announced  # type: ignore[method-assign]
        self._board.note("begins", slot=slot, **strain._asdict())
        self._runner = asyncio.Runner(debug=False)
        self._runner.get_loop()  # here: later there may be no descriptor for it
        self._threads = strain.impose(cache, Random(f"{seed} loss"), self._enough, self._board.accuse)
        self._writes = writes
        bodies = (self._write, self._write, self._run_tasks, self._read, self._read, self._count)
        for number, body in enumerate(bodies if writes else (self._read, self._run_tasks, self._read)):
            hand = Hand(slot * ROWS + number, Random(f"{seed} {number}"), not number)
            self._threads.append(threading.Thread(target=self._run, args=(body, hand)))
        self._main_is_over, self._witness = threading.Event(), Witness()
        self._main_is_over.set()
        if strain.interrupted and main is not None:
            self._main_is_over.clear()
            self._loop = asyncio.new_event_loop()  # here: later there may be no descriptor for it
            self._loop.set_debug(False)
            self._threads.append(self._witness.thread)
            main.do(partial(self._be_interrupted, Hand(slot * ROWS + ROWS - 1, Random(f"{seed} main"), may_set=False)))
        for thread in self._threads:
            thread.start()

    def _join(self) -> None:
        """Join, as soon as nobody is stopped who has begun to join or to leave, and all have noticed a deletion."""
        ends = monotonic() + JOINING
        while True:
            try:
                self._cache.start()
            except CannotJoin as error:
                self._board.note("cannot join", slot=self._slot, error=str(error))
                if monotonic() >= ends:
                    raise
                self._enough.wait(0.05)
            else:
                return

    def finish(self) -> None:
        """End the threads."""
        self._enough.set()
        self._main_is_over.wait()
        self._witness.end()
        for thread in self._threads:
            thread.join()
        self._runner.close()

    def look_back(self) -> None:
        """Read every key once more."""
        for key in self._keys:
            self._get(Hand(self._slot * ROWS, Random(key), may_set=False), key)
        self._register.close()

    def _run(self, body: Callable[[Hand], None], hand: Hand) -> None:
        self._counting.work_as(hand.row)
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

        self._runner.run(run())

    # --- Reading

    def _read(self, hand: Hand) -> None:
        dice = hand.dice
        for _ in range(dice.randrange(1, 100)):
            if dice.random() < 0.05:
                self._get_many(hand, dice.choice(list(SPACES)))
                continue
            key = dice.choice(self._keys)
            if SPACE.get(key) == FENCED:
                self._get_and_set(hand, key)
            else:
                self._get(hand, key)
        self._enough.wait(self._pause * dice.uniform(0, 0.02))  # or nobody else would come to anything on two cores

    def _get(self, hand: Hand, key: str) -> None:
        dues, began = self._dues(key), monotonic_ns()
        with suppress(Unlucky):
            self._judge(hand.row, key, dues, began, self._get_or_load(hand, key, self._enough.wait))

    def _get_or_load(self, hand: Hand, key: str, wait: Callable[[float], object]) -> Any:
        def load() -> Any:
            value, late = self._load(hand, key)
            wait(late)
            return value

        return self._space(key).get_or_load(key, load, tags=TAGS.get(key, ()))

    def _get_and_set(self, hand: Hand, key: str) -> None:
        """Get a value; if nobody has it, compute it, and set it, as code does that knows no loaders."""
        dues, began, space = self._dues(key), monotonic_ns(), self._space(key)
        value = space.get(key)
        if value is None:
            value = value_of(key, self._register.read(key))
            self._enough.wait(hand.dice.choice(SLOWER))
            space.set(key, value, tags=TAGS[key])
            self._board.count(hand.row, loads=1)
        self._board.count(hand.row, fenced=1)
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
            return value_of(key, self._register.read(key)), late
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

    def _dues(self, key: str) -> dict[str, int]:
        """What a read of a key, or of the parts of a page, must give at least."""
        return {part: self._board.due(part) for part in PAGES.get(key, (key,))}

    def _judge(self, row: int, key: str, dues: dict[str, int], began: int, value: Any) -> None:
        self._board.count(row, reads=1)
        try:
            versions = {part: version_of(part, each) for part, each in self._parts(key, value)}
        except Torn as error:
            self._board.accuse("torn", slot=self._slot, key=key, began=began, value=str(error))
            return
        for part, version in versions.items():
            if version < dues[part]:
                self._board.accuse(
                    "stale", slot=self._slot, key=key, part=part, got=version, due=dues[part], began=began,
                    returned=monotonic_ns(), truth=self._register.read(part), stats=asdict(self._cache.stats()),
                )  # fmt: skip

    def _parts(self, key: str, value: Any) -> Iterable[tuple[str, Any]]:
        if key not in PAGES:
            return [(key, value)]
        if not isinstance(value, dict) or tuple(value) != PAGES[key]:
            raise Torn(f"{value!r:.200}")
        return value.items()

    # --- Writing

    def _write(self, hand: Hand) -> None:
        ways = (self._keys_change, self._a_tag_changes, self._a_space_changes, self._set_own, self._reset_a_counter)
        hand.dice.choices(ways, (120, 30, 5, 60 * hand.may_set, 2))[0](hand)
        self._enough.wait(self._pause * hand.dice.expovariate(30))

    def _keys_change(self, hand: Hand) -> None:
        keys = hand.dice.sample(KEYS, hand.dice.choice((1, 1, 1, 3)))
        pages = [page for page, parts in PAGES.items() if set(parts) & set(keys)]
        of_space = {path: [key for key in (*keys, *pages) if SPACE.get(key, "") == path] for path in SPACES}
        # The root last, for its pages are made of what the others have.
        calls: list[Call] = [
            lambda path=path, some=some: self._spaces[path].invalidate(*some)
            for path, some in sorted(of_space.items(), reverse=True)
            if some
        ]
        self._announce(hand, "by_key", keys, calls)

    def _a_tag_changes(self, hand: Hand) -> None:
        tag = hand.dice.choice(TAGS[hand.dice.choice(KEYS)])
        keys = [key for key in KEYS if tag in TAGS[key]]
        self._announce(hand, "by_tag", keys, [lambda: self._cache.invalidate_tags(tag)])

    def _a_space_changes(self, hand: Hand) -> None:
        path = hand.dice.choice(list(SPACES))
        keys = [key for key in KEYS if SPACE[key].startswith(path)]
        calls: list[Call] = [lambda: self._spaces[path].clear()]
        if path:
            calls.append(lambda: self._cache.invalidate(*PAGES))
        with self._counting.reset(counter for counter in COUNTERS if SPACE_OF[counter].startswith(path)) as reset:
            reset.voids = self._announce(hand, "by_namespace", keys, calls)

    def _announce(self, hand: Hand, how: str, keys: Iterable[str], calls: list[Call]) -> bool:
        before, versions = self._board.deletions, self._commit(how, keys)
        return self._told(hand, how, versions, before, [call() for call in calls])

    async def _awrite(self, hand: Hand) -> None:
        dice = hand.dice
        while not self._enough.is_set():
            key = dice.choice([key for key in KEYS if not any(key in parts for parts in PAGES.values())])
            before, versions = self._board.deletions, self._commit("by_key", (key,))
            receipt = await self._space(key).ainvalidate(key)
            self._told(hand, "by_key", versions, before, [receipt])
            await asyncio.sleep(self._pause * dice.expovariate(10))

    def _set_own(self, hand: Hand) -> None:
        key = own_key(self._slot)
        before, versions = self._board.deletions, self._commit("by_set", (key,))
        value = value_of(key, versions[key])
        self._set.is_lost = False
        kept = self._cache.set(key, value) if hand.dice.random() < 0.8 else self._cache.set_many({key: value})
        busy = not kept and not self._set.is_lost
        self._settle(hand, "by_set", versions, before, complete=not self._set.is_lost, kept=kept)
        self._board.count(hand.row, busy=busy)

    def _commit(self, how: str, keys: Iterable[str]) -> dict[str, int]:
        versions = self._register.write(keys)
        self._board.note("commits", slot=self._slot, how=how, versions=versions)
        return versions

    def _told(self, hand: Hand, how: str, versions: dict[str, int], before: int, receipts: list[Receipt]) -> bool:
        complete = all(receipt.complete for receipt in receipts)
        self._settle(hand, how, versions, before, complete=complete, receipts=receipts)
        self._board.count(hand.row, prompt=complete and all(receipt.seconds < PROMPT for receipt in receipts))
        return complete

    def _settle(
        self, hand: Hand, how: str, versions: dict[str, int], before: int, *, complete: bool, **details: Any
    ) -> None:
        """Note that a call has returned. Only after a deletion may it be incomplete."""
        if complete:
            self._board.acknowledge(hand.row, versions)
        elif before % 2 or self._board.deletions != before:
            self._board.count(hand.row, excused=1)
        else:
            self._board.accuse("incomplete", slot=self._slot, how=how, versions=versions, trouble=self._trouble())
        self._board.note("is told", slot=self._slot, how=how, versions=versions, complete=complete, **details)
        self._board.count(hand.row, complete=complete, **{how: 1})

    def _trouble(self) -> str:
        return repr(self._cache._member.life.trouble)

    def _hear_not_announced(self) -> None:
        """What `set` does not return: that others may go on serving the old value."""
        self._set.is_lost = True
        colocache.member.Member.tell_not_announced(self._cache._member)

    def _space(self, key: str) -> colocache.Space:
        return self._spaces[SPACE.get(key, "")]

    # --- Counting

    def _count(self, hand: Hand) -> None:
        dice = hand.dice
        for _ in range(dice.randrange(1, 20)):
            counter = dice.choice(COUNTERS)
            space, by = self._spaces[SPACE_OF[counter]], dice.choice((1, 1, 2, 7))
            if dice.random() < 0.1:
                space.touch(counter, None)  # which must not lose what others count meanwhile
            how = dice.choices((self._increase, self._compare_and_set), (3, 1))[0]
            before, known = self._board.deletions, self._counting.look(counter)
            with self._counting.count(counter, by) as succeed:
                total = how(space, counter, by)
                if total is not None:
                    self._judge_count(hand, counter, before, known, total, by)
                    succeed()
            self._board.count(hand.row, counted=total is not None, not_counted=total is None)
            self._look_at(hand, dice.choice(COUNTERS))
        self._enough.wait(self._pause * dice.uniform(0, 0.05))

    def _increase(self, space: colocache.Space, counter: str, by: int) -> int | None:
        return space.incr(counter, by, initial=0, ttl=None)

    def _compare_and_set(self, space: colocache.Space, counter: str, by: int) -> int | None:
        """Count by hand, once."""
        found = space.gets(counter)
        if found is None:
            return by if space.add(counter, by, ttl=None) else None
        number, token = found
        return number + by if space.cas(counter, number + by, token, ttl=None) else None

    def _look_at(self, hand: Hand, counter: str) -> None:
        before, known = self._board.deletions, self._counting.look(counter)
        self._judge_count(hand, counter, before, known, self._spaces[SPACE_OF[counter]].get(counter), 0)

    def _judge_count(self, hand: Hand, counter: str, before: int, known: Known, number: int | None, by: int) -> None:
        """Judge what a counter shows; ``by``: this call has counted so much itself."""
        least, most = self._counting.bounds(counter, known)
        if number is None and (before % 2 or self._board.deletions != before):
            least = None  # whoever is on no host finds nothing
        self._board.count(hand.row, counts_read=1, counts_exact=least is not None)
        if not max(least or 0, 0) + by <= (number or 0) <= most:
            self._board.accuse(
                "miscounted", slot=self._slot, counter=counter, number=number, least=least, most=most, by=by,
                known=known,
            )  # fmt: skip

    def _reset_a_counter(self, hand: Hand) -> None:
        counter, before = hand.dice.choice(COUNTERS), self._board.deletions
        with self._counting.reset([counter]) as reset:
            receipt = self._spaces[SPACE_OF[counter]].invalidate(counter)
            reset.voids = receipt.complete
        self._settle(hand, "by_key", {}, before, complete=receipt.complete)

    def counts(self) -> dict[str, int | None]:
        """What the counters show."""
        return {counter: self._spaces[path].get(counter) for counter, path in SPACE_OF.items()}

    # --- Calls of the main thread, which signals interrupt

    def _be_interrupted(self, hand: Hand) -> None:
        """Make calls in the main thread until it is enough, and have another thread look at what they have left."""
        side = colocache.Cache("side", directory=self._cache.config.directory, shelf="1MiB")
        use = userland.Use(self._cache, hand.dice, self._board.accuse)
        looker = Hand(hand.row, Random(hand.dice.random()), may_set=False)
        touched: list[str] = []

        def draw() -> Attempt:
            ways = (self._reading, self._getting_and_setting, self._invalidating, self._clearing, self._in_a_loop)
            key = hand.dice.choice([*KEYS, *PAGES])
            touched[:] = [key]
            if hand.dice.random() < 0.05:
                return self._joining(side)
            if hand.dice.random() < 0.1:
                return self._reading_what_handlers_read(use.space, hand.dice.randrange(userland.KEYS))
            return hand.dice.choices(ways, (60, 10, 10, 1, 3))[0](hand, key)

        def read() -> None:
            try:
                for key in touched:
                    self._get(looker, key)
            except Exception:
                self._board.accuse("error", slot=self._slot, error=traceback.format_exc())

        def look() -> None:
            self._witness.look(read)

        def count(what: str) -> None:
            self._board.count(hand.row, **{what: 1})

        try:
            Interrupted(self._cache, hand.dice, use, draw, look, count, self._board.accuse).run(self._enough)
            side.close()
            self._loop.close()
        finally:
            self._main_is_over.set()

    def _reading(self, hand: Hand, key: str) -> Attempt:
        dues, began = self._dues(key), monotonic_ns()
        value = yield lambda: _or_unlucky(lambda: self._get_or_load(hand, key, sleep))
        if value is not Unlucky:
            self._judge(hand.row, key, dues, began, value)

    def _reading_what_handlers_read(self, space: colocache.Space, number: int) -> Attempt:
        value = yield lambda: space.get_or_load(f"u{number}", lambda: number)
        if value != number:
            self._board.accuse("wrong in user code", key=number, value=value)

    def _getting_and_setting(self, hand: Hand, key: str) -> Attempt:
        key = hand.dice.choice([key for key in KEYS if SPACE[key] == FENCED])
        yield lambda: self._get_and_set(hand, key)

    def _invalidating(self, hand: Hand, key: str) -> Attempt:
        key = hand.dice.choice(KEYS)
        before, versions = self._board.deletions, self._commit("by_key", (key,))
        receipts = yield lambda: [self._space(key).invalidate(key), self._cache.invalidate(*PAGES)]
        self._told(hand, "by_key", versions, before, receipts)

    def _clearing(self, hand: Hand, key: str) -> Attempt:
        before, versions = self._board.deletions, self._commit("by_tag", [key for key in KEYS if "t0" in TAGS[key]])
        receipt = yield lambda: self._cache.invalidate_tags("t0")
        self._told(hand, "by_tag", versions, before, [receipt])

    def _in_a_loop(self, hand: Hand, key: str) -> Attempt:
        """Exceptions in the middle of asyncio itself are beyond this; see `Interrupted`."""
        key = hand.dice.choice(KEYS)
        yield lambda: self._loop.run_until_complete(self._aget(hand, key, None))

    def _joining(self, side: colocache.Cache) -> Attempt:
        """Leave a group, and join it again. What is interrupted there can be tried again."""
        assert side.get_or_load("k", lambda: 1) == 1

        def call() -> Any:
            side.leave()
            return side.get_or_load("k", lambda: 1)

        value = yield call
        assert value == 1


def _or_unlucky(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Unlucky:
        return Unlucky
