"""One thread per process that owns the sockets and drives the `Peer`; the only module that imports zmq.

Web threads hand commands over through a queue and a pipe, and wait, if they wait, for an answer of their own. The
thread polls its sockets, the pipe, and, where the kernel offers them, descriptors that say when a host-mate's process
ends.

Four kinds of socket: a PUB for this member's stream and a SUB for everybody's, a ROUTER that the others' requests come
to, and a DEALER per member for requests to it. Answers go back through the ROUTER, on the connection that the member's
own requests came by. No routing id is set: a reconnecting DEALER with a fixed one would be refused as its own double.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import resource
import socket as sockets
import weakref
from collections import deque
from collections.abc import Callable
from secrets import token_bytes
from time import monotonic
from typing import Any, NamedTuple, cast

import zmq

from ..config import Config
from ..core.gate import Gate
from ..core.group.members import Member
from ..core.group.messages import MAX_BUS, MAX_LINK, MAX_SEAT
from ..core.group.peer import Peer
from ..core.group.seam import Action, Connect, Disconnect, Knock, Publish, Send, Settings
from ..core.store import Store
from ..stats import Stats
from .directory import SEATS, Directory, Neighbour, Seat
from .journal import Descriptor
from .logs import Log
from .servers import call_after_fork
from .switch_interval import HURRY, Pace
from .waiting import TOO_LATE, Answer, Asked, drained, is_patched, start_thread, thread_id

# As numbers: libzmq's own names are enums, and each use of one in a flag costs as much as a small message.
NOBLOCK, SNDMORE, RCVMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE), int(zmq.RCVMORE)
EVENTS, POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

TICK_EVERY = 0.005  # s; or each request's time-out, which has nothing to do when it comes, would cost a tick of its own
BATCH = 256  # frames taken from one socket before the others, and the clock, get their turn
GOODBYE = 200  # ms that the last frames of a leaving member, or the only one of a connection, are given
EARLY = 64  # frames kept for a link that is not connected yet; connecting takes about a millisecond
CLEAN_EVERY = 120  # scans
BINDING = 30.0  # s; it takes a few milliseconds
SPARE = 64  # descriptors; where libzmq can have none for an epoll, or to accept by ipc, it aborts the whole process


class Self(NamedTuple):
    """This process in the group, for `Cache.members`."""

    member: Member
    others: list[tuple[Member, float, bool]]


class _Command(NamedTuple):
    """What another thread wants of the bus thread."""

    carry_out: Callable[[float], None]
    refuse: Callable[[], None]  # instead, if the member has ended


class _Waker:
    """A pipe that interrupts the poll. Closed with its last reference, and so never under a thread that writes:

    1. a thread is about to wake a member; 2. the member ends, and closes the pipe; 3. the application opens a file,
    which is given the descriptor's number; 4. the thread writes into that file.
    """

    _descriptors: tuple[Descriptor, ...] = ()  # should there be none

    def __init__(self) -> None:
        self.source, self._sink = os.pipe()
        self._descriptors = Descriptor(self.source), Descriptor(self._sink)
        for descriptor in (self.source, self._sink):
            os.set_blocking(descriptor, False)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full: awake already
            os.write(self._sink, b"!")

    def rest(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.source, 4096)

    def __del__(self) -> None:
        for descriptor in self._descriptors:
            descriptor.close()


class _Link:
    """The requests' way to one member, and what the host knows of it."""

    def __init__(self, member: Member, socket: zmq.Socket[bytes], neighbour: Neighbour, endpoint: str) -> None:
        self.member = member
        self.socket = socket
        self.neighbour = neighbour
        self.bus_endpoint = endpoint
        self.early: deque[bytes] | None = deque()  # None once the link was connected
        self.death: Descriptor | None = None  # it can be read when the process has ended
        self.mended_at = monotonic()

    def let_go(self) -> None:
        """Close what the host has given, but for the socket. May be called twice, and in a forked child."""
        self.neighbour.close()
        if self.death is not None:
            self.death.close()


