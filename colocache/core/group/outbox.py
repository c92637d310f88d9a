"""What leaves the protocol of a member: actions for its driver, outcomes of calls, mail to itself, and counts."""

from __future__ import annotations

from collections import deque
from typing import get_args

from .messages import Addressed, Answer, Pong, Replayed, Reset, Roster, encode
from .outcomes import Outcome
from .seam import Action, Publish, Send
from .stats import Counters

#: What goes back on the connection that the question came by.
REPLIES = (*get_args(Answer), Pong, Roster, Replayed, Reset)


class Outbox:
    """Collects what the parts of a member want done. Not thread-safe.

    A message to this member itself is mail. The step that sends it ends first, and then the mail is handled, in the
    order in which it was sent. So a member answers its own requests as it answers those of others, and no part is
    entered again while it works.
    """

    def __init__(self, me: bytes) -> None:
        self.counters = Counters()
        self._me = me
        self._actions: list[Action] = []
        self._outcomes: list[tuple[int, Outcome]] = []
        self.mail: deque[Addressed] = deque()  # messages to this member itself, the oldest first

    def send(self, message: Addressed) -> None:
        """Send a message to the member that it names."""
        if message.to == self._me:
            self.mail.append(message)
        else:
            self.act(Send(message.to, encode(message), isinstance(message, REPLIES)))

    def publish(self, frame: bytes) -> None:
        """Send a frame to everybody, on the bus."""
        self.act(Publish(frame))

    def act(self, action: Action) -> None:
        """Have the driver do something."""
        self._actions.append(action)

    def resolve(self, ticket: int, outcome: Outcome) -> None:
        """Give a call its outcome."""
        self._outcomes.append((ticket, outcome))

    def actions(self) -> list[Action]:
        """Return, and forget, what the driver is to do, in order."""
        actions, self._actions = self._actions, []
        return actions

    def outcomes(self) -> list[tuple[int, Outcome]]:
        """Return, and forget, the outcomes of calls, by their tickets."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes
