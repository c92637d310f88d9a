"""What a call does, step by step, written once and driven two ways.

A flow is a generator. It yields `Wait` for what the bus thread is to answer, and `Load` for the user's function; `run`
carries these out in a thread or greenlet, `arun` in a task. Whoever waits has an answer of its own, so that a cancelled
waiter harms nobody else. When a step raises, the step's own function is told, the flow is closed, and the exception
goes on to the caller as it is: thrown into the flow, a generator, StopIteration would come out of it as RuntimeError.

No user's function is called inside an `except` block, because its exceptions would name ours as their context.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import threading
from collections.abc import Callable, Generator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

from ..core.entry import Entry
from ..core.group.outcomes import Found, Lead, Solo
from ..errors import EventLoopError, RecursiveLoadError
from ..runtime.waiting.answers import TOO_LATE, Answer
from ..runtime.waiting.greenlets import on_hub

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

LOOK_EVERY = 0.1  # s between two looks at whether anybody still waits for a load that goes on without its caller

#: Loads of one key that may run inside each other. There can be two where the outer one's value is void already.
MAX_NESTED = 3


class Wait(NamedTuple):
    """Ask the bus, and wait for what it answers."""

    ask: Callable[[], Answer]  # called only where waiting is allowed: a call that is refused has done nothing
    timeout: float  # s; the bus answers well before, unless its thread is in trouble
    otherwise: Any  # what a wait that took too long gives
    abandon: Callable[[Answer], None]  # told if the wait took too long, or was interrupted or cancelled
    local: bool = False  # answered by this process alone, at once: allowed on an event loop's thread


Flow = Generator["Wait | Load", Any, T]


def run(flow: Flow[T]) -> T:
    """Drive a flow in this thread. Raises EventLoopError where it would have to wait on an event loop's thread."""
    answer: Any = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as end:
            return cast(T, end.value)
        try:
            answer = _wait(step) if isinstance(step, Wait) else _load(step)
        except BaseException:
            flow.close()
            raise


async def arun(flow: Flow[T]) -> T:
    """Drive a flow in this task. A loader runs in a task of its own, which may outlive this one: see `_aload`."""
    answer: Any = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as end:
            return cast(T, end.value)
        try:
            answer = await (_await(step) if isinstance(step, Wait) else _aload(step))
        except BaseException:
            flow.close()
            raise


def _wait(step: Wait) -> Any:
    if not step.local:
        _refuse_to_stop_a_loop()
    answer = step.ask()
    try:
        outcome = answer.result(step.timeout)
    except BaseException:
        step.abandon(answer)
        raise
    return _in_time(step, answer, outcome)


async def _await(step: Wait) -> Any:
    answer = step.ask()
    try:
        outcome = await answer.awaited(step.timeout)
    except BaseException:
        step.abandon(answer)
        raise
    return _in_time(step, answer, outcome)


def _in_time(step: Wait, answer: Answer, outcome: Any) -> Any:
    if outcome is TOO_LATE:
        step.abandon(answer)
        return step.otherwise
    return outcome


def _load(load: Load) -> Any:
    with load:
        value = load.loader()
        if inspect.iscoroutine(value):
            value.close()  # nobody will await it, and it would complain
        if inspect.isawaitable(value):
            raise TypeError(f"{load.loader!r} is to be awaited; load with the a-twin of the method that was called")
    load.succeed(value)
    return value


async def _aload(load: Load) -> Any:
    """Load in a task of its own, in a copy of this context, and wait for it.

    If this task is cancelled meanwhile, the load goes on if others wait for it. Otherwise a load that takes longer than
    each of its callers may wait would never end. If nobody waits it is cancelled, too, and has ended when this task
    goes on, so that it may use what belongs to its caller.
    """
    import asyncio  # a loop runs: it is imported already

    task = asyncio.create_task(_in_own_task(load), name="colocache load")
    task.add_done_callback(load.settle)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        load.lose_caller()
        if load.is_awaited() and not task.done():
            load.detach()
            _let_go_on(task, load)
        else:
            await _cancelled(task)
        raise
    try:
        return task.result()
    finally:
        del task  # its exception, if it has one, knows this frame: they would keep each other


