"""Real Redis and Memcached servers for a benchmark, on ports and sockets of their own.

    with Servers() as servers:
        redis.Redis(unix_socket_path=servers.redis_socket)

They end with the block. Nothing but the sockets is written to disk, and servers that run already are left alone. A
Memcached listens at one place only, so there are two of them. If gunicorn has a stash, it runs too: a table in a
process that a gunicorn master starts, reached over a Unix socket.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

PATIENCE = 10.0  # s; a server must answer by then
PACKAGES = {"redis-server": "redis-server", "memcached": "memcached"}  # program to Debian package

#: The process that holds gunicorn's stash, as a gunicorn master starts it. Here this script is its master.
STASH = """
import os, sys
from gunicorn.config import Config
from gunicorn.dirty import DirtyArbiter
from gunicorn.glogging import Logger
config = Config()
config.set("dirty_workers", 0)
arbiter = DirtyArbiter(config, Logger(config), socket_path=sys.argv[1])
arbiter.ppid = os.getppid()
arbiter.run()
"""


class MissingServer(SystemExit):
    """A program is not installed. A benchmark that does not catch this ends with its text, which says what to do."""


def program(name: str) -> str:
    """Return where a server's program is. Raises MissingServer."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        packages = " ".join(PACKAGES.values())
        raise MissingServer(f"{name} is not installed, and this benchmark compares with it: apt install {packages}")
    return found


def has_stash() -> bool:
    """Return whether gunicorn is installed and has a stash, as it has since version 25."""
    return find_spec("gunicorn") is not None and find_spec("gunicorn.dirty") is not None


def free_port() -> int:
    """Return a TCP port of the loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Servers:
    """A Redis and two Memcacheds, and a stash if wanted. They run until the ``with`` block ends."""

    def __init__(self, *, redis: bool = True, memcached: bool = True, stash: bool = False) -> None:
        """Raise MissingServer if a program that is wanted is not installed. A stash that is missing is left out."""
        self._programs = [program("redis-server")] * redis + [program("memcached")] * memcached
        self._with_redis, self._with_memcached, self._with_stash = redis, memcached, stash and has_stash()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.host = "127.0.0.1"

    def __enter__(self) -> Servers:
        self._directory = Path(tempfile.mkdtemp(prefix="bench"))  # short, for sockets
        self.redis_socket = str(self._directory / "redis")
        self.memcached_socket = str(self._directory / "memcached")
        self.stash_socket = str(self._directory / "stash") if self._with_stash else None
        try:
            if self._with_redis:
                self._start_redis()
            if self._with_memcached:
                self._start_memcached()
            if self.stash_socket:
                self._start(sys.executable, "-c", STASH, self.stash_socket)
                self._await(lambda: _connects(_unix(self.stash_socket or "")), "gunicorn's stash")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    def versions(self) -> dict[str, str]:
        """Return the version of each server, by its program's name."""
        return {Path(path).name: _version(path) for path in dict.fromkeys(self._programs)}

    def empty(self) -> None:
        """Have all servers drop what they hold."""
        if self._with_redis:
            _asked(_unix(self.redis_socket), b"FLUSHALL\r\n")
        if self._with_memcached:
            for connect in (_unix(self.memcached_socket), _tcp(self.host, self.memcached_port)):
                _asked(connect, b"flush_all\r\n")

    def _start_redis(self) -> None:
        self.redis_port = free_port()
        options = {
            "port": str(self.redis_port), "bind": self.host, "unixsocket": self.redis_socket, "unixsocketperm": "700",
            "save": "", "appendonly": "no", "dir": str(self._directory),
        }  # fmt: skip
        self._start(program("redis-server"), *(part for name in options for part in (f"--{name}", options[name])))
        self._await(lambda: _asked(_unix(self.redis_socket), b"PING\r\n") == b"+PONG\r\n", "redis-server")

    def _start_memcached(self) -> None:
        self.memcached_port = free_port()
        user = ("-u", "root") if os.geteuid() == 0 else ()  # because it refuses to run as root otherwise
        start = (program("memcached"), *user, "-I", "4m", "-m", "512")
        self._start(*start, "-l", self.host, "-p", str(self.memcached_port), "-U", "0")
        self._start(*start, "-s", self.memcached_socket, "-a", "700")
        for connect in (_unix(self.memcached_socket), _tcp(self.host, self.memcached_port)):
            self._await(lambda: _asked(connect, b"version\r\n").startswith(b"VERSION"), "memcached")  # noqa: B023

    def _start(self, *command: str) -> None:
        environment = {**os.environ, "TMPDIR": str(self._directory)}
        with (self._directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._directory, env=environment
            )
        self._processes.append(process)

    def _await(self, answers: Callable[[], bool], name: str) -> None:
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                if answers():
                    return
            except OSError:
                if time.monotonic() > ends or any(process.poll() is not None for process in self._processes):
                    words = (self._directory / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{name} does not start:\n{words}") from None
            time.sleep(0.02)

    def _stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self._directory, ignore_errors=True)


def _unix(path: str) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(PATIENCE)
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return connection

    return connect


def _tcp(host: str, port: int) -> Callable[[], socket.socket]:
    return lambda: socket.create_connection((host, port), PATIENCE)


def _connects(connect: Callable[[], socket.socket]) -> bool:
    with connect():
        return True


def _asked(connect: Callable[[], socket.socket], question: bytes) -> bytes:
    with connect() as connection:
        connection.sendall(question)
        return connection.recv(100)


def _version(path: str) -> str:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    words = said.replace("v=", "").split()
    return next((word for word in words if word[:1].isdigit()), said.strip())
