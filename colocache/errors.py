"""Every exception that colocache raises on its own account. Imports nothing of the project."""

from __future__ import annotations

from typing import Any


class ColocacheError(Exception):
    """The base of all of colocache's exceptions. A loader's own exception is never wrapped in it."""


class ConfigError(ColocacheError, ValueError):
    """A setting, or the place that it names, cannot be used; the text names it, its value and what to do."""


class ClosedError(ColocacheError, RuntimeError):
    """The cache was closed, or was closed while the call waited."""


class WireError(ColocacheError, ValueError):
    """A frame that does not parse under this protocol version and its limits."""


class OversizeError(ColocacheError):
    """A value is too large, too deep or too long to be carried: it is used, and not kept.

    `Codec.encode` raises it. The cache counts it as ``oversize``, and no caller of the cache sees it.
    """


class RecursiveLoadError(ColocacheError, RuntimeError):
    """A loader asked for the very key that it is loading, which would wait for itself.

    Or a task or thread that it has started did, and the load did not end within the load timeout.
    """


class EventLoopError(ColocacheError, RuntimeError):
    """A sync method that would have to wait was called on the thread of a running event loop."""


class InvalidationIncomplete(ColocacheError):
    """An invalidation that was to be complete (``strict=True``) is not; ``receipt``, a `Receipt`, says what is known.

    The event goes on being delivered all the same.
    """

    def __init__(self, receipt: Any) -> None:
        super().__init__(f"the invalidation is not acknowledged by everybody: {receipt}")
        self.receipt = receipt
