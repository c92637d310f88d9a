"""The one object that users hold: a cache, and the namespaces in it.

Every method that may wait exists twice, under its name and with an ``a`` before it, and both are driven by the same
flow. A hit needs neither: it is one look-up in a dictionary and one look at the clock, in the caller's own thread.
"""

from __future__ import annotations

import atexit
import copy as copying
import logging
import math
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from hashlib import blake2b
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast

from . import decorators
from .codecs import Codec, MsgpackCodec
from .config import UNSET, Config, Duration, Unset, parse_ttl
from .core import keys
from .core.announcements import Receipt
from .core.keys import Key
from .core.messages import EVERYTHING, MAX_VALUE, check_tag, key_target, namespace_target, tag_target
from .core.peer import Gate
from .core.reads import Loaded, Solo
from .core.requests import Seen, Written
from .core.store import MISSING, Entry
from .errors import ClosedError, InvalidationIncomplete
from .flows import Flow, Loading, Wait, arun, get_or_load, run
from .stats import Counters, Stats

if TYPE_CHECKING:
    from .bus import Bus

T = TypeVar("T")

GRACE = 5.0  # s beyond a call's own limit, after which the bus thread is taken to be in trouble
RETRY = 1.0  # s between two attempts to join the group, while the host will not let us
INCOMPLETE = Receipt((), (), False, 0.0)

Ttl = Duration | None | Unset

_log = logging.getLogger("colocache")


class Arguments(TypedDict, total=False):
    """What `Cache` takes beside the group; each wins over its ``COLOCACHE_*`` variable. See `Config`."""

    disabled: bool
    memory: int | str
    ttl: Duration | None
    policy: str
    lease: Duration
    max_stale: Duration
    fetch_timeout: Duration
    load_timeout: Duration
    forget_after: Duration
    directory: str


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """One member of the group, as this one sees it."""

    seat: str
    pid: int  # 0 if it lives in another pid namespace
    incarnation: str  # hexadecimal
    role: str  # "peer"
    known_for: float  # s since it was met; of this process: since it joined
    heard: bool  # whether this process is known to have heard all of its events
    me: bool


