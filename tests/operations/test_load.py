"""The two drivers, and get-or-load as a flow: without a bus, by answers made by hand."""

from __future__ import annotations

import asyncio
import contextvars
import dis
import gc
import itertools
import math
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import cache
from types import CodeType, FrameType
from typing import Any, TypeVar

import pytest

from colocache import EventLoopError, RecursiveLoadError
from colocache.core.entry import Entry
from colocache.core.group.outcomes import Found, Lead, Solo
from colocache.naming import shown
from colocache.operations import under_way
from colocache.operations.drive import arun, run
from colocache.operations.flow import Flow, Wait
from colocache.operations.load import Duty, Load, LoadFlow, load_or_wait
from colocache.operations.under_way import MAX_NESTED, note_age
from colocache.runtime.waiting.answers import Answer
from tests.conftest import NewCache
from tests.loaders import never

T = TypeVar("T")


class Asking:
    """A driver that answers one question at once, or (`PENDING`) not before the test does; it notes who gave up."""

    PENDING = object()

    def __init__(self, answer: Any) -> None:
        self.answer = Answer()
        self.asked = 0
        self.abandoned: list[Answer] = []
        if answer is not self.PENDING:
            self.answer.give(answer)

    def wait(self, limit: float = 30.0, *, local: bool = False) -> Wait:
        return Wait(self, lambda *_: None, limit, "otherwise", local)  # type: ignore[arg-type]

    def new_call(self) -> Answer:
        return self.answer

    def ask(self, command: object, otherwise: object, answer: Answer) -> None:
        self.asked += 1

    def abandon(self, answer: Answer) -> None:
        self.abandoned.append(answer)


class Ask:
    """A `load.Duty` whose member answers as told, and that notes what it hears."""

    timeout = 30.0

    def __init__(
        self, outcome: Found | Lead | Solo, loader: Callable[[], Any], *, key: object = "key", wire: bytes = b"\0skey",
        cache: int = 1, readable: bool = True, awaited: bool = False,
    ) -> None:  # fmt: skip
        self.outcome = outcome
        self.loader = loader
        self.key = key
        self.load_id = cache, wire
        self.readable = readable
        self.awaited = awaited
        self.is_open = False
        self.heard: list[tuple[str, Any]] = []

    def ask(self) -> Flow[Any]:
        self.is_open = True
        outcome = yield Asking(self.outcome).wait()
        self.is_open = isinstance(outcome, Lead)
        return outcome

    def use(self, entry: Entry) -> Any:
        if not self.readable:
            raise ValueError("unreadable")
        return entry.value

    def on_undecodable(self, error: ValueError) -> None:
        self.heard.append(("undecodable", str(error)))

    def is_awaited(self) -> bool:
        return self.awaited

    def on_detach(self) -> None:
        self.is_open = False
        self.heard.append(("detached", self.outcome))

    def on_lost(self, error: BaseException) -> None:
        self.heard.append(("lost", error))

    def fail(self, error: BaseException) -> None:
        self.is_open = False
        self.heard.append(("failed", (self.outcome, error)))

    def give_back(self) -> None:
        self.is_open = False
        self.heard.append(("given back", self.outcome))

    def succeed(self, value: Any, oldest: float) -> None:
        self.is_open = False
        self.heard.append(("loaded", (self.outcome, value)))
        if oldest < math.inf:
            self.heard.append(("oldest", oldest))

    @property
    def errors(self) -> list[BaseException]:
        """What the loader is known to have raised."""
        return [details[1] for what, details in self.heard if what == "failed"]


class Joining(Ask):
    """A duty whose question waits for the test, and finds another call's value."""

    def __init__(self, asking: Asking) -> None:
        super().__init__(Solo(), lambda: pytest.fail("loaded"))
        self.asking = asking

    def ask(self) -> Flow[Any]:
        return (yield self.asking.wait())


