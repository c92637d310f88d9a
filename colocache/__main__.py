"""The command ``colocache``, which is also ``python -m colocache``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .runtime.network.secret import new_secret


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of the command line, and return the status with which the process is to exit."""
    parser = argparse.ArgumentParser(prog="colocache", description="Helps to run applications with colocache.")
    commands = parser.add_subparsers(required=True, metavar="command")
    secret = commands.add_parser(
        "secret",
        help="print a new secret for a group",
        description="Print a new secret for the hosts of a group. This version joins the processes of one host only, "
        "and needs none: it is for the version that joins several hosts.",
    )
    secret.set_defaults(run=_secret)
    chosen = parser.parse_args(arguments)
    return int(chosen.run())


def _secret() -> int:
    print(new_secret())
    return 0


if __name__ == "__main__":
    sys.exit(main())
