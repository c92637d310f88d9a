"""Set and set-many: store values, under a fence where the key was missed before."""

from __future__ import annotations

from collections.abc import Iterable

from ..core.host.hashes import key_hash, tag_hash
from ..core.host.record import Outcome
from ..core.keys import Key
from ..host import Host
from . import fenced
from .keyspace import Given, Keyspace
from .tally import tell

#: What is to be written: a wire key, its hash, and the payload; None if there is nothing to store.
_Write = tuple[bytes, int, bytes | None]


def put(keyspace: Keyspace, key: Key, value: object, given: Given, wait: str) -> bool:
    """Store a value; return whether it is stored. No process of this host serves an old value any more then."""
    if wait not in ("stored", "all"):
        raise ValueError(f"wait is 'stored' or 'all', not {wait!r}")
    wire = keyspace.wire(key)
    return _write(keyspace, [(wire, key_hash(wire), keyspace.encode(key, value, given))], given)


def put_many(keyspace: Keyspace, items: Iterable[tuple[Key, object]], given: Given) -> bool:
    """Do what `put` does for many values; return whether all are stored. Of equal keys the last one counts."""
    payloads = {keyspace.wire(key): keyspace.encode(key, value, given) for key, value in items}
    return _write(keyspace, [(wire, key_hash(wire), payload) for wire, payload in payloads.items()], given)


def _write(keyspace: Keyspace, writes: list[_Write], given: Given) -> bool:
    member, serial = keyspace.member, keyspace.member.serial

    def write(host: Host) -> bool:
        all_kept = True
        for wire, hash, payload in writes:
            fence = fenced.find(serial, wire) if keyspace.fence else None
            if fence is None:
                kept = _put(keyspace, host, wire, hash, payload, given)
            else:
                kept = payload is not None and put_missed(keyspace, host, wire, hash, payload, given, fence)
            all_kept = all_kept and kept
        return all_kept

    written = member.on_host(write)
    if written is None:
        member.tell_not_announced()
        return False
    host, all_kept = written
    if keyspace.fence:
        fenced.forget(serial, [wire for wire, _, _ in writes])
    host.tell([hash for _, hash, _ in writes])
    tell(member, "sets", len(writes), host)
    return all_kept


def _put(keyspace: Keyspace, host: Host, wire: bytes, hash: int, payload: bytes | None, given: Given) -> bool:
    if payload is None or given.ttl == 0:
        host.board.invalidate((hash,))  # there is nothing to store, and the old value must go nevertheless
        return False
    outcome, _ = host.shelf.set(wire, hash, payload, keyspace.hashes(given.tags), host.now() + given.ttl)
    keyspace.member.count_write(outcome)
    return outcome is Outcome.STORED


def put_missed(
    keyspace: Keyspace, host: Host, wire: bytes, hash: int, payload: bytes, given: Given, fence: fenced.Fence
) -> bool:
    """Store a value if its key had no event since it was missed; return whether it is stored."""
    now, miss = host.now(), fence.miss
    if now > miss.at + keyspace.member.config.load_timeout:
        # This thread may have missed the key for another purpose long ago, and write it now. So not even the old value
        # can stay.
        host.board.invalidate((hash,))
        return False
    if given.ttl == 0 or fence.region_id != host.region_id:
        return False
    if given.tags:  # nobody knew them when the key was missed
        # First their stamps, and then whether any tag was invalidated since. An event of a tag is seen by one of the
        # two: it stamps all tags together first, and then the tag.
        miss = miss._replace(label=miss.label + host.board.label(map(tag_hash, given.tags)))
        host.fences.order()
        if host.any_tag() != fence.any_tag:
            return False
    outcome, _ = host.shelf.set_fenced(wire, hash, payload, miss, now + given.ttl)
    keyspace.member.count_write(outcome)
    return outcome is Outcome.STORED
