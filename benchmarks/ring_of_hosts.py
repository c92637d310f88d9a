"""How evenly are the slots dealt to hosts of different weights, how much moves when one changes, and how long to build?

    python -m benchmarks.ring_of_hosts [--quick] [--write]

Groups of 2 to 100 hosts: of equal weight, of 1 or 16, of 1 to 16, and of 1 to 1,024 (64 MiB to 64 GiB of shelf). In
each, hosts leave, and hosts get one step of weight more, one at a time; a host that joins, or loses a step, is the same
backwards. For each change the benchmark counts the slots with another owner, compared with what has to move: the
difference of the host's part by weight before and after. It may be a few slots only, and then chance decides: which
slots a host reaches first is drawn, and a number that is drawn varies by about the root of its mean. So a change is
**beyond** if more than 1.2 times what has to move moves, and two roots of it more. The host that owns most is always
among those that leave.

The same for two others: the race **without a bound**, which is weighted rendezvous hashing alone, and **turns** in
proportion to the weights with the same wish lists, which is Maglev as Envoy does it. Times are those that the processor
is used, the least of several. Everything but them follows from the seed. The full run takes some minutes.
"""

from __future__ import annotations

import random
import timeit
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from time import thread_time
from typing import Any

from benchmarks.measure import Ratio, Report, options, progress
from colocache.core.hosts.ring import _COLUMNS, _ROWS, SLOTS, Ring, _race, slot_of

FULL, QUICK = (2, 3, 5, 10, 32, 64, 100), (2, 10, 100)
GROUPS, CHANGES = 3, 6  # per kind and size: groups, and hosts that leave and that get more in each
COMPARED = 10, 100  # hosts in the groups that the other ways are measured with
GUARDED = 100
LIMIT = 1.2  # times what has to move

Weights = dict[str, int]
Deal = Callable[[Weights], list[str]]


def kinds(size: int, seed: str) -> dict[str, Weights]:
    """Return a group of each kind."""
    rng = random.Random(seed)
    names = [f"shop-{rng.getrandbits(40):x}" for _ in range(size)]
    return {
        "equal": dict.fromkeys(names, 16),
        "1 or 16": {name: rng.choice((1, 16)) for name in names},
        "1 to 16": {name: rng.randint(1, 16) for name in names},
        "1 to 1024": {name: 1 << rng.randint(0, 10) for name in names},
    }


# --- The ways to deal


def ring(weights: Weights) -> list[str]:
    """Deal as the package does."""
    dealt = Ring(weights)
    return [owner for slot in range(SLOTS) if (owner := dealt.owner(slot))]


def unbounded(weights: Weights) -> list[str]:
    """Deal as the package does, and never mind who has too much."""
    racers = Ring(weights)._racers
    return [racers[owner].host for owner in _race(racers)[1]]


def turns(weights: Weights) -> list[str]:
    """Deal in turns: at its turn a host gets the first slot of its wish list that is free.

    In each round a host adds its weight to what it has saved, and pays the greatest weight for a turn.
    """
    wishes = [(racer.host, racer.weight, _wishes(racer.wish_key)) for racer in Ring(weights)._racers]
    price = max(weights.values())
    table, saved, free = [""] * SLOTS, [0] * len(wishes), SLOTS
    while True:
        for index, (host, weight, wished) in enumerate(wishes):
            saved[index] += weight
            if saved[index] >= price:
                saved[index] -= price
                table[next(slot for slot in wished if not table[slot])] = host
                free -= 1
                if not free:
                    return table


def _wishes(key: bytes) -> Iterator[int]:
    for place in range(SLOTS):
        high, low = divmod(place, _COLUMNS)
        row = (high + key[_ROWS + low]) % _ROWS
        yield row * _COLUMNS + (low + key[row]) % _COLUMNS


# --- What comes out


@dataclass
class Changes:
    """What has moved in changes of one sort, and what had to."""

    moved: list[int] = field(default_factory=list)
    must: list[float] = field(default_factory=list)

    def add(self, before: Sequence[str], after: Sequence[str], must: float) -> None:
        """Count what has another owner."""
        self.moved.append(sum(old != new for old, new in zip(before, after, strict=True)))
        self.must.append(must)

    @property
    def together(self) -> float:
        """All that has moved, as a multiple of all that had to."""
        return sum(self.moved) / sum(self.must)

    @property
    def beyond(self) -> int:
        """The changes in which more has moved than chance explains."""
        return sum(moved > LIMIT * must + 2 * sqrt(must) + 1 for moved, must in zip(self.moved, self.must, strict=True))

    @property
    def worst(self) -> float | str:
        """The greatest multiple, of changes that had to move 100 slots or more; a dash if there is none."""
        large = [moved / must for moved, must in zip(self.moved, self.must, strict=True) if must >= 100]
        return max(large, default="-")


