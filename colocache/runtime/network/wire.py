"""What travels on a connection between hosts, and what its two ends have said about themselves.

Each side says `Hello` first. From then on, what is sent is in the highest version that both speak. All messages have
one part:

========== ========================================================
first byte what
========== ========================================================
0          a `Hello`
1          a request for data, or its answer: a number of 8 bytes, which the asker has chosen, and the body
others     a message of `colocache.core.hosts.messages`
========== ========================================================

The side that listens learns of a connection only by what comes, and never of its end. So it remembers those that were
used last. If it has forgotten one, it answers with a `Hello`, and the other side says its own again.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from ...core.hosts import messages
from ...core.hosts.versions import HELLO, Hello
from .peers import Address, Literal, parse_lines

LOWEST: Final = 1  # version of what is sent
HIGHEST: Final = 1

LARGEST_CONTROL: Final = messages.LARGEST  # bytes of a frame
LARGEST_BODY: Final = (1 << 20) + (64 << 10)  # the largest value, with all that is said about it
LARGEST_DATA: Final = LARGEST_BODY + 9

_DATA = struct.Struct(">BQ")
_IS_DATA = 1


class Greeting:
    """What both ends of a connection have said of themselves, as one of them knows it."""

    __slots__ = ("mine", "theirs", "version")

    def __init__(self, mine: Hello) -> None:
        self.mine = mine
        self.theirs: Hello | None = None
        self.version: int | None = None  #: what both speak; None also before the other side has said Hello

    def hear(self, theirs: Hello) -> None:
        """Note what the other side has said."""
        self.theirs = theirs
        self.version = self.mine.shared(theirs)

    @property
    def is_with_a_stranger(self) -> bool:
        """Whether the other side has said Hello, and speaks no version that this one speaks."""
        return self.theirs is not None and self.version is None


def is_hello(frame: bytes) -> bool:
    """Tell whether a frame is meant as a `Hello`."""
    return frame.startswith(HELLO)


def hello(release: str) -> Hello:
    """Return what this process says first; ``release`` is that of the package."""
    return Hello(LOWEST, HIGHEST, release)


def data(number: int, body: bytes) -> bytes:
    """Return the frame of a request for data, or of its answer."""
    return _DATA.pack(_IS_DATA, number) + body


def is_data(frame: bytes) -> bool:
    """Tell whether a frame is a request for data, or its answer."""
    return len(frame) >= _DATA.size and frame[0] == _IS_DATA


def read_data(frame: bytes) -> tuple[int, bytes]:
    """Return the number, and the body, of what `is_data`."""
    return _DATA.unpack_from(frame)[1], frame[_DATA.size :]


@lru_cache(1024)
def told_address(text: str) -> Address | None:
    """Return the address that a host has told of itself; None if it has told none, or nobody's."""
    items = parse_lines(text).items
    return items[0].address if len(items) == 1 and isinstance(items[0], Literal) else None
