"""Answers to those who ask by HTTP whether a process is well: orchestrators, load balancers, and `colocache ping`.

A thread of its own serves, by asyncio, so a client that is slow, or says nothing, holds up nobody. All that a client
can cost has a limit: the bytes of its request, the time of its connection, and the number of connections.

::

    health = Health(("127.0.0.1", 7401), {"/livez": lives, "/readyz": is_ready})
    health.start()
    ask(("127.0.0.1", 7401), "/livez")
    health.stop()
"""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus

from .waiting.threads import ThreadErrands, be_a_driver

Address = tuple[str, int]  # an IP address, or a name, and a port

LARGEST = 4096  # bytes of the head of a request
MOST = 64  # connections at a time; further ones are closed at once
PATIENCE = 5.0  # s for a whole connection; a check may take two of them
STOPPING = 3.0  # s that `Health.stop` waits for a check that is under way

#: Who listens everywhere is asked at the address of this host that is always there.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Health:
    """A server that answers 200 or 503 for each of its paths, and 404 for all others."""

    def __init__(self, address: Address, checks: Mapping[str, Callable[[], bool]]) -> None:
        """``checks`` are by their paths. Each is called in a thread, may wait, and must not raise."""
        self.address = address
        """Where it listens. Once it has started, port 0 has become one that was free."""
        self._checks = checks
        self._under_way: dict[str, asyncio.Future[bool]] = {}
        self._open = 0
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="colocache health", daemon=True)

    def start(self) -> None:
        """Listen, and answer from now on. Raise OSError if the address cannot be had."""
        try:
            family, _, _, _, address = socket.getaddrinfo(*self.address, type=socket.SOCK_STREAM)[0]
            self._socket = socket.create_server(address[:2], family=family)
            self.address = self._socket.getsockname()[:2]
        except OSError:
            self._loop.close()
            raise
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody any more. Not for its own thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(STOPPING)

    def _run(self) -> None:
        be_a_driver(ThreadErrands())  # checks run in other threads
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._converse, sock=self._socket, limit=LARGEST)
        await self._stopped.wait()
        server.close()  # the end of the loop cancels what is under way

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= MOST:
                async with asyncio.timeout(PATIENCE):
                    writer.write(await self._answer(reader))
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):  # it is slow, or has gone
            writer.transport.abort()
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "Allow: GET, HEAD")
        status = await self._status(path.partition(b"?")[0].decode("latin-1"))
        return _response(status, with_body=method == b"GET")

    async def _status(self, path: str) -> HTTPStatus:
        if path not in self._checks:
            return HTTPStatus.NOT_FOUND
        return HTTPStatus.OK if await self._holds(path) else HTTPStatus.SERVICE_UNAVAILABLE

    async def _holds(self, name: str) -> bool:
        """Carry out a check. Who asks meanwhile gets the same answer, so it never runs twice at once."""
        check = self._under_way.get(name)
        if check is None or check.done():
            check = self._under_way[name] = asyncio.ensure_future(asyncio.to_thread(self._checks[name]))
        return await asyncio.shield(check)


def _response(status: HTTPStatus, *headers: str, with_body: bool = True) -> bytes:
    body = f"{status.phrase.lower()}\n"
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Content-Type: text/plain", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "Connection: close", "", body if with_body else ""]).encode("ascii")


def ask(address: Address, path: str) -> str:
    """Ask a server whether it is well. Return an empty text if it is, and otherwise what is wrong, for people.

    It waits for `PATIENCE` at most for each step.
    """
    host, port = address
    connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host), port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return "" if response.status == HTTPStatus.OK else f"it answers {response.status} {response.reason}"
    except (OSError, http.client.HTTPException) as error:
        return f"it does not answer: {error or type(error).__name__}"
    finally:
        connection.close()
