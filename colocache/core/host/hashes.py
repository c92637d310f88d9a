"""The hashes by which keys, namespaces and tags have their places in the memory of a host.

They are XXH3, which is fast and not cryptographic. A value is found by its whole key, so an equal hash costs at most
the place of another value, or its life.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

_KEY, _NAMESPACE, _TAG = 1, 2, 3  # seeds: a key, a namespace and a tag of the same text have different places

#: The hash of everything: of the namespace above all others.
ROOT = 0

#: What turns the hash of a key into the hash of the writes to it: their marks lie in the same page of the board.
#: Another bit for each mark, because of keys whose marks differ by just that bit: if it were one bit, a write would
#: stamp all four marks of each 95,000th key, and void what it has just written.
WRITES = 256 | 128 << 9 | 64 << 18 | 32 << 27

#: The hash of all tags together: every invalidation of a tag stamps it, before the tag.
ANY_TAG = xxh3_64_intdigest(b"", _TAG)


def key_hash(wire: bytes) -> int:
    """Return the hash of a wire key."""
    return xxh3_64_intdigest(wire, _KEY)


def namespace_hash(path: str) -> int:
    """Return the hash of a namespace; `ROOT` if its path is empty."""
    return xxh3_64_intdigest(path.encode("utf-8", "surrogatepass"), _NAMESPACE) if path else ROOT


def tag_hash(tag: str) -> int:
    """Return the hash of a tag."""
    return xxh3_64_intdigest(tag.encode("utf-8", "surrogatepass"), _TAG)


def path_hashes(path: str) -> tuple[int, ...]:
    """Return the hashes of a namespace and of those above it, the root first."""
    parts = path.split("/") if path else []
    return (ROOT, *(namespace_hash("/".join(parts[: end + 1])) for end in range(len(parts))))
