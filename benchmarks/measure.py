"""What all benchmarks share: they measure contenders side by side, and report the results.

How a benchmark measures
    A `Contender` is a name and a sampler: a function without arguments that takes the samples of one round, in seconds
    per operation. `looped` makes a sampler of work that is too short to be timed alone: one sample a round, over as
    many operations as take some milliseconds. Any other function that returns a list of seconds is a sampler too, for
    example one that asks another process.

        series = interleave([Contender("dict", looped(...)), Contender("colocache", looped(...))], rounds=30)

    All contenders are measured once per round, in an order that is shuffled for each round. So if something slows the
    machine down for a while, it slows all of them. The garbage collector is off meanwhile.

    `ratio` compares two contenders. It takes the quotient of their medians in each round, and then the median of these
    quotients, with the 10th and the 90th percentile as its spread, which is the noise of this run. Absolute times
    depend on the other work of the machine; quotients within one round hardly do.

How it reports
        report = Report("hit", "How long does a hit take?", options("hit ..."))
        report.timings("cache.get", series, baseline="dict", unit="ns")
        report.target("cache.get / dict", ratio(series["colocache"], series["dict"]), at_most=3.0)
        report.table("what else", ("members", "messages"), [(2, 4), (4, 12)])
        report.ratio("a name for the guard", ratio)      # `timings` and `target` note their own
        report.missing("theine", "not installed: pip install theine")
        report.bars("hit", "ns per hit", {"dict": 30, "colocache": 90}, log=True)
        report.finish()

    Everything is printed at once. With ``--write``, `finish` writes results/<name>.json, and `render` makes the text
    from it and, if matplotlib is installed, the plots. With ``--quick`` a benchmark does the same work less often. A
    ratio with one name must mean the same in both forms, because `bench.py --quick` compares it with the committed one.

What every benchmark file is
    A docstring that begins with its question, and ``main(argv=None)``, which returns what `Report.finish` returns. So
    ``python -m benchmarks.hit --quick`` runs one alone, and `bench.py` runs all, each in a process of its own. All of
    them take less than 15 minutes, and their quick forms about one minute. `bench.py` says how long each may take.
    `host.py` is none of them: it takes from them what the cache of one host has to reach, in one run.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

from benchmarks import render
from benchmarks.draw import shown
from benchmarks.render import RESULTS

UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0}

Sampler = Callable[[], Sequence[float]]
Work = Callable[[int], object]
Clock = Callable[[], float]
Series = list[list[float]]  # per round, the samples in seconds per operation


# --- Measuring


@dataclass(frozen=True)
class Contender:
    """One way to do the work. ``sample`` takes the samples of one round, in seconds per operation."""

    name: str
    sample: Sampler


def looped(work: Work, operations: int = 1, seconds: float = 0.01, clock: Clock = perf_counter) -> Sampler:
    """Return a sampler of one sample a round: ``work(n)`` does n times so many operations.

    The first round chooses n so that the work takes about ``seconds``; n stays the same from then on. If the work waits
    for nobody, use `time.thread_time` as the clock: it leaves out the time that other processes use the processor.
    """
    chosen: list[int] = []

    def sample() -> list[float]:
        if not chosen:
            chosen.append(_enough(work, seconds, clock))
        return [_timed(work, chosen[0], clock) / (chosen[0] * operations)]

    return sample


def passes(read: tuple[str, Mapping[str, Any]], keys: Sequence[Any], is_async: bool = False) -> Callable[[int], Any]:
    """Return a function that reads all keys n times, with nothing but local names in its loop, as `timeit` does it.

    ``read`` is a statement that reads ``key``, and what its names mean.
    """
    statement, names = read
    parameters = "".join(f", {name}={name}" for name in names)
    source = f"def work(n, keys=keys{parameters}):\n for _ in range(n):\n  for key in keys:\n   {statement}"
    scope: dict[str, Any] = {"keys": keys, **names}
    exec(f"async {source}" if is_async else source, scope)
    return scope["work"]  # type: ignore[no-any-return]


def threaded(work: Work, threads: int) -> Work:
    """Return the work of this many threads at once. Each does ``work(n)``, so together they do n times as much.

    Divide by the number of threads to get the time that the process takes per operation: ``operations=threads``.
    """

    def together(count: int) -> None:
        workers = [threading.Thread(target=work, args=(count,)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return together


def interleave(contenders: Sequence[Contender], rounds: int, seed: int = 1, title: str = "") -> dict[str, Series]:
    """Measure all contenders once per round, in shuffled order, after a round that does not count.

    Show the progress on standard error, if that is a terminal.
    """
    dice = random.Random(seed)
    series: dict[str, Series] = {contender.name: [] for contender in contenders}
    if len(series) < len(contenders):
        raise ValueError(f"two contenders have one name: {[contender.name for contender in contenders]}")
    with quiet():
        for number in range(rounds + 1):
            for contender in dice.sample(contenders, len(contenders)):
                progress(f"{title} {number}/{rounds} {contender.name}")
                samples = list(contender.sample())
                if number:
                    series[contender.name].append(samples)
    progress("")
    return series


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the garbage collector out of the timing. What is there already, it does not look at afterwards either."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def progress(text: str) -> None:
    """Show what is being done, in place of the line before."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:110]}", end="", file=sys.stderr, flush=True)


