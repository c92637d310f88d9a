"""The command ``colocache``, which is also ``python -m colocache``.

What a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import dashboard_command
from .config import SERVER_SETTINGS, server_options
from .errors import ConfigError

PING_BY_DEFAULT = "127.0.0.1:7401"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of the command line, and return the status with which the process is to exit."""
    parser = argparse.ArgumentParser(prog="colocache", description="Helps to run applications with colocache.")
    commands = parser.add_subparsers(required=True, metavar="command")
    secret = commands.add_parser(
        "secret",
        help="print a new secret for a group",
        description="Print a new secret for the hosts of a group. Put it into a file that only their user can read, "
        "and set COLOCACHE_SECRET_FILE on all of them. A group of one host needs none.",
    )
    secret.set_defaults(run=_secret)
    _add_serve(commands)
    ping = commands.add_parser(
        "ping",
        help="ask a server whether it lives",
        description="Ask a server (colocache serve --health) whether it lives. The exit status is 0 if it does.",
    )
    health = SERVER_SETTINGS["health"]
    ping.add_argument(
        "--health", metavar="HEALTH", help=f"where it answers ({health.variable}; default: {PING_BY_DEFAULT})"
    )
    ping.set_defaults(run=_ping)
    dashboard_command.add(commands)
    chosen = parser.parse_args(arguments)
    return int(chosen.run(chosen))


def _secret(chosen: argparse.Namespace) -> int:
    from .runtime.network.secret import new_secret

    print(new_secret())
    return 0


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command whose options are those of the table of settings."""
    serve = commands.add_parser(
        "serve",
        help="keep the memory of this host while no worker runs",
        description="Join a group as a process that only keeps the memory of this host: it loads nothing and needs no "
        "code of the application. It stays until SIGTERM or SIGINT. Each option wins over its variable.",
        allow_abbrev=False,  # or --secret, which is no option, would be taken for --secret-file, and be shown
    )
    for name, (option, setting) in server_options().items():
        default = setting.default_in_words or setting.default
        text = f"{setting.meaning} ({setting.variable}; default: {default})".replace("%", "%%")
        serve.add_argument(option, dest=name, metavar=option.removeprefix("--").upper(), help=text)
    serve.set_defaults(run=_serve)


def _serve(chosen: argparse.Namespace) -> int:
    from .serve import run

    given = {name: text for name in server_options() if (text := getattr(chosen, name)) is not None}
    return run(given, os.environ)


def _ping(chosen: argparse.Namespace) -> int:
    from .runtime.health import ask

    setting = SERVER_SETTINGS["health"]
    try:
        if chosen.health is not None:
            address = setting.read(chosen.health, "--health")
        else:
            address = setting.from_environ(os.environ) or setting.read(PING_BY_DEFAULT, "the default")
    except ConfigError as error:
        print(f"colocache ping: {error}", file=sys.stderr)
        return 2
    assert isinstance(address, tuple)
    wrong = ask(address, "/livez")
    if wrong:
        print("colocache ping: the server at {}, port {}: {}".format(*address, wrong), file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
