"""What do several hosts cost, and how long do they take, compared with what could be done by hand?

    python -m benchmarks.hosts                    all parts, in about ten minutes, and whether each bound is met
    python -m benchmarks.hosts --only fetch       some of: fetch, invalidate, start, idle, many
    python -m benchmarks.hosts --write            and write results/hosts.json and hosts.txt
    python -m benchmarks.hosts --quick            the same less often, and with fewer hosts

Hosts are network namespaces of this machine: see `benchmarks.placed`. All share its cores, and each pair of them has a
secret, so what they say is encrypted; what it is compared with is not.

Fetch. A process reads values of 1 KiB, each once, that another host has and its own one lacks; and values of a Redis in
that other host, by redis-py with hiredis over TCP. On one of the owner hosts its only worker speaks for it, and on
another one `colocache serve` does. That worker computes in pure Python meanwhile, or does nothing.

Invalidate. Three hosts with four workers each: until `invalidate` returns, which is when all have acknowledged. By the
process that speaks for its host, and by another one. Beside it round trips of a pyzmq DEALER with a ROUTER in another
host, and with one in each of both at once. And how many messages of the protocol all hosts have sent for that.

Start. A process of a new host joins two others: from `Cache.start()` until its host is current.

Idle. What the only process of a host takes while nothing happens, beside 2, 10 and 30 other hosts.

Many. The protocol alone, of up to 100 hosts, in one process with a network and a clock that are computed: see
`benchmarks.simulated_hosts`. Its seconds are simulated ones, but for the processor time. Sizes are without what ZMTP,
CURVE and TCP add.
"""

from __future__ import annotations

import math
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.fetch import SIZES, Client, record, redis_client
from benchmarks.group import together
from benchmarks.measure import (
    Contender,
    Report,
    Series,
    chosen_parts,
    exactly,
    interleave,
    options,
    percentile,
    progress,
    ratio,
    spread,
    tail_ratio,
)
from benchmarks.placed import HostMember, Hosts, Placed, await_true
from benchmarks.servers import program
from benchmarks.simulated_hosts import Simulation
from verification.network.namespaces import why_not

PACKAGES = ("redis", "hiredis")
FAR = 2.0  # times what is done by hand
LOST = 0.1  # % of values
TIMEOUT = 0.25  # s that stand for a round in which nothing was found
SIZE = "1 KiB"
REDIS_PORT, ECHO_PORT = 6379, 7500


# --- Fetch

WORKER, SIDECAR, REDIS = "colocache, a worker speaks", "colocache, a sidecar speaks", "redis-py, tcp"


class Owner(HostMember):
    """The process whose host has the values."""

    def store(self, numbers: Sequence[int]) -> None:
        """Store values."""
        for number in numbers:
            if not self.cache.set(f"far:{number}", record(number, SIZES[SIZE])):
                raise RuntimeError("the cache has not stored a value")


class Asker(HostMember):
    """The process that reads."""

    def connect(self, host: str) -> None:
        """Connect with the Redis in another host."""
        self._redis: Client = redis_client("_HiredisParser", host=host, port=REDIS_PORT)

    def owned(self, by: str, count: int) -> list[int]:
        """Return the numbers of so many keys that another host owns."""
        hosts, wire, found, number = self.hosts, self.cache._keyspace.wire, list[int](), 0
        while len(found) < count:
            owner = hosts.owner(wire(f"far:{number}"))
            if owner is not None and hosts.rows.host(owner).name == by:
                found.append(number)
            number += 1
        return found

    def hold(self, numbers: Sequence[int]) -> None:
        """Have the Redis hold values."""
        for number in numbers:
            self._redis.put(f"far:{number}", record(number, SIZES[SIZE]))  # type: ignore[misc]

    def get(self, name: str, numbers: Sequence[int]) -> list[float]:
        """Read values, one after another; return how long each took, in seconds, and infinity if it was not there.

        A host that does not answer in time has it, and the reader is told that it has not.
        """
        read, took, found = self._redis.get if name == REDIS else self.cache.get, list[float](), 0
        before = self.cache.stats().fetches
        for number in numbers:
            began = perf_counter()
            value = read(f"far:{number}")
            seconds = perf_counter() - began
            if value is None and name != REDIS:
                seconds = math.inf
            elif value != record(number, SIZES[SIZE]):
                raise RuntimeError(f"{name} gives {value!r:.60}, which was not stored")
            else:
                found += 1
            took.append(seconds)
        if name != REDIS and self.cache.stats().fetches - before != found:
            raise RuntimeError("not all values were fetched from another host")
        return took


