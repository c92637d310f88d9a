"""The host of a cache: the memory that it shares with the other processes, and what it keeps near.

All caches of a process that belong to one group share one `Shared`: the board, the shelf, the claims and the bus. Each
has a `Host` of its own, with its own near cache.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import sub
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from .config import Config
from .core.host.board import Board
from .core.host.claims import Claims
from .core.host.hashes import ANY_TAG, ROOT, tag_hash
from .core.host.memory import HostLease
from .core.host.shelf import Shelf
from .core.hosts.announcing import Announcement
from .core.hosts.applying import stamp
from .core.hosts.event import NAMESPACES, Event, Position
from .core.hosts.lease import FOREVER
from .core.hosts.requests import MAX_VOID
from .core.hosts.taking import Taker
from .core.hosts.waiting import Settled
from .core.near import NearStore
from .group_stats import Board as StatsBoard
from .group_stats import GroupStats, HostStats, host_stats
from .hosts import Hosts, Sleeping
from .near_cache import Keeper
from .runtime.board_file import LIVES
from .runtime.bus import PUBLISH_SOON, Bus, Message
from .runtime.forks import do_all, importing
from .runtime.frames import KEYS, LOADED
from .runtime.holds import Alone
from .runtime.logs import Log
from .runtime.region import Region
from .runtime.view import View
from .runtime.waiting.greenlets import HubErrands
from .runtime.waiting.threads import Errands, ThreadErrands, is_patched
from .runtime.weak import living
from .stats import COUNTED, OF_HOSTS, Ledger

if TYPE_CHECKING:
    from .network import HostNetwork

SWEEP_EVERY = 1.0  # s between two looks at all that is kept near
COUNTED_FOR = 1.0  # s
PUBLISH_IDLE = 5.0  # s between two looks at what was counted, where nothing was
PUBLISHING = 0.002  # of the time of a process may be spent on that, at most


class Shared:
    """What all caches of one group share in this process."""

    def __init__(self, region: Region, config: Config, log: Log | None) -> None:
        """``log`` is None for a private region, which has no bus."""
        self.region = region
        self._log = log
        self.errands = HubErrands() if is_patched() else ThreadErrands()
        self.board = Board(region.bell, region.marks, region.mark_count, region.numbers, region.fences, region.heard)
        self.ahead = 0.0  # s by which this host's clock is ahead: for tests of private caches
        self.hosts = Hosts.of(region, config, self.now) if region.hosts is not None else None
        #: What may be served, as far as other hosts decide that.
        self.lease: HostLease = FOREVER if self.hosts is None else self.hosts.lease
        self.shelf = Shelf(
            region.shelf, self.board, region.numbers, region.fences, region.rings, self.now, self.lease, self.hosts
        )
        self.taker = Taker(self.board, self.shelf, region.fences)
        self.bus: Bus | None = None
        if log is not None:
            self.bus = Bus(
                region.path, region.seat.number, region.seat.nonce, _Mates(region), self.hear, log, self.errands,
                self._tick, self.publish,
            )  # fmt: skip
        self.claims = Claims(self.shelf, region.claims, region.hints, region.numbers, region.fences, self._wake)
        self.network: HostNetwork | None = None
        if self.hosts is not None and config.has_hosts and log is not None:
            with importing.lock:
                from .network import HostNetwork  # it imports zmq

            self.network = self.hosts.network = HostNetwork(self, self.hosts, config, log)
        self.caches = weakref.WeakSet[Host]()
        self._publishing = Alone()
        self._told_of_hosts = [0] * len(OF_HOSTS)
        self._processes = -1, 0, -math.inf  # at which version of the seats, how many, and until when that counts
        self._swept_at = -math.inf
        self._is_unswept = False

    def now(self) -> float:
        """Return the time of this host, in seconds."""
        return monotonic() + self.ahead

    def start(self) -> None:
        """Start the threads, and have another one log that this process has joined: log handlers are code of users."""
        if self._log is not None:
            seat, path = self.region.seat.number, self.region.path
            self.errands.write(partial(self._log.info, "joined on seat %d in %s", seat, path, event="joined"))
        if self.bus is not None:
            self.bus.start()
        if self.network is not None:
            self.network.start()

    def leaving(self, patience: float) -> Iterator[None]:
        """Count one cache less. With the last one, the bus falls silent, and then the process leaves the region.

        Each step begins something that takes a while, and the next one waits for it. That the process has left is
        logged by another thread, unless `tell_leaving` has said why it has to.
        """
        if any(host.alive for host in living(self.caches)):
            self.region.release()
            return
        was_there, is_first = self.region.is_in_place(), _shared.pop(self.region, None) is self
        network, bus, is_last = self.network, self.bus, False
        if network is not None:
            is_last = self.region.is_last()
            if not is_last:  # only the last process of a host speaks with other hosts to the end
                network.leave()
            elif patience > 0:
                network.begin_to_hand_over()  # while what is here can still be served
        if bus is not None and not is_last:
            bus.leave()
        yield
        if network is not None and not is_last:
            network.close(patience)
        elif network is not None and patience > 0:
            network.hand_over()
        if bus is not None:
            bus.close(patience)
        self.region.release()
        if network is not None and is_last:
            if self.region.has_ended:
                network.say_goodbye()
            network.leave()
            yield
            network.close(patience)
        if was_there and is_first and self._log is not None:
            self.errands.write(partial(self._log.info, "left seat %d", self.region.seat.number, event="left"))

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's. Callable twice."""
        _shared.pop(self.region, None)
        do_all([each.forget_after_fork for each in (self.network, self.bus) if each is not None])

    def _wake(self, hash: int) -> None:
        if self.bus is not None:
            self.bus.wake(hash)

    def hear(self, message: Message) -> None:
        """Free the memory of what others have changed, and wake those that wait for a load of theirs."""
        if message.kind == LOADED:
            for hash in message.hashes:
                self.claims.wake(hash)
        elif message.kind == KEYS:
            for host in living(self.caches):
                host.keeper.drop(message.hashes)
        else:
            self.sweep_soon()

    def void(self, kind: int, hashes: Sequence[int], related: bool) -> Position | None:
        """Invalidate things, and leave the memory of the near copies to others.

        Return where that stands in the log of this host; None if there is no log, or no room in it, so that other hosts
        cannot be told.

        The event is in the log before anything is stamped. In the other order:

        1. W stamps a key. R, on this host, misses it under the new stamps, and asks the owner host, which has the old
           value. R cannot name the event, because there is none yet.
        2. The old value stands on this host under the new stamps.

        On a client the event is marked later, when a member has told it to this host: see
        `colocache.core.hosts.dependencies`.
        """
        hosts, fences, event = self.hosts, self.region.fences, Event(kind, tuple(hashes), related)
        position: Position | None = None
        try:
            position = hosts.append(kind, hashes, related) if hosts is not None else None
            fences.order()
            stamp(self.board, fences, event)
            if hosts is not None and position is not None and not hosts.is_client:
                hosts.stamped(position)
        except BaseException:  # of a signal handler: the event may be in the log, so that fetches depend on it
            stamp(self.board, fences, event)
            if hosts is not None and not hosts.is_client:
                hosts.stamped(position)
            raise
        return position

    def sweep_soon(self) -> None:
        """Have all that is kept near looked at. If that was done just now, the next call or tick does it again."""
        if monotonic() >= self._swept_at + SWEEP_EVERY:
            self._swept_at = monotonic()
            self._is_unswept = False
            self.errands.run(self._sweep)
        else:
            self._is_unswept = True

    def publish(self) -> float:
        """Bring this process's block of the scoreboard up to date. Return in how many seconds that is to be done again.

        That is soon while there is something to count, but as little of the time as `PUBLISHING` says.
        """
        began = monotonic()
        hosts = living(self.caches)
        for host in hosts:
            host.keeper.count_hits()
        is_idle = not self._publishing.run(partial(self._write_scores, hosts))
        return max(PUBLISH_IDLE if is_idle else PUBLISH_SOON, (monotonic() - began) / PUBLISHING)

    def _write_scores(self, hosts: Sequence[Host]) -> bool:
        """Write what was counted since the last time; return whether that was anything. For one thread at a time."""
        writer, is_anything = self.region.scores, False
        for host in hosts:
            for path, columns in host.ledger.untold():
                writer.add(writer.row(path), columns)
                is_anything = True
        now_told = self.of_hosts()
        if now_told != self._told_of_hosts:
            writer.add(writer.row(""), [*[0] * len(COUNTED), *map(sub, now_told, self._told_of_hosts)])
            self._told_of_hosts, is_anything = now_told, True
        hosts = living(self.caches)
        sizes = [host.keeper.store.size() for host in hosts]
        entries, size = sum([each[0] for each in sizes]), sum([each[1] for each in sizes])
        hottest = sorted([each for host in hosts for each in host.keeper.hottest], key=lambda each: -each[1])
        writer.show((entries, size, sum([host.memory for host in hosts])), hottest, time_ns())
        return is_anything

    def publish_last(self, host: Host) -> None:
        """Show what a cache has counted that leaves."""
        if self.region.lives():
            self._publishing.run(partial(self._write_scores, [host]))

    def of_hosts(self) -> list[int]:
        """Return the counters `OF_HOSTS`, which all caches of this process share."""
        hedging = self.hosts.hedging if self.hosts is not None else None
        pulled = self.network.pulled if self.network is not None else 0
        return [hedging.hedged if hedging else 0, hedging.won if hedging else 0, pulled]

    def stats_board(self) -> StatsBoard:
        """Return what the processes of this host show of themselves, this one up to now."""
        self.publish()
        sizes = self.shelf.entries(), self.shelf.taken(), self.region.geometry.capacity
        with self.view() as view:
            return StatsBoard(view.scoreboard(), sizes)

    def processes(self) -> int:
        """Return how many processes of this host are in the group.

        Each that joins or leaves in order is noticed at once, and one that is killed within a second.
        """
        version, now = self.region.seats_version, monotonic()
        known, count, ends = self._processes
        if version != known or now >= ends:
            count = 1 + len(self.region.seats())
            self._processes = version, count, now + COUNTED_FOR
        return count

    def view(self) -> View:
        """Return the memory of this host for somebody who looks what is there; he closes it."""
        return View(self.shelf, self.now, self.region.seats_ever, self.region.all_scores())

    def _tell_what_is_used(self) -> None:
        for host in living(self.caches):
            host.tell_what_is_used()

    def _sweep(self) -> None:
        for host in living(self.caches):
            host.keeper.sweep()

    def _tick(self) -> None:
        """Look whether newcomers find the region, and this process. If not, leave: until then nobody can join.

        The bus's thread does this, because the application may call nothing for hours.
        """
        if self.region.is_in_place() and self.region.is_whole():
            self.errands.run(
                self._tell_what_is_used
            )  # elsewhere, because an entry may die in the hands of whoever looks
            if self._is_unswept:
                self.sweep_soon()
            return
        if self.region.lives() and self._log is not None:
            tell_leaving(self._log, self.region)
        for host in living(self.caches):
            host.abandon()
        self.region.leave()
        if self.bus is not None:
            self.bus.leave()
        if self.network is not None:
            self.network.leave()


