"""What a call does, step by step, written once and driven two ways.

A flow is a generator. It yields `Wait` for what the bus thread is to answer, and `Call` for the user's function; `run`
carries these out in a thread, `arun` in a task. Whoever waits has a future of its own, so that a cancelled waiter harms
nobody else.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar, cast

from .core.reads import Found, Lead
from .core.store import Entry
from .errors import EventLoopError, RecursiveLoadError

T = TypeVar("T")


class Wait(NamedTuple):
    """Wait for what the bus answers to one call."""

    future: Future[Any]
    timeout: float  # s; the bus answers well before, unless its thread is in trouble
    otherwise: Any  # what a wait that took too long gives
    local: bool = False  # answered by this process alone, at once: allowed on an event loop's thread


class Call(NamedTuple):
    """Call the user's loader, and await what it gives where that can be awaited."""

    loader: Callable[[], Any]


Flow = Generator[Wait | Call, Any, T]


def run(flow: Flow[T]) -> T:
    """Drive a flow in this thread. Raises EventLoopError where it would have to wait on an event loop's thread."""
    try:
        step = next(flow)
        while True:
            try:
                answer = _wait(step) if isinstance(step, Wait) else _call(step)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        return cast(T, end.value)


async def arun(flow: Flow[T]) -> T:
    """Drive a flow in this task."""
    try:
        step = next(flow)
        while True:
            try:
                answer = await _await(step) if isinstance(step, Wait) else await _acall(step)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(answer)
    except StopIteration as end:
        return cast(T, end.value)


def _wait(step: Wait) -> Any:
    if not step.local and not step.future.done() and _on_event_loop():
        raise EventLoopError(
            "this call would have to wait, and would stop the event loop that runs on this thread; "
            "await its twin instead: aget, aget_or_load, ainvalidate, …"
        )
    try:
        return step.future.result(step.timeout)
    except FutureTimeout:
        return step.otherwise


async def _await(step: Wait) -> Any:
    import asyncio  # here, so that sync programs do not pay for its import

    try:
        return await asyncio.wait_for(asyncio.wrap_future(step.future), step.timeout)
    except asyncio.TimeoutError:
        return step.otherwise


def _call(step: Call) -> Any:
    value = step.loader()
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(f"{step.loader!r} is a coroutine function; load with the a-twin of the method that was called")
    return value


async def _acall(step: Call) -> Any:
    value = step.loader()
    return await value if inspect.isawaitable(value) else value


def _on_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")  # no loop runs where nobody has imported it
    return asyncio is not None and asyncio._get_running_loop() is not None


# --- Loading ----------------------------------------------------------------------------------------------------


class _Load:
    """A load under way in this thread or task, and in what it has started."""

    __slots__ = ("active", "cache", "wire")

    def __init__(self, cache: int, wire: bytes) -> None:
        self.cache = cache
        self.wire = wire
        self.active = True


_loads: ContextVar[tuple[_Load, ...]] = ContextVar("colocache_loads", default=())


class Loading(NamedTuple):
    """One get-or-load: the key, the loader, and what the flow needs of the cache that it belongs to."""

    cache: int
    wire: bytes
    shown: object  # the key as the user wrote it, for error texts
    loader: Callable[[], Any]
    ask: Callable[[], Wait]
    use: Callable[[Entry], Any]  # raises ValueError for a value that this process cannot decode
    loaded: Callable[[int, Any], None]
    failed: Callable[[int], None]
    undecodable: Callable[[ValueError], None]


def get_or_load(loading: Loading) -> Flow[Any]:
    """Get the value, wait for somebody's load of it, or load it: for the group, or where that cannot be, for oneself.

    Raises RecursiveLoadError if this thread or task is loading the key already: it would wait for itself.
    """
    outer = _loads.get()
    if any(load.active and load.cache == loading.cache and load.wire == loading.wire for load in outer):
        raise RecursiveLoadError(f"the loader of the key {loading.shown!r:.100} asks for that same key")
    outcome = yield loading.ask()
    if isinstance(outcome, Found):
        try:
            return loading.use(outcome.entry)
        except ValueError as error:
            loading.undecodable(error)
            outcome = None
    load = _Load(loading.cache, loading.wire)
    marker = _loads.set((*outer, load))
    try:
        value = yield Call(loading.loader)
    except BaseException:
        if isinstance(outcome, Lead):
            loading.failed(outcome.fetch)
        raise
    finally:
        load.active = False
        _loads.reset(marker)
    if isinstance(outcome, Lead):
        loading.loaded(outcome.fetch, value)
    return value
