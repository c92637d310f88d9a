"""Invalidate, and clear: change the stamps of keys, tags and namespaces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Literal

from ..core.host.hashes import ROOT, key_hash, namespace_hash, tag_hash
from ..core.hosts.announcing import Announcement
from ..core.hosts.waiting import Settled
from ..core.keys import Key, shown_wire
from ..core.receipt import UNKNOWN, Receipt
from ..errors import InvalidationIncomplete
from ..host import Voided
from ..hosts import Hosts
from ..member import Member
from ..runtime.frames import KEYS, NAMESPACES, TAGS
from . import fenced
from .flow import Flow
from .keyspace import Keyspace, travelling
from .tally import current_tally, note_position, tell
from .traced import Told, traced

Waiting = bool | float | Literal["response"]


def keys(keyspace: Keyspace, names: Iterable[Key], wait: Waiting, strict: bool) -> Flow[Receipt]:
    """Invalidate some keys."""
    names = [*names]
    wires = [keyspace.wire(key) for key in names]
    if keyspace.fence:  # this context does not take them for missed any more
        fenced.forget(keyspace.member.serial, wires)
    text = shown_wire(wires[0]) if wires else ""
    flow = announce(keyspace, [key_hash(wire) for wire in wires], KEYS, text, wait, strict)
    return (yield from traced(keyspace, "invalidate", names, flow, _told, waits=False))


def tags(keyspace: Keyspace, names: Iterable[str], wait: Waiting, strict: bool) -> Flow[Receipt]:
    """Invalidate all entries, of every namespace, that carry one of the tags."""
    able, excess = travelling(names)
    if excess:  # a value that was to have it was not kept
        keyspace.member.log.warning(
            "an invalidation names a tag that no value can have: %s",
            excess,
            about=keyspace.path,
            event="impossible_tag",
        )
    text = able[0] if able else ""
    flow = announce(keyspace, [tag_hash(tag) for tag in able], TAGS, text, wait, strict)
    return (yield from traced(keyspace, "invalidate_tags", able, flow, _told, waits=False))


def all_keys(keyspace: Keyspace, wait: Waiting, strict: bool) -> Flow[Receipt]:
    """Invalidate a namespace and all namespaces below it."""
    if keyspace.fence:
        fenced.forget_within(keyspace.member.serial, keyspace.path)
    hash = namespace_hash(keyspace.path) if keyspace.path else ROOT
    flow = announce(keyspace, [hash], NAMESPACES, keyspace.path, wait, strict)
    return (yield from traced(keyspace, "clear", (), flow, _told, waits=False))


def announce(keyspace: Keyspace, hashes: list[int], kind: int, text: str, wait: Waiting, strict: bool) -> Flow[Receipt]:
    """Invalidate what the hashes stand for. When other hosts are waited for, no process of this host serves it.

    ``text`` is what people call the first thing.
    """
    began, member = monotonic(), keyspace.member
    _check(wait, strict)
    host = member.join()
    if member.config.disabled or not hashes:
        return Receipt((), (), True, 0.0)
    voided = None if host is None else member.invalidate(host, hashes, kind)
    if host is not None:
        host.note_event(kind, hashes[0], len(hashes), text)
    keyspace.counters.invalidations += 1
    tell(member, "invalidations", 1, host)
    tally = current_tally(member) if wait == "response" else None
    is_for_later = wait is False or tally is not None
    if voided is None or host is None:
        receipt = UNKNOWN
    elif voided.hosts is None:
        receipt = Receipt((), (), True, monotonic() - began, 1, (), host.processes(), voided.dropped)
    else:
        patience = 0.0 if is_for_later else math.inf if wait is True or wait == "response" else float(wait)
        receipt = _receipt((yield from voided.settle(member.patience(patience) if patience else 0.0)), began)
        receipt = receipt._replace(processes=host.processes(), dropped=voided.dropped)
        note_position(member, host)  # a client has learned it now
    if tally is not None:
        tally.collect(voided, began)
    if not receipt.complete and (voided is None or not is_for_later):
        member.tell_incomplete(receipt)
    if not receipt.complete and strict:
        raise InvalidationIncomplete(receipt)
    return receipt


def settled(member: Member, voided: Sequence[Voided | None], began: float) -> Flow[Receipt]:
    """Wait for all that several calls have invalidated, and return their common receipt.

    What could not be told other hosts was logged by its call. It is not logged again.
    """
    numbers: dict[Hosts, dict[int, int]] = {}
    announcements: dict[Hosts, list[Announcement]] = {}
    for each in voided:
        if each is not None and each.hosts is not None and each.announcement is not None:
            announcements.setdefault(each.hosts, []).append(each.announcement)
        elif each is not None and each.hosts is not None:
            known = numbers.setdefault(each.hosts, {})
            for lane, number in each.numbers.items():
                known[lane] = max(number, known.get(lane, 0))
    receipt = Receipt((), (), True, 0.0)
    for hosts, lasts in numbers.items():
        one = _receipt((yield from hosts.settle(lasts, member.patience(math.inf))), began)
        receipt = one._replace(complete=one.complete and receipt.complete)
    for hosts, several in announcements.items():
        one = _receipt((yield from hosts.settle_far(several, member.patience(math.inf))), began)
        receipt = one._replace(complete=one.complete and receipt.complete)
        note_position(member, member.own_host())
    if not receipt.complete:
        member.tell_incomplete(receipt)
    return receipt._replace(complete=receipt.complete and None not in voided)


def _told(receipt: Receipt) -> Told:
    return Told("complete" if receipt.complete else "incomplete", (*receipt.acknowledged, *receipt.waited_out))


def _receipt(settled: Settled, began: float) -> Receipt:
    return Receipt(
        settled.acknowledged, settled.waited_out, settled.complete, monotonic() - began,
        1 + len(settled.acknowledged) + len(settled.waited_out), settled.forgotten,
    )  # fmt: skip


def _check(wait: bool | float | str, strict: bool) -> None:
    """Raise TypeError or ValueError for what cannot be meant.

    In a group of one host no value of ``wait`` makes a call wait: the invalidation is complete at once.
    """
    if wait == "response":
        if strict:
            raise ValueError("strict is for a call that waits, and wait='response' leaves that to the middleware")
    elif not isinstance(wait, bool | int | float):
        raise TypeError(f"wait is True, False or a number of seconds, not {type(wait).__name__}: {wait!r:.60}")
    elif not wait >= 0:  # nan, too
        raise ValueError(f"wait={wait!r}: give True, False or a number of seconds, 0 or more")
