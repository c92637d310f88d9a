"""How much memory does an entry take beside what it holds: is what the store charges for it enough?

    python benchmarks/footprint.py

An entry is charged for its wire key, for its value's bytes (twice, where the shard keeps the object beside them), for
its tags, and for the rest by the constants OVERHEAD and TAG_OVERHEAD of colocache/core/entry.py. This script fills
stores with entries as the shell makes them, and prints what each really takes beyond the bytes that its key and its
value hold, as tracemalloc counts it, and as the process grows (Linux only; there the allocator's rounding comes to it).
Two numbers of entries are tried: just after and just before the dictionaries double. Takes about a minute.

A value's bytes and its object are taken to be of one size, which the store assumes; what they differ by is the codec's
affair, not an entry's overhead. So the values here are texts of one letter repeated.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import platform
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from sys import getsizeof

from colocache.core.entry import MISSING, OVERHEAD, TAG_OVERHEAD, Entry
from colocache.core.keys import prefix, wire
from colocache.core.store import Store

COUNTS = (43_700, 87_300)  # a dictionary of 2**16 slots doubles at its 43,691st key, the next one at its 87,382nd
VALUE = 100  # bytes
BUDGET = 1 << 34
NAMESPACE = prefix("users")

Fill = Callable[[Store, int, tuple[str, ...]], object]


def put(store: Store, number: int, tags: tuple[str, ...], near: bool) -> Entry:
    """Store an entry as it comes off the wire: with a key, a payload and tags that nobody else holds."""
    payload = (b"%d" % (number % 10)) * VALUE
    # the floats are made here, as they are for each answer: they are part of what an entry costs
    entry = Entry(wire(NAMESPACE, f"user:{number}"), payload, number + 0.5, number + 300.5, tags)
    assert store.put(entry, near=near)
    return entry


def use(store: Store, number: int, entry: Entry, copies: bool = False) -> Entry:
    """Have a reader use it: under its key as the user writes it, as an object of its own."""
    assert entry.payload is not None
    store.charge_object(entry)
    value = MISSING if copies else entry.payload.decode()
    entry.publish(store.hits("users"), f"user:{number}", value, keep_payload=copies)
    entry.hits += 1000 + number  # beyond the small numbers that Python keeps anyway
    return entry


KINDS: dict[str, Fill] = {
    "shard, not used here": lambda store, number, tags: put(store, number, tags, False),
    "shard, used here": lambda store, number, tags: use(store, number, put(store, number, tags, False)),
    "near copy": lambda store, number, tags: use(store, number, put(store, number, tags, True)),
    "near copy, copy='always'": lambda store, number, tags: use(store, number, put(store, number, tags, True), True),
}

TAGS: dict[str, Callable[[int], tuple[str, ...]]] = {
    "none": lambda number: (),
    "one of its own": lambda number: (f"user:{number}",),
    "three of 100": lambda number: tuple(f"page:{number % 100}:{part}" for part in "abc"),
}


def filled(kind: str, tagging: str, count: int) -> Store:
    store = Store(2 * BUDGET, BUDGET, "sieve")
    for number in range(count):
        KINDS[kind](store, number, TAGS[tagging](number))
    return store


def held(store: Store) -> int:
    """Bytes that keys, values and tags hold, without any overhead."""
    return sum(entry.size - OVERHEAD - TAG_OVERHEAD * len(entry.tags) for entry in store._entries())


def measure(kind: str, tagging: str, count: int) -> tuple[float, float]:
    """Overhead per entry in bytes: by the growth of this process, which has done nothing else yet, and as traced."""
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
    """Bytes of memory that this process has; nan where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else math.nan


def rows() -> Iterator[str]:
    # a process for each measurement, so that none finds memory that another has left
    fresh = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    for kind in KINDS:
        for tagging in TAGS:
            figures = [figure for count in COUNTS for figure in fresh.submit(measure, kind, tagging, count).result()]
            charged = OVERHEAD + len(TAGS[tagging](0)) * TAG_OVERHEAD
            yield f"{kind:25} {tagging:17} {charged:8} " + " ".join(f"{figure:10.0f}" for figure in figures)


def main() -> None:
    print(f"{date.today()}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"bytes per entry beside its key, its value of {VALUE} bytes and its tags' texts")
    print(" " * 52 + "".join(f"{count:>11} entries   " for count in COUNTS))
    print(f"{'entry':25} {'tags':17} {'charged':>8} " + f"{'traced':>10} {'grown':>10} " * 2)
    for row in rows():
        print(row, flush=True)
    print(f"a tag's text takes {getsizeof('user:12345')} bytes or more, and is charged as such")


if __name__ == "__main__":
    main()
