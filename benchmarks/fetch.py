"""How long does it take to read a value that another process has stored, and to store one?

    python -m benchmarks.fetch [--quick] [--write]

There is a group of two processes. One stores values, and the other one reads each of them once, so none is near. The
benchmark counts the fetches, and fails if a read was not one. Events of other keys can void a value, though few do:
docs/topics/consistency.md. A read of such a value does not count, and the benchmark fails if there are more than
documented. The same process reads the same values, encoded by the same codec, from Redis and Memcached, over a Unix
socket and over TCP. It also reads them from gunicorn's stash, which has an encoding of its own.

Meanwhile the process that has stored them is idle; or it runs a loop of pure Python, in bursts of 5 ms that take 70 %
of its time, or without pause; or it is stopped by SIGSTOP; or it was killed. Redis and Memcached are separate
processes, which that does not slow down as long as a core is free for them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.group import Group, Member, Worker
from benchmarks.measure import Contender, Report, Series, interleave, options, ratio, samples, tail_ratio
from benchmarks.servers import Servers
from colocache import MsgpackCodec

PACKAGES = ("redis", "hiredis", "pymemcache", "pylibmc", "gunicorn")
SIZES = {"100 B": 100, "1 KiB": 1 << 10, "10 KiB": 10 << 10, "100 KiB": 100 << 10}
MOST = 32 << 20  # bytes of what one contender reads in all rounds
MANY = 100  # keys of one get_many
LOST = 0.01  # of what was stored, at most: the documented bound, which is for more events than there are here
STATES = {
    "idle": "idle", "bursts": "at 70 % in bursts of 5 ms", "spinning": "spinning without pause",
    "stopped": "stopped", "dead": "killed before",
}  # fmt: skip
BASELINE = "redis-py + hiredis, unix"
OURS, LOAD = "colocache", "colocache get_or_load"

Get = Callable[[str], Any]
GetMany = Callable[[list[str]], Any]
Put = Callable[[str, Any], Any]


class Client(NamedTuple):
    """A way to read, one key or many at once, and to store; None where it cannot, or where another one does it."""

    get: Get
    get_many: GetMany | None
    put: Put | None


def record(number: int, size: int) -> dict[str, Any]:
    """Return a value that takes about so many bytes: what a row of a database becomes."""
    value: dict[str, Any] = {"id": number, "name": f"user {number}", "score": 0.5, "tags": ["a", "b"], "about": ""}
    value["about"] = "x" * (size - len(MsgpackCodec().encode(value)) - (2 if size > 300 else 1))
    return value


def redis_client(parser: str, **place: Any) -> Client:
    """Read and write by redis-py, as it is by default but for the parser: its own, or hiredis."""
    import redis
    from redis import _parsers as parsers

    over_tcp = "host" in place
    pool = redis.ConnectionPool(
        redis.Connection if over_tcp else redis.UnixDomainSocketConnection,
        parser_class=getattr(parsers, parser), **place,
    )  # fmt: skip
    client, codec = redis.Redis(connection_pool=pool), MsgpackCodec()

    def get_many(keys: list[str]) -> dict[str, Any]:
        return {key: codec.decode(value) for key, value in zip(keys, client.mget(keys), strict=True)}  # type: ignore[arg-type]

    client.ping()
    return Client(
        lambda key: codec.decode(client.get(key)),  # type: ignore[arg-type]
        get_many,
        lambda key, value: client.set(key, codec.encode(value)),
    )


def memcached_client(client: Any, get_many: str) -> Client:
    """Read and write by one of the two clients, which differ in the name of one method."""
    codec = MsgpackCodec()
    read_many = getattr(client, get_many)
    return Client(
        lambda key: codec.decode(client.get(key)),
        lambda keys: {key: codec.decode(value) for key, value in read_many(keys).items()},
        lambda key, value: client.set(key, codec.encode(value)),
    )


def pymemcache_client(address: Any) -> Client:
    """Read and write by pymemcache."""
    import pymemcache

    return memcached_client(pymemcache.Client(address, no_delay=True), "get_many")


def pylibmc_client(address: str) -> Client:
    """Read and write by pylibmc."""
    import pylibmc

    return memcached_client(pylibmc.Client([address], binary=False, behaviors={"tcp_nodelay": True}), "get_multi")


def stash_client(path: str) -> Client:
    """Read and write by gunicorn's stash, which encodes by itself."""
    from gunicorn.dirty.stash import StashClient

    stash = StashClient(path)
    return Client(lambda key: stash.get("bench", key), None, lambda key, value: stash.put("bench", key, value))


