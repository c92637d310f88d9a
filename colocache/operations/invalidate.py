"""Invalidate, and clear: announce events, and wait until every member has applied them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Literal

from ..core.group.calls import Calls
from ..core.group.messages import MAX_TARGETS, tag_target
from ..core.group.outcomes import UNKNOWN, Receipt
from ..core.keys import Key
from ..errors import InvalidationIncomplete
from ..runtime.driver import Driver
from .flow import Flow, Wait
from .keyspace import Keyspace, travelling
from .tally import current_tally, tell

TARGETS_AT_ONCE = 4 * MAX_TARGETS  # that one step announces: the driver has other calls to serve

Waiting = bool | float | Literal["response"]


def keys(keyspace: Keyspace, names: Iterable[Key], wait: Waiting, strict: bool) -> Flow[Receipt]:
    """Invalidate some keys."""
    return announce(keyspace, keyspace.key_targets(names), wait, strict)


def tags(keyspace: Keyspace, names: Iterable[str], wait: Waiting, strict: bool) -> Flow[Receipt]:
    """Invalidate all entries, of every namespace, that carry one of the tags."""
    able, excess = travelling(names)
    if excess:  # a value that was to have it was not kept
        keyspace.member.log.warning("an invalidation names a tag that no value can have: %s", excess)
    return announce(keyspace, [tag_target(tag) for tag in able], wait, strict)


def all_keys(keyspace: Keyspace, wait: Waiting, strict: bool) -> Flow[Receipt]:
    """Invalidate a namespace and all namespaces below it."""
    return announce(keyspace, keyspace.own_targets(), wait, strict)


def announce(keyspace: Keyspace, targets: list[bytes], wait: Waiting, strict: bool) -> Flow[Receipt]:
    """Announce that targets have changed, and wait for the receipt as the caller says."""
    member, current, is_for_response = keyspace.member, current_tally(keyspace.member), wait == "response"
    if wait == "response":
        if strict:
            raise ValueError("strict is for a call that waits, and wait='response' leaves that to the middleware")
        wait = current is None  # nobody would wait later
    patience = _patience(wait)
    driver = member.join()
    if member.config.disabled or not targets:
        return Receipt((), (), True, 0.0)
    receipt, position = UNKNOWN, None
    if driver is not None:
        receipt, position = yield from _in_parts(driver, targets, patience, 3 * member.config.lease)
        if is_for_response and current is not None:
            current.collect()
    tell(member, "invalidations", position=position)
    if not receipt.complete and (patience > 0 or receipt is UNKNOWN):
        member.tell_incomplete(receipt)
        if strict:
            raise InvalidationIncomplete(receipt)
    return receipt


def _in_parts(
    driver: Driver, targets: list[bytes], patience: float, longest: float
) -> Flow[tuple[Receipt, tuple[bytes, int] | None]]:
    """Return the receipt of the last part, and its position. A member that acknowledges the last event has all of them.

    ``longest`` is how many seconds a receipt takes at most.
    """
    positions, receipts, local = list[tuple[bytes, int]](), list[Receipt](), patience == 0

    def announcing(part: list[bytes], is_last: bool, calls: Calls, ticket: int, now: float) -> None:
        calls.invalidate(ticket, part, patience if is_last else 0.0, now, counts=is_last)
        positions.append(calls.position)

    for start in range(0, len(targets), TARGETS_AT_ONCE):
        part, is_last = targets[start : start + TARGETS_AT_ONCE], start + TARGETS_AT_ONCE >= len(targets)
        command = partial(announcing, part, is_last)
        limit = min(patience, longest) if is_last else 0.0
        receipts.append((yield Wait(driver, command, limit, UNKNOWN, local)))
    receipt = UNKNOWN if any(each is UNKNOWN for each in receipts) else receipts[-1]
    return receipt, positions[-1] if positions else None


def _patience(wait: bool | float) -> float:
    """Return for how many seconds an invalidation may wait."""
    if isinstance(wait, bool):
        return math.inf if wait else 0.0
    if not isinstance(wait, int | float):
        raise TypeError(f"wait is True, False or a number of seconds, not {type(wait).__name__}: {wait!r:.60}")
    if not wait >= 0:  # nan, too
        raise ValueError(f"wait={wait!r}: give True, False or a number of seconds, 0 or more")
    return float(wait)
