"""Get and get-many: look for keys in this process, on the shelf, and on other hosts, and load nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from ..core.entry import MISSING
from ..core.host.hashes import key_hash
from ..core.host.record import Miss
from ..core.keys import Key
from ..host import Host
from ..hosts import Hosts
from . import fenced, fetch
from .drive import arun, run, why_not_to_wait
from .flow import Flow
from .keyspace import Keyspace
from .tally import tallies, tell

T = TypeVar("T")

AT_ONCE = 32  # records that are copied before the first of them is decoded, at most: each takes up to 1 MiB


def get(keyspace: Keyspace, key: Key, default: T) -> Any | T:
    """Return the value of a key; ``default`` if nobody has it. The caller has looked in the near cache.

    On the thread of an event loop, other hosts are not asked.
    """
    wire = keyspace.wire(key)
    host = keyspace.member.join()
    value = _find(keyspace, host, key, wire)
    if value is MISSING and host is not None and host.hosts is not None and not why_not_to_wait():
        value = run(_ask_owner(keyspace, host, host.hosts, key, wire))
    return _counted(keyspace, host, value, default)


async def aget(keyspace: Keyspace, key: Key, default: T) -> Any | T:
    """The twin of `get`, which asks other hosts in every case."""
    wire = keyspace.wire(key)
    host = keyspace.member.join()
    value = _find(keyspace, host, key, wire)
    if value is MISSING and host is not None and host.hosts is not None:
        value = await arun(_ask_owner(keyspace, host, host.hosts, key, wire))
    return _counted(keyspace, host, value, default)


def _counted(keyspace: Keyspace, host: Host | None, value: Any, default: T) -> Any | T:
    member = keyspace.member
    if value is MISSING:
        _count_misses(keyspace, 1, host)
        return default
    keyspace.counters.fetches += 1
    if tallies.get():
        tell(member, "fetches")
    return value


def _ask_owner(keyspace: Keyspace, host: Host, hosts: Hosts, key: Key, wire: bytes) -> Flow[Any]:
    """Ask the owner host for what this host does not have, and note its fence if there is no value.

    The fence that was noted before is this host's, which says nothing about what the owner host may have heard of.
    """
    owner = hosts.owner(wire)
    value, fence = yield from fetch.get(keyspace, host, hosts, owner, key, wire)
    if keyspace.fence and (owner is not None or value is not MISSING):
        if value is not MISSING:
            fenced.forget(keyspace.member.serial, [wire])
        else:
            fenced.note(keyspace.member.serial, wire, fenced.far(owner, fence) if owner and fence else fenced.nowhere())
    return value


def get_many(keyspace: Keyspace, keys: Iterable[Key], asks: bool = True) -> Flow[dict[Key, Any]]:
    """Return the values of those keys that anybody has; ``asks`` says whether other hosts are asked."""
    member, found, far = keyspace.member, dict[Key, Any](), list[tuple[Key, bytes]]()
    entries = keyspace.near[0]
    for key in keys:
        value = MISSING if type(key) is str and key not in entries else keyspace.hit(key)
        if value is MISSING:
            far.append((key, keyspace.wire(key)))  # before the process joins: it raises for what is no key
            found.setdefault(key, value)  # here, because the answer has the order of the keys
        else:
            found[key] = value
    if not far:
        return found
    host, fetched = member.join(), 0
    missed: list[tuple[Key, bytes]] = []
    for key, wire, value in _find_all(keyspace, host, far):
        if value is MISSING:
            missed.append((key, wire))
        else:
            found[key] = value
            fetched += 1
    if missed and asks and host is not None and host.hosts is not None:
        for key, value in (yield from _ask_owners(keyspace, host, host.hosts, missed)):
            if value is not MISSING:
                found[key] = value
                fetched += 1
    for key, _ in missed:
        if found.get(key) is MISSING:
            del found[key]
    if fetched:
        keyspace.counters.fetches += fetched
        tell(member, "fetches", fetched)
    if fetched < len(far):
        _count_misses(keyspace, len(far) - fetched, host)
    return found


def _ask_owners(
    keyspace: Keyspace, host: Host, hosts: Hosts, wanted: list[tuple[Key, bytes]]
) -> Flow[list[tuple[Key, Any]]]:
    if not keyspace.fence:
        return (yield from fetch.get_many(keyspace, host, hosts, wanted))
    found = []
    for key, wire in wanted:  # each with a fence of its own
        found.append((key, (yield from _ask_owner(keyspace, host, hosts, key, wire))))
    return found


def _find_all(
    keyspace: Keyspace, host: Host | None, wires: list[tuple[Key, bytes]]
) -> Iterator[tuple[Key, bytes, Any]]:
    """Do what `_find` does for many keys, with one look at the host for up to `AT_ONCE` of them.

    Each wire key stays with its own key. A dictionary would not do, because Python takes two keys for equal that hold
    one instant in two time zones, and they are different keys of the cache.
    """
    if keyspace.fence or host is None:
        yield from [(key, wire, _find(keyspace, host, key, wire)) for key, wire in wires]
        return
    find = host.shelf.find
    for start in range(0, len(wires), AT_ONCE):
        some, now = wires[start : start + AT_ONCE], host.now()
        records = [(key, wire, hash := key_hash(wire), find(wire, hash, now)) for key, wire in some]
        is_alive = host.alive  # in this order: see `Region.lives`
        for key, wire, hash, record in records:
            value = MISSING if record is None or not is_alive else keyspace.use(host, key, wire, hash, record)
            yield key, wire, value


def _find(keyspace: Keyspace, host: Host | None, key: Key, wire: bytes) -> Any:
    """Return the value that the shelf has; MISSING if it has none, or if this process cannot join, or decode it."""
    if keyspace.fence:
        return _find_or_fence(keyspace, host, key, wire)
    if host is None:
        return MISSING
    hash = key_hash(wire)
    record = host.shelf.find(wire, hash, host.now())
    if record is None or not host.alive:  # in this order: see `Region.lives`
        return MISSING
    return keyspace.use(host, key, wire, hash, record)


def _find_or_fence(keyspace: Keyspace, host: Host | None, key: Key, wire: bytes) -> Any:
    """Do what `_find` does, and note the fence under which what is computed instead may be set.

    There is one whatever the reason why nothing was found. Otherwise:

    1. P cannot join, and finds nothing. It reads the source: 0.
    2. W writes 1 to the source, and invalidates the key. P joins.
    3. P sets 0.
    """
    value, fence = MISSING, fenced.nowhere()
    if host is not None:
        hash, any_tag = key_hash(wire), host.any_tag()
        found = host.shelf.look(wire, hash, keyspace.hashes(), host.now())
        if isinstance(found, Miss):
            fence = fenced.Fence(host.region_id, found, any_tag)
        elif host.alive:  # in this order: see `Region.lives`
            value = keyspace.use(host, key, wire, hash, found)
    if value is MISSING:
        fenced.note(keyspace.member.serial, wire, fence)
    return value


def _count_misses(keyspace: Keyspace, misses: int, host: Host | None) -> None:
    member = keyspace.member
    if host is not None:
        member.is_found_on(host)
    keyspace.counters.misses += misses
    tell(member, "misses", misses)