async def _in_own_task(load: Load) -> Any:
    with load:
        value = load.loader()
        if inspect.isawaitable(value):
            value = await value
    load.succeed(value)
    return value


def _let_go_on(task: asyncio.Task[Any], load: Load) -> None:
    """Let a load go on without its caller while anybody waits for it, and for the load timeout at most.

    The timer is also what keeps the task, while its loop lives. Nobody tells when the last one who waits has gone, so
    that is looked at again and again: what the loader uses may be closed with its request.
    """
    loop = task.get_loop()
    ends = loop.time() + load.timeout

    def look() -> None:
        if task.done():
            return
        if loop.time() >= ends or not load.is_awaited():
            task.cancel()
        else:
            loop.call_later(min(LOOK_EVERY, ends - loop.time()), look)

    look()


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a load that nobody needs, and wait for its end, though its caller be cancelled again.

    Cancel scopes of anyio do that all the time; but a loader that puts things in order is not to be disturbed.
    """
    import asyncio

    task.cancel()
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((task,))


def _refuse_to_stop_a_loop() -> None:
    """Raise EventLoopError on the thread of an event loop, or in a callback of gevent's hub.

    Even if the answer is there already: whether it comes in time is chance, and chance must not decide.
    """
    asyncio = sys.modules.get("asyncio")  # no loop runs where nobody has imported it
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise EventLoopError(
            "this call would have to wait, and would stop the event loop that runs on this thread; "
            "await its twin instead: aget, aget_or_load, ainvalidate, … A decorated function has none: write it as "
            "async def, or call it by await asyncio.to_thread(...)"
        )
    if on_hub():
        raise EventLoopError(
            "this call would have to wait, and would stop gevent's hub, of which this is a callback; "
            "call it in a greenlet instead: gevent.spawn(…)"
        )


# --- Loading ----------------------------------------------------------------------------------------------------


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

    @property
    def timeout(self) -> float:
        """For how many seconds others wait for a load, at most."""

    def ask(self) -> Flow[Found | Lead | Solo]:
        """Ask for the value, or for the duty to load it."""

    def use(self, entry: Entry) -> Any:
        """Return the value of an entry. Raises ValueError if this process cannot decode it."""

    def undecodable(self, error: ValueError) -> None:
        """The value cannot be decoded here, and is loaded instead."""

    def is_awaited(self, outcome: Found | Lead | Solo) -> bool:
        """Whether anybody besides the caller waits for the load, as far as known here."""

    def detached(self, outcome: Found | Lead | Solo) -> None:
        """The caller of the load was cancelled, and the load goes on."""

    def failed(self, outcome: Found | Lead | Solo, error: BaseException) -> None:
        """The loader raised."""

    def lost(self, error: BaseException) -> None:
        """The loader raised, and its caller was cancelled before."""

    def loaded(self, outcome: Found | Lead | Solo, value: Any, oldest: float) -> None:
        """The loader gave a value, made of cached ones as old as ``oldest``. TypeError if it cannot be carried."""


class Load:
    """A load: the step of a flow that calls the user's function; ``with load:`` while that runs.

    It is known to all that the function starts, by the context. Who waits for whom tells whether a load would wait for
    itself: the caller of a load waits for it, unless it is detached.
    """

    def __init__(self, loading: Loading, outcome: Found | Lead | Solo) -> None:
        self.loader = loading.loader
        self.timeout = loading.timeout
        self.cache = loading.cache
        self.wire = loading.wire
        self.oldest = math.inf  # see `served_while_behind`
        self.caller: object = _runner()  # the thread, task or greenlet that waits for it; None if none does any more
        self.runner: object = None  # the one that loads; None before and after
        self._began = self._is_orphan = False
        self._loading = loading
        self._outcome = outcome
        self._marker: Token[tuple[Load, ...]] | None = None

    def __enter__(self) -> None:
        self._began = True
        self.runner = _runner()
        self._marker = _loads.set((*_active(), self))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner = self.caller = None
        assert self._marker is not None
        with contextlib.suppress(ValueError):  # an abandoned coroutine may be closed in another context than its own
            _loads.reset(self._marker)
        if error is not None:
            self._loading.failed(self._outcome, error)

    def succeed(self, value: Any) -> None:
        """The function gave a value. Raises TypeError if it cannot be carried."""
        self._loading.loaded(self._outcome, value, self.oldest)

    def is_awaited(self) -> bool:
        """Whether anybody besides the caller waits for it."""
        return self._loading.is_awaited(self._outcome)

    def lose_caller(self) -> None:
        """The caller was cancelled, and takes neither value nor exception."""
        self.caller, self._is_orphan = None, True

    def detach(self) -> None:
        """The caller was cancelled, and the load goes on."""
        self._loading.detached(self._outcome)

    def settle(self, task: asyncio.Task[Any]) -> None:
        """Its task has ended. If it was cancelled before it began, the duty to load is given back all the same."""
        if task.cancelled():
            if not self._began:
                self._loading.failed(self._outcome, GeneratorExit())
            return
        error = task.exception()
        if error is not None and self._is_orphan:  # otherwise it is the caller's
            self._loading.lost(error)

    def is_of(self, loading: Loading) -> bool:
        """Whether it loads that key."""
        return self.wire == loading.wire and self.cache == loading.cache


_loads: ContextVar[tuple[Load, ...]] = ContextVar("colocache_loads", default=())


def _active() -> tuple[Load, ...]:
    """Return the loads under way that this thread or task is a part of, or was started by; the outermost first."""
    return tuple(load for load in _loads.get() if load.runner is not None)


def _runner() -> object:
    """Return what tells this thread, task or greenlet from all others that run now."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return asyncio.current_task() or object()  # in a callback of the loop, which nobody waits for
    return threading.get_ident()  # under gevent a greenlet's


