"""A part of the cache with keys of its own, as users hold it: what they read, write and invalidate by.

Every method that may wait exists twice, under its name and with an ``a`` before it, and both are driven by the same
flow. A hit needs neither: it is one look-up in a dictionary and one look at the clock, in the caller's own thread.
"""

from __future__ import annotations

import contextlib
import copy as copying
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from time import monotonic
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Never, ParamSpec, Protocol, TypeVar, cast, overload

from . import scope
from .config import UNSET, Config, Duration, Unset, parse_ttl
from .core import keys
from .core.entry import MISSING, Entry, Home
from .core.gate import Gate
from .core.group.fences import NO_FENCE
from .core.group.messages import (
    EVERYTHING,
    MAX_TAGS,
    MAX_TARGETS,
    NO_NUMBER,
    check_tag,
    key_target,
    namespace_target,
    tag_target,
)
from .core.group.outcomes import (
    DONE,
    NO_ANSWER,
    NO_INTEGER,
    Altering,
    Fence,
    Found,
    Lead,
    Loaded,
    Receipt,
    Seen,
    Solo,
    Written,
)
from .core.group.peer import Peer
from .core.keys import Key
from .core.numbers import pack_integer, unpack_integer
from .core.options import EntryOptions
from .errors import InvalidationIncomplete
from .functions import decorators
from .functions.identity import Functions
from .naming import shortened
from .operations import fenced
from .operations.flows import Flow, Wait, arun, get_or_load, run, served_while_behind, shown
from .runtime.logs import Log
from .runtime.waiting.threads import RLock
from .stats import Counters

if TYPE_CHECKING:
    from .runtime.driver import Driver
    from .runtime.waiting.answers import Asked

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

GRACE = 5.0  # s beyond a call's own limit, after which the bus thread is taken to be in trouble
WRITES_AT_ONCE = 256  # of one `set_many`, and questions of one `get_many` under fences
BYTES_AT_ONCE = 8 << 20  # of their values; one value may be larger
READS_AT_ONCE = 512  # keys in one question of `get_many`
QUESTIONS_AT_ONCE = 2  # of one `get_many`
TARGETS_AT_ONCE = 4 * MAX_TARGETS  # that one step of an invalidation announces: the bus thread has others to serve
UNKNOWN = Receipt((), (), False, 0.0)  # of an invalidation that this process could not announce, or not see through
NOT_WRITTEN = Written(False, None)
NOT_FENCED = Fence(None, b"", NO_FENCE)

Ttl = Duration | None | Unset
Waiting = bool | float | Literal["response"]


class Root(Protocol):
    """What a space needs of the cache that it is a part of; see `colocache.cache.Cache`."""

    config: Config
    _bus: Driver | None
    _counters: Counters
    _counting: RLock  # held to add to the counters
    _functions: Functions  # those that are decorated
    _log: Log
    _serial: int

    def _copies_in(self, path: str) -> bool | None:
        """Whether readers of a namespace get copies; None if nobody uses it."""

    def _adopt(self, space: Space) -> None:
        """Bind a new space to this process's member, if there is one. ValueError if its copying does not fit."""

    def _member(self) -> Driver | None:
        """Return this process's member, joining if need be."""

    def _encode(self, value: object, key: Key, path: str) -> bytes | None:
        """Return a value as it travels; None if it is too large."""

    def _decline(self, key: Key, path: str, why: str) -> None:
        """Count and log that a value is used, and not kept."""

    def _learn(self, function: Callable[..., Any]) -> None:
        """Let the classes travel that a function's annotations name."""

    def _check(self, function: Callable[..., Any]) -> None:
        """Raise TypeError if a function's return annotation names a class that cannot travel."""

    def _decode(self, payload: bytes) -> Any:
        """Return the value of a payload. Raises ValueError."""

    def _receipts(self) -> Flow[Receipt]:
        """Wait for all that this process has announced."""

    def _tell_undecodable(self, error: ValueError) -> None:
        """Log that a value cannot be decoded here."""

    def _tell_incomplete(self, receipt: Receipt) -> None:
        """Log that an invalidation is not acknowledged by everybody."""

    def _tell_lost(self, key: Key, error: BaseException) -> None:
        """Log the exception of a load whose caller was cancelled."""


