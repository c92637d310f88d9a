"""The gate: what a reader looks at before it uses an entry. The one rule of what may be served stands here."""

from __future__ import annotations

import math

from .entry import Entry


class Gate:
    """What a reader looks at before it uses an entry. The peer's driver writes it, and every thread reads it."""

    __slots__ = ("current_until", "max_stale")

    def __init__(self) -> None:
        self.current_until = -math.inf
        self.max_stale = -math.inf  # until this member is established; then `Settings.max_stale`

    def lets(self, entry: Entry, now: float) -> bool:
        """Tell whether an entry may be served: it lives, and this member is current or the entry is young."""
        return now < entry.expires and (now < self.current_until or now - entry.loaded_at < self.max_stale)
