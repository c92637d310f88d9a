"""Set and set-many: store values, under a fence where the key was missed before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from time import monotonic

from ..core.host.hashes import WRITES, key_hash, tag_hash
from ..core.host.record import Outcome
from ..core.hosts.requests import Done, Put, PutFenced, Request
from ..core.hosts.requests import Key as FarKey
from ..core.hosts.rows import Incarnation
from ..core.keys import Key
from ..host import Host
from ..hosts import WRITE_TIMEOUT, Hosts
from . import fenced
from .flow import Flow
from .keyspace import Given, Keyspace
from .tally import tell

#: What is to be written: a wire key, its hash, and the payload; None if there is nothing to store.
_Write = tuple[bytes, int, bytes | None]


def put(keyspace: Keyspace, key: Key, value: object, given: Given, wait: str) -> Flow[bool]:
    """Store a value; return whether it is stored. No process of this host serves an old value any more then."""
    if wait not in ("stored", "all"):
        raise ValueError(f"wait is 'stored' or 'all', not {wait!r}")
    wire = keyspace.wire(key)
    writes = [(wire, key_hash(wire), keyspace.encode(key, value, given))]
    return (yield from _write(keyspace, writes, given, wait == "all"))


def put_many(keyspace: Keyspace, items: Iterable[tuple[Key, object]], given: Given) -> Flow[bool]:
    """Do what `put` does for many values; return whether all are stored. Of equal keys the last one counts."""
    payloads = {keyspace.wire(key): keyspace.encode(key, value, given) for key, value in items}
    writes = [(wire, key_hash(wire), payload) for wire, payload in payloads.items()]
    return (yield from _write(keyspace, writes, given, False))


def _write(keyspace: Keyspace, writes: list[_Write], given: Given, waits: bool) -> Flow[bool]:
    member, serial = keyspace.member, keyspace.member.serial
    host = member.join()
    hosts = host.hosts if host is not None else None
    here, far = _sorted_out(hosts, writes)

    def write(host: Host) -> bool:
        all_kept = True
        if host.hosts is not None and host.hosts.is_client:  # no owner can be asked, or there is nothing to store
            if here:
                host.void([hash for _, hash, _ in here])
            return not here
        for wire, hash, payload in here:
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
    if hosts is not None and far:
        all_kept = (yield from _put_far(keyspace, host, hosts, far, given, waits)) and all_kept
    if keyspace.fence:
        fenced.forget(serial, [wire for wire, _, _ in writes])
    host.tell([hash for _, hash, _ in writes])
    tell(member, "sets", len(writes), host)
    if hosts is not None and here and waits:
        all_kept = (yield from hosts.settle(hosts.lasts(), member.patience(math.inf))).complete and all_kept
    return all_kept


def _sorted_out(hosts: Hosts | None, writes: list[_Write]) -> tuple[list[_Write], list[tuple[Incarnation, _Write]]]:
    """Return what is written on this host, and what on which other one."""
    if hosts is None:
        return writes, []
    here, far = list[_Write](), list[tuple[Incarnation, _Write]]()
    for each in writes:
        owner = hosts.owner(each[0]) if each[2] is not None else None
        if owner is None:
            here.append(each)
        else:
            far.append((owner, each))
    return here, far


def _put_far(
    keyspace: Keyspace, host: Host, hosts: Hosts, far: list[tuple[Incarnation, _Write]], given: Given, waits: bool
) -> Flow[bool]:
    """Have other hosts store what they own. What they do not store is invalidated on all hosts."""
    member, asked, kept = keyspace.member, list[tuple[Incarnation, Request]](), True
    fences = [fenced.find(member.serial, wire) if keyspace.fence else None for _, (wire, _, _) in far]
    for (owner, (wire, _, payload)), fence in zip(far, fences, strict=True):
        assert payload is not None
        if fence is None:
            asked.append((owner, Put(FarKey(wire, keyspace.hashes(given.tags)), payload, given.ttl, waits)))
        elif fence.region_id == owner and monotonic() <= fence.miss.at + member.config.load_timeout:
            tags = tuple(map(tag_hash, given.tags))
            asked.append((owner, PutFenced(FarKey(wire, keyspace.hashes()), payload, given.ttl, fence.far, tags)))
        else:
            kept = False
    timeout = hosts.times.waited / 1e9 + WRITE_TIMEOUT if waits else WRITE_TIMEOUT
    answers = (yield from hosts.ask_several(asked, timeout)) if asked else []
    lost: list[int] = []
    for (_, request), answer in zip(asked, answers, strict=True):
        hash = key_hash(request.key.wire)  # type: ignore[union-attr]
        outcome = _outcome(answer)
        keyspace.count_write(outcome)
        kept = kept and outcome is Outcome.STORED and isinstance(answer, Done) and (answer.complete or not waits)
        if outcome is Outcome.STORED:
            host.board.invalidate((hash ^ WRITES,))  # this host hears of it later, and its caller has returned
            yield from hosts.until_told(answer)
        elif outcome is not Outcome.REFUSED or isinstance(request, Put):
            lost.append(hash)
    if lost and host.void(lost) is None:
        member.tell_not_announced()
    return kept


def _outcome(answer: object) -> Outcome:
    """Return what has become of a write on another host; what is not known counts as busy."""
    return Outcome.__members__.get(answer.outcome, Outcome.BUSY) if isinstance(answer, Done) else Outcome.BUSY


def _put(keyspace: Keyspace, host: Host, wire: bytes, hash: int, payload: bytes | None, given: Given) -> bool:
    if payload is None or given.ttl == 0:
        host.void((hash,))  # there is nothing to store, and the old value must go nevertheless
        return False
    outcome, _ = host.shelf.set(wire, hash, payload, keyspace.hashes(given.tags), host.now() + given.ttl)
    keyspace.count_write(outcome)
    if host.hosts is not None:
        if outcome is Outcome.STORED:
            host.hosts.written(wire)
        else:
            host.void((hash,))  # the shelf has done so for this host alone
    return outcome is Outcome.STORED


def put_missed(
    keyspace: Keyspace, host: Host, wire: bytes, hash: int, payload: bytes, given: Given, fence: fenced.Fence
) -> bool:
    """Store a value if its key had no event since it was missed; return whether it is stored."""
    now, miss = host.now(), fence.miss
    if fence.far:
        return False  # another host owned the key when it was missed
    if now > miss.at + keyspace.member.config.load_timeout:
        # This thread may have missed the key for another purpose long ago, and write it now. So not even the old value
        # can stay.
        host.void((hash,))
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
    keyspace.count_write(outcome)
    if outcome is Outcome.STORED and host.hosts is not None:
        host.hosts.written(wire)
    return outcome is Outcome.STORED
