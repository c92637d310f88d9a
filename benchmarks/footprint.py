"""What does the cache cost a process that does nothing with it, and what does each value cost?

    python -m benchmarks.footprint [--quick] [--write] [--only near,entries,group,idle,imports]

Near copies. A near copy is charged for its wire key, for the bytes of its value, for 40 bytes of each namespace and
tag, and for the rest by the constant OVERHEAD of colocache/core/entry.py. Is that enough? The table says what each one
really takes beside the bytes of its key and its value, and those of its record on the shelf. A process stores values,
twice as many as its near cache has room for, and reads them all, which keeps none near. Then it reads them all again.
So it has also forgotten as many as it keeps. The growth while it reads again is what the near copies take: as
tracemalloc counts it, and as the process grows (Linux only; this includes what the allocator rounds up). The
dictionaries have just doubled. The values are texts of one repeated letter, so their bytes and their objects have one
size.

Entries. By how much a process grows per entry, with key and value, beside other caches that hold the same texts; and
what a value takes on the shelf, once for all processes.

Group. Eight processes read the same 100 MB, in values of 10 KiB, which one of them has stored. By how much do all of
them grow together? Memory that several processes share is counted once: as PSS, in which each of n processes counts an
nth of it (Linux only). What of it are near copies, objects that each process has for itself, the cache says itself.

Idle. Groups of real processes that do nothing: the memory that joining took, and the processor time, of the mean
member.

Imports: how long they take.
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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import colocache
from benchmarks.group import Group, Member, together
from benchmarks.measure import Contender, Report, chosen_parts, exactly, interleave, options, progress
from colocache.core.entry import OVERHEAD

COUNT = 43_700  # entries; a dictionary of 2**16 slots doubles at its 43,691st key
VALUE = 100  # bytes
SIZES = {100: 20_000, 1024: 20_000, 10_240: 4_000}  # bytes of a value to entries
TTL = 300.0
READERS, READ, READ_SIZE = 8, 10_000, 10_000  # processes, values, bytes of each: 100 MB
READ_LIMIT = 130.0  # MB beyond the near copies
GROUPS, QUICK_GROUPS = (4, 16, 64), (2, 4)
IDLE, IDLE_GROWTH = 0.2, 0.05  # % of a core in the largest group, and how much more than in the smallest one
IMPORTS = (
    "colocache",
    "colocache.network",
    "cachetools",
    "cachebox",
    "redis",
    "django.core.cache",
    "cashews",
)


# --- Near copies: what one takes beyond its key and its value

TAGS: dict[str, Callable[[int], tuple[str, ...]]] = {
    "none": lambda number: (),
    "three of 100": lambda number: tuple(f"page:{number % 100}:{part}" for part in "abc"),
}


def name(number: int) -> str:
    """Return a key; all have one length."""
    return f"user:{number:06}"


def text(number: int, size: int = VALUE) -> str:
    """Return a value that nobody else holds."""
    return str(number % 10) * size


def private(memory: int) -> colocache.Cache:
    """Return a cache of this process alone, with so many bytes for near copies."""
    return colocache.Cache("bench", private=True, memory=max(memory, 1 << 20), shelf="512MiB", ttl=TTL)


def near_copies(tagging: str, count: int) -> tuple[float, float]:
    """Return what a near copy takes beyond its key and its value: as traced, and by the growth of this process."""
    with private(1 << 20) as probe:
        probe.set(name(0), text(0))
        for _ in range(2):  # what is found for the second time is kept near
            probe.get(name(0))
        each = probe.stats().bytes

    def read(counted: Callable[[], float]) -> float:
        with private(each * count) as cache:
            for number in range(2 * count):
                assert cache.set(name(number), text(number), tags=TAGS[tagging](number))
                cache.get(name(number))
            gc.collect()
            began = counted()
            for number in range(2 * count):
                cache.get(name(number))
            gc.collect()
            stats = cache.stats()
            return (counted() - began - stats.bytes) / stats.entries + charged(tagging)

    grown = read(resident)
    gc.collect()
    tracemalloc.start()
    return read(lambda: tracemalloc.get_traced_memory()[0]), grown


def charged(tagging: str) -> int:
    """Return what a near copy is charged beyond the bytes of its key and its value."""
    return OVERHEAD + 40 * len(TAGS[tagging](0))


def on_the_shelf(tagging: str, count: int) -> float:
    """Return what a value takes on the shelf beyond the bytes of its key and its value."""
    with private(1 << 20) as cache:
        for number in range(count):
            assert cache.set(name(number), text(number), tags=TAGS[tagging](number))
        stats = cache.stats()
        return stats.shelf_bytes / stats.shelf_entries - len(name(0)) - VALUE


def resident() -> float:
    """Return the bytes of memory that this process has; nan where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else math.nan


