"""All exceptions that colocache defines. This module imports nothing of the project."""

from __future__ import annotations

from typing import Any


class ColocacheError(Exception):
    """The base of colocache's exceptions. An exception of a loader reaches the caller as it is."""


class ConfigError(ColocacheError, ValueError):
    """A setting, or the place that it names, cannot be used. The text says which, its value, and what to do."""


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
    """A sync method that has to wait was called on the thread of a running event loop."""


class InvalidationIncomplete(ColocacheError):
    """An invalidation with ``strict=True`` is not complete. ``receipt``, a `Receipt`, says who has acknowledged it.

    The event is still being delivered.
    """

    def __init__(self, receipt: Any) -> None:
        super().__init__(f"not all members have acknowledged the invalidation: {receipt}")
        self.receipt = receipt
