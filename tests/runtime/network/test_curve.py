"""Who comes in at a gateway, and who does not, whatever they send: no byte of theirs reaches the gateway."""

from __future__ import annotations

import contextlib
import resource
import socket as system
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from colocache.runtime.network.curve import AT_ONCE, DOMAIN, DOOR, Doorkeeper, bind_with, dial_with
from colocache.runtime.network.dialling import State
from colocache.runtime.network.keys import GroupKeys
from colocache.runtime.network.options import set_options

from .hosts import LARGEST, NEW, OLD, OTHER, Cast, Gateway, free_port, keys_of, until

FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
RAW = 500  # sockets that are open at once


def assert_others_get_in(cast: Cast, gateway: Gateway) -> None:
    """Have somebody with the secret ask and be answered, and nobody else be heard."""
    caller = cast.caller(gateway.endpoint, NEW)
    caller.asks = True
    until(lambda: caller.answered >= 3, caller, gateway)
    assert set(gateway.heard) <= {b"0", b"1", b"2", b"3"}
    caller.close()


class Stranger:
    """A DEALER with options of its own, which goes on sending."""

    def __init__(self, context: Any, gateway: Gateway, prepare: Callable[[Any], object]) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 10)
        prepare(self.socket)
        self.monitor = self.socket.get_monitor_socket(FAILED | zmq.EVENT_DISCONNECTED)
        self.socket.connect(gateway.endpoint)
        self.events = 0

    def step(self) -> None:
        """Send something."""
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart([b"", b"stranger"], zmq.NOBLOCK)
        if self.monitor.poll(1):
            recv_monitor_message(self.monitor)
            self.events += 1

    def close(self) -> None:
        """Hang up."""
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


def plain(socket: Any) -> None:
    """Speak no CURVE."""


def password(socket: Any) -> None:
    """Speak PLAIN."""
    socket.setsockopt(zmq.PLAIN_USERNAME, b"admin")
    socket.setsockopt(zmq.PLAIN_PASSWORD, b"admin")


def wrong_secret(socket: Any) -> None:
    """Have the secret of somebody else."""
    dial_with(socket, keys_of(OTHER)[0])


def own_key(socket: Any) -> None:
    """Know the gateway's public key, and have made a pair of one's own."""
    dial_with(socket, keys_of(NEW)[0])
    public, secret = zmq.curve_keypair()
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)


def old_secret(socket: Any) -> None:
    """Know the gateway's public key, and have a secret that is not accepted any more."""
    dial_with(socket, keys_of(NEW)[0])
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys_of(OLD)[0].client.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys_of(OLD)[0].client.secret)


@pytest.mark.parametrize("prepare", [plain, password, wrong_secret, own_key, old_secret])
def test_no_byte_comes_in_without_the_secret(cast: Cast, prepare: Callable[[Any], object]) -> None:
    gateway = cast.gateway(NEW)
    stranger = Stranger(cast.context(), gateway, prepare)
    try:
        until(lambda: stranger.events, gateway, stranger)
        assert_others_get_in(cast, gateway)
        assert gateway.door is not None
        assert gateway.door.refused == (prepare in (own_key, old_secret))  # the others do not get as far as the door
        assert gateway.door.let_in == 1
        assert gateway.door.malformed == 0
    finally:
        stranger.close()


def test_all_accepted_secrets_open_the_door(cast: Cast) -> None:
    gateway = cast.gateway(NEW, OLD)
    stranger = Stranger(cast.context(), gateway, old_secret)
    try:
        until(lambda: b"stranger" in gateway.heard, gateway, stranger)
    finally:
        stranger.close()


# --- Without a doorkeeper


@pytest.mark.parametrize("ended", [False, True], ids=["there was none", "it is closed"])
def test_nobody_comes_in_without_a_doorkeeper(cast: Cast, ended: bool) -> None:
    gateway = cast.gateway(NEW, door=ended)
    if gateway.door:
        gateway.poller.unregister(gateway.door.socket)
        gateway.door.close()
        gateway.door.close()
        gateway.door = None
    stranger = Stranger(cast.context(), gateway, lambda socket: dial_with(socket, keys_of(NEW)[0]))
    try:
        until(lambda: stranger.events >= 5, gateway, stranger)
        assert gateway.heard == []
    finally:
        stranger.close()


def test_connections_that_stand_go_on_when_the_doorkeeper_is_closed(cast: Cast) -> None:
    gateway = cast.gateway(NEW)
    caller = cast.caller(gateway.endpoint, NEW)
    caller.asks = True
    until(lambda: caller.answered >= 1, caller, gateway)
    assert gateway.door is not None
    gateway.poller.unregister(gateway.door.socket)
    gateway.door.close()
    gateway.door = None
    until(lambda: caller.answered >= 5, caller, gateway)


# --- Raw TCP


def connected(gateway: Gateway) -> system.socket:
    """Return a raw connection to a gateway."""
    return system.create_connection(("127.0.0.1", gateway.port))


