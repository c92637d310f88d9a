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


#: The same rule as source text, for functions that answer most readers: a call of `Gate.lets` would cost a hit half as
#: much again. It leaves out members that are behind, and entries whose value is not there as an object: what follows
#: the text serves those by the rule itself. ``{keyspace}`` is where the reader reads, and ``{key}`` is what entries are
#: found by there. The gate comes before the entry, for the reason in `colocache.near_cache.NearCaches.bind`.
#: tests/core/test_gate.py compares the text with the rule.
SERVE_AT_ONCE = """\
    _cc_keyspace = {keyspace}
    _cc_gate = _cc_keyspace.gate
    try:
        _cc_entry = _cc_keyspace.entries[{key}]
        _cc_now = _cc_monotonic()
        if _cc_entry.expires > _cc_now and _cc_gate.current_until > _cc_now:
            _cc_value = _cc_entry.value
            if _cc_value is not _cc_MISSING:
                _cc_entry.hits += 1
                return _cc_value
    except _cc_MISSES:  # there is no entry, or the key has another form, or it cannot be hashed
        pass
"""
