"""Invalidate, and clear: change the stamps of keys, tags and namespaces."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Literal

from ..core.host.hashes import ROOT, key_hash, namespace_hash, tag_hash
from ..core.keys import Key
from ..core.receipt import UNKNOWN, Receipt
from ..errors import InvalidationIncomplete
from ..runtime.frames import KEYS, NAMESPACES, TAGS
from . import fenced
from .keyspace import Keyspace, travelling
from .tally import current_tally, tell

Waiting = bool | float | Literal["response"]


def keys(keyspace: Keyspace, names: Iterable[Key], wait: Waiting, strict: bool) -> Receipt:
    """Invalidate some keys."""
    wires = [keyspace.wire(key) for key in names]
    if keyspace.fence:  # this context does not take them for missed any more
        fenced.forget(keyspace.member.serial, wires)
    return announce(keyspace, [key_hash(wire) for wire in wires], KEYS, wait, strict)


def tags(keyspace: Keyspace, names: Iterable[str], wait: Waiting, strict: bool) -> Receipt:
    """Invalidate all entries, of every namespace, that carry one of the tags."""
    able, excess = travelling(names)
    if excess:  # a value that was to have it was not kept
        keyspace.member.log.warning("an invalidation names a tag that no value can have: %s", excess)
    return announce(keyspace, [tag_hash(tag) for tag in able], TAGS, wait, strict)


def all_keys(keyspace: Keyspace, wait: Waiting, strict: bool) -> Receipt:
    """Invalidate a namespace and all namespaces below it."""
    if keyspace.fence:
        fenced.forget_within(keyspace.member.serial, keyspace.path)
    hash = namespace_hash(keyspace.path) if keyspace.path else ROOT
    return announce(keyspace, [hash], NAMESPACES, wait, strict)


def announce(keyspace: Keyspace, hashes: list[int], kind: int, wait: Waiting, strict: bool) -> Receipt:
    """Invalidate what the hashes stand for. When this returns, no process of this host serves it any more."""
    began, member = monotonic(), keyspace.member
    _check(wait, strict)
    host = member.join()
    if member.config.disabled or not hashes:
        return Receipt((), (), True, 0.0)
    is_complete = host is not None and member.invalidate(host, hashes, kind)
    with member.counting:
        member.counters.invalidations += 1
    tell(member, "invalidations", 1, host)
    if wait == "response":
        tally = current_tally(member)
        if tally is not None:
            tally.collect(is_complete)
    receipt = Receipt((), (), True, monotonic() - began) if is_complete else UNKNOWN
    if not is_complete:
        member.tell_incomplete(receipt)
        if strict:
            raise InvalidationIncomplete(receipt)
    return receipt


def _check(wait: bool | float | str, strict: bool) -> None:
    """Raise TypeError or ValueError for what cannot be meant.

    On one host no value of ``wait`` makes a call wait: the invalidation is complete at once.
    """
    if wait == "response":
        if strict:
            raise ValueError("strict is for a call that waits, and wait='response' leaves that to the middleware")
    elif not isinstance(wait, bool | int | float):
        raise TypeError(f"wait is True, False or a number of seconds, not {type(wait).__name__}: {wait!r:.60}")
    elif not wait >= 0:  # nan, too
        raise ValueError(f"wait={wait!r}: give True, False or a number of seconds, 0 or more")
