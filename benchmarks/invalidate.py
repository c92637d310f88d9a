"""How long does it take until no process serves a value any more, and how many invalidations go through?

    python -m benchmarks.invalidate [--quick] [--write]

There are groups of 2, 4, 8 and 16 processes, which all hold the keys. One invalidates them, one after another. Measured
is the time from the call to its return.

    colocache                  `invalidate`; when it returns, no process serves the value
    Redis DEL                  for processes that hold nothing themselves, and ask Redis each time
    pub/sub by hand            for processes that hold values in a dictionary: DEL and PUBLISH in one pipeline. It
                               returns when Redis has passed the message on; processes may still serve the value
    pub/sub, acknowledged      the same, and every process answers with a PUBLISH of its own, which the caller awaits
    Redis client tracking      a process reads a key, and Redis tells a second connection of the process when the key
                               changes; the call is DEL, and processes may still serve the value when it returns

For the last three ways a second table has the time from the call until the last process has dropped the value. With
colocache nobody serves it by the return, and the benchmark makes sure of that.

The other processes are idle, or one of them computes: in bursts of 5 ms that take 70 % of its time, or without pause;
or one of them is stopped by SIGSTOP. It is only one, so that its interpreter is measured, and not how the system shares
its cores.

Then comes the throughput: calls as fast as they return, from 1 and 8 threads, with one key and with 100 keys a call.
"""

from __future__ import annotations

import os
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

from benchmarks.group import Group, Member, Worker, together
from benchmarks.measure import Contender, Report, Series, interleave, options, samples, spread
from benchmarks.servers import Servers

SIZES = (2, 4, 8, 16)  # processes
STATES = {
    "idle": "all idle", "bursts": "one at 70 % in bursts of 5 ms", "spinning": "one spinning without pause",
    "stopped": "one stopped",
}  # fmt: skip
OURS, DEL = "colocache", "Redis DEL"
HELD = ("pub/sub by hand", "pub/sub, acknowledged by hand", "Redis client tracking")  # processes hold what they read
CHANNEL, ANSWERS = "invalidations", "acknowledgements"
PATIENCE = 10.0  # s; a process that has not dropped a value by then counts as broken
LIMIT = 50.0  # us until the call returns
RATE = 50_000  # invalidations a second, of one thread with one key a call


class Flood(NamedTuple):
    """How invalidations are called for as fast as one process can."""

    threads: int
    at_once: int  # keys a call

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.at_once} keys a call"


FLOODS = (Flood(1, 1), Flood(8, 1), Flood(1, 100))