def tell_leaving(log: Log, region: Region) -> None:
    """Log why this process leaves a region that has not ended."""
    if region.is_in_place():
        log.warning("leaves the group, because somebody has closed its files", event="leaves")
    else:
        log.warning("leaves the group, because its files in %s were deleted, or replaced", region.path, event="leaves")


class _Mates:
    """The other processes of a region, as the bus sees them."""

    def __init__(self, region: Region) -> None:
        self._region = region

    def version(self) -> int:
        """Return a number that changes whenever a process joins or leaves."""
        return self._region.seats_version

    def living(self) -> list[tuple[int, int]]:
        """Return the seat and the name of each."""
        return [(seat.number, seat.nonce) for seat in self._region.seats()]


_shared: weakref.WeakKeyDictionary[Region, Shared] = weakref.WeakKeyDictionary()


def _shared_of(region: Region, config: Config, log: Log) -> Shared:
    """Return what the caches of a region share in this process."""
    shared = _shared.get(region)
    if shared is None:
        mine = Shared(region, config, log.of_seat(region.seat.number))
        shared = _shared.setdefault(region, mine)  # another thread may have been faster
        if shared is mine:
            shared.start()
    return shared


def _give_back(region: Region) -> None:
    """Leave a region that was joined, if no host uses it."""
    shared = _shared.get(region)
    if shared is not None:
        for _ in shared.leaving(0.0):
            pass
    else:
        region.release()


