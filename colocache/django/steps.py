"""Plans: what a backend does with a cache, written once for sync and async callers.

A plan is a generator. It yields each `Step`, and is sent the result. `do` executes the steps in this thread. `ado`
executes them in this task, with the a-twins of the methods.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, NamedTuple, TypeVar

from colocache import EventLoopError, Space

T = TypeVar("T")


class Step(NamedTuple):
    """One call of a method of a space. The name is that of the sync method."""

    space: Space
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Plan = Generator[Step, Any, T]


def step(space: Space, method: str, *args: Any, **kwargs: Any) -> Step:
    """Return the step for a call of a method."""
    return Step(space, method, args, kwargs)


def do(plan: Plan[T]) -> T:
    """Execute a plan in this thread."""
    answer: Any = None
    while True:
        try:
            space, method, args, kwargs = plan.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = here(getattr(space, method), *args, **kwargs)


async def ado(plan: Plan[T]) -> T:
    """Execute a plan in this task."""
    answer: Any = None
    while True:
        try:
            space, method, args, kwargs = plan.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = await getattr(space, f"a{method}")(*args, **kwargs)


def here(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a sync method of a space, also on the thread of a running event loop.

    There the methods refuse to wait. But Django itself calls caches there: by ``cache_page`` around an asynchronous
    view, by the cache tag in its templates, and in places for sessions. So another thread makes the call, and the event
    loop waits for it, as it does for other backends. A hit needs no other thread.
    """
    # No call inside an except clause, because its own exceptions would name that one as their context.
    if asyncio._get_running_loop() is None:
        return call(*args, **kwargs)
    if call.__name__ in _MAY_HIT:
        with suppress(EventLoopError):
            return call(*args, **kwargs)
    return _beside_the_loop(call, *args, **kwargs)


#: The methods that need not wait for a hit.
_MAY_HIT: Final = frozenset({"get", "get_many"})


def _beside_the_loop(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    context, outcome = copy_context(), Future[T]()

    def work() -> None:
        try:
            outcome.set_result(context.run(call, *args, **kwargs))
        except BaseException as error:
            outcome.set_exception(error)

    # No pool of threads, because they would be missing after a fork, and this is the slow path anyway.
    thread = threading.Thread(target=work, name="colocache beside the event loop", daemon=True)
    thread.start()
    thread.join()
    for variable in context:  # for example the fence of a miss
        if variable.get(None) is not context[variable]:
            variable.set(context[variable])
    return outcome.result()
