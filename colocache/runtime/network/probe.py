"""Whether hosts let in who has the secrets of this one: each is dialled once, and nothing is said.

probe({address: "web2:7400"}, settings, 6.0)[address].trouble
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from time import monotonic
from typing import Final, NamedTuple

import zmq

from .dialling import Line, State
from .keys import group_keys
from .peers import Address
from .settings import Settings
from .wire import LARGEST_DATA

LOOK_EVERY: Final = 50  # ms
QUEUE: Final = 8  # messages: nobody there has anything to say


class Found(NamedTuple):
    """What has come of it."""

    state: State
    trouble: str  #: what is wrong, in words; empty if nothing is


def probe(addresses: Mapping[Address, str], settings: Settings, patience: float) -> dict[Address, Found]:
    """Dial addresses, which people know by names, all at once, and return what is known after so many seconds at most.

    Without a secret those are left out that are not on loopback. Raise ConfigError if there is no encryption.
    """
    keys = [group_keys(secret, settings.group) for secret in settings.secrets] or None
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller, lines = zmq.Poller(), dict[Address, Line]()
    try:
        for address, name in addresses.items():
            if keys is not None or address.is_loopback:
                lines[address] = Line(
                    context, poller, address, name, keys,
                    largest=LARGEST_DATA, queue=QUEUE, chance=random.random, now=monotonic(),
                )  # fmt: skip
        ends = monotonic() + patience
        while monotonic() < ends and any(line.state is State.CONNECTING for line in lines.values()):
            poller.poll(LOOK_EVERY)
            for line in lines.values():
                while line.receive() is not None:
                    pass
                line.look(monotonic())
        return {address: Found(line.state, line.trouble) for address, line in lines.items()}
    finally:
        for line in lines.values():
            with contextlib.suppress(zmq.ZMQError):
                line.close()
        context.destroy(linger=0)
