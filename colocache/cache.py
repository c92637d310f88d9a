"""A group's cache in this process: its member, and its life, from the first use to the end, forks included."""

from __future__ import annotations

import atexit
import itertools
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

from . import scope
from .config import UNSET, Config, Duration, Unset
from .core.entry import Home
from .core.gate import Gate
from .core.group.messages import MAX_VALUE
from .core.group.outcomes import CaughtUp, Receipt
from .core.group.peer import Peer
from .core.keys import Key
from .core.numbers import pack_integer, unpack_integer
from .errors import ClosedError, OversizeError
from .functions.identity import Functions
from .operations.flows import Flow, Wait, arun, run, shown
from .runtime.inline import InlineDriver
from .runtime.logs import Log
from .runtime.servers import check_threads
from .runtime.threaded import CannotJoin, ThreadDriver, members_here
from .runtime.waiting.greenlets import let_others_run_while
from .runtime.waiting.threads import RLock, on_driver_thread
from .space import GRACE, UNKNOWN, Space, copies_of
from .stats import Counters, Stats, with_counters
from .values.codec import Codec
from .values.msgpack_codec import MsgpackCodec

if TYPE_CHECKING:
    from .runtime.driver import Driver

C = TypeVar("C", bound=type)

MAX_MODES = 1000  # namespaces that are not in use now, of which is remembered whether their readers get copies
RETRY = 1.0  # s between two attempts to join the group, while the host will not let us


class Arguments(TypedDict, total=False):
    """What `Cache` takes beside the group; each wins over its ``COLOCACHE_*`` variable. See `Config`."""

    disabled: bool
    private: bool
    memory: int | str
    ttl: Duration | None
    policy: str
    lease: Duration
    max_stale: Duration
    fetch_timeout: Duration
    switch_interval: Duration
    load_timeout: Duration
    forget_after: Duration
    directory: str


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


