"""Random histories of several hosts: messages get lost, ways are cut, processes and hosts come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from colocache.core.hosts import messages
from colocache.core.hosts.gateway import Times
from colocache.core.hosts.rows import Incarnation
from colocache.core.hosts.rows import Numbers as Positions
from verification.host.machine import Machine, State, Thread, Violation
from verification.hosts.actor import Actor
from verification.hosts.computer import NS, REGION_BYTES, Region, Worker, small_layout
from verification.hosts.items import HOT, ITEMS
from verification.hosts.judge import Judge, Writes
from verification.hosts.network import Network
from verification.hosts.plan import FORGET_AFTER, LEASE, PING, Plan
from verification.hosts.timed import Timed

REGIONS = 24  # in one history at most
MOST_WORKERS = 5  # of a host
HANGS_AFTER = 3.0  # s: no call takes so long

#: What the thread of the network is about to store where something is aimed; what another one is about to store; and
#: what is about to be loaded.
TOLD = tuple([
    f"g_{what}" for what in (
        "told", "stamp", "bell", "applied", "acked", "heard", "until", "met", "marked", "sign", "entry",
    )
])  # fmt: skip
WRITTEN = ("w_record", "w_last", "w_stamp", "w_bell", "w_marked", "w_wake")
LOADED = ("r_until", "r_bell", "r_told", "r_applied", "r_stamp", "r_last", "r_acked")


@dataclass
class Result:
    """What became of a history."""

    seed: int
    kind: str
    violation: str = ""
    is_error: bool = False  # what is wrong is no violation, but an exception
    counts: Counter[str] = field(default_factory=Counter)


class History:
    """One history."""

    living = (State.RUNS, State.STOPPED)

    def __init__(self, plan: Plan, script: Callable[[History], object] | None = None, *, tells: bool = False) -> None:
        """``script`` says what happens, in place of the plan; ``tells`` keeps the story."""
        self.script = script
        self.plan = plan
        self.tells = tells
        self.story: list[str] = []
        self.result = Result(plan.seed, plan.kind)
        self.counts = self.result.counts
        self.random = Random(f"faults {plan.kind} {plan.seed}")
        self.machine = Machine(REGIONS * REGION_BYTES, weak=plan.weak)
        self.policy = Timed(
            Random(f"pace {plan.kind} {plan.seed}"), self.machine, pace=plan.pace, end=plan.over, late=plan.late,
            holds=plan.holds, ages=plan.ages,
        )  # fmt: skip
        self.times = Times(lease=int(LEASE * NS), ping=int(PING * NS), forget_after=int(FORGET_AFTER * NS))
        self.lease = LEASE
        self.judge = Judge(self)
        self.writes = Writes(self.judge, self)
        self.network = Network(self, plan.loss)
        self.clients = {*range(plan.hosts - plan.clients, plan.hosts)}  # these hosts are clients
        self.regions: list[Region | None] = [None] * plan.hosts
        self.regions_of: list[int] = [0] * plan.hosts  # how many there were, by host
        self.past: list[dict[Incarnation, Positions | None]] = [{} for _ in range(plan.hosts)]
        self.regions_made = 0
        self.all_regions: list[Region] = []
        self.index_of: dict[Incarnation, int] = {}
        self.listed: set[int] = set()  # hosts that discovery lists
        self.met_at: dict[tuple[object, int], Incarnation] = {}  # process, host → who answers there
        self.actors: list[Actor] = []
        self.is_quiet = False
        self.lost_wakes = 0.1

    # --- Running

    def go(self) -> Result:
        """Run it."""
        with small_layout():
            try:
                self._plan_all() if self.script is None else self.script(self)
                self.policy.at(self.plan.end, self._be_quiet)
                self.machine.run(self.policy)
                self._finish()
            except Exception as error:
                violated = isinstance(error, Violation)
                self.result.violation = str(error) if violated else f"{type(error).__name__}: {error}"
                self.result.is_error = not violated
                if not violated and self.tells:
                    raise
            finally:
                self.machine.close()
        return self.result

    def tell(self, *words: object) -> None:
        """Add a line to the story."""
        if self.tells:
            self.story.append(" ".join(map(str, (f"{self.machine.clock:9.6f}", *words))))

    def _plan_all(self) -> None:
        plan, random = self.plan, self.random
        for index in range(plan.hosts):
            is_late = index >= plan.hosts - plan.clients - plan.late_hosts and index not in self.clients
            moment = (
                random.uniform(0.5, plan.end - 1.5) if is_late else random.choice((0.01, 0.01, random.uniform(0, 2)))
            )
            self.policy.at(moment, partial(self.boot, index))
        for fault in plan.faults:
            moment = random.uniform(0.6, plan.end - 0.3) if fault == "aim" else random.uniform(1.2, plan.end - 0.3)
            self.policy.at(moment, getattr(self, f"fault_{fault}"))

    def _be_quiet(self) -> None:
        self.is_quiet = True
        self.policy.disarm()
        self.policy.be_quick()
        self.network.heal_all()
        self.tell("all is quiet from now on")

    def _finish(self) -> None:
        clock = self.machine.clock
        for worker in [worker for region in self.all_regions for worker in region.workers if worker.copying]:
            self.counts["pulled"] += worker.copying.copies.pulled
        for region in self.regions:
            if region is not None and not region.until > region.ns():
                until = region.until / 1e9
                raise Violation(f"{region.name} is not current at the end: until {until:.3f}, now {region.clock():.3f}")
        for actor in self.actors:
            if actor.worker.runs and actor.busy_since is not None and actor.busy_since < clock - HANGS_AFTER:
                raise Violation(f"a thread of {actor.worker.name} hangs since {actor.busy_since:.3f}")

    # --- Hosts and processes

    def boot(self, index: int) -> None:
        """Let a host come, as a new incarnation."""
        if self.regions[index] is not None or self.regions_made >= REGIONS:
            return
        id = self.random.randbytes(16)
        region = Region(self, index, id, self.regions_made)
        self.regions_made += 1
        self.regions_of[index] += 1
        self.index_of[id] = index
        if index not in self.clients:
            self.listed.add(index)
        region.dials = self.discovered(index)
        region.must = {*region.dials}
        if index in self.clients:  # nobody dials it, so it has to know all
            region.dials = {*range(self.plan.hosts)} - self.clients
        region.past = [*self.past[index].items()]
        self.regions[index] = region
        self.all_regions.append(region)
        self.tell(region.name, "boots", id.hex()[:8], "must meet", region.must)
        for _ in range(self.plan.workers):
            self.policy.after(self.random.random() * 0.15, lambda: self.spawn(region))
        self.policy.after(0.05, lambda: self.elect(region))

    def discovered(self, index: int) -> set[int]:
        """Return the hosts that discovery lists."""
        return self.listed - {index}

    def spawn(self, region: Region) -> None:
        """Let a process come."""
        if self.regions[region.index] is not region or len(region.alive()) >= MOST_WORKERS:
            return
        worker = Worker(region)
        region.workers.append(worker)
        worker.net = worker.spawn("net", worker.serve_network)
        for number in range(2):
            actor = Actor(worker, Random(f"{self.plan.kind} {self.plan.seed} {worker.name} {number}"))
            self.actors.append(actor)
            worker.spawn(f"t{number}", actor.run, self.random.uniform(0.02, 0.15))
        self.tell(worker.name, "comes")
        self.policy.after(0.002, lambda: self.elect(region))

    def elect(self, region: Region) -> None:
        """Have a gateway, if there is none awake: one that is only stopped may wake later, and then there are two."""
        if self.regions[region.index] is not region:
            return
        if any(worker.is_elected and worker.runs for worker in region.workers):
            return
        candidates = [worker for worker in region.awake() if not worker.is_elected]
        if candidates:
            worker = self.random.choice(candidates)
            worker.is_elected = True
            worker.deliver(worker.become_gateway)
            self.counts["gateways"] += 1
            self.tell(worker.name, "is elected")

    def wake_gateways(self, region: Region) -> None:
        """Have the gateways of a host look at its log. Some do not hear of it."""
        if self.random.random() < self.lost_wakes:
            return
        for worker in region.workers:
            if worker.gateway is not None and worker.process.state in self.living:
                delay = self.random.choice((0.0002, 0.001, 0.004))
                self.policy.after(delay, lambda worker=worker: worker.deliver(worker.look))  # type: ignore[misc]

    def kill(self, worker: Worker, respawn: bool) -> None:
        """Kill a process."""
        region = worker.region
        if worker.process.state not in self.living:
            return
        self.counts["kills"] += 1
        self.tell(worker.name, "is killed")
        self.policy.kill(worker.process, lambda: None)
        self.policy.after(self.random.uniform(0.001, 0.05), lambda: self.elect(region))
        if respawn:
            self.policy.after(self.random.uniform(0.01, 1.0), lambda: self.spawn(region))

    def stop(self, worker: Worker, seconds: float) -> None:
        """Stop a process for a while."""
        if not worker.runs:
            return
        seconds = min(seconds, max(0.01, self.plan.end - self.machine.clock))
        self.counts["stops"] += 1
        self.tell(worker.name, f"is stopped for {seconds:.3f}")
        self.policy.stop(worker.process, seconds)
        self.policy.after(0.3, lambda: self.elect(worker.region))
        self.policy.after(seconds + 2e-6, lambda: self._woken(worker))

    def _woken(self, worker: Worker) -> None:
        if worker.runs:
            self.tell(worker.name, "goes on")
            for number in HOT:
                actor = Actor(worker, self.random)
                worker.spawn(f"w{number}", partial(actor.read, ITEMS[number]))

    def crash(self, region: Region, gap: float, certified: bool) -> None:
        """Let a host end at once, and another incarnation of it boot later."""
        self.counts["crashes"] += 1
        self.tell(region.name, "crashes", "" if certified else "and nobody knows")
        self._end(region)
        if certified:
            self.past[region.index][region.id] = None
        self.policy.after(gap, lambda: self.boot(region.index))

    def _end(self, region: Region) -> None:
        region.is_over = True
        for worker in region.alive():
            self.machine.kill(worker.process)
            self.machine.bury(worker.process)
        self.regions[region.index] = None

    def leave(self, region: Region) -> None:
        """Let the last process of a host say goodbye, once it is alone."""
        alive = region.alive()
        if not alive or self.regions[region.index] is not region:
            return
        for worker in alive[1:]:
            self.machine.kill(worker.process)
            self.machine.bury(worker.process)
        self.counts["goodbyes"] += 1
        self._say_goodbye(alive[0])
        self._end(region)
        self.policy.after(self.random.uniform(0.05, 0.6), lambda: self.boot(region.index))

    def _say_goodbye(self, worker: Worker) -> None:
        region = worker.region
        self.tell(region.name, "says goodbye")
        self.past[region.index][region.id] = worker.log.lasts()
        if worker.gateway is None:
            worker.become_gateway()
        if worker.gateway is not None:
            frame = messages.encode(worker.gateway.goodbye())
            for id in worker.rows.live():
                self.network.to_gateways(region.index, self.index_of[id], frame, None)

    # --- Faults

    def _left(self) -> float:
        return max(0.01, self.plan.end - self.machine.clock)

    def _some_region(self) -> Region | None:
        return self.regions[self.random.randrange(self.plan.hosts)]

    def _some_worker(self, gateway: bool = False) -> Worker | None:
        region = self._some_region()
        if region is None:
            return None
        workers = (region.gateways() if gateway else []) or region.alive()
        return self.random.choice(workers) if workers else None

    def fault_cut(self, most: float = 2.2) -> None:
        """Cut one way, or both; a host from all others, or its lines only; or those of a star or a ring."""
        random, hosts = self.random, self.plan.hosts
        index = random.randrange(hosts)
        other = random.choice([each for each in range(hosts) if each != index])
        shape = random.random()
        ways = [(index, other)]
        if shape < 0.35:
            ways += [(other, index)]
        elif shape < 0.5:
            ways = [(index, each) for each in range(hosts) if each != index]
        elif shape < 0.7:
            ways = [way for each in range(hosts) if each != index for way in ((index, each), (each, index))]
        elif shape < 0.8:  # all hear one only
            ways = [(a, b) for a in range(hosts) for b in range(hosts) if a != b and index not in (a, b)]
        elif shape < 0.85:  # each hears the next one only
            ways = [(a, b) for a in range(hosts) for b in range(hosts) if b not in (a, (a + 1) % hosts)]
        seconds = random.uniform(0.2, most)
        if self.plan.forgets and random.random() < 0.6:
            seconds = random.uniform(3, 7)
        seconds = min(seconds, self._left())
        self.counts["cuts"] += 1
        if shape > 0.94:  # the others do not reach this host, which reaches them
            lines = [(each, index) for each in range(hosts) if each != index]
            self.tell("apart for", f"{seconds:.3f}:", lines)
            self.network.keep_apart(seconds, *lines)
            return
        self.tell("cut for", f"{seconds:.3f}:", ways)
        self.network.cut_for(seconds, *ways)

    def fault_kill(self) -> None:
        """Kill a process."""
        worker = self._some_worker()
        if worker is not None:
            self.kill(worker, respawn=True)

    def fault_kill_gateway(self) -> None:
        """Kill a gateway."""
        worker = self._some_worker(gateway=True)
        if worker is not None:
            self.kill(worker, respawn=True)

    def fault_stop(self) -> None:
        """Stop a process."""
        worker = self._some_worker()
        if worker is not None:
            self.stop(worker, self.random.choice((0.1, 0.4, 0.9, 1.8)))

    def fault_stop_gateway(self) -> None:
        """Stop a gateway, so that there are two when it wakes."""
        worker = self._some_worker(gateway=True)
        if worker is not None:
            self.stop(worker, self.random.choice((0.4, 0.9, 1.8)))

    def fault_spawn(self) -> None:
        """Let one more process come."""
        region = self._some_region()
        if region is not None:
            self.spawn(region)

    def fault_boot(self) -> None:
        """Let a host end, if it is there, and boot again."""
        region = self._some_region()
        if region is not None:
            self.crash(region, self.random.uniform(0.05, 0.8), certified=not self.plan.forgets)

    def fault_crash(self) -> None:
        """Let a host end at once."""
        region = self._some_region()
        if region is not None:
            certified = self.random.random() < self.plan.certified
            self.crash(region, self.random.uniform(0.05, 0.8), certified)

    def fault_leave(self) -> None:
        """Let a host end with a goodbye."""
        region = self._some_region()
        if region is not None:
            self.leave(region)

    def fault_empty(self) -> None:
        """Let no process of a host live for a moment. The region stays."""
        region = self._some_region()
        if region is None:
            return
        for worker in region.alive():
            self.kill(worker, respawn=False)
        self.policy.after(self.random.uniform(0.01, 0.9), lambda: self.spawn(region))
        self.policy.after(self.random.uniform(0.01, 1.2), lambda: self.spawn(region))

    def fault_aim(self) -> None:
        """Kill or stop who comes to some place in the code next."""
        random, plan = self.random, self.plan
        labels = [*TOLD, *WRITTEN, *LOADED] + (["g_forgot"] * 8 if plan.forgets else [])
        index, label = random.randrange(plan.hosts), random.choice(labels)
        if random.random() < 0.4:
            self.aim(index, label, None)
        else:
            self.aim(index, label, random.choice((0.1, 0.4, 0.9, 1.6)))
        if label in TOLD and random.random() < 0.5:
            self.policy.after(random.uniform(0, 0.3), partial(self.fault_cut, 0.6))

    def aim(self, index: int, label: str, seconds: float | None, *more: Callable[[], object]) -> None:
        """Stop who comes to a place in the code of a host next, for so long; None kills. Then do more."""

        def hit(thread: Thread) -> None:
            region = self.regions[index]
            worker = next((each for each in region.workers if each.process is thread.process), None) if region else None
            if worker is None:
                return
            self.counts["aimed"] += 1
            self.tell(f"at {label}:")
            for each in more:
                each()
            if seconds is None:
                self.kill(worker, respawn=True)
            else:
                self.stop(worker, seconds)

        self.policy.arms(index)[label] = hit
