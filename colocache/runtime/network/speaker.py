"""The sockets of a gateway: what it listens on, its lines to other hosts, and what wakes it.

What is said is decided by `colocache.core.hosts.gateway`. This carries it: what comes goes there, and what that returns
goes out. A message that cannot be sent is dropped, because the protocol repeats what matters.

A gateway with a message for another host sends it on its own line to it, and what answers a message goes back on the
connection that the message came by. Who is at the other end of a line is what its pong says. A client listens nowhere:
what is for it goes on the connection by which its last ping has come.

For the network thread alone.
"""

from __future__ import annotations

import _socket as system  # gevent patches the other module, and this thread has no greenlets
import contextlib
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence, Set
from time import monotonic, monotonic_ns
from typing import Final, NamedTuple, Protocol

import zmq

from ...core.hosts.gateway import Gateway, Reply, Send
from ...core.hosts.layout import LISTENERS
from ...core.hosts.messages import Ack, Message, Ping, Pong, decode, encode
from ...core.hosts.rows import Host, Incarnation
from ...core.hosts.versions import Hello, why_silent
from ...errors import WireError
from ..files import descriptors_are_scarce
from ..logs import Log
from .curve import Doorkeeper, bind_with
from .dialling import Line, State, has_come
from .discovery import Discovery
from .keys import GroupKeys
from .limits import missing
from .lookups import Lookups
from .options import set_options
from .peers import Address, usable
from .resolver import Resolver
from .settings import Settings
from .wakes import WakePipe
from .wire import (
    LARGEST_BODY,
    LARGEST_CONTROL,
    LARGEST_DATA,
    Greeting,
    data,
    is_data,
    is_hello,
    read_data,
    told_address,
)

_NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)

AT_ONCE: Final = 64  # frames of one socket that are taken before others, and the clock, get their turn
QUEUE: Final = 1000  # messages that wait for each connection
MOST_ROUTES: Final = 4096  # connections of others that are remembered
FEW: Final = 20  # hosts that are pinged twice as often as more hosts are
COMPLAIN_AFTER: Final = 5.0  # s of trouble until the log tells: hosts do not start at the same instant
HURRY_AGAIN: Final = 1.0  # s
COUNT_EVERY: Final = 60.0  # s between two looks at the limit of descriptors
SECOND: Final = 10**9


class Server(Protocol):
    """Answers requests of other hosts. The network thread calls all of it."""

    def serve(self, body: bytes, reply: Callable[[bytes], object], /) -> object:
        """Answer a request, now or later: give the answer to ``reply``, which any thread may call."""

    @property
    def has_work(self) -> bool:
        """Whether `run` has something to do now."""

    @property
    def due(self) -> float:
        """When `run` has something to do, on the monotonic clock, in seconds."""

    def run(self) -> object:
        """Go on with requests that wait."""

    def hand_over(self, ends: float, /) -> object:
        """Begin to hand over to other hosts what this one owns, until then at most: it has ended."""

    @property
    def is_handing_over(self) -> bool:
        """Whether that goes on."""

    def close(self) -> object:
        """Answer nobody any more."""


class HostStatus(NamedTuple):
    """What a gateway knows of a line to another host."""

    name: str  # of the host; empty if it never has said who it is
    address: str
    state: str  # "connecting", "connected", "refused" or "unreachable"
    trouble: str  # what is wrong, in words; may be empty
    round_trip: float | None  # s, of the last ping


class _Peer:
    """A line to an address, and who is there."""

    def __init__(self, line: Line, mine: Hello, now: float) -> None:
        self.line = line
        self.greeting = Greeting(mine)
        self.connections = 0
        self.was_connected = False
        self.host: Host | None = None  # that has answered on this connection
        self.name = ""  # of the host that has answered last
        self.id: Incarnation | None = None  # of the same
        self.hurried_at = -math.inf  # when it was dialled anew because its host was heard
        self.round_trip: float | None = None
        self.heard_at = now
        self.in_trouble_since: float | None = None
        self._awaits_hello = False

    def greet(self, now: float) -> None:
        """Say Hello on a connection that has just come to be."""
        self.connections = self.line.connections
        self.greeting = Greeting(self.greeting.mine)
        self.host = None
        self.heard_at = now
        self._awaits_hello = self.line.send(self.greeting.mine.pack())

    def hear(self, theirs: Hello) -> None:
        """Take the other side's Hello. One that nobody waits for says that it has forgotten this side's."""
        self.greeting.hear(theirs)
        if not self._awaits_hello:
            self.line.send(self.greeting.mine.pack())
        self._awaits_hello = not self._awaits_hello

    @property
    def can_hear(self) -> bool:
        """Whether what is sent now is understood."""
        return self.line.state is State.CONNECTED and self.greeting.version is not None


