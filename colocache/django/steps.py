"""What a backend does with a cache, step by step, written once and driven two ways.

A plan is a generator that yields `Step`, and gets what the step gives. `do` carries the steps out in this thread,
`ado` in this task, by the a-twins of the same methods.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, NamedTuple, TypeVar

from colocache import EventLoopError, Space

T = TypeVar("T")


class Step(NamedTuple):
    """One call of a method of a space, by its sync name."""

    space: Space
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Plan = Generator[Step, Any, T]


def step(space: Space, method: str, *args: Any, **kwargs: Any) -> Step:
    """Return the step that calls a method."""
    return Step(space, method, args, kwargs)


def do(plan: Plan[T]) -> T:
    """Carry out a plan in this thread."""
    answer: Any = None
    while True:
        try:
            space, method, args, kwargs = plan.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = here(getattr(space, method), *args, **kwargs)


async def ado(plan: Plan[T]) -> T:
    """Carry out a plan in this task."""
    answer: Any = None
    while True:
        try:
            space, method, args, kwargs = plan.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer = await getattr(space, f"a{method}")(*args, **kwargs)


def here(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Return what a sync method of a space gives, also on the thread of a running event loop.

    There the methods refuse to wait. But Django itself calls caches so: ``cache_page`` around an asynchronous view, the
    cache tag of a template that one renders, sessions in places. So the event loop waits, as it does for other
    backends, until another thread has the answer; a hit needs none of this.
    """
    # Nothing is called while an exception is handled: its own would show that one as what they came from.
    if asyncio._get_running_loop() is None:
        return call(*args, **kwargs)
    if call.__name__ in _MAY_HIT:
        with suppress(EventLoopError):
            return call(*args, **kwargs)
    return _beside_the_loop(call, *args, **kwargs)


#: The methods that may need no waiting.
_MAY_HIT: Final = frozenset({"get", "get_many"})


def _beside_the_loop(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    context, outcome = copy_context(), list[T]()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(context.run(call, *args, **kwargs))
        except BaseException as error:
            raised.append(error)

    # No pool: its threads would be missing after a fork. And this is the slow way anyway.
    thread = threading.Thread(target=work, name="colocache beside the event loop", daemon=True)
    thread.start()
    thread.join()
    for variable in context:  # such as the fence of what was missed
        if variable.get(None) is not context[variable]:
            variable.set(context[variable])
    if raised:
        raise raised[0]
    return outcome[0]
