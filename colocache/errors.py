"""All exceptions that colocache defines. This module imports nothing of the project."""

from __future__ import annotations

from typing import Any


class ColocacheError(Exception):
    """The base of colocache's exceptions. An exception of a loader reaches the caller as it is."""


class ConfigError(ColocacheError, ValueError):
    """A setting, or the place that it names, cannot be used. The text says which, its value, and what to do."""


class CannotJoin(ConfigError):
    """This process cannot share a cache with others on this host for now. The text says why, and what to do."""


class ClosedError(ColocacheError, RuntimeError):
    """The cache was closed, or was closed while the call waited."""


class WireError(ColocacheError, ValueError):
    """A frame does not parse under this protocol version and its limits."""


class OversizeError(ColocacheError):
    """A value is too large, too deep or too long for the cache. The caller gets it; the cache does not keep it.

    `Codec.encode` raises it. The cache counts it as ``oversize``, and no caller of the cache sees it.
    """


class RecursiveLoadError(ColocacheError, RuntimeError):
    """A loader asked for the same key that it loads, so it would wait for itself.

    It is also raised if a task or thread that the loader has started asked for the key, and the load did not end within
    the load timeout.
    """


class EventLoopError(ColocacheError, RuntimeError):
    """A method was called on the thread of a running event loop, and would have to wait there.

    `get_or_load` would have to load, or to wait for a load. In a group of several hosts, many methods would have to
    wait for another host: see `Space`. Nothing was done. Await the twin of the method.
    """


class InvalidationIncomplete(ColocacheError):
    """An invalidation with ``strict=True`` is not complete: this process cannot join, or other hosts have not answered.

    ``receipt`` is the `Receipt`. Other processes may go on serving the old value.
    """

    def __init__(self, receipt: Any) -> None:
        super().__init__(f"this process cannot invalidate what the others have: {receipt}")
        self.receipt = receipt
