"""How the memory of a host, its protocol and the network thread are put together. Imported only where there are hosts.

The network thread of each process asks other hosts. In one process of the host it runs the protocol, too, and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic, monotonic_ns
from typing import Final, Protocol

from .config import Config
from .core.host.board import Board
from .core.host.claims import Claims
from .core.host.hashes import WRITES as WRITE_BITS
from .core.host.shelf import Shelf
from .core.hosts.copies import Copies
from .core.hosts.event import KEYS, WRITES, Event, Position
from .core.hosts.gateway import Forgetting, Gateway, Meetings
from .core.hosts.offers import Offers
from .core.hosts.owner import Hooks, HostMemory, Owner
from .core.hosts.requests import Reported
from .core.hosts.rows import Host, Incarnation, Row
from .core.hosts.taking import Taker
from .group_stats import Board as StatsBoard
from .group_stats import report
from .hosts import Hosts
from .interruptions import raise_if_from_handler
from .runtime import frames
from .runtime.bus import Bus, Message
from .runtime.logs import Log
from .runtime.network.driver import Network
from .runtime.network.office import Office
from .runtime.region import Region
from .runtime.waiting.threads import Errands
from .version import __version__

OFFER_TIMEOUT: Final = 2.0  # s that another host has to take what it is offered; nobody waits for that
LOOK_FOR_THE_DEAD: Final = 0.5  # s between two looks of the gateway's process at what the dead of its host have left


class Shared(Protocol):
    """What the caches of a process share, as far as other hosts have to do with it; see `colocache.host.Shared`."""

    region: Region
    board: Board
    shelf: Shelf
    claims: Claims
    taker: Taker
    bus: Bus | None

    @property
    def errands(self) -> Errands:
        """Who does for the network thread what is users' code."""

    def now(self) -> float:
        """Return the time of this host, in seconds."""

    def hear(self, message: Message) -> None:
        """Free the memory of what others have changed."""

    def void(self, kind: int, hashes: Sequence[int], related: bool) -> Position | None:
        """Invalidate things; see `colocache.host.Shared.void`."""

    def stats_board(self) -> StatsBoard:
        """Return what the processes of this host show of themselves."""


