"""What a lookup of an item of ``COLOCACHE_PEERS`` finds out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .peers import Address, Lines


@dataclass(frozen=True, slots=True)
class Found:
    """The addresses of a name: all that there are at this moment. For a file or a service there is `Lines`.

    ``wrong`` says why some may be missing: the name server has failed for one of the families.
    """

    addresses: tuple[Address, ...]
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such name, record or file, says somebody who must know. ``why`` is for the log."""

    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Nobody says whether there is one: a server fails, or nothing answers in time. ``why`` is for the log."""

    why: str


Answer: TypeAlias = Found | Lines | Absent | Failed