def _tell_its_size(region: Region, config: Config, log: Log, errands: Errands) -> None:
    """Log, by another thread, if the shelf is not as large as this process has asked for."""
    if region.wanted != config.shelf:
        line = partial(
            log.warning,
            "the shelf of this host was made with COLOCACHE_SHELF=%d, so %d is not followed before all processes of "
            "the group have ended", region.wanted, config.shelf, event="other_shelf",
        )  # fmt: skip
    elif region.geometry.capacity < config.shelf:
        line = partial(
            log.warning,
            "the shelf of this host has %d bytes and not %d, because there is no more room in %s: give the container "
            "more (--shm-size), set COLOCACHE_DIR to another place, or lower COLOCACHE_SHELF",
            region.geometry.capacity, config.shelf, region.path, event="other_shelf",
        )  # fmt: skip
    else:
        return
    errands.write(line)


class Voided(NamedTuple):
    """What was invalidated on this host, and in which event other hosts are told of it."""

    hosts: Hosts | None  # None in a group of one host
    numbers: Mapping[int, int]
    announcement: Announcement | None = None  # of a client: by a member
    dropped: int = 0  # near copies of this process that were freed

    def settle(self, patience: float) -> Sleeping[Settled]:
        """Wait until no host serves it any more, for so many seconds at most. Only where there are other hosts."""
        assert self.hosts is not None
        if self.announcement is not None:
            return self.hosts.settle_far([self.announcement], patience)
        return self.hosts.settle(self.numbers, patience)


