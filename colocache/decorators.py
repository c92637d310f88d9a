"""`cached`: a function whose results are kept in the cache, by its arguments."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import date
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload
from uuid import UUID

from .core.announcements import Receipt
from .core.entry import MISSING
from .core.keys import Key
from .specialised import has_one_part, may_be_specialised, specialise

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")


class CacheInfo(NamedTuple):
    """What `functools.lru_cache` tells, of one function in this process."""

    hits: int  # calls answered at once, from what this process holds
    misses: int  # the other calls
    maxsize: int | None  # None: the bound is on the memory of the whole cache
    currsize: int  # results that this process can answer with at once


class Cached(Protocol[P, R]):
    """A decorated function. Of a method it is got by the class, and told the object: ``User.name.invalidate(user)``."""

    __wrapped__: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result; where nobody has it, call the function, once in the whole group."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Do what `Space.invalidate` does, for the call with these arguments."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Invalidate the call with these arguments, then call the function anew, and return the result."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """Return the key of the call with these arguments, within the function's own namespace."""

    def cache_info(self) -> CacheInfo:
        """Return this process's figures."""

    def cache_clear(self) -> Receipt:
        """Invalidate all results of the function, in the whole group."""

    def cache_parameters(self) -> dict[str, object]:
        """Return what the function was decorated with."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Cached[P, R]: ...
    @overload
    def __get__(self: Cached[Concatenate[Any, Q], R], instance: object, owner: Any = ..., /) -> Callable[Q, R]: ...


class AsyncCached(Protocol[P, R]):
    """A decorated coroutine function: what waits is one, too. See `Cached`."""

    __wrapped__: Callable[P, Coroutine[Any, Any, R]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """As `Cached.__call__`."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Receipt]:
        """As `Cached.invalidate`."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """As `Cached.refresh`."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """As `Cached.cache_key`."""

    def cache_info(self) -> CacheInfo:
        """As `Cached.cache_info`."""

    def cache_clear(self) -> Coroutine[Any, Any, Receipt]:
        """As `Cached.cache_clear`."""

    def cache_parameters(self) -> dict[str, object]:
        """As `Cached.cache_parameters`."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> AsyncCached[P, R]: ...
    @overload
    def __get__(
        self: AsyncCached[Concatenate[Any, Q], R], instance: object, owner: Any = ..., /
    ) -> Callable[Q, Coroutine[Any, Any, R]]: ...


