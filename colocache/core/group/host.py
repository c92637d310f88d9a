"""What every part of a peer may ask of the peer that it belongs to; each part adds what it alone needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ...stats import Counters
from ..entry import Entry
from .announcements import Receipt
from .messages import Message


class Host(Protocol):
    """The peer, as its parts see it."""

    @property
    def incarnation(self) -> bytes:
        """This member's."""

    @property
    def moment(self) -> int:
        """How many events were applied here."""

    @property
    def established(self) -> bool:
        """Whether this member was current once."""

    def is_current(self) -> bool:
        """Whether this member is known to have heard every event."""

    def has_applied(self, positions: dict[bytes, int]) -> bool | None:
        """Whether the positions are applied here; None if one of them never can be. Asks for what is missing."""

    def tags_hit_since(self, tags: Iterable[str], moment: int) -> bool:
        """Whether one of the tags was hit by an event after ``moment``."""

    def send(self, message: Message) -> None:
        """Send a message to the member that it names; one to this member itself is handled before the return."""

    @property
    def counters(self) -> Counters:
        """What this member counts: ``host.counters.loads += 1``."""


class AskingHost(Host, Protocol):
    """What the parts need that ask owners for keys."""

    def owner_of(self, wire: bytes) -> bytes | None:
        """Return the owner of a key; None if it is passed over."""

    def pass_over(self, owner: bytes) -> None:
        """Do not ask an owner again until it is heard."""

    def dependencies(self, wires: Iterable[bytes]) -> bytes | None:
        """Return the packed positions that an owner must have applied before it answers for the keys.

        None if there are more than can be named: then nobody can be asked.
        """

    def keep(self, entry: Entry) -> None:
        """Keep an entry as a near copy; it is dead afterwards if it is too large."""


class AnnouncingHost(Host, Protocol):
    """What the parts need that announce events of this member's own."""

    def announce(self, targets: tuple[bytes, ...]) -> int:
        """Announce an event of this member's own stream; return its number."""

    def receipt_for(self, number: int, settle: Callable[[Receipt], None]) -> None:
        """Have ``settle`` called with the receipt of an announced event."""