def _timed(work: Work, count: int, clock: Clock) -> float:
    began = clock()
    work(count)
    return clock() - began


def _enough(work: Work, seconds: float, clock: Clock) -> int:
    count = 1
    while (took := _timed(work, count, clock)) < seconds / 4:
        count *= 2 if took > seconds / 64 else 8
    return max(1, round(count * seconds / took))


# --- Summing up


@dataclass(frozen=True)
class Ratio:
    """How a contender compares with another one: the median over the rounds, and the spread of the rounds."""

    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile

    def __str__(self) -> str:
        return render.spread(self.median, self.low, self.high)


def ratio(one: Series, other: Series) -> Ratio:
    """Return how many times as long ``one`` takes as ``other``, compared round by round."""
    return spread(median(mine) / median(others) for mine, others in zip(one, other, strict=True))


def tail_ratio(one: Series, other: Series, percent: float = 99) -> Ratio:
    """Return the quotient of a high percentile of all samples, with the spread of the rounds' own quotients."""
    pairs = zip(one, other, strict=True)
    rounds = spread(percentile(mine, percent) / percentile(others, percent) for mine, others in pairs)
    return Ratio(percentile(samples(one), percent) / percentile(samples(other), percent), rounds.low, rounds.high)


def spread(values: Iterator[float] | Sequence[float]) -> Ratio:
    """Return the median of some figures, one a round, with their spread."""
    known = list(values)
    return Ratio(percentile(known, 50), percentile(known, 10), percentile(known, 90))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, interpolated between the nearest two samples."""
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


def exactly(value: float) -> Ratio:
    """Return a figure that has no spread."""
    return Ratio(value, value, value)


def less(series: Series, overhead: Series) -> Series:
    """Return the samples without the time of the loop around the operation.

    That time is the median of all rounds, and not that of the same round: if the loop alone was held up in one round,
    nothing would be left of the other contenders.
    """
    loop = median(samples(overhead))
    return [[max(sample - loop, 1e-10) for sample in mine] for mine in series]


def samples(series: Series) -> list[float]:
    """Return the samples of all rounds."""
    return [sample for one in series for sample in one]


# --- Reporting


def options(description: str, *more: tuple[str, dict[str, Any]],
            argv: Sequence[str] | None = None) -> argparse.Namespace:  # fmt: skip
    """Return the options of a benchmark's command. ``more`` are its own, as `add_argument` takes them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same work less often")
    parser.add_argument("--write", action="store_true", help="write results/, text and JSON, and plots")
    parser.add_argument("--json", metavar="FILE", help="write what was found to this file, too")
    parser.add_argument("--rounds", type=int, metavar="N", help="instead of the benchmark's own number")
    parser.add_argument("--seed", type=int, default=1, help="of the order in which contenders are measured")
    for name, keywords in more:
        parser.add_argument(name, **keywords)
    return parser.parse_args(argv)


Part = TypeVar("Part")


def chosen_parts(parts: Mapping[str, Part], only: str) -> dict[str, Part]:
    """Return the parts of a benchmark that ``--only`` names, such as "idle,imports"; all if it is empty.

    Raise SystemExit for a name that is none.
    """
    names = [name for name in only.split(",") if name]
    unknown = [name for name in names if name not in parts]
    if unknown:
        raise SystemExit(f"--only: there is no {', '.join(unknown)}; there are {', '.join(parts)}")
    return {name: part for name, part in parts.items() if name in names or not names}


