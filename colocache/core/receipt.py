"""What became of an invalidation."""

from __future__ import annotations

from typing import NamedTuple


class Receipt(NamedTuple):
    """What became of an invalidation.

    ``complete`` says that no process of the group serves the old value any more. ``seconds`` is how long the call took.

    The rest is about a group of several hosts. ``acknowledged`` are the names of the other hosts that have said so.
    ``waited_out`` are those that were silent until they could not serve anything old any more; where ``complete`` is
    False, those that have not answered so far. ``hosts`` is the number of hosts of which the receipt speaks, this one
    included; 0 if this process is on no host. ``forgotten`` are those that have been silent for so long that they are
    not waited for any more, although nobody knows that they are gone.

    ``processes`` is the number of processes of this host that the receipt speaks of, this one included; 0 if this
    process is on no host. Where it is 1 and you expect more, nobody else is in the group on this host. ``dropped`` is
    how many near copies of this process were freed, of keys; what a tag or a namespace frees is freed in the
    background, and not counted.
    """

    acknowledged: tuple[str, ...]
    waited_out: tuple[str, ...]
    complete: bool
    seconds: float
    hosts: int = 1
    forgotten: tuple[str, ...] = ()
    processes: int = 0
    dropped: int = 0


#: The receipt of an invalidation that this process could not announce, or not see through.
UNKNOWN = Receipt((), (), False, 0.0, 0)
