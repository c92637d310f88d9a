"""What does one cache of N processes hold that N caches do not, and which entries should leave when it is full?

    python -m benchmarks.capacity [--quick] [--write]                    a synthetic Zipf
    python -m benchmarks.capacity --trace OLTP.lis.zst [--write]         a trace in the ARC format

There are two questions, about one list of requests:

Shared or separate? Each request goes to one of eight processes, drawn at random. If the caches are separate, each
process keeps what it has loaded itself, as colocache's own near cache would. If they share one cache, they are eight
caches of one group, in this process: a quarter of the memory is for near copies, and the rest is the shelf, which they
share. A request is **local** (found near), **fetched** (from the shelf) or **loaded** from the source. All have the
same memory together in both cases, every value takes 1 KiB, and the rest of an entry is charged as the cache does it.

Which entry leaves? One cache holds a share of all keys, counted in entries. The policies of colocache, the classes
themselves, are compared with exact LRU and LFU (of cachetools), S3-FIFO, W-TinyLFU (of theine), and Belady's optimum,
which knows the future, so that nothing can be better.

The ARC format has a line ``start count ignored id`` for each request, which asks for ``count`` consecutive blocks. The
traces in this format are those of Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003.
Independent draws by Zipf's law have no bursts and no scans, which makes policies that count look better than they are.
"""

from __future__ import annotations

import io
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import cachetools

import colocache
from benchmarks.group import MEMORY
from benchmarks.measure import Ratio, Report, options, progress
from colocache.core.entry import OVERHEAD
from colocache.core.keys import prefix, wire
from colocache.core.policy import POLICIES, Policy

PROCESSES = 8
MIB = 1 << 20
BUDGETS = (4, 16, 64)  # MiB of each process
SHARES = (0.01, 0.03, 0.1, 0.3)  # of the keys, that one cache holds
POLICY = "s3fifo"  # of the caches that are shared, and of separate ones
PAYLOAD = bytes(1024)
KEYS, EXPONENT = 100_000, 0.9  # of the Zipf
REQUESTS = 400_000
QUICK = 40_000  # requests

Simulate = Callable[[Sequence[int], int], int]  # requests and entries to hits


# --- Requests


def zipf(count: int, seed: int) -> list[int]:
    """Return keys drawn independently, the n-th most wanted in proportion to n ** -EXPONENT."""
    weights = list(accumulate(n**-EXPONENT for n in range(1, KEYS + 1)))
    return random.Random(seed).choices(range(KEYS), cum_weights=weights, k=count)


def traced(path: Path) -> list[int]:
    """Return the blocks that a trace in the ARC format asks for; ``.zst`` needs the package zstandard."""
    with opened(path) as lines:
        return [block for line in lines for block in blocks(line)]


def blocks(line: str) -> range:
    """Return the blocks of one line."""
    start, count, *_ = map(int, line.split())
    return range(start, start + count)


def opened(path: Path) -> TextIO:
    """Open a text that may be compressed."""
    if path.suffix != ".zst":
        return path.open()
    try:
        import zstandard
    except ImportError:
        raise SystemExit(f"{path.name}: to read it, install zstandard (colocache[bench]), or decompress it") from None
    return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")))


# --- Shared or separate


@dataclass(slots=True)
class Item:
    """An entry, as a policy sees it."""

    size: int
    hits: int = 0
    seen: int = 0


def apart(requests: Sequence[int], budget: int, dice: random.Random) -> Counter[str]:
    """Give each process a cache of its own."""
    caches: list[Policy[Item]] = [POLICIES[POLICY](budget, lambda item: None) for _ in range(PROCESSES)]
    size, found = OVERHEAD + len(wire(prefix(""), str(KEYS))) + len(PAYLOAD), Counter[str]()
    for key in requests:
        cache = caches[dice.randrange(PROCESSES)]
        item = cache.get(key)
        found["loaded" if item is None else "local"] += 1
        if item is None:
            cache[key] = Item(size)
        else:
            item.hits += 1
    return found


