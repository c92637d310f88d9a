"""What a member counts. `Stats` is the table of all figures; the documentation and exporters read it as `FIGURES`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ...figures import counter, figures_of, gauge


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The figures of one process since it joined. A counter only grows; a gauge tells the present state."""

    shard_hits: int = counter("Reads", "Reads that found their value at once in this member's shard.")
    near_hits: int = counter("Reads", "Reads that found their value at once in the near cache.")
    fetches: int = counter("Reads", "Values that another member sent.")
    loads: int = counter("Reads", "Loaders that this process started.")
    waits: int = counter("Reads", "Reads that joined a fetch or a load that this process had begun.")
    misses: int = counter("Reads", "Keys that `get` or `get_many` asked for and no member had.")
    fallbacks: int = counter("Reads", "Loads without a fill token, because the cache could not help. Part of `loads`.")
    failed_loads: int = counter("Reads", "Loaders that raised an exception.")

    fills: int = counter("Writes", "Loaded values that this member stored as owner, under a fill token.")
    fills_refused: int = counter("Writes", "Loaded values that this member refused as owner: an event came in between.")
    sets: int = counter("Writes", "Values that this member stored as owner because a process set them.")
    sets_refused: int = counter("Writes", "Sets under a fence that this member refused as owner.")
    unavailable: int = counter("Writes", "Fences, counts and touches that the owner did not answer in time.")
    oversize: int = counter("Writes", "Values that were too large: the caller got them, the cache did not keep them.")
    evictions: int = counter("Writes", "Entries that were removed to make room.")

    invalidations: int = counter("Events", "Calls that asked for a receipt.")
    incomplete: int = counter("Events", "Receipts that were not complete.")
    events_sent: int = counter("Events", "Events that this member announced.")
    events_applied: int = counter("Events", "Events of other members that this member applied.")
    events_replayed: int = counter("Events", "Events that arrived by a replay. Part of `events_applied`.")
    replays: int = counter("Events", "Replays that this member asked for.")
    resets: int = counter("Events", "Times that this member dropped everything, because it could have missed events.")
    seconds_behind: float = counter("Events", "Time in which this member was behind.", "seconds", 0.0)

    frames_refused: int = counter("Messages", "Frames that this member could not parse.")
    frames_ignored: int = counter(
        "Messages", "Frames that came too late, or from a member that this one does not know."
    )
    frames_dropped: int = counter("Messages", "Frames that could not be sent: the receiver was gone or did not read.")

    current: bool = gauge("Whether this member is known to have heard every event.", start=False)
    established: bool = gauge("Whether this member has been current once.", start=False)
    members: int = gauge("Members that this one knows, itself included. 0 before it has joined.")
    entries: int = gauge("Entries that this member keeps.")
    shard_entries: int = gauge("Entries in the shard.")
    near_entries: int = gauge("Entries in the near cache.")
    bytes: int = gauge("Size of all entries.", "bytes")
    shard_bytes: int = gauge("Size of the entries in the shard.", "bytes")
    near_bytes: int = gauge("Size of the entries in the near cache.", "bytes")


FIGURES: Final = figures_of(Stats)


#: The counters that `Counters` counts. The store counts the others itself.
COUNTED: Final = tuple(
    figure.name
    for figure in FIGURES
    if figure.kind == "counter" and figure.name not in ("shard_hits", "near_hits", "evictions")
)


class Counters:
    """The counters of `Stats` that a member adds to: ``counters.loads += 1``. A wrong name is an AttributeError.

    One thread counts, and any thread may read.
    """

    __slots__ = COUNTED

    def __init__(self) -> None:
        self.fetches = self.loads = self.waits = self.misses = self.fallbacks = self.failed_loads = 0
        self.fills = self.fills_refused = self.sets = self.sets_refused = self.unavailable = self.oversize = 0
        self.invalidations = self.incomplete = self.events_sent = self.events_applied = self.events_replayed = 0
        self.replays = self.resets = 0
        self.seconds_behind = 0.0
        self.frames_refused = self.frames_ignored = self.frames_dropped = 0


def with_counters(stats: Stats, counters: Counters) -> Stats:
    """Return the figures with what was counted added to them."""
    return replace(stats, **{name: getattr(stats, name) + getattr(counters, name) for name in COUNTED})
