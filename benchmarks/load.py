"""What does a miss cost beyond the time of the loader itself?

    python -m benchmarks.load [--quick] [--write]

One process of a group of four asks for keys of 1 KiB that nobody has, and that nobody else wants. The loader makes the
value, and notes how long that took, which is subtracted. What is left: to look, to find out that nobody else is loading
the key, to encode the value, and to store it for all. With Redis and Memcached the same process looks, loads, and
stores, over a Unix socket; so if two processes miss a key, both load it.

The three other processes are idle; or one of them runs a loop of pure Python without pause; or one is stopped.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from benchmarks import shop
from benchmarks.fetch import record
from benchmarks.group import Group, Member
from benchmarks.measure import Contender, Report, Series, interleave, options, spread
from benchmarks.servers import Servers

PROCESSES = 4
OURS = "colocache get_or_load"
STATES = {"idle": "all idle", "spinning": "one spinning without pause", "stopped": "one stopped"}
SIZE = 1 << 10
LIMIT = 150.0  # us beyond the loader's own time
BASELINE = "Redis"


class Asker(Member):
    """The process that loads."""

    def connect(self, redis: str, memcached: str) -> dict[str, str]:
        """Make the clients; return which of them are missing, and why."""
        missing = {}
        self._reads: dict[str, Callable[[str, Callable[[], Any]], Any]] = {OURS: self.cache.get_or_load}
        for name, make in ((BASELINE, lambda: shop.Redis(redis)), ("Memcached", lambda: shop.Memcached(memcached))):
            try:
                self._reads[name] = make().get_or_load
            except ImportError as error:
                missing[name] = f"not installed: {error}"
        return missing

    def names(self) -> list[str]:
        """Return which ways to load there are."""
        return list(self._reads)

    def load(self, name: str, prefix: str, first: int, count: int) -> list[float]:
        """Load so many keys, one after another; return what each took beside its loader, in seconds."""
        get_or_load, took = self._reads[name], []
        for number in range(first, first + count):
            key, own = f"{prefix}:{number}", list[float]()

            def loader(number: int = number, own: list[float] = own) -> dict[str, Any]:
                began = perf_counter()
                value = record(number, SIZE)
                own.append(perf_counter() - began)
                return value

            began = perf_counter()
            get_or_load(key, loader)
            took.append(perf_counter() - began - sum(own))
            if len(own) != 1:
                raise RuntimeError(f"{name}: the key {key} was not loaded, although nobody had it")
        return took


class Course:
    """The group, and the process of it that loads."""

    def __init__(self, group: Group, servers: Servers, options: Namespace) -> None:
        [self._asker] = group.start(Asker)
        self._other = group.start(Member, PROCESSES - 1)[-1]
        self._options, self._measured = options, 0
        self.missing = self._asker.call("connect", servers.redis_socket, servers.memcached_socket)

    def measure(self, state: str) -> dict[str, Series]:
        """Measure all ways to load, while another process is in that state."""
        rounds, count = self._options.rounds or (5 if self._options.quick else 20), 50
        self._measured += 1
        names = self._asker.call("names")
        contenders = [Contender(name, self._sampler(name, f"miss{self._measured}", count)) for name in names]
        with self._other.being(state):
            return interleave(contenders, rounds, self._options.seed, f"load, {STATES[state]}:")

    def _sampler(self, name: str, prefix: str, count: int) -> Callable[[], list[float]]:
        places = iter(range(0, 1 << 62, count))
        return lambda: self._asker.call("load", name, prefix, next(places), count)


def tell(report: Report, course: Course, states: Sequence[str]) -> None:
    """Measure and tell."""
    for state in states:
        series = course.measure(state)
        report.timings(f"a miss and its load, beyond the loader; {PROCESSES} processes, {STATES[state]}", series,
                       BASELINE if BASELINE in series else OURS)  # fmt: skip
        value = spread([spread(one).median * 1e6 for one in series[OURS]])
        report.target(f"miss and load beyond the loader's own time, {STATES[state]}: us, median", value, LIMIT)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    chosen = options(__doc__ or "", argv=argv)
    with Servers() as servers, Group() as group:
        report = Report("load", "What does a miss cost beyond the time of the loader itself?", chosen,
                        ("redis", "hiredis", "pylibmc"), servers.versions())  # fmt: skip
        course = Course(group, servers, chosen)
        for name, reason in course.missing.items():
            report.missing(name, reason)
        tell(report, course, tuple(STATES))
    return report.finish()


if __name__ == "__main__":
    main()
