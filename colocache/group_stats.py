"""What all processes of a group have counted, as one of them reads it from the scoreboard, and asks of other hosts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Final, NamedTuple

from .core.host.scores import COLUMNS, OTHERS, Block, Row
from .core.hosts.requests import MAX_PROCESSES, MAX_SPACES, ProcessReport, Reported
from .runtime.board_file import Seat
from .stats import IN_COLUMNS, LOAD_TIMES, RESULTS, TIMES_AT, UNITS

_SECOND: Final = 1e9  # ns


@dataclass(frozen=True, slots=True)
class SpaceStats:
    """What was counted in one namespace, or in several together. A decorated function has a namespace of its own.

    ``counters`` has the counters of `colocache.stats.Stats`, by name. ``load_times`` says how many loaders took how
    long, by the classes of `colocache.stats.LOAD_TIMES`, whose last one is for all that took longer.
    """

    counters: Mapping[str, float]
    load_times: tuple[int, ...]

    @classmethod
    def of(cls, columns: Sequence[int]) -> SpaceStats:
        """Return what the columns of a row of the scoreboard say."""
        counters = {
            name: columns[place] if name not in UNITS else columns[place] / UNITS[name]
            for place, name in enumerate(IN_COLUMNS)
        }
        return cls(counters, tuple(columns[TIMES_AT : TIMES_AT + len(LOAD_TIMES) + 1]))

    @property
    def reads(self) -> int:
        """How many keys were asked for."""
        counters = self.counters
        return int(sum([counters[name] for name in RESULTS.values()]))

    @property
    def hit_ratio(self) -> float:
        """The share of reads that needed no load, from 0 to 1; 0 if there were none."""
        counters, reads = self.counters, self.reads
        return (counters["hits"] + counters["fetches"] + counters["waits"]) / reads if reads else 0.0

    @property
    def timed_loads(self) -> int:
        """How many loaders have ended, one way or another."""
        return sum(self.load_times)

    @property
    def load_time(self) -> float:
        """The time that a loader took on average, in seconds; 0 if none has ended."""
        return self.counters["load_seconds"] / self.timed_loads if self.timed_loads else 0.0

    @property
    def saved(self) -> float:
        """The seconds that loaders would have taken for what was found, if each took the average time."""
        counters = self.counters
        return (counters["hits"] + counters["fetches"] + counters["waits"]) * self.load_time

    def load_quantile(self, share: float) -> float:
        """Return within how many seconds that share of loaders has ended: the bound of a class, infinity in the last.

        0 if none has ended.
        """
        wanted, seen = share * self.timed_loads, 0
        for bound, count in zip((*LOAD_TIMES, float("inf")), self.load_times, strict=True):
            seen += count
            if count and seen >= wanted:
                return bound
        return 0.0


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """One process, as it shows itself on the scoreboard of its host.

    A process that was killed stays until another one takes its seat. A killed process may have counted some more, in
    its last second.
    """

    seat: int
    pid: int  # as the process sees itself
    role: str  # as in `colocache.MemberInfo`
    version: str  # of colocache
    is_alive: bool
    began: float  # when it joined, in seconds since the epoch
    seen: float  # when it has last shown what it has counted, likewise
    entries: int  # near copies
    bytes: int  # that they take
    memory: int  # bytes that they may take
    total: SpaceStats  # since it joined
    #: The same for each namespace, by path; empty for processes of other hosts.
    spaces: Mapping[str, SpaceStats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostStats:
    """What the processes of one host have counted since the first of them has joined; none is ever taken back.

    So rates that are made of it are right whoever ends. When the last process of a host has left, it begins anew.
    """

    name: str  # "" in a group of one host
    me: bool
    processes: tuple[ProcessStats, ...]
    spaces: Mapping[str, SpaceStats]  # by path
    shelf_entries: int
    shelf_bytes: int
    shelf_capacity: int  # bytes that values may take

    @property
    def total(self) -> SpaceStats:
        """All namespaces together."""
        return together(self.spaces.values())

    @property
    def alive(self) -> list[ProcessStats]:
        """The processes that live."""
        return [process for process in self.processes if process.is_alive]


@dataclass(frozen=True, slots=True)
class GroupStats:
    """What the whole group has counted. ``silent`` are the names of hosts that have not answered."""

    hosts: tuple[HostStats, ...]  # this one first
    silent: tuple[str, ...] = ()

    @property
    def processes(self) -> list[tuple[HostStats, ProcessStats]]:
        """All processes, each with its host."""
        return [(host, process) for host in self.hosts for process in host.processes]

    @property
    def spaces(self) -> dict[str, SpaceStats]:
        """All namespaces, by path."""
        found: dict[str, list[SpaceStats]] = {}
        for host in self.hosts:
            for path, space in host.spaces.items():
                found.setdefault(path, []).append(space)
        return {path: together(several) for path, several in sorted(found.items())}

    @property
    def total(self) -> SpaceStats:
        """All namespaces of all hosts together."""
        return together([host.total for host in self.hosts])


def together(several: Iterable[SpaceStats]) -> SpaceStats:
    """Return the sums of several."""
    counters: dict[str, float] = dict.fromkeys(IN_COLUMNS, 0)
    times = (0,) * (len(LOAD_TIMES) + 1)
    for each in several:
        for name, count in each.counters.items():
            counters[name] = counters.get(name, 0) + count
        times = tuple(map(add, times, each.load_times))
    return SpaceStats(counters, times)


# --- From the scoreboard


class Board(NamedTuple):
    """What `HostStats`, and reports to other hosts, are made of."""

    seats: Sequence[tuple[Seat, bool, Block]]  # see `colocache.runtime.region.Region.scoreboard`
    shelf: tuple[int, int, int]  # entries, their bytes, and the bytes that they may take


def host_stats(name: str, me: bool, board: Board) -> HostStats:
    """Return what a host's board says."""
    spaces = {path: SpaceStats.of(columns) for path, columns in sorted(_columns(board).items())}
    return HostStats(name, me, tuple([_process(*each) for each in board.seats]), spaces, *board.shelf)


