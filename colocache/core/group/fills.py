"""The owner's side of a miss: one load per key, however many ask.

The first asker gets the **fill token** and loads; the others wait. A value is stored only under the token that stands:

1. A is given token 7 and reads the old value; 2. the key is invalidated: token 7 is void, the next waiter B gets 8, and
loads anew rather than inherit A's value; 3. A fills in under 7, and is refused.

Tokens are numbered and never given twice; requests name the owner's incarnation, so a restarted owner's cannot be
confused with them either.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from ..keys import namespace_of, within
from ..timers import Timers
from .messages import Alone, Fill, Get, Load, Message, Wait

#: Loads of one key that may give nothing in a row, because they fail or are given up. Then everybody who waits loads
#: alone. With one more load after each, the last of n waiters would learn of a broken source after n loads.
MAX_FAILURES = 2

# What askers may make an owner remember. Whoever comes beyond loads for itself.
MAX_KEYS = 10_000  # keys with a load under way
MAX_WAITERS = 1_000  # requests that wait for one load; each process asks once at a time for a key


class Asker:
    """One request for a key: who asks, under which id, and until when it is still wanted."""

    __slots__ = ("id", "member", "until")

    def __init__(self, member: bytes, request: int, until: float) -> None:
        self.member = member
        self.id = request
        self.until = until

    @property
    def request(self) -> tuple[bytes, int]:
        """What tells it from all others; asked again, it is the same one."""
        return self.member, self.id


class Grant:
    """A token that stands: to whom, when, after how many applied events it was given, and what was said with it."""

    __slots__ = ("at", "awaited", "dependencies", "holder", "moment", "token")

    def __init__(self, token: int, holder: Asker, at: float, moment: int, dependencies: bytes) -> None:
        self.token = token
        self.holder = holder
        self.at = at
        self.moment = moment
        self.dependencies = dependencies
        self.awaited = False  # the holder knows that somebody waits for its load


class _Queue:
    __slots__ = ("failures", "grant", "waiters")

    def __init__(self) -> None:
        self.grant: Grant | None = None
        self.waiters: dict[tuple[bytes, int], Asker] = {}
        self.failures = 0


class Desk:
    """The tokens that stand and those who wait, by key. Not thread-safe; ``moment`` counts the events applied here."""

    def __init__(
        self,
        me: bytes,
        load_timeout: float,
        send: Callable[[Message], None],
        dependencies: Callable[[Iterable[bytes]], bytes | None],
        timers: Timers,
    ) -> None:
        """``dependencies`` gives the packed positions that a reader must have applied before it loads some keys."""
        self._me = me
        self._dependencies = dependencies
        self._load_timeout = load_timeout
        self._send = send
        self._timers = timers
        self._queues: dict[bytes, _Queue] = {}
        self._wires: dict[tuple[bytes, int], bytes] = {}  # request to the key that it is about
        self._standing: OrderedDict[int, tuple[float, bytes]] = OrderedDict()  # token, oldest first, to its end and key
        self._timer_set = False
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._queues)

    def ask(self, get: Get, now: float, moment: int) -> None:
        """Give the asker the token, or let it wait for the load under way. Asked again, the answer is the same."""
        asker = Asker(get.sender, get.id, now + get.patience)
        queue = self._queues.get(get.key)
        if self._wires.get(asker.request, get.key) != get.key or (queue is None and len(self._queues) >= MAX_KEYS):
            self._dismiss((asker,))
            return
        if queue is None:
            queue = self._queues[get.key] = _Queue()
        if queue.grant is None:
            self._grant(get.key, queue, asker, now, moment)
        elif queue.grant.holder.request == asker.request:
            self._send_load(queue.grant)
        else:
            self._line_up(get.key, queue, asker)

    def redeem(self, fill: Fill) -> Grant | None:
        """Return the grant of a fill, which is spent with it; None if its token does not stand."""
        queue = self._queues.get(fill.key)
        if queue is None or queue.grant is None:
            return None
        grant = queue.grant
        if grant.token != fill.token or grant.holder.member != fill.sender:
            return None
        self._void(queue)
        return grant

    def release(self, wire: bytes, now: float) -> list[Asker]:
        """Return those who wait for a key that is filled now; they are taken off the list."""
        queue = self._queues.pop(wire, None)
        if queue is None:
            return []
        self._void(queue)
        for request in queue.waiters:
            self._wires.pop(request, None)
        return [asker for asker in queue.waiters.values() if asker.until > now]

    def fail(self, wire: bytes, token: int, holder: bytes, now: float, moment: int) -> None:
        """A load has failed."""
        queue = self._queues.get(wire)
        if queue is None or queue.grant is None or queue.grant.token != token or queue.grant.holder.member != holder:
            return
        self._gave_nothing(wire, queue, now, moment)

    def pass_on(self, wire: bytes, now: float, moment: int) -> None:
        """Void the token of a key, if one stands; who will wait longest gets a new one, and loads anew."""
        queue = self._queues.get(wire)
        if queue is None:
            return
        self._void(queue)
        heir = max(queue.waiters.values(), key=lambda asker: asker.until, default=None)
        if heir is None or heir.until <= now:
            self.release(wire, now)
            return
        del queue.waiters[heir.request]
        self._grant(wire, queue, heir, now, moment)

    def pass_on_all(self, namespace: str, now: float, moment: int) -> None:
        """Void every token in a namespace and below it; ``""`` is all of them."""
        for wire in [wire for wire in self._queues if within(namespace_of(wire), namespace)]:
            self.pass_on(wire, now, moment)

    def cancel(self, member: bytes, request: int, now: float, moment: int) -> None:
        """Forget one request of a member: it waits no more, and a load of its own is given up."""
        self._take_out_of_line((member, request))
        wire = self._held_by((member, request))
        if wire is not None:
            self._gave_nothing(wire, self._queues[wire], now, moment)

    def cancel_all(self, member: bytes, now: float, moment: int) -> None:
        """Forget all requests of a member that is gone: those that wait first, lest they get what the others held."""
        requests = [request for request in self._wires if request[0] == member]
        for request in requests:
            self._take_out_of_line(request)
        for request in requests:
            wire = self._held_by(request)
            if wire is not None:
                self.pass_on(wire, now, moment)

    # --- Steps

    def _take_out_of_line(self, request: tuple[bytes, int]) -> None:
        wire = self._wires.get(request)
        if wire is not None and self._queues[wire].waiters.pop(request, None) is not None:
            del self._wires[request]

    def _held_by(self, request: tuple[bytes, int]) -> bytes | None:
        """Return the key whose token a request holds."""
        wire = self._wires.get(request)
        grant = self._queues[wire].grant if wire is not None else None
        return wire if grant is not None and grant.holder.request == request else None

    def _line_up(self, wire: bytes, queue: _Queue, asker: Asker) -> None:
        if queue.waiters.pop(asker.request, None) is None and len(queue.waiters) >= MAX_WAITERS:
            self._dismiss((asker,))
            return
        queue.waiters[asker.request] = asker
        self._wires[asker.request] = wire
        self._send(Wait(self._me, asker.member, asker.id))
        self._tell_holder(queue)

    def _tell_holder(self, queue: _Queue) -> None:
        """Tell who loads, once, that somebody waits for it. Then it goes on though its own caller is cancelled."""
        grant = queue.grant
        if grant is not None and queue.waiters and not grant.awaited:
            grant.awaited = True
            self._send(Wait(self._me, grant.holder.member, grant.holder.id))

    def _gave_nothing(self, wire: bytes, queue: _Queue, now: float, moment: int) -> None:
        """A load failed, or was given up: one of those who wait is to load; or, after another one, all at once.

        1. a load takes 5 s; its caller is in A, and is cancelled after 1 s; 2. B is to load: the same happens there; 3.
        were that never to end, C would wait for as long as there are such callers.
        """
        queue.failures += 1
        if queue.failures >= MAX_FAILURES:
            self._dismiss(self.release(wire, now))
        else:
            self.pass_on(wire, now, moment)

    def _grant(self, wire: bytes, queue: _Queue, asker: Asker, now: float, moment: int) -> None:
        self._wires.pop(asker.request, None)
        dependencies = self._dependencies((wire,))
        if dependencies is None:  # more than can be named: nobody can be told what to apply before it loads
            self._dismiss((asker, *self.release(wire, now)))
            return
        self._tokens += 1
        queue.grant = Grant(self._tokens, asker, now, moment, dependencies)
        self._wires[asker.request] = wire
        self._standing[self._tokens] = (now + self._load_timeout, wire)
        self._set_timer()
        self._send_load(queue.grant)
        self._tell_holder(queue)

    def _void(self, queue: _Queue) -> None:
        if queue.grant is not None:
            self._standing.pop(queue.grant.token, None)
            self._wires.pop(queue.grant.holder.request, None)
            queue.grant = None

    def _send_load(self, grant: Grant) -> None:
        self._send(Load(self._me, grant.holder.member, grant.holder.id, grant.token, grant.dependencies))

    def _dismiss(self, askers: Iterable[Asker]) -> None:
        for asker in askers:
            self._send(Alone(self._me, asker.member, asker.id))

    def _set_timer(self) -> None:
        """One timer serves all tokens, which lapse in the order in which they were given."""
        if self._standing and not self._timer_set:
            self._timer_set = True
            ends, _ = next(iter(self._standing.values()))
            self._timers.at(ends, self._lapse)

    def _lapse(self) -> None:
        self._timer_set = False
        now = self._timers.now
        while self._standing:
            ends, wire = next(iter(self._standing.values()))
            if ends > now:
                break
            grant = self._queues[wire].grant
            assert grant is not None
            # The moment is that of the old grant: the new one is held to every event since then, and refuses more
            # fills than it must, never fewer.
            self.pass_on(wire, now, grant.moment)
        self._set_timer()
