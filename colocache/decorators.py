"""`cached`: a function whose results are kept in the cache, by its arguments."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from .core.announcements import Receipt
from .core.keys import Key
from .core.store import MISSING

P = ParamSpec("P")
R = TypeVar("R")


class CacheInfo(NamedTuple):
    """What `functools.lru_cache` tells, of one function in this process."""

    hits: int  # calls answered at once, from what this process holds
    misses: int  # the other calls
    maxsize: int | None  # None: the bound is on the memory of the whole cache
    currsize: int  # results that this process can answer with at once


class Cached(Protocol, Generic[P, R]):
    """A decorated function. What waits is a coroutine function if the decorated one is."""

    __wrapped__: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result; where nobody has it, call the function, once in the whole group."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Do what `Space.invalidate` does for the call with these arguments; a Receipt, to be awaited if async."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Invalidate the call with these arguments, then call the function anew, and return the result."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """Return the key of the call with these arguments, within the function's own namespace."""

    def cache_info(self) -> CacheInfo:
        """Return this process's figures."""

    def cache_clear(self) -> Any:
        """Invalidate all results of the function, in the whole group; a Receipt, to be awaited if async."""

    def cache_parameters(self) -> dict[str, object]:
        """Return what the function was decorated with."""


class Space(Protocol):
    """What a decorated function needs of a namespace; see `colocache.cache.Space`."""

    def namespace(self, name: str, *, ttl: Any = ...) -> Any:
        """Return a part of the space."""


class Decorator:
    """What `Space.cached` returns: to be called with the function."""

    def __init__(
        self,
        space: Space,
        ttl: float | None,
        key: Callable[..., Key] | None,
        tags: Iterable[str] | Callable[..., Iterable[str]],
    ) -> None:
        self._space = space
        self._ttl = ttl
        self._key = key
        self._tags = tags if callable(tags) else tuple(_checked(tags))

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Cached[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Cached[P, R]: ...
    def __call__(self, function: Callable[P, Any]) -> Cached[P, Any]:
        """Return the decorated function. Raises TypeError for what is not a function, ValueError for a lambda."""
        name = _name(function)
        calls = _Calls(self._space.namespace(name, ttl=self._ttl), function, self._key, self._tags)
        wrapper: Any = _async(calls) if inspect.iscoroutinefunction(function) else _sync(calls)
        functools.update_wrapper(wrapper, function)
        wrapper.cache_key = calls.key
        wrapper.cache_info = calls.info
        wrapper.cache_parameters = lambda: {"maxsize": None, "typed": False, "ttl": self._ttl, "namespace": name}
        return cast("Cached[P, Any]", wrapper)


class _Calls:
    """One decorated function: how its calls become keys and tags."""

    def __init__(
        self, space: Any, function: Callable[..., Any], key: Callable[..., Key] | None,
        tags: tuple[str, ...] | Callable[..., Iterable[str]],
    ) -> None:  # fmt: skip
        self.space = space
        self.function = function
        self.tags_of: Callable[..., Iterable[str]] = tags if callable(tags) else lambda *args, **kwargs: tags
        self._signature = inspect.signature(function)
        self._custom = key
        self.misses = 0

    def key(self, *args: Any, **kwargs: Any) -> Key:
        """Return the key of a call. ``f(1)`` and ``f(x=1)`` have the same, and so has one that spells out a default."""
        if self._custom is not None:
            return self._custom(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        named = bound.kwargs
        parts = bound.args + ((tuple(sorted(named.items())),) if named else ())
        return tuple(map(_part, parts))

    def hit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Key]:
        """Return what is served at once, or MISSING; and the call's key."""
        key = self.key(*args, **kwargs)
        value = self.space._hit(key)
        self.misses += value is MISSING
        return value, key

    def info(self) -> CacheInfo:
        """Return this process's figures."""
        hits, size = self.space._counts()
        return CacheInfo(hits, self.misses, None, size)


def _sync(calls: _Calls) -> Callable[..., Any]:
    space, function, tags_of = calls.space, calls.function, calls.tags_of
    at_once, has_own_key = space._hit, calls._custom is not None

    def call(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and not has_own_key:
            value = at_once(args)  # where every argument is given by position, they are the key
            if value is not MISSING:
                return value
        value, key = calls.hit(args, kwargs)
        if value is not MISSING:
            return value
        return space.get_or_load(key, lambda: function(*args, **kwargs), tags=tags_of(*args, **kwargs))

    def refresh(*args: Any, **kwargs: Any) -> Any:
        key = calls.key(*args, **kwargs)
        space.invalidate(key)
        return space.get_or_load(key, lambda: function(*args, **kwargs), tags=tags_of(*args, **kwargs))

    def invalidate(*args: Any, **kwargs: Any) -> Receipt:
        return cast(Receipt, space.invalidate(calls.key(*args, **kwargs)))

    wrapper: Any = call
    wrapper.refresh, wrapper.invalidate, wrapper.cache_clear = refresh, invalidate, space.clear
    return call


def _async(calls: _Calls) -> Callable[..., Awaitable[Any]]:
    space, function, tags_of = calls.space, calls.function, calls.tags_of
    at_once, has_own_key = space._hit, calls._custom is not None

    async def call(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and not has_own_key:
            value = at_once(args)
            if value is not MISSING:
                return value
        value, key = calls.hit(args, kwargs)
        if value is not MISSING:
            return value
        return await space.aget_or_load(key, lambda: function(*args, **kwargs), tags=tags_of(*args, **kwargs))

    async def refresh(*args: Any, **kwargs: Any) -> Any:
        key = calls.key(*args, **kwargs)
        await space.ainvalidate(key)
        return await space.aget_or_load(key, lambda: function(*args, **kwargs), tags=tags_of(*args, **kwargs))

    async def invalidate(*args: Any, **kwargs: Any) -> Receipt:
        return cast(Receipt, await space.ainvalidate(calls.key(*args, **kwargs)))

    wrapper: Any = call
    wrapper.refresh, wrapper.invalidate, wrapper.cache_clear = refresh, invalidate, space.aclear
    return call


def _part(argument: Any) -> Any:
    """Return an argument as a part of a key: a class by its name, an object by what its ``__cache_key__()`` gives."""
    own = getattr(type(argument), "__cache_key__", None)
    if own is not None and not isinstance(argument, type):
        return own(argument)
    return f"{argument.__module__}:{argument.__qualname__}" if isinstance(argument, type) else argument


def _name(function: Callable[..., Any]) -> str:
    """Return the name by which all processes know a function."""
    if not inspect.isfunction(function):
        raise TypeError(f"cached() decorates functions, not {function!r}; put it below @classmethod and @staticmethod")
    if "<lambda>" in function.__qualname__:
        raise ValueError("cached() needs a name that is the same in all processes: write a def instead of a lambda")
    # Workers that were spawned run the script as __mp_main__.
    module = "__main__" if function.__module__ == "__mp_main__" else function.__module__
    name = f"{module}:{function.__qualname__}"
    known = _known.setdefault(name, function.__code__.co_filename)
    if known != function.__code__.co_filename:
        warnings.warn(f"two functions are cached as {name}, and would get each other's results", stacklevel=3)
    return name


#: The files in which functions were decorated, by name.
_known: dict[str, str] = {}


def _checked(tags: Iterable[str]) -> Iterable[str]:
    if isinstance(tags, str):
        raise TypeError(f"tags is a tuple of texts, not a text: write tags=({tags!r},)")
    return tags
