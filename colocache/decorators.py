"""`cached`: a decorated function. The cache keeps its results by its arguments."""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from inspect import Parameter
from types import FunctionType
from typing import Any, Concatenate, NamedTuple, Never, ParamSpec, Protocol, TypeVar, overload

from .config import UNSET
from .core.entry import MISSING
from .core.keys import Key
from .core.receipt import Receipt
from .functions.arguments import Arguments
from .functions.binding import Method, in_class
from .functions.specialised import has_one_part, may_be_specialised, specialise
from .functions.surroundings import layers
from .interruptions import raise_if_from_handler
from .operations import invalidate
from .operations.audit import Audited, is_safe
from .operations.drive import arun, finish, run
from .operations.flow import Flow
from .operations.keyspace import Keyspace, Ttl, checked_tags
from .operations.load import get_or_load

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")

#: For type checkers: mypy takes it for true, and pyright for false. A classmethod is reached by its class, and so by
#: ``__get__(None, ...)``. The two infer its type from different forms of one overload, and each rejects the other's.
MYPY = False


class CacheInfo(NamedTuple):
    """What `functools.lru_cache` tells about one function, here in this process."""

    hits: int  # calls answered at once, from what this process holds
    misses: int  # the other calls
    maxsize: int | None  # None: the bound is on the memory of the whole cache
    currsize: int  # results that this process can answer with at once


