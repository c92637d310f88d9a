"""How long does it take to read a key that this process holds?

    python -m benchmarks.hit [--quick] [--write] [--before COMMIT]

Every contender holds the same 1,000 texts under the same 1,000 keys, with a ttl of 300 s if it has ttls. Each key is
read twice before, and then all keys are read in turn. The loop around the reads is measured too, as a contender of its
own, and its time is subtracted. If a library says that its cache needs a lock, the loop itself takes the lock by a
``with``, because a function around it would cost more.

"By hand" is a dictionary and a reading of the clock, in a Python function: the least that a ttl costs in Python.
`bench.py --quick` compares with this contender, and not with compiled ones.

There are three questions: a mapping's ``get``, a decorated function in several shapes, and the same awaited. The
figures are the processor time of the thread, which other work of the machine does not change, because nothing waits
here. The first two are also measured with four threads, which do wait for each other. There the figure is the time on
the clock that the process takes per read.

Two more questions are of colocache alone. What do hits cost while another process of the group invalidates other
things: tags a hundred times a second, or keys ten thousand times a second? Each event rings the bell, so the next hit
of each entry compares the entry's own stamps. And what did hits cost before values lay in the host's memory? For that,
the package is taken out of git as it was at a commit, and two processes take turns: one has the old package, and one
this one.

The values are texts because nobody copies texts. Django's LocMem unpickles what it returns, diskcache reads it from its
file, and redis-py first looks for invalidations on its connection. The others return the object that was put in.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, thread_time
from typing import Any

from benchmarks.contenders import (
    AWAITED,
    BY_HAND,
    DECORATORS,
    KEYS,
    MAPPINGS,
    PACKAGES,
    SHAPES,
    VALUES,
    Read,
    Stage,
    colocache_cached,
    one_argument,
)
from benchmarks.group import Member, Worker
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
    passes,
    ratio,
    spread,
    threaded,
)
from benchmarks.servers import MissingServer

LOOP = "the loop alone"
EMPTY = "an empty await"
GET, CACHED = "colocache get", "colocache cached"
LOCKED, CACHEBOX = "cachetools TTLCache, locked", "cachebox cached, TTLCache"
SYNC = "colocache cached, not async"

MAPPING_LIMITS = {LOCKED: 0.3}
FUNCTION_LIMITS = {CACHEBOX: 0.6, "cachetools cached, TTLCache, RLock": 0.35}
AWAITED_LIMIT = 1.5
BEFORE = "ae69341"  # the last commit at which processes asked each other for values
BEFORE_LIMIT = 1.3
EVENTS = {"tags, 100 a second": ("invalidate_tags", 100), "keys, 10,000 a second": ("invalidate", 10_000)}
ROOT = Path(__file__).resolve().parent.parent
DEADLOCKS = "redis-py client-side cache"  # with several threads of one process


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
            work(2)  # what is set before is near from then on; misses, where a function is to be cached
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
        return {name: passes(read, KEYS) for name, read in {LOOP: ("pass", {}), **reads}.items()}

    def awaited(self, reads: dict[str, Read]) -> dict[str, Work]:
        """Return the works that run each pass in the event loop."""
        run = self._stage.runner.run

        def in_loop(read: Read) -> Work:
            work = passes(read, KEYS, is_async=True)
            return lambda count: run(work(count))

        return {name: in_loop(read) for name, read in {LOOP: ("pass", {}), **reads}.items()}


def mappings(course: Course, report: Report, names: Iterable[str] = MAPPINGS) -> dict[str, Series]:
    """Measure the ``get`` of these mappings."""
    works = course.sync(course.built({name: MAPPINGS[name] for name in names}))
    found = course.measure("get", works, "dict", BY_HAND)
    _targets(report, found, GET, MAPPING_LIMITS)
    return found


def functions(course: Course, report: Report, shape: str, names: Iterable[str] = DECORATORS) -> dict[str, Series]:
    """Measure functions of a shape, with these decorators."""
    decorators = course.built({name: DECORATORS[name] for name in names})
    works = course.sync({name: SHAPES[shape](decorate) for name, decorate in decorators.items()})
    found = course.measure(f"decorated function, {shape}", works, "functools.lru_cache", BY_HAND)
    if shape == "one argument":
        _targets(report, found, CACHED, FUNCTION_LIMITS)
    return found


def with_threads(course: Course, report: Report) -> None:
    """Measure both with four threads."""
    works = course.sync(course.built(MAPPINGS))
    if works.pop(DEADLOCKS, None):
        report.missing(f"{DEADLOCKS}, four threads", "its threads wait for each other for ever (redis-py 8.1)")
    course.measure("get, four threads", works, "dict", None, threads=4)
    decorators = course.built(DECORATORS)
    works = course.sync({name: one_argument(decorate) for name, decorate in decorators.items()})
    course.measure("decorated function, four threads", works, "functools.lru_cache", None, threads=4)


def coroutines(course: Course, report: Report) -> None:
    """Measure what is awaited."""
    works = course.awaited(course.built(AWAITED))
    found = course.measure("awaited", works, EMPTY, SYNC)
    rounds = zip(found[CACHED], found[SYNC], found[EMPTY], strict=True)
    value = spread([mine[0] / (plain[0] + empty[0]) for mine, plain, empty in rounds])
    report.target("awaited: colocache cached / (the same, not async, plus an empty await)", value, AWAITED_LIMIT)


def _targets(report: Report, found: Mapping[str, Series], name: str, limits: Mapping[str, float]) -> None:
    for other in limits:
        if other in found:
            report.target(f"hit: {name} / {other}", ratio(found[name], found[other]), limits[other])


def _medians(found: Mapping[str, Series]) -> dict[str, float]:
    return {name: spread([one[0] * 1e9 for one in series]).median for name, series in found.items()}


# --- While others invalidate


class Invalidator(Member):
    """Another process, which invalidates things that nobody reads here, evenly in time."""

    def begin(self, method: str, rate: int) -> None:
        """Invalidate so many a second from now on."""
        self._over, self._done, self._since = threading.Event(), 0, monotonic()
        self._thread = threading.Thread(target=self._run, args=(getattr(self.cache, method), rate))
        self._thread.start()

    def finish(self) -> float:
        """Stop, and return how many a second it were."""
        self._over.set()
        self._thread.join()
        return self._done / (monotonic() - self._since)

    def _run(self, invalidate: Callable[[str], object], rate: int) -> None:
        while not self._over.is_set():
            due = self._since + self._done / rate
            if (ahead := due - monotonic()) > 0.002:
                self._over.wait(ahead - 0.001)
            elif ahead <= 0:
                invalidate(f"other:{self._done}")
                self._done += 1


def while_invalidated(stage: Stage, report: Report) -> None:
    """Measure hits while nothing is invalidated, while few other things are, and while many are."""
    stage.cache.set_many(VALUES, tags=["profiles"])
    reads = {"get": ("get(key)", {"get": stage.cache.get}), "cached": one_argument(colocache_cached(stage))}
    works = {name: passes(read, KEYS) for name, read in {LOOP: ("pass", {}), **reads}.items()}
    worker, rates = Worker(Invalidator, f"{stage.memory}/c", {}), dict[str, list[float]]()
    worker.call("start")

    def sampler(name: str, event: str | None) -> Sampler:
        works[name](2)
        timed = looped(works[name], len(KEYS), 0.05, thread_time)

        def sample() -> Sequence[float]:
            if event is None:
                return timed()
            worker.call("begin", *EVENTS[event])
            time.sleep(0.02)  # the pace settles
            taken = timed()
            rates.setdefault(event, []).append(worker.call("finish"))
            return taken

        return sample

    contenders = [Contender(LOOP, sampler(LOOP, None))]
    contenders += [Contender(f"{name}, {event or 'nothing'}", sampler(name, event))
                   for name in reads for event in (None, *EVENTS)]  # fmt: skip
    try:
        rounds = report.options.rounds or (3 if report.options.quick else 10)
        series = interleave(contenders, rounds, report.options.seed, "invalidated meanwhile:")
    finally:
        worker.end()
    loop = series.pop(LOOP)
    found = {name: less(each, loop) for name, each in series.items()}
    report.timings("a hit, by what another process invalidates meanwhile", found, "get, nothing", "ns", None)
    reached = ", ".join(f"{event}: {spread(each).median:.0f}" for event, each in rates.items())
    report.note(f"events that were made a second: {reached}")


# --- Beside the package as it was


@contextmanager
def exported(commit: str) -> Iterator[Path]:
    """Give a directory with the package as it was at a commit. Raise CalledProcessError or OSError where it cannot."""
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        packed = subprocess.run(["git", "archive", commit, "colocache"], cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "-x"], cwd=directory, input=packed.stdout, check=True)
        yield Path(directory)


class Hitter:
    """A process that times hits of the package in a directory; see `hitter.py`."""

    def __init__(self, directory: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # Python looks in its working directory first
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hitter"], cwd=directory, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, name: str) -> list[float]:
        """Return seconds per hit."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, file=self._process.stdin, flush=True)
        return [float(self._process.stdout.readline())]

    def close(self) -> None:
        """Have the process end."""
        self._process.communicate()


