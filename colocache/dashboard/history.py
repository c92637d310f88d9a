"""What was counted over time, as far as this process has looked: a ring of samples with a bound.

The counters of a host only grow while any process of the group lives, and all who look read the same ones. So samples
that several processes have taken of one host belong to one history, and a browser may mix them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from ..group_stats import HostStats, SpaceStats

EVERY: Final = 2.0  # s between two samples
MOST: Final = 240  # samples
FINE: Final = 60  # the newest, of which none is left out
SPACES: Final = 64  # namespaces of a sample, those with most reads
AGE: Final = 6 * 3600.0  # s
RECENT: Final = 10.0  # s over which a present rate is taken


class Line(NamedTuple):
    """What was counted in a namespace until some moment."""

    reads: int = 0
    found: int = 0  # reads that needed no load
    loads: int = 0
    load_seconds: float = 0.0
    worth: float = 0.0  # s of loading that a found read saves

    @classmethod
    def of(cls, space: SpaceStats) -> Line:
        """Return the line of a namespace."""
        return cls(space.reads, found(space), space.timed_loads, space.counters["load_seconds"], space.load_time)


def found(space: SpaceStats) -> int:
    """Return how many reads needed no load."""
    counters = space.counters
    return int(counters["hits"] + counters["fetches"] + counters["waits"])


def together(lines: Iterable[Line]) -> Line:
    """Return the sum of lines. What a found read is worth is their mean."""
    several = [*lines]
    all_found = sum([each.found for each in several])
    saved = sum([each.found * each.worth for each in several])
    return Line(
        sum([each.reads for each in several]), all_found, sum([each.loads for each in several]),
        sum([each.load_seconds for each in several]), saved / all_found if all_found else 0.0,
    )  # fmt: skip


class Sample(NamedTuple):
    """What was counted on a host until some moment."""

    time: float  # s since the epoch
    total: Line
    spaces: Mapping[str, Line]

    @classmethod
    def taken(cls, time: float, host: HostStats) -> Sample:
        """Return what a host says at some time."""
        lines = {path: Line.of(space) for path, space in host.spaces.items()}
        most = sorted(lines, key=lambda path: -lines[path].reads)[:SPACES]
        return cls(time, together(lines.values()), {path: lines[path] for path in most})

    def line(self, path: str | None) -> Line | None:
        """Return the line of a namespace, and of all together for None; None if the sample has left it out."""
        if path is None:
            return self.total
        return self.spaces.get(path) or (Line() if len(self.spaces) < SPACES else None)


class Rate(NamedTuple):
    """What happened between two samples."""

    seconds: float
    reads: float  # per second
    ratio: float | None  # from 0 to 1; None without reads
    saved: float  # s of loading, per second
    loads: float  # per second
    load_time: float | None  # s; None without loads


def rate(before: Sample, now: Sample, path: str | None = None) -> Rate | None:
    """Return what happened between two samples; None if that is not known, or if the group has begun anew."""
    old, new, seconds = before.line(path), now.line(path), now.time - before.time
    if old is None or new is None:
        return None
    reads, found, loads = new.reads - old.reads, new.found - old.found, new.loads - old.loads
    if seconds <= 0 or reads < 0 or found < 0 or loads < 0:
        return None
    spent = max(0.0, new.load_seconds - old.load_seconds)
    return Rate(
        seconds, reads / seconds, found / reads if reads else None, found * new.worth / seconds, loads / seconds,
        spent / loads if loads else None,
    )  # fmt: skip


class History:
    """Samples, the oldest first. For one thread at a time."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Add a sample, unless it comes too soon. Forget old ones, and of those between every other one."""
        samples = self.samples
        if samples and sample.time < samples[-1].time:  # somebody has put the clock back
            samples.clear()
        if samples and sample.time - samples[-1].time < EVERY * 0.9:
            return
        if samples and sample.total.reads < samples[-1].total.reads:  # the group has begun anew
            samples.clear()
        samples.append(sample)
        while samples[0].time < sample.time - AGE:
            del samples[0]
        if len(samples) > MOST:
            samples[:-FINE] = samples[:-FINE:2]

    def recent(self, path: str | None = None) -> Rate | None:
        """Return what happens at present."""
        return recent(self.samples, path)


def recent(samples: Sequence[Sample], path: str | None = None) -> Rate | None:
    """Return what happens at present, over the last ten seconds or so; None if nobody knows."""
    if len(samples) < 2:
        return None
    now = samples[-1]
    before = next((each for each in reversed(samples[:-1]) if now.time - each.time >= RECENT), samples[0])
    return rate(before, now, path)
