"""A backend for dogpile.cache. All processes of a group share its regions."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from dogpile.cache import CacheRegion
from dogpile.cache.api import (
    NO_VALUE,
    BackendFormatted,
    BackendSetType,
    CacheBackend,
    CachedValue,
    CacheMutex,
    KeyType,
)
from dogpile.cache.region import RegionInvalidationStrategy

from colocache import MISSING, Cache, MsgpackCodec, Space
from colocache.config import SETTINGS
from colocache.naming import shortened
from colocache.runtime.waiting.answers import Answer
from colocache.runtime.waiting.threads import may_not_wait

__all__ = ["Backend", "GroupInvalidation"]

LONGEST_KEY = 200  # bytes; a longer key, such as that of a call with many arguments, ends in a hash
FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.05  # s between two attempts to take a lock of another process
LOOK_EVERY = 0.1  # s between two looks at whether another thread still has a lock

#: The arguments that `Cache` takes.
OF_CACHE: Final = frozenset({*inspect.signature(Cache).parameters, *SETTINGS})

_caches: dict[tuple[Any, ...], Cache] = {}  # by their settings, because the regions of a process share them


class Backend(CacheBackend):
    """dogpile.cache's interface to a cache. Any thread may use it.

    Its ``arguments`` are:

    - ``group`` and the other arguments of `Cache`, or ``cache``, an existing one. Regions with the same arguments share
      a cache.
    - ``namespace``. Regions with the same cache and namespace share their keys.
    - ``ttl``. By default values live for ever here, and the region's ``expiration_time`` decides.
    - ``copy``, that of `Cache.namespace`.
    - ``distributed_lock``, on by default: only one process of the group at a time creates a value, for at most
      ``lock_timeout`` seconds. The default is the cache's ``load_timeout``.

    Other arguments are ignored, as by the backends of dogpile.cache itself, and named in the log.

    A value that was created after a miss is not stored if its key was deleted in between.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Start nothing yet. Raise ConfigError, ValueError or TypeError for arguments that cannot be used."""
        given = dict(arguments)
        name = given.pop("namespace", "default")
        ttl, copy = given.pop("ttl", None), given.pop("copy", None)
        distributed, timeout = given.pop("distributed_lock", True), given.pop("lock_timeout", None)
        unknown = {name: given.pop(name) for name in [*given] if name != "cache" and name not in OF_CACHE}
        self.cache: Cache = given["cache"] if given.keys() == {"cache"} else _cache(given)
        if not isinstance(self.cache, Cache):
            raise TypeError(f"the argument cache is a colocache.Cache, not {self.cache!r:.60}")
        if unknown:
            self.cache._member.log.warning(
                "arguments of a dogpile.cache region are not known and ignored: %s",
                [*unknown],
                about=name,
                event="unknown_arguments",
            )
        if isinstance(self.cache.codec, MsgpackCodec):
            self.cache.codec.register(CachedValue, name="colocache.dogpile:CachedValue")
        path = "/".join(["dogpile", *filter(None, str(name).split("/"))])
        self._space = self.cache.namespace(path, ttl=ttl, copy=copy, fence=True)
        self._locks = self.cache.namespace(f"dogpile locks/{path}", copy=False) if _is_on(distributed) else None
        self._lock_timeout = float(timeout) if timeout is not None else self.cache.config.load_timeout

    def get(self, key: KeyType) -> BackendFormatted:
        """Return the value, or NO_VALUE."""
        found = self._space.get(_short(key), MISSING)
        return NO_VALUE if found is MISSING else cast(BackendFormatted, found)

    def get_multi(self, keys: Iterable[KeyType]) -> Sequence[BackendFormatted]:
        """Do what `get` does, for several keys at once."""
        names = [_short(key) for key in keys]
        found = self._space.get_many(names)
        return [found.get(name, NO_VALUE) for name in names]

    def set(self, key: KeyType, value: BackendSetType) -> None:
        """Store a value, unless its key was deleted since this thread missed it. Raise TypeError for unknown types."""
        self._space.set(_short(key), value)

    def set_multi(self, mapping: Mapping[KeyType, BackendSetType]) -> None:
        """Do what `set` does, for several items at once."""
        self._space.set_many({_short(key): value for key, value in mapping.items()})

    def delete(self, key: KeyType) -> None:
        """Delete a value. Return when no process serves it any more."""
        self._space.invalidate(_short(key))

    def delete_multi(self, keys: Iterable[KeyType]) -> None:
        """Do what `delete` does, for several keys at once."""
        self._space.invalidate(*map(_short, keys))

    def clear(self) -> None:
        """Delete all values of this namespace. Return when no process serves them any more."""
        self._space.clear()

    def get_mutex(self, key: KeyType) -> CacheMutex | None:
        """Return the lock for the creation of a value. With None, dogpile.cache locks within each process."""
        return None if self._locks is None else _Mutex(self._locks, _short(key), self._lock_timeout)


class GroupInvalidation(RegionInvalidationStrategy):
    """Makes `CacheRegion.invalidate` drop the values in all processes. That of dogpile.cache does so in one process.

    Give it to a region with its backend: ``region_invalidator=GroupInvalidation(region)``. It drops everything in the
    backend's namespace, and returns when no process serves it any more. A soft invalidation is the same as a hard one.
    """

    def __init__(self, region: CacheRegion) -> None:
        self._region = region

    def invalidate(self, hard: bool = True) -> None:
        """Drop everything."""
        backend = self._region.actual_backend
        if not isinstance(backend, Backend):
            raise TypeError(f"GroupInvalidation is for regions with the backend colocache, not {backend!r:.60}")
        backend.clear()

    def is_hard_invalidated(self, timestamp: float) -> bool:
        """Return False for a value of any age, because an invalidated value does not exist any more."""
        return False

    is_soft_invalidated = is_invalidated = is_hard_invalidated

    def was_soft_invalidated(self) -> bool:
        """Return False, because the region never serves old values."""
        return False

    was_hard_invalidated = was_soft_invalidated


class _Hold:
    """That somebody has a lock, or waits for it."""

    __slots__ = ("ended", "nested", "thread", "value")

    def __init__(self) -> None:
        self.thread = threading.get_ident()  # under gevent a greenlet's
        self.nested: list[_Hold] = []  # of the same thread, which has taken it once more
        self.value: str | None = None  # at the key, if it has the lock for the processes
        self.ended = Answer()


class _Mutex(CacheMutex):
    """First a lock for the threads of this process, then one for the processes of the group.

    Without the second one, because this process cannot join the group, the first one must be enough. Nobody waits
    for either longer than the timeout.

    What a signal handler raises leaves neither of them locked, unless it comes just when dogpile.cache calls
    `release`. Then the lock lapses after the timeout. A handler that creates the value whose creation it has
    interrupted does not wait for its own thread, nor does a creator that asks for its own value: each creates it, too.
    """

    def __init__(self, locks: Space, key: str, timeout: float) -> None:
        self._locks = locks
        self._key = key
        self._timeout = timeout
        self._held: dict[int, _Hold] = {}  # by one step it is taken, and known who has it

    def acquire(self, wait: bool = True) -> bool:
        """Lock. If ``wait`` is false, do so only if it is possible at once. Tell whether it is locked."""
        mine, ends = _Hold(), time.monotonic() + self._timeout
        other = mine
        try:
            other = self._held.setdefault(0, mine)
            while other is not mine:
                if not wait:
                    return False
                if other.thread == mine.thread:
                    other.nested.append(mine)
                    return True
                other.ended.result(LOOK_EVERY)
                if time.monotonic() >= ends or may_not_wait():
                    self._held[0] = mine
                other = self._held.setdefault(0, mine)
            if self._acquire_in_group(mine, wait):
                return True
            self._unlock(mine)
            return False
        except BaseException:
            self._unlock(mine)
            if mine in other.nested:
                other.nested.remove(mine)
            raise

    def _acquire_in_group(self, hold: _Hold, wait: bool) -> bool:
        deadline, pause = time.monotonic() + self._timeout, FIRST_PAUSE
        while True:
            if self._add(hold):
                return True
            if self._locks.get(self._key) is None:
                # It was released just now, or this process cannot join, or a lock of the shelf cannot be had.
                self._add(hold)
                return True
            if not wait:
                return False
            if time.monotonic() >= deadline:
                return True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _add(self, hold: _Hold) -> bool:
        hold.value = os.urandom(8).hex()  # before it is there
        if self._locks.add(self._key, hold.value, ttl=self._timeout):
            return True
        hold.value = None
        return False

    def release(self) -> None:
        """Unlock. Any thread may do so."""
        held = self._held
        if 0 not in held:  # two callers held it, because one stopped waiting, and the other has released it
            return
        hold = held[0]  # without a call, after which a signal handler could raise
        if hold.nested and hold.thread == threading.get_ident():
            hold.nested.pop()
            return
        try:
            self._unlock(hold)
        except BaseException:  # a signal handler may have raised it, before it was done
            self._unlock(hold)
            raise

    def _unlock(self, hold: _Hold) -> None:
        """Give back what a caller has. It may be called twice."""
        held = self._held
        try:
            # If the value is not his any more, the lock has lapsed, and another process may hold it.
            if hold.value is not None and self._locks.get(self._key) == hold.value:
                self._locks.invalidate(self._key, wait=False)
            hold.value = None
        finally:
            if 0 in held and held[0] is hold:
                del held[0]
            hold.ended.give(None)

    def locked(self) -> bool:
        """Tell whether this or another process has locked it."""
        return bool(self._held) or self._locks.get(self._key) is not None


def _cache(settings: dict[str, Any]) -> Cache:
    if "cache" in settings:
        raise ValueError(
            f"with the argument cache, {sorted(settings.keys() - {'cache'})} cannot be given: that cache has its own"
        )
    made_of = tuple(sorted((name, repr(value)) for name, value in settings.items()))
    # If two threads make it at the same time, both get the first one. The other one has started nothing.
    return _caches.get(made_of) or _caches.setdefault(made_of, Cache(**settings))


def _is_on(setting: Any) -> bool:
    """Tell whether a switch is on. It may be a text from a configuration file."""
    return str(setting).strip().lower() not in ("false", "no", "off", "0", "")


def _short(key: str) -> str:
    return shortened(key, LONGEST_KEY)
