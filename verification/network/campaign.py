"""A campaign against several hosts: their network is cut, their processes are killed and stopped; reads are judged.

``python -m verification.network.campaign --seconds 600 --hosts 3 --workers 4``. Each host is a network namespace, or a
loopback address where no namespaces can be made, and has real processes with a cache of one group; see `work.py` for
what they do, and `checker.py` for how it is judged. The seed gives the timeline of faults. It does not give the
interleavings, so the report of a violation contains its story, and everything that the processes left behind.

It begins and ends with a calm, in which each receipt that is waited for has to be complete. Between the faults and the
last calm everything is healed, and all hosts must become current again. ``--cache`` takes the stand-ins of
`standins.py` as well: but for ``honest`` and ``one region``, each has a fault that must be found.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from time import monotonic, monotonic_ns
from typing import Any, Final, NamedTuple

from verification.chaos.board import KEYS
from verification.chaos.group import ALARMS, INTENDED, Died, Started, together
from verification.chaos.verdict import story
from verification.network.checker import LEASE, Checker, UnderWay
from verification.network.dns import NXDOMAIN, SERVFAIL, SILENCE, address
from verification.network.namespaces import PORT, Loopback, Namespaces, Network, why_not, why_not_slow
from verification.network.standins import KINDS

PATIENCE: Final = 90.0  # s, for what must come to pass once all is healed: forget_after, thrice
HANG: Final = 60.0  # s; no call takes so long, not even on a host that is not established for `forget_after`
PAUSE: Final = 0.8  # s; in so many seconds, at most, somebody else comes for one who is missing
CALM: Final = 2.0  # s
PEERS: Final = "hosts"  # the name of all hosts
NOBODY: Final = "10.77.0.250"  # an address of the same network that no host has

#: How often each fault comes. Of `lose`, all processes of a host are killed at once; of `restart`, all end and others
#: begin.
FAULTS: Final = {
    "cut": 4, "cut_one_way": 5, "refuse": 1, "isolate": 2, "star": 1, "ring": 1, "flap": 2, "slow": 1, "rest": 3,
    "kill": 3, "kill_gateway": 3, "stop": 2, "stop_gateway": 3, "stop_host": 2, "restart": 2, "lose": 1,
    "names": 3,
}  # fmt: skip
NETWORK: Final = ("cut", "cut_one_way", "refuse", "isolate", "star", "ring", "flap", "slow")

Way = tuple[str, str]


class Fault(NamedTuple):
    """Something that happens to hosts, named, for so long."""

    at: float  # s, from the beginning
    what: str
    hosts: tuple[str, ...]
    lasts: float  # s
    chance: float  # from 0 to 1: which process it is


def timeline(seed: int, seconds: float, hosts: Sequence[str], longest: float) -> list[Fault]:
    """The faults of a campaign, in order. Pure: the same arguments give the same faults."""
    dice, found, at = random.Random(seed), [], 0.0
    while (at := at + dice.uniform(0.1, 0.5 + longest / 5)) < seconds:
        what = dice.choices(list(FAULTS), list(FAULTS.values()))[0]
        lasts = 0.2 * (longest / 0.2) ** dice.random()
        if what == "flap":
            a, b = dice.sample(hosts, 2)
            found += [Fault(at + 0.3 * number, "flap", (a, b), 0.15, 0.0) for number in range(5)]
        else:
            found.append(Fault(at, what, tuple(dice.sample(hosts, len(hosts))), lasts, dice.random()))
    return sorted(found)


def ways_cut(fault: Fault) -> set[Way]:
    """The ways that a fault cuts, each from who sends to who would receive."""
    a, b, *_ = *fault.hosts, ""
    if fault.what == "cut_one_way":
        return {(a, b)}
    if fault.what in ("cut", "refuse", "flap"):
        return {(a, b), (b, a)}
    if fault.what == "isolate":
        return {way for way in permutations(fault.hosts, 2) if a in way}
    if fault.what == "star":  # only the first hears all
        return {way for way in permutations(fault.hosts, 2) if a not in way}
    if fault.what == "ring":  # each hears one, and is heard by another
        heard = set(zip(fault.hosts, (*fault.hosts[1:], a), strict=True))
        return set(permutations(fault.hosts, 2)) - heard
    return set()


class Campaign:
    """One run."""

    def __init__(
        self, net: Network, seed: int, workers: int, kind: str = "colocache", hang: float = HANG, by_name: bool = False
    ) -> None:
        """So many ``workers`` on each host of a network that is up. ``kind`` of cache: see `worker.py`.

        ``by_name``: the hosts find each other in DNS, which fails now and then; only where they are namespaces.
        """
        self.net = net
        self._zone = net.start_name_server() if by_name and isinstance(net, Namespaces) else None
        self.directory = Path(tempfile.mkdtemp(prefix="cx"))  # short, for sockets
        self.kind, self.workers, self._hang = kind, workers, hang
        self.details: dict[str, str] = {}  # what else the result says
        self._slots = 2 * len(net.hosts) * workers  # of those who work, and of those who are about to end
        self.checker = Checker.create(self.directory, self._slots)
        self.board = self.checker.board
        self.board.change_deletions()  # odd: receipts may be incomplete
        self._under_way = UnderWay(self.directory, self._slots)
        self._log = os.open(self.directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._dice = random.Random(f"{seed} victims")
        self.working: dict[str, list[Started]] = {host.name: [] for host in net.hosts}
        self._slot_of: dict[Started, int] = {}  # of those who live
        self._begun: dict[Started, Future[Any]] = {}
        self._stopped: dict[Started, int] = {}  # how often
        self._woken: dict[Started, int] = {}  # when, in ns
        self._cuts: list[Fault] = []  # that are under way
        self._is_restarting: set[str] = set()
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._looked_at = 0.0
        self.faults: Counter[str] = Counter()
        self.lives = 0
        self.current_after = 0.0

    # --- Its course

    def begin(self) -> None:
        """Start all, wait until all hosts are current, and be calm."""
        for host in self.working:
            for _ in range(self.workers):
                self._begin(host)
        self.await_current()
        self.board.change_deletions()
        self.pass_time(CALM)
        self.board.change_deletions()

    def harm(self, faults: list[Fault], seconds: float) -> None:
        """Have the faults happen, for so long."""
        began = monotonic()
        for fault in faults:
            self.pass_time(began + fault.at - monotonic())
            if self._happen(fault) is not False:
                self.faults[fault.what] += 1
        self.pass_time(began + seconds - monotonic())

    def recover(self) -> None:
        """Heal all, wait until all hosts are current, be calm, and end; all must read what is true."""
        self.until(lambda: not self._later, "nothing is left to be done")
        self.net.heal()  # what may be left
        self.board.note("fault", fault="all is healed")
        # Interpreters that have yet to start would count as a host that is slow.
        self.until(self._all_have_begun, "all have begun")
        healed = monotonic()
        self.await_current()
        self.current_after = monotonic() - healed
        self.board.change_deletions()
        self.pass_time(CALM)
        workers = self.living()
        self.answers(workers, "end_work")
        truth = self.checker.register.write(KEYS)
        for worker, complete in zip(workers, self.answers(workers, "clear"), strict=True):
            if not complete:
                self.board.accuse("incomplete at the end", victim=worker.pid)
        for versions in self.answers(workers, "read_register", keys=list(KEYS)):
            if versions != truth:
                wrong = {key: (versions[key], truth[key]) for key in KEYS if versions[key] != truth[key]}
                self.board.accuse("wrong at the end", read_and_true=wrong)
        for worker in workers:
            worker.quit()
        self.until(lambda: all(worker.dead.is_set() for worker in workers), "all have ended")
        for worker in workers:
            if worker.process.returncode:
                self.board.accuse("ended badly", victim=worker.pid, status=worker.process.returncode)

    def log(self) -> str:
        """What the processes have logged."""
        return (self.directory / "log").read_text(errors="replace")

    def alarms(self) -> list[str]:
        """What none may have logged."""
        lines = self.log().splitlines()
        return [line for line in lines if any(alarm in line for alarm in ALARMS) and INTENDED not in line]

    def abort(self) -> None:
        """End all processes; each logs what its threads were doing."""
        for worker in self._slot_of:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGABRT)
        for worker in self._slot_of:
            worker.dead.wait(10)

    def close(self) -> None:
        """End all processes, and delete all that they left behind."""
        for worker in list(self._slot_of):
            worker.close()
        self.checker.register.close()
        os.close(self._log)
        shutil.rmtree(self.directory, ignore_errors=True)

    def keep(self, seed: int) -> Path:
        """Copy what the processes wrote to where it stays."""
        kept = Path(tempfile.mkdtemp(prefix=f"colocache-campaign-{seed}-"))
        for path in self.directory.iterdir():
            if path.is_file():
                shutil.copy(path, kept)
        return kept

    # --- What another campaign may have otherwise

    def interpreter(self, host: str) -> list[str]:
        """The command of Python, with its options, for a process of a host."""
        return [sys.executable, "-X", "dev"]

    def environment(self, host: str) -> dict[str, str]:
        """The variables of a process of a host."""
        return self.net.environment(host, self.directory)

    def replace(self, host: str) -> None:
        """Have all processes of a host end as programs do, and others begin; return when all hosts are current."""
        self.restart(host)
        self.await_current()

    def restart(self, host: str) -> None:
        """Have all processes of a host end as programs do, and others begin; return when those have begun."""
        self._restart(Fault(0.0, "restart", (host,), 0.0, 0.0))
        self.faults["replace"] += 1
        self.until(lambda: host not in self._is_restarting, f"the processes of {host} have ended")
        self.until(self._all_have_begun, f"the processes of {host} have begun")

    # --- Faults. False: there was nobody to do it to.

    def _happen(self, fault: Fault) -> bool | None:
        if fault.what not in NETWORK:
            did: bool | None = getattr(self, "_" + fault.what)(fault)
            return did
        self.note(fault.what, hosts=fault.hosts, lasts=fault.lasts)
        if fault.what == "slow":
            return self._slow(fault)
        self._cuts.append(fault)
        self._cut_what_is_cut()
        self._at(fault.lasts, lambda: self._end_cut(fault))
        return None

    def _end_cut(self, fault: Fault) -> None:
        if fault in self._cuts:
            self._cuts.remove(fault)
            self.note(f"end of {fault.what}", hosts=fault.hosts)
            self._cut_what_is_cut()

    def _cut_what_is_cut(self) -> None:
        """Cut what any of the faults under way cuts, and nothing else."""
        wanted = {way: fault.what == "refuse" for fault in self._cuts for way in ways_cut(fault)}
        if self.net.kind == Loopback.kind:  # which has no refusal one way
            wanted = dict.fromkeys(wanted, False)
        for way in self.net.cuts - wanted.keys():
            self.net.heal_way(*way)
        for way in wanted.keys() - self.net.cuts:
            self.net.cut(*way, one_way=True, refuse=wanted[way])

    def _slow(self, fault: Fault) -> bool | None:
        if self.net.kind == Namespaces.kind and why_not_slow():
            return False
        a, b, *_ = fault.hosts
        self.net.slow(a, b, "200kbit")
        self._at(fault.lasts, lambda: self.net.hurry(a, b))
        return None

    def _rest(self, fault: Fault) -> None:
        """Let them recover for once."""
        self.pass_time(fault.lasts / 2)

    def _kill(self, fault: Fault) -> bool:
        return self._end(self._pick(fault), "kill")

    def _kill_gateway(self, fault: Fault) -> bool:
        return self._end(self._gateway(fault.hosts[0]), "kill gateway")

    def _stop(self, fault: Fault) -> bool:
        return self._hold(self._pick(fault), fault.lasts, "stop")

    def _stop_gateway(self, fault: Fault) -> bool:
        return self._hold(self._gateway(fault.hosts[0]), fault.lasts, "stop gateway")

    def _stop_host(self, fault: Fault) -> None:
        for worker in list(self.working[fault.hosts[0]]):
            self._hold(worker, fault.lasts, "stop host")

    def _restart(self, fault: Fault) -> bool | None:
        """All end as programs do; when none is left, as many begin."""
        host = fault.hosts[0]
        if host in self._is_restarting:
            return False
        self._is_restarting.add(host)
        leaving = self.working[host]
        self.working[host] = []
        for worker in leaving:
            self.note("close", victim=worker.pid, host=host)
            worker.signal(signal.SIGCONT)
            self._dismiss(worker)
        self._at(0.0, lambda: self._restart_when_gone(host, leaving))
        return None

    def _restart_when_gone(self, host: str, leaving: list[Started]) -> None:
        if all(worker.dead.is_set() for worker in leaving):
            self._is_restarting.discard(host)
            for _ in range(self.workers):
                self._begin(host)
        else:
            self._at(0.05, lambda: self._restart_when_gone(host, leaving))

    def _lose(self, fault: Fault) -> None:
        """All are killed at once; later others come."""
        for worker in list(self.working[fault.hosts[0]]):
            self._end(worker, "lose", back_after=fault.lasts)

    def _names(self, fault: Fault) -> bool | None:
        """The name server fails, says nothing, knows no hosts, forgets one, or names one that nobody is."""
        zone = self._zone
        if zone is None:
            return False
        true = [address(host.address) for host in self.net.hosts]
        without = [address(host.address) for host in self.net.hosts if host.name != fault.hosts[0]]
        wrong = (SERVFAIL, SILENCE, NXDOMAIN, without, [*true, address(NOBODY)])
        zone[PEERS] = said = wrong[int(fault.chance * len(wrong))]
        self.note("names", says=str(said), lasts=fault.lasts)
        self._at(fault.lasts, lambda: zone.__setitem__(PEERS, true))
        return None

    # --- What they are made of

    def _pick(self, fault: Fault) -> Started | None:
        able = self.working[fault.hosts[0]]
        return able[int(fault.chance * len(able))] if able else None

    def _gateway(self, host: str) -> Started | None:
        """The worker that is the gateway of a host, as one of its workers says that can."""
        for asked in self.working[host]:
            if asked not in self._stopped and self._begun[asked].done():
                with suppress(Died, AssertionError, TimeoutError):
                    pid = asked.send("gateway", host=host).result(2.0)
                    return next((worker for worker in self.working[host] if worker.pid == pid), None)
        return None

    def _hold(self, worker: Started | None, seconds: float, fault: str) -> bool:
        if worker is None:
            return False
        self.note(fault, victim=worker.pid, seconds=seconds)
        self._stopped[worker] = self._stopped.get(worker, 0) + 1
        worker.signal(signal.SIGSTOP)
        self._at(seconds, lambda: self._let_go(worker))
        return True

    def _let_go(self, worker: Started) -> None:
        left = self._stopped.pop(worker, 1) - 1
        if left:
            self._stopped[worker] = left
        else:
            self._woken[worker] = monotonic_ns()
            self.note("go on", victim=worker.pid)
            worker.signal(signal.SIGCONT)

    def _end(self, worker: Started | None, fault: str, back_after: float = PAUSE) -> bool:
        if worker is None:
            return False
        host = next(name for name, workers in self.working.items() if worker in workers)
        self.note(fault, victim=worker.pid, host=host)
        self.working[host].remove(worker)
        worker.signal(signal.SIGKILL)
        self._at(self._dice.uniform(0, back_after), lambda: self._begin_if_missing(host))
        return True

    def _dismiss(self, worker: Started) -> None:
        """Have a process end in its own time, once it has begun."""
        self._begun[worker].add_done_callback(
            lambda _: worker.send("end_work").add_done_callback(lambda _: worker.send("quit"))
        )

    def _begin_if_missing(self, host: str) -> None:
        if host not in self._is_restarting and len(self.working[host]) < self.workers:
            self._begin(host)

    def _begin(self, host: str) -> None:
        self._clear_slots()
        free = [slot for slot in range(self._slots) if slot not in self._slot_of.values()]
        if not free:  # so many are about to end
            self._at(0.1, lambda: self._begin_if_missing(host))
            return
        pipe: Any = subprocess.PIPE
        command = [*self.interpreter(host), "-m", "verification.network.worker", str(self.directory), self.kind]
        command.append(str(len(self.net.hosts)))
        worker = Started(
            self.net.start(
                host, command, stdin=pipe, stdout=pipe, stderr=self._log, env=self.environment(host) | self._named
            )
        )
        self.lives += 1
        self.working[host].append(worker)
        self._slot_of[worker] = slot = free[0]
        self._begun[worker] = worker.send("begin_work", slot=slot, slots=self._slots, seed=self._dice.random())
        self.note("begin", victim=worker.pid, host=host, slot=slot)

    @property
    def _named(self) -> dict[str, str]:
        return {} if self._zone is None else {"COLOCACHE_PEERS": f"{PEERS}:{PORT}"}

    def _clear_slots(self) -> None:
        """Have others take the slots of the dead: two at once would overwrite what each other writes there."""
        for worker, slot in list(self._slot_of.items()):
            if worker.dead.is_set():
                worker.close()
                self._under_way.clear(slot)
                for known in (self._slot_of, self._begun, self._stopped, self._woken):
                    known.pop(worker, None)

    def note(self, what: str, **details: Any) -> None:
        self.board.note("fault", fault=what, **details)

    def living(self) -> list[Started]:
        return [worker for workers in self.working.values() for worker in workers]

    # --- Time

    def _at(self, delay: float, do: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._later, (monotonic() + delay, self._count, do))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what is due."""
        ends = monotonic() + seconds
        while (now := monotonic()) < ends:
            while self._later and self._later[0][0] <= now:
                heapq.heappop(self._later)[2]()
            if now >= self._looked_at + 0.2:
                self._looked_at = now
                self._look_around()
            time.sleep(min(0.01, max(0.0, ends - now)))

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Let time pass until a condition holds. Raise AssertionError if it does not come to."""
        ends = monotonic() + PATIENCE
        while not condition():
            if monotonic() > ends:
                raise AssertionError(f"it did not come to pass in {PATIENCE} s: {what}")
            self.pass_time(0.05)

    def answers(self, workers: list[Started], do: str, **arguments: Any) -> list[Any]:
        """Have all carry out one command, and return their answers."""
        futures = [worker.send(do, **arguments) for worker in workers]
        self.until(lambda: all(future.done() for future in futures), f"all answer to {do}")
        return [future.result() for future in futures]

    def _look_around(self) -> None:
        """Accuse who died by himself, and whose call does not end. Raise AssertionError for the latter."""
        for workers in self.working.values():
            for worker in [worker for worker in workers if worker.dead.is_set()]:
                self.board.accuse("died", victim=worker.pid, status=worker.process.returncode)
                self._end(worker, "is missed")
        now = monotonic_ns()
        for worker, slot in self._slot_of.items():
            if worker in self._stopped or worker.dead.is_set():
                continue
            thread, began = self._under_way.longest(slot)
            if began and now - max(began, self._woken.get(worker, 0)) > self._hang * 1e9:
                raise AssertionError(f"thread {thread} of process {worker.pid} hangs in a call for {self._hang} s")

    def await_current(self) -> None:
        """Wait until each process of each host says that it has heard all hosts since now, and within the lease."""
        began = monotonic()
        asked: dict[Started, Future[Any]] = {}

        def all_are() -> bool:
            nonlocal asked
            workers = self.living()
            if len(workers) < len(self.working) * self.workers or not all(self._begun[each].done() for each in workers):
                return False
            for worker in workers:
                self._begun[worker].result()  # it raises what went wrong
            if asked and not all(future.done() for future in asked.values()):
                return False
            for future in asked.values():
                if not isinstance(future.exception(), Died | None):
                    future.result()
            if asked.keys() == set(workers) and all(not each.exception() and each.result() for each in asked.values()):
                return True
            within = min(LEASE, monotonic() - began)
            asked = {worker: worker.send("is_current", within=within) for worker in workers}
            return False

        try:
            self.until(all_are, "all hosts are current")
        except (AssertionError, Died) as error:
            raise AssertionError(f"{error}: {self._who_hears_whom()}") from None

    def _all_have_begun(self) -> bool:
        workers = self.living()
        is_full = len(workers) == len(self.working) * self.workers
        return is_full and all(self._begun[worker].done() for worker in workers)

    def _who_hears_whom(self) -> str:
        told = []
        for host, workers in self.working.items():
            for worker in workers[:1]:
                with suppress(Exception):
                    heard = together([worker], "ages")[0]
                    told.append(f"{host} hears { ({name: round(age, 1) for name, age in heard.items()}) }")
        return "; ".join(told)


@dataclass(frozen=True)
class Result:
    """What a campaign came to."""

    seed: int
    network: str
    kind: str
    hosts: int
    workers: int
    seconds: float
    faults: dict[str, int]
    lives: int
    current_after: float  # s, after all was healed, and all had begun
    counts: dict[str, int]
    waits: list[float]  # s, of each receipt that was waited for
    waited_out: int  # receipts that did not wait for some host any longer
    violations: list[dict[str, Any]]
    alarms: list[str]
    story: str
    evidence: Path | None
    least_reads: float  # per second
    least_hits: float
    details: dict[str, str] = field(default_factory=dict)  # further figures

    @property
    def hit_rate(self) -> float:
        """The share of reads that did not load. A page loads its parts, too, so there may be more loads than reads."""
        return max(0.0, 1 - self.counts["loads"] / max(1, self.counts["reads"]))

    def complaints(self) -> list[str]:
        """Why this run is a failure; nothing if it is none."""
        kinds = Counter(each["what"] for each in self.violations)
        found = [f"{count} {what}" for what, count in sorted(kinds.items())]
        if self.alarms:
            found.append(f"{len(self.alarms)} lines that nobody may log")
        if self.counts["reads"] < self.least_reads * self.seconds:
            found.append(f"hardly anything was read: {self.counts['reads']:,} times")
        if self.hit_rate < self.least_hits:
            found.append(f"only {self.hit_rate:.1%} of the reads were hits")
        return found

    def table(self) -> str:
        """The figures, the verdict, and the story if there is one."""
        counts, waits = self.counts, sorted(self.waits) or [0.0]
        kinds = Counter(each["what"] for each in self.violations)
        middle, high = waits[len(waits) // 2], waits[int(0.99 * (len(waits) - 1))]
        rows = {
            "seed": self.seed,
            "hosts, workers": f"{self.hosts} as {self.network}, {self.workers} on each; {self.lives} processes in all",
            "cache": self.kind,
            "seconds": f"{self.seconds:.0f}",
            "faults": _listed(self.faults),
            "reads judged": f"{counts['reads']:,}, of them {counts['async_reads']:,} in tasks",
            "hits": f"{self.hit_rate:.2%}, {counts['loads']:,} loads",
            "writes": _listed({name: counts[f"by_{name}"] for name in ("key", "tag", "namespace")}),
            "receipts": f"{counts['complete']:,} complete, {counts['prompt']:,} in 0.1 s; {counts['excused']:,} not; "
            f"{self.waited_out:,} waited a host out",
            "a receipt": f"median {1000 * middle:.1f} ms, p99 {1000 * high:.0f} ms, longest {waits[-1]:.2f} s",
            "current again": f"{self.current_after:.2f} s after all was healed, and all had begun",
            **self.details,
            "stale, late, torn": ", ".join(str(kinds[what]) for what in ("stale", "late", "torn")),
            "verdict": "; ".join(self.complaints()) or "passed",
        }
        lines = [f"{name:<18} {value}" for name, value in rows.items()]
        lines += self.alarms[:10]
        if self.violations:
            shown = [f"{each}"[:2000] for each in self.violations[:5]]
            lines += ["", *shown, "", self.story, f"all of it is in {self.evidence}"]
        return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return f"{sum(counts.values()):,}: " + ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def run(
    seed: int, *, seconds: float, hosts: int = 3, workers: int = 4, longest: float = 8.0, kind: str = "colocache",
    loopback: bool = False, by_name: bool = False, hang: float = HANG, least_reads: float = 100.0,
    least_hits: float = 0.0, faults: list[Fault] | None = None, keep: bool = True,
) -> Result:  # fmt: skip
    """One campaign. Raise AssertionError if something hangs, or the hosts do not become current again.

    ``faults`` instead of those of the seed. With ``keep``, what the processes of a failure wrote is kept.
    """
    net: Network = Loopback(hosts) if loopback or why_not() else Namespaces(hosts)
    with net:
        names = [host.name for host in net.hosts]
        campaign = Campaign(net, seed, workers, kind, hang, by_name)
        planned = timeline(seed, seconds, names, longest) if faults is None else faults
        return conduct(
            campaign, seed, lambda: campaign.harm(planned, seconds), least_reads=least_reads, least_hits=least_hits,
            keep=keep,
        )  # fmt: skip


def conduct(
    campaign: Campaign, seed: int, course: Callable[[], object], *, least_reads: float = 100.0, least_hits: float = 0.0,
    keep: bool = True,
) -> Result:  # fmt: skip
    """Begin a campaign, have its course run, recover, and judge. Raise AssertionError if something hangs."""
    began = monotonic()
    try:
        campaign.begin()
        course()
        campaign.recover()
        violations, history, alarms = campaign.board.violations(), campaign.board.history(), campaign.alarms()
        told = story(history, violations[0], campaign.log()) if violations else ""
        receipts = [line for line in history if line["what"] == "is told" and line["waits"]]
        return Result(
            seed, campaign.net.kind, campaign.kind, len(campaign.net.hosts), campaign.workers, monotonic() - began,
            dict(campaign.faults), campaign.lives, campaign.current_after, campaign.board.sums(),
            [line["seconds"] for line in receipts], sum(bool(line["waited_out"]) for line in receipts), violations,
            alarms, told, campaign.keep(seed) if keep and (violations or alarms) else None, least_reads, least_hits,
            campaign.details,
        )  # fmt: skip
    except AssertionError as error:
        campaign.abort()  # and so have them say what they do
        kept = campaign.keep(seed) if keep else None
        raise AssertionError(f"{error}\n{campaign.log()[-20_000:]}\nall of it is in {kept}") from None
    finally:
        campaign.close()


def main(arguments: list[str]) -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(prog="campaign.py", description="Cut, kill and stop several hosts; judge reads.")
    parser.add_argument("--seconds", type=float, default=60.0, help="of faults")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--hosts", type=int, default=3, help="2 at least")
    parser.add_argument("--workers", type=int, default=4, help="processes on each host")
    parser.add_argument("--longest", type=float, default=8.0, help="s; how long a fault lasts, at most")
    parser.add_argument("--cache", choices=["colocache", "one region", *KINDS], default="colocache")
    parser.add_argument("--dns", action="store_true", help="hosts find each other by a name, which is wrong at times")
    parser.add_argument("--loopback", action="store_true", help="no namespaces, even where they can be made")
    options = parser.parse_args(arguments)
    if options.hosts < 2:
        parser.error("--hosts must be 2 at least")
    print(f"seed {options.seed}", flush=True)
    if options.dns and (options.loopback or why_not()):
        parser.error(f"--dns needs network namespaces: {why_not() or 'these are not used with --loopback'}")
    if why_not() and not options.loopback:
        print(f"hosts are loopback addresses, because {why_not()}", flush=True)
    hits = 0.3 if options.cache in ("colocache", "one region") else 0.0
    result = run(
        options.seed, seconds=options.seconds, hosts=options.hosts, workers=options.workers, longest=options.longest,
        kind=options.cache, loopback=options.loopback, by_name=options.dns, least_hits=hits,
    )  # fmt: skip
    print(result.table(), flush=True)
    return bool(result.complaints())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
