"""The two drivers of a flow, and get-or-load as a flow, with duties made by hand, or with a private cache."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest

from colocache import EventLoopError, RecursiveLoadError
from colocache.core.entry import MISSING
from colocache.core.host.claims import Lead, Load, Sleep, Value
from colocache.naming import shown
from colocache.operations import under_way
from colocache.operations.drive import arun, run
from colocache.operations.flow import Flow
from colocache.operations.load import Duty, Run, load_or_wait
from colocache.operations.under_way import MAX_NESTED
from colocache.runtime.waiting.answers import TOO_LATE
from tests.conftest import NewCache, waiting
from tests.loaders import never

T = TypeVar("T")

LEAD = Lead(Load(b"\0skey", 0, cast(Any, None)), late=False)


class Waking:
    """Waits that end when the test says so."""

    def __init__(self) -> None:
        self.waiters: list[Callable[[Any], object]] = []

    def sleep(self, seconds: float = 30.0) -> Sleep:
        return Sleep(lambda waiter: self.waiters.append(waiter), seconds)

    def wake(self, outcome: object) -> None:
        for waiter in self.waiters:
            waiter(outcome)


def woken(outcome: object) -> Sleep:
    """A step that waits for what is there already."""
    return Sleep(lambda waiter: cast(None, waiter(outcome)), 30.0)


class Ask:
    """A `load.Duty` whose question is answered as told, and that notes what it hears."""

    timeout = 30.0

    def __init__(
        self, outcome: Value | Lead | None, loader: Callable[[], Any], *, key: object = "key",
        wire: bytes = b"\0skey", readable: bool = True, awaited: bool = False,
    ) -> None:  # fmt: skip
        self.outcome = outcome
        self.loader = loader
        self.key = key
        self.load_id = 1, wire
        self.readable = readable
        self.awaited = awaited
        self.is_detached = False
        self.heard: list[tuple[str, Any]] = []
        self._has_duty = isinstance(outcome, Lead)
        self.times: list[float] = []

    def time(self, seconds: float) -> None:
        self.times.append(seconds)

    def ask(self) -> Flow[Any]:
        return (yield woken(self.outcome))

    def use(self, found: Value) -> Any:
        return found.value if self.readable else MISSING

    def on_undecodable(self) -> None:
        self.heard.append(("undecodable", None))

    def is_awaited(self) -> bool:
        return self.awaited

    def on_detach(self) -> None:
        self.is_detached = True
        self.heard.append(("detached", None))

    def on_lost(self, error: BaseException) -> None:
        self.heard.append(("lost", error))

    def fail(self, error: BaseException) -> None:
        self._has_duty = False
        self.heard.append(("failed", error))

    def give_back(self) -> None:
        """Like the real one's, it does nothing after a report."""
        if self._has_duty:
            self._has_duty = False
            self.heard.append(("given back", None))

    def begin_span(self) -> None:
        """There is no tracer."""

    def succeed(self, value: Any) -> str:
        self._has_duty = False
        self.heard.append(("loaded", value))
        return "stored"

    @property
    def errors(self) -> list[BaseException]:
        """What the loader is known to have raised."""
        return [details for what, details in self.heard if what == "failed"]


class Joining(Ask):
    """A duty whose question waits for the test, and finds another call's value."""

    def __init__(self, waking: Waking) -> None:
        super().__init__(None, never)
        self.waking = waking

    def ask(self) -> Flow[Any]:
        return (yield self.waking.sleep())


def loading(ask: Ask) -> Run:
    """The step that calls the loader of a duty."""
    return Run(cast(Duty, ask))


def load(ask: Ask) -> Flow[Any]:
    return load_or_wait(cast(Duty, ask))


def steps(*given: Sleep | Callable[[], Any] | Ask) -> Flow[list[Any]]:
    """A flow of these steps, of which some are loaders, which gives their answers."""
    answers = []
    for step in given:
        if isinstance(step, Sleep):
            answers.append((yield step))
        else:
            answers.append((yield loading(step if isinstance(step, Ask) else Ask(LEAD, step))))
    return answers


def drive_sync(flow: Flow[Any]) -> Any:
    return run(flow)


def drive_async(flow: Flow[Any]) -> Any:
    return asyncio.run(arun(flow))


@pytest.fixture(params=[drive_sync, drive_async], ids=["run", "arun"])
def drive(request: pytest.FixtureRequest) -> Callable[[Flow[Any]], Any]:
    return cast(Callable[[Flow[Any]], Any], request.param)


# --- Both drivers