class Space:
    """A part of the cache with keys of its own: the whole, or a namespace. All methods may be called from any thread.

    Keys are `str`, or tuples of what has one form in all processes: numbers, texts, dates, enums, lists, dataclasses,
    and many more; TypeError for others. ``ttl`` is seconds, a `timedelta`, or text such as ``"90s"`` or ``"1h30m"``;
    None is for ever, 0 stores nothing; if it is not given, the space's own holds. ``tags`` are up to 64 texts by which
    entries can be invalidated together.

    What a read returns is shared with every other reader of this process, unless the space copies: do not change it.

    The methods without ``a`` wait in the calling thread, and raise EventLoopError, having done nothing, where they
    would have to wait on the thread of a running event loop. The ``a``-twins wait in the running task, and may be
    cancelled. ClosedError is raised after `Cache.close`.
    """

    def __init__(
        self, root: Root, path: str, ttl: float | None, copies: bool, *, fence: bool = False, one_part: bool = False
    ) -> None:
        self._root = root
        self._path = path
        self._prefix = keys.prefix(path)
        self._ttl = ttl
        self._copies = copies
        self._fence = fence
        self._one_part = one_part  # all keys are tuples of one part, and are found by that part
        self._unchecked: Callable[..., Any] | None = None  # the function whose results this holds, until its first load
        self._home = Home(None)
        self._hits = self._home.hits
        self._gate = Gate()
        root._adopt(self)

    @property
    def group(self) -> str:
        """The name of the group that the space belongs to."""
        return self._root.config.group

    def namespace(self, name: str, *, ttl: Ttl = UNSET, copy: bool | None = None, fence: bool | None = None) -> Space:
        """Return a part of this space with keys apart from all others, and defaults of its own.

        Namespaces nest: ``a.namespace("b")`` is ``namespace("a/b")``, and clearing ``a`` clears it, too. With
        ``copy=True`` every read gives a fresh copy (decoded anew), which its reader may change; ValueError if the
        namespace is in use without. What is not given is as in this space; copying, as the namespace is used already.

        ``fence`` is for code that gets, computes where nothing was found, and sets. A `get` that finds nothing takes a
        fence, which is remembered for this thread or task, and within a request's `Scope`, until the key is set; the
        `set` is refused, and returns False, if the key had an event meanwhile: what was computed may be old. One that
        comes later than the load timeout is refused, too, and invalidates the key. So after a miss `set` is no write
        any more: use `invalidate` when the source has changed. Keys that were not missed, or were invalidated by the
        same thread or task since, are set as ever. A namespace may be used with and without fences side by side.
        """
        if type(name) is not str or not name or name.startswith("/") or name.endswith("/"):
            raise ValueError(f"a namespace is a non-empty text that neither begins nor ends with '/': {name!r}")
        path = f"{self._path}/{name}" if self._path else name
        own = self._ttl if isinstance(ttl, Unset) else parse_ttl(ttl)
        copies = self._copies_below(path) if copy is None else copies_of(copy)
        return Space(self._root, path, own, copies, fence=self._fence if fence is None else fence)

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

        The loader's exception is raised as it is. TypeError if the value cannot be carried. RecursiveLoadError if the
        loader asks for its own key; a task or thread that it starts may do so, and waits for the load, but not longer
        than the load timeout.
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
        """The twin of `get_or_load`; the loader may be a coroutine function.

        It runs in a task of its own, in a copy of this context. If the caller is cancelled, the load goes on while
        others wait for it, for the load timeout at most; if nobody else does, it is cancelled and has ended.
        """
        value = self._hit(key)
        return value if value is not MISSING else await arun(self._load(key, loader, ttl, tags))

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Return the values of those keys that anybody in the group has; one request for each owner and 512 keys."""
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

    def invalidate(self, *keys: Key, wait: Waiting = True, strict: bool = False) -> Receipt:
        """Return when no process serves the old values any more.

        That is about a millisecond in peace, and never more than the lease and 1 %: a member that does not answer is
        waited out. ``wait=False`` announces and returns at once; a number waits for so many seconds at most;
        ``"response"``, within a request's `Scope`, announces and returns at once, and has the middleware wait, once for
        all, before the response is sent. ``strict`` raises InvalidationIncomplete if the promise cannot be given; the
        event goes on being delivered either way.
        """
        return run(self._announce(self._key_targets(keys), wait, strict))

    async def ainvalidate(self, *keys: Key, wait: Waiting = True, strict: bool = False) -> Receipt:
        """The twin of `invalidate`."""
        return await arun(self._announce(self._key_targets(keys), wait, strict))

    def delete(self, key: Key, *, wait: Waiting = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for one key."""
        return self.invalidate(key, wait=wait, strict=strict)

    async def adelete(self, key: Key, *, wait: Waiting = True, strict: bool = False) -> Receipt:
        """The twin of `delete`."""
        return await self.ainvalidate(key, wait=wait, strict=strict)

    def invalidate_tags(self, *tags: str, wait: Waiting = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for all entries, of every namespace, that carry one of the tags."""
        return run(self._announce(self._tag_targets(tags), wait, strict))

    async def ainvalidate_tags(self, *tags: str, wait: Waiting = True, strict: bool = False) -> Receipt:
        """The twin of `invalidate_tags`."""
        return await arun(self._announce(self._tag_targets(tags), wait, strict))

    def clear(self, *, wait: Waiting = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for this space and all namespaces below it."""
        return run(self._announce([self._own_target()], wait, strict))

    async def aclear(self, *, wait: Waiting = True, strict: bool = False) -> Receipt:
        """The twin of `clear`."""
        return await arun(self._announce([self._own_target()], wait, strict))

    # --- In one step

    def add(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """Store a value if nobody has the key; return whether it was stored.

        Atomic in the group, as the other methods of this part are, while the key's owner neither fails nor changes:
        then two may succeed. False, too, if the owner cannot be had. TypeError if the value cannot be carried.
        """
        return run(self._add(key, value, ttl, tags))

    async def aadd(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """The twin of `add`."""
        return await arun(self._add(key, value, ttl, tags))

    def gets(self, key: Key) -> tuple[Any, bytes] | None:
        """Return the value that the key's owner has, and a token for `cas`; None if it has none, or cannot be had."""
        return run(self._gets(key))

    async def agets(self, key: Key) -> tuple[Any, bytes] | None:
        """The twin of `gets`."""
        return await arun(self._gets(key))

    def cas(self, key: Key, value: object, token: bytes, *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """Compare and set: store a value if the key had no event since `gets` gave the token; return whether it was.

        A token holds for at least half of the load timeout, and for one success. Whoever gets False, gets again. Raises
        TypeError or ValueError if the token is none.
        """
        return run(self._cas(key, value, fenced.unpack(token), ttl, tags))

    async def acas(self, key: Key, value: object, token: bytes, *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """The twin of `cas`."""
        return await arun(self._cas(key, value, fenced.unpack(token), ttl, tags))

    def incr(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> int | None:
        """Add to a number at the key's owner, and return what it is then; its expiry stays.

        Where nobody has the key it becomes ``initial + delta``, with ``ttl`` and ``tags``; without ``initial`` nothing
        happens. None then, and if the owner cannot be had or does not answer in time: whether it counted is unknown
        then. A counter is a value like any other, and may be evicted. TypeError if the value is no int of at most 64
        bytes, or if ``delta`` or ``initial`` is none; ValueError if these are too large.
        """
        return run(self._incr(key, delta, initial, ttl, tags))

    async def aincr(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> int | None:
        """The twin of `incr`."""
        return await arun(self._incr(key, delta, initial, ttl, tags))

    def decr(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> int | None:
        """Do what `incr` does, downwards. The number may become negative."""
        return run(self._incr(key, _negative(delta), initial, ttl, tags))

    async def adecr(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> int | None:
        """The twin of `decr`."""
        return await arun(self._incr(key, _negative(delta), initial, ttl, tags))

    def touch(self, key: Key, ttl: Ttl = UNSET) -> bool:
        """Have a value expire in ``ttl`` from now on; False if nobody has it, or its owner cannot be had.

        Other processes' near copies keep an earlier expiry; a later one is taken from them.
        """
        return run(self._touch(key, ttl))

    async def atouch(self, key: Key, ttl: Ttl = UNSET) -> bool:
        """The twin of `touch`."""
        return await arun(self._touch(key, ttl))

    @overload
    def cached(  # type: ignore[overload-overlap]  # the first that fits is meant: here, of what returns Any
        self, function: Callable[P, Never], /
    ) -> decorators.Cached[P, Any]: ...
    @overload
    def cached(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> decorators.AsyncCached[P, R]: ...
    @overload
    def cached(self, function: Callable[P, R], /) -> decorators.Cached[P, R]: ...
    @overload
    def cached(
        self,
        ttl: Ttl = ...,
        *,
        key: Callable[..., Key] | None = ...,
        tags: Iterable[str] | Callable[..., Iterable[str]] = ...,
        ignore: Iterable[str] = ...,
        name: str | None = ...,
    ) -> decorators.Decorator: ...
    def cached(
        self,
        ttl: Any = UNSET,
        *,
        key: Callable[..., Key] | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        ignore: Iterable[str] = (),
        name: str | None = None,
    ) -> Any:
        """Decorate a function, method or coroutine function: its results are cached by its arguments.

        ``@cached``, ``@cached("60s")`` and ``@cached(ttl=60, ...)`` all do. ``ignore`` names the parameters on which
        the result does not depend; ``key`` makes the whole key of a call from its arguments; ``tags`` are the tags of
        its entries, or a function of the arguments that gives them. ``name`` is what the results are kept under, within
        this space, instead of the function's module and name; it must be the same in all processes. See
        `colocache.functions.decorators.Cached` for what the decorated function offers.

        Raises TypeError for what is not a function and for names that are no parameters, and ValueError for a function
        that would get the results of another one.
        """
        if callable(ttl) or isinstance(ttl, classmethod):
            return decorators.Decorator(self, self._ttl)(ttl)
        own = self._ttl if isinstance(ttl, Unset) else parse_ttl(ttl)
        return decorators.Decorator(self, own, key, tags, ignore, name)

    # --- Flows

    def _hit(self, key: Key) -> Any:
        """Return what a reader is served at once; MISSING if nothing."""
        gate = self._gate  # before the entry: see `Cache._rebind`
        written = key[0] if self._one_part else key
        try:
            entry = self._hits.get(written)
        except TypeError:  # unhashable
            entry = None
        if entry is None:
            found = self._as_found(key)
            entry = self._hits.get(found) if found is not written else None
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
        key = keys.found(key)  # which can be hashed
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
            seen = yield from self._peek_fenced(bus, tuple(wires)) if self._fence else self._ask_all(bus, tuple(wires))
            for wire, entry in seen.items():
                try:
                    found[wires[wire]] = self._use(bus, wires[wire], entry)
                except ValueError as error:
                    root._tell_undecodable(error)
            self._tell_scope("fetches", len(seen))
        misses = sum(key not in found for key in wires.values())
        with root._counting:
            root._counters.misses += misses
        self._tell_scope("misses", misses)
        return found

    def _ask_all(self, bus: Driver, wires: tuple[bytes, ...]) -> Flow[Mapping[bytes, Entry]]:
        patience, entries = self._root.config.fetch_timeout, dict[bytes, Entry]()

        def ask(start: int) -> Asked:
            part = wires[start : start + READS_AT_ONCE]
            return bus.ask(lambda peer, ticket, now: peer.calls.peek(ticket, part, now), Seen({}))

        starts = range(0, len(wires), READS_AT_ONCE)
        ahead = _Ahead(starts, ask, QUESTIONS_AT_ONCE)
        for _ in starts:
            seen: Seen = yield Wait(ahead.next, patience + 2 * GRACE, Seen({}), bus.abandon)
            entries |= seen.entries
        return entries

    def _peek_fenced(self, bus: Driver, wires: tuple[bytes, ...]) -> Flow[Mapping[bytes, Entry]]:
        cache, seen, patience = self._root._serial, dict[bytes, Entry](), self._root.config.fetch_timeout + GRACE
        ahead = _Ahead(wires, lambda wire: bus.ask(_getting_fenced(wire), NOT_FENCED), WRITES_AT_ONCE)
        for wire in wires:
            fence: Fence = yield Wait(ahead.next, patience, NOT_FENCED, bus.abandon)
            if fence.entry is not None:
                seen[wire] = fence.entry
            else:
                fenced.note(cache, wire, fence, monotonic())
        return seen

    def _load(self, key: Key, loader: Callable[[], Any], ttl: Ttl, tags: Iterable[str]) -> Flow[Any]:
        if self._unchecked is not None:
            self._root._check(self._unchecked)
            self._unchecked = None
        return (yield from get_or_load(_Loading(self, key, loader, self._seconds(ttl), _tags(tags))))

    def _set(self, items: Iterable[tuple[Key, object]], ttl: Ttl, tags: Iterable[str], wait: str) -> Flow[bool]:
        root, seconds, names = self._root, self._seconds(ttl), _tags(tags)
        if wait not in ("stored", "all"):
            raise ValueError(f"wait is 'stored' or 'all', not {wait!r}")
        payloads = {self._wire(key): self._payload(key, value, names) for key, value in items}
        bus = root._member()
        if bus is None:
            if not root.config.disabled:
                root._tell_incomplete(UNKNOWN)
            return False
        all_fenced = (yield from self._set_missed(bus, payloads, seconds, names.kept)) if self._fence else True
        settle = wait == "all"

        def ask(item: tuple[bytes, bytes | None]) -> Asked:
            return bus.ask(_writing(*item, seconds, names.kept, settle), NOT_WRITTEN)

        # Many before the first wait, but no more than the links will take.
        ahead = _Ahead(payloads.items(), ask, WRITES_AT_ONCE, lambda item: len(item[1] or b""))
        all_kept = all_fenced
        limit = 4 * root.config.lease + root.config.fetch_timeout + GRACE  # a set that is given up is waited out
        for _ in payloads:
            outcome = yield Wait(ahead.next, limit, NOT_WRITTEN, bus.abandon)
            kept, receipt, position = outcome if isinstance(outcome, Written) else (False, outcome, None)
            all_kept = all_kept and kept
            self._tell_scope("sets", position=position)
            if settle and (receipt is None or not receipt.complete):
                root._tell_incomplete(receipt or UNKNOWN)
        return all_kept

    def _set_missed(
        self, bus: Driver, payloads: dict[bytes, bytes | None], ttl: float | None, tags: tuple[str, ...]
    ) -> Flow[bool]:
        """Set those of the keys that were missed, under their fences; they are taken out. Whether all are stored."""
        root, all_kept = self._root, True
        for wire in list(payloads):
            miss = fenced.find(root._serial, wire)
            if miss is None:
                continue
            payload, kept = payloads.pop(wire), False
            if monotonic() > miss.at + root.config.load_timeout:
                # No owner remembers so long what has hit the key. And this thread may have missed it for something else
                # long ago, and write it now; so not even the old value can stay.
                yield from self._announce([key_target(wire)], False, False)
            elif payload is not None:
                kept = yield from self._set_fenced(bus, wire, payload, ttl, tags, miss.fence)
            all_kept = all_kept and kept
            fenced.forget(root._serial, (wire,))  # not before: a call that is refused on an event loop has done nothing
        return all_kept

    def _set_fenced(
        self, bus: Driver, wire: bytes, payload: bytes, ttl: float | None, tags: tuple[str, ...], fence: Fence
    ) -> Flow[bool]:
        if ttl == 0 or fence.number == NO_FENCE:
            return False
        options, patience = _options(ttl, tags), self._root.config.fetch_timeout
        done: Altering = yield _asking(
            bus, lambda peer, ticket, now: peer.calls.set_fenced(ticket, wire, payload, options, fence, now),
            patience, NO_ANSWER,
        )  # fmt: skip
        self._tell_scope("sets", position=done.position)
        return done.outcome == DONE

    def _get_fenced(self, key: Key) -> Flow[Fence]:
        bus = self._root._member()
        if bus is None:
            return NOT_FENCED
        patience = self._root.config.fetch_timeout
        fence: Fence = yield _asking(bus, _getting_fenced(self._wire(key)), patience, NOT_FENCED)
        return fence

    def _add(self, key: Key, value: object, ttl: Ttl, tags: Iterable[str]) -> Flow[bool]:
        if self._hit(key) is not MISSING:
            return False
        fence = yield from self._get_fenced(key)
        if fence.entry is not None:
            return False
        return (yield from self._cas(key, value, fence, ttl, tags))

    def _gets(self, key: Key) -> Flow[tuple[Any, bytes] | None]:
        root = self._root
        bus, fence = root._member(), (yield from self._get_fenced(key))
        if bus is None or fence.entry is None:
            return None
        try:
            return self._use(bus, key, fence.entry), fenced.pack(fence)
        except ValueError as error:
            root._tell_undecodable(error)
            return None

    def _cas(self, key: Key, value: object, fence: Fence, ttl: Ttl, tags: Iterable[str]) -> Flow[bool]:
        root, seconds, names = self._root, self._seconds(ttl), _tags(tags)
        wire, payload, bus = self._wire(key), self._payload(key, value, names), root._member()
        if bus is None or payload is None:
            return False
        return (yield from self._set_fenced(bus, wire, payload, seconds, names.kept, fence))

    def _incr(self, key: Key, delta: int, initial: int | None, ttl: Ttl, tags: Iterable[str]) -> Flow[int | None]:
        _check_number("delta", delta)
        if abs(delta) > NO_NUMBER:
            raise ValueError(f"delta={delta}: more than 63 bits are counted in several steps")
        start: bytes | None = b""
        if initial is not None:
            _check_number("initial", initial)
            start = pack_integer(initial + delta)
        if start is None:
            raise ValueError("initial is a number of more than 64 bytes")
        done = yield from self._alter(key, delta, start, ttl, tags)
        if done.outcome == NO_INTEGER:
            raise TypeError(f"the value of the key {shown(key)} is no int that can be counted with")
        return unpack_integer(done.payload) if done.outcome == DONE else None

    def _touch(self, key: Key, ttl: Ttl) -> Flow[bool]:
        done = yield from self._alter(key, None, b"", ttl, ())
        return done.outcome == DONE

    def _alter(self, key: Key, delta: int | None, start: bytes, ttl: Ttl, tags: Iterable[str]) -> Flow[Altering]:
        seconds, names, wire = self._seconds(ttl), _tags(tags), self._wire(key)
        if start and names.excess:  # one that is there is counted with all the same
            self._root._decline(key, self._path, names.excess)
            start = b""
        bus = self._root._member()
        if bus is None:
            return NO_ANSWER
        options, patience = _options(seconds, names.kept), self._root.config.fetch_timeout
        done: Altering = yield _asking(
            bus, lambda peer, ticket, now: peer.calls.alter(ticket, wire, delta, start, options, now),
            patience, NO_ANSWER,
        )  # fmt: skip
        self._tell_scope("sets", position=done.position)
        return done

    def _announce(self, targets: list[bytes], wait: Waiting, strict: bool) -> Flow[Receipt]:
        root, current, left_to_response = self._root, scope.current(self._root), wait == "response"
        if wait == "response":
            if strict:
                raise ValueError("strict is for a call that waits, and wait='response' leaves that to the middleware")
            wait = current is None  # nobody would wait later
        patience = _patience(wait)
        bus = root._member()
        if root.config.disabled or not targets:
            return Receipt((), (), True, 0.0)
        receipt, announced = UNKNOWN, list[tuple[bytes, int]]()

        def announce(part: list[bytes], is_last: bool, peer: Peer, ticket: int, now: float) -> None:
            peer.calls.invalidate(ticket, part, patience if is_last else 0.0, now, counts=is_last)
            announced.append((peer.incarnation, peer.last))

        if bus is not None:
            # Whoever acknowledges the last event has applied all before it.
            parts = [targets[start : start + TARGETS_AT_ONCE] for start in range(0, len(targets), TARGETS_AT_ONCE)]
            missed = False
            for part in parts[:-1]:
                told = yield _asking(bus, partial(announce, part, False), 0.0, UNKNOWN, patience == 0)
                missed = missed or told is UNKNOWN
            limit, local = min(patience, 3 * root.config.lease), patience == 0
            receipt = yield _asking(bus, partial(announce, parts[-1], True), limit, UNKNOWN, local)
            receipt = UNKNOWN if missed else receipt
            if left_to_response and current is not None:
                current.collect()
        self._tell_scope("invalidations", position=announced[-1] if announced else None)
        if not receipt.complete and (patience > 0 or receipt is UNKNOWN):
            root._tell_incomplete(receipt)
            if strict:
                raise InvalidationIncomplete(receipt)
        return receipt

    # --- Helpers

    def _tell_scope(self, what: scope.Counted, by: int = 1, position: tuple[bytes, int] | None = None) -> None:
        current = scope.current(self._root)
        if current is not None:
            if by:
                current.count(what, by)
            if position is not None:
                current.note(*position)

    def _of_function(
        self, function: FunctionType, name: str | None, ttl: float | None, one_part: bool
    ) -> tuple[Space, str]:
        """Return the namespace of a decorated function, and its name."""
        known = self._root._functions.name(function, self._path, name)
        before = f"{self._path}/" if self._path else ""
        if name is None:
            known = shortened(known, keys.MAX_NAMESPACE - len(before.encode()))
        path = before + known
        space = Space(self._root, path, ttl, self._copies_below(path), one_part=one_part)
        space._unchecked = function
        self._root._learn(function)
        return space, known

    def _payload(self, key: Key, value: object, tags: _Tags) -> bytes | None:
        """Return a value as it travels; None, counted and logged, if it or its tags are too large to be kept."""
        payload = self._root._encode(value, key, self._path)
        if payload is not None and tags.excess:
            self._root._decline(key, self._path, tags.excess)
            return None
        return payload

    def _tag_targets(self, tags: Iterable[str]) -> list[bytes]:
        names, excess = _travelling(tags)
        if excess:  # whatever was to have it was not kept
            self._root._log.warning("an invalidation names a tag that no value can have: %s", excess)
        return [tag_target(tag) for tag in names]

    def _copies_below(self, path: str) -> bool:
        """Whether readers of a namespace get copies where its user does not say."""
        used = self._root._copies_in(path)
        return self._copies if used is None else used

    def _as_found(self, key: Key) -> Key:
        """Return what stands for a key in `_hits`. Raises TypeError for what is no key."""
        found = keys.found(key)
        return cast(Key, found[0] if self._one_part else found)

    def _wire(self, key: Key) -> bytes:
        return keys.wire(self._prefix, key)

    def _seconds(self, ttl: Ttl) -> float | None:
        return self._ttl if isinstance(ttl, Unset) else parse_ttl(ttl)

    def _target(self) -> bytes:
        return namespace_target(self._path) if self._path else EVERYTHING

    def _own_target(self) -> bytes:
        if self._fence:
            fenced.forget_within(self._root._serial, self._path)
        return self._target()

    def _key_targets(self, keys: Iterable[Key]) -> list[bytes]:
        wires = [self._wire(key) for key in keys]
        if self._fence:
            fenced.forget(self._root._serial, wires)
        return [key_target(wire) for wire in wires]

    def _use(self, bus: Driver, key: Key, entry: Entry) -> Any:
        """Return the value of an entry of a bus, as this space gives it out, and let later readers find it by the key.

        Raises ValueError if it cannot be decoded.
        """
        if monotonic() >= bus.gate.current_until:
            served_while_behind(entry.loaded_at)
        payload, value = entry.payload, entry.value  # in this order: see `Entry.publish`
        if self._copies and payload is None:  # it was too large to be kept
            return _copied(value)
        if self._copies or value is MISSING:
            assert payload is not None
            value = self._root._decode(payload)
        elif self._hits.get(self._as_found(key)) is entry:
            return value
        self._publisher(bus, key, value)(entry)
        return value

    def _counts(self) -> tuple[int, int]:
        """Return how often readers of this process found an entry of this space at once, and how many there are."""
        home = self._home
        return home.hit_count(), len(home.hits)

    def _publisher(self, bus: Driver, key: Key, value: object) -> Callable[[Entry], None]:
        home, key = self._home, self._as_found(key)
        if home.owner is not bus.store:  # it is another member's by now, and that one could not invalidate the entry
            home = Home(bus.store)
        if self._copies:
            return lambda entry: entry.publish(home, key, MISSING, keep_payload=True)
        return lambda entry: entry.publish(home, key, value, keep_payload=False)


class _Loading:
    """One get-or-load of a space; see `flows.Loading`."""

    def __init__(self, space: Space, key: Key, loader: Callable[[], Any], ttl: float | None, tags: _Tags) -> None:
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
        return self._root._serial

    @property
    def timeout(self) -> float:
        return self._root.config.load_timeout

    def ask(self) -> Flow[Found | Lead | Solo]:
        bus, patience = self._bus, self.timeout
        outcome = None
        if bus is not None and self._ttl != 0:
            outcome = yield Wait(partial(self._ask, bus, patience), patience + GRACE, None, bus.abandon)
        if outcome is None:
            with self._root._counting:
                self._root._counters.loads += 1
                self._root._counters.fallbacks += self._ttl != 0 and not self._root.config.disabled
        self._space._tell_scope("fetches" if isinstance(outcome, Found) else "loads")
        return outcome or Solo()

    def _ask(self, bus: Driver, patience: float) -> Asked:
        wire, tags = self.wire, self._tags.all
        self._asked = bus.ask(lambda peer, ticket, now: peer.calls.read(ticket, wire, tags, patience, now), None)
        return self._asked

    def use(self, entry: Entry) -> Any:
        assert self._bus is not None
        return self._space._use(self._bus, self.key, entry)

    def undecodable(self, error: ValueError) -> None:
        with self._root._counting:
            self._root._counters.loads += 1
            self._root._counters.fallbacks += 1
        self._root._tell_undecodable(error)

    def is_awaited(self, outcome: Found | Lead | Solo) -> bool:
        return self._bus is not None and isinstance(outcome, Lead) and self._bus.is_awaited(outcome.fetch)

    def detached(self, outcome: Found | Lead | Solo) -> None:
        if self._bus is not None and isinstance(outcome, Lead):
            self._bus.tell(lambda peer, now: peer.calls.detach(outcome.fetch, now))

    def lost(self, error: BaseException) -> None:
        self._root._tell_lost(self.key, error)

    def failed(self, outcome: Found | Lead | Solo, error: BaseException) -> None:
        if self._bus is None or self._asked is None or not isinstance(outcome, Lead):
            return
        if isinstance(error, Exception):
            self._bus.tell(lambda peer, now: peer.calls.failed(outcome.fetch, now))
        else:  # cancelled, or told to exit: that does not mean that the source is in trouble
            self._bus.abandon(self._asked)

    def loaded(self, outcome: Found | Lead | Solo, value: Any, oldest: float) -> None:
        bus, space = self._bus, self._space
        if bus is None or not isinstance(outcome, Lead):
            return
        try:
            payload = space._payload(self.key, value, self._tags)
        except BaseException as error:
            self.failed(outcome, error)
            raise
        try:
            if payload is None and space._copies:
                value = _copied(value)  # for those who wait: the loader's own goes to who called it
        except ValueError as error:  # then they load for themselves
            self.failed(outcome, error)
            return
        options = _options(self._ttl, self._tags.all)
        report = Loaded(value, payload, options, space._publisher(bus, self.key, value), oldest)
        bus.tell(lambda peer, now: peer.calls.loaded(outcome.fetch, report, now))


Command = Callable[["Peer", int, float], None]
Item = TypeVar("Item")


class _Ahead(Generic[Item]):
    """The questions of one call. Some are asked before the first answer is waited for, and never too many at once."""

    def __init__(
        self, items: Iterable[Item], ask: Callable[[Item], Asked], most: int, size: Callable[[Item], int] = lambda _: 0
    ) -> None:
        self._left = iter(items)
        self._ask = ask
        self._most = most
        self._size = size
        self._asked = deque[tuple["Asked", int]]()
        self._bytes = 0

    def next(self) -> Asked:
        """Return the next question, in the order of the items, once it is asked."""
        while len(self._asked) < self._most and self._bytes < BYTES_AT_ONCE:
            item = next(self._left, None)
            if item is None:
                break
            self._asked.append((self._ask(item), self._size(item)))
            self._bytes += self._asked[-1][1]
        asked, size = self._asked.popleft()
        self._bytes -= size
        return asked


def _lets_behind(gate: Gate, entry: Entry, now: float) -> bool:
    """Whether a reader may be served an entry though this member is behind."""
    if now - entry.loaded_at >= gate.max_stale:
        return False
    served_while_behind(entry.loaded_at)
    return True


def _asking(bus: Driver, command: Command, limit: float, otherwise: Any, local: bool = False) -> Wait:
    return Wait(partial(bus.ask, command, otherwise), limit + GRACE, otherwise, bus.abandon, local)


def _writing(wire: bytes, payload: bytes | None, ttl: float | None, tags: tuple[str, ...], settle: bool) -> Command:
    if payload is None or ttl == 0:  # nothing to store; the old value is gone all the same
        patience = math.inf if settle else 0.0
        return lambda peer, ticket, now: peer.calls.invalidate(ticket, [key_target(wire)], patience, now)
    options = _options(ttl, tags)
    return lambda peer, ticket, now: peer.calls.set(ticket, wire, payload, options, settle, now)


def _options(ttl: float | None, tags: tuple[str, ...]) -> EntryOptions:
    return EntryOptions(math.inf if ttl is None else ttl, tags)


def _getting_fenced(wire: bytes) -> Command:
    return lambda peer, ticket, now: peer.calls.get_fenced(ticket, wire, now)


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {type(value).__name__}: {value!r:.60}")


def _negative(delta: int) -> int:
    _check_number("delta", delta)
    return -delta


class _Tags(NamedTuple):
    """What was given as tags."""

    all: tuple[str, ...]  # that may travel
    excess: str  # why no value can have all that were asked for; "" if it can

    @property
    def kept(self) -> tuple[str, ...]:
        """What a value that is kept has."""
        return () if self.excess else self.all


def _tags(tags: Iterable[str]) -> _Tags:
    if isinstance(tags, str):
        raise TypeError(f"tags is a tuple of texts, not a text: write tags=({tags!r},)")
    names, excess = _travelling(tags)
    if len(names) > MAX_TAGS:
        excess = f"it has {len(names)} tags, more than {MAX_TAGS}: {names!r:.100}"
    return _Tags(names, excess)


def _travelling(tags: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Return the tags that may travel, each once, and why another one may not. TypeError for what is no text."""
    names, excess = dict[str, None](), ""
    for tag in tags:
        try:
            names[check_tag(tag)] = None
        except ValueError as error:
            excess = str(error)
    return tuple(names), excess


def _copied(value: Any) -> Any:
    """Return a copy of a value that does not travel. Raises ValueError if there can be none, as of one too deep."""
    try:
        return copying.deepcopy(value)
    except Exception as error:
        raise ValueError(f"it cannot be copied: {type(error).__name__}: {error}") from error


def _patience(wait: bool | float) -> float:
    """Return for how many seconds an invalidation may wait."""
    if isinstance(wait, bool):
        return math.inf if wait else 0.0
    if not isinstance(wait, int | float):
        raise TypeError(f"wait is True, False or a number of seconds, not {type(wait).__name__}: {wait!r:.60}")
    if not wait >= 0:  # nan, too
        raise ValueError(f"wait={wait!r}: give True, False or a number of seconds, 0 or more")
    return float(wait)


def copies_of(copy: bool) -> bool:
    """Return whether readers get copies. Raise TypeError if this is not a bool."""
    if not isinstance(copy, bool):
        raise TypeError(f"copy is True or False, not {copy!r:.60}")
    return copy
