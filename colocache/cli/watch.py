"""``colocache watch``: what is invalidated on a host, as it happens. It joins nothing."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Final

from .entries import event_line, event_record
from .exits import FINE, NOBODY, Failure
from .options import add_group
from .output import Output
from .target import Target, look, pause

if TYPE_CHECKING:
    from ..runtime.observer import Observer
    from .options import Commands

LOOK_EVERY: Final = 0.2  # s
LOOK_FOR_A_GROUP: Final = 0.5  # s, where it has ended

_ABOUT = """\
Print what processes of this host invalidate, as it happens, until Ctrl-C: the time, the process, and the key, tag or
namespace. What another host has invalidated is not among it. Each process shows its last 128 calls, so of very many
within a fifth of a second some are left out.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("watch", help="print what is invalidated, as it happens", description=_ABOUT)
    add_group(parser)
    parser.add_argument("--recent", action="store_true", help="begin with what was invalidated lately")
    parser.add_argument("--once", action="store_true", help="print what was invalidated lately, and end")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Carry the command out, until it is interrupted."""
    output, target = Output(as_json=chosen.json, plain=chosen.plain), Target.of(chosen, os.environ)
    observer, is_first = look(target), True
    while True:
        with observer:
            if not output.as_json and not chosen.once:
                output.warn(f"watching {observer.path}, until Ctrl-C")
            _watch(observer, output, not (is_first and not (chosen.recent or chosen.once)), chosen.once)
        if chosen.once:
            return FINE
        output.warn("the last process of the group has left: waiting for the next one")
        observer, is_first = _next(target), False


def _watch(observer: Observer, output: Output, recent: bool, once: bool) -> None:
    """Print the events until the region has ended."""
    from ..inspection import info_of_event

    after: dict[int, int] = {}
    while True:
        with observer.view() as view:
            for _, event in view.events(after):
                if recent:
                    info = info_of_event(view, event)
                    if output.as_json:
                        output.record(event_record(info))
                    else:
                        output.line(event_line(info))
        output.flush()
        recent = True
        if once or not observer.is_alive:
            return
        pause(LOOK_EVERY)


def _next(target: Target) -> Observer:
    while True:
        try:
            return look(target)
        except Failure as failure:
            if failure.status != NOBODY:
                raise
        pause(LOOK_FOR_A_GROUP)
