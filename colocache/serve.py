"""The command ``colocache serve``: a process of the group that is there only to be there.

It keeps the memory of the host while all workers end and others begin. It has no code of the application: it loads
nothing, and never looks into a value.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from time import monotonic
from types import FrameType

from .config import SERVER_SETTINGS, SETTINGS, Config, server_options
from .errors import ConfigError
from .host import Host
from .member import Member
from .runtime.health import Health
from .runtime.notify import Supervisor
from .runtime.waker import Waker

REFUSED = 2  # the exit status of a server that cannot start

LOOK_EVERY = 1.0  # s between two looks whether newcomers still find this process
ALIVE_WITHIN = 2.0  # s in which the thread that hears the others has to take a turn


class Server(Member):
    """A process that keeps the memory of its host, and uses none of it."""

    _has_begun = False

    def begin(self) -> Host:
        """Join, and return the host. Raise what keeps this process from joining."""
        self.start()
        self._has_begun = True
        host = self.own_host()
        assert host is not None  # `start` has raised otherwise
        return host

    def _tell_joining(self, outcome: Host | Exception | None) -> None:
        if self._has_begun or not isinstance(outcome, Exception):  # the first time, `begin` raises it
            super()._tell_joining(outcome)

    def look(self) -> None:
        """Join anew if newcomers do not find this process any more: somebody may have deleted the files."""
        host = self.join()
        if host is not None and not self.is_found_on(host):
            self.join()

    def lives(self) -> bool:
        """Tell whether the thread that hears the others does its work.

        A server that is not joined lives: to end it would help nobody, and it tries again every second.
        """
        host = self.own_host()
        return host is None or not host.alive or host.answers(ALIVE_WITHIN)

    def is_ready(self) -> bool:
        """Tell whether this process is of use to others: it is joined, and they find it.

        In a group of several hosts, this host is established, too, which it stays. It need not be current: otherwise
        one host that is silent would have all others taken for unready.
        """
        host = self.own_host()
        return host is not None and host.is_in_place() and (host.hosts is None or host.hosts.is_established)


class _Signals:
    """SIGTERM and SIGINT. The first of them asks for the end, and a second one is the end.

    The handler is needed for the second one, too: the kernel ignores a signal to the first process of a container
    unless that process handles it.
    """

    def __init__(self) -> None:
        self.have_come = False
        self._waker = Waker()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self.have_come:
            os._exit(128 + number)
        self.have_come = True
        self._waker.wake()

    def wait(self, seconds: float) -> None:
        """Wait for a signal."""
        select.select([self._waker.source], [], [], seconds)


def run(given: Mapping[str, str], environ: Mapping[str, str]) -> int:
    """Carry out the command until a signal ends it, and return the status with which the process is to exit.

    ``given`` are the options on the command line, by the names of their settings. They win over ``environ``. For the
    main thread.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.captureWarnings(True)
    signals = _Signals()  # before joining: whoever is told to end leaves in order
    with contextlib.ExitStack() as ends:
        try:
            config, address = _settings(given, environ)
            server = Server(config, None)
            ends.callback(server.close)
            host = server.begin()
            health = _health(address, server, signals)
        except (OSError, ConfigError, MemoryError, ImportError) as error:
            print(f"colocache serve: {_in_words(error)}", file=sys.stderr)
            return REFUSED
        if health is not None:
            ends.callback(health.stop)
        supervisor = Supervisor(environ)
        _say_ready(config, host, health)
        _tell(server, supervisor, "READY=1")
        _stay(server, signals, supervisor)
        _tell(server, supervisor, "STOPPING=1")
    return 0


def _settings(given: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Config, tuple[str, int] | None]:
    """Return the settings of the cache, and the address of the health server. Raise ConfigError."""
    options = server_options()
    read = {name: options[name][1].read(text, options[name][0]) for name, text in given.items()}
    own = {name: read.pop(name, None) for name in SERVER_SETTINGS}
    if "group" not in read and not environ.get("COLOCACHE_GROUP", "").strip():
        raise ConfigError("the server has no group: give --group shop, or set COLOCACHE_GROUP=shop")
    config = Config.resolve({**read, "memory": 1 << 20, "role": "server"}, environ)  # the least: it keeps nothing near
    for name in ("disabled", "private"):
        if getattr(config, name):
            raise ConfigError(f"{SETTINGS[name].variable} is set, and such a cache needs no server: unset it here")
    address = own["health"] or SERVER_SETTINGS["health"].from_environ(environ)
    assert address is None or isinstance(address, tuple)
    return config, address


def _in_words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _health(address: tuple[str, int] | None, server: Server, signals: _Signals) -> Health | None:
    if address is None:
        return None
    checks: dict[str, Callable[[], bool]] = {
        "/livez": server.lives,
        "/readyz": lambda: not signals.have_come and server.is_ready(),
    }
    health = Health(address, checks)
    try:
        health.start()
    except OSError as error:
        host, port = address
        raise ConfigError(f"COLOCACHE_HEALTH, or --health: nobody can listen at {host}, port {port}: {error}") from None
    return health


def _say_ready(config: Config, host: Host, health: Health | None) -> None:
    text = f"colocache serve: ready: group {config.group}, seat {host.region.seat.number}, {host.region.path}"
    if health is not None:
        text += ", health at {}, port {}".format(*health.address)
    with contextlib.suppress(AttributeError, OSError, ValueError):  # nobody listens
        os.write(sys.stdout.fileno(), f"{text}\n".encode(errors="backslashreplace"))  # leaves nothing in a buffer


def _tell(server: Server, supervisor: Supervisor, state: str) -> None:
    try:
        supervisor.tell(state)
    except OSError as error:
        server.log.warning("systemd cannot be told %s: %s", state, error, event="systemd_unreachable")


def _stay(server: Server, signals: _Signals, supervisor: Supervisor) -> None:
    """Look every second whether all is well, and tell the supervisor as often as it wants. Return after a signal."""
    every, watched_at = supervisor.watches_every, monotonic()
    pause = LOOK_EVERY if every is None else min(LOOK_EVERY, every / 2)
    while not signals.have_come:
        server.look()
        if every is not None and monotonic() >= watched_at:
            watched_at += every / 2
            if server.lives():
                _tell(server, supervisor, "WATCHDOG=1")
        signals.wait(pause)
