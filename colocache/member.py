"""This process in its group: it joins at the first use, survives forks, and leaves, at the latest when it ends."""

from __future__ import annotations

import atexit
import itertools
import math
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from .config import Config
from .core.gate import Gate
from .core.group.outcomes import UNKNOWN, Receipt
from .core.keys import Key
from .errors import ClosedError
from .functions.identity import Functions
from .naming import shown
from .near_cache import NearCaches
from .runtime.driver import Driver
from .runtime.inline import InlineDriver
from .runtime.logs import Log
from .runtime.servers import check_threads
from .runtime.threaded import CannotJoin, ThreadDriver, members_here
from .runtime.waiting.answers import Answer
from .runtime.waiting.threads import RLock, on_driver_thread
from .stats import Counters, Stats, with_counters
from .values.carrier import Carrier
from .values.codec import Codec

RETRY = 1.0  # s between two attempts to join the group, while the host does not let this process in
LOOK_EVERY = 0.1  # s between two looks at whether another thread is still joining
JOINING = 30.0  # s that a thread waits for another one that joins; joining takes a few milliseconds


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """One member of the group, as this one sees it."""

    seat: str
    pid: int  # 0 if it lives in another pid namespace
    incarnation: str  # hexadecimal
    role: str  # "peer"
    known_for: float  # s since it was met; of this process: since it joined
    heard: bool  # whether this process is known to have heard all of its events
    me: bool


_serials: Iterator[int] = itertools.count(1)


@dataclass(slots=True)
class Life:
    """What belongs to one life of a member, from its making to its end; a test gives it another one for a while."""

    serial: int = field(default_factory=lambda: next(_serials))  # `id` will not do: it is given to later objects again
    pid: int = field(default_factory=os.getpid)  # the process that lives it
    driver: Driver | None = None
    counters: Counters = field(default_factory=Counters)
    retry_at: float = -math.inf
    trouble: Exception | None = None  # why the last attempt to join failed
    joined_at: float = 0.0
    is_closed: bool = False
    finalizer: weakref.finalize[[weakref.ref[ThreadDriver], int], Member] | None = None


