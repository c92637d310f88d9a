"""A network between simulated hosts: it loses messages, delivers them late and in another order, and is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from colocache.core.hosts import messages

if TYPE_CHECKING:
    from verification.hosts.computer import Worker
    from verification.hosts.history import History

Way = tuple[int, int]  # from one host to another
Back = Callable[[bytes], object]

DELAYS = (0.0003, 0.0006, 0.001, 0.002, 0.01)  # s


def _nobody(frame: bytes) -> None:
    """Take an answer that nobody waits for."""


class Network:
    """What is between the hosts."""

    def __init__(self, history: History, loss: float) -> None:
        self._history = history
        self._loss = loss
        self.cut: dict[Way, int] = {}  # how many cuts of that way there are
        self.apart: dict[Way, int] = {}  # the same of lines: whoever has dialled asks in vain, and is asked as always
        self.late: dict[tuple[Way, type], float] = {}  # s that messages of a type take, also where the way is cut
        self.sent = 0
        self.lost = 0

    def cut_for(self, seconds: float, *ways: Way) -> None:
        """Cut some ways for so long."""
        for way in ways:
            self.cut[way] = self.cut.get(way, 0) + 1
        self._history.policy.after(seconds, lambda: self._heal(ways))

    def keep_apart(self, seconds: float, *lines: Way) -> None:
        """Have nothing come through some lines for so long, in both ways: one host does not reach another's address."""
        for line in lines:
            self.apart[line] = self.apart.get(line, 0) + 1
        self._history.policy.after(seconds, lambda: self._join(lines))

    def _heal(self, ways: tuple[Way, ...]) -> None:
        for way in ways:
            self.cut[way] = max(0, self.cut.get(way, 0) - 1)

    def _join(self, lines: tuple[Way, ...]) -> None:
        for line in lines:
            self.apart[line] = max(0, self.apart.get(line, 0) - 1)

    def heal_all(self) -> None:
        """End all cuts."""
        self.cut.clear()
        self.apart.clear()

    def _carry(self, way: Way, line: Way, arrive: Callable[[], object], frame: bytes = b"") -> None:
        """Have something arrive on a line, or not."""
        history = self._history
        if self.late and frame:
            seconds = self.late.get((way, type(messages.decode(frame))))
            if seconds is not None:
                history.policy.after(seconds, arrive)
                return
        random, is_quiet = history.random, history.machine.clock >= history.plan.end + 0.4
        self.sent += 1
        if random.random() < self._loss and not is_quiet:
            self.lost += 1
            return
        late = random.random() > 0.94 and not is_quiet
        delay = random.uniform(0.05, 0.7) if late else random.choice(DELAYS)

        def go() -> None:
            if self.cut.get(way) or self.apart.get(line):
                if random.random() < 0.6:
                    self.lost += 1
                else:
                    history.policy.after(0.3, go)
                return
            arrive()

        history.policy.after(delay, go)

    def to_gateways(
        self, source: int, target: int, frame: bytes, back: tuple[Worker, Back] | None, everybody: bool = False
    ) -> None:
        """Send a message to a gateway of a host, or to all of them. ``back`` is who takes answers, and how."""
        history = self._history

        def reply(answer: bytes) -> None:
            if back is not None:
                worker, take = back

                def answered() -> None:
                    if worker.process.state in history.living:
                        take(answer)
                    else:  # whoever has the address now
                        deliver(source, answer, None)

                self._carry((target, source), (source, target), answered, answer)

        def deliver(index: int, frame: bytes, reply: Back | None) -> None:
            region = history.regions[index]
            gateways = region.gateways() if region is not None else []
            if gateways and not everybody:
                gateways = [history.random.choice(gateways)]
            for worker in gateways:
                worker.deliver(lambda worker=worker: worker.receive(frame, reply or _nobody))  # type: ignore[misc]

        self._carry((source, target), (source, target), lambda: deliver(target, frame, reply), frame)

    def request(self, asker: Worker, target: int, frame: bytes, take: Back) -> None:
        """Send a request to the port of a host, which any process may have."""
        history, source = self._history, asker.region.index

        def reply(answer: bytes) -> None:
            self._carry(
                (target, source), (source, target),
                lambda: take(answer) if asker.process.state in history.living else None,
            )  # fmt: skip

        def arrive() -> None:
            region = history.regions[target]
            workers = region.alive() if region is not None else []
            if workers:
                worker = history.random.choice(workers)
                worker.deliver(lambda: worker.owner.serve(frame, reply))

        self._carry((source, target), (source, target), arrive)
