"""The keys that histories of several hosts are about."""

from __future__ import annotations

import struct
from typing import NamedTuple

from colocache.core.host.hashes import ROOT, key_hash, namespace_hash, tag_hash

UNIT = struct.Struct("<QQ")  # what stands on the shelf for a value: its number, and the key's


class Item(NamedTuple):
    """A key, and what its values depend on."""

    number: int
    wire: bytes
    hash: int
    hashes: tuple[int, ...]  # of the root, and of what a value depends on beside its key
    things: tuple[str, ...]


def item(number: int, *others: str) -> Item:
    """Return a key that depends on a namespace or a tag, given by its name."""
    wire = b"k%d" % number
    hashes = tuple([tag_hash(other) if other.startswith("tag") else namespace_hash(other) for other in others])
    return Item(number, wire, key_hash(wire), (ROOT, *hashes), ("all", f"k{number}", *others))


#: Key 3 is cold.
ITEMS = {each.number: each for each in (item(0), item(1, "n"), item(2, "tag a"), item(3), item(5, "n", "tag a"))}
HOT = (0, 1, 2)

#: It is made of other keys, by a loader that reads them through the cache.
PAGE = item(4, "tag a")
PARTS = (2, 5)

SETTABLE = item(10)
FIRST_COUNTER = 100