class _Joining:
    """An attempt to join: who makes it, and what the others wait for."""

    __slots__ = ("ended", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()  # under gevent a greenlet's
        self.ended = Answer()


class Member:
    """This process in its group. All methods may be called from any thread."""

    def __init__(self, config: Config, codec: Codec | None) -> None:
        """Start nothing: the first use joins."""
        self.config = config
        self.log = Log(config.group)
        self.carrier = Carrier(codec)
        self.functions = Functions(self.log)
        self.near_caches = NearCaches()
        self.life = Life()
        self._joining: _Joining | None = None
        self._be_new()
        _members.add(self)

    @property
    def serial(self) -> int:
        """What tells this life from all others of this process."""
        return self.life.serial

    @property
    def counters(self) -> Counters:
        """What this process counts beside its driver. Add to it under `counting`."""
        return self.life.counters

    # --- Joining

    def join(self) -> Driver | None:
        """Return the driver, joining if need be; None if the cache is off, or the host does not let this process in."""
        driver = self.own_driver()
        if driver is not None and driver.alive:
            return driver
        self._refuse_if_closed()
        return None if self.config.disabled else self._join()

    def own_driver(self) -> Driver | None:
        """Return this process's driver; None if it has not joined."""
        life = self.life
        # In this order, while `_be_new` lets go of the parent's driver first, and notes the new pid last.
        return life.driver if life.pid == os.getpid() else None

    def start(self) -> None:
        """Join now, and raise what keeps this process from joining."""
        self.life.retry_at = -math.inf
        if self.join() is None and self.life.trouble is not None:
            raise self.life.trouble

    def _join(self) -> Driver | None:
        """Join, or wait for the thread that does. No lock is held while a driver joins and logs.

        A signal handler or a finalizer that uses the cache while its own thread is joining finds no driver, and loads
        for itself.
        """
        if on_driver_thread():  # in a finalizer, which must make nobody wait
            return None
        self._forget_the_parent()
        mine, trouble = _Joining(), None
        try:
            with self._lock:
                if self._joining is None:
                    self._joining = mine
            if self._joining is mine:
                trouble = self._try_to_join()
        finally:  # no call before the next assignment: an exception of a signal handler comes after calls only
            if self._joining is mine:
                self._joining = None
            mine.ended.give(None)
        if trouble is not None:  # told at last, because log handlers are users' code
            self.log.error(
                "cannot join, caches nothing, and tries again every second: %s: %s", type(trouble).__name__, trouble
            )
        self._wait_for_another_thread()
        self._refuse_if_closed()
        driver = self.own_driver()
        return driver if driver is not None and driver.alive else None

    def _try_to_join(self) -> Exception | None:
        """Join if there is need and hope; return what keeps this process from joining, if anything new does."""
        driver = self.own_driver()
        if self.life.is_closed or monotonic() < self.life.retry_at or (driver is not None and driver.alive):
            return None
        self.life.trouble = self._join_by(self.config_to_join())
        if self.life.trouble is not None:
            self.life.retry_at = monotonic() + RETRY
        return self.life.trouble

    def _join_by(self, config: Config) -> Exception | None:
        if config.private:
            self._take(InlineDriver(config))
            return None
        check_threads()
        driver = ThreadDriver(config, self.log)
        try:
            driver.join()
            self._take(driver)
            self._leave_when_dropped(driver)
            _close_all_at_exit()
        except CannotJoin as error:
            return error.trouble
        except BaseException:  # a signal handler has raised it
            self.life.driver = None
            driver.leave(0.0)
            raise
        return None

    def _take(self, driver: Driver) -> None:
        """Have readers find what a new driver has, unless another thread has closed the cache meanwhile."""
        with self._lock:
            self.life.joined_at = monotonic()
            self.life.driver = driver
            self.near_caches.bind(driver.store, driver.gate)
        if self.life.is_closed:
            driver.leave(0.0)

    def _wait_for_another_thread(self) -> None:
        """Wait while another thread joins. Its exceptions cannot reach this thread: it looks again and again."""
        other, ends = self._joining, monotonic() + JOINING
        while other is not None and other is self._joining and other.thread != threading.get_ident():
            if monotonic() >= ends:
                return
            other.ended.result(LOOK_EVERY)

    def _refuse_if_closed(self) -> None:
        if self.life.is_closed:
            raise ClosedError(f"{self!r} is closed; make a new one")

    def config_to_join(self) -> Config:
        """Return the settings of a new driver: this member's own, unless a test has put others in their place."""
        settings = {"private": True, **in_tests} if self.is_private_by_default() else in_tests
        return replace(self.config, **settings) if settings else self.config

    def is_private_by_default(self) -> bool:
        """Tell whether it is private where neither a test nor its settings say otherwise. Django's are, in tests."""
        return False

    # --- Leaving

    def leave(self) -> None:
        """Leave the group: say goodbye, once what was announced is acknowledged, and stop the thread."""
        driver, patience = self.own_driver(), self.config.lease * 1.01
        try:
            with self._lock:
                self.life.driver = None
                self.near_caches.bind(None, Gate())
        finally:
            if driver is not None:
                driver.leave(patience)
        if driver is not None:
            driver.close(patience)

    def close(self) -> None:
        """Leave the group for good."""
        self.life.is_closed = True
        self.leave()

    def _leave_when_dropped(self, driver: ThreadDriver) -> None:
        if self.life.finalizer is not None:  # of the driver before
            self.life.finalizer.detach()
        # Its thread keeps the driver alive.
        self.life.finalizer = weakref.finalize(self, _leave_behind, weakref.ref(driver), os.getpid())
        self.life.finalizer.atexit = False

    # --- Other lives

    def set_aside(self) -> Life:
        """Begin a new life, and return the present one for `take_up`. For tests; see `colocache.testing`."""
        self._forget_the_parent()
        life, self.life = self.life, Life()
        self.near_caches.bind(None, Gate())
        return life

    def take_up(self, life: Life) -> None:
        """End the present life, and go on with one that was set aside, unless that was in the parent process."""
        self.leave()
        self.life = life
        self._forget_the_parent()
        driver = self.own_driver()
        if driver is not None:
            self.near_caches.bind(driver.store, driver.gate)

    def _be_new(self) -> None:
        """Be as if nothing had been started: at first, and in a forked child."""
        inherited, self.life.driver = self.life.driver, None
        self._lock = RLock()
        self.counting = RLock()  # held to add to `counters`, because any thread may
        self._joining = None
        self.life.retry_at = -math.inf
        self.life.counters = Counters()
        self.near_caches.reset()
        if inherited is not None:
            inherited.forget_after_fork()
        self.life.pid = os.getpid()  # last: a thread that finds it here relies on all the rest

    def _forget_the_parent(self) -> None:
        """Notice a fork that went past Python's hooks. Of several threads that notice it, the first one forgets."""
        if self.life.pid != os.getpid():
            with _inheriting:
                if self.life.pid != os.getpid():
                    self._be_new()

    def forget_after_fork(self) -> None:
        """Forget what was inherited. If that fails, the first use tries again, because it finds the parent's pid."""
        try:
            self._be_new()
        except Exception:  # the others are to forget, too
            self.log.exception("cannot forget yet what was inherited from the parent process")

    # --- What it shows

    def stats(self) -> Stats:
        """Return this process's figures."""
        driver = self.own_driver()
        return with_counters(driver.stats() if driver is not None else Stats(), self.counters)

    def infos(self) -> list[MemberInfo]:
        """Return the members of the group that this process knows, itself first. Empty before the first use."""
        driver = self.own_driver()
        if driver is None or not driver.alive:
            return []
        me, others = driver.members()
        now = monotonic()
        is_current = now < driver.gate.current_until
        rows = [
            (me, self.life.joined_at, is_current, True),
            *((member, since, heard, False) for member, since, heard in others),
        ]
        return [
            MemberInfo(member.seat, member.pid, member.incarnation.hex(), "peer", now - since, heard, mine)
            for member, since, heard, mine in rows
        ]

    def __repr__(self) -> str:
        return f"<colocache.Cache {self.config.group!r}{' closed' if self.life.is_closed else ''}>"

    # --- For the operations

    def decline(self, key: Key, path: str, why: str) -> None:
        """Count and log that a value is used, and not kept."""
        with self.counting:
            self.counters.oversize += 1
        self.log.warning(
            "the value of the key %s of %s is used, and not kept: %s", shown(key), path or "no namespace", why,
            about=path,
        )  # fmt: skip

    def tell_undecodable(self, error: ValueError) -> None:
        """Log that a value of the group cannot be decoded here."""
        self.log.warning(
            "a value cannot be read here, and is loaded instead: %s. All processes of a group need the same codec and "
            "the same registered types", error,
        )  # fmt: skip

    def tell_incomplete(self, receipt: Receipt) -> None:
        """Log that an invalidation is not acknowledged by everybody."""
        if receipt is UNKNOWN:  # the driver that would have counted it is not there
            with self.counting:
                self.counters.incomplete += 1
        self.log.warning("an invalidation is not acknowledged by everybody: %s", receipt)

    def tell_lost(self, key: Key, error: BaseException) -> None:
        """Log the exception of a load whose caller was cancelled, and so does not get it."""
        self.log.warning(
            "a load has failed after its caller was cancelled: of the key %s: %s: %s",
            shown(key), type(error).__name__, error,
        )  # fmt: skip


#: Settings that are in force in this process whatever a member's own say; see `colocache.testing`.
in_tests: dict[str, Any] = {}

_members: weakref.WeakSet[Member] = weakref.WeakSet()
_inheriting = threading.Lock()


def all_members() -> list[Member]:
    """Return the members of all caches of this process, joined or not."""
    return list(_members)


def _after_fork() -> None:
    """In a forked child, shut all gates first, and forget then.

    Should an exception come in between, as from a signal handler, no member serves what it has inherited. Each one that
    has not forgotten by then does so when it is used, because it finds the pid of the parent.
    """
    inherited = all_members()
    for member in inherited:
        if member.life.driver is not None:
            member.life.driver.shut_gate()
    for member in inherited:
        member.forget_after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _leave_behind(driver: weakref.ref[ThreadDriver], pid: int) -> None:
    """A cache was dropped without `Cache.close`: it leaves. Nobody waits, because this thread may hold any lock."""
    left_behind = driver()
    if left_behind is not None and left_behind.alive and pid == os.getpid():
        left_behind.leave(left_behind.patience)


def _close_all_at_exit() -> None:
    """Have the members of this process leave at its orderly end.

    Children of multiprocessing end by ``os._exit``, and before Python 3.13 they do not call what is registered with
    atexit. But they call what is registered with multiprocessing itself.
    """
    global _closes_at_exit
    if _closes_at_exit == os.getpid():
        return
    _closes_at_exit = os.getpid()
    atexit.unregister(_close_all)  # what was inherited by a fork
    atexit.register(_close_all)
    util = sys.modules.get("multiprocessing.util")
    if util is not None and sys.version_info < (3, 13):
        util.Finalize(None, _close_all, exitpriority=0)


_closes_at_exit = 0  # the process that is prepared


def _close_all() -> None:
    for member in all_members():
        if member.own_driver() is not None:
            member.life.retry_at = math.inf  # a call at this late hour loads for itself
    drivers = members_here()
    for driver in drivers:  # all at once, and then wait for each
        driver.leave(driver.patience)
    for driver in drivers:
        driver.close(driver.patience)  # what is not acknowledged by then, host-mates read in the journal
