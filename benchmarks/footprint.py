"""What does the cache cost a process that does nothing with it, and what does each entry cost?

    python -m benchmarks.footprint [--quick] [--write]

Overhead. An entry is charged for its wire key, for the bytes of its value (twice, if the shard keeps the object beside
them), for its tags, and for the rest by the constants OVERHEAD and TAG_OVERHEAD of colocache/core/entry.py. Is what the
store charges enough? Stores are filled with entries as a member makes them. The table says what each entry really takes
beside the bytes of its key and its value: as tracemalloc counts it, and as the process grows (Linux only; this includes
what the allocator rounds up). There are two numbers of entries: just after and just before the dictionaries double. The
store assumes that the bytes of a value and its object have one size. If they differ, that depends on the codec, and is
no overhead of an entry. So the values here are texts of one repeated letter.

Entries. By how much a process grows per entry, with key and value, beside other caches that hold the same texts.

Idle. Groups of real processes that do nothing: the memory that joining took, and the processor time, of the mean
member.

Imports: how long they take. Starts: how long it takes from `Cache.start` until the process is current.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, median
from sys import getsizeof
from typing import Any
from weakref import WeakKeyDictionary

from benchmarks.group import Group, Member, Worker, together
from benchmarks.measure import Contender, Report, interleave, options, progress
from colocache.core.entry import MISSING, OVERHEAD, TAG_OVERHEAD, Entry, Home
from colocache.core.keys import prefix, wire
from colocache.core.store import Store

COUNTS = (43_700, 87_300)  # a dictionary of 2**16 slots doubles at its 43,691st key, the next one at its 87,382nd
VALUE = 100  # bytes
SIZES = {100: 40_000, 1024: 40_000, 10_240: 4_000}  # bytes of a value to entries
BUDGET = 1 << 34
TTL = 300.0
NAMESPACE = prefix("users")
GROUPS, QUICK_GROUPS = (2, 4, 8, 16, 32, 64), (2, 4)
OTHERS = (0, 1, 3)  # members that are there already when one starts
IMPORTS = (
    "colocache",
    "colocache.runtime.transport",
    "cachetools",
    "cachebox",
    "redis",
    "django.core.cache",
    "cashews",
)

Fill = Callable[[Store, int, tuple[str, ...]], object]


# --- Overhead: what an entry takes beyond its key, its value and its tags


def put(store: Store, number: int, tags: tuple[str, ...], near: bool, size: int = VALUE) -> Entry:
    """Store an entry as it comes off the wire: with a key, a payload and tags that nobody else holds."""
    payload = (b"%d" % (number % 10)) * size
    # The floats are made here, as for each answer, because they are part of what an entry costs.
    entry = Entry(wire(NAMESPACE, f"user:{number}"), payload, number + 0.5, number + 300.5, tags)
    assert store.put(entry, near=near)
    return entry


def use(store: Store, number: int, entry: Entry, copies: bool = False) -> Entry:
    """Have a reader use it: under its key as the user writes it, as an object of its own."""
    assert entry.payload is not None
    store.charge_object(entry)
    value = MISSING if copies else entry.payload.decode()
    entry.publish(_home_in(store), f"user:{number}", value, keep_payload=copies)
    entry.hits += 1000 + number  # beyond the small numbers that Python keeps anyway
    return entry


def _home_in(store: Store) -> Home:
    return HOMES.setdefault(store, Home(None))


#: Where readers find what is in a store.
HOMES: WeakKeyDictionary[Store, Home] = WeakKeyDictionary()

KINDS: dict[str, Fill] = {
    "shard, not used here": lambda store, number, tags: put(store, number, tags, False),
    "shard, used here": lambda store, number, tags: use(store, number, put(store, number, tags, False)),
    "near copy": lambda store, number, tags: use(store, number, put(store, number, tags, True)),
    "near copy, copy=True": lambda store, number, tags: use(store, number, put(store, number, tags, True), True),
}

TAGS: dict[str, Callable[[int], tuple[str, ...]]] = {
    "none": lambda number: (),
    "one of its own": lambda number: (f"user:{number}",),
    "three of 100": lambda number: tuple(f"page:{number % 100}:{part}" for part in "abc"),
}


def filled(kind: str, tagging: str, count: int) -> Store:
    """Return a store with so many entries of a kind."""
    store = Store(2 * BUDGET, BUDGET, "s3fifo")
    for number in range(count):
        KINDS[kind](store, number, TAGS[tagging](number))
    for number in range(count):  # the policy remembers as many that have left
        store._shard._remember(wire(NAMESPACE, f"gone:{number}"))  # type: ignore[attr-defined]
    return store


def held(store: Store) -> int:
    """Return the bytes that keys, values and tags hold, without any overhead."""
    return sum(entry.size - OVERHEAD - TAG_OVERHEAD * len(entry.tags) for entry in store._entries())


def overhead(kind: str, tagging: str, count: int) -> tuple[float, float]:
    """Return the overhead per entry in bytes: as traced, and by the growth of this process, which is a fresh one."""
    began = resident()
    store = filled(kind, tagging, count)
    grown = resident() - began - held(store)
    del store
    gc.collect()
    tracemalloc.start()
    store = filled(kind, tagging, count)
    gc.collect()
    traced = tracemalloc.get_traced_memory()[0] - held(store)
    return traced / count, grown / count


def resident() -> float:
    """Return the bytes of memory that this process has; nan where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else math.nan