class Places(NamedTuple):
    """The addresses of the servers; None where a server is missing."""

    host: str
    redis_port: int
    redis_socket: str
    memcached_port: int
    memcached_socket: str
    stash: str | None


def clients(places: Places) -> Iterator[tuple[str, Callable[[], Client]]]:
    """Give the name of each client, and how to make it: that raises ImportError where it is not installed."""
    tcp = {"host": places.host, "port": places.redis_port}
    unix = {"path": places.redis_socket}
    yield "redis-py, tcp", lambda: redis_client("_RESP2Parser", **tcp)
    yield "redis-py, unix", lambda: redis_client("_RESP2Parser", **unix)
    yield "redis-py + hiredis, tcp", lambda: redis_client("_HiredisParser", **tcp)
    yield BASELINE, lambda: redis_client("_HiredisParser", **unix)
    yield "pymemcache, tcp", lambda: pymemcache_client((places.host, places.memcached_port))
    yield "pymemcache, unix", lambda: pymemcache_client(places.memcached_socket)
    yield "pylibmc, tcp", lambda: pylibmc_client(f"{places.host}:{places.memcached_port}")
    yield "pylibmc, unix", lambda: pylibmc_client(places.memcached_socket)
    stash = places.stash
    if stash is not None:
        yield "gunicorn stash", lambda: stash_client(stash)


class Writer(Member):
    """The process that stores what the other one reads."""

    def store(self, prefix: str, size: str, count: int) -> None:
        """Store so many values of a size."""
        for number in range(count):
            if not self.cache.set(f"{prefix}:{number}", record(number, SIZES[size])):
                raise RuntimeError("the cache has not stored a value")


