"""Links that threads use by themselves, to ask a host without the network thread."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from colocache.runtime.network import dialling, direct, session
from colocache.runtime.network.direct import OF_A_HOST, UNABLE, DirectLink, DirectLinks
from colocache.runtime.network.options import set_options
from colocache.runtime.network.peers import Address
from colocache.runtime.network.wire import LARGEST_BODY
from tests.interrupts import at_every_point, interrupted

from .driven import PATIENCE, Cast, Process, until

EVERY_FILE = ("",)
QUEUED = 1000  # messages that libzmq keeps for a socket, if it is not told otherwise


def ask(a: Process, b: Process, body: bytes = b"x", timeout: float = PATIENCE) -> object:
    """Ask by a link, once there is one. A question that finds none goes another way, and has one made."""
    found: list[object] = []

    def is_asked() -> bool:
        found.append(a.network.ask(b.id, body, timeout))
        if found[-1] is UNABLE:
            a.request(b.id, b"another way", 0.2)
        return found[-1] is not UNABLE

    until(is_asked)
    return found[-1]


def links_of(process: Process) -> DirectLinks:
    one = process.network._session
    assert one is not None
    return one.direct


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_thread_asks_by_a_link_that_the_network_thread_has_made(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    assert a.network.ask(b.id, b"x", PATIENCE) is UNABLE
    assert b"x" not in b.served
    assert ask(a, b, b"y") == b"y"
    assert a.network.ask(b.id, b"z", PATIENCE) == b"z", "the link is put back"
    assert len(links_of(a).addresses()) == 1


@pytest.mark.parametrize("size", [0, 65536, LARGEST_BODY])
def test_answers_and_questions_may_be_as_large_as_a_value(stage: Cast, size: int) -> None:
    a, b = stage.hosts("a", "b")
    body = bytes(range(256)) * (size // 256 + 1)
    assert ask(a, b, body[:size]) == body[:size]
    assert a.network.ask(b.id, bytes(LARGEST_BODY + 1), PATIENCE) is UNABLE


def test_an_answer_that_is_late_is_nobodys(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    ask(a, b)
    replies: list[Callable[[bytes], object]] = []
    b.answer = lambda body, reply: replies.append(reply)
    assert a.network.ask(b.id, b"slow", 0.05) is None
    b.answer = lambda body, reply: (replies[0](b"late"), reply(body))
    assert ask(a, b, b"next") == b"next"


def test_a_connection_that_has_ended_answers_nothing_and_a_new_one_is_made(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    ask(a, b)
    replies: list[Callable[[bytes], object]] = []
    b.answer = lambda body, reply: replies.append(reply)
    answers: list[object] = []
    asks = in_thread(lambda: answers.append(a.network.ask(b.id, b"x", PATIENCE)))
    until(lambda: replies)
    b.network.close(PATIENCE)
    asks.join(PATIENCE / 2)
    assert answers == [None], "at once, and not when the time is over"
    again = stage.host("b", "a")
    stage.meet(a, again)
    assert ask(a, again, b"y") == b"y"


def test_a_connection_that_was_lost_meanwhile_is_not_used(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    ask(a, b)
    b.network.close(PATIENCE)
    again = stage.host("b", "a")
    stage.meet(a, again)
    [link] = links_of(a)._all()
    until(lambda: link._monitor.get(zmq.EVENTS) & zmq.POLLIN)  # the connection has ended
    assert link._socket.get(zmq.RECONNECT_IVL) == -1, "and is not made again"
    assert a.network.ask(b.id, b"x", PATIENCE) is UNABLE
    assert b"x" not in again.served


def test_a_link_is_connected_once() -> None:
    """Otherwise what libzmq reports of an idle link fills a queue, and then libzmq waits for somebody who reads it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    accepted = {True: 0, False: 0}
    with contextlib.ExitStack() as ends:
        ends.callback(context.destroy)
        listeners = {}
        for again in accepted:
            listener = listeners[again] = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.setblocking(False)
            dealer = ends.enter_context(context.socket(zmq.DEALER))
            set_options(dealer, largest=100, queue=10, chance=0.0, dials_again=again)
            dealer.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")

        def hang_up() -> bool:
            for again, listener in listeners.items():
                with contextlib.suppress(BlockingIOError):
                    listener.accept()[0].close()
                    accepted[again] += 1
            return accepted[True] >= 3 and accepted[False] > 0

        until(hang_up)
    assert accepted[False] == 1


