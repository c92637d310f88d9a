"""Audits: what they find, what they do not take for a find, and what they leave alone."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from colocache import Cache
from colocache.auditing import AT_LEAST, GRACE, MOST, REST, Auditor, Difference
from colocache.core.entry import SampledEntry
from colocache.operations.audit import Audit

if TYPE_CHECKING:
    from tests.conftest import NewCache, Until

SOURCE: dict[str, Any] = {}


class Clock:
    """A clock that stands still, unless it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Shop:
    """A cache of which every hit is audited at once, a function with a source, and what its audits wait for."""

    def __init__(self, cache: Cache, until: Until, *, is_async: bool = False, **options: Any) -> None:
        self.cache, self.until = cache, until
        self.clock, self.waited = Clock(), list[float]()
        self.in_grace: Callable[[], object] = lambda: None
        self.auditor = cache._member.life.auditor = Auditor(self.clock, self._wait)
        self.source: dict[str, Any] = {"a": 1, "b": 2}
        self.called: list[str] = []
        self.inside: Callable[[], object] = lambda: None  # is called by the function
        options.setdefault("audit", True)
        self.price = (self._async if is_async else self._sync)(options)

    def _wait(self, seconds: float) -> None:
        assert threading.current_thread() is not threading.main_thread(), "an event loop, or a reader, would wait"
        self.waited.append(seconds)
        self.in_grace()

    def _read(self, sku: str) -> Any:
        self.called.append(sku)
        self.inside()
        return self.source[sku]

    def _sync(self, options: Any) -> Any:
        @self.cache.cached(**options)
        def price(sku: str) -> Any:
            return self._read(sku)

        return price

    def _async(self, options: Any) -> Any:
        @self.cache.cached(**options)
        async def price(sku: str) -> Any:
            await asyncio.sleep(0)
            return self._read(sku)

        return price

    def read(self, *skus: Any, advance: float = 1000.0) -> list[Any]:
        """Call the function for each, and let the audit come to its end each time."""

        async def read(sku: Any) -> Any:
            value = await self.price(sku)
            while self.auditor._running:
                await asyncio.sleep(0)
            return value

        found = []
        for sku in skus:
            self.clock.now += advance
            if inspect.iscoroutinefunction(self.price):
                found.append(asyncio.run(read(sku)))
            else:
                found.append(self.price(sku))
                self.until(lambda: not self.auditor._running)
        return found

    def figures(self) -> tuple[int, int, int]:
        """How many audits there were, how many have found something, and how many have said nothing."""
        stats = self.cache.stats()
        return stats.audits, stats.audits_failed, stats.audit_errors


Make = Callable[..., Shop]


@pytest.fixture(params=["near", "near, async", "fetched", "fetched, async"])
def shop(request: pytest.FixtureRequest, new_cache: NewCache, until: Until) -> Make:
    """Make a shop whose hits are served near, or from the shelf."""

    def make(**options: Any) -> Shop:
        cache = new_cache(audit=1, copy="fetched" in request.param)
        return Shop(cache, until, is_async="async" in request.param, **options)

    return make


@pytest.fixture
def near(new_cache: NewCache, until: Until) -> Make:
    """Make a shop with a sync function and near hits."""
    return lambda **options: Shop(new_cache(audit=1), until, **options)


# --- What is found


