"""The CURVE keys of a group. Any thread may call what is here. Only a gateway imports this module."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from ...errors import ConfigError
from .secret import Secret, derived

OLDEST = (4, 3, 3)  # before it, libzmq could be blocked by those that are not let in (CVE-2020-15166)

_NEEDS = "hosts that join by COLOCACHE_LISTEN or COLOCACHE_PEERS need a libzmq"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A pair of Curve25519 keys, each as the 40 characters of Z85 (ZeroMQ RFC 32)."""

    public: bytes = field(repr=False)  # not shown either: without the server's, nobody begins a handshake
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """What one secret gives all hosts of a group: they bind with the one pair, and dial with the other.

    A pair for each host would prove nothing: whoever has the secret could make all of them.
    """

    server: KeyPair
    client: KeyPair


def require_curve() -> None:
    """Raise ConfigError if the installed libzmq cannot encrypt, or can be blocked by strangers."""
    if zmq.zmq_version_info() < OLDEST:
        version, oldest = zmq.zmq_version(), ".".join(map(str, OLDEST))
        raise ConfigError(f"{_NEEDS} of version {oldest} or later, and pyzmq has {version}: install a newer pyzmq")
    if not zmq.has("curve"):
        raise ConfigError(f"{_NEEDS} with CURVE, and pyzmq's was built without: install pyzmq from its wheel")


@functools.lru_cache(maxsize=8)
def group_keys(secret: Secret, group: str) -> GroupKeys:
    """Return the keys of a group. See `derived` for the time it takes; ConfigError is raised as by `require_curve`."""
    require_curve()

    def pair(use: bytes) -> KeyPair:
        # Any 32 bytes are a secret key: the multiplication sets the bits that must be set (RFC 7748, section 5).
        encoded = z85.encode(derived(secret, group, use))
        return KeyPair(zmq.curve_public(encoded), encoded)

    return GroupKeys(pair(b"curve server"), pair(b"curve client"))
