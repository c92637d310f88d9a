"""What an owner remembers of keys that were asked for with a fence.

A member that misses a key, makes its value, and sets it, may set what is old by then:

1. A misses, and reads the source.
2. The key is invalidated, and everybody acknowledges.
3. A sets what it has read.

So the owner notes the key when it is asked. Each event that may invalidate the key takes the note away, and a set that
names the fence is refused without it. The note is the key's, not the asker's. That is why a fence is a number, the
version at which it was given, and why a note stands only for fences that are not older than itself:

1. A misses.
2. The key is invalidated, and the note is gone.
3. B misses, and there is a note again.
4. A sets what it has read: A's number is older than the note, and the set is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from ..keys import namespace_of, within

MAX_FENCES = 10_000  # keys; the oldest note is forgotten first, and a set that names it is refused

#: Given where there can be no fence. A set that names it is refused.
NO_FENCE: Final = -1


class _Note(NamedTuple):
    version: int  # no event has invalidated the key since
    at: float


class Fences:
    """The keys that were asked for with a fence, and that no event has invalidated since. Not thread-safe."""

    def __init__(self, keep: float) -> None:
        """A fence holds for at least half of ``keep`` seconds, and for no longer than ``keep``."""
        self._keep = keep
        self._notes: OrderedDict[bytes, _Note] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._notes)

    def give(self, wire: bytes, version: int, now: float) -> int:
        """Return a fence for a key, given at a version."""
        note = self._notes.get(wire)
        # A note is renewed, never prolonged, because invalidated tags are remembered for as long as a fence holds.
        if note is None or now > note.at + self._keep / 2:
            self._notes[wire] = _Note(version, now)
            self._notes.move_to_end(wire)
            if len(self._notes) > MAX_FENCES:
                self._notes.popitem(last=False)
        return version

    def stands(self, wire: bytes, fence: int, now: float) -> bool:
        """Tell whether no event has invalidated the key since the fence was given."""
        note = self._notes.get(wire)
        return note is not None and note.version <= fence and now < note.at + self._keep

    def fall(self, wire: bytes) -> None:
        """An event invalidates a key."""
        self._notes.pop(wire, None)

    def fall_all(self, namespace: str) -> None:
        """An event invalidates all keys of a namespace and of those below it; ``""`` is every namespace."""
        for wire in [wire for wire in self._notes if within(namespace_of(wire), namespace)]:
            del self._notes[wire]

    def expire(self, now: float) -> None:
        """Forget the notes that no longer hold."""
        while self._notes:
            wire, note = next(iter(self._notes.items()))
            if now < note.at + self._keep:
                return
            del self._notes[wire]

    def age(self, seconds: float) -> None:
        """Be as if so many seconds had passed since all fences were given."""
        for wire, note in self._notes.items():
            self._notes[wire] = note._replace(at=note.at - seconds)
