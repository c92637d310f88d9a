"""What may be served: the rule, and its text in generated functions, say the same."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from colocache.core.entry import DEAD, MISSING, Entry
from colocache.core.gate import SERVE_AT_ONCE, Gate

NOW = 100.0
EXPIRES = [DEAD, NOW - 1, NOW, NOW + 1, math.inf]
CURRENT_UNTIL = [-math.inf, NOW - 1, NOW, NOW + 1, math.inf]
MAX_STALE = [-math.inf, 0.0, 3.0, math.inf]
LOADED_AT = [NOW, NOW - 2, NOW - 3, NOW - 4]


class Keyspace:
    """One entry behind a gate."""

    def __init__(self, gate: Gate, entry: Entry) -> None:
        self.gate = gate
        self.entries = {"key": entry}


def served_at_once(keyspace: Keyspace, key: Any) -> Any:
    """Run the text, at the instant `NOW`."""
    names: dict[str, Any] = {
        "_cc_monotonic": lambda: NOW, "_cc_MISSING": MISSING, "_cc_MISSES": (KeyError, TypeError)
    }  # fmt: skip
    exec("def call(keyspace, key):\n" + SERVE_AT_ONCE.format(keyspace="keyspace", key="key"), names)
    return names["call"](keyspace, key)


@pytest.mark.parametrize("value", ["value", False, "", MISSING])
def test_the_text_serves_what_the_rule_lets_through_while_the_member_is_current(value: Any) -> None:
    for expires, until, stale, loaded_at in itertools.product(EXPIRES, CURRENT_UNTIL, MAX_STALE, LOADED_AT):
        gate = Gate()
        gate.current_until, gate.max_stale = until, stale
        entry = Entry(b"", b"", loaded_at, expires, ())
        entry.value = value
        found = served_at_once(Keyspace(gate, entry), "key")
        is_current, has_value = until > NOW, value is not MISSING
        if gate.lets(entry, NOW) and is_current and has_value:
            assert (found, entry.hits) == (value, 1)
        else:
            assert (found, entry.hits) == (None, 0)


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


@pytest.mark.parametrize("key", ["another key", [], {}])
def test_the_text_serves_nothing_for_what_is_not_there_or_cannot_be_hashed(key: Any) -> None:
    gate = Gate()
    gate.current_until = math.inf
    assert served_at_once(Keyspace(gate, Entry(b"", b"", NOW, math.inf, ())), key) is None
