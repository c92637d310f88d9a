"""``colocache dashboard``: serve the dashboard of a group on this host, without joining it."""

from __future__ import annotations

import argparse
import os
import signal
import stat
import sys
import threading
from typing import TYPE_CHECKING, Final

from ..config import SERVER_SETTINGS
from ..errors import ConfigError
from ..interruptions import raise_if_from_handler
from .exits import BAD_USE, FAILED, FINE, Failure
from .options import EXPLAINED
from .target import Target

if TYPE_CHECKING:
    from ..dashboard.server import Server
    from .options import Commands

BY_DEFAULT: Final = "127.0.0.1:7420"

ABOUT: Final = """\
Serve a page that shows what the processes of a group do on this host: what is cached, what that saves, what was
invalidated. It reads their memory, joins nothing, and shows no values. Without --token-file it changes nothing, and
listens on this host alone. With one, a browser is asked for the token, and whoever has it may invalidate.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "dashboard", help="serve a page that shows a group in a browser", description=ABOUT, formatter_class=EXPLAINED
    )
    parser.add_argument("--group", metavar="GROUP", help="the group (COLOCACHE_GROUP)")
    parser.add_argument("--dir", metavar="DIR", help="the runtime directory of its processes (COLOCACHE_DIR)")
    parser.add_argument(
        "--listen", metavar="ADDRESS", default=BY_DEFAULT, help=f"where it listens (default: {BY_DEFAULT})"
    )
    parser.add_argument(
        "--token-file", metavar="PATH",
        help="a file with the token that browsers are asked for, and nobody else may read",
    )  # fmt: skip
    parser.add_argument(
        "--name", metavar="NAME", action="append", default=[],
        help="a name by which browsers ask for it, beside the address; repeatable",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Carry ``dashboard`` out."""
    from ..dashboard.application import Application
    from ..dashboard.server import Server, is_loopback, names_of
    from ..dashboard.source import OfObserver

    target = Target.of(chosen, os.environ)
    try:
        address = SERVER_SETTINGS["health"].read(chosen.listen, "--listen")
        token = None if chosen.token_file is None else read_token(chosen.token_file)
    except ConfigError as error:
        raise Failure(BAD_USE, str(error)) from None
    assert isinstance(address, tuple)
    if token is None and not is_loopback(address[0]):
        raise Failure(
            BAD_USE,
            f"--listen={chosen.listen}: other hosts could look at the dashboard, and nobody would be asked for a "
            "token. Give --token-file, or listen on 127.0.0.1 and let a proxy or `ssh -L` bring others there",
        )
    is_everywhere = address[0] in ("0.0.0.0", "::")
    hosts = None if is_everywhere and not chosen.name else [*names_of(address), *chosen.name]
    application = Application(OfObserver(target.group, target.directory), token, hosts)
    try:
        server = Server(application, address)
    except OSError as error:
        raise_if_from_handler(error)
        raise Failure(FAILED, f"--listen={chosen.listen} cannot be used: {error}") from None
    with server:
        _end_by_signals(server)
        host, port = server.address
        print(f"colocache dashboard: http://{f'[{host}]' if ':' in host else host}:{port}/", flush=True)
        if not is_loopback(address[0]):
            print("colocache dashboard: this is plain HTTP: put a proxy with TLS in front", file=sys.stderr, flush=True)
        server.serve()
    return FINE


def _end_by_signals(server: Server) -> None:
    """Have SIGTERM and SIGINT end the server, also before it has begun to serve."""

    def stop(*_: object) -> None:
        threading.Thread(target=server.stop, daemon=True).start()  # it waits for this thread

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def read_token(path: str) -> str:
    """Return the token in a file. Raise ConfigError if it cannot be read or used, or if others may read it."""
    from ..dashboard.sessions import MOST, checked_token

    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(MOST + 64)
    except OSError as error:
        raise_if_from_handler(error)
        raise ConfigError(f"--token-file={path} cannot be read: {error.strerror or error}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise ConfigError(f"--token-file={path} is open to others: chmod 600 {path}")
    try:
        return checked_token(text.decode("ascii", "replace").strip(), f"--token-file={path}")
    except ValueError as error:
        raise_if_from_handler(error)
        raise ConfigError(str(error)) from None