def test_a_flow_gets_the_answers_of_its_steps(drive: Callable[[Flow[Any]], Any]) -> None:
    assert drive(steps(woken("a"), lambda: "b", woken(None))) == ["a", "b", None]


def test_a_wait_that_takes_too_long_is_answered_so(drive: Callable[[Flow[Any]], Any]) -> None:
    assert drive(steps(Waking().sleep(0.001), lambda: "goes on")) == [TOO_LATE, "goes on"]


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_a_loader_raises_is_reported_and_raised_as_it_is(
    drive: Callable[[Flow[Any]], Any], kind: type[BaseException]
) -> None:
    error, cleaned = kind("broken"), list[bool]()

    def flow() -> Flow[None]:
        try:
            yield loading(ask)
        finally:
            cleaned.append(True)

    def fail() -> None:
        raise error

    ask = Ask(LEAD, fail)
    with pytest.raises(kind) as raised:
        drive(flow())
    assert raised.value is error
    assert (ask.errors, cleaned) == ([error], [True])


def test_even_a_stop_iteration_of_a_loader_reaches_its_caller() -> None:
    # A generator into which it is thrown turns it into RuntimeError, and a driver could take it for the flow's end.
    ask = Ask(LEAD, lambda: next(iter(())))
    with pytest.raises(StopIteration) as raised:
        run(steps(ask))
    assert ask.errors == [raised.value]


