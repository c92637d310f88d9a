"""A backend for dogpile.cache, whose regions are shared by all processes of a group."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
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
from colocache.runtime.logs import Log

__all__ = ["Backend", "GroupInvalidation"]

LONGEST_KEY = 200  # bytes; of a longer one, as calls with many arguments have, a part is hashed
FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.05  # s between two attempts to lock what another process has locked

#: The arguments that `Cache` takes.
OF_CACHE: Final = frozenset({*inspect.signature(Cache).parameters, *SETTINGS})

_caches: dict[tuple[Any, ...], Cache] = {}  # by what they were made of: the regions of a process share them
_making = threading.Lock()


class Backend(CacheBackend):
    """dogpile.cache's interface to a cache. May be used from any thread.

    Its ``arguments`` are ``group`` and the other arguments of `Cache`; or ``cache``, one that is there already. Regions
    with the same arguments share a cache, and those that also have the same ``namespace`` share their keys. ``ttl`` is
    for ever unless given: a region's ``expiration_time`` decides. ``distributed_lock``, on by default, has one process
    of the group create a value at a time, ``lock_timeout`` seconds long at most (`Cache`'s ``load_timeout``).
    Arguments that it does not know are ignored, as dogpile's own backends do, and named in the log.

    A value that was created because it was missing is not stored if its key was deleted meanwhile.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Join nothing yet. Raises ConfigError, ValueError or TypeError for arguments that cannot be used."""
        given = dict(arguments)
        name = given.pop("namespace", "default")
        ttl, copy = given.pop("ttl", None), given.pop("copy", None)
        distributed, timeout = given.pop("distributed_lock", True), given.pop("lock_timeout", None)
        unknown = {name: given.pop(name) for name in [*given] if name != "cache" and name not in OF_CACHE}
        self.cache: Cache = given["cache"] if given.keys() == {"cache"} else _cache(given)
        if not isinstance(self.cache, Cache):
            raise TypeError(f"the argument cache is a colocache.Cache, not {self.cache!r:.60}")
        if unknown:
            log = Log(self.cache.group)
            log.warning("arguments of a dogpile.cache region are not known and ignored: %s", [*unknown])
        if isinstance(self.cache.codec, MsgpackCodec):
            self.cache.codec.register(CachedValue, name="colocache.dogpile:CachedValue")
        path = "/".join(["dogpile", *filter(None, str(name).split("/"))])
        self._space = self.cache.namespace(path, ttl=ttl, copy=copy, fence=True)
        self._locks = self.cache.namespace(f"dogpile locks/{path}", copy=False) if _is_on(distributed) else None
        self._lock_timeout = float(timeout) if timeout is not None else self.cache.config.load_timeout

    def get(self, key: KeyType) -> BackendFormatted:
        """Return what was set, or NO_VALUE."""
        found = self._space.get(_short(key), MISSING)
        return NO_VALUE if found is MISSING else cast(BackendFormatted, found)

    def get_multi(self, keys: Iterable[KeyType]) -> Sequence[BackendFormatted]:
        """Do what `get` does for every key, at once."""
        names = [_short(key) for key in keys]
        found = self._space.get_many(names)
        return [found.get(name, NO_VALUE) for name in names]

    def set(self, key: KeyType, value: BackendSetType) -> None:
        """Store a value; TypeError if it cannot be carried. Not if its key was deleted since this thread missed it."""
        self._space.set(_short(key), value)

    def set_multi(self, mapping: Mapping[KeyType, BackendSetType]) -> None:
        """Do what `set` does for every item, at once."""
        self._space.set_many({_short(key): value for key, value in mapping.items()})

    def delete(self, key: KeyType) -> None:
        """Return when no process has the value any more."""
        self._space.invalidate(_short(key))

    def delete_multi(self, keys: Iterable[KeyType]) -> None:
        """Do what `delete` does for every key, at once."""
        self._space.invalidate(*map(_short, keys))

    def clear(self) -> None:
        """Return when no process has any of the values any more that were set under this namespace."""
        self._space.clear()

    def get_mutex(self, key: KeyType) -> CacheMutex | None:
        """Return the lock that who creates the value holds; None, with which dogpile locks within each process."""
        return None if self._locks is None else _Mutex(self._locks, _short(key), self._lock_timeout)


class GroupInvalidation(RegionInvalidationStrategy):
    """Makes `CacheRegion.invalidate` drop the values in all processes, where dogpile's own does so in one.

    Given to a region with its backend, as ``region_invalidator=GroupInvalidation(region)``. It drops all that is under
    the backend's namespace, and returns when no process has it; a soft invalidation is the same as a hard one.
    """

    def __init__(self, region: CacheRegion) -> None:
        self._region = region

    def invalidate(self, hard: bool = True) -> None:
        """Drop everything."""
        backend = self._region.actual_backend
        if not isinstance(backend, Backend):
            raise TypeError(f"GroupInvalidation is for regions of the backend colocache, not of {backend!r:.60}")
        backend.clear()

    def is_hard_invalidated(self, timestamp: float) -> bool:
        """Whether a value of that age is to be created anew: none, for what was invalidated is not there any more."""
        return False

    is_soft_invalidated = is_invalidated = is_hard_invalidated

    def was_soft_invalidated(self) -> bool:
        """Whether the region serves old values: never."""
        return False

    was_hard_invalidated = was_soft_invalidated


class _Mutex(CacheMutex):
    """One lock for the threads of this process, and then one for the processes of the group.

    Where the group's cannot be had, the process's has to do: to wait would not make it better.
    """

    def __init__(self, locks: Space, key: str, timeout: float) -> None:
        self._locks = locks
        self._key = key
        self._timeout = timeout
        self._here = threading.Lock()
        self._mine: str | None = None  # what is at the key if this process has locked it

    def acquire(self, wait: bool = True) -> bool:
        """Lock; if ``wait`` is false, only if that is possible at once. Whether it is locked."""
        if not self._here.acquire(wait):
            return False
        try:
            taken = self._acquire_in_group(wait)
        except BaseException:
            self._here.release()
            raise
        if not taken:
            self._here.release()
        return taken

    def _acquire_in_group(self, wait: bool) -> bool:
        mine, pause = os.urandom(8).hex(), FIRST_PAUSE
        gives_up_at = time.monotonic() + self._timeout
        while True:
            if self._locks.add(self._key, mine, ttl=self._timeout):
                self._mine = mine
                return True
            if self._locks.get(self._key) is None:
                # It was given back just now, or whoever would keep it cannot be had.
                if self._locks.add(self._key, mine, ttl=self._timeout):
                    self._mine = mine
                return True
            if not wait:
                return False
            if time.monotonic() >= gives_up_at:
                return True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def release(self) -> None:
        """Unlock. From any thread."""
        mine, self._mine = self._mine, None
        try:
            if mine is not None and self._locks.get(self._key) == mine:  # else it has lapsed, and may be another's
                self._locks.invalidate(self._key, wait=False)
        finally:
            self._here.release()

    def locked(self) -> bool:
        """Whether this process, or another one, has locked it."""
        return self._here.locked() or self._locks.get(self._key) is not None


def _cache(settings: dict[str, Any]) -> Cache:
    if "cache" in settings:
        raise ValueError(f"with the argument cache, {sorted(settings.keys() - {'cache'})} are what that cache has")
    made_of = tuple(sorted((name, repr(value)) for name, value in settings.items()))
    with _making:
        if made_of not in _caches:
            _caches[made_of] = Cache(**settings)
        return _caches[made_of]


def _is_on(setting: Any) -> bool:
    """Whether a switch is on, which may come from a configuration file, as text."""
    return str(setting).strip().lower() not in ("false", "no", "off", "0", "")


def _short(key: str) -> str:
    encoded = key.encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST_KEY:
        return key
    return f"{key[:40]} {blake2b(encoded, digest_size=20).hexdigest()}"