def together(requests: Sequence[int], budget: int, dice: random.Random) -> Counter[str]:
    """Have all processes share one cache."""
    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory(prefix="bench", dir=MEMORY))
        settings: Any = {
            "memory": budget // 4, "shelf": PROCESSES * budget * 3 // 4, "policy": POLICY, "ttl": None,
            "directory": directory,
        }  # fmt: skip
        caches = [stack.enter_context(colocache.Cache("bench", **settings)) for _ in range(PROCESSES)]
        for key in requests:
            caches[dice.randrange(PROCESSES)].get_or_load(str(key), lambda: PAYLOAD)
        stats = [cache.stats() for cache in caches]
    totals = {name: sum(getattr(each, name) for each in stats) for name in ("hits", "fetches", "loads")}
    return Counter(local=totals["hits"], fetched=totals["fetches"], loaded=totals["loads"])


def told_apart(requests: Sequence[int], budget: int, shared: bool, seed: int) -> Counter[str]:
    """Return how many requests were found where."""
    return (together if shared else apart)(requests, budget, random.Random(seed))


def sharing(requests: Sequence[int], report: Report) -> None:
    """Tell what sharing gains, for several sizes of the processes."""
    rows, curves = [], dict[str, list[tuple[float, float]]]()
    for budget in BUDGETS:
        progress(f"{budget} MiB")
        alone = told_apart(requests, budget * MIB, False, report.options.seed)
        group = told_apart(requests, budget * MIB, True, report.options.seed)
        percent = [100 * count / len(requests) for count in (group["local"], group["fetched"], alone["local"])]
        rows.append((budget, *percent[:2], sum(percent[:2]), percent[2], alone["loaded"] / group["loaded"]))
        curves.setdefault("colocache: one shared cache", []).append((budget, sum(percent[:2])))
        curves.setdefault(f"{PROCESSES} separate caches", []).append((budget, percent[2]))
    columns = ("M", "shared: local", "shared: fetched", "shared: both", "separate", "loads, separate / shared")
    report.table(f"{PROCESSES} processes of M MiB each: % of the requests that need no load", columns, rows)
    report.lines(f"{report.name}-sharing", ("MiB of each process", "% of the requests that need no load"), curves,
                 log=(True, False), title=f"{PROCESSES} processes: one shared cache, or separate ones")  # fmt: skip


# --- Which leaves


def shipped(name: str) -> Simulate:
    """Return a simulation of one of colocache's policies, which counts entries instead of bytes."""

    def simulate(requests: Sequence[int], entries: int) -> int:
        cache: Policy[Item] = POLICIES[name](entries, lambda item: None)
        hits = 0
        for key in requests:
            entry = cache.get(key)
            if entry is not None:
                entry.hits += 1
                hits += 1
            else:
                cache[key] = Item(1)
        return hits

    return simulate


def mapped(make: Callable[[int], Any]) -> Simulate:
    """Return a simulation of a cache that is a mapping."""

    def simulate(requests: Sequence[int], entries: int) -> int:
        cache, hits = make(entries), 0
        for key in requests:
            if key in cache:
                cache[key]
                hits += 1
            else:
                cache[key] = True
        return hits

    return simulate


def w_tinylfu(requests: Sequence[int], entries: int) -> int:
    """Simulate theine's policy. Source: Einziger, Friedman and Manes, "TinyLFU", ACM ToS 2017."""
    import theine

    cache: Any = theine.Cache(entries)
    hits = 0
    for key in requests:
        if cache.get(key)[1]:
            hits += 1
        else:
            cache.set(key, True)
    cache.close()
    return hits


