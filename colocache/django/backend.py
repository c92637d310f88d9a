"""The cache backend: Django's interface to a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT

from colocache import MISSING

from . import pages
from .plans import Plans, Tags

T = TypeVar("T")


class ColocacheCache(Plans):
    """Django's cache interface. Django's documentation describes it, and docs/topics/django.md what is added.

    ``LOCATION`` is the name of the group. An object is a handle on a cache that the whole process shares, so making or
    closing one starts and stops nothing. Any thread may use it. Every method has an a-twin.

    A reader gets a copy of a value, and may change it. `set`, `set_many`, `add` and `get_or_set` also take ``tags``, by
    which entries can be invalidated together. A ``timeout`` may also be a `timedelta`, or a text such as ``"90s"``.
    """

    async def _apart(self, do: Callable[..., T], *arguments: Any) -> T:
        """Do something in another thread, as Django does: it may wait for other hosts. In a group of one host, here."""
        if not self.group.cache._member.may_wait:
            return do(*arguments)
        return await sync_to_async(do)(*arguments)

    # --- Reading

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value of a key, or ``default`` if there is none."""
        wire = self._wire(key, version)
        value = pages.get(self.group, wire) if pages.is_filled(key) else self._space.get(wire, MISSING)
        return default if value is MISSING else value

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """The twin of `get`."""
        wire = self._wire(key, version)
        if pages.is_filled(key):
            value = await self._apart(pages.get, self.group, wire)
        else:
            value = await self._space.aget(wire, MISSING)
        return default if value is MISSING else value

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return the values of the keys that have one."""
        return self._get_many(keys, version)

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """The twin of `get_many`."""
        return await self._apart(self._get_many, keys, version)

    def has_key(self, key: Any, version: int | None = None) -> bool:
        """Tell whether a key has a value."""
        return self.get(key, MISSING, version) is not MISSING

    async def ahas_key(self, key: Any, version: int | None = None) -> bool:
        """The twin of `has_key`."""
        return await self.aget(key, MISSING, version) is not MISSING

    def get_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> Any:
        """Return the value of a key. If there is none, store and return ``default``, or call it, once in the group."""
        wire, ttl, loader = self._wire(key, version), self._ttl(timeout), _loader(default)
        return self.group.values.get_or_load(wire, loader, ttl=ttl, tags=tags)

    async def aget_or_set(
        self, key: Any, default: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> Any:
        """The twin of `get_or_set`; ``default`` may be a coroutine function."""
        wire, ttl, loader = self._wire(key, version), self._ttl(timeout), _loader(default)
        return await self.group.values.aget_or_load(wire, loader, ttl=ttl, tags=tags)

    # --- Writing

    def set(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> None:
        """Store a value. Return when no process serves the old one any more."""
        self._set(key, value, timeout, version, tags)

    async def aset(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> None:
        """The twin of `set`."""
        await self._apart(self._set, key, value, timeout, version, tags)

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> list[Any]:
        """Store values. Return the keys that could not be stored."""
        return self._set_many(data, timeout, version, tags)

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> list[Any]:
        """The twin of `set_many`."""
        return await self._apart(self._set_many, data, timeout, version, tags)

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> bool:
        """Store a value if there is none. Tell whether it is stored."""
        return self._add(key, value, timeout, version, tags)

    async def aadd(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> bool:
        """The twin of `add`."""
        return await self._apart(self._add, key, value, timeout, version, tags)

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to a counter, and return it. Raise ValueError if there is none, and TypeError if it is not an int."""
        return self._incr(key, delta, version)

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The twin of `incr`."""
        return await self._apart(self._incr, key, delta, version)

    def decr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Subtract from a counter, and return it. Raise ValueError if there is none, TypeError if it is not an int."""
        return self._incr(key, -delta, version)

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The twin of `decr`."""
        return await self._apart(self._incr, key, -delta, version)

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a key another timeout. Tell whether it has a value."""
        return self._touch(key, timeout, version)

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """The twin of `touch`."""
        return await self._apart(self._touch, key, timeout, version)

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to a later version, and return that version. Raise ValueError if there is no value."""
        return self._incr_version(key, delta, version)

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The twin of `incr_version`."""
        return await self._apart(self._incr_version, key, delta, version)

    def decr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to an earlier version, and return that version. Raise ValueError if there is no value."""
        return self._incr_version(key, -delta, version)

    async def adecr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The twin of `decr_version`."""
        return await self._apart(self._incr_version, key, -delta, version)

    # --- Deleting

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key. Return when no process serves it any more, and tell whether it had a value."""
        return self._delete(key, version)

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """The twin of `delete`."""
        return await self._apart(self._delete, key, version)

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete several keys at once. Return when no process serves them any more."""
        self._delete_many(keys, version)

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """The twin of `delete_many`."""
        await self._apart(self._delete_many, keys, version)

    def clear(self) -> None:
        """Delete all keys that Django has in the group, also those of other aliases and prefixes."""
        self._clear()

    async def aclear(self) -> None:
        """The twin of `clear`."""
        await self._apart(self._clear)

    def close(self, **kwargs: Any) -> None:
        """Do nothing, because Django calls this after every request, and the process stays in the group."""

    async def aclose(self, **kwargs: Any) -> None:
        """The twin of `close`."""


def _loader(default: Any) -> Callable[[], Any]:
    return default if callable(default) else lambda: default
