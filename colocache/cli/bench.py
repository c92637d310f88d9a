"""``colocache bench``: what a read costs on this machine, beside a Redis if one is there. It touches no group."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from .exits import BAD_USE, FAILED, FINE, Failure
from .options import add_output
from .output import Output, Page, Table

if TYPE_CHECKING:
    from ..space import Space
    from .options import Commands

ROUNDS: Final = 5
VALUE: Final = {"id": 7, "name": "Darjeeling first flush", "price": 1850, "tags": ["tea", "black"], "stock": True}
REDIS: Final = "127.0.0.1:6379"
PATIENCE: Final = 1.0  # s that Redis has for an answer
FIRST: Final = 200  # calls by which the time of one is estimated

HIT: Final = "hit: an object of this process"
SHELF: Final = "read of what another process has loaded"
SET: Final = "set"
REDIS_GET: Final = "Redis GET, decoded"
REDIS_SET: Final = "Redis SET, encoded"
BESIDE: Final = {HIT: REDIS_GET, SHELF: REDIS_GET, SET: REDIS_SET}  # what each is compared with

_ABOUT = """\
Measure for ten seconds what reads and writes of a small value cost on this machine, in a group of this command's own,
and beside it what they cost by a Redis, if one answers. One process measures, so the figures are latencies, and the
median of five rounds. A machine that does something else meanwhile gives other figures.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench", help="measure this machine for ten seconds, beside a Redis", description=_ABOUT
    )
    add_output(parser)
    parser.add_argument("--seconds", metavar="N", default="10", help="how long to measure (default: %(default)s)")
    parser.add_argument("--redis", metavar="HOST:PORT", default=REDIS, help="where a Redis is (default: %(default)s)")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Carry the command out."""
    output = Output(as_json=chosen.json, plain=chosen.plain)
    seconds, address = _seconds(chosen.seconds), _address(chosen.redis)
    with contextlib.ExitStack() as ends:
        redis = _redis(address, ends)
        steps = {**_of_colocache(ends), **(_of_redis(redis) if redis is not None else {})}
        each = seconds / len(steps)
        found = {name: measured(do, each) for name, do in steps.items()}
    if output.as_json:
        output.record({"seconds": found, "redis": redis is not None})
        return FINE
    beside = ("beside Redis",) if redis is not None else ()
    rows = [
        (
            name,
            f"{1e6 * time:.2f}",
            f"{1 / time:,.0f}",
            *[_beside(time, found.get(BESIDE.get(name, ""))) for _ in beside],
        )
        for name, time in found.items()
    ]
    columns = ("what", ">us", ">per second", *[f">{each}" for each in beside])
    output.page(Page((), (Table("one process, a value of about 100 bytes", columns, rows),)))
    if redis is None:
        output.line(f"no Redis answers at {chosen.redis}")
    return FINE


def _beside(time: float, other: float | None) -> str:
    if other is None:
        return ""
    return f"{other / time:.1f} x faster" if time < other else f"{time / other:.1f} x slower"


def measured(do: Callable[[], object], seconds: float) -> float:
    """Return what one call takes, in seconds: the median of some rounds that take so long together."""
    estimate = max(_timed(do, FIRST) / FIRST, 1e-9)
    calls = max(1, int(seconds / ROUNDS / estimate))
    return median([_timed(do, calls) / calls for _ in range(ROUNDS)])


def _timed(do: Callable[[], object], calls: int) -> float:
    began = perf_counter()
    for _ in range(calls):
        do()
    return perf_counter() - began


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 600:
        raise Failure(BAD_USE, f"--seconds={text!r} cannot be used: give a number from 0.1 to 600")
    return seconds


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and len(port) < 6 and int(port) < 1 << 16):
        raise Failure(BAD_USE, f"--redis={text!r} cannot be used: give an address and a port, such as {REDIS}")
    return host.strip("[]"), int(port)


# --- colocache


def _of_colocache(ends: contextlib.ExitStack) -> dict[str, Callable[[], object]]:
    from ..errors import ConfigError
    from ..runtime.places import base_directory
    from .visitor import Visitor

    directory = tempfile.mkdtemp(prefix="colocache-bench-", dir=os.path.dirname(base_directory(None)))
    ends.callback(shutil.rmtree, directory, ignore_errors=True)
    cache = Visitor("bench", directory=directory, shelf="8MiB", ttl="1h", disabled=False, private=False, listen="",
                    peers="", role="peer")  # fmt: skip
    ends.callback(cache.close)
    try:
        cache.start()
    except (OSError, ConfigError) as error:
        raise Failure(FAILED, f"this machine cannot have a group to measure: {error}") from None
    copies: Space = cache.namespace("copies", copy=True)  # it keeps nothing near, so each read takes the shelf
    for space in (cache, copies):
        space.set("key", VALUE)
        space.get("key")
        space.get("key")

    def miss() -> None:
        cache.invalidate("missing")
        cache.get_or_load("missing", lambda: VALUE)

    return {
        HIT: lambda: cache.get("key"),
        SHELF: lambda: copies.get("key"),
        SET: lambda: copies.set("key", VALUE),
        "invalidate, for all processes": lambda: cache.invalidate("other"),
        "invalidate and load again": miss,
    }


# --- Redis, by its protocol: nothing has to be installed


def _redis(address: tuple[str, int], ends: contextlib.ExitStack) -> Redis | None:
    try:
        redis = Redis(address)
    except OSError:
        return None
    ends.callback(redis.close)
    try:
        return redis if redis.ask(b"PING") == b"PONG" else None
    except (OSError, ValueError):
        return None


class Redis:
    """A connection to a Redis, and a key of its own there."""

    def __init__(self, address: tuple[str, int]) -> None:
        """Raise OSError if nobody is there."""
        self._socket = socket.create_connection(address, PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb")
        self.key = f"colocache:bench:{secrets.token_hex(8)}".encode()

    def ask(self, *words: bytes) -> bytes | None:
        """Return the answer to a command. Raise ValueError if it is an error, and OSError if there is none."""
        parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self._socket.sendall(b"*%d\r\n%s" % (len(words), b"".join(parts)))
        line = self._lines.readline()
        kind, rest = line[:1], line[1:].rstrip()
        if kind == b"$":
            return self._lines.read(int(rest) + 2)[:-2] if rest != b"-1" else None
        if kind not in (b"+", b":"):
            raise ValueError(f"Redis says {line.decode(errors='replace').strip()}")
        return rest

    def close(self) -> None:
        """Delete the key, and hang up."""
        with contextlib.suppress(OSError, ValueError):
            self.ask(b"DEL", self.key)
        self._lines.close()
        self._socket.close()


def _of_redis(redis: Redis) -> dict[str, Callable[[], object]]:
    from ..values.msgpack_codec import MsgpackCodec

    codec = MsgpackCodec()
    payload = codec.encode(VALUE)

    def get() -> Any:
        return codec.decode(redis.ask(b"GET", redis.key) or b"")

    def put() -> None:
        redis.ask(b"SET", redis.key, codec.encode(VALUE), b"EX", b"600")

    redis.ask(b"SET", redis.key, payload, b"EX", b"600")
    return {REDIS_GET: get, REDIS_SET: put}
