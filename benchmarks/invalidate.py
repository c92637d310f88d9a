"""How long does it take until no process holds a value any more, and how many invalidations go through?

    python -m benchmarks.invalidate [--quick] [--write]

There are groups of 2, 4, 8 and 16 processes, which all hold the key. One invalidates it. Two times are measured: from
the call to its return, and from the call until the last process has dropped the value. For colocache a weak reference
to the value itself tells when a process has dropped it. For Redis the thread that receives the message tells it, when
it has removed the key from the process's dictionary.

    colocache                  `invalidate`, which returns when all have acknowledged it, or were waited out
    Redis client tracking      a process reads a key, and Redis tells a second connection of the process when the key
                               changes; the call is DEL, and returns when Redis has deleted the key: nobody has
                               acknowledged anything
    pub/sub by hand            DEL and PUBLISH in one pipeline; returns when Redis has passed the message on
    pub/sub, acknowledged      the same, and every process answers with a PUBLISH of its own, which the caller awaits:
                               what colocache promises, except for processes that do not answer

The other processes are idle, or one of them also computes: in bursts of 5 ms that take 70 % of its time, or without
pause. It is only one, so that its interpreter is measured, and not how the system shares its cores.

Then comes the throughput: of calls that wait, from 1, 8 and 32 threads, and of calls that do not wait, one key at a
time from 1 and 8 threads, and a hundred keys at a time. The table also has the resets and replays that they caused.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

from benchmarks.group import Group, Member, Worker, together
from benchmarks.measure import Contender, Ratio, Report, Series, interleave, options, progress, samples, spread
from benchmarks.servers import Servers
from colocache import MsgpackCodec

SIZES = (2, 4, 8, 16)  # processes
WORK = {"idle": "all idle", "bursts": "one at 70 % in bursts of 5 ms", "spinning": "one spinning without pause"}
WAYS = ("colocache", "Redis client tracking", "pub/sub by hand", "pub/sub, acknowledged by hand")
CHANNEL, ANSWERS = "invalidations", "acknowledgements"
PATIENCE = 10.0  # s; a process that has not dropped a value by then counts as broken
TARGETS = {4: 0.5, 8: 1.0}  # processes to milliseconds, to the return, all idle
WANTED = 50_000  # invalidations a second that are not waited for


@dataclass
class Thing:
    """A value that can be referenced weakly, which tells when it is dropped."""

    text: str


class Flood(NamedTuple):
    """How invalidations are called for as fast as one process can."""

    waits: bool
    threads: int
    at_once: int  # keys a call

    def __str__(self) -> str:
        return f"{'' if self.waits else 'not '}waited for, {self.threads} threads, {self.at_once} keys a call"


FLOODS = (
    Flood(True, 1, 1), Flood(True, 8, 1), Flood(True, 32, 1), Flood(False, 1, 1), Flood(False, 8, 1),
    Flood(False, 1, 100),
)  # fmt: skip
CODEC = MsgpackCodec()
CODEC.register(Thing, name="thing")


class Holder(Member):
    """One process: holds keys in its cache, and in one dictionary for each way to invalidate with Redis."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, codec=CODEC, **settings)
        self.dropped: dict[str, float] = {}  # key to the instant at which it went, whichever way it was held
        self.held: dict[str, str] = {}
        self.number = 0
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
        gc.collect()
        for key in keys:
            if way == "colocache":
                value = self.cache.get_or_load(key, lambda key=key: Thing(key))  # type: ignore[misc]
                weakref.finalize(value, self._note, key).atexit = False
            else:
                self.held[key] = str(self._asked.get(key))

    def _note(self, key: str) -> None:
        self.dropped[key] = monotonic()

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

    def invalidate(self, way: str, keys: list[str], others: int, pause: float) -> list[tuple[float, float]]:
        """Invalidate the keys one after another; return when each call was made, and when it returned."""
        ways = dict(zip(WAYS, (self._colocache, self._tracking, self._told, self._answered), strict=True))
        call, instants = ways[way], []
        for key in keys:
            time.sleep(pause)
            began = monotonic()
            call(key, others)
            instants.append((began, monotonic()))
        return instants

    def _colocache(self, key: str, others: int) -> None:
        receipt = self.cache.invalidate(key)
        if not receipt.complete or len(receipt.acknowledged) != others:
            raise RuntimeError(f"not acknowledged by all: {receipt}")

    def _tracking(self, key: str, others: int) -> None:
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

    def flood(self, flood: Flood, seconds: float) -> tuple[float, float]:
        """Invalidate key after key for so long; return how many a second until the last call, and until all knew.

        All know when an invalidation that is waited for, behind them in the stream, is acknowledged.
        """
        done = [0] * flood.threads
        began = monotonic()

        def run(number: int) -> None:
            while monotonic() < began + seconds:
                keys = [f"flood:{number}:{done[number] + place}" for place in range(flood.at_once)]
                self.cache.invalidate(*keys, wait=flood.waits)
                done[number] += flood.at_once

        threads = [threading.Thread(target=run, args=(number,)) for number in range(flood.threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        called = monotonic()
        self.cache.invalidate("flood:end")
        return sum(done) / (called - began), sum(done) / (monotonic() - began)

    def flood_redis(self, count: int, at_once: int) -> float:
        """Publish so many keys by hand; return how many a second."""
        began = monotonic()
        for start in range(0, count, at_once):
            with self.redis.pipeline(transaction=False) as pipeline:
                for key in range(start, start + at_once):
                    pipeline.publish(CHANNEL, f"flood:{key} ")
                pipeline.execute()
        return count / (monotonic() - began)


# --- The benchmark


class Course:
    """The group, which grows, and the Redis that its processes listen to."""

    def __init__(self, group: Group, servers: Servers, options: Namespace) -> None:
        self._group, self._servers = group, servers
        self.quick, self.rounds = options.quick, options.rounds
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

    def sample(self, way: str, count: int) -> list[tuple[float, float]]:
        """Invalidate so many keys; return the seconds to the return and to the last drop of each."""
        keys = [f"key:{self._keys + number}" for number in range(count)]
        self._keys += count
        if way != "colocache":
            self.caller.call("store", keys)
        for worker in self.workers:
            worker.call("hold", way, keys)
        calls = self.caller.call("invalidate", way, keys, len(self.workers) - 1, 0.001)
        drops = zip(*together(self.workers, "drops", keys), strict=True)
        return [(returned - began, max(gone) - began) for (began, returned), gone in zip(calls, drops, strict=True)]


def latency(course: Course, work: str) -> tuple[dict[str, Series], dict[str, Series]]:
    """Measure every way; return the series to the return, and to the last drop."""
    course.workers[-1].call("work", work)
    rounds = course.rounds or (4 if course.quick else 8)
    count = 20 if work == "idle" and not course.quick else 10
    both: dict[str, list[list[tuple[float, float]]]] = {way: [] for way in WAYS}

    def sampler(way: str) -> Callable[[], list[float]]:
        def sample() -> list[float]:
            both[way].append(course.sample(way, count))
            return [returned for returned, _ in both[way][-1]]

        return sample

    title = f"{len(course.workers)} processes, {WORK[work]}:"
    returns = interleave([Contender(way, sampler(way)) for way in WAYS], rounds, title=title)
    course.workers[-1].call("work", "idle")
    return returns, {way: [[gone for _, gone in one] for one in both[way][1:]] for way in WAYS}


def latencies(course: Course, report: Report) -> None:
    """Measure every size of group and kind of work."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for size in (4, 8) if course.quick else SIZES:
        course.grow(size)
        for work in WORK if size in (4, 8) and not course.quick else ("idle",):
            returns, drops = latency(course, work)
            where = f"{size} processes, {WORK[work]}"
            report.timings(f"{where}: to the return", returns, WAYS[-1])
            report.timings(f"{where}: to the last drop", drops, WAYS[-1])
            if work == "idle":
                judge(report, size, returns["colocache"])
                for name, series in _shown(returns, drops):
                    curves.setdefault(name, []).append((size, median(samples(series)) * 1e3))
    report.lines("invalidate", ("processes", "milliseconds, median"), curves, log=(True, True))


def _shown(returns: dict[str, Series], drops: dict[str, Series]) -> Iterator[tuple[str, Series]]:
    yield "colocache, to the return: acknowledged", returns["colocache"]
    yield "colocache, to the last drop", drops["colocache"]
    yield f"{WAYS[-1]}, to the return", returns[WAYS[-1]]
    for way in WAYS[1:3]:
        yield f"{way}, to the last drop", drops[way]


def judge(report: Report, size: int, series: Series) -> None:
    """Tell whether the target for a group of that size is met."""
    if size in TARGETS:
        value = spread([median(one) * 1e3 for one in series])
        report.target(f"{size} processes, acknowledged, ms", value, TARGETS[size])


def throughput(course: Course, report: Report) -> None:
    """Measure how many invalidations a second go through."""
    size, seconds = len(course.workers), 0.3 if course.quick else 3.0
    found: dict[Flood, tuple[float, float, int, int]] = {}
    for flood in FLOODS:
        progress(str(flood))
        rates, troubles = _watched(course, partial(course.caller.call, "flood", flood, seconds))
        found[flood] = (*rates, *troubles)
    rows: list[tuple[Any, ...]] = [(str(flood), *figures) for flood, figures in found.items()]
    for at_once in (1, 100):
        rate = course.caller.call("flood_redis", 2_000 if course.quick else 20_000, at_once)
        rows.append((f"pub/sub by hand, not acknowledged, {at_once} in a pipeline", rate, "not known", "", ""))
    columns = ("", "calls' keys/s", "keys/s until all have dropped", "resets", "replays")
    report.table(f"keys invalidated a second, by one of {size} processes", columns, rows)
    for flood in (flood for flood in FLOODS if not flood.waits):
        called, _, resets, _ = found[flood]
        report.target(f"{WANTED:,}/s / invalidations a second, {flood}", _exactly(WANTED / called), 1.0)
        report.target(f"resets at the receivers, {flood}", _exactly(resets), 0.0)


def _exactly(value: float) -> Ratio:
    return Ratio(value, value, value)


def _watched(course: Course, do: Callable[[], Any]) -> tuple[Any, tuple[int, int]]:
    """Return what it gives, and the resets and replays that it caused at the other processes."""
    others = course.workers[1:]
    before = together(others, "stats")
    outcome = do()
    time.sleep(0.6)  # longer than a ping interval, so that a member that has lost something knows it
    changes = [(after[name] - old[name] for name in ("resets", "replays"))
               for old, after in zip(before, together(others, "stats"), strict=True)]  # fmt: skip
    resets, replays = (sum(column) for column in zip(*changes, strict=True))
    return outcome, (resets, replays)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    chosen = options(__doc__ or "", argv=argv)
    with Servers(memcached=False) as servers, Group() as group:
        report = Report("invalidate", "How long does it take until no process holds a value any more?", chosen,
                        ("redis",), servers.versions())  # fmt: skip
        course = Course(group, servers, chosen)
        course.grow(4)
        throughput(course, report)
    with Servers(memcached=False) as servers, Group() as group:
        latencies(Course(group, servers, chosen), report)
    return report.finish()


if __name__ == "__main__":
    main()
