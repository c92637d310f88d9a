"""How long does it take to read a key that another process has?

    python -m benchmarks.fetch [--quick] [--write] [--profile]

There is a group of two processes. One asks, and the other one owns all keys that are asked for. The asker has no near
copy that could answer: it has the least memory that is allowed, and there are so many keys, read in turn, that each
near copy is evicted long before its key is read again. The benchmark counts the fetches, and fails if a read was not
one. A fetch is given up later than by default, so that slow ones are measured as well. The same process reads the same
values, encoded by the same codec, from Redis and Memcached, over a Unix socket and over TCP. It also reads them from
gunicorn's stash, which has an encoding of its own.

The owner is idle, or it also runs a loop of pure Python: in bursts of 5 ms that take 70 % of its time, or without
pause. Redis and Memcached are separate processes, which that does not slow down as long as a core is free for them.

``--profile`` measures none of this. It shows where the time of one fetch goes: see `fetch_profile.py`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.group import Group, Member, Worker
from benchmarks.measure import Contender, Report, Series, interleave, options, ratio, samples
from benchmarks.servers import Servers
from colocache import MsgpackCodec
from colocache.core.keys import Key

PACKAGES = ("redis", "hiredis", "pymemcache", "pylibmc", "gunicorn")
SIZES = {"100 B": 100, "1 KiB": 1 << 10, "10 KiB": 10 << 10, "100 KiB": 100 << 10}
KEYS = {"100 B": 1000, "1 KiB": 1000, "10 KiB": 200, "100 KiB": 50}  # far more than the asker can keep near copies of
ASKER = "1MiB"  # of memory, of which a quarter is for near copies
PATIENCE = 5.0  # s until a fetch is given up, not 0.25: here a slow one is to be measured
MANY = 100  # keys of one get_many
PEERS = {"idle": "idle", "bursts": "at 70 % in bursts of 5 ms", "spinning": "spinning without pause"}
TCP, UNIX = "redis-py, tcp", "redis-py, unix"

Get = Callable[[str], Any]
GetMany = Callable[[list[str]], Any]


class Client(NamedTuple):
    """A way to read: one key, or many at once (None where it cannot), and to write."""

    get: Get
    get_many: GetMany | None
    put: Callable[[str, Any], Any]


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
    yield TCP, lambda: redis_client("_RESP2Parser", **tcp)
    yield UNIX, lambda: redis_client("_RESP2Parser", **unix)
    yield "redis-py + hiredis, tcp", lambda: redis_client("_HiredisParser", **tcp)
    yield "redis-py + hiredis, unix", lambda: redis_client("_HiredisParser", **unix)
    yield "pymemcache, tcp", lambda: pymemcache_client((places.host, places.memcached_port))
    yield "pymemcache, unix", lambda: pymemcache_client(places.memcached_socket)
    yield "pylibmc, tcp", lambda: pylibmc_client(f"{places.host}:{places.memcached_port}")
    yield "pylibmc, unix", lambda: pylibmc_client(places.memcached_socket)
    stash = places.stash
    if stash is not None:
        yield "gunicorn stash", lambda: stash_client(stash)


class Asker(Member):
    """The process that asks, by colocache and by all the others."""

    def connect(self, places: Places) -> dict[str, str]:
        """Make the clients; return which of them are missing, and why."""
        missing: dict[str, str] = {}
        self._rounds: dict[tuple[str, bool], Iterator[str]] = {}
        self._expected: dict[Key, Any] = {}
        self._clients = {
            "colocache get": Client(self.cache.get, self.cache.get_many, lambda key, value: None),
            "colocache get_or_load": Client(lambda key: self.cache.get_or_load(key, _never), None, lambda *_: None),
        }
        for name, make in clients(places):
            try:
                self._clients[name] = make()
            except ImportError as error:
                missing[name] = f"not installed: {error}"
        return missing

    def store(self, size: str) -> None:
        """Have everybody hold the values of one size: the other process, and the servers."""
        names = self.owned_elsewhere(KEYS[size], size.replace(" ", ""))
        values: dict[Key, Any] = {key: record(number, SIZES[size]) for number, key in enumerate(names)}
        # Rounds of their own: what others read pushes out no near copy.
        self._rounds |= {(size, ours): _round_robin(names) for ours in (True, False)}
        self._expected |= values
        if not self.cache.set_many(values):
            raise RuntimeError("the owner has not stored all of the values")
        for client in self._clients.values():
            for name in names:
                client.put(name, values[name])

    def names(self, many: bool) -> list[str]:
        """Return which clients there are."""
        return [name for name, client in self._clients.items() if not many or client.get_many is not None]

    def get(self, name: str, size: str, count: int) -> list[float]:
        """Read so many keys, one after another; return how long each took, in seconds."""
        questions = self._next(name, size, count)
        took, answers = self._counted(name, count, self._clients[name].get, questions)
        self._check(name, dict(zip(questions, answers, strict=True)))
        return took

    def get_many(self, name: str, size: str, count: int) -> list[float]:
        """Read 100 keys at once, so many times; return how long each took, in seconds."""
        read = self._clients[name].get_many
        assert read is not None
        questions = [self._next(name, size, MANY) for _ in range(count)]
        took, answers = self._counted(name, MANY * count, read, questions)
        for keys, found in zip(questions, answers, strict=True):
            self._check(name, {key: found[key] for key in keys})
        return took

    def _next(self, name: str, size: str, count: int) -> list[str]:
        return list(islice(self._rounds[size, name.startswith("colocache")], count))

    def _counted(
        self, name: str, count: int, read: Callable[[Any], Any], questions: Sequence[Any]
    ) -> tuple[list[float], list[Any]]:
        before = self.stats()
        taken = [_timed(read, question) for question in questions]
        change = {counter: value - before[counter] for counter, value in self.stats().items()}
        if name.startswith("colocache") and change["fetches"] != count:
            raise RuntimeError(f"{count} keys were read by {name}, and not all of them fetched: {change}")
        return [seconds for seconds, _ in taken], [found for _, found in taken]

    def _check(self, name: str, found: dict[str, Any]) -> None:
        if any(value != self._expected[key] for key, value in found.items()):
            raise RuntimeError(f"{name} gives other values than were stored")


def _timed(read: Callable[[Any], Any], what: Any) -> tuple[float, Any]:
    began = perf_counter()
    found = read(what)
    return perf_counter() - began, found


def _round_robin(names: list[str]) -> Iterator[str]:
    return chain.from_iterable(iter(lambda: names, None))


def _never() -> Any:
    raise RuntimeError("a key that the owner has was loaded")


# --- The benchmark


class Course:
    """The two processes and the servers, and how often each is measured."""

    def __init__(self, group: Group, servers: Servers, options: Namespace) -> None:
        [self.asker] = group.start(Asker, memory=ASKER, fetch_timeout=PATIENCE)
        [self.owner] = group.start(Member)
        self.quick, self._rounds = options.quick, options.rounds
        places = Places(
            servers.host, servers.redis_port, servers.redis_socket,
            servers.memcached_port, servers.memcached_socket, servers.stash_socket,
        )  # fmt: skip
        self.missing = self.asker.call("connect", places)
        for size in SIZES:
            self.asker.call("store", size)

    def measure(self, size: str, peers: str, many: bool) -> dict[str, Series]:
        """Measure all clients, with the owner as busy as that."""
        self.owner.call("work", peers)
        rounds, count = self._effort(size, peers, many)
        command = "get_many" if many else "get"
        names = self.asker.call("names", many)
        contenders = [Contender(name, _sampler(self.asker, command, name, size, count)) for name in names]
        series = interleave(contenders, rounds, title=f"{command} {size}, peers {peers}:")
        self.owner.call("work", "idle")
        return series

    def _effort(self, size: str, peers: str, many: bool) -> tuple[int, int]:
        """Return how many rounds, and how many reads in each."""
        rounds = self._rounds or (5 if self.quick else 20)
        if peers != "idle":  # a fetch takes up to a hundred times as long
            return rounds if peers == "bursts" else (rounds + 1) // 2, 4 if many else 20
        return rounds, 4 if many else 20 if size == "100 KiB" else 50


def _sampler(asker: Worker, command: str, name: str, size: str, count: int) -> Callable[[], list[float]]:
    return lambda: asker.call(command, name, size, count)


def one_key(course: Course, report: Report) -> dict[tuple[str, str], dict[str, Series]]:
    """Measure one key at a time; return the series by size and by what the peers do."""
    found = {}
    for peers in PEERS:
        for size in SIZES if not course.quick else ("1 KiB",):
            found[size, peers] = course.measure(size, peers, many=False)
            report.timings(f"one key of {size}, the owner {PEERS[peers]}", found[size, peers], TCP)
    return found


def many_keys(course: Course, report: Report) -> dict[str, Series]:
    """Measure 100 keys at a time; return the series of 1 KiB with idle peers."""
    for size in ("100 B", "10 KiB") if not course.quick else ():
        report.timings(f"{MANY} keys of {size}, the owner idle", course.measure(size, "idle", many=True), TCP)
    for peers in ("bursts", "spinning") if not course.quick else ():
        series = course.measure("1 KiB", peers, many=True)
        report.timings(f"{MANY} keys of 1 KiB, the owner {PEERS[peers]}", series, TCP)
    series = course.measure("1 KiB", "idle", many=True)
    report.timings(f"{MANY} keys of 1 KiB, the owner idle", series, TCP)
    return series


def judge(report: Report, one: dict[str, Series], many: dict[str, Series]) -> None:
    """Tell which targets are met; all are for 1 KiB and idle peers."""
    for call in ("get", "get_or_load"):
        report.target(f"{call} / redis-py GET over TCP", ratio(one[f"colocache {call}"], one[TCP]), 1.0)
        report.target(f"{call} / redis-py GET over its Unix socket", ratio(one[f"colocache {call}"], one[UNIX]), 1.5)
    for name, where in ((TCP, "over TCP"), (UNIX, "over its Unix socket")):
        report.target(f"get_many / MGET of {MANY} keys {where}", ratio(many["colocache get"], many[name]), 1.0)


def draw(report: Report, found: dict[tuple[str, str], dict[str, Series]]) -> None:
    """Have the medians drawn."""
    for peers in PEERS:
        values = {name: median(samples(one)) * 1e6 for name, one in found["1 KiB", peers].items()}
        title = f"Reading a key of 1 KiB that another process has, which is {PEERS[peers]}"
        report.bars(f"fetch_{peers}", "microseconds, median", values, log=peers != "idle", title=title)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    chosen = options(__doc__ or "", ("--profile", {"action": "store_true", "help": "show where the time goes"}),
                     argv=argv)  # fmt: skip
    if chosen.profile:
        from benchmarks.fetch_profile import profile

        profile()
        return {}
    with Servers(stash=True) as servers, Group() as group:
        report = Report("fetch", "How long does it take to read a key that another process has?", chosen, PACKAGES,
                        servers.versions())  # fmt: skip
        course = Course(group, servers, chosen)
        for name, reason in course.missing.items():
            report.missing(name, reason)
        found = one_key(course, report)
        judge(report, found["1 KiB", "idle"], many_keys(course, report))
    draw(report, found)
    return report.finish()


if __name__ == "__main__":
    main()