def against_before(report: Report, commit: str) -> None:
    """Compare hits with those of the package as it was at a commit."""
    with ExitStack() as stack:
        try:
            old = stack.enter_context(exported(commit))
        except (OSError, subprocess.CalledProcessError) as error:
            report.missing(f"colocache {commit}", f"git does not give it: {error}")
            return
        hitters = {"": Hitter(ROOT), f", {commit}": Hitter(old)}
        for hitter in hitters.values():
            stack.callback(hitter.close)

        def sampler(which: str, name: str) -> Sampler:
            return lambda: hitters[which].ask(name)

        contenders = [Contender(name + which, sampler(which, name)) for which in hitters
                      for name in ("loop", "get", "function")]  # fmt: skip
        rounds = report.options.rounds or (5 if report.options.quick else 30)
        series = interleave(contenders, rounds, report.options.seed, f"colocache {commit}:")
    found = dict[str, Series]()
    for which in hitters:
        loop = series.pop(f"loop{which}")
        found |= {name + which: less(series[name + which], loop) for name in ("get", "function")}
    report.timings(f"a hit, and the same with colocache {commit}", found, f"get, {commit}", "ns", None)
    for name in ("get", "function"):
        report.target(f"hit: {name} / the same with colocache {commit}", ratio(found[name], found[f"{name}, {commit}"]),
                      BEFORE_LIMIT)  # fmt: skip


BEFORE_OPTION = ("--before", {"default": BEFORE, "metavar": "COMMIT", "help": "compare hits with this version's"})


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    report = Report("hit", "How long does it take to read a key that this process holds?",
                    options(__doc__ or "", BEFORE_OPTION, argv=argv), PACKAGES)  # fmt: skip
    with Stage() as stage:
        course = Course(stage, report)
        read = mappings(course, report)
        called = {shape: functions(course, report, shape) for shape in SHAPES}
        with_threads(course, report)
        coroutines(course, report)
        while_invalidated(stage, report)
    against_before(report, report.options.before)
    report.bars("hit-get", "ns per read, median", _medians(read), log=True,
                title="get, of a key that this process holds")  # fmt: skip
    report.bars("hit-function", "ns per call, median", _medians(called["one argument"]), log=True,
                title="A decorated function of one argument, its result held here")  # fmt: skip
    return report.finish()


if __name__ == "__main__":
    main()
