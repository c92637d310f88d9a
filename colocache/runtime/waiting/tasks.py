"""Tasks of asyncio: how they wait."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ...interruptions import raise_if_from_handler
from .threads import Register

if TYPE_CHECKING:
    import asyncio


SPARE = 0.01  # s from a timer to the one that stands in for it


async def wait(register: Register, timeout: float) -> None:
    """Wait in this task until the waker is called, for ``timeout`` seconds at most."""
    import asyncio  # here, so that sync programs do not pay for its import

    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    register(partial(_wake_from_elsewhere, loop, future))
    # Not wait_for: until Python 3.12 it swallows a cancellation that comes together with the answer.
    # Twice, here and below, because an exception of a signal handler in such a callback goes to the loop, and the task
    # would sleep for ever.
    too_late = [loop.call_later(seconds, _wake, future) for seconds in (timeout, timeout + SPARE)]
    try:
        await future
    finally:
        for timer in too_late:
            timer.cancel()


def _wake_from_elsewhere(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_wake, future)
        loop.call_soon_threadsafe(_wake, future)
    except RuntimeError as error:
        raise_if_from_handler(error)
        if not loop.is_closed():  # if it is closed, nobody waits
            raise


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():  # it may be cancelled, or out of time
        future.set_result(None)