def is_ended(raw: system.socket) -> bool:
    """Tell whether the other end has closed the connection."""
    try:
        while raw.recv(4096, system.MSG_DONTWAIT):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01"  # of ZMTP 3.1; a mechanism, a byte and 31 zeros follow
CURVE, NULL = (GREETING + mechanism.ljust(20, b"\0") + bytes(32) for mechanism in (b"CURVE", b"NULL"))

GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "an old version": b"\x01\x00" + b"x" * 100,
    "a greeting, then garbage": CURVE + b"\xff" * 500,
    "a greeting, then a hello of the wrong size": CURVE + b"\x04\x06\x05HELLO",
    "a greeting, then a message of 2 to the 63": CURVE + b"\x02\x7f" + b"\xff" * 7,
    "a plain greeting, then a message": NULL + b"\x04\x06\x05READY" + b"\x00\x08stranger",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_does_no_harm(cast: Cast, garbage: bytes) -> None:
    gateway = cast.gateway(NEW)
    with connected(gateway) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(garbage)
        assert_others_get_in(cast, gateway)
        until(lambda: is_ended(raw), gateway)
    assert gateway.heard[:1] == [b"0"]
    assert gateway.door is not None
    assert (gateway.door.refused, gateway.door.malformed) == (0, 0)


def test_who_connects_and_says_nothing_is_cut_off(cast: Cast) -> None:
    gateway = cast.gateway(NEW)
    with connected(gateway) as silent:
        assert_others_get_in(cast, gateway)
        until(lambda: is_ended(silent), gateway)


def test_a_slow_handshake_is_cut_off_and_keeps_nobody_out(cast: Cast) -> None:
    """It sends one byte after the other, so that each of them is news."""
    gateway = cast.gateway(NEW)
    with connected(gateway) as slow:
        greeting = iter(CURVE + b"\x04\xc8\x05HELLO" + bytes(100_000))

        def is_cut_off() -> bool:
            try:
                slow.sendall(bytes([next(greeting)]))
            except ConnectionError:
                return True
            return is_ended(slow)

        assert not is_cut_off()
        assert_others_get_in(cast, gateway)
        until(is_cut_off, gateway)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Allow this process as many files as these tests need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4 * RAW
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"this process may have only {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize("sent", [b"", *list(GARBAGE.values())[:1], GREETING], ids=["nothing", "http", "a greeting"])
def test_500_open_sockets_keep_nobody_out_and_are_cut_off(cast: Cast, sent: bytes) -> None:
    gateway = cast.gateway(NEW)
    before = cast.caller(gateway.endpoint, NEW)
    before.asks = True
    until(lambda: before.answered >= 1, before, gateway)
    with contextlib.ExitStack() as owned:
        raw = [owned.enter_context(connected(gateway)) for _ in range(RAW)]
        for each in raw:
            with contextlib.suppress(ConnectionError):
                each.sendall(sent)
        goal = before.answered + 5
        until(lambda: before.answered >= goal, before, gateway)
        caller = cast.caller(gateway.endpoint, NEW)
        caller.asks = True
        until(lambda: caller.answered >= 3, caller, gateway)
        left = {*raw}

        def all_are_ended() -> bool:
            left.difference_update([each for each in left if is_ended(each)])
            return not left

        until(all_are_ended, gateway, before)
    assert before.line.state is State.CONNECTED
    assert before.line.attempts == 1
    assert all(map(bytes.isdigit, gateway.heard))


# --- The doorkeeper's own socket


class Inside:
    """Somebody in the gateway's process who writes to its doorkeeper."""

    def __init__(self, cast: Cast) -> None:
        self.context = cast.context()
        self.door = Doorkeeper(self.context, keys_of(NEW, OLD))
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.connect(DOOR)

    def ask(self, *frames: bytes) -> list[bytes] | None:
        """Return the answer, or None."""
        self.socket.send_multipart(frames)
        assert self.door.work() == 1
        return self.socket.recv_multipart() if self.socket.poll(0) else None

    def close(self) -> None:
        """End both."""
        self.socket.close(linger=0)
        self.door.close()


@pytest.fixture
def inside(cast: Cast) -> Iterator[Inside]:
    made = Inside(cast)
    yield made
    made.close()


def raw_key(keys: GroupKeys) -> bytes:
    decoded: bytes = z85.decode(keys.client.public)
    return decoded


KEY = raw_key(keys_of(NEW)[0])


def request(**other: bytes) -> list[bytes]:
    """Return the frames of a request of libzmq's, some of them exchanged."""
    usual = {
        "empty": b"", "version": b"1.0", "id": b"7", "domain": DOMAIN, "address": b"10.0.0.7", "identity": b"",
        "mechanism": b"CURVE", "key": KEY,
    }  # fmt: skip
    return [*(usual | other).values()]