class Cache(Space):
    """A group's cache in this process. Making one starts nothing; the first use joins the group.

    Survives `os.fork` at any moment: the child forgets all, and joins on its own at its first use. May be used as a
    context manager, which closes it.
    """

    def __init__(
        self,
        group: str | Unset = UNSET,
        *,
        codec: Codec | None = None,
        copy: bool = False,
        fence: bool = False,
        **settings: Unpack[Arguments],
    ) -> None:
        """Settings come from the arguments, else from ``COLOCACHE_*`` variables, else by default; see `Config`.

        Raises ConfigError for a bad one. ``codec`` carries values between processes: all of a group need the same.
        ``copy`` and ``fence`` are what `Space.namespace` takes, for keys that are in none.
        """
        self.config = Config.resolve({"group": group, **settings}, os.environ)
        self._log = Log(self.config.group)
        self._serial = next(_serials)  # what `id` is no good for: that of a cache that is gone is given again
        self.codec = codec if codec is not None else MsgpackCodec()
        self._format = blake2b(self.codec.name.encode(), digest_size=4).digest()
        self._spaces: weakref.WeakSet[Space] = weakref.WeakSet()
        self._joining = False
        self._functions = Functions(self._log)
        self._modes: dict[str, bool] = {}  # namespaces of late, the oldest first, to whether their readers get copies
        self._bus: Driver | None = None
        self._closed = False
        self._finalizer: weakref.finalize[[weakref.ref[ThreadDriver], int], Cache] | None = None
        self._trouble: Exception | None = None  # why the last attempt to join failed
        self._forget()
        _caches.add(self)
        super().__init__(self, "", self.config.ttl, copies_of(copy), fence=fence)

    # --- What it shows

    def register(self, cls: C, *, name: str | None = None) -> C:
        """Let instances of a class travel, and return the class, so that this can be its decorator.

        Do so in every process, which is to say in the module that defines the class. A class that an annotation of a
        decorated function names is registered already. See `MsgpackCodec.register`, which does it. Raises
        TypeError if the cache has another codec.
        """
        if not isinstance(self.codec, MsgpackCodec):
            raise TypeError(f"the codec {self.codec.name!r} of {self!r} decides for itself which classes it carries")
        return self.codec.register(cls, name=name)

    def stats(self) -> Stats:
        """Return this process's figures: counters since it joined, and gauges. Never waits for another process."""
        bus = self._own_bus()
        return with_counters(bus.stats() if bus is not None else Stats(), self._counters)

    def members(self) -> list[MemberInfo]:
        """Return the members of the group that this process knows, itself first. Empty before the first use."""
        bus = self._own_bus()
        if bus is None or not bus.alive:
            return []
        me, others = bus.members()
        now = monotonic()
        current = now < self._gate.current_until
        rows = [
            (me, self._joined_at, current, True),
            *((member, since, heard, False) for member, since, heard in others),
        ]
        return [
            MemberInfo(member.seat, member.pid, member.incarnation.hex(), "peer", now - since, heard, mine)
            for member, since, heard, mine in rows
        ]

    # --- Positions: what another process has seen

    def position(self) -> str:
        """Return how far this process's own events are, as a short ASCII text for `catch_up` in another process.

        Empty if this process is not in the group. For a cookie or a header; see `Scope.position` for one request's.
        """
        bus = self._own_bus()
        if bus is None or not bus.alive:
            return ""
        return run(self._position(bus))

    def catch_up(self, position: str, timeout: float | None = None) -> bool:
        """Wait until this process has applied all that a position stands for; return whether it has.

        For ``timeout`` seconds at most; by default for the fetch timeout. Never raises for a text that is none, and
        trusts it with no more than that time: False. False, too, for positions of members that are not known here.
        """
        return run(self._catch_up(position, timeout))

    async def acatch_up(self, position: str, timeout: float | None = None) -> bool:
        """The twin of `catch_up`."""
        return await arun(self._catch_up(position, timeout))

    # --- Its life

    def start(self) -> None:
        """Join the group now rather than at the first use, and raise what keeps it from joining.

        That is a ConfigError for a runtime directory that cannot be used, or an OSError of the system, for example. A
        read, by contrast, loads for itself as long as the cache cannot join.
        """
        self._retry_at = -math.inf
        if self._member() is None and self._trouble is not None:
            raise self._trouble

    def _set_aside(self) -> tuple[Any, ...]:
        """Begin anew, as if just made, and return what `_take_up` goes on with. For tests; see `colocache.testing`."""
        with self._lock:
            life = tuple(getattr(self, name) for name in _LIFE)
            self._bus = None
            self._rebind(Gate())
            self._serial, self._counters = next(_serials), Counters()
            self._closed, self._trouble, self._retry_at, self._finalizer = False, None, -math.inf, None
        return life

    def _take_up(self, life: tuple[Any, ...]) -> None:
        """Let go of the present member, and go on with what `_set_aside` returned."""
        self.leave()
        with self._lock:
            for name, value in zip(_LIFE, life, strict=True):
                setattr(self, name, value)
            bus = self._own_bus()
            self._rebind(bus.gate if bus is not None else Gate())

    def leave(self) -> None:
        """Leave the group: say goodbye, once what was announced is acknowledged, and stop the thread.

        Calls that wait are let go: reads load for themselves, invalidations get an incomplete receipt. The next use
        joins anew.
        """
        with self._lock:
            bus, self._bus = self._own_bus(), None
            self._rebind(Gate())
        if bus is not None:
            bus.close(self.config.lease * 1.01)

    def close(self) -> None:
        """Leave the group for good: every use afterwards raises ClosedError. May be called twice."""
        with self._lock:
            self._closed = True
        self.leave()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<colocache.Cache {self.config.group!r}{' closed' if self._closed else ''}>"

    def _member(self) -> Driver | None:
        """Return this process's member, joining if need be; None if the cache is off, or the host will not let us."""
        bus = self._own_bus()
        if bus is not None and bus.alive:
            return bus
        if self._closed:
            raise ClosedError(f"{self!r} is closed; make a new one")
        return None if self.config.disabled else self._join()

    def _own_bus(self) -> Driver | None:
        # In this order, while `_forget` lets go of the parent's bus first, and notes the new pid last.
        return self._bus if self._pid == os.getpid() else None

    def _join(self) -> Driver | None:
        if on_driver_thread():  # in a finalizer, which is to make nobody wait
            return None
        if self._pid != os.getpid():  # a fork that went past Python's hooks
            with _inheriting:
                if self._pid != os.getpid():  # of several threads, the first one forgets
                    self._forget()
        let_others_run_while(lambda: self._joining)  # greenlets share this thread, and so its lock
        with self._lock:
            if self._closed:
                raise ClosedError(f"{self!r} is closed; make a new one")
            if self._bus is not None and self._bus.alive:
                return self._bus
            if self._joining or monotonic() < self._retry_at:
                return None
            self._joining = True
            try:
                return self._make_member(self._config_to_join())
            except BaseException:  # out of a signal handler, perhaps, and before the spaces read from the member
                bus, self._bus = self._bus, None
                if bus is not None:
                    bus.leave(0.0)
                raise
            finally:
                self._joining = False

    def _make_member(self, config: Config) -> Driver | None:
        """Make this process's member, of the group or of none.

        The lock is one that its thread can take again: a signal handler or a finalizer that uses the cache while its
        own thread is here finds no member, and loads for itself.
        """
        if config.private:
            self._bus = InlineDriver(config)
        else:
            check_threads()
            driver = ThreadDriver(config, self._log)
            try:
                driver.join()
                self._bus = driver
            except CannotJoin as error:
                self._fail_to_join(error.trouble)
                return None
            except BaseException:  # a signal handler has raised it
                driver.leave(0.0)
                raise
            self._leave_when_dropped(driver)
            _close_all_at_exit()
        self._trouble = None
        self._joined_at = monotonic()
        self._rebind(self._bus.gate)
        return self._bus

    def _is_private_by_default(self) -> bool:
        """Whether it is private where neither a test nor its settings say otherwise; for Django's test runner."""
        return False

    def _leave_when_dropped(self, bus: ThreadDriver) -> None:
        if self._finalizer is not None:  # of the member before
            self._finalizer.detach()
        # Its thread keeps the bus alive.
        self._finalizer = weakref.finalize(self, _leave_behind, weakref.ref(bus), os.getpid())
        self._finalizer.atexit = False

    def _config_to_join(self) -> Config:
        """Return the settings of a new member: this cache's own, but for what a test has put in their place."""
        settings = {"private": True, **_in_tests} if self._is_private_by_default() else _in_tests
        return replace(self.config, **settings) if settings else self.config

    def _fail_to_join(self, error: Exception) -> None:
        self._retry_at = monotonic() + RETRY
        self._log.error(
            "cannot join, caches nothing, and tries again every second: %s: %s", type(error).__name__, error
        )
        self._trouble = error

    def _adopt(self, space: Space) -> None:
        with self._lock:
            if self._copies_in(space._path) is (not space._copies):
                raise ValueError(
                    f"the namespace {space._path!r} cannot have copy={space._copies}: it is in use with "
                    f"copy={not space._copies}, and all its readers share what they find; use another namespace"
                )
            self._remember_mode(space)
            self._spaces.add(space)
            self._give_home(space)
            if self._bus is not None:
                space._gate = self._bus.gate

    def _copies_in(self, path: str) -> bool | None:
        for one_part in (False, True):
            home = self._homes.get((path, one_part))
            if home is not None:
                return home.copies
        return self._modes.get(path)

    def _remember_mode(self, space: Space) -> None:
        """Remember how a namespace is read also while nobody reads it, unless there were many others since."""
        self._modes.pop(space._path, None)
        self._modes[space._path] = space._copies
        if len(self._modes) > MAX_MODES:
            del self._modes[next(iter(self._modes))]

    def _give_home(self, space: Space) -> None:
        """Have a space find the entries of this process's member. All spaces of one namespace get the same home.

        Under the lock: of two threads that make a home at once, one would have readers who find nothing.
        """
        name = space._path, space._one_part
        home = self._homes.get(name)
        if home is None:
            store = self._bus.store if self._bus is not None else None
            home = self._homes[name] = Home(store, space._copies)
        space._home = home
        space._hits = home.hits

    def _rebind(self, gate: Gate) -> None:
        """Have the spaces read from this process's member; from nothing if there is none.

        First the entries, then the gate, while readers look at the gate first. Else:

        1. a reader finds an entry of the old member; 2. the cache is bound to a new one; 3. the reader looks at the new
        one's gate, which is open, and uses what the new member could not invalidate.
        """
        self._homes = weakref.WeakValueDictionary[tuple[str, bool], Home]()
        for space in list(self._spaces):
            self._give_home(space)
            space._gate = gate

    def _forget(self) -> None:
        """Be as if nothing had been started: at first, and in a forked child."""
        inherited, self._bus = self._bus, None
        self._lock = RLock()
        self._joining = False
        self._counting = RLock()  # held to add to the counters, because any thread may
        self._retry_at = -math.inf
        self._joined_at = 0.0
        self._counters = Counters()
        self._rebind(Gate())
        if inherited is not None:
            inherited.forget_after_fork()
        self._pid: int = os.getpid()  # last: whoever finds it here relies on all the rest

    def _position(self, bus: Driver) -> Flow[str]:
        noted: list[str] = []

        def note(peer: Peer, ticket: int, now: float) -> None:
            noted.append(scope.write_positions({peer.incarnation: peer.last}))
            peer.calls.catch_up(ticket, {}, 0.0, now)

        yield Wait(partial(bus.ask, note, None), GRACE, None, bus.abandon, local=True)
        return noted[0] if noted else ""

    def _catch_up(self, position: str, timeout: float | None) -> Flow[bool]:
        patience = self.config.fetch_timeout if timeout is None else timeout
        if not patience >= 0:  # nan, too
            raise ValueError(f"timeout={timeout!r}: give a number of seconds, 0 or more, or None")
        positions = scope.read_positions(position)
        bus = self._member()
        if bus is None or positions is None:
            return False
        wanted, otherwise = positions, CaughtUp(False)

        def wait(peer: Peer, ticket: int, now: float) -> None:
            peer.calls.catch_up(ticket, wanted, patience, now)

        done: CaughtUp = yield Wait(partial(bus.ask, wait, otherwise), patience + GRACE, otherwise, bus.abandon)
        return done.done

    def _receipts(self) -> Flow[Receipt]:
        """Wait for all that this process has announced, for a scope."""
        bus, receipt = self._own_bus(), UNKNOWN
        if bus is not None and bus.alive:
            limit = 3 * self.config.lease
            receipt = yield Wait(
                partial(bus.ask, lambda peer, ticket, now: peer.calls.await_receipt(ticket, math.inf, now), UNKNOWN),
                limit + GRACE, UNKNOWN, bus.abandon,
            )  # fmt: skip
        if not receipt.complete:
            self._tell_incomplete(receipt)
        return receipt

    # --- For the spaces

    def _encode(self, value: object, key: Key, path: str) -> bytes | None:
        """Return a value as it travels; None if it is too large. Raises TypeError, naming the key, if it cannot."""
        if type(value) is int:
            number = pack_integer(value)
            if number is not None:
                return number
        try:
            payload = self._format + self.codec.encode(value)
        except TypeError as error:
            where = f" of {path}" if path else ""
            raise TypeError(f"the value of the key {shown(key)}{where} cannot be carried: {error}") from None
        except (OversizeError, RecursionError) as error:
            self._decline(key, path, str(error))
            return None
        if len(payload) > MAX_VALUE:
            self._decline(key, path, f"it takes {len(payload)} bytes, more than {MAX_VALUE}")
            return None
        return payload

    def _decline(self, key: Key, path: str, why: str) -> None:
        """Count and log that a value is used, and not kept."""
        with self._counting:
            self._counters.oversize += 1
        self._log.warning(
            "the value of the key %s of %s is used, and not kept: %s", shown(key), path or "no namespace", why,
            about=path,
        )  # fmt: skip

    def _learn(self, function: Callable[..., Any]) -> None:
        """Let the classes travel that a function's annotations name."""
        if isinstance(self.codec, MsgpackCodec):
            self.codec.learn(function)

    def _check(self, function: Callable[..., Any]) -> None:
        """Raise TypeError if a function's return annotation names a class that cannot travel."""
        if isinstance(self.codec, MsgpackCodec):
            self.codec.check(function)

    def _decode(self, payload: bytes) -> Any:
        if payload[:4] != self._format:
            number = unpack_integer(payload)
            if number is not None:
                return number
            raise ValueError(f"it was written with another codec than {self.codec.name!r}")
        try:
            return self.codec.decode(payload[4:])
        except ValueError:
            raise
        except Exception as error:  # a codec that breaks its word must not break the application
            raise ValueError(f"the codec {self.codec.name!r} raised {type(error).__name__}: {error}") from error

    def _tell_undecodable(self, error: ValueError) -> None:
        """Log that a value of the group cannot be decoded here."""
        self._log.warning(
            "a value cannot be read here, and is loaded instead: %s. All processes of a group need the same codec and "
            "the same registered types", error,
        )  # fmt: skip

    def _tell_incomplete(self, receipt: Receipt) -> None:
        if receipt is UNKNOWN:  # the member that would have counted it is not there
            with self._counting:
                self._counters.incomplete += 1
        self._log.warning("an invalidation is not acknowledged by everybody: %s", receipt)

    def _tell_lost(self, key: Key, error: BaseException) -> None:
        """Log the exception of a load whose caller was cancelled, and so does not get it."""
        self._log.warning(
            "a load has failed after its caller was cancelled: of the key %s: %s: %s",
            shown(key), type(error).__name__, error,
        )  # fmt: skip