def tell_fetches(report: Report) -> None:
    """Tell how long it takes to fetch a value from another host."""
    chosen = report.options
    rounds, count = chosen.rounds or (5 if chosen.quick else 15), 40 if chosen.quick else 150
    states = ("idle", "spinning")
    with Hosts(3) as hosts:
        hosts.serve("h3")
        [asker], [plain], [beside] = hosts.start("h1", Asker), hosts.start("h2", Owner), hosts.start("h3", Owner)
        hosts.await_current()
        start_redis(hosts, "h2")
        await_true(partial(_succeeds, asker, "connect", hosts.address("h2")), "Redis does not answer")
        contenders, each, lost = [], (rounds + 1) * count, list[str]()
        for name, owner in ((WORKER, plain), (SIDECAR, beside), (REDIS, plain)):
            numbers = list(range(each)) if name == REDIS else asker.call("owned", owner.host, each * len(states))
            asker.call("hold", numbers) if name == REDIS else owner.call("store", numbers)
            for place, state in enumerate(states):
                first = 0 if name == REDIS else place * each
                parts = iter([numbers[start : start + count] for start in range(first, first + each, count)])
                contenders.append(Contender(f"{name}, {state}", _fetching(asker, owner, name, state, parts, lost)))
        series = interleave(contenders, rounds, chosen.seed, "fetches:")
    asked = 2 * len(states) * each
    report.note(f"{len(lost)} of {asked:,} values were not there in time: {dict(Counter(lost))}")
    report.target("values of another host that were not there in time: %", exactly(100 * len(lost) / asked), LOST)
    for state in states:
        some = {name: series[f"{name}, {state}"] for name in (WORKER, SIDECAR, REDIS)}
        where = "idle" if state == "idle" else "which computes without pause"
        report.timings(f"a value of {SIZE} of another host, its worker {where}", some, REDIS)
        for name in (WORKER, SIDECAR) if state == "idle" else (SIDECAR,):
            _judge(report, f"fetch from another host, {name}, its worker {state}", some[name], some[REDIS])


def _fetching(
    asker: Placed, owner: Placed, name: str, state: str, parts: Any, lost: list[str]
) -> Callable[[], list[float]]:
    def sample() -> list[float]:
        with owner.being(state):
            took = list(asker.call("get", name, next(parts)))
        lost.extend([name] * took.count(math.inf))
        return [seconds for seconds in took if seconds < math.inf] or [TIMEOUT]

    return sample


def _succeeds(worker: Placed, do: str, *arguments: Any) -> bool:
    try:
        worker.call(do, *arguments)
    except Exception:
        return False
    return True


def start_redis(hosts: Hosts, name: str) -> None:
    """Have a Redis run in a host."""
    options = {"port": str(REDIS_PORT), "bind": hosts.address(name), "protected-mode": "no", "save": "",
               "appendonly": "no", "dir": str(hosts.directory)}  # fmt: skip
    command = [program("redis-server"), *(part for key in options for part in (f"--{key}", options[key]))]
    hosts.run(name, command, stdout=subprocess.DEVNULL)


def _judge(report: Report, what: str, ours: Series, others: Series) -> None:
    report.target(f"{what}: median / by hand", ratio(ours, others), FAR)
    report.target(f"{what}: p99 / by hand", tail_ratio(ours, others), FAR)


# --- Invalidate

BY_GATEWAY, BY_OTHER = "colocache, by the process that speaks", "colocache, by another process"
ONE, BOTH = "pyzmq, a round trip with one host", "pyzmq, one with both hosts at once"
WORKERS = 4


class Echo:
    """A process of a host that sends back what comes: one frame as long as an event and its acknowledgement."""

    def __init__(self, directory: str) -> None:
        """Nothing is shared with others."""

    def start(self) -> None:
        """Do nothing yet."""

    def serve(self, address: str) -> None:
        """Answer from now on, in a thread."""
        import threading

        import zmq

        self._context = zmq.Context()
        router = self._context.socket(zmq.ROUTER)
        router.bind(f"tcp://{address}:{ECHO_PORT}")

        def work() -> None:
            while True:
                try:
                    router.send_multipart(router.recv_multipart())
                except zmq.ZMQError:
                    router.close(linger=0)
                    return

        threading.Thread(target=work, daemon=True).start()

    def is_current(self, others: int) -> bool:
        """See `HostMember`."""
        return True

    def figures(self) -> dict[str, int]:
        """See `HostMember`."""
        return {}

    def close(self) -> None:
        """End."""