def steps(*given: Wait | Callable[[], Any] | Ask) -> LoadFlow[list[Any]]:
    """A flow of these steps, of which some are loaders, which gives their answers."""
    answers = []
    for step in given:
        if isinstance(step, Wait):
            answers.append((yield step))
        else:
            answers.append((yield Load(step if isinstance(step, Ask) else Ask(Lead(1), step))))  # type: ignore[arg-type]
    return answers


def drive_sync(flow: Flow[Any]) -> Any:
    return run(flow)


def drive_async(flow: Flow[Any]) -> Any:
    return asyncio.run(arun(flow))


@pytest.fixture(params=[drive_sync, drive_async], ids=["run", "arun"])
def drive(request: pytest.FixtureRequest) -> Callable[[Flow[Any]], Any]:
    return request.param


# --- Both drivers


def test_a_flow_gets_the_answers_of_its_steps(drive: Callable[[Flow[Any]], Any]) -> None:
    assert drive(steps(Asking("a").wait(), lambda: "b", Asking(None).wait())) == ["a", "b", None]


def test_a_wait_that_takes_too_long_gives_the_other_answer_and_is_abandoned(
    drive: Callable[[Flow[Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colocache.operations.drive.GRACE", 0.0)
    asking = Asking(Asking.PENDING)
    assert drive(steps(asking.wait(0.001))) == ["otherwise"]
    assert asking.abandoned == [asking.answer]


def test_what_is_answered_is_not_abandoned(drive: Callable[[Flow[Any]], Any]) -> None:
    asking = Asking("a")
    drive(steps(asking.wait()))
    assert (asking.asked, asking.abandoned) == (1, [])


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_a_loader_raises_is_reported_and_raised_as_it_is(
    drive: Callable[[Flow[Any]], Any], kind: type[BaseException]
) -> None:
    error, cleaned = kind("broken"), []

    def flow() -> Flow[None]:
        try:
            yield Load(ask)
        finally:
            cleaned.append(True)

    def fail() -> None:
        raise error

    ask = Ask(Lead(1), fail)
    with pytest.raises(kind) as raised:
        drive(flow())
    assert raised.value is error
    assert (ask.errors, cleaned) == ([error], [True])


def test_even_a_stop_iteration_of_a_loader_reaches_its_caller() -> None:
    # A generator into which it is thrown turns it into RuntimeError, and a driver could take it for the flow's end.
    ask = Ask(Lead(1), lambda: next(iter(())))
    with pytest.raises(StopIteration) as raised:
        run(steps(ask))
    assert ask.errors == [raised.value]


def test_a_flow_that_raises_by_itself_is_heard(drive: Callable[[Flow[Any]], Any]) -> None:
    def flow() -> Flow[None]:
        yield Asking(1).wait()
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        drive(flow())


# --- In a thread


def test_a_coroutine_in_a_sync_load_is_refused_with_the_remedy() -> None:
    async def loader() -> int:
        return 1

    ask = Ask(Lead(1), loader)
    with pytest.raises(TypeError, match="load with the a-twin"):
        run(steps(ask))
    assert len(ask.errors) == 1
    gc.collect()  # a coroutine that was left unawaited would complain here, and warnings are errors


def test_on_the_thread_of_an_event_loop_nothing_is_asked_and_the_remedy_named() -> None:
    asking = Asking("there already")  # whether an answer comes in time is chance, and must not decide

    async def main() -> None:
        with pytest.raises(EventLoopError, match="await its twin instead: aget"):
            run(steps(asking.wait()))

    asyncio.run(main())
    assert asking.asked == 0


def test_on_the_thread_of_an_event_loop_what_is_answered_by_this_process_may_be_waited_for() -> None:
    async def main() -> list[Any]:
        return run(steps(Asking("mine").wait(local=True), lambda: 1))

    assert asyncio.run(main()) == ["mine", 1]


def test_a_thread_beside_an_event_loop_may_wait() -> None:
    async def main() -> list[Any]:
        return await asyncio.to_thread(run, steps(Asking("a").wait()))

    assert asyncio.run(main()) == ["a"]


# --- In a task


def test_a_coroutine_in_an_async_load_is_awaited() -> None:
    async def loader() -> str:
        await asyncio.sleep(0)
        return "awaited"

    assert drive_async(steps(loader)) == ["awaited"]


def test_a_cancelled_wait_is_abandoned_and_the_cancellation_goes_on() -> None:
    asking = Asking(Asking.PENDING)

    async def main() -> None:
        task = asyncio.create_task(arun(steps(asking.wait())))
        while not asking.asked:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert asking.abandoned == [asking.answer]


@pytest.mark.parametrize("delay", range(6), ids=lambda delay: f"{delay} rounds later")
def test_a_cancellation_that_comes_together_with_the_answer_is_not_swallowed(delay: int) -> None:
    """asyncio.wait_for did that until Python 3.12: the task went on as if nobody had cancelled it."""
    asking = Asking(Asking.PENDING)
    went_on: list[bool] = []

    async def main() -> None:
        task = asyncio.create_task(arun(steps(asking.wait(), lambda: went_on.append(True))))
        while not asking.asked:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.answer.give("answer")
        for _ in range(delay):
            await asyncio.sleep(0)
        cancelled = not task.done()
        task.cancel()
        if cancelled:
            with pytest.raises(asyncio.CancelledError):
                await task
            assert bool(went_on) != bool(asking.abandoned), "either the loader was called, or the duty given back"
        else:
            assert went_on

    asyncio.run(main())


def test_a_cancelled_loader_is_reported() -> None:
    started = asyncio.Event()

    async def loader() -> None:
        started.set()
        await asyncio.Event().wait()

    ask = Ask(Lead(1), loader)

    async def main() -> None:
        task = asyncio.create_task(arun(steps(ask)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [type(error) for error in ask.errors] == [asyncio.CancelledError]


# --- Get or load


def found(value: object) -> Found:
    entry = Entry(b"\0skey", None, 0.0, 1.0, ())
    entry.value = value
    return Found(entry)


@pytest.mark.parametrize("value", [1, None, ()])
def test_what_is_found_is_not_loaded(drive: Callable[[Flow[Any]], Any], value: object) -> None:
    ask = Ask(found(value), lambda: pytest.fail("loaded"))
    assert drive(load_or_wait(ask)) == value
    assert ask.heard == []


@pytest.mark.parametrize("outcome", [Lead(7), Solo()])
def test_who_is_to_load_loads_and_reports(drive: Callable[[Flow[Any]], Any], outcome: Any) -> None:
    ask = Ask(outcome, lambda: "value")
    assert drive(load_or_wait(ask)) == "value"
    assert ask.heard == [("loaded", (outcome, "value"))]


def test_what_cannot_be_read_is_loaded(drive: Callable[[Flow[Any]], Any]) -> None:
    ask = Ask(found("theirs"), lambda: "mine", readable=False)
    assert drive(load_or_wait(ask)) == "mine"
    assert ask.heard[0] == ("undecodable", "unreadable")


def test_a_failed_load_is_reported_with_its_outcome(drive: Callable[[Flow[Any]], Any]) -> None:
    error = OSError("gone")

    def loader() -> None:
        raise error

    ask = Ask(Lead(7), loader)
    with pytest.raises(OSError, match="gone"):
        drive(load_or_wait(ask))
    assert ask.heard == [("failed", (Lead(7), error))]


def test_a_load_of_the_key_that_is_being_loaded_is_refused_at_once() -> None:
    inner = Ask(Solo(), lambda: "never", key=("profile", 42))
    with pytest.raises(RecursiveLoadError, match=r"the loader of the key \('profile', 42\) asks for that same key"):
        run(load_or_wait(Ask(Lead(1), lambda: run(load_or_wait(inner)))))
    assert inner.heard == []


@pytest.mark.parametrize("other", [{"wire": b"\0sother"}, {"cache": 2}], ids=["key", "cache"])
def test_another_key_or_another_cache_may_be_loaded_meanwhile(other: dict[str, Any]) -> None:
    inner = Ask(Solo(), lambda: "inner", **other)
    assert run(load_or_wait(Ask(Lead(1), lambda: run(load_or_wait(inner))))) == "inner"


def test_what_is_made_of_cached_values_is_told_how_old_the_oldest_was() -> None:
    inner = Ask(Lead(2), lambda: note_age(3.0), wire=b"\0sinner")
    after = Ask(Lead(3), lambda: note_age(5.0), wire=b"\0safter")

    def loader() -> None:
        for part in (inner, after):
            run(load_or_wait(part))

    outer = Ask(Lead(1), loader)
    run(load_or_wait(outer))
    oldest = [ask.heard[1:] for ask in (inner, after, outer)]
    assert oldest == [[("oldest", 3.0)], [("oldest", 5.0)], [("oldest", 3.0)]]
    note_age(1.0)  # outside of any load, it concerns nobody


def test_the_same_key_may_be_loaded_again_afterwards_even_where_the_first_load_failed() -> None:
    def loader() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        run(load_or_wait(Ask(Lead(1), loader)))
    assert run(load_or_wait(Ask(Lead(2), lambda: "second"))) == "second"


def finish(work: Coroutine[Any, Any, T], *, debug: bool = False) -> T:
    """Run a story in an event loop of its own; one that does not end fails."""

    async def in_time() -> T:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(in_time(), debug=debug)


class Held:
    """A loader that returns, or raises, when the test says so."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = False
        self._end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> Any:
        self.begun.set()
        try:
            return await asyncio.shield(self._end)
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    def end(self, value: object = "value") -> None:
        if isinstance(value, BaseException):
            self._end.set_exception(value)
        else:
            self._end.set_result(value)


async def cancelled(ask: Ask, held: Held) -> None:
    """Begin a load, and cancel its caller while it runs."""
    caller = asyncio.create_task(arun(load_or_wait(ask)))
    await held.begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def rounds(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_a_load_that_others_wait_for_goes_on_when_its_caller_is_cancelled() -> None:
    async def main() -> None:
        held = Held()
        ask = Ask(Lead(7), held, awaited=True)
        await cancelled(ask, held)
        gc.collect()  # nobody but the cache keeps the task
        assert ask.heard == [("detached", Lead(7))]
        held.end("value")
        await rounds()
        assert ask.heard[1:] == [("loaded", (Lead(7), "value"))]
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    finish(main())


def test_a_load_that_nobody_else_waits_for_has_ended_when_its_caller_goes_on() -> None:
    ended: list[str] = []

    async def loader() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await rounds()
            ended.append("loader")

    async def main() -> None:
        ask = Ask(Lead(7), loader)
        caller = asyncio.create_task(arun(load_or_wait(ask)))
        await begun.wait()
        caller.cancel()
        await rounds(2)
        caller.cancel()  # again, as cancel scopes of anyio do: the loader puts things in order undisturbed
        with pytest.raises(asyncio.CancelledError):
            await caller
        ended.append("caller")
        assert [type(error) for error in ask.errors] == [asyncio.CancelledError]

    begun = asyncio.Event()
    finish(main())
    assert ended == ["loader", "caller"]


def test_a_cancelled_caller_is_cancelled_though_its_loader_is_not() -> None:
    async def loader() -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "all the same"
        return "never"

    async def main() -> None:
        ask = Ask(Lead(7), loader)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await arun(load_or_wait(ask))
        assert ask.heard == [("loaded", (Lead(7), "all the same"))]

    begun = asyncio.Event()
    finish(main())


def test_what_a_load_without_a_caller_raises_is_told() -> None:
    error = ValueError("broken")

    async def main() -> None:
        held = Held()
        ask = Ask(Lead(7), held, awaited=True)
        await cancelled(ask, held)
        held.end(error)
        await rounds()
        assert ask.heard[1:] == [("failed", (Lead(7), error)), ("lost", error)]
        gc.collect()  # asyncio would complain of an exception that nobody has taken

    finish(main())


def test_what_a_load_raises_as_it_is_cancelled_is_told() -> None:
    error = ValueError("broken")

    async def loader() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    async def main() -> None:
        ask = Ask(Lead(7), loader)
        caller = asyncio.create_task(arun(load_or_wait(ask)))
        await begun.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert ("lost", error) in ask.heard

    begun = asyncio.Event()
    finish(main())


def test_a_load_without_a_caller_is_cancelled_after_the_load_timeout() -> None:
    async def main() -> None:
        held = Held()
        ask = Ask(Lead(7), held, awaited=True)
        ask.timeout = 0.001
        await cancelled(ask, held)
        while not ask.errors:
            await asyncio.sleep(0.001)
        assert held.cancelled

    finish(main())


def test_a_load_without_a_caller_is_cancelled_when_the_last_one_who_waits_has_gone() -> None:
    """As where one request has asked twice at once, and is cancelled: what its loader uses is closed with it."""

    async def main() -> None:
        held = Held()
        ask = Ask(Lead(7), held, awaited=True)
        await cancelled(ask, held)
        ask.awaited = False
        while not ask.errors:
            await asyncio.sleep(0.001)
        assert held.cancelled

    finish(main())


@pytest.mark.parametrize("awaited", [True, False])
def test_a_load_under_way_at_the_end_of_its_loop_ends_quietly(awaited: bool) -> None:
    heard: list[Any] = []

    async def main() -> None:
        held = Held()
        ask = Ask(Lead(7), held, awaited=awaited)
        heard.append(ask)
        if awaited:
            await cancelled(ask, held)
        else:
            caller = asyncio.create_task(arun(load_or_wait(ask)))
            await held.begun.wait()
            assert not caller.done()

    finish(main(), debug=True)
    gc.collect()
    assert [type(error) for error in heard[0].errors] == [asyncio.CancelledError]


def test_a_load_whose_task_is_cancelled_before_it_began_is_reported() -> None:
    """At the end of a loop all tasks are cancelled, also those that have only just been made."""

    async def main() -> list[Any]:
        ask = Ask(Lead(7), lambda: "never")
        flow = load_or_wait(ask)  # once it is closed, it gives the duty back, too
        wait = flow.send(None)
        assert isinstance(wait, Wait)
        load = flow.send(Lead(7))
        caller = asyncio.create_task(arun(steps_of(load)))
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), caller}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        return list(ask.heard)

    def steps_of(load: Any) -> Flow[Any]:
        return (yield load)

    assert finish(main()) == [("given back", Lead(7))]


def test_a_loader_runs_in_one_task_with_the_context_of_its_caller() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[Any] = []

    async def main() -> None:
        def loader() -> Any:
            async def load() -> str:
                await asyncio.sleep(0)
                seen.append((asyncio.current_task(), variable.get()))
                async with asyncio.timeout(10):
                    return "value"

            seen.append((asyncio.current_task(), variable.get()))
            return load()

        variable.set("mine")
        assert await arun(load_or_wait(Ask(Lead(7), loader))) == "value"
        assert seen[0] == seen[1]
        assert seen[0][1] == "mine"

    finish(main())


def test_what_a_load_without_a_caller_is_made_of_is_told() -> None:
    """Positions and ages are noted in objects that the copies of a context share."""

    async def main() -> None:
        held = Held()

        async def loader() -> Any:
            await held()
            note_age(3.0)

        ask = Ask(Lead(7), loader, awaited=True)
        await cancelled(ask, held)
        held.end()
        await rounds()
        assert ("oldest", 3.0) in ask.heard

    finish(main())


# --- Circles


def test_what_a_loader_starts_and_does_not_await_may_wait_for_the_load() -> None:
    waiting = Asking(Asking.PENDING)

    async def main() -> list[Any]:
        tasks = []

        async def loader() -> str:
            tasks.append(asyncio.create_task(arun(load_or_wait(Joining(waiting)))))
            while not waiting.asked:
                await asyncio.sleep(0)
            return "value"

        value = await arun(load_or_wait(Ask(Lead(1), loader)))
        waiting.answer.give(found(value))
        return [value, await tasks[0]]

    assert finish(main()) == ["value", "value"]


def test_a_thread_that_a_loader_starts_may_wait_for_the_load() -> None:
    waiting = Asking(Asking.PENDING)
    results: list[Any] = []
    threads: list[threading.Thread] = []

    def loader() -> str:
        context = contextvars.copy_context()
        inner = Joining(waiting)
        threads.append(threading.Thread(target=lambda: results.append(context.run(run, load_or_wait(inner)))))
        threads[0].start()
        return "value"

    assert run(load_or_wait(Ask(Lead(1), loader))) == "value"
    waiting.answer.give(found("value"))
    threads[0].join()
    assert results == ["value"]


def test_a_circle_through_a_task_that_the_loader_awaits_ends_with_the_wait() -> None:
    """What the loader awaits, asks for its key; the bus lets it wait for the load timeout, and then load for itself."""

    async def main() -> None:
        async def loader() -> Any:
            return await asyncio.gather(arun(load_or_wait(inner)))

        inner = Ask(Solo(), lambda: "never")
        outer = Ask(Lead(1), loader)
        with pytest.raises(RecursiveLoadError, match="a task or thread that the loader of the key 'key' has started"):
            await arun(load_or_wait(outer))
        assert [type(error) for error in outer.errors] == [RecursiveLoadError]

    finish(main())


def test_a_circle_through_tasks_that_each_are_told_to_load_ends() -> None:
    """As where an event overtakes each of the loads: then the next one waits for none of those before it."""
    begun = []

    async def main() -> None:
        async def loader() -> Any:
            begun.append(1)
            return await asyncio.gather(arun(load_or_wait(Ask(Lead(len(begun)), loader))))

        with pytest.raises(RecursiveLoadError):
            await arun(load_or_wait(Ask(Lead(0), loader)))

    finish(main())
    assert len(begun) == MAX_NESTED


def test_a_circle_through_another_key_is_refused_at_once() -> None:
    async def main() -> None:
        def first() -> Any:
            return arun(load_or_wait(Ask(Lead(2), second, wire=b"\0sother", key="other")))

        def second() -> Any:
            return arun(load_or_wait(Ask(Lead(3), lambda: "never")))

        with pytest.raises(RecursiveLoadError, match="the loader of the key 'key' asks for that same key"):
            await arun(load_or_wait(Ask(Lead(1), first)))

    finish(main())


def test_a_load_that_its_caller_has_left_may_wait_for_the_callers_own_load() -> None:
    """1. The loader of a key loads a part, and gives up waiting for it; 2. the part's loader asks for the key."""

    async def main() -> None:
        asks = Asking(Asking.PENDING)
        left = asyncio.Event()

        async def part_loader() -> Any:
            await left.wait()
            return await arun(load_or_wait(Joining(asks)))

        async def loader() -> str:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await arun(load_or_wait(part))
            left.set()
            while not asks.asked:
                await asyncio.sleep(0)
            return "value"

        part = Ask(Lead(2), part_loader, wire=b"\0spart", awaited=True)
        assert await arun(load_or_wait(Ask(Lead(1), loader))) == "value"
        asks.answer.give(found("value"))
        await rounds()
        assert part.heard[-1] == ("loaded", (Lead(2), "value"))

    finish(main())


def test_loads_that_are_over_do_not_stay_in_the_context() -> None:
    """A load that schedules the next one hands its context on: for ever, in a service that refreshes what it serves."""
    sizes: list[int] = []

    async def main() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def loader() -> None:
            sizes.append(len(under_way._loads.get()))
            if len(sizes) < 50:
                loop.call_soon(lambda: kept.append(asyncio.ensure_future(arun(load_or_wait(Ask(Lead(1), loader))))))
            else:
                done.set()

        kept = [asyncio.ensure_future(arun(load_or_wait(Ask(Lead(1), loader))))]
        await done.wait()
        await asyncio.gather(*kept)

    finish(main())
    assert max(sizes) <= 2


def test_a_task_that_outlives_the_load_that_started_it_may_load_the_key() -> None:
    async def main() -> str:
        tasks: list[asyncio.Task[str]] = []
        may_start = asyncio.Event()

        async def later() -> str:
            await may_start.wait()
            return await arun(load_or_wait(Ask(Lead(2), lambda: "later")))

        await arun(load_or_wait(Ask(Lead(1), lambda: tasks.append(asyncio.create_task(later())))))
        may_start.set()
        return await tasks[0]

    assert finish(main()) == "later"


def test_a_load_closed_in_another_context_than_its_own_ends_quietly() -> None:
    """This happens to a coroutine whose loop is gone: Python closes it where it is collected."""
    flow = load_or_wait(Ask(Lead(1), lambda: "never"))
    context = contextvars.copy_context()
    assert isinstance(context.run(next, flow), Wait)
    assert isinstance(context.run(flow.send, Lead(1)), Load)
    flow.close()
    assert run(load_or_wait(Ask(Lead(2), lambda: "second"))) == "second"


def test_a_key_is_shown_whatever_it_is() -> None:
    assert shown(("a", 1)) == "('a', 1)"
    assert shown("x" * 1000) == "'" + "x" * 96 + "..."
    assert shown((10**5000,)) == "<tuple whose repr raises ValueError>"


# --- Signal handlers


class Interrupt(Exception):
    """What a signal handler raises, as a time limit does."""


@cache
def points(code: CodeType) -> frozenset[int]:
    """Where in a function signal handlers run: at its start, after calls, and where a loop goes back."""
    found, before = set[int](), "RESUME"
    for each in dis.get_instructions(code):
        if before.startswith(("CALL", "RESUME", "JUMP_BACKWARD", "SEND", "YIELD")):
            found.add(each.offset)
        before = each.opname
    return frozenset(found)


def interrupted(number: int, work: Callable[[], object]) -> bool:
    """Do some work, and raise at so many points of the operations from its start; return whether that came."""
    left = [number]

    def at_instruction(frame: FrameType, event: str, _argument: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti in points(frame.f_code):
            left[0] -= 1
            if left[0] == 0:
                raise Interrupt
        return at_instruction

    def at_call(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(
            ("operations/drive.py", "operations/load.py", "operations/under_way.py")
        ):
            return None
        return at_instruction(frame, event, argument)

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        work()
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
    return left[0] <= 0


def test_a_report_that_may_have_been_interrupted_can_be_repeated(new_cache: NewCache) -> None:
    cache = new_cache(private=True)
    duty = Duty(cache._keyspace, "key", never, cache._keyspace.given(60, ()))
    assert isinstance(run(duty.ask()), Lead)
    for _ in range(2):
        duty.fail(LookupError("broken"))
    assert cache.stats().failed_loads == 1


def test_an_exception_at_any_instruction_leaves_no_duty_with_nobody() -> None:
    """1. A call is told to load; 2. a time limit raises in it; 3. all who want the key wait for its load for ever."""
    asking = Asking(Lead(7))

    class Noting(Ask):
        def ask(self) -> Flow[Any]:
            self.is_open = True
            outcome = yield asking.wait()
            self.is_open = isinstance(outcome, Lead)
            return outcome

    for number in itertools.count(1):
        asking.asked, asking.abandoned = 0, []
        ask = Noting(Lead(7), lambda: "value")
        if not interrupted(number, lambda ask=ask: run(load_or_wait(ask))):  # type: ignore[misc]
            break
        reports = [what for what, _ in ask.heard if what in ("loaded", "failed", "given back")]
        assert not asking.asked or reports or asking.abandoned, f"the duty is lost at point {number}"
        assert under_way.active() == (), f"the load seems to be under way after point {number}"
    assert number > 30
    assert ask.heard == [("loaded", (Lead(7), "value"))]