def afresh() -> ProcessPoolExecutor:
    """Return a pool that runs each measurement in a new process, which finds no memory that another one has left."""
    return ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), max_tasks_per_child=1)


def tell_near(report: Report) -> None:
    """Tell whether what a near copy is charged is enough."""
    taggings, count = (["none"], COUNT // 4) if report.options.quick else (list(TAGS), COUNT)
    rows = []
    progress("near copies")
    with afresh() as processes:
        asked = [processes.submit(near_copies, tagging, count) for tagging in taggings]
        shelves = [processes.submit(on_the_shelf, tagging, 1000) for tagging in taggings]
        for tagging, near, shelf in zip(taggings, asked, shelves, strict=True):
            rows.append((tagging, charged(tagging), *map(round, near.result()), round(shelf.result())))
    columns = ("tags", "charged", "traced", "grown", "on the shelf")
    report.table(f"bytes of a near copy beside its key and its value of {VALUE} bytes", columns, rows)


# --- Entries: what they take in all, beside other caches

Fill = Callable[[], object]  # takes what is to be counted


def in_a_dict(count: int, size: int) -> Fill:
    """Hold the texts in a plain dictionary."""
    return lambda: {name(number): text(number, size) for number in range(count)}


def in_cachetools(count: int, size: int) -> Fill:
    """Hold the texts in a cachetools.TTLCache."""
    import cachetools

    return lambda: _updated(cachetools.TTLCache(2 * count, TTL), count, size)


def in_cachebox(count: int, size: int) -> Fill:
    """Hold the texts in a cachebox.TTLCache."""
    import cachebox

    return lambda: _updated(cachebox.TTLCache(2 * count, TTL), count, size)


def in_near_copies(count: int, size: int) -> Fill:
    """Hold the texts near."""
    cache = private(1 << 30)
    for number in range(count):
        cache.set(name(number), text(number, size))
        cache.get(name(number))  # the next time it is kept near

    def read() -> object:
        for number in range(count):
            cache.get(name(number))
        return cache

    return read


HOLDERS: dict[str, Callable[[int, int], Fill]] = {
    "dict": in_a_dict,
    "cachetools TTLCache": in_cachetools,
    "cachebox TTLCache": in_cachebox,
    "colocache, near copy": in_near_copies,
}


def _updated(cache: Any, count: int, size: int) -> Any:
    for number in range(count):
        cache[name(number)] = text(number, size)
    return cache


def growth(hold: Callable[[int, int], Fill], count: int, size: int) -> float:
    """Return by how many bytes per entry this process grows, which is a fresh one."""
    hold(10, size)()  # imports
    fill = hold(count, size)
    gc.collect()
    began = resident()
    holding = fill()
    grown = resident() - began
    del holding
    return grown / count


def shelf_growth(count: int, size: int) -> float:
    """Return how many bytes a value takes on the shelf."""
    with private(1 << 20) as cache:
        for number in range(count):
            cache.set(name(number), text(number, size))
        stats = cache.stats()
        return stats.shelf_bytes / stats.shelf_entries


def tell_entries(report: Report) -> None:
    """Tell what entries take in colocache and in other caches."""
    rows = []
    progress("entries")
    with afresh() as processes:
        asked = {where: [processes.submit(growth, hold, count, size) for size, count in SIZES.items()]
                 for where, hold in HOLDERS.items()}  # fmt: skip
        asked["colocache, on the shelf"] = [processes.submit(shelf_growth, 1000, size) for size in SIZES]
        for where, answers in asked.items():
            try:
                found = [answer.result() for answer in answers]
            except ImportError as error:
                report.missing(where, f"{error} (the extra `bench` has the packages)")
            else:
                rows.append((where, *map(round, found)))
    columns = ("held in", *(f"{size} B" for size in SIZES))
    report.table("bytes by which a process grows per entry, key and value included", columns, rows)


# --- Group: what all processes of a host take together


class Reader(Member):
    """A process that stores and reads, and tells what memory it has."""

    def __init__(self, directory: str, **settings: Any) -> None:
        self._before = proportional()
        super().__init__(directory, **settings)

    def store(self) -> None:
        """Store all values."""
        for number in range(READ):
            assert self.cache.set(name(number), text(number, READ_SIZE))

    def read(self) -> int:
        """Read all values twice, so that they are near; return how many there were."""
        return min(sum(self.cache.get(name(number)) is not None for number in range(READ)) for _ in range(2))

    def grown(self) -> tuple[float, int]:
        """Return by how many bytes this process has grown since before the cache, and the bytes of near copies."""
        gc.collect()
        return proportional() - self._before, self.cache.stats().bytes


def proportional() -> float:
    """Return this process's share of all memory, in bytes; nan where the system does not tell."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        return math.nan
    [line] = [line for line in rollup.read_text().splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) * 1024


def tell_group(report: Report) -> None:
    """Tell what a group takes whose processes all read the same."""
    progress("group")
    with Group() as group:
        group.start(Reader, READERS)
        joined = [sum(figures) / 1e6 for figures in zip(*together(group.workers, "grown"), strict=True)]
        group.workers[0].call("store")
        found = together(group.workers, "read")
        grown = [sum(figures) / 1e6 for figures in zip(*together(group.workers, "grown"), strict=True)]
    beyond = grown[0] - grown[1]
    total = READ * READ_SIZE / 1e6
    report.table(f"MB that {READERS} processes take together, which read the same {total:.0f} MB",
                 ("", "PSS", "near copies", "beyond these"),
                 [("joined", *joined, joined[0] - joined[1]), ("all have read all", *grown, beyond)])  # fmt: skip
    report.note(f"of {READ} values, {min(found)} or more were found by each process")
    report.target(f"{READERS} processes that all read the same {total:.0f} MB: MB beyond their near copies",
                  exactly(beyond), READ_LIMIT)  # fmt: skip


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


def idle(members: int, seconds: float) -> tuple[float, ...]:
    """Return MiB, MiB since before the cache, % of a core and wake-ups a second, of the mean member of a group."""
    with Group() as group:
        group.start(Idler, members)
        time.sleep(2.0)  # what joining stirred up settles
        before = together(group.workers, "used")
        time.sleep(seconds)
        after = together(group.workers, "used")
    spent = [(new[0] - old[0], new[1] - old[1]) for old, new in zip(before, after, strict=True)]
    memory = [mean(figures) / 2**20 for figures in zip(*(each[2:] for each in after), strict=True)]
    return (*memory, 100 * mean(cpu for cpu, _ in spent) / seconds, mean(switches for _, switches in spent) / seconds)


def tell_idle(report: Report, *, draw: bool = True) -> None:
    """Tell what it costs to be there, and have it drawn."""
    groups, seconds = (QUICK_GROUPS, 2.0) if report.options.quick else (GROUPS, 10.0)
    rows = []
    for members in groups:
        progress(f"idle: {members} members")
        rows.append((members, *idle(members, seconds)))
    columns = ("members", "MiB", "MiB by the cache", "% of a core", "wake-ups a second")
    report.table("an idle member, the mean of its group", columns, rows)
    least, most = rows[0][3], rows[-1][3]
    report.target(f"an idle process of {groups[-1]}: % of a core", exactly(most), IDLE)
    report.target(f"an idle process of {groups[-1]}: % of a core more than one of {groups[0]}", exactly(most - least),
                  IDLE_GROWTH)  # fmt: skip
    if draw:
        curves = {"colocache": [(row[0], max(row[3], 0.001)) for row in rows]}
        report.lines("footprint-idle", ("members", "% of a core"), curves, log=(True, True),
                     title="What an idle member takes of a processor")  # fmt: skip


# --- Imports


def importing(module: str) -> Callable[[], list[float]]:
    """Return a sampler of what an import takes in a fresh interpreter, whose own start is not counted."""
    code = f"from time import perf_counter as now; began = now(); import {module}; print(now() - began)"

    def sample() -> list[float]:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return [float(done.stdout)]

    return sample


def tell_imports(report: Report) -> None:
    """Tell what imports take; `colocache.network` brings zmq, and is imported where there are several hosts."""
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


PARTS: dict[str, Callable[[Report], None]] = {
    "near": tell_near, "entries": tell_entries, "group": tell_group, "idle": tell_idle, "imports": tell_imports,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    only = ("--only", {"default": "", "help": f"parts: {','.join(PARTS)}"})
    chosen, packages = options(__doc__ or "", only, argv=argv), ("cachetools", "cachebox", "redis", "django", "cashews")
    report = Report("footprint", "What does the cache cost a process, and what does each value cost?", chosen, packages)
    for part in chosen_parts(PARTS, chosen.only).values():
        part(report)
    return report.finish()


if __name__ == "__main__":
    main()