#: What belongs to one life of a cache, between joining and leaving.
_LIFE = ("_bus", "_serial", "_counters", "_retry_at", "_trouble", "_joined_at", "_closed", "_finalizer")

#: Settings that are in force in this process whatever a cache says; see `colocache.testing`.
_in_tests: dict[str, Any] = {}

_serials = itertools.count(1)
_caches: weakref.WeakSet[Cache] = weakref.WeakSet()
_inheriting = threading.Lock()


def _after_fork() -> None:
    """In a forked child: shut all gates first, and then forget.

    Should anything be raised in between, as by a signal handler, no cache serves what it has inherited; and each that
    has not forgotten by then does so when it is used, because it finds the pid of the parent.
    """
    inherited = list(_caches)
    for cache in inherited:
        if cache._bus is not None:
            cache._bus.shut_gate()
    for cache in inherited:
        try:
            cache._forget()
        except Exception:  # the others are to forget, too
            cache._log.exception("cannot forget yet what was inherited from the parent process")


os.register_at_fork(after_in_child=_after_fork)


def _leave_behind(bus: weakref.ref[ThreadDriver], pid: int) -> None:
    """A cache was dropped without `Cache.close`: its member leaves. Nobody waits: this thread may hold any lock."""
    member = bus()
    if member is not None and member.alive and pid == os.getpid():
        member.leave(member.patience)


def _close_all_at_exit() -> None:
    """Have the members of this process leave at its orderly end.

    Children of multiprocessing end by ``os._exit``: before Python 3.13 what is registered with atexit is not called
    there. But what is registered with multiprocessing itself is.
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
    for cache in list(_caches):
        if cache._own_bus() is not None:
            cache._retry_at = math.inf  # what still asks, at this late hour, loads for itself
    members = members_here()
    for member in members:  # all at once, and then wait for each
        member.leave(member.patience)
    for member in members:
        member.close(member.patience)  # what is not acknowledged by then, host-mates read in the journal
