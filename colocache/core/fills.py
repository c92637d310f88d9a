"""The owner's side of a miss: one load per key, however many ask.

The first asker gets the **fill token** and loads; the others wait. A value is stored only under the token that stands:

1. A is given token 7 and reads the old value; 2. the key is invalidated: token 7 is void, the next waiter B gets 8, and
loads anew rather than inherit A's value; 3. A fills in under 7, and is refused.

Tokens are numbered and never given twice; requests name the owner's incarnation, so a restarted owner's cannot be
confused with them either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from .keys import namespace_of, within
from .messages import Alone, Fill, Get, Load, Message, Wait
from .timers import Timers

#: Loads of one key that may fail in a row before everybody who waits is sent to load alone: with one more after each
#: failure, the last of n waiters would learn of a broken source after n loads.
MAX_FAILURES = 2


class Asker:
    """One request for a key: who asks, under which id, and until when it is still wanted."""

    __slots__ = ("id", "member", "until")

    def __init__(self, member: bytes, request: int, until: float) -> None:
        self.member = member
        self.id = request
        self.until = until

    def is_of(self, get: Get) -> bool:
        """Whether ``get`` is this request, asked again."""
        return self.member == get.sender and self.id == get.id


class Grant:
    """A token that stands: to whom, when, and after how many applied events it was given."""

    __slots__ = ("at", "holder", "moment", "token")

    def __init__(self, token: int, holder: Asker, at: float, moment: int) -> None:
        self.token = token
        self.holder = holder
        self.at = at
        self.moment = moment


class _Queue:
    __slots__ = ("failures", "grant", "waiters")

    def __init__(self) -> None:
        self.grant: Grant | None = None
        self.waiters: deque[Asker] = deque()
        self.failures = 0


class Desk:
    """The tokens that stand and those who wait, by key. Not thread-safe; ``moment`` counts the events applied here."""

    def __init__(
        self,
        me: bytes,
        load_timeout: float,
        send: Callable[[Message], None],
        dependencies: Callable[[Iterable[bytes]], bytes],
        timers: Timers,
    ) -> None:
        """``dependencies`` gives the packed positions that a reader must have applied before it loads some keys."""
        self._me = me
        self._dependencies = dependencies
        self._load_timeout = load_timeout
        self._send = send
        self._timers = timers
        self._queues: dict[bytes, _Queue] = {}
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._queues)

    def ask(self, get: Get, now: float, moment: int) -> None:
        """Give the asker the token, or let it wait for the load under way. Asked again, the answer is the same."""
        queue = self._queues.setdefault(get.key, _Queue())
        asker = Asker(get.sender, get.id, now + get.patience)
        if queue.grant is None:
            self._grant(get.key, queue, asker, now, moment)
        elif queue.grant.holder.is_of(get):
            self._send_load(get.key, queue.grant)
        else:
            queue.waiters = deque(w for w in queue.waiters if not w.is_of(get))
            queue.waiters.append(asker)
            self._send(Wait(self._me, get.sender, get.id))

    def redeem(self, fill: Fill) -> Grant | None:
        """Return the grant of a fill, which is spent with it; None if its token does not stand."""
        queue = self._queues.get(fill.key)
        if queue is None or queue.grant is None:
            return None
        grant = queue.grant
        if grant.token != fill.token or grant.holder.member != fill.sender:
            return None
        queue.grant = None
        return grant

    def release(self, wire: bytes, now: float) -> list[Asker]:
        """Return those who wait for a key that is filled now; they are taken off the list."""
        queue = self._queues.pop(wire, None)
        return [asker for asker in queue.waiters if asker.until > now] if queue else []

    def fail(self, wire: bytes, token: int, holder: bytes, now: float, moment: int) -> None:
        """A load gave nothing: pass the key on to the next in line, or, once that has failed too, to all at once."""
        queue = self._queues.get(wire)
        if queue is None or queue.grant is None or queue.grant.token != token or queue.grant.holder.member != holder:
            return
        queue.failures += 1
        if queue.failures >= MAX_FAILURES:
            for asker in self.release(wire, now):
                self._send(Alone(self._me, asker.member, asker.id))
        else:
            self.pass_on(wire, now, moment)

    def pass_on(self, wire: bytes, now: float, moment: int) -> None:
        """Void the token of a key, if one stands; the next who waits gets a new one, and loads anew."""
        queue = self._queues.get(wire)
        if queue is None:
            return
        queue.grant = None
        while queue.waiters:
            asker = queue.waiters.popleft()
            if asker.until > now:
                self._grant(wire, queue, asker, now, moment)
                return
        del self._queues[wire]

    def pass_on_all(self, namespace: str, now: float, moment: int) -> None:
        """Void every token in a namespace and below it; ``""`` is all of them."""
        for wire in [wire for wire in self._queues if within(namespace_of(wire), namespace)]:
            self.pass_on(wire, now, moment)

    def cancel(self, member: bytes, request: int | None, now: float, moment: int) -> None:
        """Forget one request of a member, or all (None): it waits no more, and its tokens lapse."""
        for wire, queue in list(self._queues.items()):
            queue.waiters = deque(
                w for w in queue.waiters if w.member != member or (request is not None and w.id != request)
            )
            holder = queue.grant.holder if queue.grant else None
            if holder and holder.member == member and (request is None or holder.id == request):
                self.pass_on(wire, now, moment)

    def _grant(self, wire: bytes, queue: _Queue, asker: Asker, now: float, moment: int) -> None:
        self._tokens += 1
        queue.grant = Grant(self._tokens, asker, now, moment)
        self._timers.at(now + self._load_timeout, self._lapse, wire, self._tokens, now + self._load_timeout, moment)
        self._send_load(wire, queue.grant)

    def _send_load(self, wire: bytes, grant: Grant) -> None:
        holder = grant.holder
        self._send(Load(self._me, holder.member, holder.id, grant.token, self._dependencies((wire,))))

    def _lapse(self, wire: bytes, token: int, now: float, moment: int) -> None:
        queue = self._queues.get(wire)
        if queue is not None and queue.grant is not None and queue.grant.token == token:
            # ``moment`` is that of the old grant: the new one is held to every event since then, and refuses more
            # fills than it must, never fewer.
            self.pass_on(wire, now, moment)