class Caller(HostMember):
    """A process that invalidates, and speaks with echoes."""

    def connect(self, addresses: Sequence[str]) -> None:
        """Dial the echoes."""
        import zmq

        self._context = zmq.Context()
        self._dealers = []
        for address in addresses:
            dealer = self._context.socket(zmq.DEALER)
            dealer.connect(f"tcp://{address}:{ECHO_PORT}")
            self._dealers.append(dealer)
        self.round_trips(len(addresses), 1)

    def round_trips(self, hosts: int, count: int) -> list[float]:
        """Have so many hosts answer; return how long each time took, in seconds."""
        took, dealers, frame = list[float](), self._dealers[:hosts], b"-" * 32
        for _ in range(count):
            began = perf_counter()
            for dealer in dealers:
                dealer.send(frame)
            for dealer in dealers:
                dealer.recv()
            took.append(perf_counter() - began)
        return took

    def invalidate(self, hosts: int, count: int) -> list[float]:
        """Invalidate keys, one after another; return how long each took, in seconds."""
        took = list[float]()
        for number in range(count):
            began = perf_counter()
            receipt = self.cache.invalidate(f"key:{number}")
            took.append(perf_counter() - began)
            if not receipt.complete or len(receipt.acknowledged) != hosts:
                raise RuntimeError(f"not everybody has acknowledged: {receipt}")
        return took


def tell_invalidations(report: Report) -> None:
    """Tell how long it takes until all hosts have acknowledged an invalidation, and what they send for that."""
    chosen = report.options
    rounds, count = chosen.rounds or (5 if chosen.quick else 15), 20 if chosen.quick else 60
    with Hosts(3) as hosts:
        workers = [worker for name in hosts.names for worker in hosts.start(name, Caller, WORKERS)]
        hosts.await_current()
        echoes = [hosts.start(name, Echo)[0] for name in hosts.names[1:]]
        for echo in echoes:
            echo.call("serve", hosts.address(echo.host))
        mine = [worker for worker in workers if worker.host == "h1"]
        await_true(lambda: any(together(mine, "is_gateway")), "nobody speaks for a host")
        speaks = together(mine, "is_gateway")
        gateway, other = mine[speaks.index(True)], mine[speaks.index(False)]
        other.call("connect", [hosts.address(echo.host) for echo in echoes])
        contenders = [
            Contender(BY_GATEWAY, partial(gateway.call, "invalidate", 2, count)),
            Contender(BY_OTHER, partial(other.call, "invalidate", 2, count)),
            Contender(ONE, partial(other.call, "round_trips", 1, count)),
            Contender(BOTH, partial(other.call, "round_trips", 2, count)),
        ]
        before = _sent(workers)
        series = interleave(contenders, rounds, chosen.seed, "invalidations:")
        sent = _sent(workers) - before
    report.timings(f"3 hosts with {WORKERS} workers each, idle: until all have acknowledged", series, ONE)
    for name in (BY_GATEWAY, BY_OTHER):
        _judge(report, f"an acknowledged invalidation, {name}", series[name], series[ONE])
    frames = sent / (2 * (rounds + 1) * count)
    report.target(f"messages for each invalidation and other host, whatever the {WORKERS} workers", exactly(frames / 2),
                  2.0)  # fmt: skip


def _sent(workers: Sequence[Placed]) -> int:
    """Return how many events, and acknowledgements, all hosts have sent."""
    return sum(each["sent_events"] + each["sent_acknowledgements"] for each in together(workers, "figures"))


# --- Start

START = 1000.0  # ms


class Joiner(HostMember):
    """A process of a new host."""

    def start(self) -> None:
        """Join, and see how long it takes until the host is current."""
        began = perf_counter()
        self.cache.start()
        while not self.is_current(2):
            time.sleep(0.001)
        self._took = perf_counter() - began

    def took(self) -> float:
        """Return how long that took, in seconds."""
        return self._took


def tell_starts(report: Report) -> None:
    """Tell how long a new host takes to become current."""
    chosen, took = report.options, list[float]()
    with Hosts(3) as hosts:
        hosts.start_all(hosts.names)
        hosts.await_current()
        for number in range((chosen.rounds or (5 if chosen.quick else 20)) + 1):
            progress(f"starts: {number}")
            hosts.remove(hosts.workers[-1])
            await_true(lambda: all(together(hosts.workers, "is_current", 1)), "others still wait for a host that ended")
            [joiner] = hosts.start("h3", Joiner)
            took.append(joiner.call("took"))
    figures = [percentile(took[1:], percent) * 1e3 for percent in (50, 90, 100)]
    report.table("a host joins two others: from Cache.start() until it is current", ("median ms", "p90", "max"),
                 [figures])  # fmt: skip
    report.target("a new host is current: ms", spread(1e3 * each for each in took[1:]), START)