class Bus:
    """One member of a group, alive in this process. Commands may come from any thread."""

    def __init__(self, config: Config, log: Log | None = None) -> None:
        """Join the group: take a seat, bind, and start the thread. Raises ConfigError, and OSError with a number."""
        if _is_short_of_descriptors():
            raise OSError(errno.EMFILE, "hardly a file descriptor is left in this process")
        self._config = config
        self._log = log if log is not None else Log(config.group)
        self._pid = os.getpid()
        self.patience = min(1.0, config.lease)  # s that an end that nobody has asked for may wait
        self._host = re.sub(r"[^!-~]", "?", sockets.gethostname())[: MAX_SEAT - 8] or "localhost"
        self._commands: deque[_Command] = deque()
        self._calls: dict[int, tuple[Asked, Any]] = {}
        self._ticket = 0
        self._links: dict[bytes, _Link] = {}
        self._routes: dict[bytes, bytes] = {}  # member to the ROUTER's name for its connection
        self._deaths: dict[int, _Link] = {}
        self._sweep = 0
        self._scan_at = 0.0
        self._ticked_at = -math.inf
        self._asking_at = -math.inf  # when this process asked last
        self._pace = Pace(config.switch_interval)
        self._woken = False
        self._stopping: float | None = None  # the instant at which a goodbye waits no more
        self._ended = Answer()
        self._alive = True
        self._thread = 0  # its id
        # Whoever takes it out is to end this member: its thread, or the maker if there is no thread.
        self._begins = deque([True])
        self._behind_since: float | None = None
        self._told_behind = False
        self._unheard = True  # until a goodbye says that everybody has heard everything
        self._waker = _Waker()
        self._directory = Directory(config.group, config.directory, log=self._log)
        self._directory.open()
        self._seat: Seat = self._directory.take(token_bytes(16))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()  # never Context.instance(): that one is shared
        self._context.max_sockets = SEATS + 8  # by default there is no room for 1020 members
        self._peer = self._make_peer()
        self.gate: Gate = self._peer.gate
        self._bound = Answer()
        try:
            _buses.add(self)
            call_after_fork(_shut_inherited_gates)
            start_thread(self._run, f"colocache {config.group}")
            self._await_bound()
        except BaseException:
            if list(drained(self._begins)):
                self._release(unheard=False)  # there is no thread that would do it
            else:
                self.leave(0.0)
            raise

    def _await_bound(self) -> None:
        """Wait for the thread. It alone makes sockets, because signal handlers of the application never run there.

        1. A handler raises in the midst of a new socket; 2. libzmq has the socket, and nobody can close it; 3. to end
        libzmq's context waits for that.
        """
        error = self._bound.result(BINDING)
        if error is TOO_LATE:
            raise OSError(errno.ETIMEDOUT, "the bus thread does not get to work")
        if isinstance(error, zmq.ZMQError):
            raise OSError(error.errno, f"ZeroMQ: {error.strerror}") from error
        if error is not None:
            raise error

    def _make_peer(self) -> Peer:
        config = self._config
        me = Member(self._seat.incarnation, self._seat_name(self._seat.number), self._pid)
        settings = Settings(
            config.lease, config.max_stale, config.fetch_timeout, config.load_timeout, config.forget_after
        )
        self.store = Store(config.memory, config.memory // 4, config.policy)
        return Peer(me, settings, self.store, self._seat.journal, monotonic())

    # --- For any thread

    @property
    def alive(self) -> bool:
        """Whether the bus thread works."""
        return self._alive

    def tell(self, command: Callable[[Peer, float], None]) -> None:
        """Have the bus thread do something with the peer; nothing comes back."""
        self._order(lambda now: command(self._peer, now), lambda: None)

    def ask(self, command: Callable[[Peer, int, float], None], otherwise: Any) -> Asked:
        """Have the bus thread ask something of the peer; ``otherwise`` is the answer if this member ends first."""
        asked = Asked()

        def start(now: float) -> None:
            self._ticket += 1
            asked.ticket = self._ticket
            self._calls[self._ticket] = (asked, otherwise)
            command(self._peer, self._ticket, now)

        self._order(start, lambda: asked.give(otherwise))
        return asked

    def abandon(self, asked: Answer) -> None:
        """A call waits no more, or did not take its answer: if that was the duty to load, somebody else gets it."""
        if not isinstance(asked, Asked):
            return

        def forget(now: float) -> None:
            self._calls.pop(asked.ticket, None)
            self._peer.abandon(asked.ticket, now)

        self._order(forget, lambda: None)

    def is_awaited(self, fetch: int) -> bool:
        """Whether anybody waits for a load besides its caller. May be called from any thread, and does not wait."""
        return self._peer.is_awaited(fetch)

    def stats(self) -> Stats:
        """Return the member's figures."""
        return cast(Stats, self._look(self._peer.stats))

    def members(self) -> Self:
        """Return this member and the others."""
        return cast(Self, self._look(lambda now: Self(self._peer.me, self._peer.members())))

    def close(self, patience: float) -> None:
        """Leave the group: wait for what is not acknowledged yet, ``patience`` seconds at most, and say goodbye."""
        self.leave(patience)
        if thread_id() != self._thread:
            self._ended.result(patience + 5.0)

    def leave(self, patience: float) -> None:
        """Begin to do what `close` does, and return at once. Takes no lock: a finalizer may call it anywhere."""

        def stop(now: float) -> None:
            self._stopping = now + patience

        self._order(stop, lambda: None)

    def forget_after_fork(self) -> None:
        """In a forked child: let go of what is the parent's. The sockets cannot be closed here, and are left alone."""
        self._alive = False
        self._woken = True  # the pipe is the parent's: never write to it
        if is_patched():  # unlike threads, greenlets that wait are copied, too
            self._let_go_of_all()
        self._pace.relax()
        self._commands = deque()
        self.shut_gate()
        for link in self._links.values():
            link.let_go()
        _inherited.append((self._context, self._bus, self._ears, self._router, [*self._links.values()]))

    def _look(self, view: Callable[[float], Any]) -> Any:
        seen = Answer()
        self._order(lambda now: seen.give(_look(view, now)), lambda: seen.give(_look(view, monotonic())))
        for _ in range(50):  # slices, lest a process that was stopped for long take its own thread for dead on waking
            answer = seen.result(0.1)
            if answer is not TOO_LATE:
                break
        else:
            raise TimeoutError(f"colocache: the bus thread of the group {self._config.group!r} does not answer")
        outcome, error = answer
        if error is not None:
            raise error
        return outcome

    def _order(self, carry_out: Callable[[float], None], refuse: Callable[[], None]) -> None:
        self._commands.append(_Command(carry_out, refuse))
        self._wake()
        if not self._alive:  # the thread may have ended before it saw the command
            self._refuse_all()

    def _refuse_all(self) -> None:
        for command in drained(self._commands):
            command.refuse()

    def _let_go_of_all(self) -> None:
        self._refuse_all()
        for asked, otherwise in list(self._calls.values()):
            asked.give(otherwise)
        self._calls.clear()

    def _wake(self) -> None:
        """Interrupt the poll. The flag spares a system call per command while the thread is busy:

        1. the thread clears the flag, and then empties the queue; 2. a command is queued, and then the flag is looked
        at. Whatever comes after the queue was emptied finds the flag cleared, and writes.
        """
        if not self._woken:
            self._woken = True
            self._waker.wake()

    # --- Sockets

    def _try_to_bind(self) -> Exception | None:
        try:
            self._bind()
        except Exception as error:  # for who joins
            return error
        return None

    def _bind(self) -> None:
        self._router = self._socket(zmq.ROUTER, MAX_LINK, 1000)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._bus = self._socket(zmq.PUB, MAX_BUS, 10_000)
        self._ears = self._socket(zmq.SUB, MAX_BUS, 10_000)
        self._ears.setsockopt(zmq.SUBSCRIBE, b"")
        self._router.bind(self._seat.link_endpoint)
        self._bus.bind(self._seat.bus_endpoint)
        self._poller = zmq.Poller()
        # The PUB has nothing to be read; but libzmq frees what it has of a subscriber that is gone only when the socket
        # is looked after, and a member that announces nothing never would.
        for source in (self._waker.source, self._router, self._ears, self._bus):
            self._poller.register(source, zmq.POLLIN)
        self._seat.announce()

    def _socket(self, kind: int, largest: int, queue: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0),  # a goodbye sets its own; nothing else is worth waiting for
            (zmq.SNDTIMEO, 0),
            (zmq.RCVTIMEO, 0),
            (zmq.SNDHWM, queue),
            (zmq.RCVHWM, queue),
            (zmq.MAXMSGSIZE, largest),
            (zmq.BACKLOG, 1024),  # a whole group reconnects at once
            (zmq.HANDSHAKE_IVL, 2000),
            # No heartbeats: the kernel says at once when the other end of an ipc connection is gone, and libzmq aborts
            # the process where one is due on such a connection while the queue of what came by it is full.
            (zmq.HEARTBEAT_IVL, 0),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 2000),
        ):
            socket.setsockopt(option, value)
        return socket

    # --- The thread

    def _run(self) -> None:
        if not list(drained(self._begins)):
            return
        self._thread = thread_id()
        error = self._try_to_bind()
        if error is not None:
            self._finish()
            self._bound.give(error)
            return
        self._bound.give(None)
        try:
            self._begin()
            while not self._peer.expelled and (self._stopping is None or not self._may_stop()):
                self._step()
            if self._peer.expelled:  # its lock was lost, as when somebody deleted its files; the next call starts anew
                self._log.warning("leaves the group, because the others took this member for dead")
            else:
                self._goodbye()
        except Exception:
            # A bug, or libzmq in trouble: this member cannot go on, and must not serve. The next call starts anew.
            self._log.exception("this member has failed, and leaves the group")
        finally:
            self._finish()

    def _begin(self) -> None:
        now = monotonic()
        for sighting in self._directory.scan():
            self._peer.meet(Member(sighting.incarnation, self._seat_name(sighting.number), sighting.pid or 0), now)
        self._act(self._peer.actions())
        self._peer.start(monotonic())
        self._settle()
        self._log.info("joined on seat %s", self._peer.me.seat)

    def _step(self) -> None:
        tick_at = max(self._peer.deadline(), self._ticked_at + TICK_EVERY)
        wait = max(0.0, min(tick_at, self._scan_at, self._stopping or math.inf) - monotonic())
        ready = dict(self._poller.poll(math.ceil(wait * 1000)))
        self._obey(ready)
        for source, _ in ready.items():
            if isinstance(source, int):
                if source in self._deaths:
                    self._hear_of_death(self._deaths[source])
            else:
                self._receive(source)
        now = monotonic()
        if now >= self._scan_at:
            self._scan(now)
        if now >= self._ticked_at + TICK_EVERY and now >= self._peer.deadline():
            self._ticked_at = now
            self._peer.tick(now)
        self._act(self._peer.actions())
        self._settle()
        if max(self._peer.asked_at, self._asking_at) > now - HURRY:
            self._pace.hurry()
        else:
            self._pace.relax()

    def _obey(self, ready: dict[Any, int]) -> None:
        if self._waker.source in ready:
            self._waker.rest()
        self._woken = False
        commands = self._commands
        for _ in range(len(commands)):
            self._asking_at = monotonic()
            commands.popleft().carry_out(self._asking_at)

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        take = self._take
        if socket is self._ears:
            take = self._take_by_bus
        elif socket is self._router:
            take = self._take_request
        with contextlib.suppress(zmq.Again):
            take(socket)
            for _ in range(BATCH - 1):
                if not cast(int, socket.get(EVENTS)) & POLLIN:  # cheaper than to be told by zmq.Again
                    break
                take(socket)
        if socket is not self._ears and socket is not self._router:
            self._flush(socket)

    def _take_by_bus(self, socket: zmq.Socket[bytes]) -> None:
        self._peer.receive(socket.recv(NOBLOCK), monotonic(), bus=True)

    def _take_request(self, socket: zmq.Socket[bytes]) -> None:
        route, frame = socket.recv(NOBLOCK), b""
        while socket.get(RCVMORE):
            frame = socket.recv(NOBLOCK)
        sender = self._peer.receive(frame, monotonic())
        if sender is not None:
            self._routes[sender] = route

    def _take(self, socket: zmq.Socket[bytes]) -> None:
        self._peer.receive(socket.recv(NOBLOCK), monotonic())

    def _flush(self, socket: zmq.Socket[bytes]) -> None:
        for link in self._links.values():
            if link.socket is socket and link.early is not None:
                early, link.early = link.early, deque()
                for frame in early:
                    self._send(link, frame)
                if not link.early:
                    link.early = None
                    self._poller.modify(socket, zmq.POLLIN)

    # --- What the peer wants done

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Publish):
                self._bus.send(action.frame)
            elif isinstance(action, Send):
                self._carry(action)
            elif isinstance(action, Connect):
                self._connect(action.member)
            elif isinstance(action, Knock):
                self._knock(action)
            else:
                self._disconnect(action)

    def _carry(self, send: Send) -> None:
        route = self._routes.get(send.to) if send.reply else None
        if route is not None:
            try:
                self._router.send(route, SNDMORE)
                self._router.send(send.frame)
                return
            except zmq.ZMQError:
                del self._routes[send.to]  # that connection is gone, or its queue is full; there is another way
        link = self._links.get(send.to)
        if link is not None:
            self._send(link, send.frame)
        else:
            self._peer.counters.frames_dropped += 1

    def _send(self, link: _Link, frame: bytes) -> None:
        try:
            if link.early:
                raise zmq.Again  # what is older goes first
            link.socket.send(frame)
        except zmq.Again:
            if link.early is not None and len(link.early) < EARLY:
                link.early.append(frame)
            else:
                self._peer.counters.frames_dropped += 1

    def _connect(self, member: Member) -> None:
        """Hear a member from now on. Where the host will not let us, it counts as silent, and `_mend` tries again."""
        if member.incarnation in self._links:  # `_mend` came first
            return
        try:
            neighbour = self._directory.watch(member.incarnation)
            link = self._link_to(member, neighbour) if neighbour is not None else None
        except (OSError, zmq.ZMQError) as error:
            self._log.warning("cannot connect to %s: %s", member.seat, error)
            return
        if link is None:  # it has left again, or was cleaned up: what it announced cannot be known any more
            self._peer.end(member, None, [], monotonic())
            self._act(self._peer.actions())
            return
        self._links[member.incarnation] = link
        self._poller.register(link.socket, zmq.POLLIN | zmq.POLLOUT)
        self._await_death(link)
        self._log.debug("%s has joined", member.seat)

    def _knock(self, knock: Knock) -> None:
        with contextlib.suppress(OSError, zmq.ZMQError):  # there will be a next time
            neighbour = self._directory.watch(knock.member.incarnation)
            if neighbour is None:
                return
            with contextlib.closing(neighbour), self._socket(zmq.DEALER, MAX_LINK, 1) as socket:
                socket.setsockopt(zmq.LINGER, GOODBYE)
                socket.connect(neighbour.endpoints[0])
                socket.send(knock.frame)

    def _link_to(self, member: Member, neighbour: Neighbour) -> _Link:
        link_endpoint, bus_endpoint = neighbour.endpoints
        with contextlib.ExitStack() as undo:
            undo.callback(neighbour.close)
            socket = undo.enter_context(self._socket(zmq.DEALER, MAX_LINK, 1000))
            socket.setsockopt(zmq.IMMEDIATE, 1)  # a full or missing connection says so at once, instead of hoarding
            socket.connect(link_endpoint)
            self._ears.connect(bus_endpoint)
            undo.pop_all()
        return _Link(member, socket, neighbour, bus_endpoint)

    def _await_death(self, link: _Link) -> None:
        """Have the kernel wake us when the member's process ends; where it cannot, a scan finds out."""
        if link.neighbour.pid and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                link.death = Descriptor(os.pidfd_open(link.neighbour.pid))
                self._deaths[link.death.number] = link
                self._poller.register(link.death.number, zmq.POLLIN)

    def _disconnect(self, action: Disconnect) -> None:
        self._routes.pop(action.member.incarnation, None)
        link = self._links.pop(action.member.incarnation, None)
        if link is None:
            return
        self._poller.unregister(link.socket)
        link.socket.close()
        with contextlib.suppress(zmq.ZMQError):
            self._ears.disconnect(link.bus_endpoint)
        self._ignore_death(link)
        link.neighbour.close()
        self._log.debug("%s has left", action.member.seat)

    def _ignore_death(self, link: _Link) -> None:
        if link.death is not None:
            self._poller.unregister(link.death.number)
            del self._deaths[link.death.number]
            link.death.close()
            link.death = None

    # --- The host

    def _seat_name(self, number: int) -> str:
        return f"{self._host}/{number}"

    def _scan(self, now: float) -> None:
        """See who has come and who has gone, in case that the messages which say so were lost."""
        self._scan_at = now + self._config.lease / 6
        self._sweep += 1
        try:
            self._look_around(now)
            self._mend(now)
        except OSError as error:  # out of descriptors, perhaps; the pongs alone decide whether this member is current
            self._log.warning("cannot look for members in %s: %s", self._directory.path, error)
        for incarnation in self._routes.keys() - self._links.keys():
            del self._routes[incarnation]  # of somebody who wrote to us after its end
        self._note_state(now)

    def _look_around(self, now: float) -> None:
        for sighting in self._directory.scan():
            if sighting.incarnation not in self._links:
                member = Member(sighting.incarnation, self._seat_name(sighting.number), sighting.pid or 0)
                self._peer.meet_again(member, now)
        for link in list(self._links.values()):
            self._look_at(link)
        for sighting in self._directory.remains():
            self._bury(Member(sighting.incarnation, self._seat_name(sighting.number), 0))
        if not self._seat.tend():
            # Newcomers cannot find this member, and would not be waited for. The next call joins anew.
            self._log.warning("leaves the group, because its files in %s were deleted", self._directory.path)
            self._stopping = now
        if _is_short_of_descriptors():
            self._log.warning("leaves the group, because hardly a file descriptor is left in this process")
            self._stopping = now
        if self._sweep % CLEAN_EVERY == 0 and now < self.gate.current_until and self._knows_all_who_live():
            self._directory.clean()

    def _knows_all_who_live(self) -> bool:
        """Whether nobody on this host was forgotten, or not met yet.

        1. S is stopped, and forgotten; 2. W comes, announces an event, which all who are left acknowledge, and goes;
        3. S wakes, is met anew, and is current. It hears of the event by W's stream only: that must be there still.
        """
        living = (sighting.incarnation for sighting in self._directory.scan())
        return all(incarnation in self._links or self._peer.has_ended(incarnation) for incarnation in living)

    def _look_at(self, link: _Link) -> None:
        """Ask the kernel whether a member lives; the lock says so, whatever woke us."""
        if not link.neighbour.alive():
            self._ignore_death(link)
            self._end(link.member, link.neighbour)

    def _hear_of_death(self, link: _Link) -> None:
        """A process has ended: the member's, unless its pid was given to another one before we could watch it.

        Then the lock says that it lives, or dies with a later scan; its descriptor would wake us for ever.
        """
        self._ignore_death(link)
        self._look_at(link)

    def _bury(self, member: Member) -> None:
        """A member died before we met it."""
        if self._peer.has_ended(member.incarnation):
            return
        neighbour = self._directory.watch(member.incarnation)
        if neighbour is not None:
            self._end(member, neighbour)
            neighbour.close()

    def _end(self, member: Member, neighbour: Neighbour) -> None:
        known = self._peer.acquaintance(member.incarnation)
        last = neighbour.last()
        frames = neighbour.events(known.stream.applied + 1 if known is not None else 1) if last is not None else None
        self._peer.end(member, last, frames or [], monotonic())

    def _mend(self, now: float) -> None:
        """Reconnect to who is silent, or is heard but by replay: connections can go deaf for good without a word."""
        for other in list(self._peer.acquaintances()):
            link = self._links.get(other.member.incarnation)
            if link is None:
                self._connect(other.member)
            elif now - link.mended_at >= 2 * self._config.lease and (
                now - other.heard_at > self._config.lease or other.replays_running >= 2
            ):
                link.mended_at, other.replays_running = now, 0
                self._reconnect(link.socket, link.neighbour.endpoints[0])
                self._reconnect(self._ears, link.bus_endpoint)

    def _reconnect(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        with contextlib.suppress(zmq.ZMQError):
            socket.disconnect(endpoint)
        with contextlib.suppress(zmq.ZMQError):  # the next time, then
            socket.connect(endpoint)

    def _note_state(self, now: float) -> None:
        """Tell of a state that lasts: for a moment a member is behind whenever another one comes."""
        if monotonic() < self.gate.current_until:
            self._behind_since = None
            if self._told_behind:
                self._log.info("is current again: it hears everybody")
            self._told_behind = False
        elif self._behind_since is None:
            self._behind_since = now
        elif now >= self._behind_since + self._config.lease and not self._told_behind:
            self._told_behind = True
            self._log.info("is behind: it does not hear %s", ", ".join(self._silent()) or "itself")

    def _silent(self) -> list[str]:
        return [member.seat for member, _, heard in self._peer.members() if not heard]

    # --- Answers and the end

    def _settle(self) -> None:
        for ticket, outcome in self._peer.outcomes():
            call = self._calls.pop(ticket, None)
            if call is not None:
                call[0].give(outcome)

    def _may_stop(self) -> bool:
        return not self._peer.busy or monotonic() >= (self._stopping or 0.0)

    def _goodbye(self) -> None:
        self._unheard = self._peer.busy or not self._knows_all_who_live()
        self._peer.leave(monotonic())
        for socket in (self._bus, *(link.socket for link in self._links.values())):
            socket.setsockopt(zmq.LINGER, GOODBYE)
        self._act(self._peer.actions())
        self._log.info("left seat %s", self._peer.me.seat)

    def _finish(self) -> None:
        self.shut_gate()
        self._pace.relax()
        try:
            for link in self._links.values():
                link.let_go()
            self._release(unheard=self._unheard)
        except OSError:
            self._log.exception("the files of this member could not be put in order")
        finally:
            self._alive = False
            self._let_go_of_all()
            self._ended.give(None)

    def _release(self, *, unheard: bool) -> None:
        try:
            self._context.destroy()  # and with it its sockets: it would wait for ever for one that was forgotten
        finally:
            self._seat.release(unheard=unheard)

    def shut_gate(self) -> None:
        """Let no reader be served what this member holds. From any thread."""
        self.gate.current_until = self.gate.max_stale = -math.inf


#: Sockets of the parent that a forked child must not touch, not even to free them: libzmq would wait for I/O threads
#: that are not there.
_inherited: list[Any] = []


_buses: weakref.WeakSet[Bus] = weakref.WeakSet()


def members_here() -> list[Bus]:
    """Return the members of this process that live."""
    while True:
        with contextlib.suppress(RuntimeError):  # another thread joins at this moment
            return [bus for bus in _buses if bus.alive and bus._pid == os.getpid()]


def _shut_inherited_gates() -> None:
    """After a fork past Python's hooks: nothing that was inherited may be served until its heirs have noticed."""
    for bus in list(_buses):
        if bus._pid != os.getpid():
            bus.shut_gate()


def _is_short_of_descriptors() -> bool:
    """Whether fewer than `SPARE` more files can be opened: a new one is given the lowest number that is free."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest, next_one = os.pipe()  # no file, for there need not be any: in a container /dev/null may be missing
    except OSError:
        return True
    os.close(lowest)
    os.close(next_one)
    return limit != resource.RLIM_INFINITY and lowest > limit - SPARE


def _look(view: Callable[[float], Any], now: float) -> tuple[Any, Exception | None]:
    try:
        return view(now), None
    except Exception as error:  # for who asked; the bus thread has nothing to do with it
        return None, error
