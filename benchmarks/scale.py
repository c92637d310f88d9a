"""How much is said in a group of 2 to 1,000 members, and how long does it take until all agree again?

    python -m benchmarks.scale [--quick] [--write] [--members 256,512]

The simulated hosts of `colocache.testing.simulator` run the real protocol in one process, with eight members on a host
and the default settings. A frame takes 0.2 to 2 ms, and 3 % of the frames take up to 20 ms. So messages and bytes are
those of real members, and times are those of the protocol, without the work of the processors. Everything follows from
the seed.

A publication to the others counts as a message to each of them. Pings and pongs are counted separately, as what a group
sends while nothing happens. A group has **converged** when every member is current and knows exactly the members that
live.

The time to simulate a join grows with the cube of the number of members, because the receiver of each of N² frames
looks at N leases. So the full run ends at 128 members, within two minutes on a modest machine; ``--members`` names
larger groups. The table shows that each further member adds the same to an operation. So a line through the two largest
groups tells what an operation takes in a group of 1,000.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean
from time import perf_counter
from typing import Any

from benchmarks.measure import Ratio, Report, options, progress
from colocache.core.group.messages import Ping, Pong, decode
from colocache.core.group.ring import Ring, slot_of
from colocache.core.group.seam import Settings
from colocache.testing.simulator import Loading, Network, Simulated

FULL, QUICK, LARGEST = (2, 4, 8, 16, 32, 64, 128), (2, 8, 16), 1000
SEATS = 8  # per host
TIMES = 10  # each operation
STEP = 0.002  # simulated seconds between two looks at whether all have converged
PATIENCE = 60.0  # simulated seconds
GUARDED = 16  # members: the size whose figures the guard looks at


class Counted(Network):
    """A network that counts what is sent, heartbeats apart."""

    def __init__(self, seed: int, members: int) -> None:
        super().__init__(seed, Settings(), hosts=max(1, members // SEATS))
        self.forget_counts()

    def forget_counts(self) -> None:
        """Count from nothing."""
        self.messages: Counter[bool] = Counter()  # of heartbeats, of others
        self.bytes: Counter[bool] = Counter()

    def deliver(self, sender: Simulated, to: bytes, frame: bytes, *, bus: bool) -> None:
        """Count a frame to one member, and carry it."""
        is_heartbeat = isinstance(decode(frame), Ping | Pong)
        self.messages[is_heartbeat] += 1
        self.bytes[is_heartbeat] += len(frame)
        super().deliver(sender, to, frame, bus=bus)

    def has_converged(self) -> bool:
        """Whether every member is current and knows exactly those that live."""
        others = len(self.living) - 1
        return all(
            member.now() < member.peer.gate.current_until and len(list(member.peer.acquaintances())) == others
            for member in self.living
        )

    def converge(self) -> float:
        """Let time pass until all have converged; return how long it took; nan if that is beyond `PATIENCE`."""
        began = self.time
        while not self.has_converged():
            if self.time > began + PATIENCE:
                return math.nan
            self.run(self.time + STEP)
        return self.time - began


class Group:
    """A group of so many members, and what can happen to it."""

    def __init__(self, members: int, seed: int) -> None:
        self.network = Counted(seed, members)
        for _ in range(members):
            self.network.join()
        self.network.converge()
        self._dice = self.network.random
        self._keys = 0

    # --- Operations, in this order, by a member that does not own the key; each calls `done` at its end

    def miss(self, member: Simulated, key: str, done: Callable[[object], None]) -> None:
        """Get or load what nobody has."""
        member.read(key, lambda loading: loading(1), done)

    def hit(self, member: Simulated, key: str, done: Callable[[object], None]) -> None:
        """Get or load what this member holds."""
        member.read(key, _never, done)

    def set(self, member: Simulated, key: str, done: Callable[[object], None]) -> None:
        """Have the owner store a value, and return when it has; this member then holds it no more."""
        member.set(key, 2, done)

    def fetch(self, member: Simulated, key: str, done: Callable[[object], None]) -> None:
        """Get or load what the owner has."""
        member.read(key, _never, done)

    def invalidate(self, member: Simulated, key: str, done: Callable[[object], None]) -> None:
        """Return when everybody has acknowledged."""
        member.invalidate(key, done)

    def operations(self) -> dict[str, tuple[float, ...]]:
        """Return the messages, the bytes and the milliseconds of each operation, the means of several."""
        told: dict[str, list[tuple[int, int, float]]] = {}
        for _ in range(TIMES):
            key, member = self._case()
            for operate in (self.miss, self.hit, self.set, self.fetch, self.invalidate):
                told.setdefault(operate.__name__, []).append(self._one(operate, member, key))
        return {name: tuple(map(mean, zip(*figures, strict=True))) for name, figures in told.items()}

    def idle(self) -> tuple[float, float]:
        """Return the messages and the bytes that a member sends in a second while nothing happens."""
        network, seconds = self.network, 4.0
        network.forget_counts()
        network.run(network.time + seconds)
        per = seconds * len(network.living)
        return network.messages.total() / per, network.bytes.total() / per

    def _case(self) -> tuple[str, Simulated]:
        """Return a new key, and a member that does not own it."""
        self._keys += 1
        key, living = f"user:{self._keys}", self.network.living
        owner = Ring([member.member.seat for member in living]).owner(slot_of(living[0].wire(key)))
        return key, self._dice.choice([member for member in living if member.member.seat != owner])

    def _one(self, operate: Callable[..., None], member: Simulated, key: str) -> tuple[int, int, float]:
        network, ended = self.network, list[float]()
        network.forget_counts()
        began = network.time
        operate(member, key, lambda _: ended.append(network.time))
        network.run(began + 0.1)  # trailing acknowledgements, too
        return network.messages[False], network.bytes[False], (ended[0] - began) * 1000

    # --- Changes: each returns the seconds until all have converged

    def join(self) -> float:
        """Have one more member."""
        self.network.join()
        return self.network.converge()

    def crash(self) -> float:
        """Kill a member, which the kernel tells its host-mates, if it has any."""
        self.network.crash(self._dice.choice(self.network.living))
        return self.network.converge()

    def restart(self) -> tuple[float, int]:
        """Restart up to eight members, each when all have converged after the one before; seconds and messages each."""
        network, members = self.network, self.network.living[:SEATS]
        network.forget_counts()
        seconds = 0.0
        for member in members:
            network.leave(member)
            network.join(member.seat)
            seconds += network.converge()
        return seconds / len(members), network.messages[False] // len(members)


def _never(loading: Loading) -> None:
    raise AssertionError("what is held is not loaded")


def measured(members: int, seed: int) -> dict[str, Any]:
    """Return all that is found out about groups of one size."""
    progress(f"{members} members")
    began = perf_counter()
    group = Group(members, seed)
    found: dict[str, Any] = {"operations": group.operations(), "idle": group.idle()}
    found["join"], found["crash"] = group.join(), group.crash()
    found["restart"] = group.restart()
    found["took"] = perf_counter() - began
    return found


def by_the_line(rows: Sequence[Sequence[Any]], members: int) -> tuple[Any, ...]:
    """Return the row of a larger group, on the lines through the last two."""
    (fewer, *low), (more, *high) = rows[-2:]
    steps = (members - more) / (more - fewer)
    return (f"{members}, by the line", *(late + (late - early) * steps for early, late in zip(low, high, strict=True)))


def told(report: Report, found: dict[int, dict[str, Any]]) -> None:
    """Tell the tables."""
    names = list(next(iter(found.values()))["operations"])
    for place, what in enumerate(("messages", "bytes", "simulated ms")):
        rows = [(members, *(row["operations"][name][place] for name in names)) for members, row in found.items()]
        if place < 2 and len(rows) > 1 and max(found) < LARGEST:
            rows.append(by_the_line(rows, LARGEST))
        report.table(f"{what} per operation", ("members", *names), rows)
    rows = [(members, *row["idle"]) for members, row in found.items()]
    report.table("sent by a member in a second while nothing happens", ("members", "messages", "bytes"), rows)
    rows = [(members, row["join"], row["crash"], *row["restart"], row["took"]) for members, row in found.items()]
    columns = ("members", "join s", "crash s", "rolling restart, s each", "messages each", "simulated in, real s")
    report.table("until all have converged, simulated seconds", columns, rows)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    more = ("--members", {"type": lambda text: tuple(map(int, text.split(","))), "help": "sizes, such as 256,512"})
    chosen = options(__doc__ or "", more, argv=argv)
    report = Report("scale", "How much is said in a group, and how long until all agree again?", chosen)
    sizes = chosen.members or (QUICK if chosen.quick else FULL)
    found = {members: measured(members, chosen.seed) for members in sizes}
    told(report, found)
    if GUARDED in found:
        for name, figures in found[GUARDED]["operations"].items():
            report.ratio(f"messages per {name}, {GUARDED} members", Ratio(*[figures[0]] * 3))
    if max(found) < LARGEST:
        report.note(f"not simulated: more than {max(found)} members, which takes too long (--members goes further)")
    drawn = [name for name in found[min(found)]["operations"] if name != "hit"]  # which takes none
    curves = {name: [(members, row["operations"][name][0]) for members, row in found.items()] for name in drawn}
    report.lines("scale", ("members", "messages per operation"), curves, log=(True, True),
                 title="What one operation has the whole group say")  # fmt: skip
    return report.finish()


if __name__ == "__main__":
    main()
