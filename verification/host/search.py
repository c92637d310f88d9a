"""Every interleaving of a few simulated threads, by running them again and again.

A run follows from its choices. The search takes for each choice that it comes to the first option, notes the others,
and later runs once more up to there and takes one of those. The first option is that nothing unusual happens: the
thread goes on, its store is seen at once, its load gives the newest. Each deviation has a price, and a run has a budget
of them (Musuvathi and Qadeer, "Iterative context bounding for systematic testing of multithreaded programs", PLDI
2007). Without a budget the search is exhaustive.

Two reductions, both sound: Where a run comes to a choice in a state in which another one came to it with at least as
much left of its budget, it ends. And a thread is interrupted only before a step that another process's steps could
meddle with, as far as is known by then, and killed only before such a step or a store. What becomes known later is made
up for by starting over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from verification.host.machine import CHECKS, FENCE, RINGS, WORD, Hold, Machine, Process, State, Thread, Violation


class Played(Protocol):
    """A scenario that has been set up over a machine, with threads that are ready."""

    machine: Machine
    mortal: Sequence[Process]  # those that may be killed, one of them in a run

    def finish(self) -> None:
        """Raise `Violation` if something is wrong at the end."""


HOLDS = (Hold.NOT, Hold.WITH_ALL_LATER, Hold.ALONE)

#: A run: at which of its moments which option was taken, where that was not the first one.
Route = tuple[tuple[int, int], ...]


class Pruned(BaseException):
    """The run came to a state that is known."""


@dataclass
class Report:
    """What a search has found."""

    runs: int = 0
    states: int = 0
    ends: int = 0  # runs that were not cut
    steps: int = 0
    violation: str = ""
    route: Route = ()
    story: list[str] = field(default_factory=list)
    exhausted: bool = True  # not cut by a limit of runs

    def __str__(self) -> str:
        found = self.violation or ("safe" if self.exhausted else "safe so far")
        return f"{self.runs:>9,} runs {self.states:>9,} states  {found}"


class Search:
    """All runs of one scenario within a budget."""

    def __init__(self, play: Callable[[], Played], budget: int | None, limit: int = 10_000_000) -> None:
        """``budget`` None is for an exhaustive search."""
        self.play = play
        self.budget = budget or 0
        self.is_free = budget is None
        self.limit = limit
        self.report = Report()
        self.known: dict[int, int] = {}  # state → the most that was left of the budget there
        self.uses: set[tuple[int, int, int, bool]] = set()  # process, place, size, whether it stores
        self.users: dict[int, tuple[set[int], set[int]]] = {}  # word → processes that load it, and that store to it
        self.shared: set[int] = set()  # words with which processes meddle
        self.news = False  # whether `shared` has grown

    def run(self) -> Report:
        """Take the runs, depth first, with more and more of the budget, until one violates something, or all."""
        for budget in range(self.budget + 1) if not self.is_free else (0,):
            while self._exhaust(budget):
                if self.report.violation or not self.report.exhausted:
                    return self.report
        return self.report

    def _exhaust(self, budget: int) -> bool:
        """Take all runs within a budget; return whether more has to be done."""
        self.known.clear()
        self.news = False
        todo: list[Route] = [()]
        while todo:
            if self.report.runs >= self.limit:
                self.report.exhausted = False
                return True
            path = Path(self, todo.pop(), budget)
            if self._run(path):
                return True
            todo.extend(path.branches)
        self.report.states = len(self.known)
        return self.news

    def _run(self, path: Path) -> bool:
        """Take one run; return whether it violates something."""
        self.report.runs += 1
        played = self.play()
        machine = played.machine
        path.mortal = played.mortal
        try:
            machine.run(path)
            self.report.ends += 1
            machine.settle()
            played.finish()
        except Pruned:
            pass
        except Exception as error:
            self.report.violation = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
            self.report.route = path.route
            self.report.story = path.story
            return True
        finally:
            machine.close()
        return False

    def touch(self, process: int, offset: int, size: int, stores: bool) -> None:
        """Note that a process loads or stores there."""
        for word in _words(offset, size):
            loads, writes = self.users.setdefault(word, (set(), set()))
            (writes if stores else loads).add(process)
            if word not in self.shared and writes and len(loads | writes) > 1:
                self.shared.add(word)
                self.news = True


class Path:
    """The policy of one run: it takes a route, and where that says nothing, the first option."""

    def __init__(self, search: Search, route: Route, budget: int, *, tells: bool = False) -> None:
        self.search = search
        self.route = route
        self.left = budget
        self.branches: list[Route] = []  # the other routes, behind the end of this one
        self.story: list[str] = []
        self.mortal: Sequence[Process] = ()
        self._ways = dict(route)
        self._end = route[-1][0] if route else -1
        self._moment = -1
        self._kills = 1
        self._tells = tells

    # --- Choosing

    def choose(self, machine: Machine, prices: Sequence[int], *what: object) -> int:
        """Take one of the options, with these prices."""
        self._moment += 1
        moment = self._moment
        if moment <= self._end:
            option = self._ways.get(moment, 0)
        else:
            option = 0
            free = self.search.is_free
            others = [other for other, price in enumerate(prices) if other and (free or price <= self.left)]
            if others:
                known = self.search.known
                state = hash((machine.fingerprint(), machine.current.number, self._kills, what, len(prices)))
                if known.get(state, -1) >= self.left:
                    machine.end(Pruned())
                known[state] = self.left
                for other in reversed(others):
                    self.branches.append((*self.route, (moment, other)))
        if not self.search.is_free:
            self.left -= prices[option]
        return option

    def tell(self, *words: object) -> None:
        """Add a line to the story."""
        if self._tells:
            self.story.append(" ".join(map(str, words)))

    # --- What a policy does

    def steps(self) -> int:
        """Interrupt before each step."""
        return 0

    def pause(self, machine: Machine, thread: Thread, offset: int, size: int, stores: bool) -> Thread | None:
        """Go on, or let another one go on, or drain something first."""
        process = thread.process
        use = process.number, offset, size, stores
        if use not in self.search.uses:
            self.search.uses.add(use)
            self.search.touch(process.number, offset, size, stores)
        following = self._moment + 1
        dies = stores and self._kills > 0 and process in self.mortal
        if following not in self._ways and (
            following <= self._end or (not dies and self._is_private(process, thread, offset, size))
        ):
            self._moment = following
            if self._tells:
                self.tell(f"{thread.name}:", _told(offset, size, stores))
            return thread
        leaves = False  # whether another one goes on next
        while True:
            options: list[tuple[int, str, Callable[[], Thread | None]]] = []
            if not leaves:
                options.append((0, "", lambda: thread))
            others = [other for other in machine.threads if other is not thread and other.can_go_on()]
            price = 0 if leaves else 1
            for other in others:
                options.append((price, f"{thread.name} is interrupted by {other.name}", partial(_same, other)))
            if others:
                for place in machine.drainable(thread):
                    drain = partial(machine.drain, thread, place)
                    options.append((price, f"a store of {thread.name} is seen, and it is interrupted", drain))
            if not leaves:
                for other in machine.threads:
                    for place in machine.drainable(other) if other is not thread else ():
                        options.append((0, f"a store of {other.name} is seen", partial(machine.drain, other, place)))
                for dead in machine.processes:
                    if dead.state is State.KILLED and dead.inner:
                        options.append((1, f"{dead.name} loses its locks", partial(machine.bury, dead)))
                if any(other.wakes_at is not None for other in machine.threads):
                    options.append((1, "time passes", partial(_pass, machine)))
                if self._kills and process in self.mortal:
                    options.append((0, f"{process.name} is killed", partial(self._kill, machine, process)))
            if (not dies and self._is_private(process, thread, offset, size)) or len(options) == 1:
                self._moment += 1
                chosen = self._ways.get(self._moment, 0)
            else:
                chosen = self.choose(machine, [price for price, _, _ in options], offset, size, leaves)
            _, what, act = options[chosen]
            if what:
                self.tell(f"   {what}")
            leaves = leaves or "and it is interrupted" in what
            if (next_ := act()) is not None:
                if next_ is thread and self._tells:
                    self.tell(f"{thread.name}:", _told(offset, size, stores))
                return next_
            if process.state is State.KILLED:
                return self.next(machine)

    def _kill(self, machine: Machine, process: Process) -> None:
        self._kills -= 1
        machine.kill(process)

    def next(self, machine: Machine) -> Thread | None:
        """Take somebody who can go on. What waits in buffers may be drained first."""
        while True:
            ready = [thread for thread in machine.threads if thread.can_go_on()]
            drains = [(thread, place) for thread in machine.threads for place in machine.drainable(thread)]
            dead = [process for process in machine.processes if process.state is State.KILLED]
            if not ready:
                if drains:
                    machine.drain(*drains[0])
                elif dead:
                    machine.bury(dead[0])
                elif not self._wakes_somebody(machine):
                    return None
                continue
            options = len(ready) + len(drains) + len(dead)
            chosen = self.choose(machine, [0] * options, "next") if options > 1 else 0
            if chosen < len(ready):
                return ready[chosen]
            chosen -= len(ready)
            if chosen < len(drains):
                thread, place = drains[chosen]
                self.tell(f"   a store of {thread.name} is seen")
                machine.drain(thread, place)
            else:
                machine.bury(dead[chosen - len(drains)])

    def holds(self, machine: Machine, thread: Thread) -> Hold:
        """Store at once, or later."""
        prices = (0, 1, 1) if machine.weak and not thread.buffer else (0, 1)
        hold = HOLDS[self.choose(machine, prices, "holds", len(thread.buffer))]
        if hold is not Hold.NOT:
            self.tell(f"   {thread.name}'s store waits", "" if hold is Hold.ALONE else "with all later ones")
        return hold

    def age(self, machine: Machine, choices: int) -> int:
        """Load what is there, or what was."""
        age = self.choose(machine, [0] + [1] * (choices - 1), "age")
        if age:
            self.tell(f"   {machine.current.name}'s load gives what was there {age} stores ago")
        return age

    def pieces(self, machine: Machine, size: int) -> tuple[int, bool]:
        """Take two or three pieces, forwards or backwards."""
        return 64, bool(self.choose(machine, (0, 1), "pieces")) if size > 64 else False

    def gives_up(self, machine: Machine, thread: Thread) -> bool:
        """Wait for the lock, or not."""
        return bool(self.choose(machine, (0, 1), "gives up"))

    def _is_private(self, process: Process, thread: Thread, offset: int, size: int) -> bool:
        """Tell whether nobody else can meddle with a step, as far as is known."""
        if offset == FENCE:
            return not thread.buffer
        if len(process.threads) > 1:
            return False
        shared = self.search.shared
        if size <= WORD:
            return (offset if offset < 0 else offset // WORD) not in shared
        return not any(word in shared for word in _words(offset, size))

    @staticmethod
    def _wakes_somebody(machine: Machine) -> bool:
        if machine.advance():
            return True
        for thread in machine.threads:
            if thread.waits is not None and not thread.is_over and thread.process.state is State.RUNS:
                if thread.gives_up:
                    return False
                thread.gives_up = True
                return True
        return False


def _pass(machine: Machine) -> None:
    machine.advance()


def _same(thread: Thread) -> Thread:
    return thread


def _words(offset: int, size: int) -> Sequence[int]:
    """Return the words of a step; what is no memory has a number of its own."""
    return (offset,) if offset < 0 else range(offset // WORD, (offset + max(size, 1) - 1) // WORD + 1)


def _told(offset: int, size: int, stores: bool) -> str:
    if offset < 0:
        return {CHECKS: "begins or ends something", FENCE: "fences"}.get(offset, f"lock {RINGS - offset}")
    return f"{'stores' if stores else 'loads'} {size} bytes at {offset}"


def search(play: Callable[[], Played], budget: int | None, limit: int = 10_000_000) -> Report:
    """Take every run of a scenario within a budget, and tell the story of the first that violates something."""
    report = Search(play, budget, limit).run()
    if report.violation:
        report.story = replay(play, report.route)
    return report


def replay(play: Callable[[], Played], route: Route) -> list[str]:
    """Take one run again, and return its story."""
    again = Search(play, 0)
    run = Path(again, route, 1 << 30, tells=True)
    again._run(run)
    return [*run.story, again.report.violation or "no violation"]
