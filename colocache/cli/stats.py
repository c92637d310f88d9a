"""``colocache stats``: what the processes of a group have counted."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from .exits import FAILED, FINE, NOBODY, Failure
from .options import add_group, add_namespace
from .output import Output, Page, Table, count, duration, share, size
from .target import Target, has_settings_of_hosts, look, visit

if TYPE_CHECKING:
    from ..group_stats import GroupStats, HostStats, SpaceStats
    from ..runtime.observer import Observer
    from .options import Commands

BY: Final = ("group", "host", "process", "namespace", "function")
TIMEOUT: Final = 1.0  # s that other hosts have to answer, each time
PATIENCE: Final = 4.0  # s that they are asked again and again: this process has only just begun to dial them

COLUMNS: Final = (
    ">reads", ">found", ">hits", ">shelf", ">waits", ">loads", ">failed", ">missing", ">load time", ">95 % within",
    ">saved", ">sets", ">invalidated", ">evicted",
)  # fmt: skip


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "stats",
        help="show what the processes of a group have counted",
        description="Show what the processes of a group have counted since they have joined. In a group of several "
        "hosts, others are asked where COLOCACHE_LISTEN or COLOCACHE_PEERS, and the secret, are set as for the "
        "workers; "
        "otherwise this host is shown alone.",
    )
    add_group(parser)
    add_namespace(parser, "only of this namespace, and those below it")
    parser.add_argument(
        "--by",
        choices=BY,
        default="group",
        help="one row for each (default: %(default)s). A function is a decorated one",
    )
    parser.add_argument("--here", action="store_true", help="show this host alone, and join nothing")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Carry the command out."""
    output = Output(as_json=chosen.json, plain=chosen.plain)
    target = Target.of(chosen, os.environ)
    found, alone = gathered(target, output, chosen.here)
    rows = rows_of(found, chosen.by, chosen.namespace)
    if output.as_json:
        output.record({
            "group": target.group, "by": chosen.by, "namespace": chosen.namespace, "silent": found.silent,
            "this_host_only": alone, "hosts": [_shelf_record(host) for host in found.hosts],
            "rows": [{**names, **record(space)} for names, space in rows],
        })  # fmt: skip
    else:
        output.page(_page(found, chosen.by, rows))
        if alone:
            output.warn("this is a group of several hosts, and only this one is shown: set COLOCACHE_LISTEN or "
                        "COLOCACHE_PEERS, and the secret, as for the workers")  # fmt: skip
    if not any(host.alive for host in found.hosts):
        raise Failure(NOBODY, f"no process of the group {target.group!r} lives: all were killed, and had counted this")
    if found.silent:
        raise Failure(FAILED, f"these hosts have not answered: {', '.join(found.silent)}")
    return FINE


def gathered(target: Target, output: Output, here: bool) -> tuple[GroupStats, bool]:
    """Return what was counted, and whether there are other hosts of which nothing is known."""
    from ..group_stats import GroupStats

    can_ask = has_settings_of_hosts(os.environ) and not here
    try:
        with look(target) as observer:
            has_hosts = observer.hosts is not None
            if not (can_ask and has_hosts):
                return GroupStats((of_host(observer),)), has_hosts and not here
    except Failure as failure:
        if failure.status != NOBODY or not can_ask:
            raise
    with visit(target, os.environ, output) as visitor:
        ends = monotonic() + PATIENCE
        found: GroupStats = visitor.run(lambda cache: cache.group_stats(TIMEOUT))
        while found.silent and monotonic() < ends:
            found = visitor.run(lambda cache: cache.group_stats(TIMEOUT))
        if visitor.is_client:
            return replace(found, hosts=found.hosts[1:]), False
        mine = found.hosts[0]
        others = tuple([each for each in mine.processes if each.seat != visitor.seat])
        return replace(found, hosts=(replace(mine, processes=others), *found.hosts[1:])), False


