"""This process in its group: it joins at the first use, survives forks, and leaves, at the latest when it ends."""

from __future__ import annotations

import atexit
import itertools
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from os import getpid
from random import random
from time import monotonic
from typing import Any, TypeVar

from .auditing import Auditor
from .config import Config
from .core.keys import Key
from .core.receipt import Receipt
from .core.sampling import Sample
from .errors import ClosedError, ConfigError
from .functions.identity import Functions
from .group_stats import HostStats
from .host import Host, Voided, tell_leaving
from .hosts import HostInfo
from .interruptions import is_from_handler, raise_if_from_handler
from .naming import shown
from .near_cache import NearCaches
from .runtime.board_file import Seat
from .runtime.forks import do_all
from .runtime.holds import Alone, Hold, Holds, hold_of_caller, is_over
from .runtime.logs import Log
from .runtime.servers import call_after_fork, refuse_eventlet
from .runtime.undisturbed import undisturbed
from .runtime.view import View
from .runtime.waiting.answers import Answer
from .runtime.waiting.threads import Queue, is_patched, may_not_wait, on_driver_thread
from .runtime.weak import living
from .stats import Counters, Ledger, Stats
from .tracing import Tracer
from .values.carrier import Carrier
from .values.codec import Codec
from .values.large import Large

T = TypeVar("T")

RETRY = 1.0  # s between two attempts to join the group, while the host does not let this process in
LOOK_EVERY = 0.1  # s between two looks at whether another thread is still joining
PATIENCE = 0.5  # s that the end of a process waits for the bus to say what is still to be said
LEAVING = 5.0  # s that it waits for caches that were dropped and are leaving; that takes a few milliseconds
LAST_LINES = 1.0  # s that the last lines of the log are given
JOINING = 30.0  # s that a thread waits for another one that joins; joining takes a few milliseconds


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """One process of the group on this host, as this one sees it."""

    seat: int
    pid: int  # 0 if it lives in another pid namespace
    role: str  # "peer"; "server" of `colocache serve`; "client"; "private" if no other process shares the cache
    me: bool
    host: str = ""  # the name of the host; empty in a group of one host
    gateway: bool = False  # whether it speaks for the host
    version: str = ""  # of colocache


_serials: Iterator[int] = itertools.count(1)


@dataclass(slots=True)
class Life:
    """What belongs to one life of a member, from its making to its end; a test gives it another one for a while."""

    serial: int = field(default_factory=lambda: next(_serials))  # `id` will not do: it is given to later objects again
    pid: int = field(default_factory=getpid)  # the process that lives it
    host: Host | None = None
    ledger: Ledger = field(default_factory=Ledger)
    large: Large = field(default_factory=Large)
    auditor: Auditor = field(default_factory=Auditor)
    retry_at: float = -math.inf
    trouble: Exception | None = None  # why the last attempt to join failed
    is_closed: bool = False
    finalizer: weakref.finalize[[list[Host], int], Member] | None = None


class _Joining:
    """An attempt to join: who makes it, and what the others wait for."""

    __slots__ = ("_hold", "ended", "thread")

    def __init__(self, hold: Hold) -> None:
        self.thread = threading.get_ident()  # under gevent a greenlet's
        self.ended = Answer()
        self._hold = hold

    @property
    def is_over(self) -> bool:
        """Whether the call that joins has ended, without having said so: an exception of a signal handler ended it."""
        return not is_patched() and is_over(self._hold)