class Asker(Member):
    """The process that reads, by colocache and by all the others."""

    def connect(self, places: Places, only: Sequence[str] = ()) -> dict[str, str]:
        """Make the clients, all or only some; return which of them are missing, and why."""
        missing: dict[str, str] = {}
        self._clients = {
            OURS: Client(self.cache.get, self.cache.get_many, self.cache.set),
            LOAD: Client(lambda key: self.cache.get_or_load(key, _lost), None, None),
        }
        for name, make in clients(places):
            try:
                if not only or name in only:
                    self._clients[name] = make()
            except ImportError as error:
                missing[name] = f"not installed: {error}"
        return missing

    def hold(self, prefix: str, size: str, count: int) -> None:
        """Have the servers hold so many values of a size."""
        for name, client in self._clients.items():
            for number in range(count) if name not in (OURS, LOAD) else ():
                client.put(f"{prefix}:{number}", record(number, SIZES[size]))  # type: ignore[misc]

    def names(self, command: str) -> list[str]:
        """Return which clients can do that: get, get_many or put."""
        return [name for name, client in self._clients.items() if getattr(client, command) is not None]

    def get(self, name: str, prefix: str, size: str, first: int, count: int) -> list[float]:
        """Read so many keys, one after another; return how long each took, in seconds."""
        keys = [f"{prefix}:{number}" for number in range(first, first + count)]
        taken = self._taken(name, self._clients[name].get, keys)
        return self._fetched(name, size, 1, [(seconds, {key: value}) for key, (seconds, value) in taken])

    def get_many(self, name: str, prefix: str, size: str, first: int, count: int) -> list[float]:
        """Read so many keys, 100 at once; return how long each hundred took, in seconds."""
        read = self._clients[name].get_many
        assert read is not None
        batches = [[f"{prefix}:{start + each}" for each in range(MANY)] for start in range(first, first + count, MANY)]
        return self._fetched(name, size, MANY, [answer for _, answer in self._taken(name, read, batches)])

    def put(self, name: str, prefix: str, size: str, first: int, count: int) -> list[float]:
        """Store so many values, one after another; return how long each took, in seconds."""
        client, took = self._clients[name], []
        for number in range(first, first + count):
            key, value = f"{prefix}:{number}", record(number, SIZES[size])
            seconds, stored = _timed(client.put, key, value)  # type: ignore[arg-type]
            if name == OURS and not stored:
                raise RuntimeError("the cache has not stored a value")
            took.append(seconds)
        return took

    def _taken(self, name: str, read: Callable[[Any], Any], questions: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Ask all questions; return each with how long it took, in seconds, and the answer."""
        self._before = self.stats()
        taken = [_timed(read, question) for question in questions]
        self._after = self.stats()
        return list(zip(questions, taken, strict=True))

    def _fetched(self, name: str, size: str, each: int, answers: list[tuple[float, dict[str, Any]]]) -> list[float]:
        """Return the times of answers that have all of their keys, of which there are so many in each.

        Raise RuntimeError if a value is another one than was stored, if it was not fetched, or if many are lost.
        """
        found = [(key, value) for _, answer in answers for key, value in answer.items() if value is not None]
        if any(value != record(int(key.rpartition(":")[2]), SIZES[size]) for key, value in found):
            raise RuntimeError(f"{name} gives other values than were stored")
        change = {counter: value - self._before[counter] for counter, value in self._after.items()}
        if name in (OURS, LOAD) and change["fetches"] != len(found):
            raise RuntimeError(f"{len(found)} values were read by {name}, and not all of them fetched: {change}")
        asked = each * len(answers)
        if len(found) < asked * (1 - (LOST if name in (OURS, LOAD) else 0)):
            raise RuntimeError(f"{asked} values were stored, and {name} has {len(found)} of them: {change}")
        return [
            seconds for seconds, answer in answers
            if sum(value is not None for value in answer.values()) == each
        ]  # fmt: skip


def _timed(do: Callable[..., Any], *what: Any) -> tuple[float, Any]:
    began = perf_counter()
    found = do(*what)
    return perf_counter() - began, found


def _lost() -> None:
    """Stand for a value that is not there, though the other process has stored it."""


# --- The benchmark


class Course:
    """The two processes and the servers, and how often each is measured."""

    def __init__(
        self, group: Group, servers: Servers, options: Namespace, only: Sequence[str] = (),
        held: dict[str, int] | None = None,
    ) -> None:  # fmt: skip
        """``only`` are the names of clients beside colocache; all if it is empty.

        ``held`` says how many values of each size the servers have from an earlier course.
        """
        self._group, self._options = group, options
        self._held = {} if held is None else held
        [self._asker] = group.start(Asker)
        [self._writer] = group.start(Writer)
        places = Places(
            servers.host, servers.redis_port, servers.redis_socket,
            servers.memcached_port, servers.memcached_socket, servers.stash_socket,
        )  # fmt: skip
        self.missing = self._asker.call("connect", places, only)
        self._measured = 0

    def measure(self, command: str, size: str, state: str = "idle") -> dict[str, Series]:
        """Have all clients get, get_many or put, while the process that has stored the values is in that state."""
        rounds, count = self._effort(command, size)
        each = (rounds + 1) * count  # keys of one contender
        names = self._asker.call("names", command)
        self._measured += 1
        held, fresh = size.replace(" ", ""), f"fresh{self._measured}"  # nobody has read what begins with the latter
        if command != "put":
            if self._held.get(size, 0) < each:
                self._asker.call("hold", held, size, each)
                self._held[size] = each
            self._writer.call("store", fresh, size, each * len({OURS, LOAD}.intersection(names)))
        contenders = []
        for place, name in enumerate(names):
            prefix, first = (fresh, place * each) if name in (OURS, LOAD) else (held, 0)
            contenders.append(Contender(name, _sampler(self._asker, command, (name, prefix, size), first, count)))
        with self._being(state):
            return interleave(contenders, rounds, self._options.seed, f"{command} {size}, the writer {state}:")

    def _effort(self, command: str, size: str) -> tuple[int, int]:
        """Return how many rounds, and how many keys in each."""
        rounds, count = self._options.rounds or (5 if self._options.quick else 20), 200
        unit = MANY if command == "get_many" else 1
        at_most = MOST // (SIZES[size] * (rounds + 1) * unit)
        return rounds, unit * max(1, min(count // (20 if unit == MANY else 1), at_most))

    @contextmanager
    def _being(self, state: str) -> Iterator[None]:
        if state != "dead":
            with self._writer.being(state):
                yield
            return
        self._group.remove(self._writer, kill=True)
        yield
        [self._writer] = self._group.start(Writer)


def _sampler(asker: Worker, command: str, what: tuple[str, ...], first: int, count: int) -> Callable[[], list[float]]:
    places = iter(range(first, 1 << 62, count))
    return lambda: asker.call(command, *what, next(places), count)


def one_key(
    course: Course, report: Report, sizes: Sequence[str], states: Sequence[str]
) -> dict[str, dict[str, Series]]:
    """Measure one key at a time; return the series of 1 KiB by what the writer does."""
    found = {}
    for state in states:
        for size in sizes:
            series = course.measure("get", size, state)
            report.timings(f"one key of {size}, the process that has stored it {STATES[state]}", series, BASELINE)
            if size == "1 KiB":
                found[state] = series
                judge(report, f"fetch of 1 KiB, the writer {state}", series, 0.2, 0.3)
            elif size == "100 KiB" and state == "idle":
                judge(report, "fetch of 100 KiB", series, 0.6)
    return found


def many_keys(course: Course, report: Report, sizes: Sequence[str]) -> None:
    """Measure 100 keys at a time."""
    for size in sizes:
        series = course.measure("get_many", size)
        report.timings(f"{MANY} keys of {size}", series, BASELINE)
        if size == "1 KiB":
            judge(report, f"get_many of {MANY} x 1 KiB (MGET)", series, 1.0)


def storing(course: Course, report: Report, sizes: Sequence[str]) -> None:
    """Measure what it takes to store a value."""
    for size in sizes:
        series = course.measure("put", size)
        report.timings(f"set, {size}", series, BASELINE)
        if size == "1 KiB":
            judge(report, "set of 1 KiB (SET)", series, 0.4)


def judge(report: Report, what: str, series: dict[str, Series], at_most: float, tail: float | None = None) -> None:
    """Tell whether colocache takes as short as it should, compared with Redis over its Unix socket."""
    if BASELINE not in series:
        return
    report.target(f"{what}: median / Redis", ratio(series[OURS], series[BASELINE]), at_most)
    if tail is not None:
        report.target(f"{what}: p99 / Redis", tail_ratio(series[OURS], series[BASELINE]), tail)


def draw(report: Report, found: dict[str, dict[str, Series]]) -> None:
    """Have the medians drawn."""
    for state in ("idle", "bursts", "spinning"):
        values = {name: median(samples(one)) * 1e6 for name, one in found[state].items()}
        title = f"Reading 1 KiB that another process has stored, which is {STATES[state]}"
        report.bars(f"fetch_{state}", "microseconds, median", values, log=True, title=title)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    chosen = options(__doc__ or "", argv=argv)
    held, few = dict[str, int](), ["1 KiB"]
    with Servers(stash=True) as servers:
        report = Report("fetch", "How long does it take to read a value that another process has stored?", chosen,
                        PACKAGES, servers.versions())  # fmt: skip
        found = {}
        for state in STATES:
            with Group() as group:  # a new one, so that the shelf has room for all
                course = Course(group, servers, chosen, held=held)
                found |= one_key(course, report, few if chosen.quick else list(SIZES), [state])
        with Group() as group:
            course = Course(group, servers, chosen, held=held)
            many_keys(course, report, few if chosen.quick else ["100 B", "1 KiB", "10 KiB"])
            storing(course, report, few if chosen.quick else list(SIZES))
            for name, reason in course.missing.items():
                report.missing(name, reason)
    draw(report, found)
    return report.finish()


if __name__ == "__main__":
    main()
