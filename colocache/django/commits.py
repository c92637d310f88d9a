"""Invalidation after COMMIT: nothing is announced before it, and nothing after a rollback.

Who invalidates inside a transaction does it too early: until COMMIT everybody who loads reads the old rows, and caches
them again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.db import transaction
from django.utils.connection import ConnectionProxy

from colocache import Space

from .backend import ColocacheCache
from .groups import invalidate_tags_beside

F = TypeVar("F", bound=Callable[..., Any])

#: An alias of CACHES; what ``caches[alias]`` gives, or ``cache``; or a cache or namespace of colocache itself.
Invalidated: TypeAlias = "str | BaseCache | ConnectionProxy | Space"


def invalidate_on_commit(
    cache: Invalidated, *keys: Any, tags: Iterable[str] = (), using: str | None = None, version: int | None = None
) -> None:
    """Invalidate keys, and all entries with one of the tags, when the transaction under way is committed.

    ``cache`` is an alias, such as ``"default"``, and then the keys are those of Django's cache interface, of
    ``version``; or a `colocache.Cache` or one of its namespaces, with keys of its own. ``using`` is the alias of the
    database, by default the default one. Outside of a transaction it is done at once; if the transaction, or the
    savepoint, is rolled back, never.

    It is waited for before the response, where `CacheMiddleware` is installed, and else until no process serves the old
    values. Trouble with the cache fails no request: it is logged, and members that cannot be reached are waited out.
    Raises TypeError and ValueError for what cannot be a key or a tag. In a test case that never commits, use
    ``captureOnCommitCallbacks(execute=True)``.
    """
    space, wires = _resolve(cache, keys, version)
    _on_commit(_Invalidation(space, wires, _names(tags), using), using)


async def ainvalidate_on_commit(
    cache: Invalidated, *keys: Any, tags: Iterable[str] = (), using: str | None = None, version: int | None = None
) -> None:
    """The twin of `invalidate_on_commit`, in the thread where Django has its database connection."""
    await sync_to_async(invalidate_on_commit)(cache, *keys, tags=tags, using=using, version=version)


def invalidates(
    cache: Invalidated = "default",
    *,
    keys: Callable[..., Iterable[Any]] | Iterable[Any] = (),
    tags: Callable[..., Iterable[str]] | Iterable[str] = (),
    using: str | None = None,
) -> Callable[[F], F]:
    """Decorate a function, or coroutine function, after whose success keys and tags are invalidated, on commit.

    ``keys`` and ``tags`` are tuples, or functions that make them of the function's arguments::

        @invalidates(keys=lambda user_id, name: [f"user:{user_id}"])
        def rename(user_id, name): ...

    Nothing is invalidated if the function raises. What it has committed by itself is invalidated when it returns; what
    is part of a larger transaction, when that is committed. See `invalidate_on_commit`.
    """
    keys_of, tags_of = _called(keys, "keys"), _called(tags, "tags")

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            invalidate_on_commit(cache, *keys_of(*args, **kwargs), tags=tags_of(*args, **kwargs), using=using)
            return result

        @functools.wraps(function)
        async def acall(*args: Any, **kwargs: Any) -> Any:
            result = await function(*args, **kwargs)
            await ainvalidate_on_commit(cache, *keys_of(*args, **kwargs), tags=tags_of(*args, **kwargs), using=using)
            return result

        return acall if inspect.iscoroutinefunction(function) else call  # type: ignore[return-value]

    return decorate


class _Invalidation:
    """What one call invalidates; the callback of a transaction.

    Those that follow each other in a transaction, of one space, are a batch. After COMMIT the first of them announces
    the whole batch, and the others find nothing left: a thousand saves in one transaction wait once. A callback that is
    called while the transaction is under way was captured by a test, which calls those of its own part only, and
    perhaps again. It announces what is its own.
    """

    def __init__(self, space: Space | BaseCache, keys: list[Any], tags: tuple[str, ...], using: str | None) -> None:
        self.__qualname__ = "colocache.django.invalidate_on_commit"  # for Django's log
        self._space = space
        self._keys = keys
        self._tags = tags
        self._using = using
        self._batch = [self]

    def follow(self, other: _Invalidation) -> None:
        """Become a part of the other's batch, if that is of the same space."""
        if other._space is self._space:
            self._batch = other._batch
            self._batch.append(self)

    def __call__(self) -> None:
        if transaction.get_connection(self._using).in_atomic_block:
            self._announce([self])
        else:
            pending = list(self._batch)
            self._batch.clear()
            self._announce(pending)

    def _announce(self, pending: list[_Invalidation]) -> None:
        keys = dict.fromkeys(key for each in pending for key in each._keys)
        tags = dict.fromkeys(tag for each in pending for tag in each._tags)
        if not isinstance(self._space, Space):  # another backend, as in tests
            self._space.delete_many(list(keys))
            invalidate_tags_beside(self._space, tags)
            return
        if keys:
            self._space.invalidate(*keys, wait="response")
        if tags:
            self._space.invalidate_tags(*tags, wait="response")


def _on_commit(invalidation: _Invalidation, using: str | None) -> None:
    """Have it called after COMMIT."""
    previous = _previous(transaction.get_connection(using))
    if previous is not None:
        invalidation.follow(previous)
    # Robust: the transaction is committed, and nothing that goes wrong now must look as if it were not.
    transaction.on_commit(invalidation, using=using, robust=True)


def _previous(connection: Any) -> _Invalidation | None:
    """Return the callback that is to be called last so far, if it is one of ours, and stands and falls with the next.

    A rollback to a savepoint may otherwise take the one and leave the other.
    """
    waiting = getattr(connection, "run_on_commit", None)
    if not connection.in_atomic_block or not waiting:
        return None
    savepoints, callback, *_ = waiting[-1]
    # None is of a block without a savepoint, which is rolled back with the one around it.
    stand_together = savepoints - {None} == set(connection.savepoint_ids) - {None}
    return callback if stand_together and isinstance(callback, _Invalidation) else None


def _resolve(cache: Any, keys: Iterable[Any], version: int | None) -> tuple[Space | BaseCache, list[Any]]:
    """Return where to invalidate, and the keys as they are there. Raises TypeError for what is no cache."""
    if isinstance(cache, Space):
        return cache, list(keys)
    backend = caches[cache] if isinstance(cache, str) else cache
    if isinstance(backend, ConnectionProxy):
        backend = caches[backend._alias]
    if isinstance(backend, ColocacheCache):
        return backend.group.values, backend.wires(keys, version)
    if isinstance(backend, BaseCache):
        return backend, list(keys)
    raise TypeError(f"a cache is an alias of CACHES, a cache of Django or of colocache, not {cache!r:.80}")


def _names(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError(f"tags is a tuple of texts, not a text: write tags=({tags!r},)")
    return tuple(tags)


def _called(what: Any, name: str) -> Callable[..., Iterable[Any]]:
    """Return a function that gives keys or tags."""
    if callable(what):
        return what  # type: ignore[no-any-return]
    if isinstance(what, str):
        raise TypeError(f"{name} is a tuple, or a function of the arguments, not a text: write {name}=({what!r},)")
    fixed = tuple(what)
    return lambda *args, **kwargs: fixed
