"""What became of an invalidation."""

from __future__ import annotations

from typing import NamedTuple


class Receipt(NamedTuple):
    """What became of an invalidation.

    ``acknowledged`` and ``waited_out`` are members on other hosts; there are none in this version. ``complete`` says
    that no process serves the old value any more. ``seconds`` is how long the call took.
    """

    acknowledged: tuple[str, ...]
    waited_out: tuple[str, ...]
    complete: bool
    seconds: float


#: The receipt of an invalidation that this process could not announce, or not see through.
UNKNOWN = Receipt((), (), False, 0.0)
