"""How often is one hot key loaded when many processes and threads miss it at once, and when has everybody its value?

    python -m benchmarks.stampede [--quick] [--write]

4 processes with 8 threads each ask for one missing key at the same instant. The load is a sleep of 50 ms, as long as a
database may take, and each process counts its loads. The tables have the number of loads, of which one is enough, and
the time from that instant to the last answer, of which 50 ms are the load.

Every library is used with its own protection against this, if it has one, and its own way to wait. Libraries that know
only their own process make one load in each process. Those with a lock in Redis make one load, and ask again and again
whether it has ended. colocache tells those who wait. The hand-written lock is the usual one, SET NX with a time-out,
which is tried every 10 ms. cashews and aiocache are for coroutines, so the 8 waiters of a process are tasks there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

from benchmarks.group import Group, Member, sleep_until, together
from benchmarks.measure import Contender, Ratio, Report, Series, interleave, options, samples, spread
from benchmarks.servers import Servers
from colocache import MsgpackCodec

PROCESSES, THREADS = 4, 8
LOAD = 0.05  # s
AHEAD = 0.05  # s until all are ready to ask
TTL = 60  # s
PACKAGES = ("cachetools", "redis", "dogpile.cache", "cashews", "aiocache")
HAND_WRITTEN = "Redis, SET NX by hand"

Load = Callable[[], Any]
Read = Callable[[str, Load], Any]
ReadAsync = Callable[[str, Load], Awaitable[Any]]


def value() -> dict[str, Any]:
    """Return what is loaded."""
    return {"id": 1, "name": "the hot one", "about": "x" * 1000}


class Place(NamedTuple):
    """Where Redis is."""

    path: str
    host: str
    port: int


# --- The contenders: each is told where Redis is, and gives a function to get a key or load it


def redis_at(place: Place) -> Any:
    """Return a client. Raises ImportError."""
    import redis

    return redis.Redis(unix_socket_path=place.path)


def unprotected(place: Place) -> Read:
    """Look, load, store: nobody waits for anybody."""
    client, codec = redis_at(place), MsgpackCodec()

    def read(key: str, load: Load) -> Any:
        found = client.get(key)
        if found is not None:
            return codec.decode(found)  # type: ignore[arg-type]
        loaded = load()
        client.set(key, codec.encode(loaded), ex=TTL)
        return loaded

    return read


def hand_written(place: Place) -> Read:
    """Who gets the lock loads; the others look again every 10 ms."""
    client, codec = redis_at(place), MsgpackCodec()

    def read(key: str, load: Load) -> Any:
        while (found := client.get(key)) is None:
            if client.set(f"lock:{key}", "1", nx=True, px=10_000):
                loaded = load()
                client.set(key, codec.encode(loaded), ex=TTL)
                client.delete(f"lock:{key}")
                return loaded
            time.sleep(0.01)
        return codec.decode(found)  # type: ignore[arg-type]

    return read


def redis_lock(place: Place) -> Read:
    """The same with redis-py's own lock, behind which everybody looks once more."""
    client, codec = redis_at(place), MsgpackCodec()

    def read(key: str, load: Load) -> Any:
        if (found := client.get(key)) is not None:
            return codec.decode(found)  # type: ignore[arg-type]
        with client.lock(f"lock:{key}", timeout=10, sleep=0.01):
            if (found := client.get(key)) is not None:
                return codec.decode(found)  # type: ignore[arg-type]
            loaded = load()
            client.set(key, codec.encode(loaded), ex=TTL)
            return loaded

    return read


def cachetools_condition(place: Place) -> Read:
    """One load in each process: later callers wait for the first."""
    import cachetools

    local: Any = cachetools.TTLCache(1000, TTL)

    def load_key(key: str, load: Load) -> Any:
        return load()

    return cachetools.cached(local, key=lambda key, load: key, condition=threading.Condition())(load_key)


def dogpile_redis(place: Place) -> Read:
    """dogpile.cache with Redis, and its distributed lock, which is redis-py's."""
    from dogpile.cache import make_region

    arguments = {"url": f"unix://{place.path}", "distributed_lock": True, "redis_expiration_time": TTL,
                 "lock_timeout": 10, "lock_sleep": 0.01, "thread_local_lock": False}  # fmt: skip
    region = make_region().configure("dogpile.cache.redis", expiration_time=TTL, arguments=arguments)
    return lambda key, load: region.get_or_create(key, load)


def cashews_lock(place: Place) -> ReadAsync:
    """cashews with Redis, over TCP: a decorated coroutine with its lock."""
    from cashews import Cache

    cache = Cache()
    cache.setup(f"redis://{place.host}:{place.port}", client_side=False)
    loads: dict[str, Load] = {}

    @cache(ttl=TTL, key="{key}", lock=True)
    async def load_key(key: str) -> Any:
        return await loads[key]()

    def read(key: str, load: Load) -> Awaitable[Any]:
        loads[key] = load
        return load_key(key)

    return read


def aiocache_lock(place: Place) -> ReadAsync:
    """aiocache with Redis, over TCP: a decorated coroutine with its lock.

    A caller that finds the lock taken waits for an event of its own process, or, without one, loads at once.
    """
    from aiocache import RedisCache, cached_stampede
    from aiocache.serializers import PickleSerializer

    decorate = cached_stampede(
        lease=10, ttl=TTL, cache=RedisCache, endpoint=place.host, port=place.port, serializer=PickleSerializer(),
        key_builder=lambda call, key, load: key,
    )  # fmt: skip
    return decorate(_loaded)  # type: ignore[no-any-return]


async def _loaded(key: str, load: Load) -> Any:
    return await load()


