"""The fences of the keys that this thread or task has missed lately. The next `set` of such a key is made under one.

They belong to a context, and not to the process. Otherwise:

1. Thread A misses a key, and reads the source.
2. The key is invalidated.
3. Thread B misses the key, too. The process's last miss is now younger than the event.
4. A sets what it has read, and is believed.

Where there are scopes, the fences belong to a request. A worker's thread answers one request after another, and what
one request has missed says nothing about what a later one sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import NamedTuple

from ..core import keys
from ..core.group.fences import NO_FENCE
from ..core.group.messages import NO_NUMBER
from ..core.group.outcomes import Fence

MAX_MISSED = 1024  # keys of one context; the oldest is forgotten, and its next set has no fence


class Miss(NamedTuple):
    """A miss: the fence that the key's owner gave, and the time of the miss."""

    fence: Fence
    at: float


_Key = tuple[int, bytes]  # a cache's serial number, and a wire key
Missed = dict[_Key, Miss]

# A mapping is never changed, only replaced: so a task inherits the misses of its parent, and shares nothing with it.
missed: ContextVar[Missed | None] = ContextVar("colocache_missed", default=None)


def note(cache: int, wire: bytes, fence: Fence, now: float) -> None:
    """Remember the fence of a key that was missed."""
    known = Missed(missed.get() or ())
    known.pop((cache, wire), None)
    known[cache, wire] = Miss(fence._replace(entry=None), now)
    if len(known) > MAX_MISSED:
        del known[next(iter(known))]
    missed.set(known)


def find(cache: int, wire: bytes) -> Miss | None:
    """Return the miss of a key; None if it was not missed."""
    return (missed.get() or {}).get((cache, wire))


def forget(cache: int, wires: Iterable[bytes]) -> None:
    """Forget the fences of keys that this context has set or invalidated: it sets what it has written now."""
    known = missed.get()
    if known:
        gone = {(cache, wire) for wire in wires}
        missed.set({key: miss for key, miss in known.items() if key not in gone})


def forget_within(cache: int, namespace: str) -> None:
    """Forget the fences of a namespace, and of those below it, which this context has cleared."""
    known = missed.get() or ()
    forget(cache, [wire for _, wire in known if keys.within(keys.namespace_of(wire), namespace)])


def pack(fence: Fence) -> bytes:
    """Return a fence as users carry it; empty if its owner gave none."""
    return fence.owner + fence.number.to_bytes(8, "big") if fence.number != NO_FENCE else b""


def unpack(token: bytes) -> Fence:
    """Return the fence of a token. Raise TypeError or ValueError for what is not a token."""
    if not isinstance(token, bytes):
        raise TypeError(f"a token is what gets returned, bytes, not {type(token).__name__}: {token!r:.60}")
    if not token:
        return Fence(None, b"", NO_FENCE)
    number = int.from_bytes(token[16:], "big")
    if len(token) != 24 or number > NO_NUMBER:  # a greater one fits no message
        raise ValueError(f"a token is what gets returned; this is none: {token!r:.60}")
    return Fence(None, token[:16], number)