def test_a_forgotten_invalidation_is_reported_with_its_function_and_key(
    shop: Make, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    here = shop(tags=("prices", "skus"), ttl=60, name="prices/price")
    assert here.read("a", "b", "a") == [1, 2, 1]
    assert (here.figures(), here.cache.audits()) == ((1, 0, 0), [])
    before = here.cache.stats()
    here.source["a"] = 5  # and nobody invalidates
    assert here.read("a", "b", "b") == [1, 2, 2], "no reader gets what an audit has loaded"
    assert here.figures() == (4, 1, 0)
    [found] = here.cache.audits()
    assert isinstance(found, Difference)
    assert (found.namespace, found.key) == ("prices/price", ("a",))
    assert (found.cached, found.source) == ("1", "5")
    assert (found.tags, found.namespaces, found.ttl) == (("prices", "skus"), ("prices", "prices/price"), 60)
    assert 0 <= found.age < 60
    assert here.waited == [GRACE]
    assert here.called == ["a", "b", "a", "a", "a", "b", "b"]
    assert str(found) == "prices/price ('a',): 1 was served, and the source says 5"
    after = here.cache.stats()
    for figure in ("loads", "fills", "waits", "failed_loads", "load_seconds", "sets", "invalidations"):
        assert getattr(before, figure) == getattr(after, figure), figure
    until(lambda: caplog.records)
    [line] = caplog.records
    assert line.levelno == logging.WARNING
    assert "prices/price has given a value that its source had changed" in line.message
    assert "the key ('a',)" in line.message
    assert "the tags ('prices', 'skus')" in line.message


def test_where_all_invalidations_are_right_nothing_is_reported(shop: Make) -> None:
    here = shop()
    for number in range(50):
        here.source["a"] = number
        here.cache.clear()
        assert here.read("a", "a", "a") == [number] * 3
    assert here.figures() == (100, 0, 0)
    assert here.cache.audits() == []
    assert here.waited == []


def test_a_value_that_is_equal_is_no_difference_whatever_its_bytes_are(shop: Make) -> None:
    here = shop()
    here.source["a"] = {"x": 1, "y": {1, 2}}
    here.read("a")
    here.source["a"] = {"y": {2, 1}, "x": 1}
    here.read("a")
    assert here.figures() == (1, 0, 0)
    assert here.called == ["a", "a"]


def test_a_loader_that_gives_another_value_each_time_says_nothing(
    shop: Make, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    here = shop()

    def change() -> None:
        here.source["a"] += 1

    here.inside = change
    here.read("a", "a")
    assert here.figures() == (1, 0, 1)
    assert (here.cache.audits(), here.waited) == ([], [])
    until(lambda: caplog.records)
    assert "says nothing: it returns another value at each call" in caplog.text


@pytest.mark.parametrize("error", [KeyError("a"), StopIteration(), ValueError("a")])
def test_what_the_loader_raises_is_counted_and_logged_and_is_no_difference(
    shop: Make, error: Exception, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    here = shop()
    here.read("a")

    def fail() -> None:
        raise error

    here.inside = fail
    assert here.read("a") == [1]
    assert here.figures() == (1, 0, 1)
    assert here.cache.stats().failed_loads == 0
    until(lambda: caplog.records)
    assert "says nothing: " in caplog.text
    here.inside = lambda: None
    here.read("a")
    assert here.figures() == (2, 0, 1), "another audit may run"


def test_a_value_that_cannot_travel_any_more_says_nothing(shop: Make) -> None:
    here = shop()
    here.read("a")
    here.source["a"] = object()
    here.read("a")
    assert here.figures() == (1, 0, 1)


# --- What makes an audit void


def by_key(here: Shop) -> None:
    call = here.price.invalidate("a")
    if inspect.iscoroutine(call):  # without a loop that waits: nothing has to be waited for
        with pytest.raises(StopIteration):
            call.send(None)


def by_tag(here: Shop) -> None:
    here.cache.invalidate_tags("prices")


def by_namespace(here: Shop) -> None:
    here.cache.clear()


def by_a_write(here: Shop) -> None:
    here.cache.namespace("price").set(("a",), 7)


EVENTS = [by_key, by_tag, by_namespace, by_a_write]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("when", ["the first call", "the second call", "the wait"])
def test_an_event_between_the_hit_and_the_report_makes_the_audit_void(
    shop: Make, event: Callable[[Shop], None], when: str
) -> None:
    here = shop(tags=("prices",), name="price")
    here.read("a")
    here.source["a"] = 5

    def happen() -> None:
        is_due = {"the first call": 2, "the second call": 3, "the wait": 3}[when] == len(here.called)
        if is_due and len(here.waited) == (when == "the wait"):
            event(here)

    if when == "the wait":
        here.in_grace = happen
    else:
        here.inside = happen
    assert here.read("a") == [1]
    assert here.figures() == (1, 0, 0)
    assert here.cache.audits() == []
    assert len(here.called) == {"the first call": 2, "the second call": 3, "the wait": 3}[when]


def test_an_argument_that_its_caller_has_changed_makes_the_audit_void(near: Make) -> None:
    here = near()

    @here.cache.cached(audit=True)
    def total(numbers: list[int]) -> int:
        here.inside()
        return sum(numbers)

    here.price, numbers = total, [1, 2]
    here.read(numbers)
    here.inside = lambda: numbers.append(3) if len(numbers) < 3 else None
    assert here.read(numbers) == [3]
    assert here.figures() == (1, 0, 0)
    assert len(numbers) == 3


def test_leaving_the_group_makes_the_audit_void(near: Make) -> None:
    here = near()
    here.read("a")
    here.source["a"], here.in_grace = 5, here.cache.leave
    here.read("a")
    assert here.waited == [GRACE]
    assert here.cache.audits() == []
    assert here.figures() == (1, 0, 0)


# --- How many


def test_one_audit_runs_at_a_time_and_then_there_is_a_rest(near: Make, until: Until) -> None:
    here = near()
    here.read("a", "b")
    entered, goes_on = threading.Event(), threading.Event()

    def stop() -> None:
        entered.set()
        assert goes_on.wait(30)

    here.inside = stop
    assert here.price("a") == 1
    assert entered.wait(30)
    for _ in range(10):
        assert (here.price("a"), here.price("b")) == (1, 2), "no reader waits"
    assert here.figures()[0] == 1
    here.clock.now += 2
    goes_on.set()
    until(lambda: not here.auditor._running)
    here.inside = lambda: None
    here.read("a", "b", advance=0.0)
    assert here.figures()[0] == 1
    here.read("a", advance=REST * 2 - 0.01)
    assert here.figures()[0] == 1
    here.read("a", advance=0.02)
    assert here.figures()[0] == 2
    here.read("a", advance=AT_LEAST - 0.01)
    assert here.figures()[0] == 2
    here.read("a", advance=0.02)
    assert here.figures()[0] == 3


def test_the_share_is_that_of_the_hits(new_cache: NewCache, until: Until) -> None:
    """Both of near hits and of fetches. What is drawn may be refused, because another audit runs."""
    for copy in (False, True):
        here = Shop(new_cache(audit=0.1, copy=copy), until)
        drawn: list[object] = []
        here.auditor.admits = lambda job, drawn=drawn: drawn.append(job)  # type: ignore[method-assign, assignment, misc]

        @here.cache.cached(audit=True)
        def of_any_form(**named: str) -> int:
            return 1

        for read in (lambda here=here: here.price("a"), lambda read=of_any_form: read(sku="a")):
            drawn.clear()
            for _ in range(2000):
                read()
            assert 120 <= len(drawn) <= 280, "200 are likely, and 14 the deviation"


def test_a_hundred_differences_are_remembered(near: Make) -> None:
    here = near()
    for number in range(MOST + 5):
        here.source[str(number)] = 0
        here.read(str(number))
        here.source[str(number)] = 1
        here.read(str(number))
    assert [found.key for found in here.cache.audits()] == [(str(number),) for number in range(5, MOST + 5)]


def test_an_audit_whose_loop_has_ended_stands_in_nobodys_way(new_cache: NewCache, until: Until) -> None:
    here = Shop(new_cache(audit=1), until, is_async=True)
    loop = asyncio.new_event_loop()
    here.clock.now += 1000
    assert [loop.run_until_complete(here.price("a")) for _ in range(2)] == [1, 1]
    assert here.figures()[0] == 1
    assert here.auditor._running, "the loop has ended before the audit"
    assert here.read("a") == [1]
    assert here.figures() == (2, 0, 0)
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop)))
    loop.close()