def test_no_link_is_closed_that_a_slow_thread_uses(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """To close a socket that another thread is waiting by can end the process."""
    a, b = stage.hosts("a", "b")
    ask(a, b)
    [link] = links_of(a)._all()
    waits, goes_on, looks = threading.Event(), threading.Event(), list[float]()
    look_once, looked = link._look, list[None]()

    def slow() -> Any:
        looked.append(None)
        if len(looked) == 2:
            waits.set()
            goes_on.wait(PATIENCE)
        return look_once()

    link._look = slow
    answers: list[object] = []
    asks = in_thread(lambda: answers.append(a.network.ask(b.id, b"x", 0.01)))
    assert waits.wait(PATIENCE)
    links = links_of(a)
    look = links._close_unused
    monkeypatch.setattr(links, "_close_unused", lambda now: (look(now + 1000.0), looks.append(now)))
    links._look_at = 0.0
    a.network.rouse()
    until(lambda: looks)
    assert link.is_open
    goes_on.set()
    asks.join(PATIENCE)
    assert answers == [b"x"]


def test_libzmq_goes_on_where_nobody_reads_what_it_reports() -> None:
    """One thread of libzmq serves all connections. Where a queue of reports is full, it waits for a reader."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    reports = 0
    with contextlib.ExitStack() as ends:
        ends.callback(context.destroy)
        listener = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        dealer = ends.enter_context(context.socket(zmq.DEALER))
        monitor = ends.enter_context(dialling._monitor(context, dealer))
        dealer.setsockopt(zmq.RECONNECT_IVL, 1)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")

        def hang_up() -> bool:
            nonlocal reports
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
                reports += 2  # at least: the connection, and its end
            return reports > 3 * QUEUED

        try:
            until(hang_up)
        finally:
            while dialling.has_come(monitor):  # otherwise a thread that waits would make the end wait, too
                monitor.recv_multipart()


def test_of_more_threads_than_links_the_others_go_another_way(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    replies: list[Callable[[bytes], object]] = []
    b.answer = lambda body, reply: replies.append(reply) if body == b"held" else reply(body)
    answers: list[object] = []
    threads = [in_thread(lambda: answers.append(ask(a, b, b"held"))) for _ in range(OF_A_HOST)]
    until(lambda: len(replies) == OF_A_HOST)
    for _ in range(3):
        assert a.network.ask(b.id, b"x", PATIENCE) is UNABLE
        assert a.request(b.id, b"x") == b"x"
    assert len(links_of(a).addresses()) == OF_A_HOST
    for reply in replies:
        reply(b"now")
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [b"now"] * OF_A_HOST


def test_the_end_waits_for_threads_that_ask(stage: Cast) -> None:
    a, b = stage.hosts("a", "b")
    ask(a, b)
    replies: list[Callable[[bytes], object]] = []
    b.answer = lambda body, reply: replies.append(reply)
    answers: list[object] = []
    asks = in_thread(lambda: answers.append(a.network.ask(b.id, b"x", 0.3)))
    until(lambda: replies)
    links, left = links_of(a), len(session._left)
    assert a.network.close(PATIENCE)
    assert len(session._left) == left, "libzmq's threads have ended"
    asks.join(PATIENCE)
    assert answers == [None]
    assert links.addresses() == []
    assert a.network.ask(b.id, b"x", PATIENCE) is UNABLE


def test_links_that_nobody_uses_are_closed(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "IDLE", 0.05)
    a, b = stage.hosts("a", "b")
    ask(a, b)
    links = links_of(a)
    until(lambda: not links.addresses())
    assert ask(a, b, b"y") == b"y"


def test_whoever_is_interrupted_harms_no_later_question(stage: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit may come at any point. The answer to that question must not be given to the next one."""
    monkeypatch.setattr(direct, "IDLE", 0.05)  # then it is looked for links that were lost
    a, b = stage.hosts("a", "b")
    ask(a, b)
    points = 0
    for number in at_every_point(lambda: a.network.ask(b.id, b"interrupted", 0.2), ("network/direct.py",)):
        body = b"after %d" % number
        assert ask(a, b, body) == body
        points = number
    assert points > 5
    links = links_of(a)
    until(lambda: not links.addresses())


class TimeIsUp(ValueError, zmq.ZMQError):
    """What a handler may raise, and what libraries raise and catch themselves."""


def time_limit(*_: object) -> None:
    raise TimeIsUp


def test_a_handler_raises_in_the_caller_wherever_it_comes_also_in_libraries(
    stage: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "IDLE", 0.05)
    a, b = stage.hosts("a", "b")
    before = signal.signal(signal.SIGUSR1, time_limit)
    try:
        for number in itertools.count(1):
            ask(a, b)
            try:
                came = interrupted(
                    number, lambda: a.network.ask(b.id, b"interrupted", 0.2), EVERY_FILE,
                    lambda: signal.raise_signal(signal.SIGUSR1),
                )  # fmt: skip
            except TimeIsUp:
                continue
            assert not came, f"it was swallowed at point {number}"
            break
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert number > 5


@pytest.mark.parametrize(("looks", "outcome"), [(1, UNABLE), (2, None)])
def test_trouble_in_libzmq_is_no_error_of_the_caller(looks: int, outcome: object) -> None:
    one: Any = SimpleNamespace(send=lambda frame, flags: None, recv=None, get=lambda option: 0)
    link, left = DirectLink(b"b" * 16, Address("127.0.0.1", 1), one, one, 0.0), [None] * (looks - 1)

    def look() -> list[object]:
        if not left:
            raise zmq.ZMQError(errno.EBADF)
        left.pop()
        return []

    link._look = look
    assert link.ask(b"x", 1.0) is outcome


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_that_a_signal_handler_forks_gets_no_answer_and_goes_on(stage: Cast) -> None:
    """libzmq answers each call of a child with EINTR, and pyzmq calls again."""
    a, b = stage.hosts("a", "b")
    ask(a, b)
    replies: list[Callable[[bytes], object]] = []
    b.answer = lambda body, reply: replies.append(reply)
    children: list[int] = []

    def fork(*_: object) -> None:
        children.append(os.fork())
        if not children[0]:
            a.network.forget_after_fork()
        else:
            replies[0](b"answer")

    def interrupt() -> None:
        until(lambda: replies)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, fork)
    try:
        interrupts = in_thread(interrupt)
        answer = a.network.ask(b.id, b"x", 1000.0)
        if not children[0]:
            os._exit(answer is not None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    interrupts.join(PATIENCE)
    assert answer == b"answer"
    ended: list[tuple[int, int]] = []

    def has_ended() -> bool:
        ended.append(os.waitpid(children[0], os.WNOHANG))
        return bool(ended[-1][0])

    try:
        until(has_ended)
    finally:
        if not ended[-1][0]:
            os.kill(children[0], signal.SIGKILL)
            os.waitpid(children[0], 0)
    assert ended[-1] == (children[0], 0)