# --- Idle

OTHERS, QUICK_OTHERS = (2, 10, 30), (2, 10)
IDLE = 5.0  # % of a core


def tell_idle(report: Report) -> None:
    """Tell what a gateway takes while nothing happens."""
    chosen, rows = report.options, []
    seconds = 6.0 if chosen.quick else 30.0
    for others in QUICK_OTHERS if chosen.quick else OTHERS:
        progress(f"idle: {others} other hosts")
        with Hosts(1 + others, shelf="16MiB") as hosts:
            gateway, *_ = hosts.start_all(hosts.names)
            hosts.await_current()
            before = gateway.call("processor"), gateway.call("figures")["sent"], time.monotonic()
            time.sleep(seconds)
            after = gateway.call("processor"), gateway.call("figures")["sent"], time.monotonic()
            took, sent, passed = (late - early for late, early in zip(after, before, strict=True))
            rows.append((others, 60 * took / passed, 100 * took / passed, sent / passed, gateway.call("resident")))
        report.target(f"a gateway that is idle beside {others} hosts: % of a core", exactly(rows[-1][2]), IDLE)
    columns = ("other hosts", "processor s a minute", "% of a core", "messages a second", "MiB")
    report.table("the only process of a host, which is idle", columns, rows)


# --- Many

SIZES_OF_GROUPS, QUICK_SIZES = (3, 10, 32, 100), (3, 10, 20)
WATCHED = 2.0  # simulated s


def tell_many(report: Report) -> None:
    """Tell what the protocol says among many hosts."""
    idle, events, joins = [], [], []
    for size in QUICK_SIZES if report.options.quick else SIZES_OF_GROUPS:
        progress(f"{size} simulated hosts")
        group = Simulation(1 + size, report.options.seed)
        group.start(range(size))
        group.run(group.spread)
        seconds = group.run_until(group.are_current)
        joins.append((f"{size} start together", 1e3 * seconds, *_per_host(group)))
        group.run(WATCHED)
        group.forget_counts()
        group.run(WATCHED)
        frames, taken = sum(group.sent.values()), sum(group.bytes.values())
        each = size * WATCHED
        processor = 100 * sum(host.took for host in group.running) / each
        idle.append((size, frames / each, taken / each / 1e3, group.bytes["Ping"] / group.sent["Ping"],
                     group.bytes["Pong"] / group.sent["Pong"], processor))  # fmt: skip
        group.forget_counts()
        group.hosts[0].invalidate([12345])
        seconds = group.run_until(partial(group.have_acknowledged, group.hosts[0]))
        frames, taken = (group_of["Told"] + group_of["Ack"] for group_of in (group.sent, group.bytes))
        events.append((size, frames, taken, 1e3 * seconds))
        report.target(
            f"messages for an invalidation, each of {size - 1} other hosts", exactly(frames / (size - 1)), 2.0
        )
        group.forget_counts()
        group.start([size])
        group.run(0.0)
        seconds = group.run_until(group.are_current)
        joins.append((f"one joins {size}", 1e3 * seconds, *_per_host(group)))
    columns = ("hosts", "messages a second", "kB a second", "bytes of a ping", "of a pong", "% of a core for that")
    report.table("hosts that are idle: what each sends", columns, idle)
    report.table("one invalidation, of any number of workers", ("hosts", "messages", "bytes", "simulated ms"), events)
    report.table("until all are current", ("", "simulated ms after the last start", "messages", "kB"), joins)


def _per_host(group: Simulation) -> tuple[int, float]:
    return sum(group.sent.values()), sum(group.bytes.values()) / 1e3


PARTS: dict[str, Callable[[Report], None]] = {
    "fetch": tell_fetches, "invalidate": tell_invalidations, "start": tell_starts, "idle": tell_idle, "many": tell_many,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    only = ("--only", {"default": "", "metavar": "PARTS", "help": f"some of {','.join(PARTS)}"})
    chosen = options(__doc__ or "", only, argv=argv)
    report = Report("hosts", "What do several hosts cost, and how long do they take?", chosen, PACKAGES)
    for name, part in chosen_parts(PARTS, chosen.only).items():
        if name != "many" and why_not():
            report.missing(name, why_not())
        else:
            part(report)
    return report.finish()


if __name__ == "__main__":
    main()
