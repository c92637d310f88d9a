"""Flows whose way is told to the member's tracer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from ..core.keys import Key
from ..interruptions import value_of
from ..tracing import Span, Work
from .flow import Flow
from .keyspace import Keyspace

T = TypeVar("T")


class Told(NamedTuple):
    """What the tracer is told of the outcome of a flow."""

    outcome: str
    hosts: Sequence[str] = ()


def traced(
    keyspace: Keyspace,
    work: Work,
    names: Sequence[Key],
    flow: Flow[T],
    told: Callable[[T], Told],
    *,
    waits: bool = True,
) -> Flow[T]:
    """Trace a flow to its end: from its beginning, or, if it is work that ``waits``, from where it first waits.

    A flow that never waits is not traced then, because it is no such work. Without a tracer it is the flow itself.
    """
    tracer = keyspace.member.tracer
    if tracer is None:
        return flow
    return _traced(partial(tracer.begin, work, keyspace.path, names), flow, told, waits)


def _traced(begin: Callable[[], Span], flow: Flow[T], told: Callable[[T], Told], waits: bool) -> Flow[T]:
    span: Span | None = None if waits else begin()
    answer: Any = None
    try:
        while True:
            try:
                step = flow.send(answer)
            except StopIteration as end:
                outcome = cast(T, value_of(end))
                break
            if span is None:
                span = begin()
            answer = yield step
    except GeneratorExit:  # the caller was cancelled, or interrupted
        if span is not None:
            span.end("interrupted")
        raise
    except BaseException as error:
        if span is not None:
            span.end("failed", error=error)
        raise
    finally:
        flow.close()
    if span is not None:
        word, hosts = told(outcome)
        span.end(word, hosts=hosts)
    return outcome
