"""What a fetch depends on: which events the owner has to have applied before it answers.

The reader reads its stamps, **then** how far events are told on its host, and then asks. The owner compares that with
what is *applied* on its own, **then** takes its record, and compares the record's stamps. So what is answered was made
of a source that was read after every event of which the reader's stamps know. Told, and not applied:

1. The gateway of R has stamped an event of W, and not stored yet that it is applied.
2. R reads the new stamps, and asks the owner, without naming the event.
3. The owner has not heard of it, and answers the old value. It stands at R under the new stamps, for good.

Every incarnation that lives is named, also if nothing of it is told, because the owner may never have met it; and every
one that has ended lately, because its end is an event, too.

**A client** has no events that others could name: its invalidations are events of a member, which tells the client's
host as it tells every other one. But it stamps its own board at once, so that no call on this host serves the old value
after the invalidating one has returned. Between both a fetch cannot name the event:

1. W, on a client, stamps a key, and asks M to announce that.
2. R, on the same host, reads the new stamps, and fetches from O, whom M has not told yet. O answers the old value.

R would serve what W's call has made void, if that does not wait; and store it under the new stamps. It stands there
until M's event comes, which stamps the key once more. So what R stores does no harm, but what it returns would be too
old. Therefore W appends to the log of its own host before it stamps, and marks that when M has answered, which it does
when this host has applied the event. R reads its stamps, **then** the log, **then** what is told. What is not marked it
names, as its own host's. No member knows that, so R waits until it is marked, and reads again what is told; or loads.
The log before what is told, because otherwise the event could be told and marked between both, and be named by neither.
"""

from __future__ import annotations

from typing import Final

from .log import HostLog
from .rows import ENDED, ENDED_AT, LIVE, STATE, TOLD, Incarnation, Numbers, Rows

#: What is to be applied of an incarnation; `OVER`: its end.
Dependencies = dict[Incarnation, Numbers | None]

OVER: Final = None


def dependencies(me: Incarnation, rows: Rows, log: HostLog, now: int) -> Dependencies:
    """Return what a fetch depends on whose reader has read its stamps before. ``now`` is in ns."""
    found = _told(rows, now)
    found[me] = log.lasts()
    return found


def dependencies_of_client(me: Incarnation, rows: Rows, pending: Numbers, now: int) -> Dependencies:
    """Do the same on a client. ``pending`` are its own events that are not marked, read after the stamps."""
    rows.order()
    found = _told(rows, now)
    if pending:
        found[me] = pending
    return found


def _told(rows: Rows, now: int) -> Dependencies:
    live, told = rows.live(), rows.every_position(TOLD)
    found: Dependencies = {id: told[id] for id in live if id in told}
    found.update(dict.fromkeys(rows.recent_ends(now), OVER))
    return found


def has_applied(me: Incarnation, rows: Rows, log: HostLog, wanted: Dependencies) -> bool:
    """Tell whether this host is as far as a fetch depends on."""
    states = rows.every(STATE)
    for id, numbers in wanted.items():
        if id == me:
            last = log.lasts()
            if numbers is OVER or any(last.get(lane, 0) < number for lane, number in numbers.items()):
                return False
            continue
        state = states.get(id, 0)
        if state in (ENDED, ENDED_AT):
            continue  # whatever it has said, everything was dropped, or applied, since
        if state != LIVE or numbers is OVER or not rows.has_reached(id, numbers):
            return False
    return True