class Member:
    """This process in its group. All methods may be called from any thread."""

    def __init__(self, config: Config, codec: Codec | None) -> None:
        """Start nothing: the first use joins."""
        self.config = config
        self.log = Log(config.group)
        self.carrier = Carrier(codec)
        self.functions = Functions(self.log)
        self.near_caches = NearCaches()
        self.sample = Sample(config.audit, random) if config.audit else None  # of the hits that are audited
        self.audit_within: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.tracer: Tracer | None = None  # what `colocache.opentelemetry` has set
        self.life = Life()
        self._alone = Alone()
        self._be_new()
        _members.add(self)

    @property
    def serial(self) -> int:
        """What tells this life from all others of this process."""
        return self.life.serial

    @property
    def counters(self) -> Counters:
        """What is counted of no namespace."""
        return self.life.ledger.of("")

    # --- Joining

    def join(self) -> Host | None:
        """Return this cache's host, joining if need be; None if the cache is off, or the host lets nobody in."""
        life = self.life
        if life.pid == getpid():  # first: see `own_host`
            host = life.host
            if host is not None and host.alive:
                return host
        self._refuse_if_closed()
        return None if self.config.disabled else self._join()

    def on_host(self, do: Callable[[Host], T]) -> tuple[Host, T] | None:
        """Do something on the host, and return that host and what comes of it; None if this process is on no host.

        If the region turns out to have ended meanwhile, what was done there is seen by nobody, and is done once more.
        """
        for _ in range(2):
            host = self.join()
            if host is None:
                break
            done = do(host)
            if host.alive:
                return host, done
        return None

    def own_host(self) -> Host | None:
        """Return this cache's host; None if this process has not joined."""
        life = self.life
        # In this order, while `_be_new` lets go of the parent's host first, and notes the new pid last.
        return life.host if life.pid == getpid() else None

    def patience(self, seconds: float) -> float:
        """Return for how long a call may wait here: for ``seconds``, and where nobody may wait not at all.

        Python runs finalizers in any thread, and so in one of the cache's. What they wait for may be what that thread
        has to do. And while the interpreter ends, no other thread runs.
        """
        if not may_not_wait():
            return seconds
        if on_driver_thread():
            self.log.warning(
                "a finalizer, or other code that Python has run on a thread of the cache, has used the cache there, "
                "where nobody may wait: it loads for itself what others load, and its invalidations are not complete "
                "as long as other hosts have not confirmed them",
                event="used_by_finalizer",
            )
        return 0.0

    @property
    def may_wait(self) -> bool:
        """Whether calls may have to wait for other hosts."""
        host = self.own_host()
        return self.config.has_hosts or (host is not None and host.hosts is not None)

    def start(self) -> None:
        """Join now, and raise what keeps this process from joining."""
        self.life.retry_at = -math.inf
        if self.join() is None and self.life.trouble is not None:
            raise self.life.trouble

    def _join(self) -> Host | None:
        """Join, or wait for the thread that does.

        Joining is not disturbed by what signal handlers raise: it comes to its end. A finalizer that uses the cache
        while its own thread is joining finds no host, and loads for itself.
        """
        if may_not_wait():  # in a finalizer: it must make nobody wait, nor itself for threads that run no more
            return None
        if not self.notice_fork():
            return None
        outcome: Host | Exception | None = None
        if not self._joining and (self.life.host is not None or monotonic() >= self.life.retry_at):
            outcome = undisturbed(self._join_unless_another_does, "colocache joins")
        self._tell_joining(outcome)  # last, because log handlers are users' code
        self._wait_for_another_thread()
        self._refuse_if_closed()
        host = self.own_host()
        return host if host is not None and host.alive else None

    def _join_unless_another_does(self) -> Host | Exception | None:
        joining, mine, outcome = self._joining, _Joining(hold_of_caller()), None
        try:
            other = joining.setdefault(0, mine)
            if other is not mine and other.is_over:
                joining[0] = mine
            if joining.get(0) is mine:
                outcome = self._try_to_join()
        finally:  # no call before it is deleted: an exception of a signal handler comes after calls only
            if 0 in joining and joining[0] is mine:
                del joining[0]
            mine.ended.give(None)
        return outcome

    def _try_to_join(self) -> Host | Exception | None:
        """Join if there is need and hope; return the host, or what keeps this process from joining."""
        host = self.own_host()
        if self.life.is_closed or (host is not None and host.alive):
            return None
        if host is not None:
            self._let_go_of(host)
        if monotonic() < self.life.retry_at:
            return None
        outcome = self._join_by(self.config_to_join())
        self.life.trouble = outcome if isinstance(outcome, Exception) else None
        if self.life.trouble is not None:
            self.life.retry_at = monotonic() + RETRY
        return outcome

    def _let_go_of(self, host: Host) -> None:
        """Leave a host whose region has ended or is lost: until then nobody can make a new one."""
        self._alone.run(lambda: self._show(None) if self.life.host is host else None)
        self._drop_finalizer()
        host.leave()

    def _show(self, host: Host | None) -> None:
        """Have readers find what a host has, or nothing. For one thread at a time."""
        self.life.host = host
        self._bind(host)

    def _bind(self, host: Host | None) -> None:
        self.log.seat = None if host is None else host.region.seat.number
        if host is not None:
            host.ledger = self.life.ledger
        self.near_caches.bind(None if host is None else host.keeper.store, self.life.ledger)

    def _tell_joining(self, outcome: Host | Exception | None) -> None:
        if isinstance(outcome, Exception):
            self.log.error(
                "cannot join, caches nothing, and tries again every second: %s: %s",
                type(outcome).__name__,
                outcome,
                event="cannot_join",
            )

    def _join_by(self, config: Config) -> Host | Exception:
        call_after_fork(_notice_fork)
        joined: list[Host] = []
        try:
            refuse_eventlet()
            if config.private:
                joined.append(Host.private(config))
            else:
                Host.join(config, self.log, joined)
            self._take(joined[0])
            self._leave_when_dropped(joined[0])
            _close_all_at_exit()
        except BaseException as error:
            for host in joined:
                self._let_go_of(host)
            if isinstance(error, OSError | ConfigError | MemoryError | ImportError) and not is_from_handler(error):
                return error
            raise
        return joined[0]

    def _take(self, host: Host) -> None:
        """Have readers find what a new host has, unless another thread has closed the cache meanwhile."""
        self._alone.run(partial(self._show, host))
        if self.life.is_closed:
            host.leave()

    def _wait_for_another_thread(self) -> None:
        """Wait while another thread joins. Its exceptions cannot reach this thread: it looks again and again."""
        other, ends = self._joining.get(0), monotonic() + JOINING
        while other is not None and other is self._joining.get(0) and other.thread != threading.get_ident():
            if other.is_over or monotonic() >= ends or may_not_wait():
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
        """Leave the host. The next use joins anew. Where nobody may wait, another thread does what takes time."""
        self.notice_fork()
        self._wait_for_another_thread()
        host = self.own_host()
        if host is not None:
            undisturbed(partial(self._leave, host), "colocache leaves")

    def _leave(self, host: Host) -> None:
        """Leave this host, and no other one: if the caller was interrupted, it may have joined anew by now."""
        try:
            self._alone.run(lambda: self._show(None) if self.life.host is host else None)
        finally:
            if self.life.host is None:
                self._drop_finalizer()
            if may_not_wait():
                _leave_elsewhere([host])
            else:
                _leave(host, PATIENCE)

    def close(self) -> None:
        """Leave for good."""
        self.life.is_closed = True
        self.leave()

    def _leave_when_dropped(self, host: Host) -> None:
        self._drop_finalizer()
        behind = [host]
        try:
            self.life.finalizer = weakref.finalize(self, _leave_behind, behind, getpid())
        except BaseException:  # of a signal handler: the finalizer may be there, and nobody knows of it
            behind.clear()
            raise
        self.life.finalizer.atexit = False

    def _drop_finalizer(self) -> None:
        """Forget the one of the host before, which keeps that host and all that it has near."""
        finalizer, self.life.finalizer = self.life.finalizer, None
        if finalizer is not None:
            finalizer.detach()

    # --- Other lives

    def set_aside(self) -> Life:
        """Begin a new life, and return the present one for `take_up`. For tests; see `colocache.testing`."""
        self.notice_fork()
        life, self.life = self.life, Life()
        self._bind(None)
        return life

    def take_up(self, life: Life) -> None:
        """End the present life, and go on with one that was set aside, unless that was in the parent process."""
        self.leave()
        self.life = life
        self.notice_fork()
        self._bind(self.own_host())

    def _be_new(self) -> None:
        """Be as if nothing had been started: at first, and in a forked child."""
        inherited, self.life.host = self.life.host, None
        self._joining: dict[int, _Joining] = {}
        self.life.retry_at = -math.inf
        self.life.ledger = Ledger()
        self.life.auditor = Auditor()
        self._bind(None)
        self._drop_finalizer()
        if inherited is not None:
            inherited.forget_after_fork()
        self.life.pid = getpid()  # last: a thread that finds it here relies on all the rest

    def notice_fork(self) -> bool:
        """Notice a fork that went past Python's hooks. Of several threads that notice it, the first one forgets.

        Return False to a signal handler or finalizer that comes in the middle of that, on the same thread: it must not
        join before that is over.
        """
        if self.life.pid != getpid():
            hold = hold_of_caller()
            try:
                if not _inheriting.take_soon(0, hold, JOINING):
                    return False
                if self.life.pid != getpid():
                    self._be_new()
            finally:
                if 0 in _inheriting.held and _inheriting.held[0] is hold:
                    del _inheriting.held[0]
        return True

    def forget_after_fork(self) -> None:
        """Forget what was inherited. If that fails, the first use tries again, because it finds the parent's pid."""
        try:
            self._be_new()
        except Exception:  # the others are to forget, too
            self.log.exception("cannot forget yet what was inherited from the parent process", event="cannot_forget")

    # --- What it shows

    def stats(self) -> Stats:
        """Return this process's figures, and those of the host's shelf."""
        self.notice_fork()
        host = self.own_host()
        figures = host.figures() if host is not None else {}  # it counts the hits
        return Stats.of(self.life.ledger.all().values(), figures)

    def counted(self) -> dict[str, Counters]:
        """Return what this process has counted by itself, by the paths of namespaces."""
        host = self.own_host()
        if host is not None:
            host.keeper.count_hits()
        return self.life.ledger.all()

    def host_stats(self) -> HostStats | None:
        """Return what all processes of this host have counted; None if this process is on no host, or cannot read it.

        It joins if need be, and waits for nobody.
        """
        host = self.join()
        if host is None:
            return None
        try:
            return host.host_stats()
        except (OSError, IndexError, KeyError) as error:  # a limit, or another thread leaves at this moment
            raise_if_from_handler(error)
            if host.alive:
                self.log.warning(
                    "what the processes of this host have counted cannot be read: %s", error, event="figures_unreadable"
                )
            return None

    def infos(self) -> list[MemberInfo]:
        """Return the processes of the group on this host, this one first. Empty before the first use."""
        host = self.own_host()
        if host is None or not host.alive:
            return []
        own = host.region.seat
        found = [(own, True), *((seat, False) for seat in sorted(host.region.seats(), key=lambda seat: seat.number))]
        is_private = not host.region.path
        name = "" if host.hosts is None else host.hosts.me.name

        def info(seat: Seat, me: bool) -> MemberInfo:
            role = "private" if is_private else seat.role
            return MemberInfo(seat.number, seat.pid, role, me, name, host.speaks(seat.number), seat.version)

        return [info(seat, me) for seat, me in found]

    def view(self) -> View:
        """Return the memory of the host for somebody who looks. Raise what keeps this process from joining."""
        self.start()
        host = self.own_host()
        if host is None:
            raise ConfigError("the cache is off (COLOCACHE_DISABLED), so that nothing is cached")
        return host.view()

    def hosts(self) -> list[HostInfo]:
        """Return the hosts of the group, this one first. Empty before the first use, and in a group of one host."""
        host = self.own_host()
        return [] if host is None or not host.alive or host.hosts is None else host.hosts.infos()

    def __repr__(self) -> str:
        return f"<colocache.Cache {self.config.group!r}{' closed' if self.life.is_closed else ''}>"

    # --- For the operations

    def invalidate(self, host: Host, hashes: list[int], kind: int) -> Voided | None:
        """Invalidate things: no process of this host serves them any more. Return None if that cannot be promised.

        If somebody has deleted the files of the host's memory, newcomers have made new ones, and read other stamps. So
        this looks at the files after it has stored the stamps. If the region is not in place by then, it joins anew,
        and invalidates there, too.
        """
        voided = host.invalidate(hashes, kind)
        if self.is_found_on(host):
            return voided
        again = self.join()
        if again is None:
            return None
        voided = again.invalidate(hashes, kind)
        return voided if again.is_in_place() else None

    def is_found_on(self, host: Host) -> bool:
        """Tell whether newcomers find the host's region. If not, the next call joins anew.

        Newcomers cannot join until this process has left. So look at each invalidation, and at each miss. To look takes
        one system call.
        """
        if host.is_in_place():
            return True
        if host.alive:
            tell_leaving(self.log, host.region)
        host.abandon()
        return False

    def tell_declined(self, key: Key, path: str, why: str) -> None:
        """Log that a value is used, and not kept."""
        self.log.warning(
            "the value of the key %s of %s is used, and not kept: %s", shown(key), path or "no namespace", why,
            about=path, event="not_kept",
        )  # fmt: skip

    def tell_undecodable(self, path: str, error: ValueError) -> None:
        """Log that a value of the group cannot be decoded here."""
        self.log.warning(
            "a value cannot be read here, and is loaded instead: %s. All processes of a group need the same codec and "
            "the same registered types", error, about=path, event="unreadable",
        )  # fmt: skip

    def tell_incomplete(self, receipt: Receipt) -> None:
        """Count and log that an invalidation does not hold for all processes."""
        self.counters.incomplete += 1
        if receipt.hosts:
            self.log.warning(
                "an invalidation is not complete, because other hosts may not have heard of it: %s",
                receipt,
                event="incomplete",
            )
        else:
            self.log.warning(
                "an invalidation is not complete, because this process is not on its host: %s",
                receipt,
                event="incomplete",
            )

    def tell_not_announced(self) -> None:
        """Count and log that a value could not be set, so that other processes may serve the old one."""
        if self.config.disabled:
            return
        self.counters.incomplete += 1
        self.log.warning(
            "a value is not set, and the old one not invalidated, because this process is not on its host",
            event="not_set",
        )

    def tell_lost(self, key: Key, path: str, error: BaseException) -> None:
        """Log the exception of a load whose caller was cancelled, and so does not get it."""
        self.log.warning(
            "a load has failed after its caller was cancelled: of the key %s: %s: %s",
            shown(key), type(error).__name__, error, about=path, event="load_lost",
        )  # fmt: skip


