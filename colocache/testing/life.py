"""The caches of this process for the length of a test: all of them begin anew, and go on afterwards as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..cache import Cache
from ..config import Duration, parse_duration
from ..member import Member, all_members, in_tests
from ..runtime.inline import InlineDriver


@contextmanager
def private() -> Iterator[None]:
    """Make all caches of this process private and empty, and throw away afterwards what they have come to hold.

    That is true of caches that were made before, in modules for example, and of those that are made inside. What they
    were members of before they are members of again afterwards; nothing of it is seen or changed inside. It may be
    nested: each level begins empty. A cache that is disabled stays so. It is to be entered and left by one thread
    while no other one uses a cache. Usable as a decorator, too.
    """
    with in_place_of_settings(private=True):
        yield


@contextmanager
def in_place_of_settings(**settings: Any) -> Iterator[None]:
    """Have all caches of this process begin anew, with these settings whatever they say themselves."""
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
    """Be as if so much time had passed for the private caches of this process, or for those that are given.

    What they hold is older by that: it expires, and fences and tokens of `Space.gets` lapse. A load under way is taken
    to have lasted too long: its caller gets the value, and it is not kept. No clock is changed, so nothing but the
    caches notices.

    ``duration`` is seconds, a `timedelta`, or text such as ``"90s"`` or ``"1h30m"``. Raises ConfigError or TypeError
    for what is no duration, ValueError for a cache that is not private, RuntimeError if no cache is: the others share
    what they hold with other processes.
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
        driver = member.own_driver()
        if isinstance(driver, InlineDriver):
            driver.age(seconds)


def _is_private(member: Member) -> bool:
    return member.config_to_join().private
