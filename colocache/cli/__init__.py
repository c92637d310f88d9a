"""The command ``colocache``, which is also ``python -m colocache``: each module has a command, or related ones.

What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from . import bench, completion, dashboard, doctor, entries, invalidate, members, server, stats, top, watch
from .exits import FAILED, INTERRUPTED, MEANINGS, UNREAD, Failure
from .options import EXPLAINED, Parser
from .output import Nowhere, close_quietly, safe

#: In the order in which they are listed.
COMMANDS = (members, stats, top, entries, invalidate, watch, dashboard, doctor, bench, server, completion)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    statuses = "\n".join([f"  {status:<4} {text.replace('`', '')}" for status, text in MEANINGS.items()])
    whole = Parser(
        prog="colocache",
        description="Looks into a group of colocache, and operates it.",
        epilog=f"exit status:\n{statuses}",
        formatter_class=EXPLAINED,
    )
    commands = whole.add_subparsers(required=True, metavar="command", dest="command")
    for each in COMMANDS:
        each.add(commands)
    whole.set_defaults(parser=whole)  # for what completes its options
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of the command line, and return the status with which the process is to exit.

    For the main thread. What goes wrong is one line on stderr. Of a bad command line, and of ``--help``, SystemExit is
    raised, as argparse does.
    """
    sys.stdout, sys.stderr = sys.stdout or Nowhere(), sys.stderr or Nowhere()  # somebody may have closed them
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # of somebody who has put something else there
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    chosen = parser().parse_args(arguments)
    try:
        status = int(chosen.run(chosen))
        sys.stdout.flush()
    except Failure as failure:
        status = failure.status
        _say(chosen.command, failure)
    except BrokenPipeError:
        close_quietly()
        return UNREAD
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        status = FAILED
        _say(chosen.command, error)
    return status


def _say(command: str, error: Exception) -> None:
    try:
        sys.stdout.flush()
    except OSError:  # nobody reads it, or there is no room for it: Python would complain of that once more at its end
        close_quietly()
    with contextlib.suppress(BrokenPipeError):
        print(f"colocache {command}: {safe(' '.join(str(error).split()))}", file=sys.stderr)
