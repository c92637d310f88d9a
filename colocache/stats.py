"""What a process counts. `Stats` is the table of all figures; the documentation and exporters read it as `FIGURES`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .core.entry import NearCounts
from .core.host.scores import COLUMNS, OTHERS, ROWS
from .figures import counter, figures_of, gauge


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The figures of one process since it joined. A counter only grows; a gauge tells the present state."""

    hits: int = counter("Reads", "Reads that found their value near, as an object of this process.")
    fetches: int = counter("Reads", "Values that this process took from the shelf.")
    loads: int = counter("Reads", "Loaders that this process started.")
    waits: int = counter("Reads", "Reads that were given the value that another call of this process loaded.")
    misses: int = counter("Reads", "Keys that `get` or `get_many` asked for and nobody had.")
    fallbacks: int = counter(
        "Reads", "Loads that the cache could not help: it had not joined, or somebody else's load took too long. "
        "Part of `loads`.",
    )  # fmt: skip
    failed_loads: int = counter("Reads", "Loaders that raised an exception.")
    load_seconds: float = counter("Reads", "Time that loaders of this process took.", "seconds", start=0.0)

    hedged: int = counter(
        "Reads", "Questions to another host that was slow, so that the host with a copy was asked, too."
    )
    hedges_won: int = counter("Reads", "Those of them that the copy has answered first.")
    copied: int = counter("Reads", "Values that this process has taken from other hosts, so that this host has them.")

    fills: int = counter("Writes", "Loaded values that this process put on the shelf.")
    fills_refused: int = counter("Writes", "Loaded values that were not put there: somebody had stored one meanwhile.")
    sets: int = counter("Writes", "Values that this process stored: set, added, counted or touched.")
    sets_refused: int = counter("Writes", "Writes that a condition forbade: a value was there, or had changed.")
    busy: int = counter("Writes", "Writes given up, because another process held the lock of a ring for too long.")
    oversize: int = counter(
        "Writes", "Values too large, or without memory to encode them: the caller got them, and they are not kept."
    )
    evictions: int = counter("Writes", "Near copies that were removed to make room.")

    invalidations: int = counter("Events", "Calls that invalidated something.")
    incomplete: int = counter("Events", "Receipts that were not complete.")

    audits: int = counter(
        "Audits", "Hits whose value was loaded once more in the background, and compared. Not part of `loads`."
    )
    audits_failed: int = counter(
        "Audits", "Those of them that found another value at the source, and no invalidation: `Cache.audits` has them."
    )
    audit_errors: int = counter(
        "Audits", "Those of them that said nothing: the loader raised, or gave two different values in a row."
    )

    processes: int = gauge("Processes of the group on this host, this one included. 0 before it has joined.")
    expected: int = gauge("Processes that `COLOCACHE_EXPECT` says are to be there. 0 if it says nothing.")
    entries: int = gauge("Near copies of this process.")
    bytes: int = gauge("Size of the near copies.", "bytes")
    shelf_entries: int = gauge("Values on the host's shelf, about.")
    shelf_bytes: int = gauge("Size of what is on the host's shelf.", "bytes")

    @classmethod
    def of(cls, counters: Iterable[Counters], figures: Mapping[str, Any]) -> Stats:
        """Return the figures: the sums of what was counted, and those that the host gives by name."""
        all_counters = [*counters]
        return cls(**{name: sum([getattr(each, name) for each in all_counters]) for name in COUNTED}, **figures)


FIGURES: Final = figures_of(Stats)

#: What a read was, and the figure that counts it: each read counts in one of these.
RESULTS: Final = {"hit": "hits", "fetch": "fetches", "wait": "waits", "load": "loads", "miss": "misses"}

#: What exporters call the namespaces that are counted together; see `Ledger.of`.
ALL_OTHERS: Final = "(others)"

#: What speaks to other hosts counts these itself, for all caches of a process.
OF_HOSTS: Final = ("hedged", "hedges_won", "copied")

#: The counters that `Counters` counts.
COUNTED: Final = tuple(figure.name for figure in FIGURES if figure.kind == "counter" and figure.name not in OF_HOSTS)

#: The upper bounds, in seconds, of the classes by which the times of loaders are counted. The last class has none.
LOAD_TIMES: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: The counters in the order of the columns of the scoreboard. The times of loaders are the last columns.
IN_COLUMNS: Final = (*COUNTED, *OF_HOSTS)
TIMES_AT: Final = COLUMNS - len(LOAD_TIMES) - 1
assert len(IN_COLUMNS) <= TIMES_AT

#: The units of columns, where they are not those of the figures.
UNITS: Final = {"load_seconds": 1e9}


class Counters(NearCounts):
    """What is counted of one namespace: ``counters.loads += 1``. A wrong name is an AttributeError.

    Any thread may add to it, without a lock: between reading and storing an attribute Python neither switches threads
    nor runs a signal handler. What is added must be there before, as a number.
    """

    __slots__ = (*(name for name in COUNTED if name not in NearCounts.__slots__), "load_times")

    def __init__(self) -> None:
        super().__init__()
        self.fetches = self.loads = self.waits = self.misses = self.fallbacks = self.failed_loads = 0
        self.fills = self.fills_refused = self.sets = self.sets_refused = self.busy = self.oversize = 0
        self.invalidations = self.incomplete = 0
        self.audits = self.audits_failed = self.audit_errors = 0
        self.load_seconds = 0.0
        self.load_times = [0] * (1 + len(LOAD_TIMES))

    def columns(self) -> list[int]:
        """Return what was counted as the columns of a row of the scoreboard, and times in ns."""
        counted = [round(getattr(self, name) * UNITS.get(name, 1)) for name in COUNTED]
        return [*counted, *[0] * (TIMES_AT - len(counted)), *self.load_times]

    def time_load(self, seconds: float) -> None:
        """Count how long a loader took, however it ended."""
        times, place = self.load_times, bisect_left(LOAD_TIMES, seconds)
        times[place] += 1
        self.load_seconds += seconds


class Ledger:
    """What one life of a cache counts, by namespace. Any thread may call all methods."""

    def __init__(self) -> None:
        self._counters = {"": Counters()}
        self._told: dict[str, list[int]] = {}

    def of(self, path: str, is_function: bool = False) -> Counters:
        """Return the counters of a namespace.

        There are as many as the scoreboard has rows. All further namespaces share those of `OTHERS`. Half of them are
        for decorated functions: programs have as many of these as somebody has written, but namespaces without end.
        """
        found = self._counters.get(path)
        if found is not None:
            return found
        if path != OTHERS and len(self._counters) >= (ROWS - 1 if is_function else ROWS // 2):
            return self.of(OTHERS)
        return self._counters.setdefault(path, Counters())

    def untold(self) -> list[tuple[str, list[int], list[int]]]:
        """Return the namespaces in which was counted what was not told: path, columns, and what was told of them.

        Whoever tells it notes that in the last one: see `colocache.core.host.scores.Writer.add`.
        """
        found = []
        for path, counters in self.all().items():
            columns, told = counters.columns(), self._told.setdefault(path, [0] * COLUMNS)
            if columns != told:
                found.append((path, columns, told))
        return found

    def all(self) -> dict[str, Counters]:
        """Return the counters of all namespaces, by path."""
        return dict(self._counters)
