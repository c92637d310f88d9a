"""Options that several commands have, and how bad ones are told: in one line."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .exits import BAD_USE

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXPLAINED = argparse.RawDescriptionHelpFormatter


class Parser(argparse.ArgumentParser):
    """A parser that needs one line to say what is wrong, and takes no beginning of an option for the option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, in one line, and exit."""
        from .output import safe

        print(f"{self.prog}: error: {safe(message)} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(BAD_USE)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options that say in which form a command prints."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "--plain", action="store_true", help="print no colours, also to a terminal (they need colocache[cli])"
    )


def add_group(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which group is meant, and those of `add_output`."""
    parser.add_argument("--group", metavar="GROUP", help="the group (COLOCACHE_GROUP)")
    parser.add_argument("--dir", metavar="DIR", help="the runtime directory of its processes (COLOCACHE_DIR)")
    add_output(parser)


def add_namespace(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the option that names a namespace."""
    parser.add_argument("--namespace", "-n", metavar="NAME", default="", help=text)


def add_key_form(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how keys are written. See `colocache.cli.keys`."""
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--literal", "-l", dest="form", action="store_const", const="literal",
        help="KEY is written as Python writes it: \"('user', 7)\"",
    )  # fmt: skip
    forms.add_argument(
        "--call", "-c", dest="form", action="store_const", const="call",
        help="KEY is a call of a decorated function: \"shop.prices:price('tea', 3)\"",
    )  # fmt: skip
    parser.set_defaults(form="text")
