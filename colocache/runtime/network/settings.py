"""What a process is told about the other hosts of its group: checked, and in the form that the sockets need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import addresses
from .peers import Address, Item
from .secret import Secret

INTERVAL = 5.0  # s


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
    is_preferred: bool = False  # as the gateway of its host
    release: str = ""  # of this package
