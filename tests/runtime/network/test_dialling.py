"""Lines to other hosts: which secret they try, what they say is wrong, and that they come back."""

from __future__ import annotations

import contextlib
import errno
import socket as system
import time
from collections.abc import Iterator

import pytest
import zmq

from colocache.runtime.network import dialling
from colocache.runtime.network.addresses import parse_listen
from colocache.runtime.network.dialling import DEAF, Line, State
from colocache.runtime.network.options import HANDSHAKE, set_options

from .hosts import NEW, OLD, OTHER, Caller, Cast, Gateway, free_port, until


def ask(caller: Caller, gateway: Gateway, *others: Gateway | Caller, times: int = 1) -> None:
    """Have a caller get some more answers."""
    caller.asks, before = True, caller.answered
    until(lambda: caller.answered >= before + times, caller, gateway, *others)
    caller.asks = False


@pytest.fixture
def listener() -> Iterator[system.socket]:
    """Listen without libzmq."""
    with system.create_server(("127.0.0.1", 0)) as found:
        found.setblocking(False)
        yield found


def endpoint_of(listener: system.socket) -> str:
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


# --- Coming in


def test_a_line_with_the_right_secret_carries_questions_and_answers(cast: Cast) -> None:
    gateway = cast.gateway(NEW)
    caller = cast.caller(gateway.endpoint, NEW)
    assert (caller.line.state, caller.line.send(b"early")) == (State.CONNECTING, False)
    ask(caller, gateway, times=20)
    assert (caller.line.state, caller.line.trouble, caller.line.attempts) == (State.CONNECTED, "", 1)
    assert caller.line.due == float("inf")
    assert gateway.door is not None
    assert (gateway.door.let_in, gateway.door.refused) == (1, 0)


@pytest.mark.parametrize(
    ("theirs", "ours", "attempts"),
    [
        ([OLD], [OLD, NEW], 1),
        ([OLD, NEW], [OLD], 1),
        ([OLD, NEW], [OLD, NEW], 1),
        ([OLD, NEW], [NEW, OLD], 2),
        ([NEW, OLD], [OLD, NEW], 2),
        ([NEW, OLD], [NEW], 1),
        ([NEW], [NEW, OLD], 1),
    ],
    ids=lambda secrets: str(len(secrets)) if isinstance(secrets, list) else str(secrets),
)
def test_neighbours_in_a_change_of_the_secret_reach_each_other(
    cast: Cast, theirs: list[dialling.GroupKeys], ours: list[dialling.GroupKeys], attempts: int
) -> None:
    gateway = cast.gateway(*theirs)
    caller = cast.caller(gateway.endpoint, *ours)
    ask(caller, gateway)
    assert caller.line.attempts == attempts
    assert caller.line.state is State.CONNECTED


def test_the_secret_is_changed_in_three_steps_while_questions_go_on(cast: Cast) -> None:
    """Each step restarts one host after the other, and each host both listens and dials."""
    ports = [free_port(), free_port()]

    def start(host: int, *secrets: object) -> tuple[Gateway, Caller]:
        gateway = cast.gateway(*secrets, port=ports[host])
        caller = cast.caller(f"tcp://127.0.0.1:{ports[1 - host]}", *secrets)
        caller.asks = True
        return gateway, caller

    def all_answer() -> None:
        callers = [caller for _, caller in hosts]
        goals = [caller.answered + 5 for caller in callers]
        parts = [part for host in hosts for part in host]
        until(lambda: all(caller.answered >= goal for caller, goal in zip(callers, goals, strict=True)), *parts)

    hosts = [start(0, OLD), start(1, OLD)]
    all_answer()
    for step in ([OLD, NEW], [NEW, OLD], [NEW]):
        for number in (0, 1):
            for part in hosts[number]:
                part.close()
            hosts[number] = start(number, *step)
            all_answer()  # by the other host's old line, too, which was connected before
    assert [gateway.door.refused for gateway, _ in hosts if gateway.door] == [0, 0]


def test_what_was_asked_is_answered_after_a_restart_with_the_other_secret_first(cast: Cast) -> None:
    gateway = cast.gateway(OLD, NEW)
    caller = cast.caller(gateway.endpoint, OLD, NEW)
    ask(caller, gateway)
    gateway.close()
    until(lambda: caller.line.state is State.UNREACHABLE, caller)
    again = cast.gateway(NEW, OLD, port=gateway.port)
    ask(caller, again)
    assert caller.line.attempts == 2
    # The one that was right is the first that is tried the next time.
    again.close()
    until(lambda: caller.line.state is State.UNREACHABLE, caller)
    ask(caller, cast.gateway(NEW, port=gateway.port))
    assert caller.line.attempts == 2


