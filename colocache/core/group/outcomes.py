"""What calls give a member, and what they get: one kind of outcome for each kind of call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..options import EntryOptions
from ..receipt import Receipt
from .entry import Entry

# What became of a count, a touch, or a set under a fence.
DONE, NOTHING, NO_INTEGER, REFUSED, UNAVAILABLE = range(5)


# --- Of a read


class Found(NamedTuple):
    """The value is there: as an object, or as bytes that the caller decodes."""

    entry: Entry


class Lead(NamedTuple):
    """The caller must load, and report with `Calls.loaded` or `Calls.failed`."""

    fetch: int


class Solo(NamedTuple):
    """The caller must load for itself, and report nothing."""


class Loaded(NamedTuple):
    """What a loader gave.

    ``payload`` is None if it is too large to travel. ``oldest`` is when the oldest of the cached values was loaded that
    the loader was served while this member was behind.
    """

    value: object
    payload: bytes | None
    options: EntryOptions
    publish: Callable[[Entry], None]
    oldest: float = math.inf


# --- Of other calls


class Seen(NamedTuple):
    """What a peek found: wire key to entry. A key that nobody has is not in it."""

    entries: dict[bytes, Entry]


class Written(NamedTuple):
    """What became of a set: whether the owner keeps the value, and the receipt, if one was asked for.

    ``position`` is of the event that announces the set; None if the set was given up.
    """

    kept: bool
    receipt: Receipt | None
    position: tuple[bytes, int] | None = None


class Fence(NamedTuple):
    """What an owner has under a key, and the fence that it gave; `NO_FENCE` if it could not."""

    entry: Entry | None
    owner: bytes
    number: int


class Altering(NamedTuple):
    """What became of a count, a touch, or a set under a fence: an outcome as above, and the value as it is now.

    ``position`` is of the event that announces it, if there is one.
    """

    outcome: int
    payload: bytes
    position: tuple[bytes, int] | None


NO_ANSWER = Altering(UNAVAILABLE, b"", None)


class CaughtUp(NamedTuple):
    """Whether the events are applied here."""

    done: bool


Outcome = Found | Lead | Solo | Receipt | Seen | Written | Fence | Altering | CaughtUp