class _Route(Greeting):
    """A connection of somebody who has dialled this host."""

    __slots__ = ("host",)

    def __init__(self, mine: Hello) -> None:
        super().__init__(mine)
        self.host: Incarnation | None = None  # that has pinged by it


class Speaker:
    """The gateway's part of a network thread. It begins to speak once it is made."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: zmq.Poller,
        settings: Settings,
        keys: Sequence[GroupKeys] | None,
        mine: Hello,
        pipe: WakePipe,
        server: Server,
        wake: Callable[[], object],
        on_acknowledged: Callable[[], object],
        chance: Callable[[], float],
        log: Log,
    ) -> None:
        """``keys`` are None without encryption. ``wake`` interrupts the wait of the thread, if it waits.
        ``on_acknowledged`` is called after other hosts have acknowledged something.

        Raise OSError if nothing can be bound. Then call `engine_is`, before anything else.
        """
        now = monotonic()
        self.bad_frames = 0  #: that could not be read
        self.unsent = 0  #: answers that could not be sent
        self.sent = Counter[type[Message]]()  #: messages of the protocol between gateways, by their kind
        self.status: tuple[HostStatus, ...] = ()
        self._context, self._poller, self._settings, self._keys = context, poller, settings, keys
        self._mine = mine
        self._pipe = pipe
        self._server = server
        self._wake = wake
        self._on_acknowledged = on_acknowledged
        self._acknowledged = False
        self._chance = chance
        self._log = log
        self._peers: dict[Address, _Peer] = {}
        self._lines: dict[Incarnation, _Peer] = {}  # who is connected
        self._routes: OrderedDict[bytes, _Route] = OrderedDict()  # the one that was used last stands last
        self._listeners: OrderedDict[Incarnation, bytes] = OrderedDict()  # the route of each client
        self._unnoted = 0
        self._active: set[bytes] = set()  # connections that something has come by since they were counted
        self._count_at = now + COUNT_EVERY
        self._answers: deque[tuple[bytes, int, bytes]] = deque()  # given by other threads
        self._looked_up = True
        self._version = -1
        self._discovery_due = self._tick_at = now
        self._ticked = now
        self._closed = False
        self._hands_over_until: float | None = None
        self._door: Doorkeeper | None = None
        self._router: zmq.Socket[bytes] | None = None
        self._listen()
        poller.register(pipe.source, zmq.POLLIN)
        self._lookups = Lookups(
            Discovery(settings.peers, now, settings.interval, settings.forget_after), Resolver(), self._on_lookup
        )
        self._discovery = self._lookups.discovery

    def engine_is(self, make: Callable[[Host, Meetings], Gateway], id: Incarnation, weight: Callable[[], int]) -> None:
        """Have the protocol made, which says what to send."""
        self._id, self._weight = id, weight
        self._advertised = self._settings.advertise or self._listened_at()
        self._engine = make(self._me(), Meetings(self._discovery, self._strangers))

    # --- The thread's work

    def addresses(self) -> list[Address]:
        """Return the addresses that there are lines to."""
        return list(self._peers)

    @property
    def due(self) -> float:
        """When `work` must be called, even if nothing can be read."""
        return min(
            [self._tick_at, self._discovery_due, self._server.due, *[peer.line.due for peer in self._peers.values()]]
        )

    @property
    def has_work(self) -> bool:
        """Whether other threads have left something for `work`. They wake the thread only if it waits already."""
        return bool(self._answers) or self._looked_up or self._server.has_work

    def work(self, ready: Sequence[object], now: float, look: bool) -> None:
        """Do what is to be done. ``ready`` is what can be read, and ``look`` says that there are new own events."""
        if self._pipe.source in ready:
            self._pipe.rest()
            look = True
        if look:
            self._send(self._engine.look(monotonic_ns()))
        if self._door is not None and self._door.socket in ready:
            self._door.work()
        if now >= self._tick_at:
            self._tick(now)
        if self._router in ready:
            self._receive()
        for peer in list(self._peers.values()):
            if now >= peer.line.due or any(peer.line.owns(each) for each in ready):
                self._attend(peer, now)
        if self._acknowledged:
            self._acknowledged = False
            self._on_acknowledged()
        if self._hands_over_until is not None:
            self._begin_to_hand_over()
        self._server.run()
        self._give_answers()
        if self._looked_up or now >= self._discovery_due or self._discovery.version != self._version:
            self._discover(now)

    @property
    def is_connected(self) -> bool:
        """Whether this knows of each line whether there is a host that hears."""
        return self._version == self._discovery.version and all(
            peer.host or peer.line.trouble or peer.greeting.is_with_a_stranger for peer in self._peers.values()
        )

    def hand_over(self, ends: float) -> None:
        """Have what this host owns handed over to others, until then at most."""
        self._hands_over_until = ends
        self._begin_to_hand_over()

    def _begin_to_hand_over(self) -> None:
        if self._hands_over_until is not None and self.is_connected:
            ends, self._hands_over_until = self._hands_over_until, None
            self._server.hand_over(ends)

    @property
    def is_handing_over(self) -> bool:
        """Whether that goes on, or has not begun, because it is not known yet who can be reached."""
        return self._hands_over_until is not None or self._server.is_handing_over

    def say_goodbye(self) -> None:
        """Say that this host has ended, to all that can be reached. Then `close`, and give that a moment."""
        frame = self._encoded(self._engine.goodbye())
        told = {id for id, peer in self._lines.items() if peer.can_hear and peer.line.send(frame)}
        for route, other in self._routes.items():
            if other.host is not None and other.host not in told:
                self._reply(route, frame)

    def close(self, linger: float = 0.0) -> None:
        """Close everything, with the pipe. Callable twice. What was sent last may take ``linger`` seconds to leave."""
        self._server.close()
        self._lookups.close()
        for peer in self._peers.values():
            peer.line.close(linger)
        self._peers.clear()
        self._unlisten(linger)
        if not self._closed:
            self._closed = True
            self._poller.unregister(self._pipe.source)
            self._pipe.close()

    # --- Listening

    def _listen(self) -> None:
        """Let others in, unless this is a client. Raise OSError if that is not possible."""
        self._is_bound = False
        if self._settings.listen is None:
            return
        with contextlib.ExitStack() as undo:
            if self._keys is not None:
                door = Doorkeeper(self._context, self._keys)
                undo.callback(door.close)
            try:
                router = self._context.socket(zmq.ROUTER)
                undo.callback(router.close)
                set_options(router, largest=LARGEST_DATA, queue=QUEUE, chance=self._chance())
                if self._keys is not None:
                    bind_with(router, self._keys[0])
                router.bind(self._settings.listen.endpoint)
            except zmq.ZMQError as error:
                raise OSError(
                    error.errno, f"COLOCACHE_LISTEN={self._settings.listen} cannot be listened on: {error.strerror}"
                ) from error
            undo.pop_all()
        self._router, self._is_bound = router, True
        self._poller.register(router, zmq.POLLIN)
        if self._keys is not None:
            self._door = door
            self._poller.register(door.socket, zmq.POLLIN)

    def _unlisten(self, linger: float) -> None:
        for socket in (self._router, self._door.socket if self._door else None):
            if socket is not None:
                self._poller.unregister(socket)
                socket.close(linger=int(linger * 1000))
        self._router = self._door = None

    def _receive(self) -> None:
        """Take what has come from those that have dialled this host: what is about events first, then requests."""
        requests = []
        assert self._router is not None
        for number in range(AT_ONCE):
            if number and not has_come(self._router):
                break
            try:
                route, *frames = self._router.recv_multipart(_NOBLOCK)
            except zmq.ZMQError:
                break
            if len(frames) != 1:
                self._refuse(f"a message of {len(frames)} parts")
            elif not is_data(frames[0]):
                self._take_from(route, frames[0])
            elif self._understands(route):
                requests.append((route, *read_data(frames[0])))
        for request in requests:
            self._serve_one(*request)

    def _take_from(self, route: bytes, frame: bytes) -> None:
        if is_hello(frame):
            self._meet(route, frame)
        elif self._understands(route) and (message := self._decoded(frame)) is not None:
            if isinstance(message, Ping):
                self._routes[route].host = message.me.id
                self._hurry(message.me)
                self._compare_names(message.me, "")
                if not message.me.weight:
                    self._note_route(message.me.id, route)
            for each in self._answers_to(message):
                if isinstance(each, Reply):
                    self.sent[type(each.message)] += 1
                    self._reply(route, self._encoded(each.message))
                else:
                    self._send((each,))

    def _note_route(self, client: Incarnation, route: bytes) -> None:
        self._listeners[client] = route
        self._listeners.move_to_end(client)
        while len(self._listeners) > LISTENERS:
            self._listeners.popitem(last=False)

    def _hurry(self, host: Host) -> None:
        """Dial a host at once that has just been heard. libzmq waits for up to 2 s after it was not reached.

        But not while it is about to be connected, and not at every ping: a slow way would never stand.
        """
        now = monotonic()
        for peer in self._peers.values():
            is_theirs = peer.id == host.id or str(peer.line.address) == host.address
            if is_theirs and peer.line.is_apart and now >= peer.hurried_at + HURRY_AGAIN:
                peer.hurried_at = now
                peer.line.reconnect(now)

    def _answers_to(self, message: Message) -> list[Send | Reply]:
        """Have the protocol take in a message, and return what is to be sent."""
        if isinstance(message, Ack):
            self._acknowledged = True
        return self._engine.receive(message, monotonic_ns())

    def _understands(self, route: bytes) -> bool:
        """Tell whether a connection is with somebody who speaks as this host does. Say Hello if that is not known."""
        greeting = self._routes.get(route)
        if greeting is None:
            self._reply(route, self._mine.pack())
            return False
        self._routes.move_to_end(route)
        self._active.add(route)
        return greeting.version is not None

    def _meet(self, route: bytes, frame: bytes) -> None:
        theirs = self._hello(frame)
        if theirs is None:
            return
        greeting = self._routes[route] = _Route(self._mine)
        self._routes.move_to_end(route)
        greeting.hear(theirs)
        while len(self._routes) > MOST_ROUTES:
            self._routes.popitem(last=False)
        self._reply(route, self._mine.pack())
        if greeting.is_with_a_stranger:
            self._log.warning(
                "does not understand another host: %s",
                why_silent("a host that has dialled this one", self._mine, theirs),
                about=theirs,
                event="strange_version",
            )

    def _reply(self, route: bytes, frame: bytes) -> None:
        if self._router is None:
            return
        try:
            self._router.send(route, _MORE)
            self._router.send(frame, _NOBLOCK)
        except zmq.ZMQError:  # who asked is gone. But its last frames, such as a goodbye, may still be read
            self.unsent += 1

    # --- Requests

    def _serve_one(self, route: bytes, number: int, body: bytes) -> None:
        def reply(answer: bytes) -> None:
            self._answers.append((route, number, answer))
            self._wake()

        try:
            self._server.serve(body, reply)
        except Exception:
            self._log.exception("a request of another host could not be answered", event="request_failed")
        self._give_answers()

    def _give_answers(self) -> None:
        for _ in range(len(self._answers)):
            route, number, body = self._answers.popleft()
            if len(body) > LARGEST_BODY:  # it would end the connection
                self.unsent += 1
                self._log.warning(
                    "an answer of %d bytes is too large for another host", len(body), event="answer_too_large"
                )
            else:
                self._reply(route, data(number, body))

    # --- Lines

    def _attend(self, peer: _Peer, now: float) -> None:
        for _ in range(AT_ONCE):
            frames = peer.line.receive()
            if frames is None:
                break
            self._take_on(peer, frames, now)
        peer.line.look(now)
        is_connected = peer.line.state is State.CONNECTED
        if peer.was_connected and not (is_connected and peer.line.connections == peer.connections):
            self._lose(peer)
        if peer.line.connections != peer.connections:
            peer.greet(now)
        peer.was_connected = is_connected

    def _lose(self, peer: _Peer) -> None:
        host, peer.host = peer.host, None
        self._discovery.lost(_address_of(peer))
        if host is not None and self._lines.get(host.id) is peer:
            del self._lines[host.id]
            for other in self._peers.values():  # a second way to the same host
                if other.host is not None and other.host.id == host.id:
                    self._lines[host.id] = other

    def _take_on(self, peer: _Peer, frames: list[bytes], now: float) -> None:
        frame = frames[0]
        if len(frames) != 1:
            self._refuse(f"a message of {len(frames)} parts")
        elif is_hello(frame):
            theirs = self._hello(frame)
            if theirs is not None:
                peer.hear(theirs)
                peer.heard_at = now
                self._ping(peer)
        elif peer.greeting.version is not None and (message := self._decoded(frame)) is not None:
            peer.heard_at = now
            if isinstance(message, Pong) and message.me.id == self._id:
                self._discovery.is_me(_address_of(peer), now)
                return
            for each in self._answers_to(message):
                if isinstance(each, Reply):
                    self.sent[type(each.message)] += 1
                    peer.line.send(self._encoded(each.message))
                else:
                    self._send((each,))
            if isinstance(message, Pong):
                self._note_who_is_there(peer, message, now)

    def _note_who_is_there(self, peer: _Peer, pong: Pong, now: float) -> None:
        """Note which host is at the other end of a line, once the protocol knows it, so that it counts from then on."""
        address, host = _address_of(peer), pong.me
        peer.round_trip = max(0, monotonic_ns() - pong.sent) / SECOND
        if host.name in self._engine.left_out:
            self._log.error(
                "there is no room for the host %s, which nobody waits for now",
                host.name,
                about=host.name,
                event="no_room_for_host",
            )
            return
        is_new = peer.host is None or peer.host.id != host.id
        peer.host, peer.id, peer.name, peer.line.name = host, host.id, host.name, f"{host.name} ({address})"
        if is_new:
            self._lines.setdefault(host.id, peer)
            self._discovery.met(address, host.id, now)
            self._find_own_address(address)
            self._ping(peer)  # because what the protocol says may depend on who is met
        self._compare_names(host, str(address))

    def _ping(self, peer: _Peer) -> None:
        if peer.can_hear:
            ping = self._engine.ping(peer.host.id if peer.host else None, monotonic_ns())
            self.sent[Ping] += 1
            peer.line.send(self._encoded(ping))

    def _send(self, messages: Iterable[Send | Reply]) -> None:
        """Send messages, each on the line to its host."""
        last: Message | None = None
        frame = b""
        for each in messages:
            peer = self._lines.get(each.to) if isinstance(each, Send) else None
            route = self._listeners.get(each.to) if isinstance(each, Send) and peer is None else None
            if route is None and (peer is None or not peer.can_hear):
                continue
            if each.message is not last:  # an event is told to one host after another
                last, frame = each.message, self._encoded(each.message)
            self.sent[type(each.message)] += 1
            if peer is not None:
                peer.line.send(frame)
            elif route is not None:
                self._reply(route, frame)

    # --- Where hosts are

    def _on_lookup(self) -> None:
        self._looked_up = True
        self._wake()

    def _discover(self, now: float) -> None:
        """Dial what is to be dialled, and nothing else."""
        self._looked_up = False
        self._lookups.step(now)
        self._version = self._discovery.version
        wanted = [each for each in self._discovery.to_dial(now) if self._may_dial(each)]
        for address in self._peers.keys() - set(wanted):
            peer = self._peers.pop(address)
            self._lose(peer)
            peer.line.close()
        for address in wanted:
            if address not in self._peers:
                line = Line(
                    self._context, self._poller, address, str(address), self._keys,
                    largest=LARGEST_CONTROL, queue=QUEUE, chance=self._chance, now=now,
                )  # fmt: skip
                self._peers[address] = _Peer(line, self._mine, now)
        self._discovery_due = self._discovery.deadline(now)

    def _may_dial(self, address: Address) -> bool:
        """Tell whether an address may be dialled: without a secret, nothing goes where others could read it."""
        if self._keys is not None or address.is_loopback:
            return True
        self._log.error(
            "%s is not dialled, because the group has no secret: set COLOCACHE_SECRET_FILE, or COLOCACHE_SECRET, to "
            "the same secret on all hosts of the group", address, about=address, event="no_secret",
        )  # fmt: skip
        return False

    def _strangers(self) -> bool:
        """Tell whether somebody is there who does not understand this host: who shares no version, or no secret."""
        return any(
            peer.line.state is State.REFUSED
            or (peer.line.state is State.CONNECTED and peer.greeting.is_with_a_stranger)
            for peer in self._peers.values()
        )

    def _listened_at(self) -> Address | None:
        """Return the address that this host listens at, if that says where it is."""
        listen = self._settings.listen
        return None if listen is None else usable(str(listen.ip), listen.port)

    def _find_own_address(self, other: Address) -> None:
        """Find out where others find this host: at the address from which it reaches them.

        One of loopback holds until there is another one.
        """
        before, listen = self._advertised, self._settings.listen
        if listen is None:
            return
        if before is not None and (self._settings.advertise or self._listened_at() or not before.is_loopback):
            return
        self._advertised = _local_address(other, listen.port) or before
        self._engine.me = self._me()

    def _me(self) -> Host:
        return Host(self._id, self._settings.name, str(self._advertised or ""), self._weight(), self._settings.release)

    # --- Ticks

    def _tick(self, now: float) -> None:
        times = self._engine.times
        lease = times.lease / SECOND
        if now - self._ticked > lease:  # this process was stopped
            self._discovery.paused(now - self._ticked)
        self._ticked = now
        is_often = len(self._lines) <= FEW and self._weight()  # a client costs others little
        self._tick_at = now + (times.ping if is_often else times.longest_ping) / SECOND
        self._engine.me = self._me()
        self._send(self._engine.tick(monotonic_ns()))
        for peer in self._peers.values():
            if peer.was_connected and now - peer.heard_at > 2 * lease and not peer.greeting.is_with_a_stranger:
                peer.line.reconnect(now)  # libzmq takes it for well, and nothing comes
                peer.heard_at = now
            self._ping(peer)
        self._look_after_ways_in()
        if now >= self._count_at:
            self._count_descriptors(now)
        self._tell_troubles(now)
        self.status = tuple([_status(peer) for peer in self._peers.values()])

    def _look_after_ways_in(self) -> None:
        """See to it that writers can wake this thread, and that others can come in, unless descriptors are scarce."""
        before = self._pipe.source
        try:
            if self._pipe.renew():
                self._poller.unregister(before)
                self._poller.register(self._pipe.source, zmq.POLLIN)
        except OSError as error:
            self._log.warning("hears late of events of this host: %s", error, event="hears_late")
        is_scarce, listen = self._router is not None and descriptors_are_scarce(), self._settings.listen
        if is_scarce == self._is_bound and self._router is not None and listen is not None:
            # libzmq would accept, and fail, without a pause
            with contextlib.suppress(zmq.ZMQError):
                (self._router.unbind if is_scarce else self._router.bind)(listen.endpoint)
                self._is_bound = not is_scarce
        if is_scarce:
            self._log.warning(
                "lets no other host in for now, because hardly a file descriptor is left in this process: raise its "
                "limit (ulimit -n)",
                event="lets_nobody_in",
            )

    def _count_descriptors(self, now: float) -> None:
        """Compare what other hosts take with the limit."""
        self._count_at = now + COUNT_EVERY
        hosts, connections = len(self._peers), len(self._active)
        self._active.clear()
        lacking = missing(hosts, connections)
        if lacking:
            self._log.warning(
                "the limit of file descriptors is too low for the %d hosts and %d connections of the group: raise it "
                "by %d at least (ulimit -n)", hosts, connections, lacking, event="low_limit",
            )  # fmt: skip

    def _tell_troubles(self, now: float) -> None:
        if self._engine.unnoted != self._unnoted:
            self._unnoted = self._engine.unnoted
            self._log.error(
                "there are, or were, more hosts in the group than this host can remember", event="too_many_hosts"
            )
        for line in self._discovery.lines(now):
            if line.level == "warning":
                self._log.warning(
                    "looks for other hosts: %s %s", line.item, line.text, about=line.item, event="not_found"
                )
            else:
                self._log.info("looks for other hosts: %s %s", line.item, line.text, event="found_again")
        for peer in self._peers.values():
            theirs = peer.greeting.theirs
            if theirs is not None and peer.greeting.is_with_a_stranger:
                self._log.warning(
                    "does not understand another host: %s",
                    why_silent(peer.line.name, self._mine, theirs),
                    about=peer.line.name,
                    event="strange_version",
                )
            if not peer.line.trouble:
                peer.in_trouble_since = None
                continue
            if peer.in_trouble_since is None:
                peer.in_trouble_since = now
            if peer.line.state is State.REFUSED:
                self._log.warning(
                    "%s: give all hosts of the group the same COLOCACHE_SECRET_FILE, or COLOCACHE_SECRET. Until then "
                    "neither hears of the other one's invalidations", peer.line.trouble, about=peer.line.name,
                    event="other_secret",
                )  # fmt: skip
            elif now - peer.in_trouble_since >= COMPLAIN_AFTER:
                self._log.warning(
                    "%s: see whether colocache runs there, with that address in COLOCACHE_LISTEN, and whether a "
                    "firewall is between", peer.line.trouble, about=peer.line.name, event="unreachable",
                )  # fmt: skip

    def _compare_names(self, other: Host, address: str) -> None:
        """Notice two hosts with one name: two directories on one machine, or a name that was copied."""
        if other.name == self._settings.name and other.id != self._id and other.weight and self._weight():
            self._log.warning(
                "two hosts are called %r: this one (%s), and one at %s. Each has a directory of its own, so they are "
                "not one host: give processes that share a machine the same COLOCACHE_DIR, and others another "
                "COLOCACHE_HOST", other.name, self._advertised or self._settings.listen,
                address or other.address or "an unknown address", about=other.name, event="same_name",
            )  # fmt: skip

    # --- Frames

    def _hello(self, frame: bytes) -> Hello | None:
        try:
            return Hello.unpack(frame)
        except WireError as error:
            self._refuse(error)
            return None

    def _decoded(self, frame: bytes) -> Message | None:
        try:
            return decode(frame)
        except WireError as error:
            self._refuse(error)
            return None

    def _encoded(self, message: Message) -> bytes:
        frame = encode(message)
        assert len(frame) <= LARGEST_CONTROL, f"{type(message).__name__} of {len(frame)} bytes"
        return frame

    def _refuse(self, why: object) -> None:
        self.bad_frames += 1
        self._log.warning(
            "what another host says cannot be read: %s; %d so far", why, self.bad_frames, event="bad_frame"
        )


class Meetings:
    """What the protocol asks of discovery, and tells it."""

    def __init__(self, discovery: Discovery, strangers: Callable[[], bool]) -> None:
        """``strangers`` tells whether somebody is connected who lives, and speaks no version that this host speaks."""
        self._discovery = discovery
        self._strangers = strangers

    def are_complete(self, established: bool, forgotten: Set[Incarnation]) -> bool:
        """Tell whether nobody is missing: for a host that joins, or for one that is established."""
        now = monotonic()
        if self._strangers():
            return False
        return not self._discovery.silent(now) if established else self._discovery.all_met(now, forgotten)

    def tell(self, host: Host) -> None:
        """Note where a host is, as others say."""
        address = told_address(host.address)
        if address is not None:
            self._discovery.learn(address, host.id)

    def end(self, host: Incarnation, goodbye: bool) -> None:
        """Note that a host is over, and whether it has said so itself."""
        if goodbye:
            self._discovery.said_goodbye(host, monotonic())
        else:
            self._discovery.ended(host)

    def given_up(self) -> Set[int]:
        """Return hashes of the listed places where nobody is connected, and nobody is missed.

        Return no place while a stranger is there. He keeps this host behind. A successor would not know of him until it
        has dialled his place, which does not count any more.
        """
        return frozenset() if self._strangers() else self._discovery.given_up(monotonic())

    def give_up(self, places: Set[int]) -> None:
        """Miss nobody at these places, and somebody at each other listed one where nobody is connected."""
        self._discovery.give_up(places, monotonic())


def _status(peer: _Peer) -> HostStatus:
    return HostStatus(peer.name, str(_address_of(peer)), peer.line.state.value, peer.line.trouble, peer.round_trip)


def _address_of(peer: _Peer) -> Address:
    assert isinstance(peer.line.address, Address)
    return peer.line.address


def _local_address(other: Address, port: int) -> Address | None:
    """Return the address from which this host reaches another one. Nothing is sent for that."""
    family = system.AF_INET6 if ":" in other.host else system.AF_INET
    try:
        probe = system.socket(family, system.SOCK_DGRAM)
    except OSError:
        return None
    try:
        probe.connect((other.host, other.port))
        return usable(probe.getsockname()[0], port)
    except OSError:
        return None
    finally:
        probe.close()
