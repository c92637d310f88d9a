"""``colocache completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from .exits import BAD_USE, FINE, Failure

if TYPE_CHECKING:
    from .options import Commands

SHELLS: Final = ("bash", "zsh", "tcsh")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="print what a shell needs to complete commands and options",
        description="Print a script for a shell. For bash: colocache completion bash > "
        "~/.local/share/bash-completion/completions/colocache. It needs colocache[cli].",
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Carry the command out."""
    try:
        import shtab
    except ImportError:
        raise Failure(
            BAD_USE, "shtab, which writes the script, is not installed: pip install 'colocache[cli]'"
        ) from None
    print(shtab.complete(chosen.parser, shell=chosen.shell))
    return FINE
