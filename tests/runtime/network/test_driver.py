"""The network threads of several hosts: they meet, tell events, and answer each other."""

from __future__ import annotations

import contextlib
import os
import socket as system
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from colocache.core.hosts.rows import ENDED_AT, Row
from colocache.core.hosts.versions import Hello
from colocache.runtime.network import dialling, limits, links, options, session, speaker
from colocache.runtime.network.addresses import parse_listen
from colocache.runtime.network.peers import Address
from colocache.runtime.network.wakes import pipe_of
from colocache.runtime.network.wire import LARGEST_BODY, data, hello

from .driven import PATIENCE, Cast, OneProcess, Process, until
from .hosts import NEW, OLD, OTHER, free_port


@pytest.fixture
def stranger(stage: Cast) -> Iterator[Callable[[str], Any]]:
    """Connect to a host with nothing but libzmq."""
    context: zmq.Context[Any] = zmq.Context()

    made = []

    def connect(name: str) -> Any:
        socket = context.socket(zmq.DEALER)
        made.append(socket)
        socket.connect(f"tcp://{stage.address(name)}")
        return socket

    yield connect
    for each in made:
        each.close(linger=0)
    context.term()


def heard(socket: Any) -> list[bytes]:
    """Return the next message that has come."""
    assert socket.poll(PATIENCE * 1000)
    found: list[bytes] = socket.recv_multipart()
    return found


# --- Meeting


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_hosts_that_list_each_other_meet_and_are_current(stage: Cast, names: tuple[str, ...]) -> None:
    made = stage.hosts(*names)
    for each in made:
        others = {*names} - {each.settings.name}
        wanted = {(other, stage.address(other), "connected", "") for other in others}
        until(lambda each=each, wanted=wanted: {line[:4] for line in each.network.status()} == wanted)  # type: ignore[misc]
        assert all(line.round_trip for line in each.network.status())


def test_one_host_that_both_list_makes_two_others_meet(stage: Cast) -> None:
    stage.meet(stage.host("a", "b"), stage.host("b", "a"), stage.host("c", "a"))