def test_the_doorkeeper_answers_as_zap_says(inside: Inside) -> None:
    assert inside.ask(*request()) == [b"", b"1.0", b"7", b"200", b"OK", b"", b""]
    assert inside.ask(*request(key=raw_key(keys_of(OLD)[0]), address=b"", identity=b"x", id=b"")) is not None
    assert (inside.door.let_in, inside.door.refused, inside.door.malformed) == (2, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": raw_key(keys_of(OTHER)[0])},
        {"key": b""},
        {"key": KEY[:31]},
        {"key": KEY + b"\0"},
        {"key": keys_of(NEW)[0].client.public},
        {"key": bytes(1 << 20)},
        {"mechanism": b"NULL"},
        {"mechanism": b"PLAIN"},
        {"mechanism": b"curve"},
        {"mechanism": b""},
        {"domain": b""},
        {"domain": b"colocache2"},
        {"domain": b"\xff"},
        {"more": b"another frame"},
    ],
    ids=lambda wrong: "-".join(f"{name} {len(value)}" for name, value in wrong.items()),
)
def test_the_doorkeeper_refuses_what_it_does_not_know(inside: Inside, wrong: dict[str, bytes]) -> None:
    answer = inside.ask(*request(**wrong))
    assert answer is not None
    assert answer[:4] == [b"", b"1.0", b"7", b"400"]
    assert answer[5:] == [b"", b""]
    assert (inside.door.let_in, inside.door.refused) == (0, 1)


@pytest.mark.parametrize(
    "frames",
    [
        *(request()[:size] for size in range(1, 7)),
        request(empty=b"x"),
        request(version=b"2.0"),
        request(version=b""),
        request(id=bytes(256)),
        [b""] * 7,
        [b"\xff" * 10] * 20,
    ],
    ids=lambda frames: f"{len(frames)}-{sum(map(len, frames))}",
)
def test_what_is_no_request_is_counted_and_gets_no_answer(inside: Inside, frames: list[bytes]) -> None:
    assert inside.ask(*frames) is None
    assert (inside.door.let_in, inside.door.refused, inside.door.malformed) == (0, 0, 1)
    assert inside.ask(*request()) is not None  # it goes on


def test_a_request_without_credentials_is_refused(inside: Inside) -> None:
    answer = inside.ask(*request()[:7])
    assert answer is not None
    assert answer[3] == b"400"


def test_the_doorkeeper_answers_a_bounded_number_at_once(inside: Inside) -> None:
    for _ in range(2 * AT_ONCE + 1):
        inside.socket.send_multipart(request())
    assert [inside.door.work() for _ in range(4)] == [AT_ONCE, AT_ONCE, 1, 0]


def test_who_has_gone_before_the_answer_does_no_harm(inside: Inside) -> None:
    inside.socket.send_multipart(request())
    inside.socket.close(linger=1000)
    ends = time.monotonic() + 30
    while not inside.door.work():
        assert time.monotonic() < ends
    assert inside.door.let_in == 1


def test_a_context_has_one_doorkeeper(inside: Inside) -> None:
    with pytest.raises(OSError, match="ZeroMQ: Address already in use"):
        Doorkeeper(inside.context, [])


# --- Options


def test_every_option_is_set_as_it_must_be(cast: Cast) -> None:
    context = cast.context()
    for kind in (zmq.DEALER, zmq.ROUTER, zmq.PUB, zmq.SUB):
        for chance, pause in ((0.0, 100), (0.5, 200), (1.0, 300)):
            with context.socket(kind) as socket:
                set_options(socket, largest=LARGEST, queue=77, chance=chance)
                found = {
                    option: socket.getsockopt(option)
                    for option in (
                        zmq.LINGER, zmq.SNDTIMEO, zmq.RCVTIMEO, zmq.MAXMSGSIZE, zmq.SNDHWM, zmq.RCVHWM, zmq.IPV6,
                        zmq.TCP_KEEPALIVE, zmq.TCP_KEEPALIVE_IDLE, zmq.TCP_KEEPALIVE_INTVL, zmq.TCP_KEEPALIVE_CNT,
                        zmq.TCP_MAXRT, zmq.HANDSHAKE_IVL, zmq.CONNECT_TIMEOUT, zmq.RECONNECT_IVL,
                        zmq.RECONNECT_IVL_MAX, zmq.BACKLOG, zmq.HEARTBEAT_IVL, zmq.IMMEDIATE,
                    )
                }  # fmt: skip
                assert [*found.values()] == [
                    0, 0, 0, LARGEST, 77, 77, 1, 1, 10, 3, 3, 5000, 2000, 2000, pause, 2000, 1024, 0,
                    int(kind == zmq.DEALER),
                ]  # fmt: skip


def test_a_router_says_that_who_asked_is_gone(cast: Cast) -> None:
    gateway = cast.gateway(NEW)
    with pytest.raises(zmq.ZMQError, match="Host unreachable"):
        gateway.router.send_multipart([b"nobody", b""])


def test_an_option_that_libzmq_refuses_is_an_error_of_the_system(cast: Cast) -> None:
    with cast.context().socket(zmq.ROUTER) as socket:
        with pytest.raises(OSError, match="ZeroMQ: Invalid argument"):
            set_options(socket, largest=LARGEST, queue=-1, chance=0.0)
        bind_with(socket, keys_of(NEW)[0])
        socket.bind(f"tcp://127.0.0.1:{free_port()}")
