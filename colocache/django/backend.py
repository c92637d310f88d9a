"""The cache backend: Django's interface to a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from colocache import MISSING, Space

from . import groups, pages
from .steps import Plan, ado, do, here, step

Tags = Iterable[str]

LONGEST: Final = 36500 * 86400  # s: a hundred years; a longer timeout means for ever


class ColocacheCache(BaseCache):  # type: ignore[misc]  # Django has no types
    """Django's cache interface. Django's documentation describes it, and docs/topics/django.md what is added.

    ``LOCATION`` is the name of the group. An object is a handle on a cache that the whole process shares, so making or
    closing one starts and stops nothing. Any thread may use it. Every method has an a-twin, which waits in the running
    task, and serves a hit at once.

    A reader gets a copy of a value, and may change it. `set`, `set_many`, `add` and `get_or_set` also take ``tags``, by
    which entries can be invalidated together. A ``timeout`` may also be a `timedelta`, or a text such as ``"90s"``.
    """

    def __init__(self, location: object, params: Mapping[str, Any]) -> None:
        """Make a handle. Raise ImproperlyConfigured if LOCATION or OPTIONS cannot be used."""
        super().__init__({**params, "OPTIONS": {}})  # without OPTIONS, which in BaseCache limit the size of a dict
        self.group = groups.find(location, params.get("OPTIONS") or {})

    # --- Reading

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """Return the value of a key, or ``default`` if there is none."""
        wire = self._wire(key, version)
        value = do(pages.get(self.group, wire)) if pages.is_filled(key) else here(self._space.get, wire, MISSING)
        return default if value is MISSING else value

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        """The twin of `get`."""
        wire = self._wire(key, version)
        if pages.is_filled(key):
            value = await ado(pages.get(self.group, wire))
        else:
            value = await self._space.aget(wire, MISSING)
        return default if value is MISSING else value

    def get_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """Return the values of the keys that have one."""
        return do(self._get_many(keys, version))

    async def aget_many(self, keys: Iterable[Any], version: int | None = None) -> dict[Any, Any]:
        """The twin of `get_many`."""
        return await ado(self._get_many(keys, version))

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
        do(self._set(key, value, timeout, version, tags))

    async def aset(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> None:
        """The twin of `set`."""
        await ado(self._set(key, value, timeout, version, tags))

    def set_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> list[Any]:
        """Store values. Return the keys that could not be stored."""
        return do(self._set_many(data, timeout, version, tags))

    async def aset_many(
        self, data: Mapping[Any, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> list[Any]:
        """The twin of `set_many`."""
        return await ado(self._set_many(data, timeout, version, tags))

    def add(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> bool:
        """Store a value if there is none. Tell whether it is stored."""
        return do(self._add(key, value, timeout, version, tags))

    async def aadd(
        self, key: Any, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None, *, tags: Tags = ()
    ) -> bool:
        """The twin of `add`."""
        return await ado(self._add(key, value, timeout, version, tags))

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Add to a counter, and return it. Raise ValueError if there is none, and TypeError if it is not an int."""
        return do(self._incr(key, delta, version))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The twin of `incr`."""
        return await ado(self._incr(key, delta, version))

    def decr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Subtract from a counter, and return it. Raise ValueError if there is none, TypeError if it is not an int."""
        return do(self._incr(key, -delta, version))

    async def adecr(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The twin of `decr`."""
        return await ado(self._incr(key, -delta, version))

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Give a key another timeout. Tell whether it has a value."""
        return do(self._touch(key, timeout, version))

    async def atouch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """The twin of `touch`."""
        return await ado(self._touch(key, timeout, version))

    def incr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to a later version, and return that version. Raise ValueError if there is no value."""
        return do(self._incr_version(key, delta, version))

    async def aincr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The twin of `incr_version`."""
        return await ado(self._incr_version(key, delta, version))

    def decr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """Move a value to an earlier version, and return that version. Raise ValueError if there is no value."""
        return do(self._incr_version(key, -delta, version))

    async def adecr_version(self, key: Any, delta: int = 1, version: int | None = None) -> int:
        """The twin of `decr_version`."""
        return await ado(self._incr_version(key, -delta, version))

    # --- Deleting

    def delete(self, key: Any, version: int | None = None) -> bool:
        """Delete a key. Return when no process serves it any more, and tell whether it had a value."""
        return do(self._delete(key, version))

    async def adelete(self, key: Any, version: int | None = None) -> bool:
        """The twin of `delete`."""
        return await ado(self._delete(key, version))

    def delete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """Delete several keys at once. Return when no process serves them any more."""
        do(self._delete_many(keys, version))

    async def adelete_many(self, keys: Iterable[Any], version: int | None = None) -> None:
        """The twin of `delete_many`."""
        await ado(self._delete_many(keys, version))

    def clear(self) -> None:
        """Delete all keys that Django has in the group, also those of other aliases and prefixes."""
        do(self._clear())

    async def aclear(self) -> None:
        """The twin of `clear`."""
        await ado(self._clear())

    def close(self, **kwargs: Any) -> None:
        """Do nothing, because Django calls this after every request, and the process stays in the group."""

    async def aclose(self, **kwargs: Any) -> None:
        """The twin of `close`."""

    # --- For `invalidate_on_commit`

    def wires(self, keys: Iterable[Any], version: int | None = None) -> list[str]:
        """Return keys as they are in the group's namespace. After the key of a page comes that of its URL's headers."""
        return [self._wire(key, version) for key in pages.with_headers(keys)]

    # --- Plans

    def _get_many(self, keys: Iterable[Any], version: int | None) -> Plan[dict[Any, Any]]:
        wires = {self._wire(key, version): key for key in keys}
        found = yield step(self._space, "get_many", list(wires))
        return {wires[wire]: value for wire, value in found.items()}

    def _set(self, key: Any, value: Any, timeout: Any, version: int | None, tags: Tags) -> Plan[bool]:
        group, wire, ttl = self.group, self._wire(key, version), self._ttl(timeout)
        if ttl == 0:
            yield from self._delete_many([key], version)
            return True
        options = {"ttl": ttl, "tags": tags, "wait": "all" if group.wait else "stored"}
        if not pages.is_filled(key):
            kept: bool = yield step(self._space, "set", wire, value, **options)
            return kept
        headers = pages.headers_key(key)
        headers_wire = None if headers is None else self._wire(headers, version)
        return (yield from pages.set(group, key, wire, headers_wire, value, options))

    def _set_many(self, data: Mapping[Any, Any], timeout: Any, version: int | None, tags: Tags) -> Plan[list[Any]]:
        tags, ttl, values = tuple(tags), self._ttl(timeout), self.group.values
        if ttl == 0 or not data:
            yield from self._delete_many(data, version)
            return []
        if self.group.fence or any(map(pages.is_filled, data)):
            failed = []
            for key, value in data.items():
                if not (yield from self._set(key, value, timeout, version, tags)):
                    failed.append(key)
            return failed
        wires = {self._wire(key, version): key for key in data}
        if self.group.wait:  # with one wait for all of them, before they are stored; then there are no old values
            yield step(values, "invalidate", *wires)
        if (yield step(values, "set_many", {wire: data[key] for wire, key in wires.items()}, ttl=ttl, tags=tags)):
            return []
        found = yield step(values, "get_many", list(wires))
        return [key for wire, key in wires.items() if wire not in found]

    def _add(self, key: Any, value: Any, timeout: Any, version: int | None, tags: Tags) -> Plan[bool]:
        group, wire, ttl = self.group, self._wire(key, version), self._ttl(timeout)
        if group.cache.config.disabled:
            return True  # like the dummy backend. With False, sessions would look for another key for ever
        if ttl == 0:
            return (yield step(group.values, "get", wire, MISSING)) is MISSING
        added: bool = yield step(group.values, "add", wire, value, ttl=ttl, tags=tags)
        return added

    def _incr(self, key: Any, delta: int, version: int | None) -> Plan[int]:
        value = yield step(self.group.values, "incr", self._wire(key, version), delta)
        if value is None:
            raise ValueError(f"Key '{key}' not found, or the process that counts it does not answer")
        return value  # type: ignore[no-any-return]

    def _touch(self, key: Any, timeout: Any, version: int | None) -> Plan[bool]:
        ttl = self._ttl(timeout)
        if ttl == 0:
            return (yield from self._delete(key, version))
        touched: bool = yield step(self.group.values, "touch", self._wire(key, version), ttl=ttl)
        return touched

    def _incr_version(self, key: Any, delta: int, version: int | None) -> Plan[int]:
        if version is None:
            version = self.version
        value = yield step(self.group.values, "get", self._wire(key, version), MISSING)
        if value is MISSING:
            raise ValueError(f"Key '{key}' not found")
        yield from self._set(key, value, DEFAULT_TIMEOUT, version + delta, ())
        yield from self._delete(key, version)
        return version + delta

    def _delete(self, key: Any, version: int | None) -> Plan[bool]:
        values = self.group.values
        found = yield step(values, "get", self._wire(key, version), MISSING)
        yield from self._delete_many(
            [key], version
        )  # even if nothing is found, because another process may be about to set it
        return found is not MISSING

    def _delete_many(self, keys: Iterable[Any], version: int | None) -> Plan[None]:
        # In the fenced view, so that a request which missed a key and deletes it may set it.
        wires = self.wires(keys, version)
        pages.forget(self.group, wires)
        yield step(self.group.fenced, "invalidate", *wires, wait=self.group.wait)

    def _clear(self) -> Plan[None]:
        pages.forget(self.group)
        yield step(self.group.fenced, "clear", wait=self.group.wait)

    # --- Helpers

    def _wire(self, key: Any, version: int | None) -> str:
        """Return a key as it is in the group's namespace."""
        made = self.make_and_validate_key(key, version=version)
        return made if type(made) is str else str.__str__(made)

    def _ttl(self, timeout: Any) -> Any:
        """Return the ttl for a timeout."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if isinstance(timeout, int | float):
            return None if timeout > LONGEST else max(timeout, 0)
        return timeout

    @property
    def _space(self) -> Space:
        """The view of the group for all keys that are not always fenced."""
        return self.group.fenced if self.group.fence else self.group.values


def _loader(default: Any) -> Callable[[], Any]:
    return default if callable(default) else lambda: default
