"""How a writer waits until no host of the group serves what it has made void.

Rules W4 to W6: the event is appended to the host's log first. **Then** the writer sees that its host is established,
**then** it reads which hosts there are, and waits until each has acknowledged, or a lease is over.

Which hosts there are, before the append:

1. W reads the roster: nobody.
2. N joins, and fetches the old value from a host that has not applied the event yet.
3. W appends, waits for nobody, and its call returns. N serves the old value.

Whether it is established, at the end: 1. W reads the roster, and waits. 2. Its host meets another one, and becomes
established. 3. W's wait ends, although it did not include the host just met.

**Q2.** A host that has not been current for long may have been forgotten by others, so that they do not hear it any
more. Its receipts are not complete, whatever it has waited for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

from ..host.memory import Words
from .gateway import Times
from .layout import UNTIL
from .rows import ACKED, LIVE, Incarnation, Numbers, Rows

FIRST_PAUSE, LONGEST_PAUSE = 50e-6, 2e-3  # s between two looks


class Settled(NamedTuple):
    """What has come of an event."""

    acknowledged: tuple[str, ...]  # names of hosts
    waited_out: tuple[str, ...]
    forgotten: tuple[str, ...]  # who was not waited for, and may still live
    complete: bool  # nobody serves anything older


def pauses() -> Iterator[float]:
    """Return the pauses between looks, in seconds: they grow."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


def settle(words: Words, rows: Rows, times: Times, numbers: Numbers, now: int, patience: int) -> Generator[
    float, int, Settled
]:  # fmt: skip
    """Wait for other hosts; yield seconds to sleep, and be sent the time (ns) after each sleep.

    ``numbers`` are those of the call's last event, by its lane; ``now`` was read after it was appended. ``patience``
    (ns) is how long the caller waits at most. With less than the protocol needs, the receipt is not complete.
    """
    began = since = now
    sleeps = pauses()
    while not words[UNTIL]:
        if now - began >= min(patience, 3 * times.lease):
            return Settled((), (), (), False)
        now = yield next(sleeps)
        since = now
    rows.order()  # otherwise the roster could be older than the word
    missing = rows.counted()
    forgotten = [id for id in rows.live() if id not in missing]
    acknowledged: list[Incarnation] = []
    sleeps = pauses()
    while True:
        acknowledged += [id for id in missing if rows.has_reached(id, numbers, ACKED)]
        missing = [id for id in missing if id not in acknowledged and rows.state(id) == LIVE]
        if not missing or now - since >= times.waited or now - began >= patience:
            break
        now = yield next(sleeps)
    is_over = not missing or now - since >= times.waited
    is_remembered = now - words[UNTIL] <= times.serves_by_age
    return Settled(
        _names(rows, acknowledged), _names(rows, missing), _names(rows, forgotten), is_over and is_remembered
    )


def _names(rows: Rows, ids: list[Incarnation]) -> tuple[str, ...]:
    return tuple([rows.host(id).name or id.hex() for id in ids])
