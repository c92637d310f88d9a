"""The fences of the keys that were missed of late in this thread or task: what the next `set` of such a key goes by.

A context's and not the process's:

1. thread A misses, and reads the source; 2. the key is invalidated; 3. thread B misses, too: the process's last miss is
younger than the event; 4. A sets what it has read, and would be believed.

And a request's, where there are scopes: a worker's thread answers one after another, and what one of them has missed
says nothing of what a later one sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import NamedTuple

from ..core import keys
from ..core.group.fences import NO_FENCE
from ..core.group.outcomes import Fence

MAX_MISSED = 1024  # keys of one context; the oldest is forgotten, and its next set is one without a fence


class Miss(NamedTuple):
    """A key that was missed, the fence that its owner gave, and when that was."""

    fence: Fence
    at: float


_Key = tuple[int, bytes]  # a cache's serial number, and a wire key
Missed = dict[_Key, Miss]

# The mappings are never changed, only replaced: a task inherits what its parent has missed, and shares nothing.
missed: ContextVar[Missed | None] = ContextVar("colocache_missed", default=None)


def note(cache: int, wire: bytes, fence: Fence, now: float) -> None:
    """A key was missed: remember its fence."""
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
    """Keys were set; or invalidated by this context itself: what it sets now is what it has written."""
    known = missed.get()
    if known:
        gone = {(cache, wire) for wire in wires}
        missed.set({key: miss for key, miss in known.items() if key not in gone})


def forget_within(cache: int, namespace: str) -> None:
    """A namespace, and those below it, were cleared by this context itself."""
    known = missed.get() or ()
    forget(cache, [wire for _, wire in known if keys.within(keys.namespace_of(wire), namespace)])


def pack(fence: Fence) -> bytes:
    """Return a fence as users carry it; empty for one that could not be had."""
    return fence.owner + fence.number.to_bytes(8, "big") if fence.number != NO_FENCE else b""


def unpack(token: bytes) -> Fence:
    """Return the fence of a token. Raises TypeError or ValueError for what is none."""
    if not isinstance(token, bytes):
        raise TypeError(f"a token is what gets returned, bytes, not {type(token).__name__}: {token!r:.60}")
    if not token:
        return Fence(None, b"", NO_FENCE)
    if len(token) != 24:
        raise ValueError(f"a token is what gets returned; this is none: {token!r:.60}")
    return Fence(None, token[:16], int.from_bytes(token[16:], "big"))