def test_an_audit_that_is_interrupted_as_it_begins_stands_in_nobodys_way(
    near: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = near()
    here.read("a")

    def interrupted(self: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Audit, "start", interrupted)
        with pytest.raises(InterruptedError):
            here.read("a")
    here.read("a")
    assert here.figures() == (2, 0, 0)
    assert here.called == ["a", "a"]


# --- What is audited


def plain(sku: Any, *more: str, currency: str = "EUR") -> Any:
    """Use only what makes the key."""
    return SOURCE.get(str(sku))


def one(sku: str) -> Any:
    """Do the same, with one argument."""
    return SOURCE.get(sku)


async def coroutine(sku: str) -> Any:
    """Do the same."""
    return SOURCE.get(sku)


class Thing:
    """Makes its own key."""

    def __cache_key__(self) -> str:
        return "thing"

    def price(self, sku: str) -> Any:
        return SOURCE.get(sku)

    @classmethod
    def of_class(cls, sku: str) -> Any:
        return SOURCE.get(sku)


def is_audited(cache: Cache, function: Any, *args: Any) -> bool:
    """Whether the second call is drawn."""
    auditor = cache._member.life.auditor
    drawn: list[object] = []
    auditor.admits = lambda job: drawn.append(job)  # type: ignore[method-assign, assignment, return-value]
    for _ in range(2):
        found = function(*args)
        if inspect.iscoroutine(found):
            asyncio.run(found)
    return bool(drawn)


@pytest.fixture
def audited(new_cache: NewCache) -> Cache:
    """Return a cache of which every hit is audited."""
    return new_cache(audit=1)


def test_a_function_is_audited_if_its_key_tells_all_that_it_is_given(audited: Cache) -> None:
    assert is_audited(audited, audited.cached(plain), "a")
    assert is_audited(audited, audited.cached(one), "a")
    assert is_audited(audited, audited.cached(coroutine), "a")
    assert is_audited(audited, audited.cached(name="more")(plain), ["a"], "b", "c")

    def around(table: str) -> Any:
        @audited.cached
        def of_table(sku: str) -> Any:
            return SOURCE.get((table, sku))

        return of_table

    assert is_audited(audited, around("prices"), "a")
    method = audited.cached(Thing.__dict__["of_class"].__func__)
    assert is_audited(audited, method, Thing, "a")


def test_a_function_that_may_use_something_of_a_request_is_not_audited_unless_that_is_said(audited: Cache) -> None:
    session = object()

    def uses(sku: str) -> Any:
        return SOURCE.get(sku, session and None)

    cases: dict[str, tuple[Any, dict[str, Any], tuple[Any, ...]]] = {
        "an argument that is ignored": (plain, {"ignore": ("currency",)}, ("a",)),
        "a key of the user's own": (plain, {"key": lambda *args, **kwargs: "a"}, ("a",)),
        "an object of the function around it": (uses, {}, ("a",)),
        "a method of an object with a key": (Thing.price, {}, (Thing(), "a")),
        "an object with a key": (plain, {}, (Thing(),)),
        "an object with a key, in a list": (plain, {}, ([Thing()],)),
        "an object with a key, by name": (plain, {}, ({"thing": Thing()},)),
    }
    for number, (what, (function, options, args)) in enumerate(cases.items()):
        for audit in (None, False, True):
            decorated = audited.cached(name=f"{number}/{audit}", audit=audit, **options)(function)
            assert is_audited(audited, decorated, *args) == (audit is True), (what, audit)


def test_a_function_may_be_left_out(audited: Cache) -> None:
    assert not is_audited(audited, audited.cached(audit=False)(plain), "a")


def test_other_reads_are_not_audited(audited: Cache) -> None:
    audited.set("a", 1)
    assert not is_audited(audited, lambda: audited.get_or_load("a", lambda: 2))
    assert not is_audited(audited, lambda: (audited.get("a"), audited.get_many(["a"])))


def test_who_writes_what_a_function_reads_does_no_harm(audited: Cache) -> None:
    audited.namespace("price").set(("a",), 1)
    decorated = audited.cached(name="price")(one)
    for _ in range(3):
        audited.namespace("price").get(("a",))  # so a near copy of which nothing is drawn is kept
    assert [decorated("a") for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("share", [0, "0"])
def test_where_nothing_is_audited_a_hit_does_nothing_for_it(new_cache: NewCache, share: Any) -> None:
    for cache, is_drawn in ((new_cache(audit=share), False), (new_cache("other", audit=0.5), True)):
        decorated = cache.cached(one)
        decorated("a")
        assert ("draw_at" in decorated.__code__.co_names) is is_drawn
        [entry] = decorated._cc_calls.keyspace.near[0].values()
        assert isinstance(entry, SampledEntry) is is_drawn


@pytest.mark.parametrize("audit", ["yes", 1, 0.5])
def test_what_says_whether_a_function_is_audited_is_checked(cache: Cache, audit: Any) -> None:
    with pytest.raises(TypeError, match=r"^audit is True or False, or None, not "):
        cache.cached(audit=audit)


# --- Where the function runs

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="no request")


def test_the_function_is_called_elsewhere_in_an_empty_context_and_in_what_was_asked_for(shop: Make) -> None:
    here = shop()
    log: list[Any] = []

    @contextmanager
    def surroundings() -> Iterator[None]:
        token = REQUEST.set("surroundings")
        log.append("in")
        try:
            yield
        finally:
            log.append("out")
            REQUEST.reset(token)

    here.cache.audit_within(surroundings)
    REQUEST.set("a request")
    here.read("a")
    here.inside = lambda: log.append((REQUEST.get(), threading.current_thread() is threading.main_thread()))
    is_async = inspect.iscoroutinefunction(here.price)
    here.source["a"] = 5
    here.read("a")
    assert log == ["in", ("surroundings", is_async), "out"] * 2
    assert here.figures() == (1, 1, 0)


def test_without_surroundings_the_context_is_empty(shop: Make) -> None:
    here = shop()
    REQUEST.set("a request")
    seen: list[str] = []
    here.read("a")
    here.inside = lambda: seen.append(REQUEST.get())
    here.read("a")
    assert seen == ["no request"]


def test_surroundings_that_raise_are_an_error_of_the_audit(shop: Make) -> None:
    here = shop()

    def surroundings() -> Any:
        raise RuntimeError("no application")

    here.cache.audit_within(surroundings)
    here.read("a", "a")
    assert here.figures() == (1, 0, 1)


def test_surroundings_must_be_callable(cache: Cache) -> None:
    with pytest.raises(TypeError, match="surroundings is called"):
        cache.audit_within(REQUEST)  # type: ignore[arg-type]


def test_a_child_begins_anew(near: Make) -> None:
    here = near()
    here.read("a")
    here.source["a"] = 5
    here.read("a")
    assert here.cache.audits()
    child = os.fork()
    if not child:
        life = here.cache._member.life
        os._exit(bool(here.cache.audits() or life.auditor is here.auditor or life.auditor._running))
    assert os.waitpid(child, 0)[1] == 0
    assert here.cache.audits()
