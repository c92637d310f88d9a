"""The host of a cache: the memory that it shares with the other processes, and what it keeps near.

All caches of a process that belong to one group share one `Shared`: the board, the shelf, the claims and the bus. Each
has a `Host` of its own, with its own near cache.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any

from .config import Config
from .core.host.board import Board
from .core.host.claims import Claims
from .core.host.hashes import ANY_TAG
from .core.host.shelf import Shelf
from .core.near import NearStore
from .near_cache import Keeper
from .runtime.board_file import LIVES
from .runtime.bus import Bus, Message
from .runtime.frames import KEYS, LOADED, TAGS
from .runtime.logs import Log
from .runtime.region import Region
from .runtime.waiting.greenlets import HubErrands
from .runtime.waiting.threads import Errands, ThreadErrands, is_patched

SWEEP_EVERY = 1.0  # s between two looks at all that is kept near


class Shared:
    """What all caches of one group share in this process."""

    def __init__(self, region: Region, log: Log | None) -> None:
        """``log`` is None for a private region, which has no bus."""
        self.region = region
        self._log = log
        self.errands = HubErrands() if is_patched() else ThreadErrands()
        self.board = Board(region.bell, region.marks, region.mark_count, region.numbers, region.fences, region.heard)
        self.ahead = 0.0  # s by which this host's clock is ahead: for tests of private caches
        self.shelf = Shelf(region.shelf, self.board, region.numbers, region.fences, region.rings, self.now)
        self.bus: Bus | None = None
        if log is not None:
            self.bus = Bus(
                region.path, region.seat.number, region.seat.nonce, _Mates(region), self._hear, log, self.errands,
                self._tick,
            )  # fmt: skip
        self.claims = Claims(self.shelf, region.claims, region.hints, region.numbers, region.fences, self._wake)
        self.hosts = weakref.WeakSet[Host]()
        self._swept_at = -math.inf
        self._is_unswept = False

    def now(self) -> float:
        """Return the time of this host, in seconds."""
        return monotonic() + self.ahead

    def release(self, patience: float) -> None:
        """One cache less. With the last one, the bus falls silent, and then the process leaves the region."""
        if not any(host.alive for host in list(self.hosts)):
            _shared.pop(self.region, None)
            if self.bus is not None:
                self.bus.close(patience)
        self.region.release()

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's. Callable twice."""
        _shared.pop(self.region, None)
        if self.bus is not None:
            self.bus.forget_after_fork()

    def _wake(self, hash: int) -> None:
        if self.bus is not None:
            self.bus.wake(hash)

    def _hear(self, message: Message) -> None:
        """Free the memory of what others have changed, and wake those that wait for a load of theirs."""
        if message.kind == LOADED:
            for hash in message.hashes:
                self.claims.wake(hash)
        elif message.kind == KEYS:
            for host in list(self.hosts):
                host.keeper.drop(message.hashes)
        else:
            self.sweep_soon()

    def sweep_soon(self) -> None:
        """Have all that is kept near looked at. If that was done just now, the next call or tick does it again."""
        if monotonic() >= self._swept_at + SWEEP_EVERY:
            self._swept_at = monotonic()
            self._is_unswept = False
            self.errands.run(self._sweep)
        else:
            self._is_unswept = True

    def _sweep(self) -> None:
        for host in list(self.hosts):
            host.keeper.sweep()

    def _tick(self) -> None:
        """Look whether newcomers find the region, and this process. If not, leave: until then nobody can join.

        The bus's thread does this, because the application may call nothing for hours.
        """
        if self.region.is_in_place() and self.region.is_whole():
            for host in list(self.hosts):
                host.tell_what_is_used()
            if self._is_unswept:
                self.sweep_soon()
            return
        if self.region.lives() and self._log is not None:
            tell_leaving(self._log, self.region)
        for host in list(self.hosts):
            host.abandon()
        self.region.leave()
        if self.bus is not None:
            self.bus.leave()


def tell_leaving(log: Log, region: Region) -> None:
    """Log why this process leaves a region that has not ended."""
    if region.is_in_place():
        log.warning("leaves the group, because somebody has closed its files")
    else:
        log.warning("leaves the group, because its files in %s were deleted, or replaced", region.path)


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


def _shared_of(region: Region, log: Log) -> Shared:
    """Return what the caches of a region share in this process."""
    shared = _shared.get(region)
    if shared is None:
        mine = Shared(region, log)
        shared = _shared.setdefault(region, mine)  # another thread may have been faster
        if shared is mine and shared.bus is not None:
            shared.bus.start()
    return shared


def _give_back(region: Region) -> None:
    """Leave a region that was joined, if no host uses it."""
    shared = _shared.get(region)
    if shared is not None:
        shared.release(0.0)
    else:
        region.release()


