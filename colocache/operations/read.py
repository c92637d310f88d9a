"""Get and get-many: look for keys level by level, and load nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Any

from ..core import keys as forms
from ..core.entry import MISSING, Entry
from ..core.group.fences import NO_FENCE
from ..core.group.outcomes import Fence, Seen
from ..core.keys import Key
from ..runtime.driver import Driver
from . import fenced
from .flow import Ahead, Command, Flow, Wait
from .keyspace import Keyspace
from .tally import tell

READS_AT_ONCE = 512  # keys in one question
QUESTIONS_AT_ONCE = 2  # of one call
FENCES_AT_ONCE = 256  # questions of one call under fences
NOT_SEEN = Seen({})
NOT_FENCED = Fence(None, b"", NO_FENCE)

Wanted = dict[bytes, Key]  # what is still looked for: keys as they travel, to keys as the user wrote them
Values = dict[bytes, Any]
Level = Callable[[Keyspace, Driver, Wanted], Flow[Values]]


def get(keyspace: Keyspace, key: Key, default: object) -> Flow[Any]:
    """Return the value of one key, or ``default``. The caller has looked in the near cache already."""
    if type(key) is not str:
        key = forms.canonical_form(key)
    found = yield from _search(keyspace, (key,), LEVELS[1:])
    return found.get(key, default)


def get_many(keyspace: Keyspace, keys: Iterable[Key]) -> Flow[dict[Key, Any]]:
    """Return the values of those keys that a level has."""
    return _search(keyspace, keys, LEVELS)


def _search(keyspace: Keyspace, keys: Iterable[Key], levels: Iterable[Level]) -> Flow[dict[Key, Any]]:
    """Ask each level for what those above it have not."""
    wanted, found, member = {forms.wire(keyspace.prefix, key): key for key in keys}, dict[Key, Any](), keyspace.member
    driver = member.join()
    for level in levels:
        if wanted and driver is not None:
            values = yield from level(keyspace, driver, wanted)
            found.update({wanted.pop(wire): value for wire, value in values.items()})
    misses = sum(key not in found for key in wanted.values())
    if misses:
        with member.counting:
            member.counters.misses += misses
        tell(member, "misses", misses)
    return found


def near_cache(keyspace: Keyspace, driver: Driver, wanted: Wanted) -> Flow[Values]:
    """Look in this process: the shard and the near copies that its readers find at once."""
    yield from ()
    values = {wire: keyspace.hit(key) for wire, key in wanted.items()}
    return {wire: value for wire, value in values.items() if value is not MISSING}


def group(keyspace: Keyspace, driver: Driver, wanted: Wanted) -> Flow[Values]:
    """Ask the owners of the keys."""
    entries = yield from (_fenced if keyspace.fence else _plain)(keyspace, driver, list(wanted))
    if entries:
        tell(keyspace.member, "fetches", len(entries))
    values: Values = {}
    for wire, entry in entries.items():
        try:
            values[wire] = keyspace.use(driver, wanted[wire], entry)
        except ValueError as error:
            keyspace.member.tell_undecodable(error)
    return values


#: Where a key is looked for, in this order. A call that may load goes on to its loader: see `load.load_or_wait`.
LEVELS: tuple[Level, ...] = (near_cache, group)


def _plain(keyspace: Keyspace, driver: Driver, wires: list[bytes]) -> Flow[Mapping[bytes, Entry]]:
    limit, entries = keyspace.member.config.fetch_timeout, dict[bytes, Entry]()
    if len(wires) <= READS_AT_ONCE:
        seen: Seen = yield Wait(driver, _peeking(wires), limit, NOT_SEEN)
        return seen.entries
    parts = [wires[start : start + READS_AT_ONCE] for start in range(0, len(wires), READS_AT_ONCE)]
    ahead = Ahead(driver, parts, _peeking, NOT_SEEN, QUESTIONS_AT_ONCE * limit, QUESTIONS_AT_ONCE)
    for _ in parts:
        seen = yield ahead.question()
        entries |= seen.entries
    return entries


def _peeking(wires: list[bytes]) -> Command:
    return lambda calls, ticket, now: calls.peek(ticket, wires, now)


def _fenced(keyspace: Keyspace, driver: Driver, wires: list[bytes]) -> Flow[Mapping[bytes, Entry]]:
    """Ask for the values with fences, and note the fences of those that nobody has."""
    member, entries = keyspace.member, dict[bytes, Entry]()
    ahead = Ahead(driver, wires, getting_fenced, NOT_FENCED, member.config.fetch_timeout, FENCES_AT_ONCE)
    for wire in wires:
        fence: Fence = yield ahead.question()
        if fence.entry is not None:
            entries[wire] = fence.entry
        else:
            fenced.note(member.serial, wire, fence, monotonic())
    return entries


def getting_fenced(wire: bytes) -> Command:
    """Return the question for what a key's owner has, with a fence."""
    return lambda calls, ticket, now: calls.get_fenced(ticket, wire, now)
