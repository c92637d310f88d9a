"""Set and set-many: have owners store values, under a fence where the key was missed before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from time import monotonic

from ..core.group.fences import NO_FENCE
from ..core.group.messages import key_target
from ..core.group.outcomes import DONE, NO_ANSWER, UNKNOWN, Altering, Fence, Written
from ..core.keys import Key
from ..core.options import EntryOptions
from ..runtime.driver import Driver
from . import fenced
from .flow import Ahead, Command, Flow, Wait
from .invalidate import announce
from .keyspace import Given, Keyspace
from .tally import tell

WRITES_AT_ONCE = 256  # of one call
NOT_WRITTEN = Written(False, None)

Payloads = dict[bytes, bytes | None]  # wire key to payload; None if the value is too large


def put(keyspace: Keyspace, items: Iterable[tuple[Key, object]], given: Given, wait: str) -> Flow[bool]:
    """Have values stored; return whether all are. With ``wait="all"`` no member serves an old value any more then."""
    if wait not in ("stored", "all"):
        raise ValueError(f"wait is 'stored' or 'all', not {wait!r}")
    payloads = {keyspace.wire(key): keyspace.encode(key, value, given) for key, value in items}
    member = keyspace.member
    driver = member.join()
    if driver is None:
        if not member.config.disabled:
            member.tell_incomplete(UNKNOWN)
        return False
    all_fenced = (yield from _put_missed(keyspace, driver, payloads, given.options)) if keyspace.fence else True
    all_plain = yield from _put_plainly(keyspace, driver, payloads, given.options, wait == "all")
    return all_fenced and all_plain


def _put_plainly(
    keyspace: Keyspace, driver: Driver, payloads: Payloads, options: EntryOptions, for_all: bool
) -> Flow[bool]:
    """Set without fences. Ask for many before the first wait, but for no more than the links will take."""
    member, all_kept = keyspace.member, True
    limit = 4 * member.config.lease + member.config.fetch_timeout  # a set that is given up is waited out
    ahead = Ahead(
        driver, payloads.items(), lambda item: _writing(*item, options, for_all), NOT_WRITTEN, limit, WRITES_AT_ONCE,
        lambda item: len(item[1] or b""),
    )  # fmt: skip
    for _ in payloads:
        outcome = yield ahead.question()
        kept, receipt, position = outcome if isinstance(outcome, Written) else (False, outcome, None)
        all_kept = all_kept and kept
        tell(keyspace.member, "sets", position=position)
        if for_all and (receipt is None or not receipt.complete):
            member.tell_incomplete(receipt or UNKNOWN)
    return all_kept


def _writing(wire: bytes, payload: bytes | None, options: EntryOptions, for_all: bool) -> Command:
    if payload is None or options.ttl == 0:  # nothing to store; the old value is gone all the same
        patience = math.inf if for_all else 0.0
        return lambda calls, ticket, now: calls.invalidate(ticket, [key_target(wire)], patience, now)
    return lambda calls, ticket, now: calls.set(ticket, wire, payload, options, for_all, now)


def _put_missed(keyspace: Keyspace, driver: Driver, payloads: Payloads, options: EntryOptions) -> Flow[bool]:
    """Set those of the keys that were missed, under their fences; they are taken out. Return whether all are stored."""
    member, all_kept = keyspace.member, True
    for wire in list(payloads):
        miss = fenced.find(member.serial, wire)
        if miss is None:
            continue
        payload, kept = payloads.pop(wire), False
        if monotonic() > miss.at + member.config.load_timeout:
            # No owner remembers for so long which events covered the key. And this thread may have missed the key for
            # another purpose long ago, and write it now; so not even the old value can stay.
            yield from announce(keyspace, [key_target(wire)], False, False)
        elif payload is not None:
            kept = yield from put_fenced(keyspace, driver, wire, payload, options, miss.fence)
        all_kept = all_kept and kept
        fenced.forget(member.serial, (wire,))  # not before: a call that is refused on an event loop has done nothing
    return all_kept


def put_fenced(
    keyspace: Keyspace, driver: Driver, wire: bytes, payload: bytes, options: EntryOptions, fence: Fence
) -> Flow[bool]:
    """Have a value stored if the key had no event since its owner gave the fence; return whether it is."""
    if options.ttl == 0 or fence.number == NO_FENCE:
        return False
    done: Altering = yield Wait(
        driver,
        lambda calls, ticket, now: calls.set_fenced(ticket, wire, payload, options, fence, now),
        keyspace.member.config.fetch_timeout, NO_ANSWER,
    )  # fmt: skip
    tell(keyspace.member, "sets", position=done.position)
    return done.outcome == DONE
