"""What is drawn for a history of several hosts."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

#: See the module `verification.hosts.simulate` for what they are.
KINDS = (
    "calm", "cuts", "gateways", "joiners", "losses", "ends", "forgetting", "writes", "weak", "all", "clients",
    "copies",
)  # fmt: skip

PING, LEASE, FORGET_AFTER = 0.2, 0.6, 2.4  # s

#: Fault → how often, by kinds.
FAULTS: dict[str, dict[str, int]] = {
    "calm": {},
    "cuts": {"cut": 6},
    "gateways": {"cut": 3, "kill_gateway": 3, "stop_gateway": 3, "stop": 1, "aim": 6},
    "joiners": {"cut": 3, "spawn": 1, "boot": 4, "kill": 1, "aim": 2},
    "losses": {"cut": 2, "crash": 3, "aim": 1},
    "ends": {"cut": 2, "leave": 3, "empty": 2, "crash": 1, "aim": 1},
    "forgetting": {"cut": 5, "kill": 1, "stop": 1, "crash": 1, "aim": 4},
    "writes": {"cut": 2, "kill": 2, "stop": 2, "kill_gateway": 1, "aim": 2},
    "weak": {"cut": 2, "kill_gateway": 1, "stop_gateway": 1, "boot": 1},
    "all": {
        "cut": 4, "kill": 1, "stop": 1, "kill_gateway": 2, "stop_gateway": 2, "spawn": 1, "crash": 1, "leave": 1,
        "empty": 1, "boot": 1, "aim": 4,
    },
    "clients": {
        "cut": 4, "kill": 1, "stop": 1, "kill_gateway": 2, "stop_gateway": 2, "spawn": 1, "crash": 1, "leave": 1,
        "empty": 1, "boot": 2, "aim": 4,
    },
    "copies": {
        "cut": 4, "kill": 1, "stop": 3, "kill_gateway": 1, "stop_gateway": 2, "crash": 1, "leave": 1, "boot": 2,
        "aim": 4,
    },
}  # fmt: skip

RESTARTS = ("boot", "crash", "leave")  # faults after which other hosts own keys for a while


class Plan(NamedTuple):
    """What is drawn for a history."""

    seed: int
    kind: str
    weak: bool
    hosts: int
    workers: int  # of each host
    end: float  # s: when the faults end, and the network is well again
    over: float  # s: when the history is over
    pace: float
    late: float
    holds: float
    ages: float
    loss: float
    rate: float  # operations of a thread in a second
    forgets: bool
    certified: float  # the chance that the end of a host that crashes is known
    late_hosts: int  # that boot after the others
    faults: tuple[str, ...]
    load_timeout: float  # s
    things: str  # what is invalidated: "keys", or "all kinds"
    writes: bool
    clients: int  # how many of the hosts are clients, the last ones
    copies: bool  # whether hosts have copies of what others own

    @property
    def has_stable_owners(self) -> bool:
        """Whether each key has one owner, once all hosts are there."""
        return (self.kind == "writes" or self.copies) and not self.late_hosts and not {*self.faults} & {*RESTARTS}


def draw(seed: int, kind: str) -> Plan:
    """Draw a history of a kind."""
    random = Random(f"{kind} {seed}")
    forgets = kind == "forgetting" or (kind in ("losses", "all", "clients") and random.random() < 0.5)
    end = 9.4 if forgets else random.choice((4.5, 6.4))
    weights = FAULTS[kind]
    faults = tuple(random.choices([*weights], [*weights.values()], k=random.randint(4, 10))) if weights else ()
    weak = kind == "weak" or (kind == "all" and random.random() < 0.1)
    hosts = random.choice((2, 3, 3, 3, 4)) if not forgets else random.choice((3, 3, 3, 4, 5))
    late_hosts = random.randint(1, hosts - 1) if kind == "joiners" else int(random.random() < 0.2)
    clients = random.choice((1, 1, 2)) if kind == "clients" else 0
    if kind == "copies" and random.random() < 0.5:
        faults = tuple([fault for fault in faults if fault not in RESTARTS])
    if kind == "clients":
        weak, late_hosts = random.random() < 0.15, random.choice((0, 0, 1))
    return Plan(
        seed=seed, kind=kind, weak=weak, hosts=hosts + clients, workers=random.choice((2, 3, 3)) if hosts < 4 else 2,
        end=end, over=end + (5.6 if forgets else 2.6), pace=random.choice((5, 15, 40, 120)),
        late=random.choice((0.002, 0.01)),
        holds=random.choice((0.05, 0.3)) if weak else 0.0, ages=random.choice((0.05, 0.3)) if weak else 0.0,
        loss=0.0 if kind == "calm" and random.random() < 0.5 else 0.03, rate=random.choice((5.5, 11.0)),
        forgets=forgets, certified=0.4 if forgets else 1.0, late_hosts=late_hosts, faults=faults,
        load_timeout=0.5, things=random.choice(("keys", "keys", "all kinds")),
        writes=kind == "writes" or (kind in ("all", "clients", "copies") and random.random() < 0.3), clients=clients,
        copies=kind == "copies",
    )  # fmt: skip