class Space:
    """A part of the cache with keys of its own: the whole, or a namespace. All methods may be called from any thread.

    Keys are `str`, or tuples of str, int, bool, None, bytes, UUID, date and such tuples; TypeError for others. ``ttl``
    is seconds, a `timedelta`, or text such as ``"90s"`` or ``"1h30m"``; None is for ever, 0 stores nothing; if it is not
    given, the space's own holds. ``tags`` are texts by which entries can be invalidated together.

    What a read returns is shared with every other reader of this process, unless the space copies: do not change it.

    The methods without ``a`` wait in the calling thread, and raise EventLoopError where they would have to wait on the
    thread of a running event loop. The ``a``-twins wait in the running task, and may be cancelled. ClosedError is raised
    after `Cache.close`.
    """

    def __init__(self, root: Cache, path: str, ttl: float | None, copies: bool) -> None:
        self._root = root
        self._path = path
        self._prefix = keys.prefix(path)
        self._ttl = ttl
        self._copies = copies
        self._hits: dict[Key, Entry] = {}
        self._gate = Gate()
        root._adopt(self)

    def namespace(self, name: str, *, ttl: Ttl = UNSET, copy: Literal["never", "always"] | None = None) -> Space:
        """Return a part of this space with keys apart from all others, and defaults of its own.

        Namespaces nest: ``a.namespace("b")`` is ``namespace("a/b")``, and clearing ``a`` clears it, too. With
        ``copy="always"`` every read gives a fresh copy (decoded anew), which its reader may change.
        """
        if type(name) is not str or not name or name.startswith("/") or name.endswith("/"):
            raise ValueError(f"a namespace is a non-empty text that neither begins nor ends with '/': {name!r}")
        path = f"{self._path}/{name}" if self._path else name
        own = self._ttl if isinstance(ttl, Unset) else parse_ttl(ttl)
        return Space(self._root, path, own, self._copies if copy is None else copy == "always")

    # --- Reading

    def get(self, key: Key, default: T | None = None) -> Any | T | None:
        """Return the value of a key if anybody in the group has it, else ``default``. None is a value."""
        value = self._hit(key)
        if value is MISSING:
            value = run(self._peek(key))
        return default if value is MISSING else value

    async def aget(self, key: Key, default: T | None = None) -> Any | T | None:
        """The twin of `get`."""
        value = self._hit(key)
        if value is MISSING:
            value = await arun(self._peek(key))
        return default if value is MISSING else value

    def get_or_load(
        self, key: Key, loader: Callable[[], T], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> T:
        """Return the value of a key; where nobody has it, load it, once in the whole group, and keep it.

        The loader's exception is raised as it is. RecursiveLoadError if the loader asks for its own key; TypeError if
        the value cannot be carried.
        """
        value = self._hit(key)
        return cast(T, value if value is not MISSING else run(self._load(key, loader, ttl, tags)))

    async def aget_or_load(
        self, key: Key, loader: Callable[[], T | Awaitable[T]], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> T:
        """The twin of `get_or_load`; the loader may be a coroutine function."""
        value = self._hit(key)
        return cast(T, value if value is not MISSING else await arun(self._load(key, loader, ttl, tags)))

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Return the values of those keys that anybody in the group has; one request for each owner."""
        return run(self._peek_many(keys))

    async def aget_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The twin of `get_many`."""
        return await arun(self._peek_many(keys))

    # --- Writing

    def set(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = (),
            wait: Literal["stored", "all"] = "stored") -> bool:  # fmt: skip
        """Have the key's owner store a value; return whether it does.

        An unconditional write, whose caller vouches for the value: the latest one wins, whoever read the source first.
        By default it returns when the owner has stored the value; with ``wait="all"`` when no process serves the old one
        any more. TypeError if the value cannot be carried. False if it is too large, or its owner cannot be had; the
        old value is gone all the same.
        """
        return run(self._set({key: value}, ttl, tags, wait))

    async def aset(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = (),
                   wait: Literal["stored", "all"] = "stored") -> bool:  # fmt: skip
        """The twin of `set`."""
        return await arun(self._set({key: value}, ttl, tags, wait))

    def set_many(self, values: Mapping[Key, object], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """Do what `set` does for every item, at once; return whether all are stored."""
        return run(self._set(values, ttl, tags, "stored"))

    async def aset_many(self, values: Mapping[Key, object], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """The twin of `set_many`."""
        return await arun(self._set(values, ttl, tags, "stored"))

    # --- Invalidating

    def invalidate(self, *keys: Key, wait: bool | float = True, strict: bool = False) -> Receipt:
        """Return when no process serves the old values any more.

        That is about a millisecond in peace, and never more than the lease and 1 %: a member that does not answer is
        waited out. ``wait=False`` announces and returns at once; a number waits for so many seconds at most. ``strict``
        raises InvalidationIncomplete if the promise cannot be given; the event goes on being delivered either way.
        """
        return run(self._announce(self._key_targets(keys), wait, strict))

    async def ainvalidate(self, *keys: Key, wait: bool | float = True, strict: bool = False) -> Receipt:
        """The twin of `invalidate`."""
        return await arun(self._announce(self._key_targets(keys), wait, strict))

    def delete(self, key: Key, *, wait: bool | float = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for one key."""
        return self.invalidate(key, wait=wait, strict=strict)

    async def adelete(self, key: Key, *, wait: bool | float = True, strict: bool = False) -> Receipt:
        """The twin of `delete`."""
        return await self.ainvalidate(key, wait=wait, strict=strict)

    def invalidate_tag(self, *tags: str, wait: bool | float = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for all entries, of every namespace, that carry one of the tags."""
        return run(self._announce([tag_target(tag) for tag in tags], wait, strict))

    async def ainvalidate_tag(self, *tags: str, wait: bool | float = True, strict: bool = False) -> Receipt:
        """The twin of `invalidate_tag`."""
        return await arun(self._announce([tag_target(tag) for tag in tags], wait, strict))

    def clear(self, *, wait: bool | float = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for this space and all namespaces below it."""
        return run(self._announce([self._target()], wait, strict))

    async def aclear(self, *, wait: bool | float = True, strict: bool = False) -> Receipt:
        """The twin of `clear`."""
        return await arun(self._announce([self._target()], wait, strict))

    def cached(
        self,
        *,
        ttl: Ttl = UNSET,
        key: Callable[..., Key] | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
    ) -> decorators.Decorator:
        """Decorate a function, method or coroutine function: its results are cached by its arguments.

        ``key`` makes the key of a call from its arguments, where they are not keys themselves; ``tags`` are the tags of
        its entries, or a function of the arguments that gives them. See `colocache.decorators.Cached` for what the
        decorated function offers.
        """
        own = self._ttl if isinstance(ttl, Unset) else parse_ttl(ttl)
        return decorators.Decorator(self, own, key, tags)

    # --- Flows

    def _hit(self, key: Key) -> Any:
        """Return what a reader is served at once; MISSING if nothing."""
        try:
            entry = self._hits.get(key)
        except TypeError:  # unhashable: whatever makes the wire key says what is wrong with it
            return MISSING
        if entry is None:
            return MISSING
        now, gate = monotonic(), self._gate
        if now < entry.expires and (now < gate.current_until or now - entry.loaded_at < gate.max_stale):
            value = entry.value
            if value is not MISSING:
                entry.hits += 1
                return value
            if self._copies and entry.payload is not None:
                entry.hits += 1
                return self._root._decode(entry.payload)
        return MISSING

    def _peek(self, key: Key) -> Flow[Any]:
        found = yield from self._peek_many((key,))
        return found.get(key, MISSING)

    def _peek_many(self, keys: Iterable[Key]) -> Flow[dict[Key, Any]]:
        wires, found = {self._wire(key): key for key in keys}, {}
        for wire, key in list(wires.items()):
            value = self._hit(key)
            if value is not MISSING:
                found[key] = value
                del wires[wire]
        root = self._root
        bus = root._member()
        if wires and bus is not None:
            asked = tuple(wires)
            future = bus.ask(lambda peer, ticket, now: peer.peek(ticket, asked, now), Seen({}))
            seen = yield from root._waited(bus, Wait(future, root.config.fetch_timeout + GRACE, Seen({})))
            for wire, entry in seen.entries.items():
                try:
                    found[wires[wire]] = self._use(wires[wire], entry)
                except ValueError as error:
                    root._undecodable(error)
        root._count("misses", sum(key not in found for key in wires.values()))
        return found

    def _load(self, key: Key, loader: Callable[[], Any], ttl: Ttl, tags: Iterable[str]) -> Flow[Any]:
        root, wire = self._root, self._wire(key)
        seconds = self._seconds(ttl)
        names = _tags(tags)
        bus = root._member()

        def ask() -> Wait:
            if bus is None or seconds == 0:
                root._count("loads", 1)
                root._count("fallbacks", bus is None and not root.config.disabled)
                return _done(Solo())
            patience = root.config.load_timeout
            future = bus.ask(lambda peer, ticket, now: peer.read(ticket, wire, names, patience, now), Solo())
            return Wait(future, patience + GRACE, Solo())

        def loaded(fetch: int, value: object) -> None:
            assert bus is not None
            try:
                payload = root._encode(value, key)
            except BaseException:
                failed(fetch)
                raise
            publish = self._publisher(key, value)
            report = Loaded(value, payload, math.inf if seconds is None else seconds, names, publish)
            bus.tell(lambda peer, now: peer.loaded(fetch, report, now))

        def failed(fetch: int) -> None:
            assert bus is not None
            bus.tell(lambda peer, now: peer.failed(fetch, now))

        loading = Loading(
            id(root), wire, key, loader, ask, lambda entry: self._use(key, entry), loaded, failed, root._undecodable
        )
        return (yield from root._guarded(bus, get_or_load(loading)))

    def _set(self, values: Mapping[Key, object], ttl: Ttl, tags: Iterable[str], wait: str) -> Flow[bool]:
        root, seconds, names = self._root, self._seconds(ttl), _tags(tags)
        if wait not in ("stored", "all"):
            raise ValueError(f"wait is 'stored' or 'all', not {wait!r}")
        payloads = {self._wire(key): root._encode(value, key) for key, value in values.items()}
        bus = root._member()
        if bus is None:
            return False
        left, settle = math.inf if seconds is None else seconds, wait == "all"
        waits = []
        for wire, payload in payloads.items():
            if payload is None or seconds == 0:
                yield from self._announce([key_target(wire)], settle, False)
            else:
                waits.append(root._ask_set(bus, wire, payload, left, names, settle))
        written = []
        for each in waits:
            written.append((yield from root._waited(bus, each)))
        return len(written) == len(payloads) and all(each.kept for each in written)

    def _announce(self, targets: list[bytes], wait: bool | float, strict: bool) -> Flow[Receipt]:
        root = self._root
        patience = math.inf if wait is True else float(wait)
        bus = root._member()
        if root.config.disabled or not targets:
            return Receipt((), (), True, 0.0)
        receipt = INCOMPLETE
        if bus is not None:
            future = bus.ask(lambda peer, ticket, now: peer.invalidate(ticket, targets, patience, now), INCOMPLETE)
            limit = min(patience, 3 * root.config.lease) + GRACE
            receipt = yield Wait(future, limit, INCOMPLETE, local=patience <= 0)
        if not receipt.complete and patience > 0:
            _log.warning("colocache: an invalidation is not acknowledged by everybody: %s", receipt)
            if strict:
                raise InvalidationIncomplete(receipt)
        return receipt

    # --- Helpers

    def _wire(self, key: Key) -> bytes:
        return keys.wire(self._prefix, key)

    def _seconds(self, ttl: Ttl) -> float | None:
        return self._ttl if isinstance(ttl, Unset) else parse_ttl(ttl)

    def _target(self) -> bytes:
        return namespace_target(self._path) if self._path else EVERYTHING

    def _key_targets(self, keys: Iterable[Key]) -> list[bytes]:
        return [key_target(self._wire(key)) for key in keys]

    def _use(self, key: Key, entry: Entry) -> Any:
        """Return an entry's value, as this space gives it out, and let later readers find it by the key."""
        payload, value = entry.payload, entry.value  # in this order: see `Entry.publish`
        if self._copies:
            self._publisher(key, value)(entry)
            return copying.deepcopy(value) if payload is None else self._root._decode(payload)
        if value is MISSING:
            assert payload is not None
            value = self._root._decode(payload)
            self._publisher(key, value)(entry)
        elif entry.key is None:
            self._publisher(key, value)(entry)
        return value

    def _counts(self) -> tuple[int, int]:
        """Return how often readers of this process found an entry of this space at once, and how many there are."""
        bus = self._root._bus
        return (bus.store.hits_of(self._path) if bus is not None else 0), len(self._hits)

    def _publisher(self, key: Key, value: object) -> Callable[[Entry], None]:
        home = self._hits
        if self._copies:
            return lambda entry: entry.publish(home, key, MISSING, keep_payload=True)
        return lambda entry: entry.publish(home, key, value, keep_payload=False)


class Cache(Space):
    """A group's cache in this process. Making one starts nothing; the first use joins the group.

    Survives `os.fork` at any moment: the child forgets all, and joins on its own at its first use. May be used as a
    context manager, which closes it.
    """

    def __init__(
        self,
        group: str | Unset = UNSET,
        *,
        codec: Codec | None = None,
        copy: Literal["never", "always"] = "never",
        **settings: Unpack[Arguments],
    ) -> None:
        """Settings come from the arguments, else from ``COLOCACHE_*`` variables, else by default; see `Config`.

        Raises ConfigError for a bad one. ``codec`` carries values between processes: all of a group need the same.
        """
        self.config = Config.resolve({"group": group, **settings}, os.environ)
        self.codec = codec if codec is not None else MsgpackCodec()
        self._format = blake2b(self.codec.name.encode(), digest_size=4).digest()
        self._spaces: weakref.WeakSet[Space] = weakref.WeakSet()
        self._bus: Bus | None = None
        self._closed = False
        self._trouble: OSError | None = None  # why the last attempt to join failed
        self._forget()
        _caches.add(self)
        super().__init__(self, "", self.config.ttl, copy == "always")

    # --- What it shows

    def stats(self) -> Stats:
        """Return this process's figures: counters since it joined, and gauges. Never waits for another process."""
        bus = self._bus
        stats = bus.stats() if bus is not None and self._pid == os.getpid() else Stats()
        own = self._counters.values
        return Stats(**{name: value + own.get(name, 0) if own.get(name) else value for name, value in asdict(stats).items()})

    def members(self) -> list[MemberInfo]:
        """Return the members of the group that this process knows, itself first. Empty before the first use."""
        bus = self._bus
        if bus is None or not bus.alive or self._pid != os.getpid():
            return []
        me, others = bus.members()
        now = monotonic()
        current = now < self._gate.current_until
        rows = [(me, self._joined_at, current, True), *((member, since, heard, False) for member, since, heard in others)]
        return [
            MemberInfo(member.seat, member.pid, member.incarnation.hex(), "peer", now - since, heard, mine)
            for member, since, heard, mine in rows
        ]

    # --- Its life

    def start(self) -> None:
        """Join the group now rather than at the first use. Raises ConfigError, and OSError, if that cannot be."""
        self._retry_at = -math.inf
        if self._member() is None and self._trouble is not None:
            raise self._trouble

    def close(self) -> None:
        """Leave the group: say goodbye, once what was announced is acknowledged, and stop the thread.

        Calls that wait are let go: reads load for themselves, invalidations get an incomplete receipt. May be called
        twice; every other use afterwards raises ClosedError.
        """
        with self._lock:
            self._closed = True
            bus, self._bus = self._bus, None
            self._rebind({}, Gate())
        if bus is not None and self._pid == os.getpid():
            bus.close(self.config.lease * 1.01)

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<colocache.Cache {self.config.group!r}{' closed' if self._closed else ''}>"

    def _member(self) -> Bus | None:
        """Return this process's member, joining if need be; None if the cache is off, or the host will not let us."""
        bus = self._bus
        if bus is not None and bus.alive and self._pid == os.getpid():
            return bus
        if self._closed:
            raise ClosedError(f"{self!r} is closed; make a new one")
        return None if self.config.disabled else self._join()

    def _join(self) -> Bus | None:
        if self._pid != os.getpid():  # a fork that went past Python's hooks
            self._forget()
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self!r} is closed; make a new one")
            if self._bus is not None and self._bus.alive:
                return self._bus
            if monotonic() < self._retry_at:
                return None
            from .bus import Bus  # here, so that importing colocache imports no zmq

            try:
                self._bus = Bus(self.config)
            except OSError as error:
                self._retry_at, self._trouble = monotonic() + RETRY, error
                _log.error("colocache: cannot join the group %s, and caches nothing: %s", self.config.group, error)
                return None
            self._trouble = None
            self._joined_at = monotonic()
            self._rebind(None, self._bus.gate)
            atexit.register(_close_at_exit, weakref.ref(self), os.getpid())
            return self._bus

    def _adopt(self, space: Space) -> None:
        with self._lock:
            self._spaces.add(space)
            if self._bus is not None:
                space._hits, space._gate = self._bus.store.hits(space._path), self._bus.gate

    def _rebind(self, hits: dict[Key, Entry] | None, gate: Gate) -> None:
        for space in list(self._spaces):
            space._gate = gate  # first the gate: the entries of another member must not be let through by this one's
            space._hits = self._bus.store.hits(space._path) if self._bus is not None and hits is None else {}

    def _forget(self) -> None:
        """Be as if nothing had been started: at first, and in a forked child."""
        inherited, self._bus = self._bus, None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._retry_at = -math.inf
        self._joined_at = 0.0
        self._counters = Counters()
        self._told_at = -math.inf
        self._rebind({}, Gate())
        if inherited is not None:
            inherited.forget_after_fork()

    # --- For the spaces

    def _encode(self, value: object, key: Key) -> bytes | None:
        """Return a value as it travels; None, counted, if it is too large. TypeError, naming the key, if it cannot."""
        try:
            payload = self._format + self.codec.encode(value)
        except TypeError as error:
            raise TypeError(f"the value of the key {key!r:.100} cannot be carried: {error}") from None
        if len(payload) > MAX_VALUE:
            self._count("oversize", 1)
            return None
        return payload

    def _decode(self, payload: bytes) -> Any:
        if payload[:4] != self._format:
            raise ValueError(f"it was written with another codec than {self.codec.name!r}")
        return self.codec.decode(payload[4:])

    def _undecodable(self, error: ValueError) -> None:
        """A value of the group cannot be decoded here: the reader loads for itself."""
        self._count("fallbacks", 1)
        if monotonic() >= self._told_at + 60:
            self._told_at = monotonic()
            _log.warning(
                "colocache: a value in the group %s cannot be read here, and is loaded instead: %s. All processes of "
                "a group need the same codec and the same registered types",
                self.config.group, error,
            )  # fmt: skip

    def _count(self, counter: str, by: float) -> None:
        if by:
            self._counters.count(counter, by)

    def _ask_set(self, bus: Bus, wire: bytes, payload: bytes, left: float, tags: tuple[str, ...], settle: bool) -> Wait:
        future = bus.ask(
            lambda peer, ticket, now: peer.set(ticket, wire, payload, left, tags, settle, now), Written(False, None)
        )
        return Wait(future, (4 * self.config.lease if settle else self.config.fetch_timeout) + GRACE, Written(False, None))

    def _waited(self, bus: Bus, wait: Wait) -> Flow[Any]:
        """Wait, and tell the bus if nobody waits any more."""
        try:
            return (yield wait)
        except BaseException:
            bus.abandon(wait.future)
            raise

    def _guarded(self, bus: Bus | None, flow: Flow[Any]) -> Flow[Any]:
        """Drive a flow on behalf of another one, and tell the bus of each wait that was given up."""
        step = next(flow)
        while True:
            try:
                answer = yield step
            except BaseException as error:
                if isinstance(step, Wait) and bus is not None:
                    bus.abandon(step.future)
                try:
                    step = flow.throw(error)
                except StopIteration as end:
                    return end.value
            else:
                try:
                    step = flow.send(answer)
                except StopIteration as end:
                    return end.value


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError(f"tags is a tuple of texts, not a text: write tags=({tags!r},)")
    return tuple(check_tag(tag) for tag in tags)


def _done(outcome: Any) -> Wait:
    future: Future[Any] = Future()
    future.set_result(outcome)
    return Wait(future, 0.0, outcome, local=True)


_caches: weakref.WeakSet[Cache] = weakref.WeakSet()


def _after_fork() -> None:
    for cache in list(_caches):
        cache._forget()


os.register_at_fork(after_in_child=_after_fork)


def _close_at_exit(reference: weakref.ref[Cache], pid: int) -> None:
    cache = reference()
    if cache is not None and pid == os.getpid() and not cache._closed:
        bus = cache._bus
        if bus is not None:
            bus.close(min(1.0, cache.config.lease))  # what is not acknowledged by then, host-mates read in the journal
