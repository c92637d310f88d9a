"""What is the cache of one host measured by, and does it reach that?

    python -m benchmarks.host                      all rows, in about ten minutes, and whether each bound is met
    python -m benchmarks.host --only fetch,hit     some of: fetch, invalidate, load, hit, events, application,
                                                   recycled, crowded, starts, idle, memory
    python -m benchmarks.host --write              and write results/host.json and host.txt
    python -m benchmarks.host --quick              the same less often, in two or three minutes

Each row is measured in turns with what it is compared with, in this one run: Redis, by redis-py with hiredis over a
Unix socket; Memcached, by pylibmc over one; caches of other libraries; or this package as it was before. The other
benchmarks have the same code, more contenders and more cases; each says in its docstring how it measures.
"""

from __future__ import annotations

import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import monotonic
from typing import Any, NamedTuple

from benchmarks import application, fetch, footprint, hit, invalidate, life, load, render
from benchmarks.contenders import BY_HAND, Stage
from benchmarks.group import Group
from benchmarks.measure import Report, chosen_parts, options
from benchmarks.servers import Servers

PACKAGES = ("redis", "hiredis", "pylibmc", "cachetools", "cachebox", "django", "gunicorn")
WORKERS, ROUNDS = (2, 4, 8), 4  # of the application


class Bench(NamedTuple):
    """What rows are measured with."""

    report: Report
    servers: Servers

    @property
    def options(self) -> Namespace:
        """The options of the command."""
        return self.report.options


def fetches(bench: Bench) -> None:
    """Values that another process has stored: one, many, large; and to store one."""
    with Group() as group:
        course = fetch.Course(group, bench.servers, bench.options, [fetch.BASELINE])
        fetch.one_key(course, bench.report, ["1 KiB"], ["idle", "spinning", "stopped", "dead"])
        fetch.one_key(course, bench.report, ["100 KiB"], ["idle"])
        fetch.many_keys(course, bench.report, ["1 KiB"])
        fetch.storing(course, bench.report, ["1 KiB"])


def invalidations(bench: Bench) -> None:
    """Until `invalidate` returns, and how many go through."""
    with Group() as group:
        course = invalidate.Course(group, bench.servers, bench.options)
        course.grow(4)
        invalidate.throughput(course, bench.report, invalidate.FLOODS[:1])
        ways = (invalidate.OURS, invalidate.DEL)
        invalidate.latencies(course, bench.report, (4, 16), ("idle", "spinning", "stopped"), ways)


def loads(bench: Bench) -> None:
    """A miss and its load."""
    with Group() as group:
        load.tell(bench.report, load.Course(group, bench.servers, bench.options), tuple(load.STATES))


def hits(bench: Bench) -> None:
    """Hits, beside other caches and beside this one as it was."""
    with Stage() as stage:
        course = hit.Course(stage, bench.report)
        hit.mappings(course, bench.report, ("dict", BY_HAND, hit.GET, hit.LOCKED))
        hit.functions(course, bench.report, "one argument",
                      ("functools.lru_cache", BY_HAND, hit.CACHED, hit.CACHEBOX))  # fmt: skip
    hit.against_before(bench.report, bench.options.before)


def events(bench: Bench) -> None:
    """Hits while others invalidate."""
    with Stage() as stage:
        hit.while_invalidated(stage, bench.report)


def applications(bench: Bench) -> None:
    """A whole application under gunicorn."""
    chosen = Namespace(
        **{**vars(bench.options), "rounds": bench.options.rounds or (2 if bench.options.quick else ROUNDS)}
    )
    with ExitStack() as stack:
        course = application.Course(bench.servers, stack, chosen, (*application.BEATEN, application.OURS))
        for workers in (4,) if chosen.quick else WORKERS:
            course.measure(workers)
            application.tell(bench.report, course, workers)
        application.tell_stale(bench.report, course)


ROWS: dict[str, Callable[[Bench], None]] = {
    "fetch": fetches,
    "invalidate": invalidations,
    "load": loads,
    "hit": hits,
    "events": events,
    "application": applications,
    "recycled": lambda bench: life.tell_recycled(bench.report),
    "crowded": lambda bench: life.tell_crowded(bench.report),
    "starts": lambda bench: life.tell_starts(bench.report),
    "idle": lambda bench: footprint.tell_idle(bench.report, draw=False),
    "memory": lambda bench: footprint.tell_group(bench.report),
}


def measured(bench: Bench, rows: dict[str, Callable[[Bench], None]]) -> list[str]:
    """Measure rows, and return the names of those that broke: the others can still be measured."""
    broken = []
    for name, row in rows.items():
        began = monotonic()
        print(f"\n=== {name}", flush=True)
        try:
            row(bench)
        except Exception:
            traceback.print_exc()
            bench.report.note(f"BROKEN: {name}")
            broken.append(name)
        print(f"=== {name}: {monotonic() - began:.0f} s", flush=True)
    return broken


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found. Raise SystemExit if a row broke."""
    only = ("--only", {"default": "", "metavar": "ROWS", "help": f"some of {','.join(ROWS)}"})
    chosen = options(__doc__ or "", only, hit.BEFORE_OPTION, argv=argv)
    rows = chosen_parts(ROWS, chosen.only)
    if chosen.write and len(rows) < len(ROWS):
        raise SystemExit("--write needs all rows, because the results are of one run")
    with Servers() as servers:
        report = Report("host", "What is the cache of one host measured by, and does it reach that?", chosen, PACKAGES,
                        servers.versions())  # fmt: skip
        broken = measured(Bench(report, servers), rows)
    print("\n=== all of them")
    for target in report.facts["targets"]:
        print(render.target(target))
    found = report.finish()
    if broken:
        sys.exit(f"BROKEN: {', '.join(broken)}")
    return found


if __name__ == "__main__":
    main()