def afresh() -> ProcessPoolExecutor:
    """Return a pool that runs each measurement in a new process, which finds no memory that another one has left."""
    return ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), max_tasks_per_child=1)


def tell_overhead(report: Report) -> None:
    """Tell whether what the store charges is enough."""
    counts, taggings = (COUNTS[:1], ["none"]) if report.options.quick else (COUNTS, list(TAGS))
    cases, rows = [(kind, tagging) for kind in KINDS for tagging in taggings], []
    progress("overhead")
    with afresh() as processes:
        asked = [[processes.submit(overhead, *case, count) for count in counts] for case in cases]
        for (kind, tagging), answers in zip(cases, asked, strict=True):
            charged = OVERHEAD + len(TAGS[tagging](0)) * TAG_OVERHEAD
            figures = [round(figure) for answer in answers for figure in answer.result()]
            rows.append((kind, tagging, charged, *figures))
    columns = ("entry", "tags", "charged", *(f"{what} {count}" for count in counts for what in ("traced", "grown")))
    report.table(f"bytes per entry beside its key, its value of {VALUE} bytes and its tags' texts", columns, rows)
    report.note(f"a tag's text takes {getsizeof('user:12345')} bytes or more, and is charged as such")


# --- Entries: what they take in all, beside other caches


def in_a_dict(count: int, size: int) -> object:
    """Hold the texts in a plain dictionary."""
    return {f"user:{number}": str(number % 10) * size for number in range(count)}


def in_cachetools(count: int, size: int) -> object:
    """Hold the texts in a cachetools.TTLCache."""
    import cachetools

    return _updated(cachetools.TTLCache(2 * count, TTL), count, size)


def in_cachebox(count: int, size: int) -> object:
    """Hold the texts in a cachebox.TTLCache."""
    import cachebox

    return _updated(cachebox.TTLCache(2 * count, TTL), count, size)


def in_colocache(count: int, size: int, near: bool) -> object:
    """Hold the texts in a store, used here."""
    store = Store(2 * BUDGET, BUDGET, "s3fifo")
    for number in range(count):
        use(store, number, put(store, number, (), near, size))
    return store


def in_a_shard(count: int, size: int) -> object:
    """Hold the texts as the owner does that uses them itself."""
    return in_colocache(count, size, near=False)


def in_near_copies(count: int, size: int) -> object:
    """Hold the texts as everybody else does."""
    return in_colocache(count, size, near=True)


HOLDERS: dict[str, Callable[[int, int], object]] = {
    "dict": in_a_dict,
    "cachetools TTLCache": in_cachetools,
    "cachebox TTLCache": in_cachebox,
    "colocache, shard, used here": in_a_shard,
    "colocache, near copy": in_near_copies,
}


def _updated(cache: Any, count: int, size: int) -> Any:
    for number in range(count):
        cache[f"user:{number}"] = str(number % 10) * size
    return cache


def growth(hold: Callable[[int, int], object], count: int, size: int) -> float:
    """Return by how many bytes per entry this process grows, which is a fresh one."""
    hold(10, size)  # imports
    began = resident()
    holding = hold(count, size)
    grown = resident() - began
    del holding
    return grown / count


def tell_entries(report: Report) -> None:
    """Tell what entries take in colocache and in other caches."""
    rows = []
    progress("entries")
    with afresh() as processes:
        asked = {name: [processes.submit(growth, hold, count, size) for size, count in SIZES.items()]
                 for name, hold in HOLDERS.items()}  # fmt: skip
        for name, answers in asked.items():
            try:
                found = [answer.result() for answer in answers]
            except ImportError as error:
                report.missing(name, f"{error} (the extra `bench` has the packages)")
            else:
                rows.append((name, *map(round, found)))
    columns = ("held in", *(f"{size} B" for size in SIZES))
    report.table("bytes by which a process grows per entry, key and value included", columns, rows)


# --- Idle


