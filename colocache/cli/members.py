"""``colocache members``: the processes of a group on this host, and its hosts."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from time import time
from typing import TYPE_CHECKING, Any

from .exits import FINE, NOBODY, Failure
from .options import add_group
from .output import Output, Page, Table, count, duration, size
from .target import Target, gone, hosts_seen, look

if TYPE_CHECKING:
    from .options import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "members",
        help="list the processes of a group, and its hosts",
        description="List the processes of a group on this host, and the hosts of the group. This joins nothing.",
    )
    add_group(parser)
    parser.add_argument("--all", action="store_true", help="those that have ended, too, as far as their seats are free")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Carry the command out."""
    output = Output(as_json=chosen.json, plain=chosen.plain)
    target = Target.of(chosen, os.environ)
    with look(target) as observer:
        from ..core.hosts.rows import Rows
        from ..group_stats import Board, host_stats
        from ..runtime.fences import fences_for

        shelf = observer.shelf
        with observer.view() as view:
            sizes = shelf.entries(), shelf.taken(), observer.geometry.capacity
            found = host_stats("", True, Board(view.scoreboard(), sizes))
        hosts = hosts_seen(observer, os.environ)
        speakers = set[int]()
        if observer.hosts is not None:
            speakers = set(Rows(observer.hosts, fences_for(None, 0)).writers())
        nobody = gone(observer)
    processes = [each for each in found.processes if each.is_alive or (chosen.all and each.pid)]
    if output.as_json:
        rows: list[dict[str, Any]] = [
            {
                "seat": each.seat, "pid": each.pid, "role": each.role, "version": each.version, "alive": each.is_alive,
                "gateway": each.is_alive and each.seat in speakers, "state": state(each.pid) if each.is_alive else "",
                "joined": each.began, "entries": each.entries, "bytes": each.bytes, "memory": each.memory,
            }
            for each in processes
        ]  # fmt: skip
        output.record(
            {"group": target.group, "path": target.path, "processes": rows, "hosts": [asdict(each) for each in hosts]}
        )
    else:
        now = time()
        table = Table(
            f"{count(len(processes), 'process', 'processes')} in {target.path}",
            (">seat", ">pid", "role", "version", "state", ">joined ago", ">near copies", ">of bytes", ">at most"),
            [
                (
                    str(each.seat), str(each.pid), each.role + (" "
                    "(gateway)" if each.seat in speakers else ""), each.version,
                    state(each.pid) if each.is_alive else "ended", duration(max(0.0, now - each.began)),
                    str(each.entries), size(each.bytes), size(each.memory),
                )
                for each in processes
            ],
        )  # fmt: skip
        tables = [table]
        if hosts:
            tables.append(
                Table(
                    count(len(hosts), "host"),
                    ("host", "address", "state", "version", ">owns", ">last word", ">round trip"),
                    [
                        (
                            each.name + (" (this one)" if each.me else ""), each.address, each.state, each.version,
                            size(each.owns), "" if each.age is None else duration(each.age),
                            "" if each.round_trip is None else duration(each.round_trip),
                        )
                        for each in hosts
                    ],
                )
            )  # fmt: skip
        output.page(Page((), tables))
    if nobody:
        raise Failure(NOBODY, f"no process of the group {target.group!r} lives on this host: all were killed")
    return FINE


def state(pid: int) -> str:
    """Return what a process does, as far as this one can see: ``running`` or ``stopped``."""
    from .processes import state_of

    return state_of(pid)
