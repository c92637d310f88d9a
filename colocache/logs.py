"""The package's log, as the bus thread writes it."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import Any

from .waiting import hand_over

_logger = logging.getLogger("colocache")


class Log:
    """Writes to the logger ``colocache``, from any thread.

    Where gevent has patched the locks of the log handlers, the bus thread must not wait for them: while greenlets take
    a lock by turns, a thread that wants it may never get it, and the leases run out. There a greenlet writes instead.
    """

    def info(self, text: str, *details: object) -> None:
        """Tell what is as it should be."""
        _write(logging.INFO, text, *details)

    def warning(self, text: str, *details: object) -> None:
        """Tell of a trouble that the cache can live with."""
        _write(logging.WARNING, text, *details)

    def exception(self, text: str, *details: object) -> None:
        """Tell of the exception that is being handled."""
        _write(logging.ERROR, text, *details, exc_info=sys.exception())


def _write(level: int, text: str, *details: object, **more: Any) -> None:
    if not hand_over(partial(_logger.log, level, text, *details, **more)):
        _logger.log(level, text, *details, stacklevel=3, **more)
