"""What a caller gives with a value."""

from __future__ import annotations

import math
from typing import NamedTuple


class EntryOptions(NamedTuple):
    """For how long a value may be kept, in seconds (infinity is for ever), and the tags that it carries."""

    ttl: float = math.inf
    tags: tuple[str, ...] = ()