class Idler(Member):
    """A member that does nothing, and tells what that costs."""

    def __init__(self, directory: str, **settings: Any) -> None:
        self._before = resident()
        super().__init__(directory, **settings)

    def used(self) -> tuple[float, int, float, float]:
        """Return processor seconds and switches of this process until now, bytes, and bytes since before the cache."""
        usage, now = resource.getrusage(resource.RUSAGE_SELF), resident()
        return usage.ru_utime + usage.ru_stime, usage.ru_nvcsw, now, now - self._before

    def start_timed(self) -> float:
        """Join the group; return the seconds until this process is current."""
        began = time.perf_counter()
        self.cache.start()
        while not self.cache.stats().current:
            time.sleep(0.0005)
        return time.perf_counter() - began


def idle(members: int, seconds: float) -> tuple[float, ...]:
    """Return MiB, MiB since before the cache, % of a core and wake-ups a second, of the mean member of a group."""
    with Group() as group:
        group.start(Idler, members)
        time.sleep(1.0)  # what joining stirred up settles
        before = together(group.workers, "used")
        time.sleep(seconds)
        after = together(group.workers, "used")
    spent = [(new[0] - old[0], new[1] - old[1]) for old, new in zip(before, after, strict=True)]
    memory = [mean(figures) / 2**20 for figures in zip(*(each[2:] for each in after), strict=True)]
    return (*memory, 100 * mean(cpu for cpu, _ in spent) / seconds, mean(switches for _, switches in spent) / seconds)


def tell_idle(report: Report) -> None:
    """Tell what it costs to be there."""
    groups, seconds = (QUICK_GROUPS, 2.0) if report.options.quick else (GROUPS, 5.0)
    rows = []
    for members in groups:
        progress(f"idle: {members} members")
        rows.append((members, *idle(members, seconds)))
    columns = ("members", "MiB", "MiB by the cache", "% of a core", "wake-ups a second")
    report.table("an idle member, the mean of its group", columns, rows)
    curves = {"colocache": [(row[0], max(row[3], 0.01)) for row in rows]}
    report.lines("footprint-idle", ("members", "% of a core"), curves, log=(True, True),
                 title="What an idle member takes of a processor")  # fmt: skip


# --- Start


def importing(module: str) -> Callable[[], list[float]]:
    """Return a sampler of what an import takes in a fresh interpreter, whose own start is not counted."""
    code = f"from time import perf_counter as now; began = now(); import {module}; print(now() - began)"

    def sample() -> list[float]:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return [float(done.stdout)]

    return sample


def tell_imports(report: Report) -> None:
    """Tell what imports take; `colocache.runtime.transport` brings zmq, and is imported at the first use."""
    contenders = []
    for module in IMPORTS:
        try:
            importing(module)()
        except subprocess.CalledProcessError:
            report.missing(module, "not installed (the extra `bench` has the packages)")
        else:
            contenders.append(Contender(module, importing(module)))
    rounds = report.options.rounds or (3 if report.options.quick else 12)
    series = interleave(contenders, rounds, report.options.seed, "imports")
    report.timings("import", series, baseline="cachetools", unit="ms")


def starts(others: int, times: int) -> list[float]:
    """Return the seconds that starts took, one after another, beside so many members."""
    found = []
    with Group() as group:
        if others:
            group.start(Idler, others)
        for _ in range(times):
            worker = Worker(Idler, str(group.directory / "c"), {})
            found.append(worker.call("start_timed"))
            worker.end()
    return found


def tell_starts(report: Report) -> None:
    """Tell how long it takes to become current."""
    rows = []
    for others in OTHERS:
        progress(f"start: {others} others")
        found = [seconds * 1000 for seconds in starts(others, 3 if report.options.quick else 15)]
        rows.append((others, median(found), max(found)))
    report.table("from start to current, ms (imports zmq)", ("other members", "median", "max"), rows)


PARTS: tuple[Callable[[Report], None], ...] = (tell_overhead, tell_entries, tell_idle, tell_imports, tell_starts)


def selected(names: str) -> Iterator[Callable[[Report], None]]:
    """Return the parts of those names, such as "idle,starts"; all for an empty text."""
    return (part for part in PARTS if not names or part.__name__.removeprefix("tell_") in names.split(","))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    only = ("--only", {"default": "", "help": "parts: overhead,entries,idle,imports,starts"})
    chosen, packages = options(__doc__ or "", only, argv=argv), ("cachetools", "cachebox", "redis", "django", "cashews")
    report = Report("footprint", "What does the cache cost a process, and what does each entry cost?", chosen, packages)
    for part in selected(report.options.only):
        part(report)
    return report.finish()


if __name__ == "__main__":
    main()
