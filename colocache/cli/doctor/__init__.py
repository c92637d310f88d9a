"""``colocache doctor``: what is wrong with a group, or with what is around it, and what to do. It joins nothing."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from ..exits import FINE, WRONG, Failure
from ..options import add_group
from ..output import Output, count
from ..target import Target, hosts_seen, look
from . import limits, memory, network, others, surroundings
from .finding import Check, Finding, Situation

if TYPE_CHECKING:
    from ...hosts import HostInfo
    from ..options import Commands

#: What is looked at, in this order, and what that is about.
CHECKS: Final[Mapping[str, Check]] = {
    "settings": surroundings.variables,
    "directory": surroundings.directory,
    "files": memory.files,
    "clock": memory.clock,
    "who is there": others.presence,
    "processes": others.states,
    "joining": others.joining,
    "bus": others.hearing,
    "who cannot join": others.outside,
    "what differs": others.settings,
    "room": memory.room,
    "limits": limits.memory,
    "counters": memory.counted,
    "settings about hosts": network.settings,
    "other hosts": network.reach,
}

_ABOUT = """\
Look for what is wrong: the settings, the runtime directory, the files, the clock, memory and descriptors, versions, who
cannot see whom, what differs between processes, other hosts. Each finding says what to do. The exit status is 1 if
there are errors or warnings. Run it as the user of the workers, with their environment; as root it sees more.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("doctor", help="look for what is wrong, and say what to do", description=_ABOUT)
    add_group(parser)
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Carry the command out."""
    output, target = Output(as_json=chosen.json, plain=chosen.plain), Target.of(chosen, os.environ)
    found = list(examine(target, os.environ))
    trouble = [each for each in found if each.is_trouble]
    if output.as_json:
        output.record({
            "group": target.group, "path": target.path, "checked": list(CHECKS),
            "findings": [asdict(each) for each in found],
        })  # fmt: skip
    else:
        for each in found:
            output.line(f"{each.level}: {each.name}: {each.text}")
            output.line(f"    do: {each.remedy}")
        output.line(
            f"looked at {', '.join(CHECKS)}: {count(len(trouble), 'trouble')} in the group {target.group!r}, "
            f"{target.path}"
        )
    return WRONG if trouble else FINE


def examine(target: Target, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Return what is found."""
    situation = Situation(target, environ)
    hosts = _look(situation)
    for check in CHECKS.values():
        yield from check(situation)
    yield from network.known(situation, hosts)


def _look(situation: Situation) -> list[HostInfo]:
    """Read what the processes show of themselves, if their memory can be read, and return the hosts that they know."""
    from ..stats import of_host

    try:
        with look(situation.target) as observer:
            situation.hosts_known = observer.hosts is not None
            situation.stats = of_host(observer)
            return hosts_seen(observer, situation.environ)
    except Failure:  # the checks find out why
        return []