def test_a_refusal_before_the_last_success_does_not_count(cast: Cast) -> None:
    gateway = cast.gateway(NEW)
    caller = cast.caller(gateway.endpoint, OLD, NEW)
    ask(caller, gateway)  # after one refusal
    gateway.close()
    until(lambda: caller.line.state is not State.CONNECTED, caller)  # a late answer would count as the next one's
    ask(caller, cast.gateway(OLD, port=gateway.port))  # after another one
    assert caller.line.attempts == 3
    assert caller.troubles <= {"", "web2:7400 cannot be reached"}


# --- What is wrong


def test_a_host_with_another_secret_is_named(cast: Cast) -> None:
    gateway = cast.gateway(OTHER)
    caller = cast.caller(gateway.endpoint, NEW, name="web2:7400")
    caller.asks = True
    until(lambda: caller.line.state is State.REFUSED, caller, gateway)
    assert caller.line.trouble == "web2:7400 refuses our secret"
    assert gateway.heard == []
    gateway.close()
    ask(caller, cast.gateway(NEW, port=gateway.port))  # once somebody has corrected it
    assert (caller.line.state, caller.line.trouble) == (State.CONNECTED, "")


def test_both_secrets_are_refused_before_that_is_said(cast: Cast) -> None:
    gateway = cast.gateway(OTHER)
    caller = cast.caller(gateway.endpoint, OLD, NEW)
    until(lambda: caller.line.trouble, caller, gateway)
    assert caller.line.state is State.REFUSED
    assert caller.line.attempts == 2


def test_a_doorkeeper_that_refuses_is_asked_again(cast: Cast) -> None:
    """After this refusal libzmq never dials again by itself."""
    gateway = cast.gateway(NEW)
    assert gateway.door is not None
    accepted, gateway.door._accepted = gateway.door._accepted, frozenset()
    caller = cast.caller(gateway.endpoint, NEW)
    until(lambda: caller.line.trouble, caller, gateway)
    assert caller.line.trouble == "web2:7400 refuses our secret"
    assert gateway.door.refused >= 2
    gateway.door._accepted = accepted
    ask(caller, gateway)


def test_a_host_that_is_not_there_is_unreachable_until_it_comes(cast: Cast) -> None:
    port = free_port()
    caller = cast.caller(f"tcp://127.0.0.1:{port}", OLD, NEW)
    until(lambda: caller.line.state is State.UNREACHABLE, caller)
    assert caller.line.trouble == "web2:7400 cannot be reached"
    assert caller.line.attempts == 1  # libzmq itself goes on
    ask(caller, cast.gateway(OLD, port=port))
    assert caller.line.attempts == 1


def test_who_accepts_and_says_nothing_is_given_up_after_the_time_for_a_handshake(
    cast: Cast, listener: system.socket
) -> None:
    caller = cast.caller(endpoint_of(listener), OLD, NEW)
    until(lambda: caller.line.state is State.UNREACHABLE, caller)
    assert caller.line.trouble == "web2:7400 accepts the connection and does not answer"
    assert caller.line.attempts == 2  # the other secret's turn


def test_who_speaks_something_else_is_not_taken_for_a_host_with_another_secret(
    cast: Cast, listener: system.socket
) -> None:
    """After this libzmq never dials again by itself, and does not even report that a handshake has failed."""
    caller = cast.caller(endpoint_of(listener), NEW)
    with contextlib.ExitStack() as owned:

        def has_answered_three() -> bool:
            nonlocal answered
            with contextlib.suppress(BlockingIOError):
                connection = owned.enter_context(listener.accept()[0])
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                answered += 1
            return answered >= 3

        answered = 0
        until(has_answered_three, caller)
        until(lambda: caller.line.trouble, caller)
    assert caller.line.state is State.UNREACHABLE
    assert caller.line.trouble == "web2:7400 does not speak as a gateway of colocache does: is it the right port?"


def test_a_plain_gateway_gets_nothing(cast: Cast) -> None:
    with cast.context().socket(zmq.ROUTER) as plain:
        caller = cast.caller(f"tcp://127.0.0.1:{plain.bind_to_random_port('tcp://127.0.0.1')}", NEW)
        caller.asks = True
        until(lambda: caller.line.trouble, caller)
        assert caller.line.state in (State.REFUSED, State.UNREACHABLE)  # which side ends it first is chance
        assert not plain.poll(0)


# --- Connections that go deaf


