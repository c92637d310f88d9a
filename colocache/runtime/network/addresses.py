"""Where a gateway listens. Pure; any thread may call what is here."""

from __future__ import annotations

import re
from collections.abc import Sized
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from ...errors import ConfigError
from ...interruptions import raise_if_from_handler
from ...naming import shown
from .secret import FILE_VARIABLE, VARIABLE

LISTEN = "COLOCACHE_LISTEN"

_FORM = 'an IP address of this host and a port, such as "0.0.0.0:7400", "[::]:7400" or "10.0.0.7:7400"'
_LONGEST = 100  # characters: an IPv6 address with a zone has fewer
_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<v4>[^\[\]:]+)):(?P<port>[0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address and a port, from 1 to 65535. Its text is as it stands in the variable: ``[::1]:7400``."""

    ip: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}" if self.ip.version == 4 else f"[{self.ip}]:{self.port}"

    @property
    def endpoint(self) -> str:
        """What libzmq binds or connects to."""
        return f"tcp://{self}"

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this host can reach it."""
        # Python 3.13 looks at the IPv4 address in an IPv6 one by itself; older versions do not.
        return ((self.ip.ipv4_mapped if self.ip.version == 6 else None) or self.ip).is_loopback


def parse_listen(text: str) -> Address:
    """Return the address in the value of COLOCACHE_LISTEN. Raise ConfigError if there is none.

    A name is refused: what it stands for could change, from loopback to an address that all the world reaches. ``*`` is
    refused, too: to listen everywhere, write 0.0.0.0 or [::]. And port 0, any free one, could not be found by others.
    """
    text = text.strip()
    match = _ADDRESS.fullmatch(text) if len(text) <= _LONGEST else None
    port = int(match["port"]) if match else 0
    if match is None or not 0 < port < 1 << 16:
        raise _wrong(text)
    try:
        found = ip_address(match["v6"] or match["v4"])
    except ValueError as error:
        raise_if_from_handler(error)
        raise _wrong(text) from None
    if (found.version == 6) != bool(match["v6"]):
        raise _wrong(text)
    return Address(found, port)


def _wrong(text: str) -> ConfigError:
    return ConfigError(f"{LISTEN}={shown(text, 80)} cannot be used: give {_FORM}")


def refuse_plain(listen: Address, secrets: Sized) -> None:
    """Raise ConfigError if a gateway would listen to other hosts without a secret: anybody could come in."""
    if not listen.is_loopback and not secrets:
        raise ConfigError(
            f"{LISTEN}={listen} can be reached from other hosts, and the group has no secret: set {FILE_VARIABLE}, or "
            f"{VARIABLE}, to the same secret on all hosts of the group (`colocache secret` prints a good one), or "
            f"listen on loopback, such as 127.0.0.1:{listen.port}"
        )