class HostNetwork:
    """What one process says to other hosts. Any thread may call its methods, if not said otherwise."""

    def __init__(self, shared: Shared, hosts: Hosts, config: Config, log: Log) -> None:
        region = shared.region
        assert region.hosts is not None
        self._shared = shared
        self._hosts = hosts
        self._config = config
        settings = replace(config.hosts(), release=__version__)
        self.network = Network(
            settings, region.id, region.path, _office(region), self._engine, self._owner,
            hosts.rows.address, log, shared.errands,
            rows=lambda: hosts.rows.used, weight=lambda: hosts.me.weight, chores=self,
            on_acknowledged=hosts.progress.make,
        )  # fmt: skip
        self._offers = hosts.offers = Offers(
            region.id, config.replicas, shared.shelf, region.hosts.log, hosts, self.network.rouse,
            all=config.replicate == "all",
        )  # fmt: skip
        self._copies: Copies | None = None
        self._look_at = 0.0

    def request(
        self, to: Incarnation, body: bytes, on_answer: Callable[[bytes | None], object], timeout: float,
        on_late: Callable[[bytes], object] | None = None,
    ) -> None:  # fmt: skip
        """See `colocache.hosts.Network`."""
        self.network.request(to, body, on_answer, timeout, on_late)

    def ask(self, to: Incarnation, body: bytes, timeout: float) -> bytes | object | None:
        """See `colocache.hosts.Network`."""
        return self.network.ask(to, body, timeout)

    def wake_gateway(self) -> None:
        """See `colocache.hosts.Network`."""
        self.network.event_appended()

    @property
    def is_gateway(self) -> bool:
        """Whether this process speaks for its host."""
        return self.network.is_gateway

    @property
    def due(self) -> float:
        """When `run` has something to do, on the monotonic clock, in seconds."""
        return min(self._offers.due, self._look_at) if self.network.is_gateway else self._offers.due

    def run(self) -> None:
        """Offer what other hosts are to have copies of. For the network thread.

        The gateway also does what processes of its host have left undone that were killed.
        """
        now, hosts = monotonic(), self._hosts
        for to, offer in self._offers.take(now):
            hosts.tell(to, offer, OFFER_TIMEOUT)
        if now >= self._look_at and self.network.is_gateway:
            self._look_at = now + LOOK_FOR_THE_DEAD
            for owner, token in self._shared.claims.abandoned():
                hosts.give_load_back(owner, token)
            if hosts.is_client:
                hosts.announce_what_was_left()

    @property
    def pulled(self) -> int:
        """How many values this process has taken from other hosts, so that this one has copies."""
        return self._copies.pulled if self._copies is not None else 0

    def start(self) -> None:
        """Have the thread started."""
        self.network.start()

    def begin_to_hand_over(self) -> None:
        """Begin to hand over to other hosts what this one owns. For its last process, before it leaves."""
        self.network.begin_to_hand_over(self._config.handoff)

    def hand_over(self) -> None:
        """Wait until that is done."""
        self.network.hand_over()

    def say_goodbye(self) -> None:
        """Have the thread say goodbye to other hosts at its end. For the last process of a host that has ended."""
        self.network.say_goodbye()

    def close(self, patience: float) -> None:
        """End the thread, and wait for so many seconds."""
        self.network.close(patience)

    def leave(self) -> None:
        """Begin to end the thread."""
        self.network.leave()

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's."""
        self.network.forget_after_fork()

    def _engine(self, row: int, me: Host, meetings: Meetings) -> Gateway:
        shared, region = self._shared, self._shared.region
        assert region.hosts is not None
        words, now = region.hosts.words, monotonic_ns()
        own = Row(words, region.fences, row)
        own.write_by(region.seat.number)
        gateway = Gateway(
            me, words, own, region.hosts.log, shared.board, region.fences, meetings,
            self._hosts.times, Forgetting(self._config.forget), now=now,
            wait_for_writer=shared.shelf.wait_for_writer, on_event=self._free_memory,
        )  # fmt: skip
        for id, last in region.ended:
            gateway.end(id, last, now)
        return gateway

    def _owner(self, wake: Callable[[], object]) -> Owner:
        shared, region, hosts = self._shared, self._shared.region, self._hosts
        assert region.hosts is not None
        self._copies = Copies(hosts.me.id, shared.taker, shared.shelf, region.hosts.log, hosts.lease, hosts, shared.now)
        return Owner(
            hosts.me.id,
            HostMemory(
                region.hosts.words, hosts.rows, region.hosts.log, shared.board, shared.shelf, shared.claims,
                region.fences, hosts.lease,
            ),
            hosts.times, shared.now, self._config.load_timeout,
            Hooks(
                wake, lambda hash: self._free_memory(Event(KEYS, (hash,))),
                lambda wire: hosts.exact_owner(wire) == hosts.me.id, self._void, self._report,
            ),
            self._copies, self._offers,
        )  # fmt: skip

    def _report(self) -> Reported | None:
        """Tell another host what the processes of this one have counted."""
        try:
            return report(self._shared.stats_board())
        except OSError as error:
            raise_if_from_handler(error)
            return None

    def _void(self, kind: int, hashes: Sequence[int], related: bool) -> Position | None:
        """Invalidate what a client asks for."""
        position = self._shared.void(kind, hashes, related)
        self._free_memory(Event(kind, tuple(hashes), related))
        return position

    def _free_memory(self, event: Event) -> None:
        """Have all processes of this host free the memory of what other hosts have changed."""
        hashes = event.hashes
        if event.kind == WRITES:
            hashes = tuple([hash ^ WRITE_BITS for hash in hashes])
        kind = frames.KEYS if event.kind == WRITES else event.kind
        self._shared.hear(Message(kind, hashes))
        if self._shared.bus is not None:
            self._shared.bus.tell(kind, hashes)


def _office(region: Region) -> Office:
    assert region.hosts is not None
    return Office(region.hosts.open_again, region.hosts.grow_row, lambda: region.seats_version)
