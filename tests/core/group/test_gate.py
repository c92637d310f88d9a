"""What a member may serve."""

from __future__ import annotations

import math

from colocache.core.group.entry import Entry
from colocache.core.group.gate import Gate

NOW = 100.0


def test_the_rule_lets_through_what_lives_and_is_young_enough() -> None:
    gate, entry = Gate(), Entry(b"", b"", NOW - 2, NOW + 1, ())
    assert not gate.lets(entry, NOW), "this member knows nothing yet"
    gate.max_stale = 3.0
    assert gate.lets(entry, NOW)
    assert not gate.lets(entry, NOW + 1), "it has expired"
    entry.expires = math.inf
    assert not gate.lets(entry, NOW + 1), "it is too old for a member that is behind"
    gate.current_until = NOW + 2
    assert gate.lets(entry, NOW + 1)