#: Settings that are in force in this process whatever a member's own say; see `colocache.testing`.
in_tests: dict[str, Any] = {}

_members: weakref.WeakSet[Member] = weakref.WeakSet()
_inheriting = Holds()


def all_members() -> list[Member]:
    """Return the members of all caches of this process, joined or not."""
    return living(_members)


def _after_fork() -> None:
    """In a forked child, have all members forget what they inherited, and nobody leave in the parent's stead.

    Each one that has not, because an exception came in between, does so when it is used: it finds the pid of the
    parent. The others do so now.
    """
    global _leaving_elsewhere
    _leaving_elsewhere = Queue("colocache leaves", most=None)
    do_all([member.forget_after_fork for member in all_members()])


os.register_at_fork(after_in_child=_after_fork)


def _notice_fork() -> None:
    """Do the same in a child, and nothing in a process that has not forked: servers are not exact about that."""
    do_all([member.forget_after_fork for member in all_members() if member.life.pid != getpid()])


def _leave(host: Host, patience: float) -> None:
    for _ in _leaving(host, patience):
        pass


def _leaving(host: Host, patience: float) -> Iterator[None]:
    was_there = host.alive
    yield from host.leaving(patience)
    if was_there:
        host.errands.finish(LAST_LINES)


def _leave_behind(hosts: list[Host], pid: int) -> None:
    """Leave for a cache that was dropped without `Cache.close`, in another thread: a finalizer's may have any lock."""
    if hosts and pid == getpid():
        _leave_elsewhere(hosts)


