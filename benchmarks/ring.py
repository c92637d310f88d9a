"""How long does it take to build a ring, how even is it, and how much moves when one seat comes or goes?

    python -m benchmarks.ring

For groups of 2 to 200 seats the program prints the median time to build one ring, the greatest load as a multiple of
the mean, and the slots that change owner when one seat leaves, as a multiple of that seat's share. (As many change when
it joins.) The seats that leave are drawn from several sets of seats, and the seat that owns most is always among them.
It takes about two minutes.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import sys
import time
import timeit
from collections import Counter
from collections.abc import Iterator
from datetime import date

from colocache.core.group.ring import SLOTS, Ring, slot_of

SIZES = (2, 3, 5, 8, 16, 32, 64, 100, 128, 150, 175, 185, 200)
SETS = 12  # of seats, per size
LEAVERS = 15  # per set, at most
LIMIT = 1.25  # shares


def seat_sets(size: int) -> Iterator[list[str]]:
    """Hosts of eight seats, then sets of random names."""
    yield [f"web{seat // 8}/{seat % 8}" for seat in range(size)]
    rng = random.Random(size)
    for _ in range(SETS - 1):
        yield [f"{rng.getrandbits(48):x}/{rng.randrange(64)}" for _ in range(size)]


def table(ring: Ring) -> list[str]:
    return [ring.owner(slot) for slot in range(SLOTS)]


def measure(size: int) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds per build, greatest loads per mean, movements per share."""
    builds, loads, moves = [], [], []
    for seats in seat_sets(size):
        began = time.perf_counter()
        before = table(ring := Ring(seats))
        builds.append((time.perf_counter() - began) * 1000)
        by_load = Counter(before).most_common()
        loads.append(by_load[0][1] * size / SLOTS)
        leavers = {by_load[0][0], *random.Random(size).sample(ring.seats, min(size, LEAVERS))}
        for seat in leavers:
            after = table(Ring(set(seats) - {seat}))
            moves.append(sum(map(str.__ne__, before, after)) * size / SLOTS)
    return builds, loads, moves


def nanoseconds(statement: str, **names: object) -> float:
    return min(timeit.repeat(statement, globals=names, number=100_000, repeat=5)) * 1e9 / 100_000


def main() -> None:
    print(f"{date.today()}, Python {platform.python_version()}, {platform.system()} {platform.machine()},", end=" ")
    print(f"{os.cpu_count()} cores, {SLOTS} slots")
    over = f"over {LIMIT}"
    print(f"{'seats':>5} {'build ms':>9} {'load/mean':>10} {'moved/share':>12} {'worst':>6} {'changes':>8} {over:>10}")
    for size in SIZES:
        builds, loads, moves = measure(size)
        beyond = sum(move > LIMIT for move in moves) / len(moves)
        print(f"{size:5} {statistics.median(builds):9.1f} {max(loads):10.3f} {statistics.mean(moves):12.3f}", end=" ")
        print(f"{max(moves):6.3f} {len(moves):8} {beyond:10.1%}")
        sys.stdout.flush()
    ring = Ring(next(seat_sets(64)))
    print(f"owner(slot) {nanoseconds('owner(777)', owner=ring.owner):.0f} ns,", end=" ")
    print(f"owners(slot, 2) of 64 seats {nanoseconds('owners(777, 2)', owners=ring.owners) / 1000:.1f} us,", end=" ")
    print(f"slot_of(key) {nanoseconds('slot_of(wire)', slot_of=slot_of, wire=b'users:42:profile'):.0f} ns")


if __name__ == "__main__":
    main()
