"""The one object that users hold: a cache, and the namespaces in it.

Every method that may wait exists twice, under its name and with an ``a`` before it, and both are driven by the same
flow. A hit needs neither: it is one look-up in a dictionary and one look at the clock, in the caller's own thread.
"""

from __future__ import annotations

import atexit
import contextlib
import copy as copying
import logging
import math
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from itertools import islice
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, cast, overload

from . import decorators
from .codecs import Codec, MsgpackCodec
from .config import UNSET, Config, Duration, Unset, parse_ttl
from .core import keys
from .core.announcements import Receipt
from .core.entry import MISSING, Entry
from .core.keys import Key
from .core.messages import EVERYTHING, MAX_TAGS, MAX_VALUE, check_tag, key_target, namespace_target, tag_target
from .core.peer import Peer
from .core.reads import Found, Lead, Loaded, Solo
from .core.requests import Seen, Written
from .core.seam import Gate
from .errors import ClosedError, ConfigError, InvalidationIncomplete
from .flows import Flow, Wait, arun, get_or_load, run, served_while_behind, shown
from .stats import Counters, Stats

if TYPE_CHECKING:
    from .bus import Asked, Bus

T = TypeVar("T")

GRACE = 5.0  # s beyond a call's own limit, after which the bus thread is taken to be in trouble
WRITES_AT_ONCE = 256  # of one `set_many`
RETRY = 1.0  # s between two attempts to join the group, while the host will not let us
UNKNOWN = Receipt((), (), False, 0.0)  # of an invalidation that this process could not announce, or not see through
NOT_WRITTEN = Written(False, None)

