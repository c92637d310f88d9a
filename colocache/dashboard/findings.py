"""What in the figures of a group deserves a look, and what to do about it.

It is what can be read from the scoreboard. `colocache doctor` looks at the system, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ..group_stats import HostStats, SpaceStats
from ..hosts import HostInfo
from . import words

Level = Literal["error", "warning", "note"]

QUIET: Final = 30.0  # s after which a living process that has shown nothing is stopped, or out of breath
FULL: Final = 0.97  # of the shelf
FEW: Final = 200  # reads of a namespace of which nothing is said yet
POOR: Final = 0.2  # a hit ratio that saves little
OFTEN: Final = 0.05  # of the loads, or writes

_ORDER: Final = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth knowing."""

    level: Level
    text: str  # what is so
    remedy: str  # what to do


def findings(now: float, host: HostStats, hosts: Sequence[HostInfo]) -> list[Finding]:
    """Return what is found at some time, in seconds since the epoch. The worst comes first."""
    found = [*_of_processes(now, host), *_of_writes(host), *_of_reads(host), *_of_hosts(hosts)]
    return sorted(found, key=lambda each: _ORDER[each.level])


def _of_processes(now: float, host: HostStats) -> Iterator[Finding]:
    alive = host.alive
    if not alive:
        yield Finding(
            "error", "No process of the group lives on this host: all were killed.",
            "Start the workers. Whoever joins next begins anew.",
        )  # fmt: skip
    quiet = [each for each in alive if now - each.seen > QUIET]
    if quiet:
        pids = ", ".join([str(each.pid) for each in quiet[:6]]) + (" …" if len(quiet) > 6 else "")
        yield Finding(
            "warning", f"{words.plural(len(quiet), 'process has', 'processes have')} shown nothing for "
            f"{words.duration(min([now - each.seen for each in quiet]))}: {pids}.",
            "Is it stopped (SIGSTOP, a debugger), or does one thread keep Python's lock? `colocache doctor` tells.",
        )  # fmt: skip
    versions = sorted({each.version for each in alive if each.version})
    if len(versions) > 1:
        yield Finding(
            "note", f"The processes run several versions of colocache: {', '.join(versions)}.",
            "That is fine while you deploy. Afterwards, restart those with the old one.",
        )  # fmt: skip
    dead = len(host.processes) - len(alive)
    killed = [each for each in host.processes if not each.is_alive and now - each.seen < 300]
    if len(killed) >= 3:
        yield Finding(
            "warning", f"{len(killed)} of {dead} processes that have ended did so in the last five minutes.",
            "Look into the log of the server: does it recycle workers often, or does the kernel kill them (OOM)?",
        )  # fmt: skip


def _of_writes(host: HostStats) -> Iterator[Finding]:
    total = host.total.counters
    if total["incomplete"]:
        yield Finding(
            "error", f"{words.plural(int(total['incomplete']), 'invalidation was', 'invalidations were')} not complete "
            "when the call returned: another process or host may have served the old value for a moment.",
            "Look into the log for `incomplete`, and at the hosts below.",
        )  # fmt: skip
    if total["busy"]:
        yield Finding(
            "warning", f"{words.plural(int(total['busy']), 'write was', 'writes were')} given up, because another "
            "process held a lock of the shelf for too long.",
            "Is a process stopped, or the machine overloaded?",
        )  # fmt: skip
    if total["oversize"]:
        yield Finding(
            "warning", f"{words.plural(int(total['oversize']), 'value was', 'values were')} too large to be kept.",
            "Cache less in one value, or make COLOCACHE_SHELF larger.",
        )  # fmt: skip
    if host.shelf_capacity and host.shelf_bytes > FULL * host.shelf_capacity:
        yield Finding(
            "note", f"The shelf is full ({words.size(host.shelf_capacity)}): each new value displaces an old one.",
            "If the hit ratio is poor, make COLOCACHE_SHELF larger, or the values smaller.",
        )  # fmt: skip


def _of_reads(host: HostStats) -> Iterator[Finding]:
    total = host.total.counters
    if total["loads"] >= FEW and total["fallbacks"] > OFTEN * total["loads"]:
        yield Finding(
            "warning", f"{words.share(total['fallbacks'] / total['loads'])} of the loads were made without the help of "
            "the cache: it had not joined, or another process's load took too long.",
            "Is COLOCACHE_LOAD_TIMEOUT shorter than your loaders take?",
        )  # fmt: skip
    for path, space in host.spaces.items():
        yield from _of_space(path, space)


def _of_space(path: str, space: SpaceStats) -> Iterator[Finding]:
    counters, called = space.counters, words.space(path)
    if counters["loads"] >= 20 and counters["failed_loads"] > OFTEN * counters["loads"]:
        yield Finding(
            "warning", f"{words.share(counters['failed_loads'] / counters['loads'])} of the loads of {called} raise an "
            "exception.", "The callers get it. Nothing is kept, so each call tries again.",
        )  # fmt: skip
    if space.reads >= FEW and space.timed_loads >= FEW and space.hit_ratio < POOR:
        yield Finding(
            "note", f"{called} finds only {words.share(space.hit_ratio)} of {words.number(space.reads)} reads.",
            "Is its ttl too short, is it invalidated too often, or are its keys read only once?",
        )  # fmt: skip


def _of_hosts(hosts: Sequence[HostInfo]) -> Iterator[Finding]:
    for host in hosts:
        if host.state in ("silent", "forgotten", "behind"):
            yield Finding(
                "warning", f"The host {words.name(host.name)} is {host.state}.",
                "Does it run, and can this host reach it? `colocache doctor` tries.",
            )  # fmt: skip
