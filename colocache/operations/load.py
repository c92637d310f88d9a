"""Get-or-load: get the value of a key, wait for another call's load of it, or load it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..core.entry import MISSING
from ..core.host.claims import AGAIN, Lead, Load, Sleep, Value
from ..core.host.hashes import key_hash
from ..core.host.record import Outcome, Record, unstored
from ..core.hosts.copies import PEEK_WITHIN
from ..core.hosts.requests import Busy, Fill, Found, Get, Granted
from ..core.hosts.rows import Incarnation
from ..core.hosts.taking import Asked
from ..core.keys import Key
from ..errors import RecursiveLoadError
from ..host import Host
from ..hosts import Hosts
from ..interruptions import raise_if_from_handler, value_of
from ..naming import shown
from ..tracing import Span
from .flow import Flow
from .keyspace import Given, Keyspace, copied
from .tally import tell
from .traced import Told, traced
from .under_way import UnderWay, is_circle, loads_above, runner

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


#: What is told of a value that was found, and not loaded.
OnFound = Callable[[Host, Record], None]


def get_or_load(
    keyspace: Keyspace, key: Key, loader: Callable[[], Any], given: Given, on_found: OnFound | None = None
) -> Flow[Any]:
    """Look for a key on this host, and then in the source, by the user's function.

    The caller has looked in the near cache already.
    """
    keyspace.check_function()
    return (yield from load_or_wait(Duty(keyspace, key, loader, given, on_found)))


def load_or_wait(duty: Duty) -> Flow[Any]:
    """Get the value, wait for another call's load of it, or load it.

    The load is for the group, or for this call alone where the group cannot take it.

    Raise RecursiveLoadError if a load of the key waits for this thread or task: at once where that is certain. A task
    or thread that the loader has started may wait for the load, because the loader need not wait for that task. If the
    load still runs when the load timeout is over, or if this call cannot wait for it, the two are assumed to wait for
    each other.
    """
    if is_circle(duty.load_id):
        raise RecursiveLoadError(f"the loader of the key {shown(duty.key)} asks for that same key")
    try:
        outcome = yield from duty.ask()
        if isinstance(outcome, Record | Value):
            value = duty.use(outcome)
            if value is not MISSING:
                return value
            duty.on_undecodable()
        elif outcome is not None and outcome.late and loads_above(duty.load_id):
            raise RecursiveLoadError(
                f"a task or thread that the loader of the key {shown(duty.key)} has started asks for that same key, "
                "and cannot wait any longer for the loader, which may be waiting for it"
            )
        return (yield Run(duty))
    finally:
        if not duty.is_detached:
            duty.give_back()


class Duty:
    """One call's question for a key, and the duty to load it, if that is the answer. Other calls wait for that load.

    The call gives the duty back exactly once. If an exception comes at any instruction, `load_or_wait` gives it back:
    ``load`` is set before anybody can wait for it, and to end a load twice does nothing.
    """

    def __init__(
        self, keyspace: Keyspace, key: Key, loader: Callable[[], Any], given: Given, on_found: OnFound | None = None
    ) -> None:
        member = keyspace.member
        self.key = key
        self.wire = keyspace.wire(key)
        self.loader = loader
        self.load_id = member.serial, self.wire
        self.timeout = member.patience(member.config.load_timeout)  # s that other calls wait for a load, at most
        self.load: Load | None = None
        self.is_detached = False  # the caller was cancelled, and the load goes on: its task has the duty
        self._hash = key_hash(self.wire)
        self._keyspace = keyspace
        self._member = member
        self._given = given
        self._on_found = on_found
        self._host: Host | None = member.join()
        self._grant: tuple[Incarnation, int] | None = None  # by which owner host, and its token
        self._any_tag = self._host.any_tag() if self._host is not None else 0  # before any stamps of the key

    def ask(self) -> Flow[Record | Value | Lead | None]:
        """Look for the value, wait for a load of it, or get the duty to load; None if the cache cannot help."""
        host, given, member = self._host, self._given, self._member
        outcome: Record | Value | Lead | None = None
        stores = given.ttl != 0
        if host is not None and stores:
            hashes = self._keyspace.hashes(given.tags)
            flow = host.claims.find_or_lead(self, self.wire, self._hash, hashes, host.now(), self.timeout, runner())
            outcome = yield from traced(self._keyspace, "wait", (self.key,), _clocked(flow, host), _told_of_wait)
            if isinstance(outcome, Lead):
                member.is_found_on(host)
                if host.hosts is not None and not outcome.late:
                    question = self._ask_owner(host, host.hosts, outcome.load)
                    told = partial(self._told_of_owner, host.hosts)
                    outcome = (yield from traced(self._keyspace, "fetch", (self.key,), question, told)) or outcome
            elif not host.alive:  # in this order: see `Region.lives`
                outcome = None
        if isinstance(outcome, Record | Value):
            self._count_found(outcome)
        else:
            self._count_load(stores and not member.config.disabled and (outcome is None or outcome.late))
        return outcome

    def _ask_owner(self, host: Host, hosts: Hosts, load: Load) -> Flow[Record | None]:
        """Ask the owner host for the value, or for the duty to load it for the whole group; None if there is no value.

        While another host loads, it says so, and is asked again. If this host is the owner, and has joined just now,
        another one may have the value.
        """
        owner = hosts.owner(self.wire)
        other = hosts.second(self.wire) if owner is None else owner
        if other is None or not hosts.may_ask():
            return None
        hashes, ends = self._keyspace.hashes(self._given.tags), host.now() + self.timeout
        question = Asked(self.wire, self._hash, hashes, self._any_tag, load.miss)
        while True:
            patience = ends - host.now()
            request = Get(question.key, hosts.dependencies(), owner is not None, max(0.0, patience), hosts.me.id)
            if owner is None:
                answer = yield from hosts.ask(other, request, PEEK_WITHIN)
            else:
                answer = yield from hosts.ask_or_copy(owner, request, partial(self._note_grant, owner))
            if isinstance(answer, Found):
                record = host.taker.keep(question, answer)
                host.claims.end(load, AGAIN)
                return record
            if isinstance(answer, Granted):
                host.claims.note_grant(load, other, answer.token)
                if not (yield from hosts.catch_up(answer.depends)):
                    self._tell_owner(None)
                load.begin(host.lease, host.now())
            if not isinstance(answer, Busy) or patience <= 0:
                return None

    def _told_of_owner(self, hosts: Hosts, found: Record | None) -> Told:
        outcome = "found" if found is not None else "nothing" if self._grant is None else "granted"
        return Told(outcome, hosts.names_of(hosts.owner(self.wire) or hosts.second(self.wire)))

    def _note_grant(self, owner: Incarnation, token: int) -> None:
        self._grant = owner, token

    def _tell_owner(self, payload: bytes | None) -> None:
        """Give the owner host what was loaded under its grant, or None. It is told once."""
        grant, self._grant = self._grant, None
        host = self._host
        if grant is not None and host is not None and host.hosts is not None and self.load is not None:
            age = max(0.0, host.now() - self.load.miss.at)
            host.hosts.tell(grant[0], Fill(grant[1], payload, self._given.ttl, age))

    def _count_found(self, found: Record | Value) -> None:
        counters = self._keyspace.counters
        if isinstance(found, Record):
            counters.fetches += 1
        else:
            counters.waits += 1
        tell(self._member, "fetches")

    def _count_load(self, is_fallback: bool) -> None:
        counters = self._keyspace.counters
        counters.loads += 1
        if is_fallback:
            counters.fallbacks += 1
        tell(self._member, "loads")

    def use(self, found: Record | Value) -> Any:
        """Return the value that was found; MISSING if this process cannot decode it."""
        if isinstance(found, Record):
            assert self._host is not None
            value = self._keyspace.use(self._host, self.key, self.wire, self._hash, found)
            if self._on_found is not None and value is not MISSING:
                self._on_found(self._host, found)
            return value
        if self._host is not None:
            self._keyspace.note_age(self._host, found.loaded)
        return copied(found.value) if self._keyspace.copies else found.value

    def on_undecodable(self) -> None:
        """Note that the value cannot be decoded here, and is loaded instead, for this call alone."""
        self.load = None
        self._count_load(is_fallback=True)

    def is_awaited(self) -> bool:
        """Tell whether another call than this one waits for the load, as far as this process knows."""
        return self._host is not None and self.load is not None and self._host.claims.is_awaited(self.load)

    def on_detach(self) -> None:
        """Note that the caller was cancelled, and that the load goes on: its task has the duty now."""
        self.is_detached = True
        if self._host is not None and self.load is not None:
            self._host.claims.orphan(self.load)

    def on_lost(self, error: BaseException) -> None:
        """Note that the loader raised, and that its caller was cancelled before."""
        self._member.tell_lost(self.key, self._keyspace.path, error)

    def time(self, seconds: float) -> None:
        """Count how long the loader took, however it ended."""
        self._keyspace.counters.time_load(seconds)

    def fail(self, error: BaseException) -> None:
        """Give the duty back, because the loader raised: another call loads."""
        if isinstance(error, Exception):
            self._keyspace.counters.failed_loads += 1
        self.give_back()

    def begin_span(self) -> Span | None:
        """Tell the tracer, if there is one, that the loader is about to be called."""
        tracer = self._member.tracer
        return None if tracer is None else tracer.begin("load", self._keyspace.path, (self.key,))

    def succeed(self, value: Any) -> str:
        """Store the loader's value, and hand it to those that wait. Raise TypeError if it cannot travel.

        The caller is given the value also where there is no memory to store it. Return in a word what became of it.
        """
        try:
            return self._keep(value)
        except MemoryError as error:
            raise_if_from_handler(error)
            self.give_back()
            self._keyspace.decline(self.key, "there is not enough memory to keep it")
            return "declined"

    def _keep(self, value: Any) -> str:
        keyspace, host, load, given = self._keyspace, self._host, self.load, self._given
        if host is None or load is None:
            return "not kept"
        load.loaded(host.lease, host.now())
        payload = keyspace.encode_loaded(self.key, self.wire, value, given, host)
        handed: object = AGAIN
        outcome, expires = Outcome.DECLINED, host.now() + given.ttl
        if payload is not None:
            outcome, record = host.shelf.fill(self.wire, self._hash, payload, load.miss, expires)
            keyspace.count_write(outcome, is_fill=True)
            if outcome is Outcome.STORED and host.hosts is not None:
                host.hosts.loaded(self.wire, host.now() - load.miss.at)
            # If it was refused, the record is somebody else's, and its label says nothing about this value.
            if outcome is not Outcome.REFUSED and not keyspace.copies:
                record = record or unstored(payload, load.miss, expires)
                keyspace.keep(host, self.key, self.wire, self._hash, record, value)
            if not keyspace.copies:
                handed = Value(value, expires, load.miss.at)
            elif load.waiters:  # otherwise who comes finds the record
                handed = Value(keyspace.member.carrier.decode(payload), expires, load.miss.at)
        elif load.waiters:
            try:
                handed = Value(copied(value) if keyspace.copies else value, expires, load.miss.at)
            except ValueError as error:  # those that wait load for themselves
                raise_if_from_handler(error)
        self._tell_owner(payload)
        host.claims.end(load, handed)
        return outcome.name.lower()

    def give_back(self) -> None:
        """Give the duty back: another call loads. It may be called twice, and after the report."""
        if self._host is not None and self.load is not None:
            self._host.claims.end(self.load, AGAIN)
            self._tell_owner(None)


def _clocked(flow: Generator[Sleep, tuple[float, Any], T], host: Host) -> Flow[T]:
    """Tell a flow of the core the time after each sleep."""
    try:
        step = next(flow)
        while True:
            woken = yield step
            step = flow.send((host.now(), woken))
    except StopIteration as end:
        return cast(T, value_of(end))
    finally:
        flow.close()


def _told_of_wait(outcome: Record | Value | Lead | None) -> Told:
    if isinstance(outcome, Record | Value):
        return Told("given")
    return Told("too late" if isinstance(outcome, Lead) and outcome.late else "nothing")


class Run(UnderWay):
    """The step of a flow that calls the user's function."""

    def __init__(self, duty: Duty) -> None:
        super().__init__(duty.load_id)
        self.duty = duty
        self._is_orphan = False
        self._began: float | None = None  # when the function was called
        self._took: float | None = None  # s
        self._span: Span | None = None

    def age(self, loaded: float) -> None:
        """Note that the function was given a cached value that was loaded then."""
        if self.duty.load is not None:
            self.duty.load.age(loaded)

    def call(self) -> Any:
        """Call the function; what it returns may be awaitable. It is under way until `succeed` or `fail`."""
        self.begin()
        self._span = self.duty.begin_span()
        self._began = monotonic()
        return self.duty.loader()

    def succeed(self, value: Any) -> None:
        """Report the function's value. Raise TypeError if it cannot travel."""
        self.end()
        self._time()
        outcome = self.duty.succeed(value)
        if self._span is not None:
            self._span.end(outcome, seconds=self._took)

    def fail(self, error: BaseException) -> None:
        """Report what the function, or the report of its value, has raised."""
        self.end()
        self._time()
        self.duty.fail(error)
        if self._span is not None:
            self._span.end("failed", seconds=self._took, error=error)

    def _time(self) -> None:
        if self._began is not None and self._took is None:
            self._took = monotonic() - self._began
            self.duty.time(self._took)

    def lose_caller(self) -> None:
        """Note that the caller was cancelled, and takes neither value nor exception."""
        self.caller, self._is_orphan = None, True

    def on_task_end(self, task: asyncio.Task[Any]) -> None:
        """Give the duty back if the task was cancelled before it began, and log an exception that nobody takes."""
        if task.cancelled():
            if self._began is None:
                self.duty.give_back()
            return
        error = task.exception()
        if error is not None and self._is_orphan:  # otherwise it is the caller's
            self.duty.on_lost(error)
