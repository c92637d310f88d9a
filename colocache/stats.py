"""What a member counts. Every counter is defined beside itself; what users get is a frozen copy."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """One member's figures since it started. Counters only grow; gauges say how it stands now."""

    # Reads
    shard_hits: int = 0  # reads answered at once from this member's shard
    near_hits: int = 0  # reads answered at once from a near copy
    fetches: int = 0  # values received from an owner
    loads: int = 0  # loaders that were started here
    waits: int = 0  # reads that joined a fetch or a load of this process
    misses: int = 0  # keys asked for with `get` or `get_many` that nobody had
    fallbacks: int = 0  # loads without a fill token, because the cache could not help: counted in `loads`, too
    failed_loads: int = 0  # loaders that raised

    # Fills and writes
    fills: int = 0  # values that this member stored as owner, under a token
    fills_refused: int = 0  # fills whose token did not stand any more, or whose tags were hit meanwhile
    sets: int = 0  # values that this member stored as owner, because somebody set them
    sets_refused: int = 0  # sets under a fence that did not stand any more, as owner
    unavailable: int = 0  # fences, counts and touches that their owner did not answer
    oversize: int = 0  # values over a limit, or too large for the budget: used, not kept

    # Events
    invalidations: int = 0  # calls that asked for a receipt
    incomplete: int = 0  # receipts that were not complete
    events_sent: int = 0  # events of this member's own stream
    events_applied: int = 0  # events of the other members' streams
    events_replayed: int = 0  # of these, events that came by replay
    replays: int = 0  # replays asked for
    resets: int = 0  # times that everything had to be dropped, because a log did not reach back
    seconds_behind: float = 0.0  # time in which this member, once established, was not current

    # The wire
    frames_refused: int = 0  # frames that did not parse
    frames_ignored: int = 0  # frames of members that this one does not know, or that came too late
    frames_dropped: int = 0  # frames that could not be sent, because the member was gone or did not read

    # Gauges
    current: bool = False  # every event is known to have been heard
    established: bool = False  # it was current once
    members: int = 0  # this one included
    entries: int = 0
    shard_entries: int = 0
    near_entries: int = 0
    bytes: int = 0
    shard_bytes: int = 0
    near_bytes: int = 0
    evictions: int = 0  # entries that left for want of room (a counter)


class Counters:
    """The counters of `Stats` while they are being counted. One thread counts; any thread may copy."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {field.name: 0 for field in fields(Stats)}

    def count(self, counter: str, by: float = 1) -> None:
        """Add to a counter. Raises KeyError for one that `Stats` does not define."""
        self.values[counter] += by