def test_hosts_meet_by_ipv6(stage: Cast) -> None:
    try:
        system.create_server(("::1", 0), family=system.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    first, second = f"[::1]:{free_port()}", f"[::1]:{free_port()}"
    a = stage.host("a", second, listen=parse_listen(first))
    b = stage.host("b", first, listen=parse_listen(second))
    stage.meet(a, b)
    assert a.request(b.id, b"x") == b"x"
    assert a.memory.rows.host(b.id).address == second


def test_a_host_that_is_alone_is_current(stage: Cast) -> None:
    until(stage.host("a").is_current)
    until(stage.host("b", "b").is_current)


def test_a_host_does_not_keep_a_line_to_itself(stage: Cast) -> None:
    a, b = stage.host("a", "a", "b"), stage.host("b", "a", "b")
    stage.meet(a, b)
    until(lambda: [line.name for line in a.network.status()] == ["b"])


def test_a_host_is_not_current_before_it_has_met_all_that_are_listed(stage: Cast) -> None:
    a = stage.host("a", "b", "c")
    b = stage.host("b", "a", "c")
    until(lambda: a.knows(b) and b.knows(a))
    until(lambda: any(line.name == "b" and line.round_trip for line in a.network.status()))
    assert not a.is_current()
    stage.meet(a, b, stage.host("c", "a", "b"))


def test_a_host_tells_the_address_from_which_it_reaches_others(stage: Cast) -> None:
    a = stage.host("a", "b", secrets=(NEW,))
    b = stage.host("b", "a", secrets=(NEW,), bind="0.0.0.0")
    stage.meet(a, b)
    until(lambda: a.memory.rows.host(b.id).address == stage.address("b"))


def test_a_host_tells_the_address_that_it_was_given(stage: Cast) -> None:
    a = stage.host("a", "b")
    b = stage.host("b", "a", advertise=Address("127.0.0.9", 7))
    stage.meet(a, b)
    assert a.memory.rows.host(b.id).address == "127.0.0.9:7"


def test_two_hosts_with_one_name_are_both_named(stage: Cast, caplog: pytest.LogCaptureFixture) -> None:
    stage.host("b", "c", name="web1")
    stage.host("c", "b", name="web1")
    until(lambda: "two hosts are called 'web1'" in caplog.text)
    assert stage.address("b") in caplog.text
    assert stage.address("c") in caplog.text


# --- Events


def only_who_is_woken_looks(host: Process, other: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a host look at its events neither at its ticks, nor when it is pinged."""
    monkeypatch.setattr(host.engine, "tick", lambda now: [])
    monkeypatch.setattr(other.network._speaker, "_ping", lambda peer: None)


def test_an_event_is_applied_by_all_others_and_acknowledged(stage: Cast) -> None:
    a, b, c = stage.hosts("a", "b", "c")
    bell = b.memory.board.bell[0]
    position = a.append(1, 2)
    until(lambda: a.is_acknowledged(position, b, c))
    assert b.has_applied(a, position)
    assert b.memory.board.bell[0] != bell
    assert (1, 2) in [event.hashes for event in b.applied]


def test_many_events_at_once_are_all_acknowledged(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    for number in range(2000):
        position = a.append(number)
    until(lambda: a.is_acknowledged(position, b))
    assert {number for event in b.applied for number in event.hashes} >= {*range(2000)} or b.engine.resets  # type: ignore[union-attr]


def test_a_process_that_is_not_the_gateway_wakes_it(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    office = OneProcess()
    first = stage.host("a", "b", election=office.seat())
    b = stage.host("b", "a")
    stage.meet(first, b)
    second = stage.host("a", "b", election=office.seat())
    until(lambda: second.network._session is not None)
    only_who_is_woken_looks(first, b, monkeypatch)
    position = second.append(1)
    until(lambda: first.is_acknowledged(position, b))
    assert not second.network.is_gateway
    assert second.network.status() == ()


def test_a_pipe_that_was_deleted_is_made_anew(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    office = OneProcess()
    first = stage.host("a", "b", election=office.seat())
    b = stage.host("b", "a")
    stage.meet(first, b)
    second = stage.host("a", "b", election=office.seat())
    second.network.event_appended()  # it has the pipe open
    pipe = Path(pipe_of(str(first.memory.path), 0))
    pipe.unlink()
    second.network.event_appended()  # there is none: nothing happens
    until(pipe.exists)
    only_who_is_woken_looks(first, b, monkeypatch)
    position = second.append(1)
    until(lambda: first.is_acknowledged(position, b))


# --- Requests


def test_a_request_is_answered(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    assert a.request(b.id, b"what?") == b"what?"
    assert a.request(b.id, b"") == b""
    assert b.served == [b"what?", b""]


def test_many_threads_get_each_its_own_answer(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    wrong: list[object] = []

    def ask(number: int) -> None:
        for step in range(50):
            body = b"%d %d" % (number, step)
            if a.request(b.id, body) != body:
                wrong.append(body)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_a_process_that_is_no_gateway_asks_too(stage: Cast) -> None:
    office = OneProcess()
    a, b = stage.host("a", "b", election=office.seat()), stage.host("b", "a")
    stage.meet(a, b)
    worker = stage.host("a", "b", election=office.seat())
    until(lambda: worker.network._session is not None)
    assert worker.request(b.id, b"x") == b"x"


def test_an_answer_may_come_later_and_from_another_thread(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    b.answer = lambda body, reply: threading.Timer(0.01, reply, (body,)).start()
    assert a.request(b.id, b"x") == b"x"


def test_what_is_not_answered_in_time_is_none_and_a_late_answer_is_dropped(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    replies: list[Callable[[bytes], object]] = []
    b.answer = lambda body, reply: replies.append(reply)
    assert a.request(b.id, b"x", timeout=0.05) is None
    until(lambda: replies)
    replies[0](b"late")
    until(lambda: a.network.figures()["late_answers"] == 1)
    assert a.network.figures()["unanswered"] == 1


def test_a_host_that_nobody_knows_is_not_asked(stage: Cast) -> None:
    a, _ = stage.hosts("a", "b")
    assert a.request(b"?" * 16, b"x") is None


def test_a_request_to_where_nobody_listens_is_none(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    assert b.network.close(PATIENCE)
    assert a.request(b.id, b"x") is None


def test_a_request_is_answered_again_once_the_other_host_is_back(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    assert a.request(b.id, b"x") == b"x"
    assert b.network.close(PATIENCE)
    assert a.request(b.id, b"x") is None
    b = stage.host("b", "a")
    until(lambda: a.request(b.id, b"x") == b"x")


def test_what_is_asked_before_the_thread_runs_and_after_its_end_is_none(stage: Cast) -> None:
    a = stage.host("a", start=False)
    assert a.request(b"?" * 16, b"x") is None
    a.network.start()
    until(lambda: a.network.is_gateway)
    a.network.close(PATIENCE)
    assert a.request(b"?" * 16, b"x") is None


def test_what_is_under_way_at_the_end_is_none(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    b.answer = lambda body, reply: None
    answers: list[bytes | None] = []
    a.network.request(b.id, b"x", answers.append, PATIENCE)
    until(lambda: b.served)
    a.network.close(PATIENCE)
    assert answers == [None]


@pytest.mark.parametrize("size", [1, 65536, 1 << 20, LARGEST_BODY])
def test_answers_and_requests_may_be_as_large_as_a_value(stage: Cast, size: int) -> None:
    a, b = stage.hosts("a", "b")
    body = os.urandom(16) * (size // 16 + 1)
    assert a.request(b.id, body[:size]) == body[:size]


def test_what_is_too_large_is_not_sent(stage: Cast, caplog: pytest.LogCaptureFixture) -> None:
    a, b = stage.hosts("a", "b")
    assert a.request(b.id, bytes(LARGEST_BODY + 1)) is None
    b.answer = lambda body, reply: reply(bytes(LARGEST_BODY + 1))
    assert a.request(b.id, b"x", timeout=0.2) is None
    until(lambda: "too large for another host" in caplog.text)
    b.answer = lambda body, reply: reply(b"well")
    assert a.request(b.id, b"x") == b"well"


def test_who_fails_to_answer_goes_on(stage: Cast, caplog: pytest.LogCaptureFixture) -> None:
    a, b = stage.hosts("a", "b")

    def fail(body: bytes, reply: Callable[[bytes], object]) -> None:
        raise RuntimeError("a bug")

    answer, b.answer = b.answer, fail
    assert a.request(b.id, b"x", timeout=0.05) is None
    b.answer = answer
    assert a.request(b.id, b"x") == b"x"
    until(lambda: "a request of another host could not be answered" in caplog.text)
    assert b.network.failures == 0


def test_who_fails_to_take_an_answer_does_no_harm(stage: Cast, caplog: pytest.LogCaptureFixture) -> None:
    a, b = stage.hosts("a", "b")
    a.network.request(b.id, b"x", lambda answer: 1 // 0, PATIENCE)
    until(lambda: "an answer of another host could not be taken in" in caplog.text)
    assert a.request(b.id, b"x") == b"x"


def test_few_links_serve_many_hosts(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MOST", 1)
    a, b, c = stage.hosts("a", "b", "c")
    for _ in range(3):
        assert (a.request(b.id, b"b"), a.request(c.id, b"c")) == (b"b", b"c")
    assert len(a.network._session._links._links) == 1  # type: ignore[union-attr]


def test_a_link_that_is_busy_is_not_closed_for_another(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MOST", 1)
    a, b, c = stage.hosts("a", "b", "c")
    replies: list[Callable[[bytes], object]] = []
    b.answer = lambda body, reply: replies.append(reply)
    answers: list[bytes | None] = []
    a.network.request(b.id, b"x", answers.append, PATIENCE)
    until(lambda: replies)
    assert a.request(c.id, b"x") is None
    replies[0](b"y")
    until(lambda: answers == [b"y"])


def test_a_link_is_closed_when_nothing_was_asked_for_a_while(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "IDLE", 0.05)
    a, b = stage.hosts("a", "b")
    assert a.request(b.id, b"x") == b"x"
    until(lambda: not a.network._session._links._links)  # type: ignore[union-attr]
    assert a.request(b.id, b"x") == b"x"


def test_there_is_a_limit_to_what_is_under_way(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MOST_ASKED", 1)
    a, b = stage.hosts("a", "b")
    b.answer = lambda body, reply: None
    answers: list[bytes | None] = []
    a.network.request(b.id, b"x", answers.append, PATIENCE)
    until(lambda: b.served)
    assert a.request(b.id, b"y") is None
    assert answers == []


# --- Secrets


def test_hosts_with_one_secret_meet_and_answer(stage: Cast) -> None:
    a, b, c = stage.hosts("a", "b", "c", secrets=(NEW,))
    position = a.append(1)
    until(lambda: a.is_acknowledged(position, b, c))
    assert a.request(b.id, b"x") == b"x"


def test_a_secret_is_changed_host_by_host(stage: Cast) -> None:
    a, b = stage.host("a", "b", secrets=(OLD, NEW)), stage.host("b", "a", secrets=(NEW, OLD))
    stage.meet(a, b)
    assert (a.request(b.id, b"x"), b.request(a.id, b"y")) == (b"x", b"y")


def test_a_host_with_another_secret_is_named(stage: Cast, caplog: pytest.LogCaptureFixture) -> None:
    a, b = stage.host("a", "b", secrets=(NEW,)), stage.host("b", "a", secrets=(OTHER,))
    until(lambda: f"{stage.address('b')} refuses our secret: give all hosts of the group the same" in caplog.text)
    assert not a.knows(b)
    assert not a.is_current()
    assert OTHER.text not in caplog.text
    assert NEW.text not in caplog.text
    until(lambda: [line.state for line in a.network.status()] == ["refused"])


def test_who_has_no_secret_gets_nothing(stage: Cast, stranger: Callable[[str], Any]) -> None:
    a = stage.host("a", "b", secrets=(NEW,))
    until(lambda: a.network.is_gateway)
    socket = stranger("a")
    for _ in range(3):
        socket.send(hello("1").pack())
        socket.send(data(1, b"x"))
    b = stage.host("b", "a", secrets=(NEW,))
    stage.meet(a, b)
    assert not socket.poll(0)
    assert a.served == []


def test_nothing_is_dialled_in_plain_text_beyond_loopback(stage: Cast, caplog: pytest.LogCaptureFixture) -> None:
    a = stage.host("a", "192.0.2.1:7400")
    until(lambda: "192.0.2.1:7400 is not dialled, because the group has no secret" in caplog.text)
    assert a.network.status() == ()


# --- Versions


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the release of a host say which versions it speaks: ``2-3``."""

    def by_release(release: str) -> Hello:
        lowest, highest = release.split("-") if "-" in release else ("1", "1")
        return Hello(int(lowest), int(highest), release)

    monkeypatch.setattr(session, "hello", by_release)


def test_a_host_that_has_no_room_for_another_one_says_so_and_goes_on(
    stage: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = stage.hosts("a", "b")
    with monkeypatch.context() as full:
        full.setattr(Row, "make_room_for", lambda row, id: False)
        until(lambda: "more hosts in the group than this host can remember" in caplog.text)
        until(lambda: not a.is_current() and not b.is_current())
    stage.meet(a, b)
    assert a.network.failures == b.network.failures == 0


@pytest.mark.usefixtures("versions")
def test_hosts_that_share_a_version_meet(stage: Cast) -> None:
    a, b = stage.host("a", "b", release="1-2"), stage.host("b", "a", release="2-3")
    stage.meet(a, b)
    assert a.request(b.id, b"x") == b"x"


@pytest.mark.usefixtures("versions")
def test_a_host_that_shares_no_version_is_named_and_nobody_is_current(
    stage: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = stage.host("a", "b", release="1-2", forget_after=0.5)
    b = stage.host("b", "a", release="3-4")
    until(lambda: f"{stage.address('b')} speaks the versions 3 to 4 of the protocol" in caplog.text)
    until(lambda: "update colocache in" in caplog.text)
    discovery = a.network._speaker._discovery  # type: ignore[union-attr]
    until(lambda: discovery.all_met(time.monotonic()) and not discovery.silent(time.monotonic()))
    settled: list[object] = []
    monkeypatch.setattr(a.engine, "_settle", lambda now, settle=a.engine._settle: settled.append(settle(now)))  # type: ignore[union-attr]
    until(lambda: len(settled) == 2)
    assert not a.knows(b)
    assert not b.knows(a)
    assert not a.is_current()


def test_the_release_is_said(stage: Cast, stranger: Callable[[str], Any]) -> None:
    a = stage.host("a", release="0.3.1")
    until(lambda: a.network.is_gateway)
    socket = stranger("a")
    socket.send(hello("1").pack())
    assert Hello.unpack(*heard(socket)).release == "0.3.1"


def test_what_comes_in_no_version_of_this_host_is_dropped(stage: Cast, stranger: Callable[[str], Any]) -> None:
    a = stage.host("a")
    until(lambda: a.network.is_gateway)
    socket = stranger("a")
    for first in (9, 1):
        socket.send(Hello(first, first).pack())
        heard(socket)
        socket.send(data(first, b"%d" % first))
    assert heard(socket) == [data(1, b"1")]
    assert a.served == [b"1"]


# --- Strangers


def test_who_says_no_hello_gets_one_and_nothing_else(stage: Cast, stranger: Callable[[str], Any]) -> None:
    a = stage.host("a")
    until(lambda: a.network.is_gateway)
    socket = stranger("a")
    socket.send(data(1, b"x"))
    assert Hello.unpack(*heard(socket)).highest == 1
    socket.send(hello("1").pack())
    heard(socket)
    socket.send(data(7, b"x"))
    assert heard(socket) == [data(7, b"x")]
    assert a.served == [b"x"]


def test_what_cannot_be_read_is_counted_and_logged(
    stage: Cast, stranger: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = stage.hosts("a", "b")
    socket = stranger("a")
    good = hello("1").pack()
    for frames in (
        [good[:-3]],
        [good],
        [b""],
        [b"\xc1"],
        [b"x" * (300 << 10)],
        [b"1", b"2"],
        [b"1"] * 3,
        [b"\x92\x05\x05"],
    ):
        socket.send_multipart(frames)
    until(lambda: a.network.figures()["bad_frames"] == 7)
    until(lambda: "what another host says cannot be read" in caplog.text)
    position = a.append(1)
    until(lambda: a.is_acknowledged(position, b))
    assert a.network.failures == 0


def test_a_host_whose_hello_was_forgotten_says_it_again(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    assert b.request(a.id, b"x") == b"x"
    routes = a.network._speaker._routes  # type: ignore[union-attr]
    known = [*routes]
    assert len(known) == 2
    for each in known:
        del routes[each]
    until(lambda: b.request(a.id, b"x", timeout=0.2) == b"x")
    until(lambda: b.id in [route.host for route in [*routes.values()]])
    assert {*routes} == {*known}


def test_connections_are_forgotten_if_there_are_too_many(
    stage: Cast, stranger: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker, "MOST_ROUTES", 2)
    a = stage.host("a")
    until(lambda: a.network.is_gateway)
    for _ in range(5):
        socket = stranger("a")
        socket.send(hello("1").pack())
        heard(socket)
    assert len(a.network._speaker._routes) == 2  # type: ignore[union-attr]


# --- The office


def test_the_next_process_takes_over_from_a_gateway_that_leaves(stage: Cast) -> None:
    office = OneProcess()
    first, second = stage.host("a", "b", election=office.seat()), stage.host("a", "b", election=office.seat())
    b = stage.host("b", "a")
    until(lambda: first.network.is_gateway or second.network.is_gateway)
    gateway, other = (first, second) if first.network.is_gateway else (second, first)
    stage.meet(gateway, b)
    assert gateway.network.close(PATIENCE)
    until(lambda: other.network.is_gateway)
    position = other.append(1)
    until(lambda: other.is_acknowledged(position, b))
    position = b.append(2)
    until(lambda: b.is_acknowledged(position, other))


def test_a_successor_finds_hosts_that_no_list_names(stage: Cast) -> None:
    office = OneProcess()
    first = stage.host("a", "b", election=office.seat())
    b = stage.host("b", "a")
    c = stage.host("c", "b")
    stage.meet(first, b, c)
    second = stage.host("a", "b", election=office.seat())
    c.network._speaker._ping = lambda peer: None  # type: ignore[method-assign, union-attr]  # so it does not say where it is
    b.network.close(PATIENCE)
    first.network.close(PATIENCE)
    until(lambda: second.network.is_gateway and c.id in second.network._speaker._lines)  # type: ignore[union-attr]
    position = second.append(1)
    until(lambda: second.is_acknowledged(position, c))


def test_two_addresses_of_one_host_are_one_line(stage: Cast) -> None:
    port = stage.address("b").rpartition(":")[2]
    a = stage.host("a", f"127.0.0.1:{port}", f"127.0.0.2:{port}", secrets=(NEW,))
    b = stage.host("b", "a", secrets=(NEW,), bind="0.0.0.0")
    stage.meet(a, b)
    until(lambda: [line.name for line in a.network.status()] == ["b"])
    assert b.id in a.network._speaker._lines  # type: ignore[union-attr]
    position = a.append(1)
    until(lambda: a.is_acknowledged(position, b))


def test_a_change_of_processes_is_noticed_at_once(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "TRY_EVERY", 1e6)
    office = OneProcess()
    first = stage.host("a", election=office.seat())
    until(lambda: first.network.is_gateway)
    second = stage.host("a", election=office.seat())
    until(lambda: second.network._session is not None)
    first.network.close(PATIENCE)
    office.changes += 1
    second.request(b"?" * 16, b"x")  # the thread looks when it is awake
    until(lambda: second.network.is_gateway)


def test_a_process_that_is_preferred_takes_over_first(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LEAVE_TO_PREFERRED", 1e6)
    monkeypatch.setattr(session, "TRY_EVERY", 0.01)
    monkeypatch.setattr(session, "PREFERRED_EVERY", 0.3)
    office = OneProcess()
    first = stage.host("a", election=office.seat())
    until(lambda: first.network.is_gateway)
    stage.host("a", election=office.seat())
    server = stage.host("a", election=office.seat(), is_preferred=True)
    until(lambda: office.preferred is not None)
    first.network.close(PATIENCE)
    until(lambda: server.network.is_gateway)


def test_others_take_over_if_who_is_preferred_does_not(stage: Cast) -> None:
    office = OneProcess()
    office.preferred = office.seat()
    a = stage.host("a", election=office.seat())
    until(lambda: a.network.is_gateway)


def test_a_port_that_is_taken_is_named_and_tried_again(stage: Cast, caplog: pytest.LogCaptureFixture) -> None:
    other: zmq.Context[Any] = zmq.Context()
    taken = other.socket(zmq.ROUTER)
    taken.bind(f"tcp://{stage.address('a')}")
    office = OneProcess()
    a = stage.host("a", election=office.seat())
    until(lambda: f"COLOCACHE_LISTEN={stage.address('a')} cannot be listened on: Address already in use" in caplog.text)
    assert not a.network.is_gateway
    until(lambda: office.holder is None)
    other.destroy(linger=0)
    until(lambda: a.network.is_gateway)
    until(lambda: a.is_current())


# --- Ends and failures


def test_a_host_that_says_goodbye_has_ended(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    position = a.append(1)
    a.network.say_goodbye()
    assert a.network.close(PATIENCE)
    until(lambda: b.memory.rows.state(a.id) == ENDED_AT)
    assert b.has_applied(a, position)
    until(lambda: b.is_current())


def test_a_last_process_that_was_no_gateway_says_goodbye_too(stage: Cast) -> None:
    office = OneProcess()
    first, b = stage.host("a", "b", election=office.seat()), stage.host("b", "a")
    stage.meet(first, b)
    second = stage.host("a", "b", election=office.seat())
    until(lambda: second.network._session is not None)
    first.network.close(PATIENCE)
    second.network.say_goodbye()
    assert second.network.close(PATIENCE)
    until(lambda: b.memory.rows.state(second.id) == ENDED_AT)


def test_a_host_says_goodbye_to_who_has_dialled_it_and_cannot_be_dialled(stage: Cast) -> None:
    a = stage.host("a")
    b = stage.host("b", "a", advertise=Address("127.0.0.1", free_port()))
    until(lambda: a.knows(b) and b.knows(a))
    a.network.say_goodbye()
    assert a.network.close(PATIENCE)
    until(lambda: b.memory.rows.state(a.id) == ENDED_AT)


def test_a_host_that_restarts_is_met_as_a_new_one(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    a.network.say_goodbye()
    assert a.network.close(PATIENCE)
    again = stage.host("a", "b", directory="a2")
    stage.meet(again, b)
    assert again.id != a.id


def test_a_thread_that_fails_begins_anew(
    stage: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = stage.hosts("a", "b")
    engine = a.engine
    monkeypatch.setattr(engine, "look", lambda now: 1 // 0)
    a.append(1)
    until(lambda: a.network.failures == 1)
    assert a.request(b.id, b"x", timeout=0.0) is None
    until(lambda: a.network.is_gateway and a.engine is not engine)
    until(lambda: "the network thread has failed, and will start anew" in caplog.text)
    position = a.append(2)
    until(lambda: a.is_acknowledged(position, b))


def test_a_host_that_is_heard_is_dialled_at_once(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "RETRY", 1e4)  # s: libzmq waits for ever
    without_most = [each for each in options._TO_ALL if each[0] != zmq.RECONNECT_IVL_MAX]
    monkeypatch.setattr(options, "_TO_ALL", tuple(without_most))
    monkeypatch.setattr(dialling, "DEAF", 1e4)
    a = stage.host("a", "b")
    until(lambda: [line.state for line in a.network.status()] == ["unreachable"])
    stage.meet(a, stage.host("b", "a"))


def test_a_peer_that_cannot_be_reached_is_named(
    stage: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(speaker, "COMPLAIN_AFTER", 0.0)
    stage.host("a", "b")
    until(lambda: f"{stage.address('b')} cannot be reached: see whether colocache runs there" in caplog.text)


def listens(address: str) -> bool:
    """Tell whether somebody listens at an address."""
    host, port = address.split(":")
    try:
        system.create_connection((host, int(port)), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_process_without_descriptors_lets_nobody_in_until_it_has_some(
    stage: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = stage.host("a", "b")
    until(lambda: a.network.is_gateway)
    monkeypatch.setattr(speaker, "descriptors_are_scarce", lambda: True)
    until(lambda: "lets no other host in for now" in caplog.text)
    until(lambda: not listens(stage.address("a")))
    b = stage.host("b", "a")
    monkeypatch.undo()
    stage.meet(a, b)


def test_a_forked_child_lets_go_of_what_is_the_parents(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            a.network.forget_after_fork()
            answers: list[bytes | None] = []
            a.network.request(b.id, b"x", answers.append, 1.0)
            os._exit(0 if answers == [None] and a.network.close(0.0) and not a.network.is_gateway else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert a.request(b.id, b"x") == b"x"


def test_a_forked_child_does_not_keep_what_its_parent_had_open(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    assert a.request(b.id, b"x") == b"x"
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.close(writer)
            a.network.forget_after_fork()
            b.network.forget_after_fork()
            os.read(reader, 1)  # until the parent is done
        os._exit(0)
    os.close(reader)
    try:
        assert a.request(b.id, b"y") == b"y"  # the parent has not noticed
        position = a.append(1)
        until(lambda: a.is_acknowledged(position, b))
        assert a.network.close(PATIENCE)
        until(lambda: not listens(stage.address("a")))
        stage.meet(stage.host("a", "b"), b)
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


# --- Limits


def test_a_limit_that_is_too_low_is_logged(
    stage: Cast, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(speaker, "COUNT_EVERY", 0.0)
    monkeypatch.setattr(limits, "BASE", 1 << 30)
    stage.hosts("a", "b")
    until(lambda: "the limit of file descriptors is too low for the" in caplog.text)


def test_the_limit_of_descriptors_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[int, int]] = []
    monkeypatch.setattr(limits.resource, "setrlimit", lambda which, limit: chosen.append(limit))
    for soft, hard in ((1024, 4096), (1024, 1 << 20), (4096, 4096), (1 << 20, 1 << 20), (1024, -1), (-1, -1)):
        monkeypatch.setattr(limits.resource, "getrlimit", lambda which, found=(soft, hard): found)
        limits.raise_limit()
    assert chosen == [(4096, 4096), (65536, 1 << 20), (65536, -1)]


def test_the_limit_of_descriptors_is_compared_with_what_hosts_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (100, 100))
    assert [limits.missing(9, 0), limits.missing(9, 1), limits.missing(0, 18)] == [0, 2, 0]