def served_while_behind(loaded_at: float) -> None:
    """A value of that age was served by a member that is behind: what a loader makes of it counts as no younger."""
    for load in _loads.get():
        load.oldest = min(load.oldest, loaded_at)


def get_or_load(loading: Loading) -> Flow[Any]:
    """Get the value, wait for somebody's load of it, or load it: for the group, or where that cannot be, for oneself.

    Raises RecursiveLoadError if a load of the key waits for this thread or task: at once where that is certain. A task
    or thread that the loader has started may wait for the load, because the loader need not wait for it. If the load
    still runs when the load timeout is over, or cannot be waited for, they are taken to wait for each other.
    """
    if _waits_for_itself(loading) or _loads_above(loading) >= MAX_NESTED:
        raise RecursiveLoadError(f"the loader of the key {shown(loading.key)} asks for that same key")
    outcome = yield from loading.ask()
    if isinstance(outcome, Found):
        try:
            return loading.use(outcome.entry)
        except ValueError as error:
            loading.undecodable(error)
    if not isinstance(outcome, Lead) and _loads_above(loading):
        raise RecursiveLoadError(
            f"a task or thread that the loader of the key {shown(loading.key)} has started asks for that same key, and "
            "cannot wait any longer for the loader, which may be waiting for it"
        )
    return (yield Load(loading, outcome))


def _loads_above(loading: Loading) -> int:
    """Return how many loads of the key are under way that have, directly or not, started this thread or task."""
    return sum(load.is_of(loading) for load in _active())


def _waits_for_itself(loading: Loading) -> bool:
    """Whether a load of the key waits for this thread or task: it runs it, or it runs a load that does, and so on."""
    waiting = _runner()
    for load in reversed(_active()):
        if load.runner != waiting:  # it has started this task, or one that has; whether it waits nobody knows
            return False
        if load.is_of(loading):
            return True
        waiting = load.caller
    return False


def shown(key: object) -> str:
    """Return a key as error texts name it."""
    try:
        return repr(key)[:100]
    except ValueError:  # an int of more than 4300 digits, which Python does not write out
        return f"<a {type(key).__name__}>"
