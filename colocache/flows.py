"""What a call does, step by step, written once and driven two ways.

A flow is a generator. It yields `Wait` for what the bus thread is to answer, and `Call` for the user's function; `run`
carries these out in a thread or greenlet, `arun` in a task. Whoever waits has an answer of its own, so that a cancelled
waiter harms nobody else. When a step raises, the step's own function is told, the flow is closed, and the exception
goes on to the caller as it is: thrown into the flow, a generator, StopIteration would come out of it as RuntimeError.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from .core.entry import Entry
from .core.reads import Found, Lead, Solo
from .errors import EventLoopError, RecursiveLoadError
from .waiting import Answer, on_hub

T = TypeVar("T")


class Wait(NamedTuple):
    """Ask the bus, and wait for what it answers."""

    ask: Callable[[], Answer]  # called only where waiting is allowed: a call that is refused has done nothing
    timeout: float  # s; the bus answers well before, unless its thread is in trouble
    otherwise: Any  # what a wait that took too long gives
    abandon: Callable[[Answer], None]  # told if the wait took too long, or was interrupted or cancelled
    local: bool = False  # answered by this process alone, at once: allowed on an event loop's thread


class Call(NamedTuple):
    """Call the user's loader, and await what it gives where that can be awaited."""

    loader: Callable[[], Any]
    failed: Callable[[BaseException], None]  # told what the loader raised


Flow = Generator[Wait | Call, Any, T]


def run(flow: Flow[T]) -> T:
    """Drive a flow in this thread. Raises EventLoopError where it would have to wait on an event loop's thread."""
    answer: Any = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as end:
            return cast(T, end.value)
        try:
            answer = _wait(step) if isinstance(step, Wait) else _call(step)
        except BaseException:
            flow.close()
            raise


async def arun(flow: Flow[T]) -> T:
    """Drive a flow in this task."""
    answer: Any = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as end:
            return cast(T, end.value)
        try:
            answer = await (_await(step) if isinstance(step, Wait) else _acall(step))
        except BaseException:
            flow.close()
            raise


def _wait(step: Wait) -> Any:
    if not step.local:
        _refuse_to_stop_a_loop()
    try:
        with _asked(step) as answer:
            return answer.result(step.timeout)
    except TimeoutError:
        return step.otherwise


async def _await(step: Wait) -> Any:
    try:
        with _asked(step) as answer:
            return await answer.awaited(step.timeout)
    except TimeoutError:
        return step.otherwise


@contextlib.contextmanager
def _asked(step: Wait) -> Iterator[Answer]:
    answer = step.ask()
    try:
        yield answer
    except BaseException:
        step.abandon(answer)
        raise


def _call(step: Call) -> Any:
    try:
        value = step.loader()
        if inspect.iscoroutine(value):
            value.close()  # nobody will await it, and it would complain
        if inspect.isawaitable(value):
            raise TypeError(f"{step.loader!r} is to be awaited; load with the a-twin of the method that was called")
        return value
    except BaseException as error:
        step.failed(error)
        raise


async def _acall(step: Call) -> Any:
    try:
        value = step.loader()
        return await value if inspect.isawaitable(value) else value
    except BaseException as error:
        step.failed(error)
        raise


def _refuse_to_stop_a_loop() -> None:
    """Raise EventLoopError on the thread of an event loop, or in a callback of gevent's hub.

    Even if the answer is there already: whether it comes in time is chance, and chance must not decide.
    """
    asyncio = sys.modules.get("asyncio")  # no loop runs where nobody has imported it
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise EventLoopError(
            "this call would have to wait, and would stop the event loop that runs on this thread; "
            "await its twin instead: aget, aget_or_load, ainvalidate, …"
        )
    if on_hub():
        raise EventLoopError(
            "this call would have to wait, and would stop gevent's hub, of which this is a callback; "
            "call it in a greenlet instead: gevent.spawn(…)"
        )


# --- Loading ----------------------------------------------------------------------------------------------------


class _Load:
    """A load under way in this thread or task, and in what it has started."""

    __slots__ = ("active", "cache", "oldest", "wire")

    def __init__(self, cache: int, wire: bytes) -> None:
        self.cache = cache
        self.wire = wire
        self.active = True
        self.oldest = math.inf  # see `served_while_behind`


_loads: ContextVar[tuple[_Load, ...]] = ContextVar("colocache_loads", default=())


def served_while_behind(loaded_at: float) -> None:
    """A value of that age was served by a member that is behind: what a loader makes of it counts as no younger."""
    for load in _loads.get():
        load.oldest = min(load.oldest, loaded_at)


class Loading(Protocol):
    """One get-or-load, as far as `get_or_load` needs to know it."""

    @property
    def cache(self) -> int:
        """Tells one cache of this process from another."""

    @property
    def key(self) -> object:
        """The key as the user wrote it, for error texts."""

    @property
    def wire(self) -> bytes:
        """The key as it travels."""

    @property
    def loader(self) -> Callable[[], Any]:
        """The user's function."""

    def ask(self) -> Flow[Found | Lead | Solo]:
        """Ask for the value, or for the duty to load it."""

    def use(self, entry: Entry) -> Any:
        """Return the value of an entry. Raises ValueError if this process cannot decode it."""

    def undecodable(self, error: ValueError) -> None:
        """The value cannot be decoded here, and is loaded instead."""

    def failed(self, outcome: Found | Lead | Solo, error: BaseException) -> None:
        """The loader raised."""

    def loaded(self, outcome: Found | Lead | Solo, value: Any, oldest: float) -> None:
        """The loader gave a value, made of cached ones as old as ``oldest``. TypeError if it cannot be carried."""


def get_or_load(loading: Loading) -> Flow[Any]:
    """Get the value, wait for somebody's load of it, or load it: for the group, or where that cannot be, for oneself.

    Raises RecursiveLoadError if this thread or task is loading the key already: it would wait for itself.
    """
    outer = _loads.get()
    if any(load.active and load.cache == loading.cache and load.wire == loading.wire for load in outer):
        raise RecursiveLoadError(f"the loader of the key {shown(loading.key)} asks for that same key")
    outcome = yield from loading.ask()
    if isinstance(outcome, Found):
        try:
            return loading.use(outcome.entry)
        except ValueError as error:
            loading.undecodable(error)
    load = _Load(loading.cache, loading.wire)
    marker = _loads.set((*outer, load))
    try:
        value = yield Call(loading.loader, partial(loading.failed, outcome))
    finally:
        load.active = False
        with contextlib.suppress(ValueError):  # an abandoned coroutine may be closed in another context than its own
            _loads.reset(marker)
    loading.loaded(outcome, value, load.oldest)
    return value


def shown(key: object) -> str:
    """Return a key as error texts name it."""
    try:
        return repr(key)[:100]
    except ValueError:  # an int of more than 4300 digits, which Python does not write out
        return f"<a {type(key).__name__}>"
