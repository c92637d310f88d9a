"""New lives for the caches of this process: for a test they begin anew, and afterwards they continue as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..cache import Cache
from ..config import Duration, parse_duration
from ..member import Member, all_members, in_tests


@contextmanager
def private() -> Iterator[None]:
    """Make all caches of this process private and empty. Afterwards their new content is dropped.

    This includes caches that were made before, for example in modules, and caches that are made inside. Afterwards the
    caches belong to their groups as before, with their old content, which nothing inside can see or change. Blocks
    may be nested, and each begins empty. A disabled cache stays disabled. One thread must enter and leave the block
    while no other thread uses a cache. It can also be a decorator.
    """
    with in_place_of_settings(private=True):
        yield


@contextmanager
def in_place_of_settings(**settings: Any) -> Iterator[None]:
    """Let all caches of this process begin anew, with these settings in place of their own."""
    outer, aside = dict(in_tests), [(member, member.set_aside()) for member in all_members()]
    _put_in_place(settings)
    try:
        yield
    finally:
        new = set(all_members()).difference(member for member, _ in aside)
        _put_in_place(outer)
        for member, life in aside:
            member.take_up(life)
        for member in new:
            member.leave()


def _put_in_place(settings: dict[str, Any]) -> None:
    in_tests.clear()
    in_tests.update(settings)


def travel(duration: Duration, *caches: Cache) -> None:
    """Move the clock of the private caches of this process forward, or that of the given caches.

    Their entries are older by this duration, and may expire. A set under a fence that is older than the load timeout by
    then is refused. Nothing but the caches notices this.

    ``duration`` is seconds, a `timedelta`, or a text such as ``"90s"`` or ``"1h30m"``. Raise ConfigError or TypeError
    if it is not a duration. Raise ValueError for a cache that is not private, and RuntimeError if no cache is private,
    because such caches share their content with other processes.
    """
    seconds = parse_duration(duration)
    shared = [cache for cache in caches if not _is_private(cache._member)]
    if shared:
        raise ValueError(f"{shared[0]!r} is not private, and the time of a group cannot be moved: use private() around")
    chosen = [cache._member for cache in caches] or [
        member for member in all_members() if _is_private(member) and not member.life.is_closed
    ]
    if not chosen and not in_tests.get("private"):
        raise RuntimeError("no cache of this process is private, and the time of a group cannot be moved")
    for member in chosen:
        host = member.own_host()
        if host is not None:
            host.age(seconds)


def _is_private(member: Member) -> bool:
    return member.config_to_join().private