class Holder(Member):
    """One process: holds keys in its cache, and in one dictionary for each way to invalidate with Redis."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self.dropped: dict[str, float] = {}  # key to the instant at which it went from the dictionary
        self.held: dict[str, str] = {}
        self._acknowledged = threading.Semaphore(0)

    def connect(self, path: str) -> None:
        """Listen to Redis: to the tracking of what is read here, and to the channel of the hand-written way."""
        import redis

        self.redis = redis.Redis(unix_socket_path=path, protocol=2, decode_responses=True)
        self._asked = redis.Redis(unix_socket_path=path, protocol=2, single_connection_client=True)
        self._speaker = redis.Redis(unix_socket_path=path, protocol=2, single_connection_client=True)
        name = f"listener-{os.getpid()}"
        self._heard_by = redis.Redis(unix_socket_path=path, protocol=2, decode_responses=True, client_name=name)
        self._listen(self._heard_by, (CHANNEL, "__redis__:invalidate"), self._heard)
        [identity] = [client["id"] for client in self.redis.client_list() if client["name"] == name]
        self._asked.client_tracking_on(clientid=int(identity))

    def await_answers(self) -> None:
        """Take the others' acknowledgements, as the process that invalidates."""
        self._listen(self.redis, (ANSWERS,), lambda channel, data: self._acknowledged.release())

    def _listen(self, client: Any, channels: Sequence[str], heard: Callable[[str, Any], None]) -> None:
        listener = client.pubsub()
        listener.subscribe(*channels)

        def listen() -> None:
            for message in listener.listen():
                if message["type"] == "message":
                    heard(message["channel"], message["data"])

        threading.Thread(target=listen, daemon=True).start()

    def _heard(self, channel: str, data: Any) -> None:
        """Drop keys: a list of them by the tracking, one and a mark by hand."""
        if channel != CHANNEL:
            for key in data or ():
                self._drop(key)
            return
        key, _, wanted = data.partition(" ")
        self._drop(key)
        if wanted:
            self._speaker.publish(ANSWERS, key)

    def _drop(self, key: str) -> None:
        self.held.pop(key, None)
        self.dropped[key] = monotonic()

    def hold(self, way: str, keys: list[str]) -> None:
        """Read the keys, and hold what was read."""
        self.dropped.clear()
        for key in keys:
            if way == OURS:
                self.cache.get_or_load(key, lambda: "a value")
            elif way in HELD:
                self.held[key] = str(self._asked.get(key))

    def store(self, keys: list[str]) -> None:
        """Have Redis hold the keys."""
        self.redis.mset(dict.fromkeys(keys, "a value"))

    def drops(self, keys: list[str]) -> list[float]:
        """Return when each of the keys was dropped. Raises TimeoutError."""
        ends = monotonic() + PATIENCE
        while not all(key in self.dropped for key in keys):
            if monotonic() > ends:
                raise TimeoutError(f"not dropped: {[key for key in keys if key not in self.dropped]}")
            time.sleep(0.001)
        return [self.dropped[key] for key in keys]

    def served(self, keys: list[str]) -> list[str]:
        """Return which of the keys the cache still gives."""
        return [key for key in keys if self.cache.get(key) is not None]

    def invalidate(self, way: str, keys: list[str], others: int, pause: float) -> list[tuple[float, float]]:
        """Invalidate the keys one after another; return when each call was made, and when it returned."""
        ways = (self._colocache, self._deleted, self._told, self._answered, self._deleted)
        call, instants = dict(zip((OURS, DEL, *HELD), ways, strict=True))[way], []
        for key in keys:
            time.sleep(pause)
            began = monotonic()
            call(key, others)
            instants.append((began, monotonic()))
        return instants

    def _colocache(self, key: str, others: int) -> None:
        receipt = self.cache.invalidate(key)
        if not receipt.complete:
            raise RuntimeError(f"not complete: {receipt}")

    def _deleted(self, key: str, others: int) -> None:
        self.redis.delete(key)

    def _told(self, key: str, others: int, mark: str = "") -> None:
        with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.delete(key)
            pipeline.publish(CHANNEL, f"{key} {mark}")
            pipeline.execute()

    def _answered(self, key: str, others: int) -> None:
        self._told(key, others, "acknowledge")
        for _ in range(others + 1):  # this process hears the channel, too
            if not self._acknowledged.acquire(timeout=PATIENCE):
                raise TimeoutError("a process does not acknowledge")

    # --- Throughput

    def flood(self, way: str, flood: Flood, seconds: float) -> float:
        """Invalidate key after key for so long; return the seconds that each key took."""
        done = [0] * flood.threads
        call = self.cache.invalidate if way == OURS else self.redis.delete
        began = monotonic()

        def run(number: int) -> None:
            while monotonic() < began + seconds:
                call(*[f"flood:{number}:{done[number] + place}" for place in range(flood.at_once)])
                done[number] += flood.at_once

        threads = [threading.Thread(target=run, args=(number,)) for number in range(flood.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (monotonic() - began) / sum(done)


# --- The benchmark


class Course:
    """The group, which grows, and the Redis that its processes listen to."""

    def __init__(self, group: Group, servers: Servers, options: Namespace) -> None:
        self._group, self._servers, self._options = group, servers, options
        self._keys = 0

    def grow(self, size: int) -> None:
        """Have so many processes."""
        first = not self._group.workers
        for worker in self._group.start(Holder, size - len(self._group.workers)):
            worker.call("connect", self._servers.redis_socket)
        if first:
            self.caller.call("await_answers")

    @property
    def workers(self) -> list[Worker]:
        """All processes; the first one invalidates."""
        return self._group.workers

    @property
    def caller(self) -> Worker:
        """The process that invalidates."""
        return self._group.workers[0]

    def latency(self, state: str, ways: Sequence[str]) -> tuple[dict[str, Series], dict[str, Series]]:
        """Measure these ways; return the series to the return, and to the last drop."""
        rounds = self._options.rounds or (4 if self._options.quick else 10)
        count = 10 if self._options.quick else 20
        samplers = {way: Sampler(self, way, (rounds + 1) * count, count) for way in ways}
        with self.workers[-1].being(state):
            contenders = [Contender(way, sampler.sample) for way, sampler in samplers.items()]
            title = f"{len(self.workers)} processes, {STATES[state]}:"
            returns = interleave(contenders, rounds, self._options.seed, title)
        for sampler in samplers.values():
            sampler.check()
        return returns, {way: samplers[way].gone[1:] for way in ways if way in HELD}

    def flood(self, flood: Flood) -> dict[str, Series]:
        """Measure how fast one process invalidates, and how fast it deletes from Redis."""
        rounds, seconds = (3, 0.2) if self._options.quick else (6, 0.5)

        def sampler(way: str) -> Callable[[], list[float]]:
            return lambda: [self.caller.call("flood", way, flood, seconds)]

        contenders = [Contender(way, sampler(way)) for way in (OURS, DEL)]
        return interleave(contenders, self._options.rounds or rounds, self._options.seed, str(flood))

    def held_keys(self, way: str, count: int) -> list[str]:
        """Return so many keys that all processes hold."""
        keys = [f"key:{self._keys + number}" for number in range(count)]
        self._keys += count
        if way != OURS:
            self.caller.call("store", keys)
        for worker in self.workers:
            worker.call("hold", way, keys)
        return keys


class Sampler:
    """Invalidates, a few at a time, the keys that all processes hold."""

    def __init__(self, course: Course, way: str, total: int, count: int) -> None:
        self._course, self._way = course, way
        self._keys = course.held_keys(way, total)
        self._parts = (self._keys[place : place + count] for place in range(0, total, count))
        self.gone: list[list[float]] = []  # s to the last drop

    def sample(self) -> list[float]:
        """Return the seconds until each call returned."""
        keys, workers = next(self._parts), self._course.workers
        calls = self._course.caller.call("invalidate", self._way, keys, len(workers) - 1, 0.001)
        if self._way in HELD:
            drops = zip(*together(workers, "drops", keys), strict=True)
            self.gone.append([max(gone) - began for (began, _), gone in zip(calls, drops, strict=True)])
        return [returned - began for began, returned in calls]

    def check(self) -> None:
        """Make sure that no process serves what was invalidated."""
        if self._way == OURS and any(together(self._course.workers, "served", self._keys)):
            raise RuntimeError("a process still serves what was invalidated")


def latencies(course: Course, report: Report, sizes: Sequence[int], states: Sequence[str], ways: Sequence[str]) -> None:
    """Measure every size of group and state."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for size in sizes:
        course.grow(size)
        for state in states if size in (4, 16) else ("idle",):
            # A process that is stopped would acknowledge nothing, and drop nothing.
            returns, drops = course.latency(state, ways if state != "stopped" else (OURS, DEL))
            where = f"{size} processes, {STATES[state]}"
            report.timings(f"{where}: to the return", returns, DEL)
            if drops:
                report.timings(f"{where}: to the last drop", drops, HELD[-1])
            if size in (4, 16):
                value = spread([median(one) * 1e6 for one in returns[OURS]])
                report.target(f"invalidate, {where}: us, median", value, LIMIT)
            if state == "idle":
                for name, series in _shown(returns, drops):
                    curves.setdefault(name, []).append((size, median(samples(series)) * 1e3))
    if HELD[0] in ways:
        report.lines("invalidate", ("processes", "milliseconds, median"), curves, log=(True, True))


def _shown(returns: dict[str, Series], drops: dict[str, Series]) -> Iterator[tuple[str, Series]]:
    yield "colocache, to the return: nobody serves it", returns[OURS]
    yield f"{DEL}, to the return", returns[DEL]
    for way, series in drops.items():
        yield f"{way}, to the last drop", series


def throughput(course: Course, report: Report, floods: Sequence[Flood]) -> None:
    """Measure how many invalidations a second go through."""
    for flood in floods:
        series = course.flood(flood)
        report.timings(f"each key, by one of {len(course.workers)} processes, {flood}", series, DEL)
        if flood == FLOODS[0]:
            value = spread([one[0] * 1e6 for one in series[OURS]])
            report.target(f"invalidations of one thread, one key a call: us for each ({RATE:,} a second)", value,
                          1e6 / RATE)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    chosen = options(__doc__ or "", argv=argv)
    with Servers(memcached=False) as servers:
        report = Report("invalidate", "How long does it take until no process serves a value any more?", chosen,
                        ("redis",), servers.versions())  # fmt: skip
        with Group() as group:
            course = Course(group, servers, chosen)
            course.grow(4)
            throughput(course, report, FLOODS)
        with Group() as group:
            sizes, states = ((4,), ("idle", "stopped")) if chosen.quick else (SIZES, tuple(STATES))
            latencies(Course(group, servers, chosen), report, sizes, states, (OURS, DEL, *HELD))
    return report.finish()


if __name__ == "__main__":
    main()
