"""Positions: how far a process is, as a text that a client can carry, and waiting until this process is as far."""

from __future__ import annotations

import math

from ..core.group.calls import Calls
from ..core.group.outcomes import UNKNOWN, CaughtUp, Receipt
from ..member import Member
from .flow import Flow, Wait

#: Positions that a text names at most; a client's next request waits for each.
MAX_POSITIONS = 16

NOT_CAUGHT_UP = CaughtUp(False)

Positions = dict[bytes, int]  # incarnation to the number of an event


def write_positions(positions: Positions) -> str:
    """Return positions as a short ASCII text: ``incarnation.number``, in hexadecimal, joined by ``-``."""
    return "-".join(f"{stream.hex()}.{number:x}" for stream, number in positions.items())


def read_positions(text: str) -> Positions | None:
    """Return the positions of a text, which anybody may have sent; None if the text is not a position."""
    positions: Positions = {}
    parts = text.split("-", MAX_POSITIONS) if isinstance(text, str) and len(text) <= MAX_POSITIONS * 50 else []
    for part in parts:
        stream, _, number = part.partition(".")
        if len(stream) != 32 or not 0 < len(number) <= 16 or not (stream + number).isalnum() or not part.isascii():
            return None
        try:
            positions[bytes.fromhex(stream)] = int(number, 16)
        except ValueError:
            return None
    return positions if 0 < len(parts) <= MAX_POSITIONS else None


def own_position(member: Member) -> Flow[str]:
    """Return the position of this process's own events; empty if it is in no group."""
    driver, noted = member.own_driver(), list[str]()

    def note(calls: Calls, ticket: int, now: float) -> None:
        noted.append(write_positions(dict([calls.position])))
        calls.catch_up(ticket, {}, 0.0, now)

    if driver is not None and driver.alive:
        yield Wait(driver, note, 0.0, None, local=True)
    return noted[0] if noted else ""


def catch_up(member: Member, position: str, timeout: float | None) -> Flow[bool]:
    """Wait until this process has applied what a position stands for; return whether it has."""
    patience = member.config.fetch_timeout if timeout is None else timeout
    if not patience >= 0:  # nan, too
        raise ValueError(f"timeout={timeout!r}: give a number of seconds, 0 or more, or None")
    positions = read_positions(position)
    driver = member.join()
    if driver is None or positions is None:
        return False
    done: CaughtUp = yield Wait(
        driver, lambda calls, ticket, now: calls.catch_up(ticket, positions, patience, now), patience, NOT_CAUGHT_UP
    )
    return done.done


def last_receipt(member: Member) -> Flow[Receipt]:
    """Wait until all that this process has announced is acknowledged, or waited out."""
    driver, receipt = member.own_driver(), UNKNOWN
    if driver is not None and driver.alive:
        receipt = yield Wait(
            driver, lambda calls, ticket, now: calls.await_receipt(ticket, math.inf, now), 3 * member.config.lease,
            UNKNOWN,
        )  # fmt: skip
    if not receipt.complete:
        member.tell_incomplete(receipt)
    return receipt