def _tell_its_size(region: Region, config: Config, log: Log, errands: Errands) -> None:
    """Log, by another thread, if the shelf is not as large as this process has asked for."""
    if region.wanted != config.shelf:
        line = partial(
            log.warning,
            "the shelf of this host was made with COLOCACHE_SHELF=%d, so %d is not followed before all processes of "
            "the group have ended", region.wanted, config.shelf,
        )  # fmt: skip
    elif region.geometry.capacity < config.shelf:
        line = partial(
            log.warning,
            "the shelf of this host has %d bytes and not %d, because there is no more room in %s: give the container "
            "more (--shm-size), set COLOCACHE_DIR to another place, or lower COLOCACHE_SHELF",
            region.geometry.capacity, config.shelf, region.path,
        )  # fmt: skip
    else:
        return
    errands.run(line)


class Host:
    """One cache on its host. Any thread may call all methods."""

    def __init__(self, shared: Shared, config: Config) -> None:
        region = shared.region
        self.region = region
        self.region_id = region.id
        self.board = shared.board
        self.shelf = shared.shelf
        self.claims = shared.claims
        self._any_tag = self.board.marks_of(ANY_TAG)[0]
        self.fences = region.fences
        self._order = region.fences.order
        self.errands = shared.errands
        self._shared = shared
        self._config = config
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
            region = Region.join(config.group, config.directory, config.shelf, joined=regions)
            shared = _shared_of(region, log)
            _tell_its_size(region, config, log, shared.errands)
            joined.append(cls(shared, config))
            joined[0]._shared.hosts.add(joined[0])
        except BaseException:
            if not joined:
                for region in regions:
                    _give_back(region)
            raise

    @classmethod
    def private(cls, config: Config) -> Host:
        """Make a host that no other process shares."""
        host = cls(Shared(Region.private(config.shelf), None), config)
        host._shared.hosts.add(host)
        return host

    def renew(self) -> None:
        """Keep nothing near, and begin anew."""
        config, region = self._config, self.region
        self.keeper = Keeper(NearStore(config.memory, config.policy, self.board, region.fences))

    @property
    def alive(self) -> bool:
        """Whether this cache may use the host."""
        self._order()  # see `Region.lives`; this does the same with fewer calls
        return self._alive and self.region.state[0] == LIVES

    def now(self) -> float:
        """Return the time of this host, in seconds."""
        return monotonic() + self._shared.ahead

    @property
    def ahead(self) -> float:
        """For how many seconds this host's clock is ahead."""
        return self._shared.ahead

    def age(self, seconds: float) -> None:
        """Be as if so many seconds had passed. For tests of private caches."""
        self._shared.ahead += seconds
        self.keeper.forget_all()

    # --- Events

    def invalidate(self, hashes: Sequence[int], kind: int) -> None:
        """Invalidate things, and have others free the memory. ``kind`` says what they are, as on the bus."""
        if kind == TAGS:  # a reader that does not know yet which tags a value will have looks at this one
            self.board.stamp((ANY_TAG,))
            self.fences.order()
        self.board.invalidate(hashes, related=kind != KEYS or len(hashes) > 1)
        self.tell(hashes, kind)

    def tell(self, hashes: Sequence[int], kind: int = KEYS) -> None:
        """Have all processes, this one too, free the memory of what has changed."""
        if kind == KEYS:
            self.keeper.drop(hashes)
        else:
            self._shared.sweep_soon()
        bus = self._shared.bus
        if bus is not None:
            bus.tell(kind, hashes)

    def tell_what_is_used(self) -> None:
        """Have the shelf keep what is used here, where the near copies hide that from it."""
        self.shelf.use([entry.way for entry in self.keeper.store.used()])

    def any_tag(self) -> int:
        """Return the stamp of all tags together: it changes, before the tag's own, when any tag is invalidated."""
        return self.board.marks[self._any_tag]

    def is_in_place(self) -> bool:
        """Tell whether newcomers find this region."""
        return self._alive and self.region.is_in_place()

    def position(self) -> tuple[bytes, int]:
        """Return the position of what this process has changed so far."""
        return self.region_id, self.board.bell[0]

    def figures(self) -> dict[str, Any]:
        """Return what this host counts itself, by the names of `Stats`."""
        self.keeper.settle()
        store, shelf = self.keeper.store, self.shelf
        entries, size = store.size()
        return {
            "hits": store.hits(), "evictions": store.evictions, "entries": entries, "bytes": size,
            "shelf_entries": shelf.entries(), "shelf_bytes": shelf.taken(), "processes": 1 + len(self.region.seats()),
        }  # fmt: skip

    # --- The end

    def abandon(self) -> None:
        """Let the next call join anew, and serve nothing from here until then."""
        self._alive = False
        self.keeper.close()

    def leave(self, patience: float = 0.0) -> None:
        """Leave. With the last cache the process leaves, and waits ``patience`` seconds at most for the bus."""
        self._alive = False
        if not self._left:
            self._left = True
            self._shared.release(patience)

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's."""
        self._alive = False
        self._shared.forget_after_fork()
