"""Which process of a host is its gateway: the one that has a record lock.

The kernel gives the lock to one process, and takes it back when that process ends, in whatever way. So there are no
votes and no terms. A process that is stopped keeps it. Two gateways at the same time would be harmless: each only says
what stands in the memory of the host, and each writes in a row of its own.
"""

from __future__ import annotations

from typing import Protocol


class Election(Protocol):
    """The offices of one host. Only the network thread calls it, and raises OSError if locks do not work."""

    def take(self) -> int | None:
        """Become the gateway, and return the number of the row to write in; None if another process is it."""

    def give_back(self) -> None:
        """Be the gateway no more. Callable twice."""

    def is_vacant(self) -> bool:
        """Tell whether no other process is the gateway."""

    def prefer(self) -> None:
        """Have other processes leave the office to this one. It need not be given back."""

    def must_wait(self) -> bool:
        """Tell whether another process is preferred."""

    def version(self) -> int:
        """Return a number that is another one after each coming and going of a process."""