@dataclass
class Found:
    """What is found out about groups of one kind and size."""

    loads: list[float] = field(default_factory=list)  # the greatest of a group, as a multiple of the part by weight
    goes: Changes = field(default_factory=Changes)
    steps: Changes = field(default_factory=Changes)

    def group(self, deal: Deal, weights: Weights, changes: int) -> None:
        """Deal to one group, and to what it becomes when one host changes."""
        before = deal(weights)
        loads = Counter(before)
        self.loads.append(greatest(loads, weights))
        names = sorted(weights)
        most = max(names, key=lambda name: loads[name])
        for name in {most: 0} | dict.fromkeys(random.Random(len(names)).sample(names, min(changes, len(names)))):
            more = weights | {name: weights[name] + 1}
            rest = {other: weight for other, weight in weights.items() if other != name}
            self.goes.add(before, deal(rest), part(weights, name))
            self.steps.add(before, deal(more), part(more, name) - part(weights, name))


def part(weights: Mapping[str, int], name: str) -> float:
    """Return the slots that a host should have by its weight."""
    return SLOTS * weights[name] / sum(weights.values())


def greatest(loads: Mapping[str, int], weights: Weights) -> float:
    """Return the greatest load as a multiple of the host's part, of the hosts that should have 20 slots or more."""
    return max(loads[name] / part(weights, name) for name in weights if part(weights, name) >= 20)


def found(deal: Deal, size: int, groups: int, changes: int) -> dict[str, Found]:
    """Return what is found out about groups of one size, by kind."""
    results: dict[str, Found] = {}
    for number in range(groups):
        for kind, weights in kinds(size, f"{size} {number}").items():
            progress(f"{deal.__name__}, {size} hosts, {kind}")
            results.setdefault(kind, Found()).group(deal, weights, changes)
    return results


COLUMNS = ("load", "leave: moved", "worst", "beyond", "of", "step: moved", "worst", "beyond", "of")


def row(one: Found) -> tuple[Any, ...]:
    """Return the figures of a table."""
    parts = [(some.together, some.worst, some.beyond, len(some.moved)) for some in (one.goes, one.steps)]
    return (max(one.loads), *parts[0], *parts[1])


def builds(size: int, times: int) -> list[float]:
    """Return the least time to build a ring of each kind, in ms."""
    return [
        min(timeit.repeat(partial(Ring, weights), timer=thread_time, number=1, repeat=times)) * 1e3
        for weights in kinds(size, f"{size} 0").values()
    ]


def nanoseconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    return min(timeit.repeat(call, timer=thread_time, number=20_000, repeat=5)) * 1e9 / 20_000


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    chosen = options(__doc__ or "", argv=argv)
    question = "How evenly are slots dealt to hosts, how much moves when one changes, and how long does a build take?"
    report = Report("ring_of_hosts", question, chosen)
    groups, changes = (1, 2) if chosen.quick else (GROUPS, CHANGES)
    rows = []
    for size in QUICK if chosen.quick else FULL:
        for kind, one in found(ring, size, groups, changes).items():
            rows.append((f"{size} of {kind}", *row(one)))
            if size == GUARDED and not chosen.quick:
                value = one.goes.together
                report.target(f"moved when a host of {size} of {kind} leaves / its part", Ratio(*[value] * 3), LIMIT)
    report.table("the ring: times what has to move, and load as a multiple of the part", ("hosts", *COLUMNS), rows)
    for deal in (unbounded, turns):
        rows = []
        for size in COMPARED[: 1 if chosen.quick else None]:
            rows += [(f"{size} of {kind}", *row(one)) for kind, one in found(deal, size, 1, 4).items()]
        title = {unbounded: "the race without a bound", turns: "turns in proportion to the weights"}[deal]
        report.table(title, ("hosts", *COLUMNS), rows)
    sizes = QUICK if chosen.quick else FULL
    rows = [(size, *builds(size, 2 if chosen.quick else 15)) for size in sizes]
    report.table("ms of the processor to build a ring", ("hosts", *kinds(2, "")), rows)
    dealt = Ring(kinds(100, "100 0")["1 to 16"])
    calls = {
        "owner(slot)": lambda: dealt.owner(777),
        "owners(slot, 2) of 100 hosts": lambda: dealt.owners(777, 2),
        "slot_of(key)": lambda: slot_of(b"users:42:profile"),
    }
    report.table(
        "ns of the processor per call", ("call", "ns"), [(name, nanoseconds(call)) for name, call in calls.items()]
    )
    return report.finish()


if __name__ == "__main__":
    main()