def _leave_elsewhere(hosts: list[Host]) -> None:
    for host in hosts:
        _leaving_elsewhere.add(partial(_leave, host, PATIENCE))


#: Those that leave by a thread of their own. The end of the process waits for them.
_leaving_elsewhere = Queue("colocache leaves", most=None)


def _close_all_at_exit() -> None:
    """Have the members of this process leave at its orderly end.

    Children of multiprocessing end by ``os._exit``, and before Python 3.13 they do not call what is registered with
    atexit. But they call what is registered with multiprocessing itself.
    """
    global _closes_at_exit
    if _closes_at_exit == getpid():
        return
    _closes_at_exit = getpid()
    atexit.unregister(_close_all)  # what was inherited by a fork
    atexit.register(_close_all)
    util = sys.modules.get("multiprocessing.util")
    if util is not None and sys.version_info < (3, 13):
        util.Finalize(None, _close_all, exitpriority=0)


_closes_at_exit = 0  # the process that is prepared


def _close_all() -> None:
    """Have all leave together: each takes a step, and then each waits for what its step has begun."""
    all_leaving = []
    for member in all_members():
        member.life.retry_at = math.inf  # a call at this late hour loads for itself
        host = member.own_host()
        if host is not None:
            all_leaving.append(_leaving(host, PATIENCE))
    while all_leaving:
        all_leaving = [each for each in all_leaving if next(each, True) is None]
    _leaving_elsewhere.finish(monotonic() + LEAVING)
