"""What a caller gives with a value, and how large it may be."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..interruptions import raise_if_from_handler

MAX_VALUE = 1 << 20  # bytes of one encoded value
MAX_TAG = 250  # bytes of UTF-8
MAX_TAGS = 64  # per value


class EntryOptions(NamedTuple):
    """For how long a value may be kept, in seconds (infinity is for ever), and the tags that it carries."""

    ttl: float = math.inf
    tags: tuple[str, ...] = ()


def check_tag(tag: str) -> str:
    """Return ``tag``, or raise TypeError or ValueError if it cannot travel."""
    if type(tag) is not str:
        raise TypeError(f"a tag is a str, not {type(tag).__name__}: {tag!r:.60}")
    try:
        size = len(tag.encode())
    except UnicodeEncodeError as error:
        raise_if_from_handler(error)
        raise ValueError(f"the tag {tag!r:.60} has characters that UTF-8 cannot carry") from None
    if not 0 < size <= MAX_TAG:
        raise ValueError(f"the tag {tag!r:.60} takes {size} bytes; 1 to {MAX_TAG} are allowed")
    return tag
