"""What a process is told about the other hosts of its group: checked, and in the form that the sockets need."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.hosts.rows import MAX_NAME
from ...errors import ConfigError
from . import addresses
from .addresses import parse_listen, refuse_plain
from .peers import Address, Item, parse_peers
from .secret import Secret, read_secrets
from .wire import told_address

INTERVAL = 5.0  # s
FORGET_AFTER = 30.0  # s


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of the network thread. No secret is in its repr."""

    group: str
    name: str  # of this host
    listen: addresses.Address
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
) -> Settings:
    """Return the settings in their checked form, each from the text of its variable; None is not given.

    Raise ConfigError if the file with the secret cannot be used, or if the settings do not fit together.
    """
    if listen is None:
        raise ConfigError(
            f"COLOCACHE_PEERS={peers} lists other hosts, and this one listens nowhere, so they could not reach it: set "
            "COLOCACHE_LISTEN to an address of this host and a port, such as 0.0.0.0:7400"
        )
    address = parse_listen(listen)
    secrets = read_secrets(secret, secret_file)
    refuse_plain(address, secrets)
    return Settings(
        group=group, name=host or _own_name(), listen=address, peers=parse_peers(peers or ""), interval=interval,
        secrets=secrets, advertise=told_address(advertise or ""), is_preferred=is_preferred,
    )  # fmt: skip


def _own_name() -> str:
    """Return the name that the system gives this host. Raise ConfigError if it cannot be used."""
    name = socket.gethostname()
    if not name or len(name.encode("utf-8", "replace")) > MAX_NAME or not name.isprintable():
        raise ConfigError(
            f"the system calls this host {name!r}, which cannot be used: set COLOCACHE_HOST to another name"
        )
    return name