def test_a_line_that_libzmq_has_given_up_is_dialled_anew(cast: Cast) -> None:
    """A message that is too large ends the connection for the side that has dialled, and libzmq leaves it at that."""
    gateway = cast.gateway(NEW)
    caller = cast.caller(gateway.endpoint, NEW)
    ask(caller, gateway)
    gateway.router.setsockopt(zmq.MAXMSGSIZE, -1)
    route = b""

    def asked() -> bool:
        nonlocal route
        caller.line.send(b"x")
        if gateway.router.poll(1):
            route = gateway.router.recv_multipart()[0]
        return bool(route)

    until(asked, caller)
    gateway.router.send_multipart([route, bytes(1 << 20)])
    until(lambda: caller.line.state is not State.CONNECTED, caller)
    assert caller.line.due < time.monotonic() + DEAF + 1
    caller.line.look(caller.line.due)  # nothing has happened until then
    assert caller.line.attempts == 2
    ask(caller, gateway)


def test_who_sees_that_a_line_is_deaf_can_have_it_dialled_anew(cast: Cast) -> None:
    gateway = cast.gateway(NEW, OLD)
    caller = cast.caller(gateway.endpoint, OLD, NEW)
    ask(caller, gateway)
    caller.line.reconnect(time.monotonic())
    assert caller.line.state is State.CONNECTING
    ask(caller, gateway)
    assert caller.line.attempts == 3  # the second one with the secret that was right
    caller.line.close()
    caller.line.reconnect(time.monotonic())
    assert caller.line.attempts == 3


# --- Sockets


def test_lines_leave_nothing_open_and_nothing_in_the_poller(cast: Cast) -> None:
    gateway = cast.gateway(OTHER)
    caller = cast.caller(gateway.endpoint, OLD, NEW)
    until(lambda: caller.line.attempts >= 4, caller, gateway)
    assert len(caller.poller.sockets) in (0, 2)  # 0: in a pause
    assert all(caller.line.owns(socket) for socket, _ in caller.poller.sockets)
    caller.line.close()
    caller.line.close()
    assert caller.poller.sockets == []
    assert not caller.line.send(b"x")
    assert caller.line.receive() is None
    caller.line.look(time.monotonic() + 1000)
    assert caller.poller.sockets == []


def test_a_system_without_descriptors_is_a_trouble_and_tried_again(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    gateway = cast.gateway(NEW)
    monkeypatch.setattr(dialling, "set_options", refuse)
    caller = cast.caller(gateway.endpoint, NEW)
    assert caller.line.trouble == "web2:7400 cannot be dialled: Too many open files"
    assert caller.line.state is State.UNREACHABLE
    assert caller.poller.sockets == []
    monkeypatch.setattr(dialling, "set_options", set_options)
    assert caller.line.due < time.monotonic() + 10
    caller.line.look(caller.line.due)
    ask(caller, gateway)


def test_a_line_needs_a_secret(cast: Cast) -> None:
    with pytest.raises(ValueError, match="no secret"):
        Line(
            cast.context(),
            zmq.Poller(),
            parse_listen("127.0.0.1:7400"),
            "web2:7400",
            [],
            largest=1,
            queue=1,
            chance=lambda: 0.0,
            now=0.0,
        )


def test_the_time_tells_silence_from_a_refusal_where_the_error_is_somebody_elses(cast: Cast) -> None:
    now = time.monotonic()
    for seconds, state in ((0.1, State.REFUSED), (HANDSHAKE, State.UNREACHABLE)):
        line = cast.caller(f"tcp://127.0.0.1:{free_port()}", NEW).line
        for _ in range(2):
            line._take(zmq.EVENT_CONNECTED, 7, now)
            line._take(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, errno.EPIPE, now + seconds)
        assert line.state is state


def test_events_are_looked_at_in_bounds(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = cast.gateway(NEW)
    monkeypatch.setattr(dialling, "EVENTS_AT_ONCE", 1)
    ask(cast.caller(gateway.endpoint, NEW), gateway)


def test_ipv6_works(cast: Cast) -> None:
    if not system.has_ipv6:
        pytest.skip("this system has no IPv6")
    gateway = cast.gateway(NEW, host="[::1]")
    ask(cast.caller(gateway.endpoint, NEW), gateway)


@pytest.mark.parametrize(("host", "dialled"), [("0.0.0.0", ["127.0.0.1"]), ("[::]", ["127.0.0.1", "[::1]"])])
def test_who_listens_everywhere_is_reached_by_each_kind_of_address(cast: Cast, host: str, dialled: list[str]) -> None:
    gateway = cast.gateway(NEW, host=host)
    for each in dialled:
        ask(cast.caller(f"tcp://{each}:{gateway.port}", NEW), gateway)
