"""Positions: what a process has changed, as a text that a client can carry to another process.

On one host an invalidation holds everywhere when its call returns. So whoever belongs to the same region is as far as
any position of that region.
"""

from __future__ import annotations

from ..member import Member

#: Positions that a text names at most; a client's next request waits for each.
MAX_POSITIONS = 16

Positions = dict[bytes, int]  # region to the number of an event


def write_positions(positions: Positions) -> str:
    """Return positions as a short ASCII text: ``region.number``, in hexadecimal, joined by ``-``."""
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


def own_position(member: Member) -> str:
    """Return the position of this process's own events; empty if it is on no host."""
    host = member.own_host()
    return write_positions(dict([host.position()])) if host is not None else ""


def catch_up(member: Member, position: str, timeout: float | None) -> bool:
    """Tell whether this process has applied what a position stands for."""
    if timeout is not None and not timeout >= 0:  # nan, too
        raise ValueError(f"timeout={timeout!r}: give a number of seconds, 0 or more, or None")
    positions, host = read_positions(position), member.join()
    return host is not None and positions is not None and all(region == host.region_id for region in positions)
