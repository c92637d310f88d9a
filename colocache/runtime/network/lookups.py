"""Looks the peers up again and again, each in a short-lived thread, because a lookup may block for a minute.

The gateway's thread owns a `Discovery`, and calls `Lookups.step` whenever it is woken, and at the latest at the
deadline of the `Discovery`::

    lookups = Lookups(Discovery(items, monotonic()), Resolver(), waker.wake)
    while serving:
        lookups.step(monotonic())
        dial(lookups.discovery.to_dial(monotonic()))
        wait(until=lookups.discovery.deadline(monotonic()))
    lookups.close()

Nothing waits for these threads. They are daemons, so a lookup that blocks does not hold up the end of the process. What
it answers after `close`, or in a process that has forked meanwhile, goes nowhere.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable

from ..waiting.threads import NoThread, drained, is_patched, start
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
        self._post = _Post(wake)
        self._pid = os.getpid()

    def step(self, now: float) -> None:
        """Take the answers that have come, and start the lookups that are due. Return at once, and raise nothing.

        In a forked child it notices the fork: the threads of the parent are not there, and all is looked up anew.
        """
        if self._pid != os.getpid():
            self.forget_after_fork(now)
        for item, answer in drained(self._post.answers):
            self.discovery.answer(item, answer, now)
        for item in self.discovery.due(now):
            try:
                start(_Lookup(item, self._look_up, self._post), "colocache discovery")
            except NoThread as error:
                self.discovery.answer(item, Failed(str(error)), now)

    def forget_after_fork(self, now: float, wake: Callable[[], object] | None = None) -> None:
        """In a forked child, forget the lookups of the parent, whose threads are not there.

        ``wake`` is the child's own. Without it the child goes on with the parent's.
        """
        self._pid = os.getpid()
        self._post = _Post(wake or self._post.wake)
        self.discovery.look_again(now)

    def close(self) -> None:
        """Let lookups that are under way be in vain, and return at once. `step` may not be called any more."""
        self._post.close()


class _Post:
    """Where lookups put their answers, for as long as somebody wants them."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.answers: deque[tuple[Item, Answer]] = deque()
        self.wake = wake

    def put(self, item: Item, answer: Answer) -> None:
        self.answers.append((item, answer))
        self.wake()

    def close(self) -> None:
        self.wake = _nothing
        self.answers = deque(maxlen=0)


def _nothing() -> None:
    pass


class _Lookup:
    """One lookup, as a thread does it. It gives one answer, whatever happens: without, the item stays under way."""

    def __init__(self, item: Item, look_up: Callable[[Item], Answer], post: _Post) -> None:
        self._item = item
        self._look_up = look_up
        self._post = post

    def __call__(self) -> None:
        answer: Answer = Failed("the lookup was broken off")
        try:
            answer = self._look_up(self._item)
        except Exception as error:
            answer = Failed(f"{type(error).__name__}: {error}")
        finally:
            self._post.put(self._item, answer)
            _close_hub()


def _close_hub() -> None:
    """Free the hub that gevent has made for this thread, if dnspython has waited by sockets that gevent has patched."""
    if is_patched():
        hub = sys.modules["gevent._hub_local"].get_hub_if_exists()
        if hub is not None:
            hub.destroy(destroy_loop=True)
