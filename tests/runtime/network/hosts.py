"""Gateways of several hosts in one thread: those that listen answer what they are asked, those that dial ask."""

from __future__ import annotations

import contextlib
import socket as system
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from colocache.runtime.network.addresses import parse_listen
from colocache.runtime.network.curve import Doorkeeper, bind_with
from colocache.runtime.network.dialling import Line
from colocache.runtime.network.keys import GroupKeys, group_keys
from colocache.runtime.network.options import set_options
from colocache.runtime.network.secret import Secret

GROUP = "shop"
PATIENCE = 30.0  # s
LARGEST, QUEUE = 1 << 16, 1000

OLD, NEW, OTHER = (Secret(letter * 43) for letter in "one")


def keys_of(*secrets: Secret) -> list[GroupKeys]:
    """Return the keys of some secrets."""
    return [group_keys(secret, GROUP) for secret in secrets]


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with system.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Gateway:
    """The side that listens. It keeps what it hears, and answers each message with the same."""

    def __init__(self, *secrets: Secret, port: int | None = None, door: bool = True, host: str = "127.0.0.1") -> None:
        self.heard: list[bytes] = []
        self.port = port or free_port()
        self.endpoint = f"tcp://{host}:{self.port}"
        self.context: zmq.Context[Any] = zmq.Context()
        self.poller = zmq.Poller()
        keys = keys_of(*secrets)
        self.door = Doorkeeper(self.context, keys) if door else None
        self.router = self.context.socket(zmq.ROUTER)
        set_options(self.router, largest=LARGEST, queue=QUEUE, chance=0.0)
        bind_with(self.router, keys[0])
        self.router.bind(self.endpoint)
        for each in (self.router, *([self.door.socket] if self.door else [])):
            self.poller.register(each, zmq.POLLIN)

    def step(self) -> None:
        """Let in who may come in, and answer."""
        self.poller.poll(1)
        if self.door:
            self.door.work()
        while self.router.poll(0):
            route, *frames = self.router.recv_multipart()
            self.heard.append(frames[-1])
            with contextlib.suppress(zmq.ZMQError):  # who asked is gone
                self.router.send_multipart([route, *frames])

    def close(self) -> None:
        """Be gone at once."""
        self.context.destroy(linger=0)


class Caller:
    """The side that dials. It asks one question after the other, again and again until there is an answer."""

    def __init__(self, endpoint: str, *secrets: Secret, name: str = "web2:7400") -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.poller = zmq.Poller()
        self.line = Line(
            self.context,
            self.poller,
            parse_listen(endpoint.removeprefix("tcp://")),
            name,
            keys_of(*secrets),
            largest=LARGEST,
            queue=QUEUE,
            chance=lambda: 0.0,
            now=time.monotonic(),
        )
        self.answered = 0
        self.asks = False
        self.troubles: set[str] = set()  # that the line has had
        self._asked_at = -1.0

    def step(self) -> None:
        """Ask, and take answers."""
        self.poller.poll(1)
        while (frames := self.line.receive()) is not None:
            if frames[-1] == b"%d" % self.answered:  # and not the second answer to what was asked twice
                self.answered += 1
                self._asked_at = -1.0
        now = time.monotonic()
        self.line.look(now)
        self.troubles.add(self.line.trouble)
        if self.asks and now - self._asked_at > 0.25 and self.line.send(b"%d" % self.answered):
            self._asked_at = now

    def close(self) -> None:
        """Be gone at once."""
        self.line.close()
        self.context.destroy(linger=0)


def until(condition: Callable[[], object], *parts: Gateway | Caller) -> None:
    """Have all parts work until a condition holds."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends, [(part.line.state, part.line.trouble) for part in parts if _dials(part)]
        for part in parts:
            part.step()


def _dials(part: Gateway | Caller) -> bool:
    return isinstance(part, Caller)


class Cast:
    """All that a test makes, closed at its end."""

    def __init__(self) -> None:
        self._ends: list[Callable[[], object]] = []

    def gateway(self, *secrets: Secret, **more: Any) -> Gateway:
        """Return one that listens."""
        return self._keep(Gateway(*secrets, **more))

    def caller(self, endpoint: str, *secrets: Secret, **more: Any) -> Caller:
        """Return one that dials."""
        return self._keep(Caller(endpoint, *secrets, **more))

    def context(self) -> Any:
        """Return a context of libzmq."""
        made: zmq.Context[Any] = zmq.Context()
        self._ends.append(lambda: made.destroy(linger=0))
        return made

    def _keep(self, made: Any) -> Any:
        self._ends.append(made.close)
        return made

    def closing(self) -> Iterator[Cast]:
        """Yield this, and close everything."""
        try:
            yield self
        finally:
            for end in self._ends:
                end()
