"""A process that joins the group for a moment, to do something there for a person."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..cache import Cache
from ..host import Host
from ..member import Member
from .output import Output


class _Visiting(Member):
    """It says nothing of its coming and going: its user sees the result, and what keeps it from joining."""

    def _tell_joining(self, outcome: Host | Exception | None) -> None:
        """Say nothing: `Member.start` raises what keeps this process from joining."""


class Visitor(Cache):
    """The cache of such a process."""

    _member_type = _Visiting


class _Handler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__(logging.WARNING)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.warn(record.getMessage())


@contextlib.contextmanager
def hear(output: Output) -> Iterator[None]:
    """Show warnings of the log as lines, for as long as this lasts."""
    logger, handler = logging.getLogger("colocache"), _Handler(output)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