Ttl = Duration | None | Unset
Copy = Literal["never", "always"]

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
    is seconds, a `timedelta`, or text such as ``"90s"`` or ``"1h30m"``; None is for ever, 0 stores nothing; if it is
    not given, the space's own holds. ``tags`` are up to 64 texts by which entries can be invalidated together.

    What a read returns is shared with every other reader of this process, unless the space copies: do not change it.

    The methods without ``a`` wait in the calling thread, and raise EventLoopError, having done nothing, where they
    would have to wait on the thread of a running event loop. The ``a``-twins wait in the running task, and may be
    cancelled. ClosedError is raised after `Cache.close`.
    """

    def __init__(self, root: Cache, path: str, ttl: float | None, copies: bool, one_part: bool = False) -> None:
        self._root = root
        self._path = path
        self._prefix = keys.prefix(path)
        self._ttl = ttl
        self._copies = copies
        self._one_part = one_part  # all keys are tuples of one part, and are found by that part
        self._hits: dict[Key, Entry] = {}
        self._gate = Gate()
        root._adopt(self)

    def namespace(self, name: str, *, ttl: Ttl = UNSET, copy: Copy | None = None) -> Space:
        """Return a part of this space with keys apart from all others, and defaults of its own.

        Namespaces nest: ``a.namespace("b")`` is ``namespace("a/b")``, and clearing ``a`` clears it, too. With
        ``copy="always"`` every read gives a fresh copy (decoded anew), which its reader may change; ValueError if the
        namespace is in use without. What is not given is as in this space; copying, as the namespace is used already.
        """
        if type(name) is not str or not name or name.startswith("/") or name.endswith("/"):
            raise ValueError(f"a namespace is a non-empty text that neither begins nor ends with '/': {name!r}")
        path = f"{self._path}/{name}" if self._path else name
        own = self._ttl if isinstance(ttl, Unset) else parse_ttl(ttl)
        copies = self._root._modes.get(path, self._copies) if copy is None else _copies(copy)
        return Space(self._root, path, own, copies)

    # --- Reading

    def get(self, key: Key, default: T | None = None) -> Any | T | None:
        """Return the value of a key if anybody in the group has it, else ``default``. None is a value."""
        gate = self._gate  # as in `_hit`, written out: a call more would cost half as much again
        try:
            entry = self._hits[key]
            if entry.expires > monotonic() < gate.current_until:
                held = entry.value
                if held is not MISSING:
                    entry.hits += 1
                    return held
        except (KeyError, TypeError):
            pass
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

    def get_or_load(self, key: Key, loader: Callable[[], T], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> T:
        """Return the value of a key; where nobody has it, load it, once in the whole group, and keep it.

        The loader's exception is raised as it is. RecursiveLoadError if the loader asks for its own key; TypeError if
        the value cannot be carried.
        """
        gate = self._gate  # as in `get`
        try:
            entry = self._hits[key]
            if entry.expires > monotonic() < gate.current_until:
                held: Any = entry.value
                if held is not MISSING:
                    entry.hits += 1
                    return held  # type: ignore[no-any-return]
        except (KeyError, TypeError):
            pass
        value = self._hit(key)
        return cast(T, value if value is not MISSING else run(self._load(key, loader, ttl, tags)))

    @overload
    async def aget_or_load(
        self, key: Key, loader: Callable[[], Awaitable[T]], *, ttl: Ttl = ..., tags: Iterable[str] = ...
    ) -> T: ...
    @overload
    async def aget_or_load(
        self, key: Key, loader: Callable[[], T], *, ttl: Ttl = ..., tags: Iterable[str] = ...
    ) -> T: ...
    async def aget_or_load(
        self, key: Key, loader: Callable[[], Any], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> Any:
        """The twin of `get_or_load`; the loader may be a coroutine function."""
        value = self._hit(key)
        return value if value is not MISSING else await arun(self._load(key, loader, ttl, tags))

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
        By default it returns when the owner has stored the value; with ``wait="all"`` when no process serves the old
        one any more. TypeError if the value cannot be carried. False if it is too large, or its owner cannot be had;
        the old value is gone all the same.
        """
        return run(self._set([(key, value)], ttl, tags, wait))

    async def aset(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = (),
                   wait: Literal["stored", "all"] = "stored") -> bool:  # fmt: skip
        """The twin of `set`."""
        return await arun(self._set([(key, value)], ttl, tags, wait))

    def set_many(self, values: Mapping[Any, object], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """Do what `set` does for every item, at once; return whether all are stored."""
        # Any, for Mapping is invariant in its keys: a dict[str, str] would be no Mapping[Key, object].
        return run(self._set(values.items(), ttl, tags, "stored"))

    async def aset_many(self, values: Mapping[Any, object], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """The twin of `set_many`."""
        return await arun(self._set(values.items(), ttl, tags, "stored"))

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
        gate = self._gate  # before the entry: see `Cache._rebind`
        try:
            entry = self._hits.get(self._as_found(key))
        except TypeError:  # unhashable: whatever makes the wire key says what is wrong with it
            return MISSING
        if entry is None:
            return MISSING
        now = monotonic()
        if now < entry.expires and (now < gate.current_until or _lets_behind(gate, entry, now)):
            value = entry.value
            if value is not MISSING:
                entry.hits += 1
                return value
            if self._copies and entry.payload is not None:
                with contextlib.suppress(ValueError):  # whoever asks the bus then is told what is wrong
                    value = self._root._decode(entry.payload)
                    entry.hits += 1
                    return value
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
            asked, patience = tuple(wires), root.config.fetch_timeout
            seen = yield _asking(bus, lambda peer, ticket, now: peer.peek(ticket, asked, now), patience, Seen({}))
            for wire, entry in seen.entries.items():
                try:
                    found[wires[wire]] = self._use(bus, wires[wire], entry)
                except ValueError as error:
                    root._tell_undecodable(error)
        root._count("misses", sum(key not in found for key in wires.values()))
        return found

    def _load(self, key: Key, loader: Callable[[], Any], ttl: Ttl, tags: Iterable[str]) -> Flow[Any]:
        return (yield from get_or_load(_Loading(self, key, loader, self._seconds(ttl), _tags(tags))))

    def _set(self, items: Iterable[tuple[Key, object]], ttl: Ttl, tags: Iterable[str], wait: str) -> Flow[bool]:
        root, seconds, names = self._root, self._seconds(ttl), _tags(tags)
        if wait not in ("stored", "all"):
            raise ValueError(f"wait is 'stored' or 'all', not {wait!r}")
        payloads = {self._wire(key): root._encode(value, key) for key, value in items}
        bus = root._member()
        if bus is None:
            if not root.config.disabled:
                root._tell_incomplete(UNKNOWN)
            return False
        settle, asked, left = wait == "all", dict[bytes, "Asked"](), iter(payloads.items())

        def ask(bus: Bus, wire: bytes) -> Asked:
            if wire not in asked:  # many before the first wait, but no more than the links will take
                for each, payload in islice(left, WRITES_AT_ONCE):
                    asked[each] = bus.ask(_writing(each, payload, seconds, names, settle), NOT_WRITTEN)
            return asked[wire]

        all_kept, limit = True, 4 * root.config.lease + root.config.fetch_timeout + GRACE  # given up, it is waited out
        for wire in payloads:
            outcome = yield Wait(partial(ask, bus, wire), limit, NOT_WRITTEN, bus.abandon)
            kept, receipt = outcome if isinstance(outcome, Written) else (False, outcome)
            all_kept = all_kept and kept
            if settle and (receipt is None or not receipt.complete):
                root._tell_incomplete(receipt or UNKNOWN)
        return all_kept

    def _announce(self, targets: list[bytes], wait: bool | float, strict: bool) -> Flow[Receipt]:
        root, patience = self._root, _patience(wait)
        bus = root._member()
        if root.config.disabled or not targets:
            return Receipt((), (), True, 0.0)
        receipt = UNKNOWN
        if bus is not None:
            limit, local = min(patience, 3 * root.config.lease), patience == 0
            receipt = yield _asking(
                bus, lambda peer, ticket, now: peer.invalidate(ticket, targets, patience, now), limit, UNKNOWN, local
            )
        if not receipt.complete and (patience > 0 or receipt is UNKNOWN):
            root._tell_incomplete(receipt)
            if strict:
                raise InvalidationIncomplete(receipt)
        return receipt

    # --- Helpers

    def _of_function(self, name: str, ttl: float | None, one_part: bool) -> Space:
        """Return the namespace of a decorated function."""
        path = f"{self._path}/{name}" if self._path else name
        return Space(self._root, path, ttl, self._root._modes.get(path, self._copies), one_part)

    def _as_found(self, key: Key) -> Key:
        """Return what stands for a key in `_hits`."""
        return key[0] if self._one_part else key

    def _wire(self, key: Key) -> bytes:
        return keys.wire(self._prefix, key)

    def _seconds(self, ttl: Ttl) -> float | None:
        return self._ttl if isinstance(ttl, Unset) else parse_ttl(ttl)

    def _target(self) -> bytes:
        return namespace_target(self._path) if self._path else EVERYTHING

    def _key_targets(self, keys: Iterable[Key]) -> list[bytes]:
        return [key_target(self._wire(key)) for key in keys]

    def _use(self, bus: Bus, key: Key, entry: Entry) -> Any:
        """Return the value of an entry of a bus, as this space gives it out, and let later readers find it by the key.

        Raises ValueError if it cannot be decoded.
        """
        if monotonic() >= bus.gate.current_until:
            served_while_behind(entry.loaded_at)
        payload, value = entry.payload, entry.value  # in this order: see `Entry.publish`
        if self._copies and payload is None:  # it was too large to be kept
            return copying.deepcopy(value)
        if self._copies or value is MISSING:
            assert payload is not None
            value = self._root._decode(payload)
        elif self._hits.get(self._as_found(key)) is entry:
            return value
        self._publisher(bus, key, value)(entry)
        return value

    def _counts(self) -> tuple[int, int]:
        """Return how often readers of this process found an entry of this space at once, and how many there are."""
        bus = self._root._bus
        return (bus.store.hits_of(self._path) if bus is not None else 0), len(self._hits)

    def _publisher(self, bus: Bus, key: Key, value: object) -> Callable[[Entry], None]:
        # Not self._hits, which may be another member's by now: that one could not invalidate the entry.
        home, key = bus.store.hits(self._path, one_part=self._one_part), self._as_found(key)
        if self._copies:
            return lambda entry: entry.publish(home, key, MISSING, keep_payload=True)
        return lambda entry: entry.publish(home, key, value, keep_payload=False)


class _Loading:
    """One get-or-load of a space; see `flows.Loading`."""

    def __init__(
        self, space: Space, key: Key, loader: Callable[[], Any], ttl: float | None, tags: tuple[str, ...]
    ) -> None:
        self.key = key
        self.wire = space._wire(key)
        self.loader = loader
        self._space = space
        self._root = space._root
        self._ttl = ttl
        self._tags = tags
        self._bus = space._root._member()
        self._asked: Asked | None = None

    @property
    def cache(self) -> int:
        return id(self._root)

    def ask(self) -> Flow[Found | Lead | Solo]:
        bus, patience = self._bus, self._root.config.load_timeout
        outcome = None
        if bus is not None and self._ttl != 0:
            outcome = yield Wait(partial(self._ask, bus, patience), patience + GRACE, None, bus.abandon)
        if outcome is None:
            self._root._count("loads")
            self._root._count("fallbacks", self._ttl != 0 and not self._root.config.disabled)
        return outcome or Solo()

    def _ask(self, bus: Bus, patience: float) -> Asked:
        wire, tags = self.wire, self._tags
        self._asked = bus.ask(lambda peer, ticket, now: peer.read(ticket, wire, tags, patience, now), None)
        return self._asked

    def use(self, entry: Entry) -> Any:
        assert self._bus is not None
        return self._space._use(self._bus, self.key, entry)

    def undecodable(self, error: ValueError) -> None:
        self._root._count("loads")
        self._root._count("fallbacks")
        self._root._tell_undecodable(error)

    def failed(self, outcome: Found | Lead | Solo, error: BaseException) -> None:
        if self._bus is None or self._asked is None or not isinstance(outcome, Lead):
            return
        if isinstance(error, Exception):
            self._bus.tell(lambda peer, now: peer.failed(outcome.fetch, now))
        else:  # cancelled, or told to exit: that does not mean that the source is in trouble
            self._bus.abandon(self._asked)

    def loaded(self, outcome: Found | Lead | Solo, value: Any, oldest: float) -> None:
        bus, space = self._bus, self._space
        if bus is None or not isinstance(outcome, Lead):
            return
        try:
            payload = self._root._encode(value, self.key)
            if payload is None and space._copies:
                value = copying.deepcopy(value)  # for those who wait: the loader's own goes to who called it
        except BaseException as error:
            self.failed(outcome, error)
            raise
        left = math.inf if self._ttl is None else self._ttl
        report = Loaded(value, payload, left, self._tags, space._publisher(bus, self.key, value), oldest)
        bus.tell(lambda peer, now: peer.loaded(outcome.fetch, report, now))


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
        copy: Copy = "never",
        **settings: Unpack[Arguments],
    ) -> None:
        """Settings come from the arguments, else from ``COLOCACHE_*`` variables, else by default; see `Config`.

        Raises ConfigError for a bad one. ``codec`` carries values between processes: all of a group need the same.
        """
        self.config = Config.resolve({"group": group, **settings}, os.environ)
        self.codec = codec if codec is not None else MsgpackCodec()
        self._format = blake2b(self.codec.name.encode(), digest_size=4).digest()
        self._spaces: weakref.WeakSet[Space] = weakref.WeakSet()
        self._modes: dict[str, bool] = {}  # namespace to whether it copies
        self._bus: Bus | None = None
        self._closed = False
        self._trouble: Exception | None = None  # why the last attempt to join failed
        self._forget()
        _caches.add(self)
        super().__init__(self, "", self.config.ttl, _copies(copy))

    # --- What it shows

    def stats(self) -> Stats:
        """Return this process's figures: counters since it joined, and gauges. Never waits for another process."""
        bus = self._own_bus()
        stats = bus.stats() if bus is not None else Stats()
        own = self._counters.values
        return Stats(
            **{name: value + own.get(name, 0) if own.get(name) else value for name, value in asdict(stats).items()}
        )

    def members(self) -> list[MemberInfo]:
        """Return the members of the group that this process knows, itself first. Empty before the first use."""
        bus = self._own_bus()
        if bus is None or not bus.alive:
            return []
        me, others = bus.members()
        now = monotonic()
        current = now < self._gate.current_until
        rows = [
            (me, self._joined_at, current, True),
            *((member, since, heard, False) for member, since, heard in others),
        ]
        return [
            MemberInfo(member.seat, member.pid, member.incarnation.hex(), "peer", now - since, heard, mine)
            for member, since, heard, mine in rows
        ]

    # --- Its life

    def start(self) -> None:
        """Join the group now rather than at the first use. Raises what keeps it from joining: OSError, for example."""
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
            bus, self._bus = self._own_bus(), None
            self._rebind(Gate())
        if bus is not None:
            bus.close(self.config.lease * 1.01)

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<colocache.Cache {self.config.group!r}{' closed' if self._closed else ''}>"

    def _member(self) -> Bus | None:
        """Return this process's member, joining if need be; None if the cache is off, or the host will not let us."""
        bus = self._own_bus()
        if bus is not None and bus.alive:
            return bus
        if self._closed:
            raise ClosedError(f"{self!r} is closed; make a new one")
        return None if self.config.disabled else self._join()

    def _own_bus(self) -> Bus | None:
        # In this order, while `_forget` lets go of the parent's bus first, and notes the new pid last.
        return self._bus if self._pid == os.getpid() else None

    def _join(self) -> Bus | None:
        if self._pid != os.getpid():  # a fork that went past Python's hooks
            with _inheriting:
                if self._pid != os.getpid():  # of several threads, the first one forgets
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
            except ConfigError:
                raise
            except Exception as error:  # the file system's, libzmq's, or that of a system without another thread
                self._fail_to_join(error)
                return None
            self._trouble = None
            self._joined_at = monotonic()
            self._rebind(self._bus.gate)
            bus, patience = weakref.ref(self._bus), min(1.0, self.config.lease)  # its thread keeps the bus alive
            weakref.finalize(self, _leave_behind, bus, os.getpid(), patience).atexit = False
            atexit.register(_close_at_exit, weakref.ref(self), bus, os.getpid(), patience)
            return self._bus

    def _fail_to_join(self, error: Exception) -> None:
        self._retry_at = monotonic() + RETRY
        if self._trouble is None:
            _log.error(
                "colocache: cannot join the group %s, caches nothing, and tries again every second: %s: %s",
                self.config.group, type(error).__name__, error,
            )  # fmt: skip
        self._trouble = error

    def _adopt(self, space: Space) -> None:
        with self._lock:
            if self._modes.setdefault(space._path, space._copies) is not space._copies:
                mode, other = ("always", "never") if space._copies else ("never", "always")
                raise ValueError(
                    f"the namespace {space._path!r} cannot have copy={mode!r}: it is in use with copy={other!r}, and "
                    "all who read it share what they find; use another namespace"
                )
            self._spaces.add(space)
            if self._bus is not None:
                space._hits = self._bus.store.hits(space._path, one_part=space._one_part)
                space._gate = self._bus.gate

    def _rebind(self, gate: Gate) -> None:
        """Have the spaces read from this process's member; from nothing if there is none.

        First the entries, then the gate, while readers look at the gate first. Else:

        1. a reader finds an entry of the old member; 2. the cache is bound to a new one; 3. the reader looks at the new
        one's gate, which is open, and uses what the new member could not invalidate.
        """
        for space in list(self._spaces):
            bus, one_part = self._bus, space._one_part
            space._hits = bus.store.hits(space._path, one_part=one_part) if bus is not None else {}
            space._gate = gate

    def _forget(self) -> None:
        """Be as if nothing had been started: at first, and in a forked child."""
        inherited, self._bus = self._bus, None
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._retry_at = -math.inf
        self._joined_at = 0.0
        self._counters = Counters()
        self._told_at = -math.inf
        self._rebind(Gate())
        if inherited is not None:
            inherited.forget_after_fork()
        self._pid: int = os.getpid()  # last: whoever finds it here relies on all the rest

    # --- For the spaces

    def _encode(self, value: object, key: Key) -> bytes | None:
        """Return a value as it travels; None, counted, if it is too large. TypeError, naming the key, if it cannot."""
        try:
            payload = self._format + self.codec.encode(value)
        except TypeError as error:
            raise TypeError(f"the value of the key {shown(key)} cannot be carried: {error}") from None
        if len(payload) > MAX_VALUE:
            self._count("oversize")
            return None
        return payload

    def _decode(self, payload: bytes) -> Any:
        if payload[:4] != self._format:
            raise ValueError(f"it was written with another codec than {self.codec.name!r}")
        try:
            return self.codec.decode(payload[4:])
        except ValueError:
            raise
        except Exception as error:  # a codec that breaks its word must not break the application
            raise ValueError(f"the codec {self.codec.name!r} raised {type(error).__name__}: {error}") from error

    def _tell_undecodable(self, error: ValueError) -> None:
        """Log, once a minute, that a value of the group cannot be decoded here."""
        with self._counting:
            now = monotonic()
            if now < self._told_at + 60:
                return
            self._told_at = now
        _log.warning(
            "colocache: a value in the group %s cannot be read here, and is loaded instead: %s. All processes of "
            "a group need the same codec and the same registered types",
            self.config.group, error,
        )  # fmt: skip

    def _tell_incomplete(self, receipt: Receipt) -> None:
        if receipt is UNKNOWN:  # the member that would have counted it is not there
            self._count("incomplete")
        _log.warning("colocache: an invalidation is not acknowledged by everybody: %s", receipt)

    def _count(self, counter: str, by: float = 1) -> None:
        if by:
            with self._counting:  # any thread may count here
                self._counters.count(counter, by)


Command = Callable[["Peer", int, float], None]


def _lets_behind(gate: Gate, entry: Entry, now: float) -> bool:
    """Whether a reader may be served an entry though this member is behind."""
    if now - entry.loaded_at >= gate.max_stale:
        return False
    served_while_behind(entry.loaded_at)
    return True


def _asking(bus: Bus, command: Command, limit: float, otherwise: Any, local: bool = False) -> Wait:
    return Wait(partial(bus.ask, command, otherwise), limit + GRACE, otherwise, bus.abandon, local)


def _writing(wire: bytes, payload: bytes | None, ttl: float | None, tags: tuple[str, ...], settle: bool) -> Command:
    if payload is None or ttl == 0:  # nothing to store; the old value is gone all the same
        patience = math.inf if settle else 0.0
        return lambda peer, ticket, now: peer.invalidate(ticket, [key_target(wire)], patience, now)
    left = math.inf if ttl is None else ttl
    return lambda peer, ticket, now: peer.set(ticket, wire, payload, left, tags, settle, now)


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError(f"tags is a tuple of texts, not a text: write tags=({tags!r},)")
    names = tuple(dict.fromkeys(check_tag(tag) for tag in tags))
    if len(names) > MAX_TAGS:
        raise ValueError(f"a value has at most {MAX_TAGS} tags, not {len(names)}: {names!r:.100}")
    return names


def _patience(wait: bool | float) -> float:
    """Return for how many seconds an invalidation may wait."""
    if isinstance(wait, bool):
        return math.inf if wait else 0.0
    if not isinstance(wait, int | float):
        raise TypeError(f"wait is True, False or a number of seconds, not {type(wait).__name__}: {wait!r:.60}")
    if not wait >= 0:  # nan, too
        raise ValueError(f"wait={wait!r}: give True, False or a number of seconds, 0 or more")
    return float(wait)


def _copies(copy: Copy) -> bool:
    if copy not in ("never", "always"):
        raise ValueError(f"copy is 'never' or 'always', not {copy!r}")
    return copy == "always"


_caches: weakref.WeakSet[Cache] = weakref.WeakSet()
_inheriting = threading.Lock()


def _after_fork() -> None:
    for cache in list(_caches):
        cache._forget()


os.register_at_fork(after_in_child=_after_fork)


def _leave_behind(bus: weakref.ref[Bus], pid: int, patience: float) -> None:
    """A cache was dropped without `Cache.close`: its member leaves. Not in this thread, which may hold any lock."""
    member = bus()
    if member is not None and member.alive and pid == os.getpid():
        threading.Thread(target=member.close, args=(patience,), name="colocache leaves", daemon=True).start()


def _close_at_exit(cache: weakref.ref[Cache], bus: weakref.ref[Bus], pid: int, patience: float) -> None:
    owner, member = cache(), bus()
    if pid != os.getpid():
        return
    if owner is not None:
        owner._retry_at = math.inf  # what still asks, at this late hour, loads for itself
    if member is not None and member.alive:
        member.close(patience)  # what is not acknowledged by then, host-mates read in the journal
