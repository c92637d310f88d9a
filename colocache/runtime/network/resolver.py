"""Looks an item of ``COLOCACHE_PEERS`` up: a name in DNS, a service in SRV records, a file on the disk.

All of it blocks, a name for a minute or more where no name server answers, so it belongs in a thread of its own.

The system's own `getaddrinfo` is used, past the patches of gevent and others: it asks whatever the system is configured
for, and gevent's would make a hub in this thread. SRV records need dnspython, because the system has no call for them.
"""

from __future__ import annotations

import _socket
import errno
import importlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from ...errors import ConfigError
from ..files import Descriptor
from ..waiting.threads import is_patched
from .answers import Absent, Answer, Failed, Found
from .peers import Item, Lines, ListFile, Name, Service, parse_lines, target, usable

MAX_FILE: Final = 1 << 20  # bytes
SRV_PATIENCE: Final = 20.0  # s for the SRV records of one name, with all name servers and search domains
_LONGEST_WHY: Final = 300  # letters: a name server has a say in it
_NO_SUCH_FILE: Final = (errno.ENOENT, errno.ENOTDIR)
#: What `getaddrinfo` raises where a name is known not to be there, or to have no address. Some systems lack some.
_NO_SUCH_NAME: Final = tuple(getattr(_socket, f"EAI_{why}", None) for why in ("NONAME", "NODATA", "ADDRFAMILY"))
_FAMILIES: Final = (_socket.AF_INET, _socket.AF_INET6)
_MOST_WITHOUT: Final = 4096  # names that are remembered to have no addresses of one family

#: Leave out IPv6 addresses where this machine has none itself: they would count as hosts that do not answer. Elsewhere
#: than on Linux this flag has hidden names where only the loopback interface is up.
_FLAGS: Final = _socket.AI_ADDRCONFIG if sys.platform == "linux" else 0

#: Called as `socket.getaddrinfo` with host, port, family, type, protocol and flags, for what that returns and raises.
GetAddrInfo = Callable[[str, int, int, int, int, int], Iterable[tuple[Any, ...]]]


def require_what_is_needed(items: Iterable[Item]) -> None:
    """Raise ConfigError if SRV records are listed and dnspython is not installed.

    Call it before `Resolver` is called in other threads. It imports dnspython if SRV records are or may be listed, as
    by a file, and a thread that imports it would be in the way of a fork, and of gevent.
    """
    for item in items:
        if isinstance(item, Service):
            _dnspython(item)
        elif isinstance(item, ListFile):
            _import_dnspython()


