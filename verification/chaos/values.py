"""The values of `chaos.py`: a version of a key, and bytes that no other version has, with a checksum over both.

So it shows whether what was read is one value, or parts of two: a torn value is another error than an old one.
"""

from __future__ import annotations

from random import Random
from typing import Any
from zlib import crc32

#: Bytes beside the version. Up to a quarter of the small log of a tiny shelf, and up to what that one declines.
SIZES = (0, 0, 0, 30, 300, 3_000, 30_000, 90_000, 200_000)


class Torn(Exception):
    """What was read is no value of its key."""


def value_of(key: str, version: int) -> dict[str, Any]:
    """Return the value of a version."""
    body = Random(f"{key} {version}").randbytes(_size(key, version))
    return {"version": version, "body": body, "check": _check(key, version, body)}


def version_of(key: str, value: Any) -> int:
    """Return the version of a value. Raise Torn if it is none of the key's."""
    try:
        version, body, check = value["version"], value["body"], value["check"]
        whole = len(value) == 3 and len(body) == _size(key, version) and _check(key, version, body) == check
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise Torn(f"{value!r:.200}")
    return int(version)


def _size(key: str, version: int) -> int:
    """A key keeps its size, but for those that a process sets: they change theirs with every version."""
    return SIZES[(version if key.startswith("s") else int(key[1:])) % len(SIZES)]


def _check(key: str, version: int, body: bytes) -> int:
    return crc32(body, crc32(f"{key} {version}".encode()))
