"""What a process is told about the other hosts of its group: checked, and in the form that the sockets need."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.hosts.rows import MAX_NAME
from ...errors import ConfigError
from . import addresses
from .addresses import parse_listen, refuse_plain
from .peers import Address, Item, Literal, parse_peers
from .secret import Secret, read_secrets
from .wire import told_address

INTERVAL = 5.0  # s
FORGET_AFTER = 30.0  # s


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of the network thread. No secret is in its repr."""

    group: str
    name: str  # of this host
    listen: addresses.Address | None  # None: this host is a client
    peers: Sequence[Item] = ()
    interval: float = INTERVAL  # s between two lookups of each
    secrets: Sequence[Secret] = ()  # mine first; none: without encryption, on loopback only
    advertise: Address | None = None  # where others find this host, if that is not to be found out
    forget_after: float = FORGET_AFTER  # s that an address that is listed, and never answers, counts as a host
    is_preferred: bool = False  # as the gateway of its host
    release: str = ""  # of this package


def settings_of(
    *,
    group: str,
    listen: str | None,
    peers: str | None,
    interval: float,
    secret: str | None,
    secret_file: str | None,
    host: str | None,
    advertise: str | None,
    is_preferred: bool,
    is_client: bool,
) -> Settings:
    """Return the settings in their checked form, each from the text of its variable; None is not given.

    Raise ConfigError if the file with the secret cannot be used, or if the settings do not fit together.
    """
    secrets = read_secrets(secret, secret_file)
    if is_client:
        return _of_a_client(group, listen, peers, interval, secrets, host)
    if listen is None:
        raise ConfigError(
            f"COLOCACHE_PEERS={peers} lists other hosts, and this one listens nowhere, so they could not reach it: set "
            "COLOCACHE_LISTEN to an address of this host and a port, such as 0.0.0.0:7400. A host that owns nothing, "
            "and only asks others, needs none: set COLOCACHE_ROLE=client"
        )
    address = parse_listen(listen)
    refuse_plain(address, secrets)
    return Settings(
        group=group, name=host or _own_name(), listen=address, peers=parse_peers(peers or ""), interval=interval,
        secrets=secrets, advertise=told_address(advertise or ""), is_preferred=is_preferred,
    )  # fmt: skip


def _of_a_client(
    group: str, listen: str | None, peers: str | None, interval: float, secrets: Sequence[Secret], host: str | None
) -> Settings:
    if listen is not None:
        raise ConfigError(
            f"COLOCACHE_LISTEN={listen} and COLOCACHE_ROLE=client do not fit together: a client dials other hosts, and "
            "listens nowhere. Unset one of them"
        )
    if peers is None:
        raise ConfigError(
            "COLOCACHE_ROLE=client says that other hosts keep everything for this one, and none is listed: set "
            "COLOCACHE_PEERS to their addresses, such as cache1:7400,cache2:7400"
        )
    items = parse_peers(peers)
    plain = [each for each in items if isinstance(each, Literal) and not each.address.is_loopback]
    if plain and not secrets:
        raise ConfigError(
            f"COLOCACHE_PEERS={peers} lists other hosts, and the group has no secret: set COLOCACHE_SECRET_FILE, or "
            "COLOCACHE_SECRET, to the same secret as there"
        )
    return Settings(group=group, name=host or _own_name(), listen=None, peers=items, interval=interval, secrets=secrets)


def _own_name() -> str:
    """Return the name that the system gives this host. Raise ConfigError if it cannot be used."""
    name = socket.gethostname()
    if not name or len(name.encode("utf-8", "replace")) > MAX_NAME or not name.isprintable():
        raise ConfigError(
            f"the system calls this host {name!r}, which cannot be used: set COLOCACHE_HOST to another name"
        )
    return name
