"""colocache: a cache for the worker processes of one host or several, in shared memory, with no server to run.

    cache = colocache.Cache("shop")

    @cache.cached(ttl=60)
    def profile(user_id): ...

Hits at dictionary speed, one load of a missing key in the whole group, and an `invalidate()` that is true when it
returns. See `Cache`.
"""

from __future__ import annotations

from .auditing import Difference
from .cache import Cache
from .config import Config
from .core.entry import MISSING
from .core.receipt import Receipt
from .decorators import Cached, CacheInfo
from .errors import (
    ClosedError,
    ColocacheError,
    ConfigError,
    EventLoopError,
    InvalidationIncomplete,
    OversizeError,
    RecursiveLoadError,
    WireError,
)
from .group_stats import GroupStats, HostStats, ProcessStats, SpaceStats
from .hosts import HostInfo
from .inspection import EventInfo, KeyInfo
from .member import MemberInfo
from .space import Space
from .stats import Stats
from .values.codec import Codec
from .values.msgpack_codec import MsgpackCodec
from .values.pickle_codec import PickleCodec
from .version import __version__

__all__ = [
    "MISSING",
    "Cache",
    "CacheInfo",
    "Cached",
    "ClosedError",
    "Codec",
    "ColocacheError",
    "Config",
    "ConfigError",
    "Difference",
    "EventInfo",
    "EventLoopError",
    "GroupStats",
    "HostInfo",
    "HostStats",
    "InvalidationIncomplete",
    "KeyInfo",
    "MemberInfo",
    "MsgpackCodec",
    "OversizeError",
    "PickleCodec",
    "ProcessStats",
    "Receipt",
    "RecursiveLoadError",
    "Space",
    "SpaceStats",
    "Stats",
    "WireError",
    "__version__",
]
