"""``colocache serve``, ``ping`` and ``secret``: what a server of the cache needs, and hosts that are to meet."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Final

from ..config import SERVER_SETTINGS, server_options
from ..errors import ConfigError
from .exits import BAD_USE, FINE, WRONG, Failure
from .options import add_output
from .output import Output

if TYPE_CHECKING:
    from .options import Commands

PING_BY_DEFAULT: Final = "127.0.0.1:7401"


def add(commands: Commands) -> None:
    """Add the commands."""
    _add_serve(commands)
    ping = commands.add_parser(
        "ping",
        help="ask a server whether it lives",
        description="Ask a server (colocache serve --health) whether it lives. The exit status is 0 if it does.",
    )
    variable = SERVER_SETTINGS["health"].variable
    ping.add_argument("--health", metavar="HEALTH", help=f"where it answers ({variable}; default: {PING_BY_DEFAULT})")
    add_output(ping)
    ping.set_defaults(run=run_ping)
    secret = commands.add_parser(
        "secret",
        help="print a new secret for a group",
        description="Print a new secret for the hosts of a group. Put it into a file that only their user can read, "
        "and set COLOCACHE_SECRET_FILE on all of them. A group of one host needs none.",
    )
    add_output(secret)
    secret.set_defaults(run=run_secret)


def run_secret(chosen: argparse.Namespace) -> int:
    """Carry ``secret`` out."""
    from ..runtime.network.secret import new_secret

    output, secret = Output(as_json=chosen.json, plain=chosen.plain), new_secret()
    if output.as_json:
        output.record({"secret": secret})
    else:
        output.line(secret)
    return FINE


def _add_serve(commands: Commands) -> None:
    """Add the command whose options are those of the table of settings."""
    serve = commands.add_parser(
        "serve",
        help="keep the memory of this host while no worker runs",
        description="Join a group as a process that only keeps the memory of this host: it loads nothing and needs no "
        "code of the application. It stays until SIGTERM or SIGINT. Each option wins over its variable.",
    )
    for name, (option, setting) in server_options().items():
        default = setting.default_in_words or setting.default
        text = f"{setting.meaning} ({setting.variable}; default: {default})".replace("%", "%%")
        serve.add_argument(option, dest=name, metavar=option.removeprefix("--").upper(), help=text)
    serve.set_defaults(run=run_serve)


def run_serve(chosen: argparse.Namespace) -> int:
    """Carry ``serve`` out."""
    from ..serve import run

    given = {name: text for name in server_options() if (text := getattr(chosen, name)) is not None}
    return run(given, os.environ)


def run_ping(chosen: argparse.Namespace) -> int:
    """Carry ``ping`` out."""
    from ..runtime.health import ask

    output, setting = Output(as_json=chosen.json, plain=chosen.plain), SERVER_SETTINGS["health"]
    try:
        if chosen.health is not None:
            address = setting.read(chosen.health, "--health")
        else:
            address = setting.from_environ(os.environ) or setting.read(PING_BY_DEFAULT, "the default")
    except ConfigError as error:
        raise Failure(BAD_USE, str(error)) from None
    assert isinstance(address, tuple)
    wrong = ask(address, "/livez")
    if output.as_json:
        output.record({"host": address[0], "port": address[1], "alive": not wrong, "why": wrong})
    if wrong:
        raise Failure(WRONG, "the server at {}, port {}: {}".format(*address, wrong))
    return FINE
