"""What an owner remembers of keys that were asked for with a fence.

Who misses a key, makes its value, and sets it, may set what is old by then:

1. A misses, and reads the source; 2. the key is invalidated, and everybody acknowledges; 3. A sets what it has read.

So the owner notes the key when it is asked, each event that may hit the key takes the note away, and a set that names
the fence is refused without it. The note is the key's, not the asker's. That is why a fence is a number, the count of
the events applied when it was given, and why a note stands only for fences that are not older than itself:

1. A misses; 2. the key is invalidated, the note is gone; 3. B misses, and there is a note again; 4. A sets what it has
read: A's number is older than the note, and refused.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from ..keys import namespace_of, within

MAX_FENCES = 10_000  # keys; the oldest note is forgotten first, and what names it is refused

#: Given where no fence can be had; a set that names it is refused.
NO_FENCE: Final = -1


class _Note(NamedTuple):
    moment: int  # no event has hit the key since so many were applied
    at: float


class Fences:
    """The keys that were asked for with a fence, and had no event since. Not thread-safe."""

    def __init__(self, keep: float) -> None:
        """A fence holds for at least half of ``keep`` seconds, and for no longer than ``keep``."""
        self._keep = keep
        self._notes: OrderedDict[bytes, _Note] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._notes)

    def give(self, wire: bytes, moment: int, now: float) -> int:
        """Return a fence for a key, ``moment`` events having been applied so far."""
        note = self._notes.get(wire)
        # A note is never prolonged, for the tags that were hit are remembered for so long only; but renewed.
        if note is None or now > note.at + self._keep / 2:
            self._notes[wire] = _Note(moment, now)
            self._notes.move_to_end(wire)
            if len(self._notes) > MAX_FENCES:
                self._notes.popitem(last=False)
        return moment

    def stands(self, wire: bytes, fence: int, now: float) -> bool:
        """Whether the key had no event since the fence was given."""
        note = self._notes.get(wire)
        return note is not None and note.moment <= fence and now < note.at + self._keep

    def fall(self, wire: bytes) -> None:
        """A key was hit by an event."""
        self._notes.pop(wire, None)

    def fall_all(self, namespace: str) -> None:
        """All keys of a namespace and of those below it were hit; ``""`` is all of them."""
        for wire in [wire for wire in self._notes if within(namespace_of(wire), namespace)]:
            del self._notes[wire]

    def expire(self, now: float) -> None:
        """Forget the notes that hold no more."""
        while self._notes:
            wire, note = next(iter(self._notes.items()))
            if now < note.at + self._keep:
                return
            del self._notes[wire]

    def age(self, seconds: float) -> None:
        """Be as if so many seconds had passed since all fences were given."""
        for wire, note in self._notes.items():
            self._notes[wire] = note._replace(at=note.at - seconds)
