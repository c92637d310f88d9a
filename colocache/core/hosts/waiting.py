"""How a writer waits until no host of the group serves what it has made void.

Rules W4 to W6: the event is appended to the host's log first. **Then** the writer sees that its host is established,
**then** it reads which hosts there are, and waits until each has acknowledged, or a lease is over.

Which hosts there are, before the append:

1. W reads the roster: nobody.
2. N joins, and fetches the old value from a host that has not applied the event yet.
3. W appends, waits for nobody, and its call returns. N serves the old value.

Whether it is established, at the end: 1. W reads the roster, and waits. 2. Its host meets another one, and becomes
established. 3. W's wait ends, although it did not include the host just met.

**K1, K2.** Clients are waited for until they have acknowledged, or may serve nothing any more. Who may serve is read
after the append, too. Who is granted a lease later has to apply the event first. **K3.** A host that has come, or has
come back, waits until no client has a lease from before. See `colocache.core.hosts.gateway`.

**Q2.** A host that has not been current for long may have been forgotten by others, so that they do not hear it any
more. Its receipts are not complete, whatever it has waited for. What counts is until when it was current as of the
begin of the wait. Otherwise:

1. C was forgotten by A and B. W, on C, invalidates a value, and begins to wait.
2. The network is well again. A and B take C back, and are not current until they have applied its events, which get
   lost. But a process of A has a copy of the word, from before, and goes on serving until it has run out.
3. C has heard both, and is current. W has waited for a lease and a bit, and its call returns. That process of A has met
   C later than W has begun to wait, and still serves the old value.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from ..host.memory import Words
from .gateway import Times
from .layout import UNTIL
from .rows import ACKED, LIVE, Incarnation, Numbers, Rows

FIRST_PAUSE, LONGEST_PAUSE = 50e-6, 2e-3  # s between two looks
PAUSE_FOR_EACH = 1e-4  # s more for each other call of this process that waits: a look takes less than half of that
GROWTH = 1.2  # of the pauses: what has come is seen after that much of the time that it took, at most


class Settled(NamedTuple):
    """What has come of an event."""

    acknowledged: tuple[str, ...]  # names of hosts
    waited_out: tuple[str, ...]
    forgotten: tuple[str, ...]  # who was not waited for, and may still live
    complete: bool  # nobody serves anything older


class Progress:
    """Wakes those that wait for acknowledgements, in the process where they arrive. Any thread may call all methods.

    Other processes have to look again and again.
    """

    def __init__(self) -> None:
        self.made = 0  #: how often there was any
        self._waiters: dict[object, Callable[[object], object]] = {}

    def join(self, one: object, seen: int, waiter: Callable[[object], object]) -> None:
        """Have a waiter called after the next progress, or now if there was any since ``made`` was ``seen``.

        ``one`` stands for who waits: a further waiter of the same one takes the place of the first.
        """
        # 1. This notes the waiter, and then looks at the number.
        # 2. `make` raises the number, and then looks at the waiters.
        # So one of them calls it.
        self._waiters[one] = waiter
        if self.made != seen:
            waiter(None)

    def pause(self, pause: float) -> float:
        """Return a pause in seconds, longer the more others wait: their looks must leave time for other work."""
        return pause + PAUSE_FOR_EACH * max(0, len(self._waiters) - 1)

    def leave(self, one: object) -> None:
        """Forget who does not wait any more."""
        self._waiters.pop(one, None)

    def make(self) -> None:
        """Note that there was progress. For the network thread."""
        self.made += 1
        for waiter in [*self._waiters.values()]:
            waiter(None)


def pauses() -> Iterator[float]:
    """Return the pauses between looks, in seconds: they grow."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(GROWTH * pause, LONGEST_PAUSE)


def settle(
    words: Words, rows: Rows, times: Times, numbers: Numbers, now: int, patience: int,
    besides: Incarnation | None = None,
) -> Generator[float, int, Settled]:  # fmt: skip
    """Wait for other hosts; yield seconds to sleep, and be sent the time (ns) after each sleep.

    ``numbers`` are those of the call's last event, by its lane; ``now`` was read after it was appended. ``patience``
    (ns) is how long the caller waits at most. With less than the protocol needs, the receipt is not complete.
    ``besides`` is waited for, and not named: a client that this host waits for on behalf of.
    """
    began = since = now
    sleeps = pauses()
    until = words[UNTIL]
    while not 0 < until <= since + times.lease:  # W4; or it is from later than ``since``
        if now - began >= min(patience, 3 * times.lease):
            return Settled((), (), (), False)
        now = since = yield next(sleeps)
        until = words[UNTIL]
    rows.order()  # otherwise the roster, or how long to be quiet (K3), could be older than the word
    members = rows.counted()
    forgotten = [id for id in rows.live() if id not in members]
    missing: list[tuple[Rows, Incarnation, int]] = [(rows, id, since + times.waited) for id in members]
    missing += [(rows.clients, id, until) for id, until in rows.clients.who_may_serve(now).items()]
    missing.reverse()
    acknowledged: list[Incarnation] = []
    waited_out: list[Incarnation] = []
    sleeps, latest = pauses(), since + 2 * times.waited
    while True:
        while missing:  # one after another: there may be hundreds, and all are to be waited for
            known, id, ends = missing[-1]
            if known.has_reached(id, numbers, ACKED):
                acknowledged.append(id)
            elif now >= ends:
                waited_out.append(id)
            elif known.state(id) != LIVE:
                pass  # it has ended
            else:
                break
            missing.pop()
        is_over = not missing and now >= rows.quiet
        if is_over or now - began >= patience or now >= latest:
            break
        now = yield next(sleeps)
    for known, id, _ in reversed(missing):
        (acknowledged if known.has_reached(id, numbers, ACKED) else waited_out).append(id)
    return Settled(
        _names(rows, acknowledged, besides), _names(rows, waited_out, besides), _names(rows, forgotten, besides),
        is_over and now <= until + times.serves_by_age,
    )  # fmt: skip


def _names(rows: Rows, ids: list[Incarnation], besides: Incarnation | None) -> tuple[str, ...]:
    ids = [id for id in ids if id != besides]
    return tuple([rows.name(id) or rows.clients.name(id) or id.hex() for id in ids])
