"""How long does it take to read a key that this process holds?

    python -m benchmarks.hit [--quick] [--write]

Every contender holds the same 1,000 texts under the same 1,000 keys, with a ttl of 300 s if it has ttls. Each key is
read once before, and then all keys are read in turn. The loop around the reads is measured too, as a contender of its
own, and its time is subtracted. If a library says that its cache needs a lock, the loop itself takes the lock by a
``with``, because a function around it would cost more.

"By hand" is a dictionary and a reading of the clock, in a Python function: the least that a ttl costs in Python.
`bench.py --quick` compares with this contender, and not with compiled ones.

There are three questions: a mapping's ``get``, a decorated function in several shapes, and the same awaited. The
figures are the processor time of the thread, which other work of the machine does not change, because nothing waits
here. The first two are also measured with four threads, which do wait for each other. There the figure is the time on
the clock that the process takes per read.

The values are texts because nobody copies texts. Django's LocMem unpickles what it returns, diskcache reads it from its
file, and redis-py first looks for invalidations on its connection. The others return the object that was put in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import thread_time
from typing import Any

from benchmarks.contenders import AWAITED, BY_HAND, DECORATORS, KEYS, MAPPINGS, PACKAGES, SHAPES, Read, Stage
from benchmarks.measure import (
    Contender,
    Report,
    Sampler,
    Series,
    Work,
    interleave,
    less,
    looped,
    options,
    ratio,
    spread,
    threaded,
)
from benchmarks.servers import MissingServer

LOOP = "the loop alone"
EMPTY = "an empty await"
SYNC, AWAITABLE = "colocache cached, not async", "colocache cached"

MAPPING_LIMITS = {"cachetools TTLCache, locked": 0.5, "cachebox TTLCache": 2.0}
FUNCTION_LIMITS = {
    "functools.lru_cache": 3.0, "cachebox cached, TTLCache": 0.6, "cachetools cached, TTLCache, RLock": 0.35,
}  # fmt: skip
AWAITED_LIMIT = 1.5
DEADLOCKS = "redis-py client-side cache"  # with several threads of one process


def passes(read: Read, is_async: bool = False) -> Callable[[int], Any]:
    """Return a function that reads all keys n times, with nothing but local names in its loop, as `timeit` does it."""
    statement, names = read
    parameters = "".join(f", {name}={name}" for name in names)
    source = f"def work(n, keys=keys{parameters}):\n for _ in range(n):\n  for key in keys:\n   {statement}"
    scope: dict[str, Any] = {"keys": KEYS, **names}
    exec(f"async {source}" if is_async else source, scope)
    return scope["work"]


class Course:
    """The questions, put to all contenders that are there."""

    def __init__(self, stage: Stage, report: Report) -> None:
        self._stage = stage
        self._report = report
        rounds, self._seconds = (5, 0.004) if report.options.quick else (30, 0.01)
        self._rounds = report.options.rounds or rounds

    def built(self, builders: dict[str, Callable[[Stage], Any]]) -> dict[str, Any]:
        """Return what the builders make, and tell of those that cannot."""
        made = {}
        for name, build in builders.items():
            try:
                made[name] = build(self._stage)
            except (ImportError, MissingServer) as error:
                self._report.missing(name, f"{error} (the extra `bench` has the packages)")
        return made

    def measure(self, title: str, works: dict[str, Work], baseline: str, guard: str | None,
                threads: int = 1) -> dict[str, Series]:  # fmt: skip
        """Measure, tell, and return the series, without what the loop takes."""
        contenders = []
        for name, work in works.items():
            work(1)  # misses, where a function is to be cached
            contenders.append(Contender(name, self._sampler(work, threads)))
        series = interleave(contenders, self._rounds, self._report.options.seed, title)
        loop = series.pop(LOOP)
        net = {name: less(each, loop) for name, each in series.items()}
        self._report.timings(title, net, baseline, "ns", guard)
        return net

    def _sampler(self, work: Work, threads: int) -> Sampler:
        if threads == 1:
            return looped(work, len(KEYS), self._seconds, thread_time)
        # Four times as long, because a thread keeps the interpreter for 5 ms at a time.
        return looped(threaded(work, threads), len(KEYS) * threads, 4 * self._seconds)

    def sync(self, reads: dict[str, Read]) -> dict[str, Work]:
        return {LOOP: passes(("pass", {})), **{name: passes(read) for name, read in reads.items()}}

    def awaited(self, reads: dict[str, Read]) -> dict[str, Work]:
        """Return the works that run each pass in the event loop."""
        run = self._stage.runner.run

        def in_loop(read: Read) -> Work:
            work = passes(read, is_async=True)
            return lambda count: run(work(count))

        return {name: in_loop(read) for name, read in {LOOP: ("pass", {}), **reads}.items()}


def mappings(course: Course, report: Report) -> None:
    works = course.sync(course.built(MAPPINGS))
    found = course.measure("get", works, "dict", BY_HAND)
    report.bars("hit-get", "ns per read, median", _medians(found), log=True,
                title="get, of a key that this process holds")  # fmt: skip
    _targets(report, found, "colocache get", MAPPING_LIMITS)
    if works.pop(DEADLOCKS, None):
        report.missing(f"{DEADLOCKS}, four threads", "its threads wait for each other for ever (redis-py 8.1)")
    course.measure("get, four threads", works, "dict", None, threads=4)


def functions(course: Course, report: Report) -> None:
    for shape, call in SHAPES.items():
        decorators = course.built(DECORATORS)
        works = course.sync({name: call(decorate) for name, decorate in decorators.items()})
        found = course.measure(f"decorated function, {shape}", works, "functools.lru_cache", BY_HAND)
        if shape == "one argument":
            report.bars("hit-function", "ns per call, median", _medians(found), log=True,
                        title="A decorated function of one argument, its result held here")  # fmt: skip
            _targets(report, found, "colocache cached", FUNCTION_LIMITS)
            course.measure("decorated function, four threads", works, "functools.lru_cache", None, threads=4)


def coroutines(course: Course, report: Report) -> None:
    works = course.awaited(course.built(AWAITED))
    found = course.measure("awaited", works, EMPTY, SYNC)
    rounds = zip(found[AWAITABLE], found[SYNC], found[EMPTY], strict=True)
    value = spread([mine[0] / (plain[0] + empty[0]) for mine, plain, empty in rounds])
    report.target("awaited: colocache cached / (the same, not async, plus an empty await)", value, AWAITED_LIMIT)


def _targets(report: Report, found: Mapping[str, Series], name: str, limits: Mapping[str, float]) -> None:
    for other in limits:
        if other in found:
            report.target(f"{name} / {other}", ratio(found[name], found[other]), limits[other])


def _medians(found: Mapping[str, Series]) -> dict[str, float]:
    return {name: spread([one[0] * 1e9 for one in series]).median for name, series in found.items()}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    report = Report("hit", "How long does it take to read a key that this process holds?",
                    options(__doc__ or "", argv=argv), PACKAGES)  # fmt: skip
    with Stage() as stage:
        course = Course(stage, report)
        mappings(course, report)
        functions(course, report)
        coroutines(course, report)
    return report.finish()


if __name__ == "__main__":
    main()