def of_host(observer: Observer) -> HostStats:
    """Return what the processes of this host have counted, as its memory has it."""
    from ..group_stats import Board, host_stats

    sizes = observer.shelf.entries(), observer.shelf.taken(), observer.geometry.capacity
    with observer.view() as view:
        return host_stats("", True, Board(view.scoreboard(), sizes))


Rows = list[tuple[dict[str, Any], "SpaceStats"]]


def rows_of(found: GroupStats, by: str, namespace: str) -> Rows:
    """Return what each row is about, by the names of what tells the rows apart, and its figures."""
    from ..core.keys import within
    from ..group_stats import together

    def chosen(spaces: Mapping[str, SpaceStats]) -> list[SpaceStats]:
        return [space for path, space in spaces.items() if within(path, namespace)]

    if by == "group":
        return [({}, together(chosen(found.spaces)))]
    if by == "host":
        return [({"host": host.name}, together(chosen(host.spaces))) for host in found.hosts]
    if by == "process":
        return [
            (
                {"host": host.name, "seat": each.seat, "pid": each.pid, "role": each.role, "alive": each.is_alive},
                together(chosen(each.spaces)) if namespace else each.total,
            )
            for host, each in found.processes
            if each.is_alive or each.pid
        ]
    spaces = [(path, space) for path, space in found.spaces.items() if within(path, namespace)]
    spaces.sort(key=lambda item: -item[1].reads)
    return [({by: path}, space) for path, space in spaces if by == "namespace" or ":" in path]


def record(space: SpaceStats) -> dict[str, Any]:
    """Return the figures of a row, for programs."""
    return {
        **space.counters, "reads": space.reads, "hit_ratio": space.hit_ratio, "load_time": space.load_time,
        "load_time_p95": _finite(space.load_quantile(0.95)), "saved_seconds": space.saved,
        "load_times": list(space.load_times),
    }  # fmt: skip


def _finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else seconds


def _shelf_record(host: HostStats) -> dict[str, Any]:
    return {
        "host": host.name, "processes": len(host.alive), "shelf_entries": host.shelf_entries,
        "shelf_bytes": host.shelf_bytes, "shelf_capacity": host.shelf_capacity,
    }  # fmt: skip


def cells(space: SpaceStats) -> tuple[str, ...]:
    """Return the figures of a row, for people, in the order of `COLUMNS`."""
    of = space.counters
    whole = [str(int(of[name])) for name in ("hits", "fetches", "waits", "loads", "failed_loads", "misses")]
    return (
        str(space.reads), share(space.hit_ratio), *whole, duration(space.load_time) if space.timed_loads else "",
        duration(space.load_quantile(0.95)) if space.timed_loads else "", duration(space.saved) if space.saved else "",
        str(int(of["sets"])), str(int(of["invalidations"])), str(int(of["evictions"])),
    )  # fmt: skip


def _page(found: GroupStats, by: str, rows: Rows) -> Page:
    lines = []
    for host in found.hosts:
        name = f"host {host.name}: " if host.name else ""
        lines.append(
            f"{name}{count(len(host.alive), 'process', 'processes')}; shelf: {host.shelf_entries} values, "
            f"{size(host.shelf_bytes)} of "
            f"{size(host.shelf_capacity)}"
        )
    names = list(rows[0][0]) if rows else [by]
    table = Table("", (*names, *COLUMNS), [(*_texts(about, by), *cells(space)) for about, space in rows])
    return Page(lines, (table,))


def _texts(about: Mapping[str, Any], by: str) -> list[str]:
    texts = {name: "yes" if each is True else "no" if each is False else str(each) for name, each in about.items()}
    return [label(text) if name == by == "namespace" else text for name, text in texts.items()]


def label(path: str) -> str:
    """Return the name of a namespace as people see it."""
    return {"": "(none)", "/": "(all others)"}.get(path, path)