def s3_fifo(requests: Sequence[int], entries: int) -> int:
    """Simulate S3-FIFO. Source: Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need", SOSP 2023."""
    small, main, ghosts = deque[int](), deque[int](), OrderedDict[int, None]()
    uses: dict[int, int] = {}
    room, hits = max(1, entries // 10), 0

    def leave_small() -> None:
        key = small.popleft()
        if uses[key] > 1:
            uses[key] = 0
            main.append(key)
        else:
            del uses[key]
            ghosts[key] = None
            while len(ghosts) > entries - room:
                ghosts.popitem(last=False)

    def leave_main() -> None:
        key = main.popleft()
        if uses[key]:
            uses[key] -= 1
            main.append(key)
        else:
            del uses[key]

    for key in requests:
        if key in uses:
            uses[key] = min(3, uses[key] + 1)
            hits += 1
            continue
        while len(uses) >= entries:
            leave_small() if len(small) >= room or not main else leave_main()
        (main if ghosts.pop(key, key) is None else small).append(key)
        uses[key] = 0
    return hits


def belady(requests: Sequence[int], entries: int) -> int:
    """Simulate the optimum: what is asked for latest leaves, or is not taken in. Source: Belady, 1966."""
    held, hits = set[int](), 0
    latest: list[tuple[int, int]] = []  # uses to come; those that have come lie at its bottom, and are never reached
    for key, following in zip(requests, next_uses(requests), strict=True):
        hits += key in held
        held.add(key)
        heappush(latest, (-following, key))
        if len(held) > entries:
            held.remove(heappop(latest)[1])
    return hits


def next_uses(requests: Sequence[int]) -> list[int]:
    """Return for each request when its key is asked for next; beyond the end if never."""
    following, seen = [0] * len(requests), dict[Hashable, int]()
    for place in range(len(requests) - 1, -1, -1):
        key = requests[place]
        following[place] = seen.get(key, len(requests) + place)
        seen[key] = place
    return following


SIMULATIONS: dict[str, Simulate] = {
    **{f"colocache {name}": shipped(name) for name in POLICIES},
    "LRU, exact": mapped(cachetools.LRUCache),
    "LFU, exact": mapped(cachetools.LFUCache),
    "S3-FIFO": s3_fifo,
    "W-TinyLFU (theine)": w_tinylfu,
    "optimum (Belady)": belady,
}


def policies(requests: Sequence[int], report: Report) -> None:
    """Tell the hit ratio of each policy, for several sizes."""
    distinct = len(set(requests))
    sizes = [max(10, int(distinct * share)) for share in SHARES]
    found = dict(hit_ratios(requests, sizes, report))
    columns = ("policy", *(f"{share:.0%} ({size})" for share, size in zip(SHARES, sizes, strict=True)))
    report.table("hit ratio in % of one cache, by the share of all keys that it has room for", columns,
                 [(name, *ratios) for name, ratios in found.items()])  # fmt: skip
    curves = {name: list(zip(sizes, ratios, strict=True)) for name, ratios in found.items()}
    report.lines(f"{report.name}-policies", ("entries", "hit ratio, %"), curves, log=(True, False),
                 title="Eviction policies, and the optimum that knows the future")  # fmt: skip
    for name in POLICIES:  # the number says which requests: others would have another ratio
        value = found[f"colocache {name}"][2] / found["LRU, exact"][2]
        report.ratio(f"hits of {name} / LRU, {SHARES[2]:.0%} of keys, {len(requests)} requests", Ratio(*[value] * 3))


def hit_ratios(requests: Sequence[int], sizes: Iterable[int], report: Report) -> Iterator[tuple[str, list[float]]]:
    """Run all simulations that can be run."""
    for name, simulate in SIMULATIONS.items():
        progress(name)
        try:
            yield name, [100 * simulate(requests, size) / len(requests) for size in sizes]
        except ImportError as error:
            report.missing(name, f"{error} (the extra `bench` has the packages)")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    trace = ("--trace", {"type": Path, "metavar": "FILE", "help": "requests in the ARC format, .zst or not"})
    count = ("--requests", {"type": int, "help": "no more than so many"})
    chosen = options(__doc__ or "", trace, count, argv=argv)
    name = f"capacity-{chosen.trace.name.partition('.')[0]}" if chosen.trace else "capacity"
    question = "How much does one shared cache hold, and what should leave it?"
    report = Report(name, question, chosen, ("cachetools", "theine"))
    limit = chosen.requests or (QUICK if chosen.quick else REQUESTS if not chosen.trace else None)
    requests = traced(chosen.trace)[:limit] if chosen.trace else zipf(limit or REQUESTS, chosen.seed)
    what = chosen.trace.name if chosen.trace else f"a Zipf of {KEYS} keys with the exponent {EXPONENT}"
    report.note(f"{what}: {len(requests)} requests, {len(set(requests))} different keys")
    sharing(requests, report)
    policies(requests, report)
    return report.finish()


if __name__ == "__main__":
    main()