ALONE = Voided(None, {})
LANE_SHIFT = 56  # bits of the number of an event in a position; above them is its lane


class Host:
    """One cache on its host. Any thread may call all methods."""

    def __init__(self, shared: Shared, config: Config) -> None:
        region = shared.region
        self.region = region
        self.region_id = region.id
        self.board = shared.board
        self.shelf = shared.shelf
        self.claims = shared.claims
        self.lease = shared.lease
        self.hosts = shared.hosts
        self.taker = shared.taker
        self._any_tag = self.board.marks_of(ANY_TAG)[0]
        self.fences = region.fences
        self._order = region.fences.order
        self.errands = shared.errands
        self._shared = shared
        self._config = config
        self.memory = config.memory  # bytes that the near copies may take
        self.ledger = Ledger()  # what the cache counts; its member gives it the one of its life
        self._alive = True
        self._left = False
        self.renew()

    @classmethod
    def join(cls, config: Config, log: Log, joined: list[Host]) -> None:
        """Join the group's region, and append the host. Raise OSError or ConfigError if this process cannot.

        An exception of a signal handler may come out of this call after the host was appended. So the caller leaves
        what was appended.
        """
        regions: list[Region] = []
        try:
            region = Region.join(
                config.group, config.directory, config.shelf, hosts=config.has_hosts, role=config.role, joined=regions
            )
            shared = _shared_of(region, config, log)
            _tell_its_size(region, config, log, shared.errands)
            joined.append(cls(shared, config))
            joined[0]._shared.caches.add(joined[0])
        except BaseException:
            if not joined:
                for region in regions:
                    _give_back(region)
            raise

    @classmethod
    def private(cls, config: Config) -> Host:
        """Make a host that no other process shares."""
        host = cls(Shared(Region.private(config.shelf), config, None), config)
        host._shared.caches.add(host)
        return host

    def renew(self) -> None:
        """Keep nothing near, and begin anew."""
        config, region = self._config, self.region
        self.keeper = Keeper(NearStore(config.memory, config.policy, self.board, region.fences, self.lease))

    @property
    def alive(self) -> bool:
        """Whether this cache may use the host."""
        self._order()  # see `Region.lives`; this does the same with fewer calls
        return self._alive and self.region.state[0] == LIVES

    def now(self) -> float:
        """Return the time of this host, in seconds."""
        return monotonic() + self._shared.ahead

    def is_current(self) -> bool:
        """Tell whether this host has heard of all that other hosts have invalidated, so that values may be derived."""
        now = self.now()
        return now < self.lease.until(now)

    @property
    def ahead(self) -> float:
        """For how many seconds this host's clock is ahead."""
        return self._shared.ahead

    def age(self, seconds: float) -> None:
        """Be as if so many seconds had passed. For tests of private caches."""
        self._shared.ahead += seconds
        self.keeper.forget_all()

    # --- Events

    def invalidate(self, hashes: Sequence[int], kind: int) -> Voided | None:
        """Invalidate things, and have others free the memory. ``kind`` says what they are, as on the bus.

        Return None if the other hosts of the group cannot be told.
        """
        voided = self.void(hashes, kind)
        dropped = self.tell(hashes, kind)
        return voided if voided is None or not dropped else voided._replace(dropped=dropped)

    def void(self, hashes: Sequence[int], kind: int = KEYS) -> Voided | None:
        """Do the same, and leave the memory to others. See `Shared.void`."""
        hosts, related = self.hosts, kind != KEYS or len(hashes) > 1
        position = self._shared.void(kind, hashes, related)
        if hosts is None:
            return ALONE
        if position is None:
            return None
        if not hosts.is_client:
            return Voided(hosts, {position.lane: position.number})
        if len(hashes) > MAX_VOID:
            kind, hashes = NAMESPACES, (ROOT,)
        return Voided(hosts, {}, hosts.announce_far(kind, hashes, related, position))

    def tell(self, hashes: Sequence[int], kind: int = KEYS) -> int:
        """Have all processes, this one too, free the memory of what has changed.

        Return of how many keys this one had a near copy.
        """
        dropped = 0
        if kind == KEYS:
            dropped = self.keeper.drop(hashes)
        else:
            self._shared.sweep_soon()
        bus = self._shared.bus
        if bus is not None:
            bus.tell(kind, hashes)
        return dropped

    def tell_what_is_used(self) -> None:
        """Have the shelf keep what is used here, where the near copies hide that from it."""
        self.shelf.use([entry.way for entry in self.keeper.store.used()])

    def any_tag(self) -> int:
        """Return the stamp of all tags together: it changes, before the tag's own, when any tag is invalidated."""
        return self.board.marks[self._any_tag]

    def speaks(self, seat: int) -> bool:
        """Tell whether the process with a seat, which lives, speaks for this host, as far as that is known."""
        network = self._shared.network
        if seat == self.region.seat.number or self.hosts is None:
            return network is not None and network.is_gateway
        return seat in self.hosts.rows.writers()

    def is_in_place(self) -> bool:
        """Tell whether newcomers find this region."""
        return self._alive and self.region.is_in_place()

    def positions(self) -> list[tuple[bytes, int]]:
        """Return the positions of what this host has changed so far; see `colocache.operations.positions`."""
        if self.hosts is None:
            return [(self.region_id, self.board.bell[0])]
        if self.hosts.is_client:
            return [(id, lane << LANE_SHIFT | number) for id, lane, number in self.hosts.announced()]
        return [(self.region_id, lane << LANE_SHIFT | number) for lane, number in self.hosts.lasts().items()]

    def figures(self) -> dict[str, Any]:
        """Have the hits counted, and return what is not in the ledger, by the names of `Stats`."""
        self.keeper.count_hits()
        store, shelf = self.keeper.store, self.shelf
        entries, size = store.size()
        return {
            **dict(zip(OF_HOSTS, self._shared.of_hosts(), strict=True)), "entries": entries, "bytes": size,
            "shelf_entries": shelf.entries(), "shelf_bytes": shelf.taken(), "processes": 1 + len(self.region.seats()),
        }  # fmt: skip

    def processes(self) -> int:
        """Return how many processes of this host are in the group, as of a second ago at most."""
        return self._shared.processes()

    def view(self) -> View:
        """Return the memory of this host, up to date for this process, for somebody who looks; he closes it."""
        self._shared.publish()
        return self._shared.view()

    def note_event(self, kind: int, hash: int, things: int, text: str) -> None:
        """Note for people what this process has invalidated."""
        self.region.scores.note_event(kind, hash, things, text, time_ns())

    def note_tags(self, tags: Iterable[str]) -> None:
        """Note for people the names of tags, of which labels have only the hashes."""
        for tag in tags:
            self.region.scores.note_tag(tag_hash(tag), tag)

    def host_stats(self) -> HostStats:
        """Return what the processes of this host have counted. Raise OSError if that cannot be read."""
        return host_stats("" if self.hosts is None else self.hosts.me.name, True, self._shared.stats_board())

    def group_stats(self, timeout: float) -> Sleeping[GroupStats]:
        """Return what the processes of this host have counted, and those of other hosts that answer in time."""
        mine = self.host_stats()
        return GroupStats((mine,)) if self.hosts is None else (yield from self.hosts.group_stats(mine, timeout))

    def answers(self, patience: float) -> bool:
        """Tell whether the bus's thread does its work: see `Bus.answers`. Where there is no bus, nobody has to."""
        bus = self._shared.bus
        return bus is None or bus.answers(patience)

    # --- The end

    def abandon(self) -> None:
        """Let the next call join anew, and serve nothing from here until then."""
        self._alive = False
        self.keeper.close()

    def leave(self, patience: float = 0.0) -> None:
        """Leave. With the last cache the process leaves, and waits ``patience`` seconds at most for the bus.

        What is near goes here and now: the last one who lets go of this may be the thread of the bus.
        """
        for _ in self.leaving(patience):
            pass

    def leaving(self, patience: float) -> Iterator[None]:
        """Do the same in steps: see `Shared.leaving`."""
        self._alive = False
        self.keeper.close()
        if not self._left:
            self._left = True
            self._shared.publish_last(self)
            yield from self._shared.leaving(patience)

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's."""
        self._alive = False
        self._shared.forget_after_fork()
