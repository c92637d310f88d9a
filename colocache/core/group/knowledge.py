"""What every part of a member may know: the time, its version, what it has applied of late, and who owns what.

This is a leaf: it sends nothing and calls nobody. The parts ask it questions, and tell it what happened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from .entry import Entry
from .gate import Gate
from .members import Member, Members
from .messages import pack_positions
from .ownership import Ownership
from .seam import Settings
from .store import Store
from .stream import Remembered, TagVersions


class Knowledge:
    """What is known of the present. Only the gate is thread-safe, because readers look at it.

    ``version`` is this member's logical clock: it counts what was applied here. Something that was asked for at one
    version is overtaken by what was applied after it.
    """

    def __init__(self, settings: Settings, members: Members, now: float) -> None:
        self.settings = settings
        self.me: Member = members.me
        self.now = now
        self.gate = Gate()
        self.started = False  # this member may be current
        self.version = 0
        self._dropped_at = 0  # the version at which everything was dropped last
        self._members = members
        self._owners = Ownership(members)
        self._remembered = Remembered(2 * settings.lease)
        self._tags = TagVersions(settings.load_timeout)

    # --- This member

    @property
    def incarnation(self) -> bytes:
        """This member's incarnation."""
        return self.me.incarnation

    @property
    def established(self) -> bool:
        """Whether this member was current at least once."""
        return self.gate.max_stale > -math.inf

    def is_current(self) -> bool:
        """Tell whether this member is known to have heard every event."""
        return self.now < self.gate.current_until

    def current_until(self) -> float:
        """Return the instant until which this member is current.

        Everything announced up to one lease before that instant is applied here.
        """
        return self.gate.current_until

    def trusted_since(self) -> float:
        """Return the instant after which a value must have been read from its source to be used while behind."""
        return self.now - self.gate.max_stale

    def refresh(self) -> bool:
        """Derive the gate from what was heard. Return whether this member is established by that."""
        self.gate.current_until = self._members.current_until() if self.started else -math.inf
        if self.established or not self.is_current():
            return False
        self.gate.max_stale = self.settings.max_stale
        return True

    def shut(self) -> None:
        """Serve nothing from now on: this member is not one any more."""
        self.started = False
        self.gate.current_until = self.gate.max_stale = -math.inf

    # --- Owners

    def owner_of(self, wire: bytes) -> bytes | None:
        """Return the owner of a key; None if it is passed over."""
        return self._owners.owner_of(wire)

    def pass_over(self, owner: bytes) -> None:
        """Do not ask an owner again until it answers a ping."""
        self._owners.pass_over(owner)

    # --- Entries

    def servable(self, store: Store, wire: bytes) -> Entry | None:
        """Return a key's entry if it may be served."""
        entry = store.find(wire, self.now)
        return entry if entry is not None and self.gate.lets(entry, self.now) else None

    # --- Events

    def tags_invalidated_since(self, tags: Iterable[str], version: int) -> bool:
        """Tell whether an event invalidated one of the tags after ``version``."""
        return self._tags.invalidated_since(tags, version)

    def overtaken(self, wire: bytes, tags: Iterable[str], version: int) -> bool:
        """Tell whether an event invalidated the key or one of the tags after ``version``."""
        if self._dropped_at > version or self._remembered.invalidated_since(wire, version):
            return True
        return self._tags.invalidated_since(tags, version)

    def invalidated_beyond(self, wire: bytes, stream: bytes, number: int) -> bool:
        """Tell whether an event of the stream beyond ``number`` has, or may have, invalidated the key."""
        other = self._members.get(stream)
        if other is not None and other.faded > number:
            return True  # `Remembered` may have forgotten an event between the two numbers
        positions = self._remembered.dependencies((wire,))
        return positions is None or positions.get(stream, -1) > number

    def dependencies(self, wires: Iterable[bytes]) -> bytes | None:
        """Return the packed positions that a member must have applied before it answers for the keys.

        Return None if there are more of them than a message can name.
        """
        positions = self._remembered.dependencies(wires)
        return None if positions is None else pack_positions(positions)

    # --- What happened

    def advance(self) -> None:
        """Something is applied: what was asked for before now is older."""
        self.version += 1

    def remember(self, wire: bytes, stream: bytes, number: int) -> None:
        """Remember an event that invalidates a key."""
        self._remembered.key(wire, stream, number, self.version)

    def remember_bulk(self, stream: bytes, number: int) -> None:
        """Remember an event that may invalidate any key; or a reset, which counts as one."""
        self._remembered.bulk(stream, number, self.version)

    def remember_tag(self, tag: str) -> None:
        """Remember that a tag was invalidated."""
        self._tags.invalidate(tag, self.version)

    def remember_drop(self) -> None:
        """Remember that everything was dropped."""
        self._dropped_at = self.version

    def turn(self) -> None:
        """Forget what happened long ago."""
        self._remembered.turn(self.now)
        self._members.turn(self.now)
        self._tags.turn(self.now)
