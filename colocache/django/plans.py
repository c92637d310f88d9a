"""What the methods of the cache backend do, sync and async: nothing here waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from colocache import MISSING, Space
from colocache.config import LONGEST_SECONDS

from . import groups, pages

Tags = Iterable[str]


class Plans(BaseCache):  # type: ignore[misc]  # Django has no types
    """What a backend does, for one group. `colocache.django.backend.ColocacheCache` is what users hold."""

    def __init__(self, location: object, params: Mapping[str, Any]) -> None:
        """Make a handle. Raise ImproperlyConfigured if LOCATION or OPTIONS cannot be used."""
        super().__init__({**params, "OPTIONS": {}})  # without OPTIONS, which in BaseCache limit the size of a dict
        self.group = groups.find(location, params.get("OPTIONS") or {})

    # --- For `invalidate_on_commit`

    def wires(self, keys: Iterable[Any], version: int | None = None) -> list[str]:
        """Return keys as they are in the group's namespace. After the key of a page comes that of its URL's headers."""
        return [self._wire(key, version) for key in pages.with_headers(keys)]

    # --- What the methods do

    def _get_many(self, keys: Iterable[Any], version: int | None) -> dict[Any, Any]:
        wires = {self._wire(key, version): key for key in keys}
        found: dict[Any, Any] = self._space.get_many(list(wires))
        return {wires[wire]: value for wire, value in found.items()}

    def _set(self, key: Any, value: Any, timeout: Any, version: int | None, tags: Tags) -> bool:
        group, wire, ttl = self.group, self._wire(key, version), self._ttl(timeout)
        if ttl == 0:
            self._delete_many([key], version)
            return True
        options = {"ttl": ttl, "tags": tags, "wait": "all" if group.wait else "stored"}
        if not pages.is_filled(key):
            kept: bool = self._space.set(wire, value, **options)
            return kept
        headers = pages.headers_key(key)
        headers_wire = None if headers is None else self._wire(headers, version)
        return pages.set(group, key, wire, headers_wire, value, options)

    def _set_many(self, data: Mapping[Any, Any], timeout: Any, version: int | None, tags: Tags) -> list[Any]:
        tags, ttl, values = tuple(tags), self._ttl(timeout), self.group.values
        if ttl == 0 or not data:
            self._delete_many(data, version)
            return []
        if self.group.fence or any(map(pages.is_filled, data)):
            failed = []
            for key, value in data.items():
                if not self._set(key, value, timeout, version, tags):
                    failed.append(key)
            return failed
        wires = {self._wire(key, version): key for key in data}
        if values.set_many({wire: data[key] for wire, key in wires.items()}, ttl=ttl, tags=tags):
            return []
        found = values.get_many(list(wires))
        return [key for wire, key in wires.items() if wire not in found]

    def _add(self, key: Any, value: Any, timeout: Any, version: int | None, tags: Tags) -> bool:
        group, wire, ttl = self.group, self._wire(key, version), self._ttl(timeout)
        if group.cache.config.disabled:
            return True  # like the dummy backend. With False, sessions would look for another key for ever
        if ttl == 0:
            return group.values.get(wire, MISSING) is MISSING
        added: bool = group.values.add(wire, value, ttl=ttl, tags=tags)
        return added

    def _incr(self, key: Any, delta: int, version: int | None) -> int:
        value = self.group.values.incr(self._wire(key, version), delta)
        if value is None:
            raise ValueError(f"Key '{key}' not found, or its lock was not to be had")
        return value

    def _touch(self, key: Any, timeout: Any, version: int | None) -> bool:
        ttl = self._ttl(timeout)
        if ttl == 0:
            return self._delete(key, version)
        touched: bool = self.group.values.touch(self._wire(key, version), ttl=ttl)
        return touched

    def _incr_version(self, key: Any, delta: int, version: int | None) -> int:
        if version is None:
            version = self.version
        value = self.group.values.get(self._wire(key, version), MISSING)
        if value is MISSING:
            raise ValueError(f"Key '{key}' not found")
        self._set(key, value, DEFAULT_TIMEOUT, version + delta, ())
        self._delete(key, version)
        return version + delta

    def _delete(self, key: Any, version: int | None) -> bool:
        values = self.group.values
        found = values.get(self._wire(key, version), MISSING)
        # Even if nothing is found, because another process may be about to set the key.
        self._delete_many([key], version)
        return found is not MISSING

    def _delete_many(self, keys: Iterable[Any], version: int | None) -> None:
        # In the fenced view, so that a request which missed a key and deletes it may set it.
        wires = self.wires(keys, version)
        pages.forget(self.group, wires)
        self.group.fenced.invalidate(*wires, wait=self.group.wait)

    def _clear(self) -> None:
        pages.forget(self.group)
        self.group.fenced.clear(wait=self.group.wait)

    # --- Helpers

    def _wire(self, key: Any, version: int | None) -> str:
        """Return a key as it is in the group's namespace."""
        made = self.make_and_validate_key(key, version=version)
        return made if type(made) is str else str.__str__(made)

    def _ttl(self, timeout: Any) -> Any:
        """Return the ttl for a timeout. One of more than a hundred years is for ever."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if isinstance(timeout, int | float):
            return None if timeout > LONGEST_SECONDS else max(timeout, 0)
        return timeout

    @property
    def _space(self) -> Space:
        """The view of the group for all keys that are not always fenced."""
        return self.group.fenced if self.group.fence else self.group.values
