"""Looks the peers up again and again, in threads of its own, because a lookup may block for a minute.

The gateway's thread owns a `Discovery`, and calls `Lookups.step` whenever it is woken, and at the latest at the
deadline of the `Discovery`::

    lookups = Lookups(Discovery(items, monotonic()), Resolver(), waker.wake)
    while serving:
        lookups.step(monotonic())
        dial(lookups.discovery.to_dial(monotonic()))
        wait(until=lookups.discovery.deadline(monotonic()))
    lookups.close()

There are as many threads as lookups have ever been under way at a time: one, where names are found quickly. They live
until `close`. Where gevent has patched the sockets that dnspython uses, each that looks up SRV records gets a hub of
gevent's. gevent (26.9) never frees such a hub completely, not even one that is destroyed. And once such threads had
ended, the main thread's hub sometimes waited for ever. So there is no new thread for each lookup, and under gevent
they do not end before the process does.

Nothing waits for these threads. They are daemons, so a lookup that blocks does not hold up the end of the process. What
it answers after `close`, or in a process that has forked meanwhile, goes nowhere.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable

from ..waiting.threads import NoThread, allocate_lock, drained, is_patched, start_helper
from .answers import Answer, Failed
from .discovery import Discovery
from .peers import Item


class Lookups:
    """Feeds a `Discovery` with answers. Use it in one thread, in which no signal handlers run."""

    def __init__(
        self, discovery: Discovery, look_up: Callable[[Item], Answer], wake: Callable[[], object] = lambda: None
    ) -> None:
        """Nothing is started yet. ``look_up`` is called in threads, several at a time: a `Resolver`.

        ``wake`` is called in those threads when an answer is there. It must not block.
        """
        self.discovery = discovery
        self._look_up = look_up
        self._begin(wake)

    def step(self, now: float) -> None:
        """Take the answers that have come, and start the lookups that are due. Return at once, and raise nothing.

        In a forked child it notices the fork: the threads of the parent are not there, and all is looked up anew.
        """
        if self._pid != os.getpid():
            self.forget_after_fork(now)
        for worker, item, answer in drained(self._post.answers):
            self._idle.append(worker)
            self.discovery.answer(item, answer, now)
        for item in self.discovery.due(now):
            try:
                self._worker().give(item)
            except NoThread as error:
                self.discovery.answer(item, Failed(str(error)), now)

    def forget_after_fork(self, now: float, wake: Callable[[], object] | None = None) -> None:
        """In a forked child, forget the threads of the parent, and have all items looked up anew.

        ``wake`` is the child's own. Without it the child goes on with the parent's.
        """
        self._begin(wake or self._post.wake)
        self.discovery.look_again(now)

    def close(self) -> None:
        """Let lookups that are under way be in vain, and return at once. `step` may not be called any more."""
        self._post.close()
        if not is_patched():
            for worker in self._workers:
                worker.give(None)

    def _begin(self, wake: Callable[[], object]) -> None:
        self._pid = os.getpid()
        self._post = _Post(wake)
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []  # only the thread of `step` touches it

    def _worker(self) -> _Worker:
        """Return one that has nothing to do. Raise NoThread if there is none, and none can be started."""
        while self._idle:
            worker = self._idle.pop()
            if worker.lives:
                return worker
            self._workers.remove(worker)
        worker = _Worker(self._look_up, self._post)
        start_helper(worker.run, "colocache discovery")
        self._workers.append(worker)
        return worker


class _Post:
    """Where workers put their answers, for as long as somebody wants them."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.answers: deque[tuple[_Worker, Item, Answer]] = deque()
        self.wake = wake

    def put(self, worker: _Worker, item: Item, answer: Answer) -> None:
        self.answers.append((worker, item, answer))
        self.wake()

    def close(self) -> None:
        self.wake = _nothing
        self.answers = deque(maxlen=0)


def _nothing() -> None:
    pass


class _Worker:
    """A thread that does one lookup after another. It answers each, or the item would stay under way."""

    def __init__(self, look_up: Callable[[Item], Answer], post: _Post) -> None:
        self.lives = True
        self._look_up = look_up
        self._post = post
        self._item: Item | None = None
        self._given = allocate_lock()
        self._given.acquire()

    def give(self, item: Item | None) -> None:
        """Have something looked up, after the last one was answered; or, with None, end the thread after that."""
        self._item = item
        with contextlib.suppress(RuntimeError):  # the end comes before it has seen what was given last
            self._given.release()

    def run(self) -> None:
        # The item is read once, because `give` may replace it by None at any time.
        while self._given.acquire() and (item := self._item) is not None:
            self._answer(item)

    def _answer(self, item: Item) -> None:
        answer: Answer = Failed("the lookup was broken off")
        self.lives = False
        try:
            answer = self._look_up(item)
            self.lives = True
        except Exception as error:
            answer = Failed(f"{type(error).__name__}: {error}")
            self.lives = True
        finally:  # something else was raised, and ends this thread
            self._post.put(self, item, answer)
