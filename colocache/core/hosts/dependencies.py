"""What a fetch depends on: which events the owner has to have applied before it answers.

The reader reads its stamps, **then** how far events are told on its host, and then asks. The owner compares that with
what is *applied* on its own, **then** takes its record, and compares the record's stamps. So what is answered was made
of a source that was read after every event of which the reader's stamps know. Told, and not applied:

1. The gateway of R has stamped an event of W, and not stored yet that it is applied.
2. R reads the new stamps, and asks the owner, without naming the event.
3. The owner has not heard of it, and answers the old value. It stands at R under the new stamps, for good.

Every incarnation that lives is named, also if nothing of it is told, because the owner may never have met it; and every
one that has ended lately, because its end is an event, too.
"""

from __future__ import annotations

from typing import Final

from .log import HostLog
from .rows import ENDED, ENDED_AT, LIVE, STATE, TOLD, Incarnation, Numbers, Rows, recent_ends

#: What is to be applied of an incarnation; `OVER`: its end.
Dependencies = dict[Incarnation, Numbers | None]

OVER: Final = None


def dependencies(me: Incarnation, rows: Rows, log: HostLog, now: int) -> Dependencies:
    """Return what a fetch depends on whose reader has read its stamps before. ``now`` is in ns."""
    states = rows.every(STATE)
    told = rows.every_position(TOLD)
    found: Dependencies = {id: numbers for id, numbers in told.items() if states.get(id) == LIVE}
    found.update(dict.fromkeys(recent_ends(rows, states, now), OVER))
    found[me] = log.lasts()
    return found


def has_applied(me: Incarnation, rows: Rows, log: HostLog, wanted: Dependencies) -> bool:
    """Tell whether this host is as far as a fetch depends on."""
    for id, numbers in wanted.items():
        if id == me:
            last = log.lasts()
            if numbers is OVER or any(last.get(lane, 0) < number for lane, number in numbers.items()):
                return False
            continue
        state = rows.state(id)
        if state in (ENDED, ENDED_AT):
            continue  # whatever it has said, everything was dropped, or applied, since
        if state != LIVE or numbers is OVER or not rows.has_reached(id, numbers):
            return False
    return True
