"""What a process knows of the hosts of its group. The only place here that asks `cache.hosts` and `cache.members`."""

from __future__ import annotations

import math
import os
from typing import Any

from verification.network.checker import LEASE


def ages(cache: Any) -> dict[str, float]:
    """How old is what this host knows of each host, by its name, in s: of its own 0, of one never heard infinite."""
    own = os.environ.get("COLOCACHE_HOST")
    known = {host.name: host.age for host in cache.hosts()}
    return {name: (0.0 if name == own else math.inf) if age is None else float(age) for name, age in known.items()}


def is_current(cache: Any, hosts: int, within: float = LEASE) -> bool:
    """Whether this host has heard all hosts ``within`` so many seconds. They are so many, itself included."""
    known = ages(cache)
    return len(known) == hosts and all(age < within for age in known.values())


def gateway(cache: Any, host: str) -> int:
    """The pid of the gateway of this process's host; 0 if there is none at the moment, or nobody knows."""
    for member in cache.members():
        if getattr(member, "gateway", False) and getattr(member, "host", host) in (host, None):
            return int(member.pid)
    return 0
