"""Get-or-load: get the value of a key, wait for another call's load of it, or load it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.entry import Entry
from ..core.group.calls import Calls
from ..core.group.outcomes import Found, Lead, Loaded, Solo
from ..core.keys import Key
from ..errors import RecursiveLoadError
from ..naming import shown
from ..runtime.driver import Driver
from ..runtime.waiting.answers import Asked
from .flow import Command, Flow, Wait
from .keyspace import Given, Keyspace, copied
from .tally import tell
from .under_way import UnderWay, is_circle, loads_above

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

LoadFlow = Generator["Wait | Load", Any, T]


def get_or_load(keyspace: Keyspace, key: Key, loader: Callable[[], Any], given: Given) -> LoadFlow[Any]:
    """Look for a key in the group, level by level, and at last in the source, by the user's function.

    The caller has looked in the near cache already.
    """
    keyspace.check_function()
    return (yield from load_or_wait(Duty(keyspace, key, loader, given)))


def load_or_wait(duty: Duty) -> LoadFlow[Any]:
    """Get the value, wait for another call's load of it, or load it.

    The load is for the group, or for this call alone where the group cannot take it.

    Raise RecursiveLoadError if a load of the key waits for this thread or task: at once where that is certain. A task
    or thread that the loader has started may wait for the load, because the loader need not wait for that task. If the
    load still runs when the load timeout is over, or if this call cannot wait for it, they are taken to wait for each
    other.
    """
    if is_circle(duty.load_id):
        raise RecursiveLoadError(f"the loader of the key {shown(duty.key)} asks for that same key")
    try:
        outcome = yield from duty.ask()
        if isinstance(outcome, Found):
            try:
                return duty.use(outcome.entry)
            except ValueError as error:
                duty.on_undecodable(error)
        if not isinstance(outcome, Lead) and loads_above(duty.load_id):
            raise RecursiveLoadError(
                f"a task or thread that the loader of the key {shown(duty.key)} has started asks for that same key, "
                "and cannot wait any longer for the loader, which may be waiting for it"
            )
        return (yield Load(duty))
    finally:
        if duty.is_open:
            duty.give_back()


class Duty:
    """One call's question for a key, and the duty to load it, if that is the answer. Other calls wait for that load.

    The call reports exactly once what became of the duty. If an exception comes at any instruction between the question
    and the report, `load_or_wait` gives the duty back. The question's ticket is the duty: the member's own thread takes
    it with the first report, and ignores every later one. So a report that may have been interrupted can be repeated.
    """

    def __init__(self, keyspace: Keyspace, key: Key, loader: Callable[[], Any], given: Given) -> None:
        member = keyspace.member
        self.key = key
        self.wire = keyspace.wire(key)
        self.loader = loader
        self.load_id = member.serial, self.wire
        self.timeout = member.config.load_timeout  # s that other calls wait for a load, at most
        self.is_open = False  # the question may have been asked, and nothing was reported yet
        self._keyspace = keyspace
        self._member = member
        self._given = given
        self._driver: Driver | None = member.join()
        self._outcome: Found | Lead | Solo = Solo()
        self._asked: Asked | None = None

    def ask(self) -> Flow[Found | Lead | Solo]:
        """Ask the group for the value, or for the duty to load it."""
        driver, outcome, stores = self._driver, None, self._given.options.ttl != 0
        if driver is not None and stores:
            self._asked = asked = driver.new_call()
            self.is_open = True
            outcome = yield Wait(driver, self._reading(), self.timeout, None, answer=lambda: asked)
            self.is_open = isinstance(outcome, Lead)
        if outcome is None:
            with self._member.counting:
                self._member.counters.loads += 1
                self._member.counters.fallbacks += stores and not self._member.config.disabled
        self._outcome = outcome or Solo()
        tell(self._member, "fetches" if isinstance(outcome, Found) else "loads")
        return self._outcome

    def _reading(self) -> Command:
        key, tags, patience = self.wire, self._given.options.tags, self.timeout
        return lambda calls, ticket, now: calls.read(ticket, key, tags, patience, now)

    def use(self, entry: Entry) -> Any:
        """Return the value of an entry. Raise ValueError if this process cannot decode it."""
        assert self._driver is not None
        return self._keyspace.use(self._driver, self.key, entry)

    def on_undecodable(self, error: ValueError) -> None:
        """Note that the value cannot be decoded here, and is loaded instead."""
        with self._member.counting:
            self._member.counters.loads += 1
            self._member.counters.fallbacks += 1
        self._member.tell_undecodable(error)

    def is_awaited(self) -> bool:
        """Tell whether another call than this one waits for the load, as far as this process knows."""
        outcome = self._outcome
        return self._driver is not None and isinstance(outcome, Lead) and self._driver.is_awaited(outcome.fetch)

    def on_detach(self) -> None:
        """Note that the caller was cancelled, and that the load goes on: its task has the duty now."""
        self.is_open = False
        outcome = self._outcome
        if self._driver is not None and isinstance(outcome, Lead):
            self._driver.tell(lambda calls, now: calls.detach(outcome.fetch, now))

    def on_lost(self, error: BaseException) -> None:
        """Note that the loader raised, and that its caller was cancelled before."""
        self._member.tell_lost(self.key, error)

    def fail(self, error: BaseException) -> None:
        """Report that the loader raised.

        If it was cancelled, or told to exit, that does not mean that the source is in trouble: another call loads.
        """
        if isinstance(error, Exception):
            self._report(lambda calls, fetch, now: calls.failed(fetch, now))
        else:
            self.give_back()

    def succeed(self, value: Any, oldest: float) -> None:
        """Report the loader's value, made of cached ones as old as ``oldest``. Raise TypeError if it cannot travel."""
        keyspace, driver = self._keyspace, self._driver
        if driver is None or not isinstance(self._outcome, Lead):
            return
        payload = keyspace.encode(self.key, value, self._given)
        if payload is None and keyspace.copies:
            try:
                value = copied(value)  # for the calls that wait: the loader's own value goes to its caller
            except ValueError as error:
                self.fail(error)  # those calls load for themselves
                return
        options, publish = self._given.options, keyspace.publisher(driver, self.key, value)
        loaded = Loaded(value, payload, options, publish, oldest)
        self._report(lambda calls, fetch, now: calls.loaded(fetch, loaded, now))

    def give_back(self) -> None:
        """Give the duty back: another call loads."""
        if self._driver is not None and self._asked is not None:
            self._driver.abandon(self._asked)
        self.is_open = False

    def _report(self, report: Callable[[Calls, int, float], None]) -> None:
        driver, outcome, asked = self._driver, self._outcome, self._asked
        if driver is None or asked is None or not isinstance(outcome, Lead):
            return

        def carry_out(calls: Calls, now: float) -> None:
            if asked.take_ticket():
                report(calls, outcome.fetch, now)

        driver.tell(carry_out)
        self.is_open = False


class Load(UnderWay):
    """The step of a flow that calls the user's function."""

    def __init__(self, duty: Duty) -> None:
        super().__init__(duty.load_id)
        self.duty = duty
        self._began = self._is_orphan = False

    def call(self) -> Any:
        """Call the function; what it returns may be awaitable. It is under way until `succeed` or `fail`."""
        self._began = True
        self.begin()
        return self.duty.loader()

    def succeed(self, value: Any) -> None:
        """Report the function's value. Raise TypeError if it cannot travel."""
        self.end()
        self.duty.succeed(value, self.oldest)

    def fail(self, error: BaseException) -> None:
        """Report what the function, or the report of its value, has raised."""
        self.end()
        self.duty.fail(error)

    def lose_caller(self) -> None:
        """Note that the caller was cancelled, and takes neither value nor exception."""
        self.caller, self._is_orphan = None, True

    def on_task_end(self, task: asyncio.Task[Any]) -> None:
        """Give the duty back if the task was cancelled before it began, and log an exception that nobody takes."""
        if task.cancelled():
            if not self._began:
                self.duty.give_back()
            return
        error = task.exception()
        if error is not None and self._is_orphan:  # otherwise it is the caller's
            self.duty.on_lost(error)
