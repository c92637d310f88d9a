"""Invalidation after COMMIT. Nothing is invalidated before it, or after a rollback.

An invalidation inside a transaction is too early. Until COMMIT, a load reads the old rows, and caches them again.
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
from colocache.core.keys import canonical_form
from colocache.operations.keyspace import checked_tags, travelling

from .backend import ColocacheCache
from .groups import invalidate_tags_beside

F = TypeVar("F", bound=Callable[..., Any])

#: An alias of CACHES, a cache of Django, such as ``caches[alias]``, or a cache or namespace of colocache.
Invalidated: TypeAlias = "str | BaseCache | ConnectionProxy | Space"


def invalidate_on_commit(
    cache: Invalidated, *keys: Any, tags: Iterable[str] = (), using: str | None = None, version: int | None = None
) -> None:
    """Invalidate keys, and all entries with one of the tags, when the current transaction is committed.

    ``cache`` is an alias, such as ``"default"``. Then the keys are those of Django's cache interface, and ``version``
    is theirs. Or it is a `colocache.Cache` or one of its namespaces, with keys of its own. ``using`` is the alias of
    the database. Without a transaction the keys are invalidated at once. After a rollback of the transaction or the
    savepoint they are not invalidated.

    After the commit no process serves the old values. Trouble with the cache fails no request, but is logged. Raise
    TypeError or ValueError for keys and tags that cannot be used. In a test case that never commits, use
    ``captureOnCommitCallbacks(execute=True)``.
    """
    space, wires = _resolve(cache, keys, version)
    names = tuple(checked_tags(tags))
    travelling(names)  # because after COMMIT its TypeError would only be logged
    _on_commit(_Invalidation(space, wires, names, using), using)


async def ainvalidate_on_commit(
    cache: Invalidated, *keys: Any, tags: Iterable[str] = (), using: str | None = None, version: int | None = None
) -> None:
    """The twin of `invalidate_on_commit`. It runs in the thread that has Django's database connection."""
    await sync_to_async(invalidate_on_commit)(cache, *keys, tags=tags, using=using, version=version)


def invalidates(
    cache: Invalidated = "default",
    *,
    keys: Callable[..., Iterable[Any]] | Iterable[Any] = (),
    tags: Callable[..., Iterable[str]] | Iterable[str] = (),
    using: str | None = None,
) -> Callable[[F], F]:
    """Decorate a function or coroutine function: when it has succeeded, invalidate keys and tags on commit.

    ``keys`` and ``tags`` are tuples, or functions that make them of the function's arguments::

        @invalidates(keys=lambda user_id, name: [f"user:{user_id}"])
        def rename(user_id, name): ...

    If the function raises, nothing is invalidated. If it is called inside a transaction, the keys and tags are
    invalidated when that is committed, otherwise when the function returns. See `invalidate_on_commit`.
    """
    keys_of, tags_of = of_arguments(keys, "keys"), of_arguments(tags, "tags")

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
    """The keys and tags of one call, as the callback of a transaction.

    Successive ones of one transaction and space are a batch. After COMMIT the first of them invalidates the whole
    batch, and the others find nothing left. So a thousand saves in one transaction make one call.

    A callback inside a transaction was captured by a test. Tests call only the callbacks of their own part, perhaps
    several times. So such a callback invalidates only what is its own.
    """

    def __init__(self, space: Space | BaseCache, keys: list[Any], tags: tuple[str, ...], using: str | None) -> None:
        self.__qualname__ = "colocache.django.invalidate_on_commit"  # for Django's log
        self._space = space
        self._keys = keys
        self._tags = tags
        self._using = using
        self._batch = [self]

    def follow(self, other: _Invalidation) -> None:
        """Join another one's batch, if that is for the same space."""
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
        if not isinstance(self._space, Space):  # another backend, for example in tests
            self._space.delete_many(list(keys))
            invalidate_tags_beside(self._space, tags)
            return
        if keys:
            self._space.invalidate(*keys, wait="response")
        if tags:
            self._space.invalidate_tags(*tags, wait="response")


def _on_commit(invalidation: _Invalidation, using: str | None) -> None:
    """Register it to be called after COMMIT."""
    previous = _previous(transaction.get_connection(using))
    if previous is not None:
        invalidation.follow(previous)
    # Robust, because an exception would look as if the transaction were not committed.
    transaction.on_commit(invalidation, using=using, robust=True)


def _previous(connection: Any) -> _Invalidation | None:
    """Return the last registered callback, if it is one of ours and belongs to the same savepoints as the next one.

    Otherwise a rollback to a savepoint may remove one of them and leave the other.
    """
    waiting = getattr(connection, "run_on_commit", None)
    if not connection.in_atomic_block or not waiting:
        return None
    savepoints, callback, *_ = waiting[-1]
    # None stands for a block without a savepoint. It is rolled back with the block around it.
    stand_together = savepoints - {None} == set(connection.savepoint_ids) - {None}
    return callback if stand_together and isinstance(callback, _Invalidation) else None


def _resolve(cache: Any, keys: Iterable[Any], version: int | None) -> tuple[Space | BaseCache, list[Any]]:
    """Return the space or backend, and the keys in its form. Raise TypeError for what is not a cache or a key."""
    if isinstance(cache, Space):
        return cache, [canonical_form(key) for key in keys]
    backend = caches[cache] if isinstance(cache, str) else cache
    if isinstance(backend, ConnectionProxy):
        backend = caches[backend._alias]
    if isinstance(backend, ColocacheCache):
        return backend.group.values, backend.wires(keys, version)
    if isinstance(backend, BaseCache):
        return backend, list(keys)
    raise TypeError(f"a cache is an alias of CACHES, a cache of Django or of colocache, not {cache!r:.80}")


def of_arguments(what: Any, name: str) -> Callable[..., Iterable[Any]]:
    """Return a function that gives keys or tags of the arguments."""
    if callable(what):
        return what  # type: ignore[no-any-return]
    if isinstance(what, str):
        raise TypeError(f"{name} is a tuple, or a function of the arguments, not a text: write {name}=({what!r},)")
    fixed = tuple(what)
    return lambda *args, **kwargs: fixed