class Cached(Protocol[P, R]):
    """A decorated function. As an attribute of an object or class it is bound, and so are its methods."""

    __wrapped__: Callable[P, R]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the cached result. If nobody has it, call the function, once in the whole group."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Do what `Space.invalidate` does for the call with these arguments."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Invalidate the call with these arguments, call the function anew, and return its result."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """Return the key of the call with these arguments, within the function's own namespace."""

    def cache_info(self) -> CacheInfo:
        """Return this process's figures."""

    def cache_clear(self) -> Receipt:
        """Invalidate all results of the function, of all objects if it is a method, in the whole group."""

    def cache_parameters(self) -> dict[str, object]:
        """Return what the function was decorated with."""

    if not MYPY:

        @overload
        def __get__(self: Cached[Concatenate[type[T], Q], R], instance: None, owner: type[T], /) -> Cached[Q, R]: ...

    @overload
    def __get__(  # type: ignore[misc]  # a classmethod's
        self: Callable[Concatenate[type[T], Q], R], instance: None, owner: type[T], /
    ) -> Cached[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Cached[P, R]: ...
    @overload
    def __get__(self: Cached[Concatenate[Any, Q], R], instance: object, owner: Any = ..., /) -> Cached[Q, R]: ...


class AsyncCached(Protocol[P, R]):
    """A decorated coroutine function. Its methods that wait are coroutine functions, too; see `Cached`."""

    __wrapped__: Callable[P, Coroutine[Any, Any, R]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Do what `Cached.__call__` does."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Receipt]:
        """Do what `Cached.invalidate` does."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Do what `Cached.refresh` does."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """Do what `Cached.cache_key` does."""

    def cache_info(self) -> CacheInfo:
        """Do what `Cached.cache_info` does."""

    def cache_clear(self) -> Coroutine[Any, Any, Receipt]:
        """Do what `Cached.cache_clear` does."""

    def cache_parameters(self) -> dict[str, object]:
        """Do what `Cached.cache_parameters` does."""

    if not MYPY:

        @overload
        def __get__(
            self: AsyncCached[Concatenate[type[T], Q], R], instance: None, owner: type[T], /
        ) -> AsyncCached[Q, R]: ...

    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[T], Q], Coroutine[Any, Any, R]], instance: None, owner: type[T], /
    ) -> AsyncCached[Q, R]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> AsyncCached[P, R]: ...
    @overload
    def __get__(
        self: AsyncCached[Concatenate[Any, Q], R], instance: object, owner: Any = ..., /
    ) -> AsyncCached[Q, R]: ...


class Decorator:
    """What `Space.cached` returns. It is called with the function."""

    def __init__(
        self,
        keyspace: Keyspace,
        ttl: Ttl,
        key: Callable[..., Key] | None = None,
        tags: Iterable[str] | Callable[..., Iterable[str]] = (),
        ignore: Iterable[str] = (),
        name: str | None = None,
        audit: bool | None = None,
    ) -> None:
        self._keyspace = keyspace
        self._ttl = keyspace.seconds(ttl)
        if key is not None and not callable(key):
            raise TypeError(f"key is a function that makes the key of a call from its arguments, not {key!r:.60}")
        self._key = key
        self._tags = tags if callable(tags) else tuple(checked_tags(tags))
        self._ignore = ignore if isinstance(ignore, str) else tuple(ignore)
        if key is not None and self._ignore:
            raise TypeError("ignore and key cannot both be given: key makes the whole key")
        if name is not None and (not isinstance(name, str) or not name or name != name.strip("/")):
            raise ValueError(f"name is a non-empty text that neither begins nor ends with '/': {name!r}")
        self._name = name
        if audit is not None and not isinstance(audit, bool):
            raise TypeError(f"audit is True or False, or None, not {audit!r:.60}")
        self._audit = audit

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first that fits counts: this one, if it returns Any
        self, function: Callable[P, Never], /
    ) -> Cached[P, Any]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCached[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Cached[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Return the decorated function.

        Raise TypeError for what is not a function. Raise ValueError for a function that has no name of its own: a
        lambda, or one of two functions that would get each other's results.
        """
        plain = _function(function, self._name)
        arguments = Arguments(plain, self._ignore)
        one_part = self._key is None and has_one_part(arguments.kept)
        may_be_audited = self._key is None and is_safe(plain, arguments) if self._audit is None else self._audit
        sample = self._keyspace.member.sample if may_be_audited else None
        keyspace, name = self._keyspace.of_function(plain, self._name, self._ttl, one_part, sample)
        calls = _Calls(keyspace, plain, arguments, self._key, self._tags, bool(self._audit))
        wrapper: Any = functools.update_wrapper(_async(calls) if _is_async(plain) else _sync(calls), plain)
        for attribute, value in calls.methods().items():  # last: a function may have attributes of these names
            setattr(wrapper, attribute, value)
        wrapper.cache_parameters = lambda: {"maxsize": None, "typed": False, "ttl": self._ttl, "namespace": name}
        return in_class(wrapper, plain) if _is_method(plain) else wrapper


class _Calls:
    """One decorated function: how its calls become keys and tags, and how they are invalidated."""

    def __init__(
        self, keyspace: Keyspace, function: FunctionType, arguments: Arguments, key: Callable[..., Key] | None,
        tags: tuple[str, ...] | Callable[..., Iterable[str]], is_surely_audited: bool,
    ) -> None:  # fmt: skip
        self.keyspace = keyspace
        self.function = function
        self.tags_of: Callable[..., Iterable[str]]
        is_specialised = key is None and may_be_specialised(arguments.signature)
        if not callable(tags):
            self.tags_of = lambda *args, **kwargs: tags
        elif is_specialised:  # it gives all arguments, in their places
            self.tags_of = _tags_of(tags, arguments.signature, function)
        else:
            self.tags_of = tags
        key_of_call: Callable[..., Key] = arguments.key if key is None else key
        self.key = key_of_call
        self.key_of = arguments.key_of if is_specialised else lambda args, kwargs: key_of_call(*args, **kwargs)
        self.misses = 0
        self._arguments = arguments
        self._is_specialised = is_specialised
        self._inner = _inner(function)
        waits = _is_async(function)
        self.load = function if waits else _awaiting_nothing(function)
        self.audited: Audited | None = None  # as the auditor sees it
        if keyspace.sample is not None:
            self.audited = Audited(
                keyspace, self.key_of, self.tags_of, self.load, waits=waits, is_sure=is_surely_audited
            )

    def loading(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[Any]:
        """Return the flow that gets or loads the result of a call."""
        audited, given = self.audited, self.keyspace.given(UNSET, self.tags_of(*args, **kwargs))
        on_found = None if audited is None else partial(audited.on_fetch, key, args, kwargs)
        return get_or_load(self.keyspace, key, lambda: self.load(*args, **kwargs), given, on_found)

    def wrap(self, miss: Callable[..., Any], *, waits: bool) -> Callable[..., Any]:
        """Return the wrapper. It calls ``miss(args, kwargs)`` for what it cannot serve by itself."""
        arguments = self._arguments
        if self._is_specialised:
            return specialise(
                self.function, arguments.signature, arguments.kept, self.keyspace, miss, waits=waits,
                is_audited=self.audited is not None,
            )  # fmt: skip

        def call(*args: Any, **kwargs: Any) -> Any:
            return miss(args, kwargs)

        async def acall(*args: Any, **kwargs: Any) -> Any:
            return await miss(args, kwargs)

        return acall if waits else call

    def info(self) -> CacheInfo:
        """Return this process's figures."""
        host = self.keyspace.member.own_host()
        if host is not None:
            # Otherwise the hits of a copy that another one has just replaced would be missing, and what was just
            # invalidated would be counted.
            host.keeper.sweep()
        return CacheInfo(self.keyspace.home.hits(), self.misses, None, len(self.keyspace.near[0]))

    def methods(self) -> dict[str, Any]:
        """Return what the decorated function offers beside the call."""
        offered = _async_methods(self) if _is_async(self.function) else _sync_methods(self)
        return {**offered, "cache_key": self.key, "cache_info": self.info, "_cc_calls": self}

    # A function that is decorated twice is cached twice. The inner cache is invalidated first. In the other order, the
    # outer cache could be filled with what the inner one still holds.

    def invalidate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow[Receipt]:
        """Invalidate one call, in all caches of the function."""
        inner = (yield from self._inner.invalidate(args, kwargs)) if self._inner is not None else None
        return _both(inner, (yield from invalidate.keys(self.keyspace, (self.key(*args, **kwargs),), True, False)))

    def clear(self) -> Flow[Receipt]:
        """Invalidate all calls, in all caches of the function."""
        inner = (yield from self._inner.clear()) if self._inner is not None else None
        return _both(inner, (yield from invalidate.all_keys(self.keyspace, True, False)))

    def finish(self, flow: Flow[Receipt]) -> Receipt:
        """Drive an invalidation in this thread."""
        return finish(flow, self.may_wait)

    @property
    def may_wait(self) -> bool:
        """Whether an invalidation may have to wait for other hosts, of one of the caches of the function."""
        return self.keyspace.member.may_wait or (self._inner is not None and self._inner.may_wait)


def _tags_of(
    tags: Callable[..., Iterable[str]], signature: inspect.Signature, function: FunctionType
) -> Callable[..., Iterable[str]]:
    """Return a function that gives the tags of a call, and passes its arguments to ``tags`` as ``tags`` takes them.

    That is by position, or by name if ``tags`` cannot take all by position, as in ``lambda sku, **rest: ...``. Raise
    TypeError if ``tags`` can take them in neither way.
    """
    try:
        own = inspect.signature(tags)
    except (TypeError, ValueError) as error:  # a built-in function that does not tell
        raise_if_from_handler(error)
        return tags
    names: dict[Any, list[str]] = defaultdict(list)
    for each in signature.parameters.values():
        names[each.kind].append(each.name)
    by_position = [*names[Parameter.POSITIONAL_ONLY], *names[Parameter.POSITIONAL_OR_KEYWORD]]
    by_name = dict.fromkeys(names[Parameter.KEYWORD_ONLY])
    if _takes(own, by_position, by_name) or names[Parameter.VAR_POSITIONAL]:
        return tags
    if names[Parameter.POSITIONAL_ONLY] or not _takes(own, (), dict.fromkeys(by_position) | by_name):
        raise TypeError(
            f"tags of {function.__qualname__}{signature} is a function that does not take these arguments: {own}. Give "
            "it the same parameters, or others by *rest or **rest"
        )

    def named(*args: Any, **kwargs: Any) -> Iterable[str]:
        return tags(**dict(zip(by_position, args, strict=False)), **kwargs)

    return named


def _takes(signature: inspect.Signature, args: Iterable[str], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise_if_from_handler(error)
        return False
    return True


def _both(inner: Receipt | None, outer: Receipt) -> Receipt:
    """Return one receipt for two invalidations."""
    if inner is None:
        return outer
    acknowledged = tuple(dict.fromkeys((*inner.acknowledged, *outer.acknowledged)))
    waited_out = tuple(dict.fromkeys((*inner.waited_out, *outer.waited_out)))
    forgotten = tuple(dict.fromkeys((*inner.forgotten, *outer.forgotten)))
    return Receipt(
        acknowledged, waited_out, inner.complete and outer.complete, inner.seconds + outer.seconds,
        max(inner.hosts, outer.hosts), forgotten, max(inner.processes, outer.processes), inner.dropped + outer.dropped,
    )  # fmt: skip


def _inner(function: FunctionType) -> _Calls | None:
    """Return the calls of the decorated function that a function wraps; None if it wraps none."""
    return next((calls for layer in layers(function) if (calls := getattr(layer, "_cc_calls", None)) is not None), None)


def _sync(calls: _Calls) -> Callable[..., Any]:
    key_of, hit, audited = calls.key_of, calls.keyspace.hit, calls.audited

    def miss(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = key_of(args, kwargs)
        value = hit(key)
        if value is not MISSING:
            if audited is not None:
                audited.on_hit(key, args, kwargs)
            return value
        calls.misses += 1
        return run(calls.loading(key, args, kwargs))

    return calls.wrap(miss, waits=False)


def _sync_methods(calls: _Calls) -> dict[str, Any]:
    def invalidate(*args: Any, **kwargs: Any) -> Receipt:
        return calls.finish(calls.invalidate(args, kwargs))

    def clear() -> Receipt:
        return calls.finish(calls.clear())

    def refresh(*args: Any, **kwargs: Any) -> Any:
        invalidate(*args, **kwargs)
        return run(calls.loading(calls.key(*args, **kwargs), args, kwargs))

    return {"refresh": refresh, "invalidate": invalidate, "cache_clear": clear}


def _awaiting_nothing(function: FunctionType) -> Callable[..., Any]:
    def load(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        if inspect.isawaitable(value):
            raise _not_awaited(function, value)
        return value

    return load


def _not_awaited(function: FunctionType, value: object) -> TypeError:
    if inspect.iscoroutine(value):
        value.close()  # it will never run: no warning beside the error
    return TypeError(
        f"{function.__qualname__}() returns something that is to be awaited, and is not known as a coroutine function: "
        "write it as async def, or have its decorators use functools.wraps or inspect.markcoroutinefunction"
    )


def _async(calls: _Calls) -> Callable[..., Awaitable[Any]]:
    key_of, hit, audited = calls.key_of, calls.keyspace.hit, calls.audited

    async def miss(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = key_of(args, kwargs)
        value = hit(key)
        if value is not MISSING:
            if audited is not None:
                audited.on_hit(key, args, kwargs)
            return value
        calls.misses += 1
        return await arun(calls.loading(key, args, kwargs))

    return calls.wrap(miss, waits=True)


def _async_methods(calls: _Calls) -> dict[str, Any]:
    async def invalidate(*args: Any, **kwargs: Any) -> Receipt:
        return await arun(calls.invalidate(args, kwargs))

    async def refresh(*args: Any, **kwargs: Any) -> Any:
        await invalidate(*args, **kwargs)
        return await arun(calls.loading(calls.key(*args, **kwargs), args, kwargs))

    async def cache_clear() -> Receipt:
        return await arun(calls.clear())

    return {"refresh": refresh, "invalidate": invalidate, "cache_clear": cache_clear}


# --- What is decorated


def _function(function: Any, name: str | None) -> FunctionType:
    """Return the function to decorate. Raise TypeError or ValueError if its results cannot be cached."""
    if isinstance(function, Method):
        function = function.func
    if not inspect.isfunction(function):
        raise TypeError(
            f"cached() decorates functions, not {function!r}; put it below @classmethod and @staticmethod. For another "
            "object that can be called, write a def that calls it"
        )
    if name is None and "<lambda>" in function.__qualname__:
        raise ValueError(
            "cached() needs a name that is the same in all processes: write a def instead of a lambda, or give name=..."
        )
    if any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in layers(function)):
        raise TypeError(f"{function.__qualname__}() is a generator, whose result can be used once: return a list")
    return function


def _is_async(function: FunctionType) -> bool:
    """Tell whether a function is a coroutine function, or wraps one and only passes the call on."""
    return any(
        inspect.iscoroutinefunction(each) or getattr(each, "_is_coroutine", None) is not None  # before Python 3.12
        for each in layers(function)
    )


def _is_method(function: FunctionType) -> bool:
    """Tell whether a function is defined in a class, or looks as if an object will bind it."""
    outside = function.__qualname__.rpartition(".")[0]
    parameters = function.__code__.co_varnames[: function.__code__.co_argcount]
    return bool(outside and not outside.endswith("<locals>")) or parameters[:1] in (("self",), ("cls",))