class Resolver:
    """Looks items up. It raises nothing of its own, and any number of threads may call it at once."""

    def __init__(
        self,
        getaddrinfo: GetAddrInfo = _socket.getaddrinfo,
        name_servers: Sequence[str] | None = None,
        port: int = 53,
        srv_patience: float = SRV_PATIENCE,
    ) -> None:
        """``name_servers`` are IP addresses, asked at ``port`` for SRV records. None are those of the system.

        ``srv_patience`` is in seconds.
        """
        self._getaddrinfo = getaddrinfo
        self._name_servers = name_servers
        self._port = port
        self._srv_patience = srv_patience
        self._without: set[tuple[Name, int]] = set()  # the families that a name is known not to have

    def __call__(self, item: Item) -> Answer:
        """Return what an item lists now. This may block for long."""
        if isinstance(item, Name):
            return self._name(item)
        if isinstance(item, Service):
            return self._service(item)
        if isinstance(item, ListFile):
            return _file(item.path)
        return Found((item.address,))

    def _name(self, item: Name) -> Answer:
        found = self._entries(item, _socket.AF_UNSPEC)
        if isinstance(found, Absent | Failed):
            return found
        wrong = self._what_is_missing(item, found)
        addresses = (usable(each[4][0], item.port) for each in found)
        kept = tuple(dict.fromkeys(address for address in addresses if address is not None))
        return Found(kept, wrong) if kept or wrong else Absent("it has no address that a host can have")

    def _entries(self, item: Name, family: int) -> list[tuple[Any, ...]] | Absent | Failed:
        try:
            return [*self._getaddrinfo(item.name, item.port, family, _socket.SOCK_STREAM, 0, _FLAGS)]
        except _socket.gaierror as error:
            return (Absent if error.errno in _NO_SUCH_NAME else Failed)(_why(error.strerror or error))
        except (OSError, UnicodeError) as error:
            return Failed(_why(error))

    def _what_is_missing(self, item: Name, found: list[tuple[Any, ...]]) -> str:
        """Return why addresses of one family may be missing, or an empty text. Add those that come late.

        glibc (measured with 2.41) says nothing of it if the server fails for one family and answers for the other. So
        a family that is missing is asked for alone: the first time, and when it was there the last time.
        """
        for family in _FAMILIES:
            if any(each[0] == family for each in found):
                self._without.discard((item, family))
            elif (item, family) not in self._without:
                alone = self._entries(item, family)
                if isinstance(alone, Failed):
                    return alone.why
                if isinstance(alone, Absent):
                    if len(self._without) >= _MOST_WITHOUT:
                        self._without.clear()
                    self._without.add((item, family))
                else:
                    found.extend(alone)
        return ""

    def _service(self, item: Service) -> Answer:
        try:
            dns = _dnspython(item)
        except ConfigError as error:  # of a file's line
            return Failed(str(error))
        try:
            # Made anew each time, because the system's configuration may have changed.
            resolver = dns.resolver.Resolver(configure=self._name_servers is None)
            if self._name_servers is not None:
                resolver.nameservers = [*self._name_servers]
                resolver.port = self._port
            answer = resolver.resolve(item.name, "SRV", search=True, lifetime=self._srv_patience)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer) as error:
            return Absent(_why(error))
        except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
            return Failed(_why(error))
        records = sorted((each.priority, -each.weight, each.port, each.target.to_text()) for each in answer)
        named = (target(name, port) for _, _, port, name in records)
        hosts = tuple(dict.fromkeys(host for host in named if host is not None))
        return Lines(hosts) if hosts else Absent("its SRV records name no host")


def _file(path: str) -> Answer:
    try:
        content = _read(path)
    except OSError as error:
        return (Absent if error.errno in _NO_SUCH_FILE else Failed)(_why(error.strerror or error))
    except ValueError as error:
        return Failed(_why(error))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Failed(f"it is not UTF-8 text: {_why(error)}")
    return parse_lines(text)


def _read(path: str) -> bytes:
    # A pipe would block without O_NONBLOCK. Links are followed: Kubernetes mounts files as links, which it replaces.
    file = Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    try:
        if not stat.S_ISREG(os.fstat(file.number).st_mode):
            raise ValueError("it is not a plain file")
        content = b""
        while part := os.read(file.number, MAX_FILE + 1 - len(content)):
            content += part
    finally:
        file.close()
    if len(content) > MAX_FILE:
        raise ValueError(f"it has more than {MAX_FILE} bytes")
    return content


def _dnspython(item: Service) -> Any:
    """Return the package `dns`, with `dns.resolver`. Raise ConfigError if it is not installed."""
    dns = _import_dnspython()
    if dns is None:
        raise ConfigError(
            f"the peer {item} needs dnspython to look SRV records up, and it is not installed: pip install "
            "'colocache[srv]'; or list names that have addresses, as in shop-peers.default.svc:7400"
        )
    return dns


def _import_dnspython() -> Any:
    if is_patched():
        # gevent imports modules for the first hub of the process. If a thread made it while this one does, each could
        # wait for the other one's import.
        sys.modules["gevent"].get_hub()
    try:
        importlib.import_module("dns.resolver")
        return importlib.import_module("dns")
    except ImportError:
        return None


def _why(error: object) -> str:
    """Return an error as one line of limited length."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST_WHY else f"{text[: _LONGEST_WHY - 1]}…"
