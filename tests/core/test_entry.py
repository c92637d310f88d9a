"""Entries: how readers come to find one, and find it no more."""

from __future__ import annotations

import math
from typing import Any

from colocache.core.entry import DEAD, Entry, Home, NearCounts


def an_entry(home: Home, key: Any = "k") -> Entry:
    return Entry(home, key, "value", 1, (), 0, math.inf, 10)


def test_an_entry_is_found_once_it_is_published_until_it_is_withdrawn() -> None:
    home = Home(None)
    entry = an_entry(home)
    assert home.entries == {}
    entry.publish()
    assert home.entries == {"k": entry}
    entry.withdraw()
    assert (home.entries, entry.expires) == ({}, DEAD)


def test_the_newer_entry_of_a_key_stays_when_the_older_one_is_withdrawn() -> None:
    home = Home(None)
    old, new = an_entry(home), an_entry(home)
    old.publish()
    new.publish()
    old.withdraw()
    assert home.entries == {"k": new}
    assert new.expires == math.inf


def test_what_dies_while_it_is_published_is_not_found() -> None:
    """1. It is about to be put where others find it. 2. Another thread drops it. 3. It is put there."""

    class Entries(dict[Any, Entry]):
        def __setitem__(self, key: Any, entry: Entry) -> None:
            entry.withdraw()
            super().__setitem__(key, entry)

    home = Home(None)
    home.entries = Entries()
    an_entry(home).publish()
    assert home.entries == {}


def test_what_is_dead_already_leaves_the_newer_entry_of_its_key() -> None:
    class Entries(dict[Any, Entry]):
        def __setitem__(self, key: Any, entry: Entry) -> None:
            super().__setitem__(key, entry)
            if entry is not newer:
                newer.publish()

    home = Home(None)
    home.entries = Entries()
    newer, dead = an_entry(home), an_entry(home)
    dead.expires = DEAD
    dead.publish()
    assert home.entries == {"k": newer}


def test_a_home_counts_the_hits_of_what_is_there_and_of_what_has_left() -> None:
    home = Home(None)
    one, other = an_entry(home, "one"), an_entry(home, "other")
    for entry in (one, other):
        entry.publish()
    one.hits, other.hits = 2, 3
    assert home.hits() == 5
    one.withdraw()
    other.hits += 1
    assert home.hits() == 6
    assert home.hits() == home.counts.hits == 6


def test_hits_are_counted_once_whoever_counts_them() -> None:
    counts = NearCounts()
    home, other = Home(None, counts=counts), Home(None, counts=counts)
    entry = an_entry(home)
    entry.publish()
    entry.hits = 4
    entry.count()
    assert home.hits() == other.hits() == 4
    entry.hits += 1
    entry.withdraw()
    entry.hits += 1  # of a reader that has found it before
    entry.withdraw()  # whoever was interrupted withdraws it once more
    assert counts.hits == 6
