"""Positions: what a process has changed, as a text that a client can carry to another process.

In a group of one host an invalidation holds everywhere when its call returns. So whoever belongs to the same region is
as far as any position of that region. In a group of several hosts, a position is that of an event in the log of a host.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..core.host.claims import Sleep
from ..core.hosts.rows import ENDED, ENDED_AT
from ..core.hosts.waiting import pauses
from ..host import LANE_SHIFT, Host
from ..interruptions import raise_if_from_handler
from ..member import Member
from .flow import Flow

#: Positions that a text names at most; a client's next request waits for each.
MAX_POSITIONS = 16

_BELL = 1 << 62  # every bell has this bit, and no event of a log

Positions = dict[tuple[bytes, int], int]  # region and lane to the number of an event


def lane_of(number: int) -> int:
    """Return the lane of the number of an event; 0 if it is a bell."""
    return 0 if number & _BELL else number >> LANE_SHIFT


def write_positions(positions: Positions) -> str:
    """Return positions as a short ASCII text: ``region.number``, in hexadecimal, joined by ``-``."""
    return "-".join(f"{region.hex()}.{number:x}" for (region, _), number in positions.items())


def read_positions(text: str) -> Positions | None:
    """Return the positions of a text, which anybody may have sent; None if the text is not a position."""
    positions: Positions = {}
    parts = text.split("-", MAX_POSITIONS) if isinstance(text, str) and len(text) <= MAX_POSITIONS * 50 else []
    for part in parts:
        stream, _, number = part.partition(".")
        if len(stream) != 32 or not 0 < len(number) <= 16 or not (stream + number).isalnum() or not part.isascii():
            return None
        try:
            value = int(number, 16)
            positions[bytes.fromhex(stream), lane_of(value)] = value
        except ValueError as error:
            raise_if_from_handler(error)
            return None
    return positions if 0 < len(parts) <= MAX_POSITIONS else None


def own_position(member: Member) -> str:
    """Return the position of this host's events so far; empty if this process is on no host."""
    host = member.own_host()
    if host is None:
        return ""
    return write_positions({(region, lane_of(number)): number for region, number in host.positions()})


def catch_up(member: Member, position: str, timeout: float | None) -> Flow[bool]:
    """Tell whether this process has applied what a position stands for. Wait for it, if it is another host's."""
    if timeout is not None and not timeout >= 0:  # nan, too
        raise ValueError(f"timeout={timeout!r}: give a number of seconds, 0 or more, or None")
    positions, host = read_positions(position), member.join()
    if host is None or positions is None:
        return False
    missing = [(region, number) for (region, _), number in positions.items() if region != host.region_id]
    hosts = host.hosts
    if hosts is None or not missing:
        return not missing
    ends = host.now() + member.patience(hosts.times.lease / 1e9 if timeout is None else timeout)
    sleeps: Iterator[float] = pauses()
    while not all(_is_reached(host, region, number) for region, number in missing):
        if host.now() >= ends:
            return False
        yield Sleep(lambda waiter: None, next(sleeps))
    return True


def _is_reached(host: Host, region: bytes, number: int) -> bool:
    """Tell whether an event of another host is applied, or that host is over, so that everything of it was dropped."""
    assert host.hosts is not None
    rows = host.hosts.rows
    if rows.state(region) in (ENDED, ENDED_AT):
        return True
    return not number & _BELL and rows.has_reached(region, {lane_of(number): number & (1 << LANE_SHIFT) - 1})
