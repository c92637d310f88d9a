"""A TCP proxy that fails on purpose, and differently from one moment to the next.

    with Proxy(("10.0.0.2", 7400)) as proxy:
        dial(proxy.address)
        proxy.stall("down")  # answers do not come
        proxy.heal()

``up`` is from who dials to the target, ``down`` is the other direction. What a proxy cannot do is to lose a packet:
what it has accepted is acknowledged to the sender, which differs from a cut wire; see `namespaces.py` for that one.

As a process, in a namespace: ``python -m verification.network.proxy ADDRESS PORT TARGET PORT``. It takes commands as
lines of JSON, ``["stall", "down"]``, and answers each with a line; `Remote` sends them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, Literal, TypeVar

T = TypeVar("T")

Direction = Literal["up", "down"]
BOTH: Final[tuple[Direction, Direction]] = ("up", "down")
CHUNK: Final = 1 << 14  # bytes
MOST_UNDER_WAY: Final = 64  # chunks of each direction of a connection, while they are delayed
PATIENCE: Final = 30.0  # s; only a proxy that is broken takes so long
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: who closes sends RST


class Proxy:
    """Passes connections on, in a thread of its own. A context manager; any thread may call it."""

    def __init__(self, target: tuple[str, int], listen: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        """Listen at once, so that `address` is known; connections are accepted once it is entered.

        Raise OSError if the address cannot be had.
        """
        self._target = target
        self._listener: socket.socket | None = _listening(listen, 128)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}  # bytes
        self._ways: dict[Direction, _Way] = {}
        self._is_half_open = False
        self._filler: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._call(self._begin())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections, and the thread. A second call does nothing."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        if self._listener is not None:
            self._listener.close()
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many there are that somebody dialled."""
        return len(self._connections)

    # --- Faults of connections, those that are there and those to come

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Keep everything for so long before it is passed on, in order."""
        for each in _those(direction):
            self._ways[each].delay = seconds

    def limit(self, rate: float | None, direction: Direction | None = None) -> None:
        """Pass on no more than ``rate`` bytes per second, or as many as come."""
        for each in _those(direction):
            self._ways[each].rate = rate

    def stall(self, direction: Direction | None = None) -> None:
        """Pass nothing on, and lose nothing: it is passed on when that ends. Connections are accepted as before."""
        for each in _those(direction):
            self._call(self._ways[each].stall())

    def go_on(self, direction: Direction | None = None) -> None:
        """Stall no more."""
        for each in _those(direction):
            self._call(self._ways[each].go_on())

    def reset(self) -> None:
        """End all connections that are there, with RST to both sides."""
        self._call(self._reset())

    # --- Faults of new connections

    def half_open(self) -> None:
        """Accept new connections, read nothing from them, and say nothing. Those that are there go on."""
        self._is_half_open = True

    def refuse(self) -> None:
        """End all connections with RST, and refuse new ones."""
        self._call(self._refuse())

    def black_hole(self) -> None:
        """Answer no new connection, not even by a refusal, and stall those that are there, both ways."""
        self._call(self._swallow())

    def accept(self) -> None:
        """Accept new connections again, and pass them on. Those that were half-open are reset."""
        self._call(self._accept_again())

    def heal(self) -> None:
        """End all faults."""
        self.delay(0.0)
        self.limit(None)
        self.go_on()
        self.accept()

    # --- In the loop

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _begin(self) -> None:
        self._ways = {each: _Way() for each in BOTH}
        self._accepting = asyncio.create_task(self._serve())

    async def _end(self) -> None:
        await self._stop_listening()
        await self._reset()

    async def _serve(self) -> None:
        assert self._listener is not None
        while True:
            with suppress(ConnectionError):
                client, _ = await self._loop.sock_accept(self._listener)
                connection = _Connection(client, self._ways, self.passed, self._connections.discard)
                self._connections.add(connection)
                if self._is_half_open:
                    connection.is_mute = True
                else:
                    connection.task = asyncio.create_task(connection.run(self._target))

    async def _reset(self) -> None:
        for connection in list(self._connections):
            await connection.reset()

    async def _refuse(self) -> None:
        await self._stop_listening()
        await self._reset()

    async def _swallow(self) -> None:
        """Have the kernel drop what asks for a connection, as it does while nobody accepts, and the queue is full."""
        await self._stop_listening()
        self._listener = _listening(self.address, 0)
        self._filler = socket.socket(socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET)
        self._filler.setblocking(False)
        await self._loop.sock_connect(self._filler, self.address)
        for way in self._ways.values():
            await way.stall()

    async def _accept_again(self) -> None:
        await self._stop_listening()
        if self._filler is not None:
            self._filler.close()
            self._filler = None
            for way in self._ways.values():
                await way.go_on()
        self._is_half_open = False
        for connection in [each for each in self._connections if each.is_mute]:
            await connection.reset()
        self._listener = _listening(self.address, 128)
        self._accepting = asyncio.create_task(self._serve())

    async def _stop_listening(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            with suppress(asyncio.CancelledError):
                await self._accepting
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None


class _Way:
    """What is wrong with one direction of all connections."""

    def __init__(self) -> None:
        self.delay = 0.0  # s
        self.rate: float | None = None  # bytes per second
        self._is_free = asyncio.Event()
        self._is_free.set()

    async def stall(self) -> None:
        self._is_free.clear()

    async def go_on(self) -> None:
        self._is_free.set()

    async def pass_by(self) -> None:
        """Return when nothing is stalled."""
        await self._is_free.wait()


class _Connection:
    """Two sockets, and what goes from one to the other."""

    def __init__(self, client: socket.socket, ways: dict[Direction, _Way], passed: dict[Direction, int], done: Any):
        self._sockets = [client]
        self._ways = ways
        self._passed = passed
        self._done = done
        self.is_mute = False
        self.task: asyncio.Task[None] | None = None

    async def run(self, target: tuple[str, int]) -> None:
        """Pass on until one side has had enough."""
        loop = asyncio.get_running_loop()
        client = self._sockets[0]
        server = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
        server.setblocking(False)
        self._sockets.append(server)
        try:
            await loop.sock_connect(server, target)
            for each in self._sockets:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(client, server, "up"))
                both.create_task(self._pump(server, client, "down"))
        except* OSError:
            self._close(abruptly=True)
        finally:
            self._close(abruptly=False)

    async def _pump(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        """Read, keep, and write; and pass the end on."""
        loop, way = asyncio.get_running_loop(), self._ways[direction]
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MOST_UNDER_WAY)

        async def read() -> None:
            while True:
                data = await loop.sock_recv(source, CHUNK)
                await under_way.put((loop.time() + way.delay, data))
                if not data:
                    return

        async def write() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await way.pass_by()
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(sink, data)
                self._passed[direction] += len(data)
                if way.rate:
                    await asyncio.sleep(len(data) / way.rate)

        async with asyncio.TaskGroup() as both:
            both.create_task(read())
            both.create_task(write())

    async def reset(self) -> None:
        """End it with RST to both sides."""
        # The options before the end of the task, which closes the sockets.
        self._reset_when_closed()
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task
        self._close(abruptly=True)

    def _reset_when_closed(self) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _close(self, *, abruptly: bool) -> None:
        if abruptly:
            self._reset_when_closed()
        for each in self._sockets:
            each.close()
        self._done(self)


class Remote:
    """The faults of a proxy that is another process: its methods, by their names."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """``process`` has pipes for its standard streams, of text. Raise AssertionError if it serves nobody."""
        self._process = process
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said, "the proxy has not begun"
        host, port = json.loads(said)
        self.address: tuple[str, int] = (host, port)

    def do(self, name: str, *arguments: Any) -> None:
        """Call a method of the proxy, and return when it has returned. Raise AssertionError if it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        assert said == "done", f"{name}: {said or 'the proxy has ended'}"


def _listening(address: tuple[str, int], backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _those(direction: Direction | None) -> tuple[Direction, ...]:
    return BOTH if direction is None else (direction,)


def main(host: str, port: str, target: str, target_port: str) -> None:
    """Serve until there are no more commands."""
    with Proxy((target, int(target_port)), (host, int(port))) as proxy:
        print(json.dumps(proxy.address), flush=True)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            try:
                getattr(proxy, name)(*arguments)
                print("done", flush=True)
            except Exception as error:
                print(repr(error), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
