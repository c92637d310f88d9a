"""The owner's side of a miss: one load per key, however many members ask.

The first member that asks gets the **fill token** and loads. The others wait. A value is stored only under the token
that stands:

1. A is given token 7, and reads the old value.
2. The key is invalidated: token 7 is void. The next in the queue, B, gets token 8, and loads anew; it does not inherit
   A's value.
3. A fills in under token 7, and is refused.

Tokens are numbered, and no number is given twice. Requests name the owner's incarnation, so the tokens of an owner that
was restarted are not taken for its predecessor's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ..keys import namespace_of, within
from ..timers import Timers
from .knowledge import Knowledge
from .messages import Alone, Fail, Fill, Get, Load, Wait
from .outbox import Outbox

#: Loads of one key in a row that may give nothing, because they fail or are given up. After that, everybody who waits
#: loads alone. With one load after another, the last of n waiters would learn of a broken source after n loads.
MAX_FAILURES = 2

# What others may make an owner remember. Those that ask beyond it load for themselves.
MAX_KEYS = 10_000  # keys with a load under way
MAX_WAITERS = 1_000  # requests that wait for one load; each process asks once at a time for a key


class Asker:
    """One request for a key: which member asks, under which number, and until when it waits."""

    __slots__ = ("id", "member", "until")

    def __init__(self, member: bytes, request: int, until: float) -> None:
        self.member = member
        self.id = request
        self.until = until

    @property
    def request(self) -> tuple[bytes, int]:
        """What tells it from all other requests. If the member asks again, it is the same one."""
        return self.member, self.id


class Grant:
    """A token that stands: who holds it, since when and which version, and what was said with it."""

    __slots__ = ("at", "awaited", "dependencies", "holder", "token", "version")

    def __init__(self, token: int, holder: Asker, at: float, version: int, dependencies: bytes) -> None:
        self.token = token
        self.holder = holder
        self.at = at
        self.version = version
        self.dependencies = dependencies
        self.awaited = False  # the holder knows that somebody waits for its load


class _Queue:
    __slots__ = ("failures", "grant", "waiters")

    def __init__(self) -> None:
        self.grant: Grant | None = None
        self.waiters: dict[tuple[bytes, int], Asker] = {}
        self.failures = 0


class LoadQueues:
    """The tokens that stand and the requests that wait, by key. Not thread-safe."""

    def __init__(self, knowledge: Knowledge, outbox: Outbox, timers: Timers) -> None:
        self._knowledge = knowledge
        self._outbox = outbox
        self._timers = timers
        self._queues: dict[bytes, _Queue] = {}
        self._wires: dict[tuple[bytes, int], bytes] = {}  # request to its key
        self._standing: OrderedDict[int, tuple[float, bytes]] = OrderedDict()  # token, oldest first: its end and key
        self._timer_set = False
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._queues)

    def ask(self, get: Get) -> None:
        """Give the asker the token, or let it wait for the load under way. If it asks again, the answer is the same."""
        asker = Asker(get.sender, get.id, self._knowledge.now + get.patience)
        queue = self._queues.get(get.key)
        if self._wires.get(asker.request, get.key) != get.key or (queue is None and len(self._queues) >= MAX_KEYS):
            self._dismiss((asker,))
            return
        if queue is None:
            queue = self._queues[get.key] = _Queue()
        if queue.grant is None:
            self._grant(get.key, queue, asker)
        elif queue.grant.holder.request == asker.request:
            self._send_load(queue.grant)
        else:
            self._line_up(get.key, queue, asker)

    def redeem(self, fill: Fill) -> Grant | None:
        """Return the grant of a fill, which spends it; None if its token does not stand."""
        queue = self._queues.get(fill.key)
        grant = self._held(queue, fill)
        if queue is not None and grant is not None:
            self._void(queue)
        return grant

    def release(self, wire: bytes) -> list[Asker]:
        """Take out, and return, the requests that wait for a key whose value is there now."""
        queue = self._queues.pop(wire, None)
        if queue is None:
            return []
        self._void(queue)
        for request in queue.waiters:
            self._wires.pop(request, None)
        return [asker for asker in queue.waiters.values() if asker.until > self._knowledge.now]

    def fail(self, fail: Fail) -> None:
        """A load has failed: pass its token on."""
        queue = self._queues.get(fail.key)
        if queue is not None and self._held(queue, fail) is not None:
            self._gave_nothing(fail.key, queue)

    def pass_on(self, wire: bytes) -> None:
        """Void the token of a key, if one stands. The request that waits longest gets a new one, and loads anew."""
        queue = self._queues.get(wire)
        if queue is None:
            return
        self._void(queue)
        heir = max(queue.waiters.values(), key=lambda asker: asker.until, default=None)
        if heir is None or heir.until <= self._knowledge.now:
            self.release(wire)
            return
        del queue.waiters[heir.request]
        self._grant(wire, queue, heir)

    def pass_on_all(self, namespace: str) -> None:
        """Void every token in a namespace and below it; ``""`` is all of them."""
        for wire in [wire for wire in self._queues if within(namespace_of(wire), namespace)]:
            self.pass_on(wire)

    def cancel(self, member: bytes, request: int) -> None:
        """Forget one request of a member: it no longer waits, and a load of its own is given up."""
        self._take_out_of_line((member, request))
        wire = self._held_by((member, request))
        if wire is not None:
            self._gave_nothing(wire, self._queues[wire])

    def cancel_all(self, member: bytes) -> None:
        """Forget all requests of a member that is gone.

        Those that wait go first. Otherwise they would get the tokens that the others held.
        """
        requests = [request for request in self._wires if request[0] == member]
        for request in requests:
            self._take_out_of_line(request)
        for request in requests:
            wire = self._held_by(request)
            if wire is not None:
                self.pass_on(wire)

    # --- Steps

    @staticmethod
    def _held(queue: _Queue | None, message: Fill | Fail) -> Grant | None:
        """Return the queue's grant if it is the one that a message names, and its sender holds it."""
        grant = queue.grant if queue is not None else None
        if grant is None or grant.token != message.token or grant.holder.member != message.sender:
            return None
        return grant

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
        self._send_wait(asker)
        self._tell_holder(queue)

    def _tell_holder(self, queue: _Queue) -> None:
        """Tell the holder of a token, once, that somebody waits. Its load then goes on if its caller is cancelled."""
        grant = queue.grant
        if grant is not None and queue.waiters and not grant.awaited:
            grant.awaited = True
            self._send_wait(grant.holder)

    def _gave_nothing(self, wire: bytes, queue: _Queue) -> None:
        """A load failed, or was given up: the next request may load; after `MAX_FAILURES`, all of them at once.

        1. A load takes 5 s. Its caller is in A, and is cancelled after 1 s.
        2. B may load, and the same happens there.
        3. If that never ended, C would wait for as long as there are such callers.
        """
        queue.failures += 1
        if queue.failures >= MAX_FAILURES:
            self._dismiss(self.release(wire))
        else:
            self.pass_on(wire)

    def _grant(self, wire: bytes, queue: _Queue, asker: Asker) -> None:
        self._wires.pop(asker.request, None)
        dependencies = self._knowledge.dependencies((wire,))
        if dependencies is None:  # more than a message can name: nobody can be told what to apply before it loads
            self._dismiss((asker, *self.release(wire)))
            return
        self._tokens += 1
        now = self._knowledge.now
        queue.grant = Grant(self._tokens, asker, now, self._knowledge.version, dependencies)
        self._wires[asker.request] = wire
        self._standing[self._tokens] = (now + self._knowledge.settings.load_timeout, wire)
        self._set_timer()
        self._send_load(queue.grant)
        self._tell_holder(queue)

    def _void(self, queue: _Queue) -> None:
        if queue.grant is not None:
            self._standing.pop(queue.grant.token, None)
            self._wires.pop(queue.grant.holder.request, None)
            queue.grant = None

    def _send_load(self, grant: Grant) -> None:
        me, holder = self._knowledge.incarnation, grant.holder
        self._outbox.send(Load(me, holder.member, holder.id, grant.token, grant.dependencies))

    def _send_wait(self, asker: Asker) -> None:
        self._outbox.send(Wait(self._knowledge.incarnation, asker.member, asker.id))

    def _dismiss(self, askers: Iterable[Asker]) -> None:
        for asker in askers:
            self._outbox.send(Alone(self._knowledge.incarnation, asker.member, asker.id))

    def _set_timer(self) -> None:
        """Set the one timer that serves all tokens, which lapse in the order in which they were given."""
        if self._standing and not self._timer_set:
            self._timer_set = True
            ends, _ = next(iter(self._standing.values()))
            self._timers.at(ends, self._lapse)

    def _lapse(self) -> None:
        self._timer_set = False
        while self._standing:
            ends, wire = next(iter(self._standing.values()))
            if ends > self._knowledge.now:
                break
            self.pass_on(wire)
        self._set_timer()
