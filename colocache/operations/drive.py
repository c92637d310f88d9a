"""The two ways to drive a flow: `run` in a thread or greenlet, and `arun` in a task.

Each call that waits has an answer of its own, so a call that is cancelled harms no other. When a step raises, the flow
is closed, and the exception goes to the caller as it is. It is not thrown into the flow, because a generator
turns StopIteration into RuntimeError.

No user's function is called inside an ``except`` block, because its exceptions would name ours as their context.

An exception of a signal handler can come between any two instructions. So the flow is closed in all cases, and a flow
that may be given a duty, to load a key, gives it back in a ``finally``.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..core.host.claims import Sleep
from ..errors import EventLoopError
from ..interruptions import value_of
from ..runtime.waiting.answers import Answer
from ..runtime.waiting.greenlets import on_hub
from .flow import Flow
from .load import Run

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

LOOK_EVERY = 0.1  # s between two looks at whether anybody still waits for a load that goes on without its caller


def run(flow: Flow[T]) -> T:
    """Drive a flow in this thread. Raise EventLoopError on an event loop's thread, where nobody may wait.

    It is raised even if the value is there already. Whether somebody loads it at this moment is chance, and chance must
    not decide.
    """
    _refuse_to_stop_a_loop(flow, "aget_or_load")
    return _run(flow)


def finish(flow: Flow[T], may_wait: bool) -> T:
    """Drive a flow in this thread that waits only for other hosts. ``may_wait`` says whether there can be any.

    If so, raise EventLoopError on an event loop's thread before anything is done.
    """
    if may_wait:
        _refuse_to_stop_a_loop(flow, "its name has an a in front, as that of ainvalidate")
    return _run(flow)


def _run(flow: Flow[T]) -> T:
    answer: Any = None
    try:
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return cast(T, value_of(end))
            answer = _sleep(step) if isinstance(step, Sleep) else _load(step)
    finally:
        flow.close()


async def arun(flow: Flow[T]) -> T:
    """Drive a flow in this task. A loader runs in a task of its own, which may outlive this one: see `_aload`."""
    answer: Any = None
    try:
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                return cast(T, value_of(end))
            answer = await (_asleep(step) if isinstance(step, Sleep) else _aload(step))
    finally:
        flow.close()


def _sleep(step: Sleep) -> Any:
    """Return what has woken this thread, or `TOO_LATE`."""
    if step.block is not None and step.block():
        return None
    answer = Answer()
    step.register(answer.give)
    return answer.result(step.seconds)


async def _asleep(step: Sleep) -> Any:
    answer = Answer()
    step.register(answer.give)
    return await answer.awaited(step.seconds)


def _load(load: Run) -> Any:
    try:
        value = load.call()
        if inspect.iscoroutine(value):
            value.close()  # nobody will await it, and it would complain
        if inspect.isawaitable(value):
            raise TypeError(f"{load.duty.loader!r} is to be awaited; load with the a-twin of the method you called")
        load.succeed(value)
    except BaseException as error:
        load.fail(error)
        raise
    finally:
        load.runner = None  # without a call, of which a signal handler may take the place; see `UnderWay.runner`
    return value


async def _aload(load: Run) -> Any:
    """Load in a task of its own, in a copy of this context, and wait for it.

    If this task is cancelled meanwhile, the load goes on while other calls wait for it. Otherwise a load that takes
    longer than each of its callers may wait would never end. If no other call waits, the load is cancelled too, and it
    has ended when this task goes on, so the loader may use what belongs to its caller.
    """
    import asyncio  # a loop runs: it is imported already

    task = asyncio.create_task(_in_own_task(load), name="colocache load")
    task.add_done_callback(load.on_task_end)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        load.lose_caller()
        if load.duty.is_awaited() and not task.done():
            load.duty.on_detach()
            _let_go_on(task, load)
        else:
            await _cancelled(task)
        raise
    try:
        return task.result()
    finally:
        del task  # its exception, if it has one, knows this frame: they would keep each other


async def _in_own_task(load: Run) -> Any:
    try:
        value = load.call()
        if inspect.isawaitable(value):
            value = await value
        load.succeed(value)
    except BaseException as error:
        load.fail(error)
        raise
    finally:
        load.runner = None  # without a call, of which a signal handler may take the place; see `UnderWay.runner`
    return value


def _let_go_on(task: asyncio.Task[Any], load: Run) -> None:
    """Let a load go on without its caller while another call waits for it, and for the load timeout at most.

    The timer also keeps the task alive, while its loop lives. Nothing tells when the last call that waits has gone, so
    the timer looks again and again: what the loader uses may be closed with its request.
    """
    loop = task.get_loop()
    ends = loop.time() + load.duty.timeout

    def look() -> None:
        if task.done():
            return
        if loop.time() >= ends or not load.duty.is_awaited():
            task.cancel()
        else:
            loop.call_later(min(LOOK_EVERY, ends - loop.time()), look)

    look()


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel a load that nobody needs, and wait for its end, even if its caller is cancelled again.

    Cancel scopes of anyio do that all the time, and must not disturb a loader that puts things in order.
    """
    import asyncio

    task.cancel()
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((task,))


def _refuse_to_stop_a_loop(flow: Flow[Any], twin: str) -> None:
    """Raise EventLoopError on the thread of an event loop, or in a callback of gevent's hub."""
    why = why_not_to_wait(twin)
    if why:
        flow.close()
        raise EventLoopError(why)


def why_not_to_wait(twin: str = "") -> str:
    """Return why nobody may wait here: on the thread of an event loop, or in a callback of gevent's hub; "" if not.

    ``twin`` says which method the caller is to await instead.
    """
    asyncio = sys.modules.get("asyncio")  # no loop runs where nobody has imported it
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return (
            "this call would have to wait, and would stop the event loop that runs on this thread; "
            f"await its twin instead: {twin}. A decorated function has none: write it as "
            "async def, or call it by await asyncio.to_thread(...)"
        )
    if "gevent" in sys.modules and on_hub():
        return (
            "this call would have to wait, and would stop gevent's hub, of which this is a callback; "
            "call it in a greenlet instead: gevent.spawn(…)"
        )
    return ""
