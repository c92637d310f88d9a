"""The table of what this member has asked owners and waits for: reads, peeks, sets, fences and counts alike.

It numbers the requests, knows who must answer which of them, and tells the part that asked what becomes of a request
that is not answered.

An owner answers in the order in which it was asked. So a request is given up when its owner has said nothing for the
fetch timeout, neither to it nor to an earlier one: of many requests at once, each may take as long as those before it.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

from ..timers import Timers
from .knowledge import Knowledge
from .messages import Answer


class Part(Protocol):
    """What asks owners, and decides what to do when they do not answer."""

    def unanswered(self, request: Request) -> None:
        """Go on without an owner that does not answer in time; it is passed over from now on."""

    def owner_left(self, request: Request) -> None:
        """Go on without an owner that is gone."""


class Request:
    """Something that an owner is asked. Its part, which asks, adds what it needs."""

    __slots__ = ("asked_at", "established", "id", "is_asking", "owner", "part", "sent_at", "version")

    def __init__(self, part: Part, owner: bytes, knowledge: Knowledge) -> None:
        self.part = part
        self.owner = owner
        self.id = 0
        self.sent_at = knowledge.now  # a value in the answer is as old as the owner says, counted from here
        self.version = knowledge.version
        self.established = knowledge.established  # what is asked before that is not kept
        self.asked_at = -math.inf
        self.is_asking = False  # the owner has not said anything to it yet


R = TypeVar("R", bound=Request)


class Requests:
    """The requests under way. Only `get` is thread-safe."""

    def __init__(self, knowledge: Knowledge, timers: Timers) -> None:
        self._knowledge = knowledge
        self._timers = timers
        self._timeout = knowledge.settings.fetch_timeout
        self._ids = 0
        self._open: dict[int, Request] = {}
        self._heard: dict[bytes, tuple[int, float]] = {}  # by owner: the request that it answered last, and when

    def __len__(self) -> int:
        return len(self._open)

    def get(self, request: int, kind: type[R]) -> R | None:
        """Return an open request of a kind by its number. Any thread."""
        found = self._open.get(request)
        return found if isinstance(found, kind) else None

    def open(self, request: Request) -> None:
        """Take a request in, and number it."""
        self._ids += 1
        request.id = self._ids
        self._open[request.id] = request

    def close(self, request: Request) -> bool:
        """Take a request out. Return whether it was in here."""
        return self._open.pop(request.id, None) is not None

    def expect(self, request: Request) -> None:
        """Expect an answer from now on: the request is about to be sent."""
        request.is_asking, request.asked_at = True, self._knowledge.now
        self._timers.at(request.asked_at + self._timeout, self._look, request.id, request.asked_at)

    def answered(self, answer: Answer, kind: type[R]) -> R | None:
        """Return the open request of a kind that a message answers; None if its sender was not asked."""
        request = self.get(answer.id, kind)
        if request is None or request.owner != answer.sender:
            return None
        request.is_asking = False
        self._heard[answer.sender] = request.id, self._knowledge.now
        return request

    def still_answering(self, request: Request) -> None:
        """Expect more of an answer."""
        request.is_asking = True

    def owner_left(self, owner: bytes) -> None:
        """Tell the parts that an owner is gone."""
        self._heard.pop(owner, None)
        for request in [request for request in self._open.values() if request.owner == owner]:
            request.part.owner_left(request)

    def _look(self, number: int, asked_at: float) -> None:
        """Look whether the owner has answered."""
        request = self._open.get(number)
        if request is None or not request.is_asking or request.asked_at != asked_at:
            return
        answered, heard_at = self._heard.get(request.owner, (0, -math.inf))
        due = heard_at + self._timeout
        if answered <= request.id and due > self._knowledge.now:
            self._timers.at(due, self._look, number, asked_at)
        else:
            self._knowledge.pass_over(request.owner)
            request.part.unanswered(request)
