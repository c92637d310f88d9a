"""What a process counts. `Stats` is the table of all figures; the documentation and exporters read it as `FIGURES`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

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

    processes: int = gauge("Processes of the group on this host, this one included. 0 before it has joined.")
    entries: int = gauge("Near copies of this process.")
    bytes: int = gauge("Size of the near copies.", "bytes")
    shelf_entries: int = gauge("Values on the host's shelf, about.")
    shelf_bytes: int = gauge("Size of what is on the host's shelf.", "bytes")

    @classmethod
    def of(cls, counters: Counters, figures: dict[str, Any]) -> Stats:
        """Return the figures: those that were counted, and those that the host gives by name."""
        return cls(**{name: getattr(counters, name) for name in COUNTED}, **figures)


FIGURES: Final = figures_of(Stats)

_COUNTED_ELSEWHERE: Final = ("hits", "evictions", "hedged", "hedges_won", "copied")

#: The counters that `Counters` counts. The near cache, and what speaks to other hosts, count the others themselves.
COUNTED: Final = tuple(
    figure.name for figure in FIGURES if figure.kind == "counter" and figure.name not in _COUNTED_ELSEWHERE
)


class Counters:
    """The counters of `Stats` that operations add to: ``counters.loads += 1``. A wrong name is an AttributeError."""

    __slots__ = COUNTED

    def __init__(self) -> None:
        self.fetches = self.loads = self.waits = self.misses = self.fallbacks = self.failed_loads = 0
        self.fills = self.fills_refused = self.sets = self.sets_refused = self.busy = self.oversize = 0
        self.invalidations = self.incomplete = 0