def test_a_flow_that_raises_by_itself_is_heard(drive: Callable[[Flow[Any]], Any]) -> None:
    def flow() -> Flow[None]:
        yield woken(1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        drive(flow())


# --- In a thread


def test_a_coroutine_in_a_sync_load_is_refused_with_the_remedy() -> None:
    async def loader() -> int:
        return 1

    ask = Ask(LEAD, loader)
    with pytest.raises(TypeError, match="load with the a-twin"):
        run(steps(ask))
    assert len(ask.errors) == 1
    gc.collect()  # a coroutine that was left unawaited would complain here, and warnings are errors


def test_on_the_thread_of_an_event_loop_nothing_is_begun_and_the_remedy_named() -> None:
    """Whether there is anything to wait for is chance, and must not decide."""
    begun: list[bool] = []

    def flow() -> Flow[None]:
        begun.append(True)
        yield from ()

    async def main() -> None:
        with pytest.raises(EventLoopError, match="await its twin instead: aget"):
            run(flow())

    asyncio.run(main())
    assert not begun


def test_a_thread_beside_an_event_loop_may_wait() -> None:
    async def main() -> list[Any]:
        return await asyncio.to_thread(run, steps(woken("a")))

    assert asyncio.run(main()) == ["a"]


# --- In a task


def test_a_coroutine_in_an_async_load_is_awaited() -> None:
    async def loader() -> str:
        await asyncio.sleep(0)
        return "awaited"

    assert drive_async(steps(loader)) == ["awaited"]


def test_a_cancelled_wait_closes_the_flow_and_the_cancellation_goes_on() -> None:
    waking, closed = Waking(), []

    def flow() -> Flow[None]:
        try:
            yield waking.sleep()
        finally:
            closed.append(True)

    async def main() -> None:
        task = asyncio.create_task(arun(flow()))
        while not waking.waiters:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert closed


@pytest.mark.parametrize("delay", range(6), ids=lambda delay: f"{delay} rounds later")
def test_a_cancellation_that_comes_together_with_the_answer_is_not_swallowed(new_cache: NewCache, delay: int) -> None:
    """asyncio.wait_for did that until Python 3.12: the task went on as if nobody had cancelled it."""
    cache = new_cache(private=True)

    async def main() -> None:
        held, went_on = Held(), list[bool]()
        leader = asyncio.create_task(cache.aget_or_load("key", held))
        await held.begun.wait()
        task = asyncio.create_task(cache.aget_or_load("key", lambda: went_on.append(True)))
        while not waiting(cache):
            await asyncio.sleep(0)
        held.end(LookupError())
        with pytest.raises(LookupError):
            await leader
        await rounds(delay)
        cancelled = not task.done()
        task.cancel()
        if cancelled:
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert went_on
        assert await cache.aget_or_load("other", lambda: 1) == 1
        host = cache._member.own_host()
        assert host is not None
        assert not host.claims._loads, "the duty is given back"

    finish(main())


def test_a_cancelled_loader_is_reported() -> None:
    started = asyncio.Event()

    async def loader() -> None:
        started.set()
        await asyncio.Event().wait()

    ask = Ask(LEAD, loader)

    async def main() -> None:
        task = asyncio.create_task(arun(steps(ask)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [type(error) for error in ask.errors] == [asyncio.CancelledError]


# --- Get or load


@pytest.mark.parametrize("value", [1, None, ()])
def test_what_is_found_is_not_loaded(drive: Callable[[Flow[Any]], Any], value: object) -> None:
    ask = Ask(Value(value), lambda: pytest.fail("loaded"))
    assert drive(load(ask)) == value
    assert ask.heard == []


@pytest.mark.parametrize("outcome", [LEAD, Lead(LEAD.load, late=True), None], ids=["lead", "late", "no cache"])
def test_who_is_to_load_loads_and_reports(drive: Callable[[Flow[Any]], Any], outcome: Any) -> None:
    ask = Ask(outcome, lambda: "value")
    assert drive(load(ask)) == "value"
    assert ask.heard == [("loaded", "value")]


def test_what_cannot_be_read_is_loaded(drive: Callable[[Flow[Any]], Any]) -> None:
    ask = Ask(Value("theirs"), lambda: "mine", readable=False)
    assert drive(load(ask)) == "mine"
    assert ask.heard == [("undecodable", None), ("loaded", "mine")]


def test_a_failed_load_is_reported_once(drive: Callable[[Flow[Any]], Any]) -> None:
    error = OSError("gone")

    def loader() -> None:
        raise error

    ask = Ask(LEAD, loader)
    with pytest.raises(OSError, match="gone"):
        drive(load(ask))
    assert ask.heard == [("failed", error)]


def test_the_same_key_may_be_loaded_again_afterwards_even_where_the_first_load_failed() -> None:
    def loader() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        run(load(Ask(LEAD, loader)))
    assert run(load(Ask(LEAD, lambda: "second"))) == "second"


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
    caller = asyncio.create_task(arun(load(ask)))
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
        ask = Ask(LEAD, held, awaited=True)
        await cancelled(ask, held)
        gc.collect()  # nobody but the cache keeps the task
        assert ask.heard == [("detached", None)]
        held.end("value")
        await rounds()
        assert ask.heard[1:] == [("loaded", "value")]
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
        ask = Ask(LEAD, loader)
        caller = asyncio.create_task(arun(load(ask)))
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
        ask = Ask(LEAD, loader)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await arun(load(ask))
        assert ask.heard == [("loaded", "all the same")]

    begun = asyncio.Event()
    finish(main())


def test_what_a_load_without_a_caller_raises_is_told() -> None:
    error = ValueError("broken")

    async def main() -> None:
        held = Held()
        ask = Ask(LEAD, held, awaited=True)
        await cancelled(ask, held)
        held.end(error)
        await rounds()
        assert ask.heard[1:] == [("failed", error), ("lost", error)]
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
        ask = Ask(LEAD, loader)
        caller = asyncio.create_task(arun(load(ask)))
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
        ask = Ask(LEAD, held, awaited=True)
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
        ask = Ask(LEAD, held, awaited=True)
        await cancelled(ask, held)
        ask.awaited = False
        while not ask.errors:
            await asyncio.sleep(0.001)
        assert held.cancelled

    finish(main())


def test_loads_of_which_all_callers_have_gone_are_cancelled(new_cache: NewCache) -> None:
    cache = new_cache(private=True)

    async def main() -> None:
        first, beside = Held(), Held()
        leader = asyncio.create_task(cache.aget_or_load("key", first))
        await first.begun.wait()
        others = [asyncio.create_task(cache.aget_or_load("key", beside)) for _ in range(2)]
        while waiting(cache) < 2:
            await asyncio.sleep(0)
        leader.cancel()
        await beside.begun.wait()
        assert not first.cancelled, "the other one still waits for it"
        for each in others:
            each.cancel()
        await asyncio.wait((leader, *others))
        while not first.cancelled:
            await asyncio.sleep(0.001)
        await rounds()
        assert beside.cancelled
        assert await cache.aget_or_load("key", lambda: "value") == "value"

    finish(main())


@pytest.mark.parametrize("awaited", [True, False])
def test_a_load_under_way_at_the_end_of_its_loop_ends_quietly(awaited: bool) -> None:
    heard: list[Any] = []

    async def main() -> None:
        held = Held()
        ask = Ask(LEAD, held, awaited=awaited)
        heard.append(ask)
        if awaited:
            await cancelled(ask, held)
        else:
            caller = asyncio.create_task(arun(load(ask)))
            await held.begun.wait()
            assert not caller.done()

    finish(main(), debug=True)
    gc.collect()
    assert [type(error) for error in heard[0].errors] == [asyncio.CancelledError]


def test_a_load_whose_task_is_cancelled_before_it_began_is_reported() -> None:
    """At the end of a loop all tasks are cancelled, also those that have only just been made."""

    async def main() -> list[Any]:
        ask = Ask(LEAD, lambda: "never")
        caller = asyncio.create_task(arun(steps(ask)))  # not `load`, which gives the duty back, too
        await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task(), caller}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        return list(ask.heard)

    assert finish(main()) == [("given back", None)]


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
        assert await arun(load(Ask(LEAD, loader))) == "value"
        assert seen[0] == seen[1]
        assert seen[0][1] == "mine"

    finish(main())


# --- Circles


def test_the_same_key_of_another_cache_may_be_loaded_meanwhile(new_cache: NewCache) -> None:
    one, other = new_cache(private=True), new_cache(private=True)
    assert one.get_or_load("key", lambda: other.get_or_load("key", lambda: "inner")) == "inner"


def test_a_circle_through_tasks_that_each_are_told_to_load_ends(new_cache: NewCache) -> None:
    """An event overtakes each of the loads: the next one waits for none of those before it."""
    cache, begun = new_cache(private=True), []

    async def main() -> None:
        async def loader() -> Any:
            begun.append(1)
            cache.invalidate("key")
            return await asyncio.gather(cache.aget_or_load("key", loader))

        with pytest.raises(RecursiveLoadError):
            await cache.aget_or_load("key", loader)

    finish(main())
    assert len(begun) == MAX_NESTED


def test_a_circle_of_tasks_through_another_key_is_refused_at_once(new_cache: NewCache) -> None:
    cache = new_cache(private=True)

    async def main() -> None:
        def first() -> Any:
            return cache.aget_or_load("other", second)

        def second() -> Any:
            return cache.aget_or_load("key", never)

        with pytest.raises(RecursiveLoadError, match="the loader of the key 'key' asks for that same key"):
            await cache.aget_or_load("key", first)

    finish(main())


def test_a_load_that_its_caller_has_left_may_wait_for_the_callers_own_load() -> None:
    """1. The loader of a key loads a part, and gives up waiting for it; 2. the part's loader asks for the key."""

    async def main() -> None:
        waking = Waking()
        left = asyncio.Event()

        async def part_loader() -> Any:
            await left.wait()
            return await arun(load(Joining(waking)))

        async def loader() -> str:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await arun(load(part))
            left.set()
            while not waking.waiters:
                await asyncio.sleep(0)
            return "value"

        part = Ask(LEAD, part_loader, wire=b"\0spart", awaited=True)
        assert await arun(load(Ask(LEAD, loader))) == "value"
        waking.wake(Value("value"))
        await rounds()
        assert part.heard[-1] == ("loaded", "value")

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
                loop.call_soon(lambda: kept.append(asyncio.ensure_future(arun(load(Ask(LEAD, loader))))))
            else:
                done.set()

        kept = [asyncio.ensure_future(arun(load(Ask(LEAD, loader))))]
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
            return await arun(load(Ask(LEAD, lambda: "later")))

        await arun(load(Ask(LEAD, lambda: tasks.append(asyncio.create_task(later())))))
        may_start.set()
        return await tasks[0]

    assert finish(main()) == "later"


def test_a_load_closed_in_another_context_than_its_own_ends_quietly() -> None:
    """This happens to a coroutine whose loop is gone: Python closes it where it is collected."""
    flow = load(Ask(LEAD, lambda: "never"))
    context = contextvars.copy_context()
    assert isinstance(context.run(next, flow), Sleep)
    assert isinstance(context.run(flow.send, LEAD), Run)
    flow.close()
    assert run(load(Ask(LEAD, lambda: "second"))) == "second"


def test_a_key_is_shown_whatever_it_is() -> None:
    assert shown(("a", 1)) == "('a', 1)"
    assert shown("x" * 1000) == "'" + "x" * 96 + "..."
    assert shown((10**5000,)) == "<tuple whose repr raises ValueError>"


def test_a_duty_may_be_given_back_again_after_its_report(new_cache: NewCache) -> None:
    cache = new_cache(private=True)
    duty = Duty(cache._keyspace, "key", never, cache._keyspace.given(60, ()))
    assert isinstance(run(duty.ask()), Lead)
    duty.fail(LookupError("broken"))
    assert cache.get_or_load("key", lambda: "value") == "value"
    for _ in range(2):
        duty.give_back()
    assert cache.stats().failed_loads == 1
    assert cache.get_or_load("key", never) == "value"
