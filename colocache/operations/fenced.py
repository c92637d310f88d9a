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
from time import monotonic
from typing import NamedTuple

from ..core import keys
from ..core.host.record import Miss

MAX_MISSED = 1024  # keys of one context; the oldest is forgotten, and its next set has no fence


class Fence(NamedTuple):
    """What a reader found when it missed a key, and whether any tag was invalidated since."""

    region_id: bytes
    miss: Miss
    any_tag: int  # the stamp of all tags together, read before the miss
    far: bytes = b""  # what the owner host has said, if that is another one; then it alone knows the rest


def far(owner: bytes, fence: bytes) -> Fence:
    """Return the fence of a reader whom the owner host, another one, has told that it has no value."""
    return Fence(owner, Miss(b"", monotonic()), 0, fence)


def nowhere() -> Fence:
    """Return a fence under which nothing can be set: that of a reader who found no value, and could not look well."""
    return Fence(b"", Miss(b"", monotonic()), 0)


_Key = tuple[int, bytes]  # a cache's serial number, and a wire key
Fences = dict[_Key, Fence]

# A mapping is never changed, only replaced: so a task inherits the misses of its parent, and shares nothing with it.
missed: ContextVar[Fences | None] = ContextVar("colocache_missed", default=None)


def note(cache: int, wire: bytes, fence: Fence) -> None:
    """Remember the fence of a key that was missed."""
    known = Fences(missed.get() or ())
    known.pop((cache, wire), None)
    known[cache, wire] = fence
    if len(known) > MAX_MISSED:
        del known[next(iter(known))]
    missed.set(known)


def find(cache: int, wire: bytes) -> Fence | None:
    """Return the fence of a key; None if it was not missed."""
    return (missed.get() or {}).get((cache, wire))


def forget(cache: int, wires: Iterable[bytes]) -> None:
    """Forget the fences of keys that this context has set or invalidated: it sets what it has written now."""
    known = missed.get()
    if known:
        gone = {(cache, wire) for wire in wires}
        missed.set({key: fence for key, fence in known.items() if key not in gone})


def forget_within(cache: int, namespace: str) -> None:
    """Forget the fences of a namespace, and of those below it, which this context has cleared."""
    known = missed.get() or ()
    forget(cache, [wire for _, wire in known if keys.within(keys.namespace_of(wire), namespace)])


class Token(NamedTuple):
    """What tells that a key had no event since: the region, the version of the value there, the stamp of all tags."""

    region_id: bytes
    version: int
    any_tag: int

    def pack(self) -> bytes:
        """Return the token as users carry it."""
        return self.region_id + self.version.to_bytes(8, "big") + self.any_tag.to_bytes(8, "big")

    @classmethod
    def unpack(cls, token: bytes) -> Token:
        """Return the token that a user gives. Raise TypeError or ValueError for what is none."""
        if not isinstance(token, bytes):
            raise TypeError(f"a token is what gets returned, bytes, not {type(token).__name__}: {token!r:.60}")
        if len(token) != 32:
            raise ValueError(f"a token is what gets returned; this is none: {token!r:.60}")
        return cls(token[:16], int.from_bytes(token[16:24], "big"), int.from_bytes(token[24:], "big"))