CONTENDERS: dict[str, Callable[[Place], Read]] = {
    "Redis, unprotected": unprotected,
    HAND_WRITTEN: hand_written,
    "redis-py's lock": redis_lock,
    "dogpile.cache, distributed lock": dogpile_redis,
    "cachetools.cached with a condition": cachetools_condition,
}
COROUTINES: dict[str, Callable[[Place], ReadAsync]] = {
    "cashews, lock": cashews_lock,
    "aiocache, cached_stampede": aiocache_lock,
}
NAMES = ("colocache", "colocache, awaited", *CONTENDERS, *COROUTINES)


# --- The processes


class Crowd(Member):
    """A process in which many want one key at once."""

    def connect(self, place: Place) -> dict[str, str]:
        """Make the contenders; return which of them are missing, and why."""
        missing: dict[str, str] = {}
        self._loads = 0
        self._counting = threading.Lock()
        self._reads: dict[str, Read] = {"colocache": lambda key, load: self.cache.get_or_load(key, load, ttl=TTL)}
        self._awaited: dict[str, ReadAsync] = {
            "colocache, awaited": lambda key, load: self.cache.aget_or_load(key, load, ttl=TTL)
        }
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        for name, make in (CONTENDERS | COROUTINES).items():
            try:
                (self._awaited if name in COROUTINES else self._reads)[name] = make(place)
            except ImportError as error:
                missing[name] = f"not installed: {error}"
        return missing

    def rush(self, name: str, key: str, at: float) -> tuple[int, float]:
        """Have all ask at an instant; return the loads made here, and the instant of the last answer."""
        self._loads = 0
        if name in self._awaited:
            done = asyncio.run_coroutine_threadsafe(self._tasks(name, key, at), self._loop).result(30)
        else:
            done = self._threads(name, key, at)
        return self._loads, done

    def _threads(self, name: str, key: str, at: float) -> float:
        read, answers = self._reads[name], list[Any]()

        def ask() -> None:
            sleep_until(at)
            answers.append((read(key, self._load), monotonic()))

        threads = [threading.Thread(target=ask) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _last(answers)

    async def _tasks(self, name: str, key: str, at: float) -> float:
        async def ask() -> tuple[Any, float]:
            await asyncio.sleep(max(0.0, at - monotonic()))
            return await self._awaited[name](key, self._aload), monotonic()

        return _last(await asyncio.gather(*(ask() for _ in range(THREADS))))

    def _load(self) -> Any:
        self._count()
        time.sleep(LOAD)
        return value()

    async def _aload(self) -> Any:
        self._count()
        await asyncio.sleep(LOAD)
        return value()

    def _count(self) -> None:
        with self._counting:
            self._loads += 1


def _last(answers: Sequence[tuple[Any, float]]) -> float:
    """Return the instant of the last answer. Raises RuntimeError if one is wrong or missing."""
    if len(answers) != THREADS or any(found != value() for found, _ in answers):
        raise RuntimeError(f"{THREADS} asked, but these are the answers: {answers!r:.1000}")
    return max(at for _, at in answers)


# --- The benchmark


class Course:
    """The crowd, and what came of each rush."""

    def __init__(self, group: Group, servers: Servers) -> None:
        self._workers = group.start(Crowd, PROCESSES)
        answers = together(self._workers, "connect", Place(servers.redis_socket, servers.host, servers.redis_port))
        self.missing: dict[str, str] = answers[0]
        self.loads: dict[str, list[int]] = {}
        self._rushes = 0

    def contenders(self) -> list[Contender]:
        """Return those that are installed."""
        return [Contender(name, self._sampler(name)) for name in NAMES if name not in self.missing]

    def _sampler(self, name: str) -> Callable[[], list[float]]:
        def sample() -> list[float]:
            self._rushes += 1
            began = monotonic() + AHEAD
            answers = together(self._workers, "rush", name, f"hot:{self._rushes}", began)
            self.loads.setdefault(name, []).append(sum(loads for loads, _ in answers))
            return [max(done for _, done in answers) - began]

        return sample


def tell(report: Report, course: Course, series: dict[str, Series]) -> None:
    """Tell times and loads."""
    report.timings(f"{PROCESSES} processes x {THREADS} miss one key: to the last answer", series, HAND_WRITTEN, "ms")
    loads = {name: counts[1:] for name, counts in course.loads.items()}  # the first round does not count
    rows = [(name, median(counts), max(counts)) for name, counts in sorted(loads.items(), key=lambda it: median(it[1]))]
    report.table("loads made", ("", "median", "max"), rows)
    report.target("loads by colocache", spread([float(count) for count in loads["colocache"]]), 1.0)
    report.ratio("loads by colocache, most", Ratio(*[float(max(loads["colocache"]))] * 3))
    times = {name: median(samples(one)) * 1e3 for name, one in series.items()}
    title = f"{PROCESSES} processes x {THREADS} threads miss one key, whose load takes {LOAD * 1000:.0f} ms"
    report.bars("stampede", "milliseconds to the last answer, median", times, title=title)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    chosen = options(__doc__ or "", argv=argv)
    with Servers(memcached=False) as servers, Group() as group:
        report = Report("stampede", "How often is a hot key loaded when many miss it at once?", chosen, PACKAGES,
                        servers.versions())  # fmt: skip
        course = Course(group, servers)
        for name, reason in course.missing.items():
            report.missing(name, reason)
        series = interleave(course.contenders(), chosen.rounds or (4 if chosen.quick else 20), title="rush")
        tell(report, course, series)
    return report.finish()


if __name__ == "__main__":
    main()