def machine(packages: Sequence[str] = (), servers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what a reader must know to judge the figures. ``servers`` has versions that no package has."""
    versions = {name: version for name in ("colocache", "pyzmq", "msgpack", *packages) if (version := installed(name))}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions | dict(servers or {}),
    }


def installed(package: str) -> str | None:
    """Return the version of an installed package; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@dataclass
class Report:
    """What one benchmark found. It is printed at once, and written at the end if the options say so."""

    name: str
    question: str
    options: argparse.Namespace
    packages: Sequence[str] = ()
    servers: Mapping[str, str] | None = None
    facts: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.facts = {"benchmark": self.name, "question": self.question, "quick": self.options.quick,
                      "machine": machine(self.packages, self.servers), "tables": [], "notes": [], "targets": [],
                      "missing": {}, "ratios": {}, "plots": []}  # fmt: skip
        _say(*render.head(self.facts))

    def note(self, text: str) -> None:
        """Report something in words."""
        _say(text)
        self.facts["notes"].append(text)

    def timings(self, title: str, series: Mapping[str, Series], baseline: str, unit: str = "us",
                guard: str | None = "") -> None:  # fmt: skip
        """Report median, p90, p99, max of each contender, and its ratio to the baseline, fastest first.

        The guard gets the ratio of each contender with ``colocache`` in its name to ``guard``: to the baseline if
        nothing is given, and no ratio if it is None. Choose a contender that does the same kind of work. Other work of
        the machine slows compiled code and the interpreter down by different factors, so their quotients move.
        """
        columns = ("", f"median {unit}", "p90", "p99", "max", f"x {baseline}", "10 % to 90 %")
        rows = [self._timing(name, series, baseline, unit) for name in _by_median(series)]
        self.table(title, columns, rows)
        if guard is not None:
            self._guarded(title, series, guard or baseline)

    def _guarded(self, title: str, series: Mapping[str, Series], yardstick: str) -> None:
        for name in series:
            if "colocache" in name and name != yardstick:
                self.ratio(f"{title}: {name} / {yardstick}", ratio(series[name], series[yardstick]))

    def _timing(self, name: str, series: Mapping[str, Series], baseline: str, unit: str) -> tuple[Any, ...]:
        all_samples, compared = samples(series[name]), ratio(series[name], series[baseline])
        figures = [percentile(all_samples, percent) * UNITS[unit] for percent in (50, 90, 99, 100)]
        return (name, *figures, compared.median, f"{shown(compared.low)} to {shown(compared.high)}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Report a table. Numbers are shown with the digits that are significant."""
        table = {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}
        _say("", *render.table(table))
        self.facts["tables"].append(table)

    def ratio(self, name: str, value: Ratio) -> None:
        """Note a ratio for the guard. `bench.py` compares ratios that have one name."""
        self.facts["ratios"][name] = asdict(value)

    def target(self, name: str, value: Ratio, at_most: float) -> None:
        """Report whether a ratio, or another figure with its spread, is as small as it should be."""
        target = {"name": name, "value": asdict(value), "at_most": at_most, "met": value.median <= at_most}
        _say(render.target(target))
        self.facts["targets"].append(target)
        self.ratio(name, value)

    def missing(self, name: str, reason: str) -> None:
        """Report, once, that a contender does not take part, and why."""
        if name not in self.facts["missing"]:
            _say(render.missing(name, reason))
            self.facts["missing"][name] = reason

    def bars(self, plot: str, label: str, values: Mapping[str, float], *, log: bool = False, title: str = "") -> None:
        """Have results/<plot>.png drawn, with one bar for each name. Names with ``colocache`` in them stand out."""
        self._plot(plot, "bars", label=label, values=values, log=log, title=title)

    def lines(self, plot: str, labels: tuple[str, str], curves: Mapping[str, Sequence[tuple[float, float]]], *,
              log: tuple[bool, bool] = (False, False), title: str = "") -> None:  # fmt: skip
        """Have results/<plot>.png drawn, with one line for each name. ``labels`` and ``log`` are of x and y."""
        self._plot(plot, "lines", labels=labels, curves=curves, log=log, title=title)

    def _plot(self, name: str, kind: str, *, title: str, **of: Any) -> None:
        self.facts["plots"].append({"name": name, "kind": kind, "of": {**of, "title": title or self.question}})

    def finish(self) -> dict[str, Any]:
        """Write the files that the options ask for. Return all that is in the JSON."""
        found = json.dumps(self.facts, indent=1) + "\n"
        if self.options.json:
            Path(self.options.json).write_text(found)
        if self.options.write:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self.name}.json").write_text(found)
            render.write(self.facts)
        return self.facts


def _say(*lines: str) -> None:
    progress("")
    print("\n".join(lines), flush=True)


def _by_median(series: Mapping[str, Series]) -> list[str]:
    return sorted(series, key=lambda name: median(samples(series[name])))


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