class Space(Protocol):
    """What a decorated function needs of a namespace; see `colocache.space.Space`."""

    def _of_function(self, name: str, ttl: float | None, one_part: bool, function: Callable[..., Any]) -> Any:
        """Return a part of the space; ``one_part``: all of its keys are tuples of one part."""


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
        if key is not None and not callable(key):
            raise TypeError(f"key is a function that makes the key of a call from its arguments, not {key!r:.60}")
        self._key = key
        self._tags = tags if callable(tags) else tuple(_checked(tags))

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first that fits is meant
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> AsyncCached[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> Cached[P, R]: ...
    def __call__(self, function: Callable[P, Any]) -> Any:
        """Return the decorated function. Raises TypeError for what is not a function, ValueError for a lambda."""
        name = _name(function)
        one_part = self._key is None and has_one_part(inspect.signature(function))
        calls = _Calls(self._space._of_function(name, self._ttl, one_part, function), function, self._key, self._tags)
        wrapper: Any = _async(calls) if inspect.iscoroutinefunction(function) else _sync(calls)
        functools.update_wrapper(wrapper, function)
        wrapper.cache_key = calls.key
        wrapper.cache_info = calls.info
        wrapper.cache_parameters = lambda: {"maxsize": None, "typed": False, "ttl": self._ttl, "namespace": name}
        return wrapper


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
        kinds = {parameter.kind for parameter in self._signature.parameters.values()}
        # Any number of arguments by position, and some by name: without a place of their own, which is always there,
        # those by name would look like one more of the others.
        self._is_open = inspect.Parameter.VAR_POSITIONAL in kinds and bool(_NAMED & kinds)
        self.misses = 0

    def key(self, *args: Any, **kwargs: Any) -> Key:
        """Return the key of a call. ``f(1)`` and ``f(x=1)`` have the same, and so has one that spells out a default."""
        if self._custom is not None:
            return self._custom(*args, **kwargs)
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._key_of(bound.args, bound.kwargs)

    def _key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        """Return the key of a call whose arguments are in their places, with all defaults."""
        parts = tuple(map(self._part, args))
        named = tuple((name, self._part(kwargs[name])) for name in sorted(kwargs))
        return (*parts, named) if named or self._is_open else parts

    def _part(self, argument: Any) -> Any:
        """Return an argument as a part of a key: a class by its name, an object by what its ``__cache_key__`` gives."""
        kind = type(argument)
        if kind in _PLAIN:
            return argument
        if isinstance(argument, type):
            return _qualified(argument)
        own = getattr(kind, "__cache_key__", None)
        if own is None:
            raise TypeError(
                f"{self.function.__qualname__}() has an argument of the type {kind.__qualname__}, which cannot be part "
                "of a key: have its class define __cache_key__(self), a text that tells its objects apart in all "
                "processes, or give cached(key=...) a function that makes the key from the arguments"
            )
        return own(argument)

    def look(self, key: Key) -> Any:
        """Return what is served at once, or MISSING."""
        value = self.space._hit(key)
        self.misses += value is MISSING
        return value

    def wrap(self, miss: Callable[..., Any], *, waits: bool) -> Callable[..., Any]:
        """Return the wrapper, which calls ``miss(key, args, kwargs)`` for what it cannot serve by itself."""
        if self._custom is None and may_be_specialised(self._signature):

            def find_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return miss(self._key_of(args, kwargs), args, kwargs)

            async def afind_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return await miss(self._key_of(args, kwargs), args, kwargs)

            find = afind_key if waits else find_key
            return specialise(self.function, self._signature, self.space, find, waits=waits)

        def call(*args: Any, **kwargs: Any) -> Any:
            return miss(self.key(*args, **kwargs), args, kwargs)

        async def acall(*args: Any, **kwargs: Any) -> Any:
            return await miss(self.key(*args, **kwargs), args, kwargs)

        return acall if waits else call

    def info(self) -> CacheInfo:
        """Return this process's figures."""
        hits, size = self.space._counts()
        return CacheInfo(hits, self.misses, None, size)


def _sync(calls: _Calls) -> Callable[..., Any]:
    space, function, tags_of = calls.space, calls.function, calls.tags_of

    def miss(key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = calls.look(key)
        if value is not MISSING:
            return value
        return space.get_or_load(key, lambda: function(*args, **kwargs), tags=tags_of(*args, **kwargs))

    def refresh(*args: Any, **kwargs: Any) -> Any:
        key = calls.key(*args, **kwargs)
        space.invalidate(key)
        return space.get_or_load(key, lambda: function(*args, **kwargs), tags=tags_of(*args, **kwargs))

    def invalidate(*args: Any, **kwargs: Any) -> Receipt:
        return cast(Receipt, space.invalidate(calls.key(*args, **kwargs)))

    wrapper: Any = calls.wrap(miss, waits=False)
    wrapper.refresh, wrapper.invalidate, wrapper.cache_clear = refresh, invalidate, space.clear
    return cast("Callable[..., Any]", wrapper)


def _async(calls: _Calls) -> Callable[..., Awaitable[Any]]:
    space, function, tags_of = calls.space, calls.function, calls.tags_of

    async def miss(key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = calls.look(key)
        if value is not MISSING:
            return value
        return await space.aget_or_load(key, lambda: function(*args, **kwargs), tags=tags_of(*args, **kwargs))

    async def refresh(*args: Any, **kwargs: Any) -> Any:
        key = calls.key(*args, **kwargs)
        await space.ainvalidate(key)
        return await space.aget_or_load(key, lambda: function(*args, **kwargs), tags=tags_of(*args, **kwargs))

    async def invalidate(*args: Any, **kwargs: Any) -> Receipt:
        return cast(Receipt, await space.ainvalidate(calls.key(*args, **kwargs)))

    wrapper: Any = calls.wrap(miss, waits=True)
    wrapper.refresh, wrapper.invalidate, wrapper.cache_clear = refresh, invalidate, space.aclear
    return cast("Callable[..., Awaitable[Any]]", wrapper)


def _qualified(what: Any) -> str:
    """Return the name by which all processes know a function or class."""
    # Workers that were spawned run the script as __mp_main__.
    module = "__main__" if what.__module__ == "__mp_main__" else what.__module__
    return f"{module}:{what.__qualname__}"


def _name(function: Callable[..., Any]) -> str:
    """Return the name of a function. Raises TypeError and ValueError if its results cannot be cached by it."""
    if not inspect.isfunction(function):
        raise TypeError(f"cached() decorates functions, not {function!r}; put it below @classmethod and @staticmethod")
    if "<lambda>" in function.__qualname__:
        raise ValueError("cached() needs a name that is the same in all processes: write a def instead of a lambda")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function.__qualname__}() is a generator, whose result can be used once: return a list")
    name = _qualified(function)
    known = _known.setdefault(name, function.__code__.co_filename)
    if known != function.__code__.co_filename:
        warnings.warn(f"two functions are cached as {name}, and would get each other's results", stacklevel=3)
    return name


#: The files in which functions were decorated, by name.
_known: dict[str, str] = {}

#: The types that keys hold; whether a tuple does, `keys.wire` finds out.
_PLAIN = frozenset({str, int, bool, type(None), bytes, UUID, date, tuple})

_NAMED = frozenset({inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD})


def _checked(tags: Iterable[str]) -> Iterable[str]:
    if isinstance(tags, str):
        raise TypeError(f"tags is a tuple of texts, not a text: write tags=({tags!r},)")
    return tags
