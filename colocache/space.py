"""A part of the cache with keys of its own, as users hold it: what they read, write and invalidate by.

Each method exists twice, under its name and with an ``a`` before it. What may have to wait, for a load or for other
hosts, is a flow that both drive. A hit needs no flow: it is one look-up in a dictionary, one comparison and one look at
the clock, in the caller's own thread. `at_once` writes that before the reading methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Literal, Never, ParamSpec, TypeVar, cast, overload

from . import decorators, inspection
from .config import UNSET
from .core.keys import Key
from .core.receipt import Receipt
from .functions.specialised import at_once
from .inspection import KeyInfo
from .operations import atomic, fenced, invalidate, load, read, write
from .operations.drive import arun, finish, run, why_not_to_wait
from .operations.flow import Flow
from .operations.invalidate import Waiting
from .operations.keyspace import Keyspace, Ttl
from .operations.tally import current_tally
from .runtime.view import View

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Space:
    """A part of the cache with keys of its own: a `Cache`, or one of its namespaces. Any thread may call all methods.

    `Cache.namespace` makes a namespace.

    A key is a `str`, or a tuple of values that have one form in all processes: numbers, texts, dates, enums, lists,
    dataclasses, and many more. Other keys raise TypeError.

    ``ttl`` is a number of seconds, a `timedelta`, or a text such as ``"90s"`` or ``"1h30m"``. None is for ever, and 0
    stores nothing. If it is not given, the space's own ttl holds. ``tags`` are up to 64 texts. All entries with a tag
    can be invalidated together.

    A read shares its value with every other reader of this process, unless the space copies. So do not change it.

    In a group of one host only `get_or_load` ever waits, for another call's load of the key. On the thread of a
    running event loop it answers hits, and otherwise does nothing and raises EventLoopError. `aget_or_load` waits in
    the running task, and may be cancelled. All other methods may be called on an event loop's thread in both forms.

    In a group of several hosts, whatever may have to wait for other hosts raises EventLoopError there, before it has
    done anything: all methods but `get`, `get_many`, `namespace` and `cached`, and those that invalidate with
    ``wait=False``. Their twins wait in the running task.

    After `Cache.close`, all methods raise ClosedError.
    """

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace

    def _finish(self, flow: Flow[T], wait: Waiting = True) -> T:
        member = self._keyspace.member
        waits = wait is not False and (wait != "response" or current_tally(member) is None)
        return finish(flow, waits and member.may_wait)

    @property
    def group(self) -> str:
        """The name of the group that the space belongs to."""
        return self._keyspace.member.config.group

    def namespace(self, name: str, *, ttl: Ttl = UNSET, copy: bool | None = None, fence: bool | None = None) -> Space:
        """Return a part of this space with keys apart from all others, and defaults of its own.

        Namespaces nest: ``a.namespace("b")`` is ``namespace("a/b")``, and clearing ``a`` clears it, too. What is not
        given is as in this space, or, for copying, as the namespace is in use already.

        With ``copy=True`` every read gives a fresh copy, decoded anew, which its reader may change. Raise ValueError if
        the namespace is in use without copies.

        ``fence=True`` is for code that gets, computes if nothing was found, and sets. After a `get` that found nothing,
        a `set` of the key is refused and returns False if the key was invalidated or set meanwhile, or if the load
        timeout has passed. So such a `set` does not tell that the source has changed: use `invalidate` for that.
        docs/topics/consistency.md has the details, under "Get, compute, set".
        """
        return Space(self._keyspace.below(name, ttl, copy, fence))

    # --- Reading

    @at_once
    def get(self, key: Key, default: T | None = None) -> Any | T | None:
        """Return the value of a key if anybody in the group has it, and ``default`` otherwise. None is a value.

        In a group of several hosts, the host that owns the key is asked for what this one does not have, for a quarter
        of a second at most. On the thread of an event loop it is not asked; `aget` asks it everywhere. So ``default``
        does not prove that nobody has a value.
        """
        return read.get(self._keyspace, key, default)

    @at_once
    async def aget(self, key: Key, default: T | None = None) -> Any | T | None:
        """The twin of `get`."""
        return await read.aget(self._keyspace, key, default)

    @at_once
    def get_or_load(self, key: Key, loader: Callable[[], T], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> T:
        """Return the value of a key. Where nobody has it, load it, once in the whole group, and keep it.

        While other hosts do not answer, each host loads for itself.

        The loader's exception is raised as it is. Raise TypeError if the value cannot be carried. Raise
        RecursiveLoadError if the loader asks for its own key. A task or thread that the loader starts may do so, and
        waits for the load, but not longer than the load timeout.
        """
        return cast(T, run(load.get_or_load(self._keyspace, key, loader, self._keyspace.given(ttl, tags))))

    @overload
    async def aget_or_load(
        self, key: Key, loader: Callable[[], Awaitable[T]], *, ttl: Ttl = ..., tags: Iterable[str] = ...
    ) -> T: ...
    @overload
    async def aget_or_load(
        self, key: Key, loader: Callable[[], T], *, ttl: Ttl = ..., tags: Iterable[str] = ...
    ) -> T: ...
    @at_once
    async def aget_or_load(
        self, key: Key, loader: Callable[[], Any], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> Any:
        """The twin of `get_or_load`; the loader may be a coroutine function.

        It runs in a task of its own, in a copy of this context. If the caller is cancelled, the load goes on while
        other calls wait for it, for the load timeout at most. If no other call waits, the load is cancelled and has
        ended.
        """
        return await arun(load.get_or_load(self._keyspace, key, loader, self._keyspace.given(ttl, tags)))

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """Return the values of those keys that anybody in the group has. Nothing is loaded.

        Other hosts are asked as by `get`, each once for all of its keys.
        """
        member = self._keyspace.member
        return finish(read.get_many(self._keyspace, keys, not (member.may_wait and why_not_to_wait())), False)

    async def aget_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The twin of `get_many`."""
        return await arun(read.get_many(self._keyspace, keys))

    # --- Looking what is there

    def keys(self, like: str = "") -> Iterator[Key]:
        """Return the keys of this namespace, and those below it, that this host has values of, in no order.

        ``like`` is a text that the key must contain, with its namespace, as `KeyInfo.name` has it. Of keys that travel
        as hashes nothing can be told: they are in `entries`.

        This looks at the whole shelf, which takes about 4 microseconds for each value. Other hosts are not asked.
        """
        return (info.key for info in self.entries(like) if info.key is not None)

    def entries(self, like: str = "") -> Iterator[KeyInfo]:
        """Return what is known of these values, instead of their keys alone."""
        with self._view() as view:
            yield from inspection.key_infos(view, self._keyspace.path, like)

    def info(self, key: Key) -> KeyInfo | None:
        """Return what this host knows of the value of a key, current or not; None if it has none."""
        wire = self._keyspace.wire(key)
        with self._view() as view:
            return inspection.key_info(view, wire)

    def hot_keys(self, count: int = 10) -> list[KeyInfo]:
        """Return the keys of this namespace that the processes of this host hit most at present, the hottest first.

        Only near hits count, and of each process the 32 keys that it hits most.
        """
        with self._view() as view:
            return inspection.hot_keys(view, count, self._keyspace.path)

    def _view(self) -> View:
        return self._keyspace.member.view()

    # --- Writing

    def set(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = (),
            wait: Literal["stored", "all"] = "stored") -> bool:  # fmt: skip
        """Store a value for all processes; return whether it is stored. No process of this host serves the old one.

        The write is unconditional, and the caller answers for the value: the latest write wins, whichever caller read
        the source first. Raise TypeError if the value cannot be carried. Return False if the value is too large, or if
        a process that was stopped holds a lock; the old value is gone all the same. Return False, too, if this process
        cannot join; then the others may go on serving the old value.

        In a group of several hosts, the value is stored on the host that owns the key. Other hosts hear of it soon, or
        serve nothing older after about three seconds. With ``wait="all"`` the call waits for that, as `invalidate`
        does, and returns False if nobody can say so. If the owner host does not answer within a second, the key is
        invalidated, and the answer is False, although the value may have been stored.
        """
        return self._finish(write.put(self._keyspace, key, value, self._keyspace.given(ttl, tags), wait))

    async def aset(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = (),
                   wait: Literal["stored", "all"] = "stored") -> bool:  # fmt: skip
        """The twin of `set`."""
        return await arun(write.put(self._keyspace, key, value, self._keyspace.given(ttl, tags), wait))

    def set_many(self, values: Mapping[Any, object], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """Do what `set` does for every item, at once; return whether all are stored."""
        # Any, because Mapping is invariant in its keys: a dict[str, str] is not a Mapping[Key, object].
        return self._finish(write.put_many(self._keyspace, values.items(), self._keyspace.given(ttl, tags)))

    async def aset_many(self, values: Mapping[Any, object], *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """The twin of `set_many`."""
        return await arun(write.put_many(self._keyspace, values.items(), self._keyspace.given(ttl, tags)))

    # --- Invalidating

    def invalidate(self, *keys: Key, wait: Waiting = True, strict: bool = False) -> Receipt:
        """Drop the values of these keys in every process. Return a `Receipt` when no process serves them any more.

        In a group of one host nobody is waited for. In a group of several hosts the call waits until all others have
        said so, and for about three seconds at most: then a host that says nothing serves nothing older.

        ``wait`` is True, or a number of seconds to wait at most, or False. ``"response"`` leaves the waiting to the end
        of the request, and outside of a request is the same as True. On this host the invalidation holds in all cases
        when the call returns.

        ``strict`` raises InvalidationIncomplete if the receipt is not complete: this process cannot join, or the call
        did not wait long enough for the other hosts, or does not know all of them.
        """
        return self._finish(invalidate.keys(self._keyspace, keys, wait, strict), wait)

    async def ainvalidate(self, *keys: Key, wait: Waiting = True, strict: bool = False) -> Receipt:
        """The twin of `invalidate`."""
        return await arun(invalidate.keys(self._keyspace, keys, wait, strict))

    def delete(self, key: Key, *, wait: Waiting = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for one key."""
        return self.invalidate(key, wait=wait, strict=strict)

    async def adelete(self, key: Key, *, wait: Waiting = True, strict: bool = False) -> Receipt:
        """The twin of `delete`."""
        return await self.ainvalidate(key, wait=wait, strict=strict)

    def invalidate_tags(self, *tags: str, wait: Waiting = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for all entries, of every namespace, that have one of the tags."""
        return self._finish(invalidate.tags(self._keyspace, tags, wait, strict), wait)

    async def ainvalidate_tags(self, *tags: str, wait: Waiting = True, strict: bool = False) -> Receipt:
        """The twin of `invalidate_tags`."""
        return await arun(invalidate.tags(self._keyspace, tags, wait, strict))

    def clear(self, *, wait: Waiting = True, strict: bool = False) -> Receipt:
        """Do what `invalidate` does for this space and all namespaces below it."""
        return self._finish(invalidate.all_keys(self._keyspace, wait, strict), wait)

    async def aclear(self, *, wait: Waiting = True, strict: bool = False) -> Receipt:
        """The twin of `clear`."""
        return await arun(invalidate.all_keys(self._keyspace, wait, strict))

    # --- In one step

    def add(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """Store a value if nobody has the key; return whether it was stored.

        `add`, `cas`, `incr`, `decr` and `touch` are atomic for all processes of the group: of two calls of `add`, one
        succeeds. Return False, too, if a process that was stopped holds a lock, or if this one cannot join. Raise
        TypeError if the value cannot be carried.

        In a group of several hosts all five happen on the host that owns the key. They are refused while that host does
        not hear all others. If it does not answer within a second, the answer is False, or None, and what was asked for
        may have happened.
        """
        return self._finish(atomic.add(self._keyspace, key, value, self._keyspace.given(ttl, tags)))

    async def aadd(self, key: Key, value: object, *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """The twin of `add`."""
        return await arun(atomic.add(self._keyspace, key, value, self._keyspace.given(ttl, tags)))

    def gets(self, key: Key) -> tuple[Any, bytes] | None:
        """Return the value of a key, and a token for `cas`; None if nobody has it."""
        return self._finish(atomic.gets(self._keyspace, key))

    async def agets(self, key: Key) -> tuple[Any, bytes] | None:
        """The twin of `gets`."""
        return await arun(atomic.gets(self._keyspace, key))

    def cas(self, key: Key, value: object, token: bytes, *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """Compare and set: store a value if the key had no event since `gets` gave the token; return whether it was.

        A token holds as long as the value that `gets` has found, and as its key has the same owner host, and so for one
        success. After False, call `gets` again. Raise TypeError or ValueError if this is not a token.
        """
        return self._finish(
            atomic.put_if(self._keyspace, key, value, fenced.Token.unpack(token), self._keyspace.given(ttl, tags))
        )

    async def acas(self, key: Key, value: object, token: bytes, *, ttl: Ttl = UNSET, tags: Iterable[str] = ()) -> bool:
        """The twin of `cas`."""
        return await arun(
            atomic.put_if(self._keyspace, key, value, fenced.Token.unpack(token), self._keyspace.given(ttl, tags))
        )

    def incr(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> int | None:
        """Add to a number, in one step for all processes, and return the sum. Its expiry stays.

        Where nobody has the key, it becomes ``initial + delta``, with ``ttl`` and ``tags``. Without ``initial`` nothing
        happens, and the answer is None. The answer is None, too, if a process that was stopped holds a lock, or if this
        one cannot join: then nothing was counted. If another host owns the key, and does not answer in time, the answer
        is None, and it may have been counted. A counter is a value like any other, and may be evicted.

        Raise TypeError if the value is not an int of at most 64 bytes, or if ``delta`` or ``initial`` is not an int.
        Raise ValueError if these are too large.
        """
        return self._finish(atomic.count(self._keyspace, key, delta, initial, self._keyspace.given(ttl, tags)))

    async def aincr(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> int | None:
        """The twin of `incr`."""
        return await arun(atomic.count(self._keyspace, key, delta, initial, self._keyspace.given(ttl, tags)))

    def decr(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> int | None:
        """Do what `incr` does, downwards. The number may become negative."""
        return self._finish(atomic.count_down(self._keyspace, key, delta, initial, self._keyspace.given(ttl, tags)))

    async def adecr(
        self, key: Key, delta: int = 1, *, initial: int | None = None, ttl: Ttl = UNSET, tags: Iterable[str] = ()
    ) -> int | None:
        """The twin of `decr`."""
        return await arun(atomic.count_down(self._keyspace, key, delta, initial, self._keyspace.given(ttl, tags)))

    def touch(self, key: Key, ttl: Ttl = UNSET) -> bool:
        """Have a value expire in ``ttl`` from now on, for all processes; return False if nobody has it."""
        return self._finish(atomic.touch(self._keyspace, key, self._keyspace.given(ttl, ())))

    async def atouch(self, key: Key, ttl: Ttl = UNSET) -> bool:
        """The twin of `touch`."""
        return await arun(atomic.touch(self._keyspace, key, self._keyspace.given(ttl, ())))

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
        audit: bool | None = ...,
    ) -> decorators.Decorator: ...
    def cached(
        self,
        ttl: Any = UNSET,
        *,
        key: Callable[..., Key] | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        ignore: Iterable[str] = (),
        name: str | None = None,
        audit: bool | None = None,
    ) -> Any:
        """Decorate a function, method or coroutine function: its results are cached by its arguments.

        ``@cached``, ``@cached("60s")`` and ``@cached(ttl=60, ...)`` are all possible. ``ignore`` names the parameters
        on which the result does not depend. ``key`` makes the whole key of a call from its arguments. ``tags`` are the
        tags of its entries, or a function of the arguments that gives them. ``name`` stands for the function's module
        and name in the keys of this space; it must be the same in all processes. The decorated function has the methods
        of `colocache.decorators.Cached`.

        ``audit`` says whether hits may be audited, if the setting ``audit`` is above 0: the function is then called in
        the background. None is yes if all that it is given makes its key. See docs/howto/audit.md.

        Raise TypeError for what is not a function, and for names that are not parameters. Raise ValueError for a
        function that would get the results of another one.
        """
        if callable(ttl) or isinstance(ttl, classmethod):
            return decorators.Decorator(self._keyspace, UNSET)(ttl)
        return decorators.Decorator(self._keyspace, ttl, key, tags, ignore, name, audit)
