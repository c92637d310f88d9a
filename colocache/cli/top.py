"""``colocache top``: what a host's processes do at present. It joins nothing."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import sub
from time import monotonic, strftime
from typing import TYPE_CHECKING, Any, Final

from .entries import record as key_record
from .exits import BAD_USE, FINE, Failure
from .options import add_group, add_namespace
from .output import Output, Page, Table, count, duration, plain_lines, rich_table, safe, share, size
from .stats import label, of_host
from .target import Target, look, pause

if TYPE_CHECKING:
    from ..group_stats import HostStats, SpaceStats
    from ..inspection import KeyInfo
    from .options import Commands

INTERVAL: Final = 2.0  # s; processes show what they count about once a second
MOST: Final = 10  # rows of a table

_ABOUT = """\
Show what the processes of this host do at present, anew every two seconds: requests, the share of them that found a
value, loads, the slowest loaders, and the keys that are hit most. q, or Ctrl-C, ends it. Where the output is no
terminal, it is printed once.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("top", help="show requests, hits, loads and hot keys, live", description=_ABOUT)
    add_group(parser)
    add_namespace(parser, "only of this namespace, and those below it")
    parser.add_argument("--interval", metavar="SECONDS", default="2", help="between two looks (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="print it once, and end")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Sample:
    """What was counted, at one moment."""

    at: float  # s, on the monotonic clock
    host: HostStats
    hot: list[KeyInfo]


def run(chosen: argparse.Namespace) -> int:
    """Carry the command out."""
    output, target = Output(as_json=chosen.json, plain=chosen.plain), Target.of(chosen, os.environ)
    interval = _interval(chosen.interval)
    look(target).close()  # before the screen is cleared
    before = sample(target, chosen.namespace)
    if chosen.once or output.as_json or not (sys.stdin.isatty() and output.stream.isatty()):
        pause(interval)
        now = sample(target, chosen.namespace)
        if output.as_json:
            output.record(as_record(target.group, before, now, chosen.namespace))
        else:
            output.page(page(target, before, now, chosen.namespace))
        return FINE
    with _keys() as pressed, _screen(output) as show:
        show(page(target, before, before, chosen.namespace))
        while not pressed(interval):
            now = sample(target, chosen.namespace)
            show(page(target, before, now, chosen.namespace))
            before = now
    return FINE


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise Failure(BAD_USE, f"--interval={text!r} cannot be used: give a number of seconds from 0.1 to 3600")
    return seconds


def sample(target: Target, namespace: str) -> Sample:
    """Look once. The group is opened anew each time, because it may have ended, and begun again."""
    from ..inspection import hot_keys

    with look(target) as observer:
        host = of_host(observer)
        with observer.view() as view:
            return Sample(monotonic(), host, hot_keys(view, MOST, namespace))


# --- What is shown


@dataclass(frozen=True)
class Rate:
    """What happened in a namespace between two samples."""

    path: str
    seconds: float
    space: SpaceStats

    def per_second(self, number: float) -> float:
        """Return how much that is in a second."""
        return number / self.seconds if self.seconds else 0.0


def rates(before: Sample, now: Sample, namespace: str) -> list[Rate]:
    """Return what happened in each namespace, those with most requests first."""
    from ..core.keys import within

    found = []
    for path, space in now.host.spaces.items():
        if within(path, namespace):
            happened = difference(before.host.spaces.get(path), space)
            found.append(Rate(path, now.at - before.at, happened))
    return sorted(found, key=lambda rate: -rate.space.reads)


def difference(before: SpaceStats | None, now: SpaceStats) -> SpaceStats:
    """Return what was counted between two moments. A group that has begun anew meanwhile has counted all of it."""
    from ..group_stats import SpaceStats

    if before is None or any(now.counters[name] < count for name, count in before.counters.items()):
        return now
    counters = {name: number - before.counters[name] for name, number in now.counters.items()}
    return SpaceStats(counters, tuple(map(sub, now.load_times, before.load_times)))


def page(target: Target, before: Sample, now: Sample, namespace: str) -> Page:
    """Return what is shown of two samples."""
    from ..group_stats import together

    all_rates = rates(before, now, namespace)
    total = Rate("", now.at - before.at, together([rate.space for rate in all_rates]))
    host, slow = now.host, slowest(now, namespace)
    lines = [
        f"colocache top  group {target.group}  {strftime('%H:%M:%S')}  "
        f"{count(len(host.alive), 'process', 'processes')}  shelf "
        f"{host.shelf_entries} values, {size(host.shelf_bytes)} of {size(host.shelf_capacity)}",
        f"{total.per_second(total.space.reads):.1f} requests/s  {share(total.space.hit_ratio)} found  "
        f"{total.per_second(total.space.counters['loads']):.1f} loads/s  "
        f"{total.per_second(total.space.counters['invalidations']):.1f} invalidations/s  "
        f"{total.per_second(total.space.counters['failed_loads']):.1f} failed loads/s",
    ]
    return Page(lines, (
        Table(
            "busiest namespaces and functions", ("name", ">requests/s", ">found", ">loads/s", ">load time"),
            [
                (
                    label(rate.path), f"{rate.per_second(rate.space.reads):.1f}", share(rate.space.hit_ratio),
                    f"{rate.per_second(rate.space.counters['loads']):.1f}",
                    duration(rate.space.load_time) if rate.space.timed_loads else "",
                )
                for rate in all_rates[:MOST] if rate.space.reads
            ],
            "no requests",
        ),
        Table(
            "slowest loaders, since the processes have joined", ("name", ">95 % within", ">mean", ">loads", ">time "
            "in all"),
            [
                (
                    label(path), duration(space.load_quantile(0.95)), duration(space.load_time), str(space.timed_loads),
                    duration(space.counters["load_seconds"]),
                )
                for path, space in slow
            ],
            "no loads",
        ),
        Table(
            "hottest keys", ("key", ">hits/s", ">age", ">ttl left", ">size"),
            [
                (info.name, f"{info.hits:.1f}", duration(info.age), duration(info.ttl), size(info.size))
                for info in now.hot
            ],
            "no key is hit",
        ),
    ))  # fmt: skip


def slowest(now: Sample, namespace: str) -> list[tuple[str, SpaceStats]]:
    """Return the namespaces and functions whose loaders take longest."""
    from ..core.keys import within

    loading = [
        (path, space) for path, space in now.host.spaces.items() if space.timed_loads and within(path, namespace)
    ]
    return sorted(loading, key=lambda item: -item[1].load_time)[:MOST]


def as_record(group: str, before: Sample, now: Sample, namespace: str) -> dict[str, Any]:
    """Return the same for programs."""
    from ..group_stats import together

    all_rates = rates(before, now, namespace)
    total = Rate("", now.at - before.at, together([rate.space for rate in all_rates]))
    return {
        "group": group, "seconds": total.seconds, "processes": len(now.host.alive), **_rate_record(total),
        "shelf_entries": now.host.shelf_entries, "shelf_bytes": now.host.shelf_bytes,
        "namespaces": [{"name": rate.path, **_rate_record(rate)} for rate in all_rates[:MOST]],
        "slowest": [
            {"name": path, "load_time": space.load_time, "loads": space.timed_loads}
            for path, space in slowest(now, namespace)
        ],
        "hottest": [key_record(info) for info in now.hot],
    }  # fmt: skip


def _rate_record(rate: Rate) -> dict[str, Any]:
    counters = rate.space.counters
    return {
        "requests_per_second": rate.per_second(rate.space.reads), "hit_ratio": rate.space.hit_ratio,
        "loads_per_second": rate.per_second(counters["loads"]), "load_time": rate.space.load_time,
    }  # fmt: skip


# --- The screen, and the keyboard


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Give a function that waits for some seconds, and tells whether q was pressed meanwhile."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        ends = monotonic() + seconds
        while (left := ends - monotonic()) > 0:
            ready, _, _ = select.select([descriptor], [], [], left)
            if ready and os.read(descriptor, 1) in (b"q", b"Q", b""):
                return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _screen(output: Output) -> Iterator[Callable[[Page], None]]:
    """Give a function that shows a page in place of the one before."""
    if output.is_plain or rich_table(Table("", (), ())) is None:
        yield lambda shown: _draw(output, shown)
        return
    import rich.console
    import rich.live
    from rich.text import Text

    console = rich.console.Console(file=output.stream, highlight=False)

    def drawn(shown: Page) -> rich.console.Group:
        tables = [each for table in shown.tables if (each := rich_table(table)) is not None]
        return rich.console.Group(*[Text(safe(line), "bold") for line in shown.lines], *_apart(tables))

    with rich.live.Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda shown: live.update(drawn(shown), refresh=True)


def _apart(tables: list[Any]) -> Iterator[Any]:
    for table in tables:
        yield ""
        yield table


def _draw(output: Output, shown: Page) -> None:
    """Clear the screen by the two sequences that all terminals know, and print what fits."""
    width, height = shutil.get_terminal_size()
    lines = [safe(line) for line in shown.lines]
    for table in shown.tables:
        lines += ["", *map(safe, plain_lines(table))]
    output.stream.write("\x1b[H\x1b[2J" + "\n".join([line[:width] for line in lines[: height - 1]]) + "\n")
    output.flush()
