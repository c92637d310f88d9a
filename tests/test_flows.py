"""The two drivers, and get-or-load as a flow: without a bus, by answers made by hand."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from colocache import EventLoopError, RecursiveLoadError
from colocache.core.entry import Entry
from colocache.core.reads import Found, Lead, Solo
from colocache.flows import Call, Flow, Wait, arun, get_or_load, run, served_while_behind, shown
from colocache.waiting import Answer


class Asking:
    """A question to a bus that answers at once, or (`PENDING`) not before the test does; it notes who gave up."""

    PENDING = object()

    def __init__(self, answer: Any) -> None:
        self.answer = Answer()
        self.asked = 0
        self.abandoned: list[Answer] = []
        if answer is not self.PENDING:
            self.answer.give(answer)

    def wait(self, timeout: float = 30.0, *, local: bool = False) -> Wait:
        return Wait(self._ask, timeout, "otherwise", self.abandoned.append, local)

    def _ask(self) -> Answer:
        self.asked += 1
        return self.answer


def steps(*given: Wait | Call) -> Flow[list[Any]]:
    """A flow of these steps, which gives their answers."""
    answers = []
    for step in given:
        answers.append((yield step))
    return answers


def nobody(_error: BaseException) -> None:
    raise AssertionError("the loader did not fail")


def drive_sync(flow: Flow[Any]) -> Any:
    return run(flow)


def drive_async(flow: Flow[Any]) -> Any:
    return asyncio.run(arun(flow))


@pytest.fixture(params=[drive_sync, drive_async], ids=["run", "arun"])
def drive(request: pytest.FixtureRequest) -> Callable[[Flow[Any]], Any]:
    return request.param


# --- Both drivers


def test_a_flow_gets_the_answers_of_its_steps(drive: Callable[[Flow[Any]], Any]) -> None:
    assert drive(steps(Asking("a").wait(), Call(lambda: "b", nobody), Asking(None).wait())) == ["a", "b", None]


def test_a_wait_that_takes_too_long_gives_the_other_answer_and_is_abandoned(drive: Callable[[Flow[Any]], Any]) -> None:
    asking = Asking(Asking.PENDING)
    assert drive(steps(asking.wait(timeout=0.001))) == ["otherwise"]
    assert asking.abandoned == [asking.answer]


def test_what_is_answered_is_not_abandoned(drive: Callable[[Flow[Any]], Any]) -> None:
    asking = Asking("a")
    drive(steps(asking.wait()))
    assert (asking.asked, asking.abandoned) == (1, [])


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_a_loader_raises_is_reported_and_raised_as_it_is(
    drive: Callable[[Flow[Any]], Any], kind: type[BaseException]
) -> None:
    error, reported, cleaned = kind("broken"), [], []

    def flow() -> Flow[None]:
        try:
            yield Call(fail, reported.append)
        finally:
            cleaned.append(True)

    def fail() -> None:
        raise error

    with pytest.raises(kind) as raised:
        drive(flow())
    assert raised.value is error
    assert (reported, cleaned) == ([error], [True])


def test_even_a_stop_iteration_of_a_loader_reaches_its_caller() -> None:
    # A generator into which it is thrown turns it into RuntimeError, and a driver could take it for the flow's end.
    reported: list[BaseException] = []
    with pytest.raises(StopIteration) as raised:
        run(steps(Call(lambda: next(iter(())), reported.append)))
    assert reported == [raised.value]


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

    reported: list[BaseException] = []
    with pytest.raises(TypeError, match="load with the a-twin"):
        run(steps(Call(loader, reported.append)))
    assert len(reported) == 1
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
        return run(steps(Asking("mine").wait(local=True), Call(lambda: 1, nobody)))

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

    assert drive_async(steps(Call(loader, nobody))) == ["awaited"]


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
        task = asyncio.create_task(arun(steps(asking.wait(), Call(lambda: went_on.append(True), nobody))))
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
            assert not went_on
            assert asking.abandoned
        else:
            assert went_on

    asyncio.run(main())


def test_a_cancelled_loader_is_reported() -> None:
    reported: list[BaseException] = []
    started = asyncio.Event()

    async def loader() -> None:
        started.set()
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(arun(steps(Call(loader, reported.append))))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [type(error) for error in reported] == [asyncio.CancelledError]


# --- Get or load


class Ask(NamedTuple):
    """A `flows.Loading` whose bus answers as told, and that notes what it hears."""

    outcome: Found | Lead | Solo
    loader: Callable[[], Any]
    heard: list[tuple[str, Any]]
    key: object = "key"
    wire: bytes = b"\0skey"
    cache: int = 1
    readable: bool = True

    def ask(self) -> Iterator[Any]:
        return (yield Asking(self.outcome).wait())

    def use(self, entry: Entry) -> Any:
        if not self.readable:
            raise ValueError("unreadable")
        return entry.value

    def undecodable(self, error: ValueError) -> None:
        self.heard.append(("undecodable", str(error)))

    def failed(self, outcome: Any, error: BaseException) -> None:
        self.heard.append(("failed", (outcome, error)))

    def loaded(self, outcome: Any, value: Any, oldest: float) -> None:
        self.heard.append(("loaded", (outcome, value)))
        if oldest < math.inf:
            self.heard.append(("oldest", oldest))


def found(value: object) -> Found:
    entry = Entry(b"\0skey", None, 0.0, 1.0, ())
    entry.value = value
    return Found(entry)


@pytest.mark.parametrize("value", [1, None, ()])
def test_what_is_found_is_not_loaded(drive: Callable[[Flow[Any]], Any], value: object) -> None:
    ask = Ask(found(value), lambda: pytest.fail("loaded"), [])
    assert drive(get_or_load(ask)) == value
    assert ask.heard == []


@pytest.mark.parametrize("outcome", [Lead(7), Solo()])
def test_who_is_to_load_loads_and_reports(drive: Callable[[Flow[Any]], Any], outcome: Any) -> None:
    ask = Ask(outcome, lambda: "value", [])
    assert drive(get_or_load(ask)) == "value"
    assert ask.heard == [("loaded", (outcome, "value"))]


def test_what_cannot_be_read_is_loaded(drive: Callable[[Flow[Any]], Any]) -> None:
    ask = Ask(found("theirs"), lambda: "mine", [], readable=False)
    assert drive(get_or_load(ask)) == "mine"
    assert ask.heard[0] == ("undecodable", "unreadable")


def test_a_failed_load_is_reported_with_its_outcome(drive: Callable[[Flow[Any]], Any]) -> None:
    error = OSError("gone")

    def loader() -> None:
        raise error

    ask = Ask(Lead(7), loader, [])
    with pytest.raises(OSError, match="gone"):
        drive(get_or_load(ask))
    assert ask.heard == [("failed", (Lead(7), error))]


def test_a_load_of_the_key_that_is_being_loaded_is_refused_at_once() -> None:
    inner = Ask(Solo(), lambda: "never", [], key=("profile", 42))
    with pytest.raises(RecursiveLoadError, match=r"the loader of the key \('profile', 42\) asks for that same key"):
        run(get_or_load(Ask(Lead(1), lambda: run(get_or_load(inner)), [])))
    assert inner.heard == []


@pytest.mark.parametrize("other", [{"wire": b"\0sother"}, {"cache": 2}], ids=["key", "cache"])
def test_another_key_or_another_cache_may_be_loaded_meanwhile(other: dict[str, Any]) -> None:
    inner = Ask(Solo(), lambda: "inner", [], **other)
    assert run(get_or_load(Ask(Lead(1), lambda: run(get_or_load(inner)), []))) == "inner"


def test_what_is_made_of_cached_values_is_told_how_old_the_oldest_was() -> None:
    inner = Ask(Lead(2), lambda: served_while_behind(3.0), [], wire=b"\0sinner")
    after = Ask(Lead(3), lambda: served_while_behind(5.0), [], wire=b"\0safter")

    def loader() -> None:
        for part in (inner, after):
            run(get_or_load(part))

    outer = Ask(Lead(1), loader, [])
    run(get_or_load(outer))
    oldest = [ask.heard[1:] for ask in (inner, after, outer)]
    assert oldest == [[("oldest", 3.0)], [("oldest", 5.0)], [("oldest", 3.0)]]
    served_while_behind(1.0)  # outside of any load, it concerns nobody


def test_the_same_key_may_be_loaded_again_afterwards_even_where_the_first_load_failed() -> None:
    def loader() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        run(get_or_load(Ask(Lead(1), loader, [])))
    assert run(get_or_load(Ask(Lead(2), lambda: "second", []))) == "second"


def test_a_task_that_outlives_the_load_that_started_it_may_load_the_key() -> None:
    async def main() -> str:
        tasks: list[asyncio.Task[str]] = []
        may_start = asyncio.Event()

        async def later() -> str:
            await may_start.wait()
            return await arun(get_or_load(Ask(Lead(2), lambda: "later", [])))

        await arun(get_or_load(Ask(Lead(1), lambda: tasks.append(asyncio.create_task(later())), [])))
        may_start.set()
        return await tasks[0]

    assert asyncio.run(main()) == "later"


def test_a_load_closed_in_another_context_than_its_own_ends_quietly() -> None:
    """So it goes with a coroutine whose loop is gone: whoever collects it closes it."""
    flow = get_or_load(Ask(Lead(1), lambda: "never", []))
    context = contextvars.copy_context()
    assert isinstance(context.run(next, flow), Wait)
    assert isinstance(context.run(flow.send, Lead(1)), Call)
    flow.close()
    assert run(get_or_load(Ask(Lead(2), lambda: "second", []))) == "second"


def test_a_key_is_shown_whatever_it_is() -> None:
    assert shown(("a", 1)) == "('a', 1)"
    assert shown("x" * 1000) == "'" + "x" * 99
    assert shown((10**5000,)) == "<a tuple>"