def report(board: Board) -> Reported:
    """Return the same for another host. What is too much for one frame is left out, or counted together."""
    spaces = _columns(board)
    others = spaces.pop(OTHERS, [0] * COLUMNS)
    by_reads = sorted(spaces.items(), key=lambda item: -sum(item[1][:5]))
    for _, columns in by_reads[MAX_SPACES - 1 :]:
        others = [*map(add, others, columns)]
    kept = [*by_reads[: MAX_SPACES - 1], (OTHERS, others)]
    processes = [
        ProcessReport(
            seat.number, block.pid, seat.role, seat.version, lives, block.began, block.written, block.gauges[:3],
            tuple(_total(seat, lives, block)),
        )
        for seat, lives, block in board.seats
    ]  # fmt: skip
    processes.sort(key=lambda process: not process.is_alive)
    return Reported(tuple(processes[:MAX_PROCESSES]), tuple([(path, tuple(each)) for path, each in kept]), board.shelf)


def stats_of_report(name: str, reported: Reported) -> HostStats:
    """Return what another host has reported."""
    processes = [
        ProcessStats(
            each.seat, each.pid, each.role, each.version, each.is_alive, each.began / _SECOND, each.written / _SECOND,
            *_three(each.gauges), SpaceStats.of(_padded(each.columns, COLUMNS)),
        )
        for each in reported.processes
    ]  # fmt: skip
    spaces = {
        path: SpaceStats.of(_padded(columns, COLUMNS)) for path, columns in sorted(reported.spaces) if any(columns)
    }
    return HostStats(name, False, tuple(processes), spaces, *_three(reported.shelf))


def _three(numbers: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = _padded(numbers, 3)
    return first, second, third


def _padded(numbers: Sequence[int], count: int) -> Sequence[int]:
    """Return so many numbers: another version may have sent fewer, or more."""
    return (*numbers[:count], *[0] * (count - len(numbers)))


def _process(seat: Seat, lives: bool, block: Block) -> ProcessStats:
    rows = [(row.name, _since_base(row)) for row in block.rows] if _is_its_own(seat, lives, block) else []
    entries, size, memory = block.gauges[:3]
    return ProcessStats(
        seat.number, block.pid, seat.role, seat.version, lives, block.began / _SECOND, block.written / _SECOND, entries,
        size, memory, SpaceStats.of(_sum([columns for _, columns in rows])),
        {path: SpaceStats.of(columns) for path, columns in rows if any(columns)},
    )  # fmt: skip


def _total(seat: Seat, lives: bool, block: Block) -> list[int]:
    return _sum([_since_base(row) for row in block.rows] if _is_its_own(seat, lives, block) else [])


def _sum(rows: Collection[Sequence[int]]) -> list[int]:
    return [sum(columns) for columns in zip(*rows, strict=True)] if rows else [0] * COLUMNS


def _is_its_own(seat: Seat, lives: bool, block: Block) -> bool:
    """Tell whether a block is that of who has the seat: there may have been no room for one."""
    return block.nonce == seat.nonce or not (lives or seat.nonce)


def _columns(board: Board) -> dict[str, list[int]]:
    """Return what all processes have counted that ever had the seats, by namespace."""
    found: dict[str, list[int]] = {}
    for _, _, block in board.seats:
        for row in block.rows:
            if any(row.counts):
                known = found.get(row.name)
                found[row.name] = [*row.counts] if known is None else [*map(add, known, row.counts)]
    return found


def _since_base(row: Row) -> list[int]:
    if not any(row.base):  # nobody had the seat before
        return [*row.counts]
    return [count - base if count > base else 0 for count, base in zip(row.counts, row.base, strict=True)]
