"""The server of ``colocache dashboard``: a thread for each connection, and limits to what these can cost."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from ..interruptions import raise_if_from_handler
from .application import Application
from .history import EVERY
from .interfaces import as_wsgi
from .source import Blind

MOST: Final = 32  # connections at a time; a further one waits
PATIENCE: Final = 10.0  # s for a client that sends or takes nothing

Address = tuple[str, int]


class _Handler(WSGIRequestHandler):
    """Serves one request of a connection. It says nothing of its version, and logs nothing."""

    timeout = PATIENCE
    server_version = "colocache"
    sys_version = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests have names of keys in them."""

    def address_string(self) -> str:
        """Return the address: a name would have to be asked for."""
        return str(self.client_address[0])


class _Responder(ServerHandler):
    server_software = "colocache"


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: Address, family: int) -> None:
        self.address_family = family
        self._room = threading.BoundedSemaphore(MOST)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without asking for the name of this host, which can take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone; what else goes wrong is shown."""
        import sys

        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Server:
    """A dashboard that is served here. As a context manager it ends at the end."""

    def __init__(self, application: Application, address: Address) -> None:
        """Listen. Raise OSError if the address cannot be had."""
        family, _, _, _, found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self._application = application
        self._server = _Server((str(found[0]), int(found[1])), family)
        self._server.set_app(as_wsgi(application))
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="colocache dashboard", daemon=True)

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._server.server_name, self._server.server_port

    def serve(self) -> None:
        """Serve until `stop`."""
        self._sampler.start()
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Have `serve` return. Any other thread may call it."""
        self._ended.set()
        self._server.shutdown()

    def close(self) -> None:
        """Listen no more."""
        self._ended.set()
        self._server.server_close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sample(self) -> None:
        """Look regularly, so that the curves go on while nobody asks."""
        while not self._ended.wait(EVERY):
            with contextlib.suppress(Blind):
                self._application.model.picture()


def is_loopback(name: str) -> bool:
    """Tell whether only this host can reach an address."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError as error:
        raise_if_from_handler(error)
        return name == "localhost"


def names_of(address: Address) -> list[str]:
    """Return by which names a browser asks for an address."""
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return ["localhost", "127.0.0.1", "[::1]", host] if is_loopback(address[0]) else [host]
