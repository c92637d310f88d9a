"""The bus, by real sockets: several ends in one process, and in several processes."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colocache.runtime import bus as bus_module
from colocache.runtime import logs, short_name
from colocache.runtime import mouth as mouth_module
from colocache.runtime.bus import MOST, Bus, Message
from colocache.runtime.frames import EVERYTHING, IN_A_FRAME, KEYS, LARGEST, LOADED, NAMESPACES, TAGS, decode, encode
from colocache.runtime.logs import Log
from colocache.runtime.mouth import QUEUE, Mouth
from colocache.runtime.short_name import ShortName
from colocache.runtime.transport import Ear, Full, Voice
from colocache.runtime.waiting import threads as threads_module
from colocache.runtime.waiting.threads import ThreadErrands, hand_over, on_driver_thread
from tests import ROOT
from tests.runtime.bus_process import SEATS


class Town:
    """Who lives: the seats of all processes, and their names."""

    def __init__(self) -> None:
        self.seats: dict[str, tuple[int, int]] = {}
        self.number = 0

    def seen_by(self, name: int) -> Seen:
        return Seen(self, name)

    def change(self, who: str, seat: int | None, name: int = 0) -> None:
        if seat is None:
            del self.seats[who]
        else:
            self.seats[who] = seat, name
        self.number += 1


class Seen:
    """The town as one of those who live there sees it."""

    def __init__(self, town: Town, name: int) -> None:
        self.town, self.name, self.asked = town, name, 0

    def version(self) -> int:
        return self.town.number

    def living(self) -> Iterable[tuple[int, int]]:
        self.asked += 1
        return [each for each in self.town.seats.values() if each[1] != self.name]


class End:
    """One end of the bus, and what it has heard."""

    def __init__(self, town: Town, directory: str, seat: int, name: int) -> None:
        self.town, self.seat, self.name = town, seat, name
        self.heard: list[Message] = []
        self.path = f"{directory}/{seat}.bus"
        self.ticks = self.published = 0
        self.publish_again = 0.0, math.inf  # s, at the earliest and at the latest
        self.bus = Bus(
            directory, seat, name, town.seen_by(name), self.hear, Log("test"), ThreadErrands(), self.tick, self.publish
        )

    def hear(self, message: Message) -> None:
        self.heard.append(message)

    def tick(self) -> None:
        self.ticks += 1

    def publish(self) -> tuple[float, float]:
        assert on_driver_thread()
        self.published += 1
        return self.publish_again

    def hashes(self, kind: int) -> set[int]:
        return {hash for message in self.heard if message.kind == kind for hash in message.hashes}

    def kinds(self) -> list[int]:
        return [message.kind for message in self.heard]

    def reached(self) -> set[int]:
        assert self.bus._mouth is not None
        return self.bus._mouth.reached

    def close(self) -> bool:
        return self.bus.close(30)


NewEnd = Callable[..., End]


@pytest.fixture
def town() -> Town:
    return Town()


@pytest.fixture
def new_end(run_dir: str, town: Town, until: Any) -> Iterator[NewEnd]:
    """Make ends of a bus whose sockets are bound."""
    made: list[End] = []

    def make(seat: int, name: int | None = None, directory: str = run_dir, started: bool = True) -> End:
        end = End(town, directory, seat, 1000 + seat if name is None else name)
        made.append(end)
        if started:
            assert end.bus.start()
            until(lambda: end.bus._ear is not None)
            town.change(str(end.name), seat, end.name)
        return end

    yield make
    for end in made:
        end.bus.leave()
    for end in made:
        end.close()


@pytest.fixture
def ends(new_end: NewEnd) -> Sequence[End]:
    return [new_end(seat) for seat in range(3)]


@pytest.mark.parametrize("kind", [KEYS, TAGS, NAMESPACES])
def test_events_reach_all_others_and_not_oneself(ends: Sequence[End], until: Any, kind: int) -> None:
    ends[0].bus.tell(kind, (1, 2**64 - 1))
    until(lambda: all(end.heard for end in ends[1:]))
    assert [end.hashes(kind) for end in ends] == [set(), {1, 2**64 - 1}, {1, 2**64 - 1}]


def test_the_first_thing_that_is_said_arrives(new_end: NewEnd, until: Any) -> None:
    """Although nobody is connected before."""
    ends = [new_end(seat) for seat in range(20)]
    ends[0].bus.wake(7)
    until(lambda: all(end.heard == [(LOADED, [7])] for end in ends[1:]))


def test_who_says_nothing_connects_to_nobody_and_does_not_ask_who_lives(ends: Sequence[End], until: Any) -> None:
    ends[0].bus.tell(KEYS, (1,))
    until(lambda: all(end.heard for end in ends[1:]))
    assert [end.bus._mates.asked for end in ends] == [1, 0, 0]  # type: ignore[attr-defined]


def test_events_are_gathered(ends: Sequence[End], until: Any) -> None:
    for number in range(1000):
        ends[0].bus.tell(KEYS, (number,))
    until(lambda: len(ends[1].hashes(KEYS)) == 1000)
    assert len(ends[1].heard) < 50


def test_more_than_fits_a_frame_comes_in_several(ends: Sequence[End], until: Any) -> None:
    ends[0].bus.tell(KEYS, range(3 * IN_A_FRAME))
    until(lambda: len(ends[1].hashes(KEYS)) == 3 * IN_A_FRAME)


def test_too_many_events_are_told_as_everything(ends: Sequence[End], until: Any) -> None:
    ends[0].bus.tell(KEYS, range(MOST))
    until(lambda: EVERYTHING in ends[1].kinds())
    ends[0].bus.tell(TAGS, (3,))
    until(lambda: ends[1].hashes(TAGS))
    assert ends[1].heard[0] == (EVERYTHING, [])


@pytest.mark.parametrize("connected", [True, False])
def test_the_end_of_a_load_does_not_wait_until_events_are_gathered(
    ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch, connected: bool
) -> None:
    if connected:
        ends[0].bus.wake(1)
        until(lambda: ends[1].heard)
    monkeypatch.setattr(bus_module, "GATHER", 3600)
    ends[0].bus.tell(KEYS, (1,))
    ends[0].bus.wake(2)
    until(lambda: 2 in ends[1].hashes(LOADED))
    assert KEYS not in ends[1].kinds()


def test_batches_do_not_follow_each_other_at_once(
    ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "PAUSE_AT_MOST", 0.5)
    monkeypatch.setattr(bus_module, "PAUSE", 0.5)
    ends[0].bus.tell(KEYS, (1,))
    until(lambda: ends[1].heard)
    first = time.monotonic()
    ends[0].bus.tell(KEYS, (2,))
    until(lambda: 2 in ends[1].hashes(KEYS))
    assert time.monotonic() > first + 0.3


def test_an_event_that_comes_while_the_thread_gets_ready_to_sleep_is_not_left_lying(
    ends: Sequence[End], until: Any
) -> None:
    """What must not happen:

    1. The thread finds no event.
    2. One is queued, and there is nobody to wake.
    3. The thread goes to sleep.
    """
    bus = ends[0].bus
    bus.wake(1)
    until(lambda: ends[1].heard and ends[2].heard)
    plan, late = bus._plan, [KEYS]

    def plan_and_be_late(*arguments: Any) -> None:
        plan(*arguments)
        if late and bus._waits:
            bus.tell(late.pop(), (5,))

    bus._plan = plan_and_be_late  # type: ignore[method-assign]
    bus.wake(2)
    until(lambda: ends[1].hashes(KEYS))


def test_who_hears_very_much_at_once_looks_at_everything(new_end: NewEnd) -> None:
    frames = [encode(KEYS, 1, number, array("Q", range(IN_A_FRAME))) for number in range(MOST // IN_A_FRAME + 1)]
    end = new_end(0, started=False)
    end.bus._hear(SimpleNamespace(receive=lambda: frames[1:]))  # type: ignore[arg-type]
    assert end.kinds() == [KEYS]
    end.bus._frames_of.clear()
    end.bus._hear(SimpleNamespace(receive=lambda: [encode(LOADED, 2, 1, array("Q", [7])), *frames]))  # type: ignore[arg-type]
    assert end.heard[1:] == [(LOADED, [7]), (EVERYTHING, [])]


def test_what_is_left_to_say_is_said_before_the_end(
    ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends[0].bus.wake(1)
    until(lambda: ends[1].heard)
    monkeypatch.setattr(bus_module, "GATHER", 3600)
    ends[0].bus.tell(KEYS, (1,))
    assert ends[0].close()
    until(lambda: ends[1].hashes(KEYS) == {1})


def test_the_socket_is_deleted_at_the_end(ends: Sequence[End]) -> None:
    assert os.path.exists(ends[0].path)
    assert ends[0].close()
    assert not os.path.exists(ends[0].path)


def test_a_newcomer_hears_what_is_said_once_it_is_there(ends: Sequence[End], new_end: NewEnd, until: Any) -> None:
    ends[0].bus.wake(1)
    until(lambda: ends[1].heard)
    newcomer = new_end(3)
    ends[0].bus.wake(2)
    until(lambda: newcomer.heard == [(LOADED, [2])])


def test_a_newcomer_that_is_not_ready_yet_is_tried_again(
    ends: Sequence[End], new_end: NewEnd, town: Town, until: Any
) -> None:
    newcomer = new_end(3, started=False)
    town.change("newcomer", 3, newcomer.name)
    ends[0].bus.wake(1)
    until(lambda: ends[1].heard)
    newcomer.bus.start()

    def heard() -> bool:
        ends[0].bus.wake(2)
        time.sleep(0.005)
        return bool(newcomer.heard)

    until(heard)


def test_a_successor_on_the_same_seat_is_reached(ends: Sequence[End], new_end: NewEnd, town: Town, until: Any) -> None:
    ends[0].bus.wake(1)
    until(lambda: ends[1].heard)
    ends[1].close()
    town.change(str(ends[1].name), None)
    successor = new_end(1, name=5000)
    ends[0].bus.wake(2)
    until(lambda: successor.hashes(LOADED) == {2})


def test_a_directory_with_a_long_path(new_end: NewEnd, run_dir: str, until: Any) -> None:
    directory = f"{run_dir}/{'long' * 50}"
    os.mkdir(directory, 0o700)
    one, other = new_end(0, directory=directory), new_end(1, directory=directory)
    one.bus.wake(1)
    until(lambda: other.heard == [(LOADED, [1])])
    one.close()
    other.close()
    assert os.listdir(directory) == []


def test_no_connection_is_kept_to_those_that_have_left(
    ends: Sequence[End], town: Town, new_end: NewEnd, until: Any
) -> None:
    ends[0].bus.wake(1)
    until(lambda: ends[1].heard)
    town.change(str(ends[1].name), None)
    ends[0].bus.wake(2)
    until(lambda: ends[2].hashes(LOADED) == {1, 2})
    until(lambda: ends[0].reached() == {ends[2].name})
    assert ends[1].hashes(LOADED) == {1}


def test_who_opens_its_socket_anew_is_reached_again(
    ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here after a bug."""
    monkeypatch.setattr(bus_module, "TICK", 0.01)
    one, other = ends[:2]
    one.bus.wake(1)
    until(lambda: other.heard)
    assert other.bus._ear is not None
    other.bus._ear.wait = Broken()  # type: ignore[method-assign]
    other.bus._tick_at = 0
    other.bus.wake(3)
    until(lambda: "the bus has failed" in caplog.text)

    def heard() -> bool:
        one.bus.wake(2)
        time.sleep(0.005)
        return 2 in other.hashes(LOADED)

    until(heard)


class Broken:
    """A method that fails."""

    def __call__(self, *_: Any) -> Any:
        raise RuntimeError("a bug")


def test_a_socket_that_somebody_deletes_is_made_anew(
    ends: Sequence[End], new_end: NewEnd, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "LOOK_AFTER_EAR", 0)
    os.unlink(ends[1].path)
    until(lambda: ends[1].bus.wake(1) or os.path.exists(ends[1].path))  # while it is idle, it looks at its ticks
    newcomer = new_end(3)
    newcomer.bus.wake(2)
    until(lambda: 2 in ends[1].hashes(LOADED))


def test_the_socket_of_a_successor_is_left_alone(ends: Sequence[End]) -> None:
    os.unlink(ends[0].path)
    with open(ends[0].path, "x"):
        pass
    assert ends[0].close()
    assert os.path.exists(ends[0].path)


def test_a_process_without_descriptors_reaches_nobody_until_it_has_some_again(
    ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mouth_module, "RETRY_AT_MOST", 0.01)
    tried = []

    def refuse(path: str) -> Voice:
        tried.append(path)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(mouth_module, "Voice", refuse)
    ends[0].bus.wake(1)
    until(lambda: len(tried) == 2)
    assert ends[0].reached() == set()
    monkeypatch.setattr(mouth_module, "Voice", Voice)
    until(lambda: ends[0].bus.wake(2) or 2 in ends[1].hashes(LOADED))


def test_what_a_mate_does_not_take_at_once_it_gets_later(
    ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]

    class Filled(Voice):
        def send(self, frame: bytes) -> None:
            if full and self.path == ends[1].path:
                raise Full
            super().send(frame)

        def __init__(self, path: str) -> None:
            self.path = path
            super().__init__(path)

    monkeypatch.setattr(mouth_module, "Voice", Filled)
    for number in range(3):
        ends[0].bus.wake(number)
        until(lambda number=number: number in ends[2].hashes(LOADED))  # nobody else waits for it
    assert ends[1].heard == []
    full.clear()
    until(lambda: [message.hashes[0] for message in ends[1].heard] == [0, 1, 2])
    assert EVERYTHING not in ends[1].kinds()


def test_who_has_missed_frames_looks_at_everything(
    ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends[0].bus.tell(KEYS, (1,))
    until(lambda: ends[1].heard)
    with monkeypatch.context() as patch:
        patch.setattr(Voice, "send", lambda self, frame: None)
        ends[0].bus.tell(KEYS, (2,))
        until(lambda: not any(ends[0].bus._events.values()) and ends[0].bus.answers(30))
    ends[0].bus.wake(3)
    until(lambda: ends[1].kinds() == [KEYS, LOADED, EVERYTHING])
    assert ends[1].hashes(LOADED) == {3}


def test_what_is_no_frame_is_counted_logged_and_ignored(
    ends: Sequence[End], until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good = encode(LOADED, 5, 1, array("Q", [7]))
    with closing(Voice(ends[0].path)) as stranger:
        for bad in (b"", b"cb", good[:-1], b"xx" + good[2:], good[:2] + b"\2" + good[3:], good[:3] + b"\6" + good[4:]):
            stranger.send(bad)
        stranger.send(good)
        until(lambda: ends[0].heard == [(LOADED, [7])])
    assert ends[0].bus.bad_frames == 6
    until(lambda: "cannot be read: the frame has a wrong size; 1 so far" in caplog.text)
    assert len([message for message in caplog.messages if "cannot be read" in message]) == 1, "once a minute"


def test_a_frame_that_is_too_large_is_refused(ends: Sequence[End], until: Any) -> None:
    good = encode(LOADED, 5, 1, array("Q", range(IN_A_FRAME)))
    assert len(good) == LARGEST
    with closing(Voice(ends[0].path)) as stranger:
        stranger.send(good + bytes(8))
        stranger.send(good)
        until(lambda: ends[0].heard)
    assert ends[0].bus.bad_frames == 1
    assert len(ends[0].heard) == 1


def test_an_error_of_the_receiver_is_logged_and_the_bus_goes_on(
    ends: Sequence[End], until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ends[1].bus._receive = Broken()
    ends[0].bus.wake(1)
    until(lambda: "could not be taken in" in caplog.text)
    ends[1].bus._receive = ends[1].hear
    ends[0].bus.wake(2)
    until(lambda: ends[1].heard)


def test_the_queue_to_somebody_who_does_not_listen_has_an_end(run_dir: str) -> None:
    """Otherwise one process that is stopped would fill the memory of all others."""

    class Both:
        def version(self) -> int:
            return 0

        def living(self) -> Iterable[tuple[int, int]]:
            return [(1, 11), (2, 12)]

    with closing(Ear(LARGEST)) as deaf, closing(Ear(LARGEST)) as other, closing(Mouth(Both(), run_dir, 10)) as mouth:
        deaf.bind(f"{run_dir}/1.bus")
        other.bind(f"{run_dir}/2.bus")
        for number in range(1000):
            mouth.say(LOADED, range(IN_A_FRAME))
            assert other.wait(30) is False
            assert [decode(frame).number for frame in other.receive()] == [number + 1], "who listens hears all"
        heard = []
        while deaf.wait(0) or deaf._ready or mouth.due < math.inf:
            heard += [decode(frame).number for frame in deaf.receive()]
            mouth.go_on(math.inf)
        assert heard[-QUEUE:] == [*range(1001 - QUEUE, 1001)], "what is left are the last ones"
        assert len(heard) < 500


def test_who_has_closed_all_that_is_open_begins_anew_and_closes_nothing_else(
    ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a daemoniser does: the numbers of what was closed are soon somebody else's."""
    monkeypatch.setattr(bus_module, "TICK", 0.01)
    ends[0].bus.wake(1)
    until(lambda: ends[1].heard and ends[2].heard)
    ear, mouth = ends[0].bus._ear, ends[0].bus._mouth
    assert ear is not None
    assert mouth is not None
    voices = [link._voice for link in mouth._links.values()]
    numbers = [each._socket.end.fileno() for each in [ear, *voices]]  # type: ignore[union-attr]
    with (tmp_path / "file").open("wb") as file:
        for number in numbers:
            os.dup2(file.fileno(), number)
        ends[0].bus._tick_at = 0
        ends[0].bus.wake(2)
        until(lambda: ends[0].bus._ear not in (ear, None))
        until(lambda: ends[0].bus.wake(3) or 3 in ends[1].hashes(LOADED))
        until(lambda: ends[1].bus.wake(4) or 4 in ends[0].hashes(LOADED))
        for number in numbers:
            assert os.path.samestat(os.fstat(number), os.fstat(file.fileno()))
            os.close(number)


# --- The thread


def test_what_the_receiver_hands_over_dies_in_another_thread(ends: Sequence[End], until: Any) -> None:
    threads: dict[str, bool] = {}

    class Loud:
        def __del__(self) -> None:
            threads["died"] = on_driver_thread()

    def receive(_message: Message) -> None:
        threads["heard"] = on_driver_thread()
        dying = [Loud()]
        hand_over(dying.clear)

    ends[1].bus._receive = receive
    ends[0].bus.wake(1)
    until(lambda: "died" in threads)
    assert threads == {"heard": True, "died": False}


def test_the_owner_is_called_now_and_then(ends: Sequence[End], until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "TICK", 0.001)
    ends[0].bus._tick_at = 0
    ends[0].bus.wake(1)
    until(lambda: ends[0].ticks > 3)


def test_an_error_of_the_owner_is_logged_and_the_bus_goes_on(
    ends: Sequence[End], until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ends[0].bus._on_tick = Broken()
    ends[0].bus._tick_at = 0
    ends[0].bus.wake(1)
    until(lambda: "could not be looked at" in caplog.text)
    until(lambda: ends[1].heard)


def test_what_was_counted_is_shown_soon_after_an_event(
    new_end: NewEnd, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "PUBLISH_SOON", 0.001)
    end = new_end(0)
    until(lambda: end.published == 1, failing="nothing is shown at first")
    assert end.bus._publish_at == math.inf
    end.bus.tell(KEYS, (1,))
    until(lambda: end.published >= 2)
    shown = end.published
    end.bus.wake(1)
    until(lambda: end.published > shown)


def test_what_was_counted_is_shown_again_when_that_is_asked_for(
    new_end: NewEnd, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing happens on the bus: hits do not wake its thread."""
    monkeypatch.setattr(bus_module, "PUBLISH_SOON", 0.001)
    end = new_end(0, started=False)
    end.publish_again = 0.001, 0.001
    assert end.bus.start()
    until(lambda: end.published > 3)
    end.publish_again = 0.0, 1000.0
    until(lambda: end.bus._publish_at > time.monotonic() + 500)


def test_events_do_not_have_it_shown_before_that_is_to_be_done_again(
    new_end: NewEnd, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "PUBLISH_SOON", 0.001)
    end = new_end(0, started=False)
    end.publish_again = 1000.0, 2000.0
    assert end.bus.start()
    until(lambda: end.published == 1)
    for number in range(50):
        end.bus.tell(KEYS, (number,))
        assert end.bus.answers(30)
    assert end.published == 1
    assert end.bus._publish_at < time.monotonic() + 1000, "the next event has it done as soon as it may be"


def test_an_error_while_it_is_shown_is_logged_and_the_bus_goes_on(
    new_end: NewEnd, until: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "PUBLISH_SOON", 0.001)
    ends = [new_end(seat, started=False) for seat in range(2)]
    ends[0].bus._publish = Broken()
    for end in ends:
        assert end.bus.start()
    until(lambda: "what this process has counted could not be shown" in caplog.text)
    until(lambda: all(end.bus._ear is not None for end in ends))
    assert ends[0].bus.answers(30)


def test_what_was_counted_is_shown_where_the_sockets_cannot_be_opened(
    new_end: NewEnd, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "PUBLISH_SOON", 0.001)
    monkeypatch.setattr(bus_module, "LOOK_AT_REST", 0.001)
    monkeypatch.setattr(Ear, "bind", refuse_descriptors)
    end = new_end(0, started=False)
    end.publish_again = 0.001, 0.001
    assert end.bus.start()
    until(lambda: end.published > 3)
    assert end.bus._ear is None


def refuse_descriptors(*_: Any) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_bus_that_cannot_open_its_sockets_says_so_once_and_tries_again(
    new_end: NewEnd, town: Town, until: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "TICK", 0.001)
    bind = Ear.bind
    monkeypatch.setattr(Ear, "bind", refuse_descriptors)
    end = new_end(0, started=False)
    monkeypatch.setitem(logs.MOST, logging.WARNING, 1000)
    assert end.bus.start()
    until(lambda: end.ticks > 3)
    assert caplog.text.count("hears nothing of other processes for now: [Errno 24] Too many open files") == 1
    monkeypatch.setattr(Ear, "bind", bind)
    until(lambda: os.path.exists(end.path))


def test_an_idle_bus_answers_who_asks_whether_its_thread_works(ends: Sequence[End]) -> None:
    assert [end.bus.answers(30) for end in ends] == [True] * 3
    assert [end.ticks for end in ends] == [0] * 3, "it took a turn, and did not just wake in time"


def test_who_asks_before_the_sockets_are_open_is_answered_once_they_are(
    new_end: NewEnd, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, open_now = [], threading.Event()
    bind = Ear.bind

    def bind_late(self: Ear, path: str) -> None:
        bound.append(path)
        open_now.wait(30)
        bind(self, path)

    monkeypatch.setattr(Ear, "bind", bind_late)
    end = new_end(0, started=False)
    assert end.bus.start()
    until(lambda: bound)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(end.bus.answers, 30)
        until(lambda: end.bus._asked)
        open_now.set()
        assert answer.result() is True


def test_a_bus_whose_thread_is_busy_or_gone_does_not_answer(ends: Sequence[End], until: Any) -> None:
    busy, go_on = threading.Event(), threading.Event()
    ends[0].bus._receive = lambda _: busy.set() or go_on.wait(30)  # type: ignore[func-returns-value]
    ends[1].bus.wake(7)
    assert busy.wait(30)
    assert not ends[0].bus.answers(0.01)
    go_on.set()
    assert ends[0].bus.answers(30)
    ends[0].close()
    assert not ends[0].bus.answers(0.01)


def test_a_bus_that_cannot_open_its_sockets_answers_all_the_same(
    new_end: NewEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "LOOK_AT_REST", 0.001)
    monkeypatch.setattr(Ear, "bind", refuse_descriptors)
    end = new_end(0, started=False)
    assert end.bus.start()
    assert end.bus.answers(30)
    assert end.ticks == 0


def test_where_no_thread_can_be_started_the_bus_is_silent(
    new_end: NewEnd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads_module, "_start_new_thread", refuse)
    end = new_end(0, started=False)
    assert not end.bus.start()
    assert "hears nothing of other processes" in caplog.text
    end.bus.tell(KEYS, range(2 * MOST))
    end.bus.wake(1)
    assert end.close()


def test_where_a_server_runs_no_threads_the_bus_is_silent(
    new_end: NewEnd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(has_threads=0))  # type: ignore[misc]
    end = new_end(0, started=False)
    assert not end.bus.start()
    assert "threads" in caplog.text
    assert end.close()
    assert not os.path.exists(end.path)


def test_a_bus_may_end_before_it_has_begun(new_end: NewEnd) -> None:
    end = new_end(0, started=False)
    assert end.bus.start()
    assert end.close()
    assert not os.path.exists(end.path)


# --- A short name of the directory


def test_a_long_directory_where_there_is_no_proc(run_dir: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = f"{run_dir}/{'long' * 50}"
    os.mkdir(directory, 0o700)
    monkeypatch.setattr(short_name, "SHORT", run_dir)
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    names = [ShortName(directory, "9999.bus") for _ in range(2)]
    for name in names:
        found = name.open()
        assert len(found) + len("/9999.bus") <= short_name.LONGEST
        assert os.path.samefile(found, directory)
        name.close()


def test_a_link_that_leads_elsewhere_is_not_used(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = f"{run_dir}/{'long' * 50}"
    os.mkdir(directory, 0o700)
    monkeypatch.setattr(short_name, "SHORT", run_dir)
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    link = ShortName(directory, "9999.bus").open()
    os.unlink(link)
    os.symlink("/", link)
    with pytest.raises(OSError, match="in the way"):
        ShortName(directory, "9999.bus").open()


# --- Frames


def test_a_frame_is_read_as_it_was_written() -> None:
    frame = encode(KEYS, 2**64 - 1, 5, array("Q", [1, 2**64 - 1]))
    assert decode(frame) == (KEYS, 2**64 - 1, 5, array("Q", [1, 2**64 - 1]))


def test_a_frame_is_not_larger_than_its_sender_may_make_it() -> None:
    assert len(encode(KEYS, 1, 1, array("Q", range(IN_A_FRAME)))) == LARGEST
    with pytest.raises(ValueError, match="size"):
        decode(encode(KEYS, 1, 1, array("Q", range(IN_A_FRAME + 1))))


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda tail: b"cb\1\1\0\0\0\0" + tail))
def test_nothing_but_value_error_comes_of_other_bytes(data: bytes) -> None:
    try:
        frame = decode(data)
    except ValueError:
        return
    assert encode(frame.kind, frame.sender, frame.number, array("Q", frame.hashes)) == data


# --- Processes


class Process:
    """A process on the bus, which evaluates what it is told: see bus_process.py."""

    def __init__(self, directory: str, seat: int, options: Sequence[str]) -> None:
        self.seat = seat
        python = [sys.executable, *(["-X", "dev"] if not options else ()), "-W", "error"]
        command = [*python, "-m", "tests.runtime.bus_process", directory, str(seat), *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )

    def __call__(self, expression: str) -> Any:
        self.begin(expression)
        return self.answer()

    def begin(self, expression: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def end(self) -> str:
        """Have the process end as programs do, and return what it complained of."""
        _, complaints = self.process.communicate(timeout=60)
        return f"{complaints}{self.process.returncode or ''}"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


NewProcesses = Callable[..., list[Process]]


@pytest.fixture
def processes(run_dir: str) -> Iterator[NewProcesses]:
    """Start processes that hear."""
    (Path(run_dir) / "town").write_bytes(bytes(8 * (SEATS + 1)))
    made: list[Process] = []

    def start(*seats: int, options: Sequence[str] = ()) -> list[Process]:
        started = [Process(run_dir, seat, options) for seat in seats]
        made.extend(started)
        for process in started:
            assert process(f"begin({process.seat})")
        return started

    yield start
    for process in made:
        process.kill()


def say(speaker: Process, hash: int, *listeners: Process, kind: str = "LOADED") -> None:
    """Say something until all have heard it: a frame may be lost while connections are slow to be made."""
    ends = time.monotonic() + 30
    saying = f"end.bus.wake({hash})" if kind == "LOADED" else f"end.bus.tell({kind}, [{hash}])"
    while not all(listener(f"{hash} in end.hashes({kind})") for listener in listeners):
        assert time.monotonic() < ends, f"{hash} is not heard"
        speaker(saying)
        time.sleep(0.005)


def test_processes_hear_each_other_while_all_of_them_compute(processes: NewProcesses) -> None:
    several = processes(0, 1, 2)
    for process in several:
        process("compute()")
    for number, process in enumerate(several):
        others = [other for other in several if other is not process]
        say(process, number, *others)
        say(process, number, *others, kind="KEYS")


def test_a_process_that_is_stopped_hinders_nobody_and_costs_nothing(processes: NewProcesses, until: Any) -> None:
    speaker, stopped, other = processes(0, 1, 2)
    say(speaker, 1, stopped, other)
    stopped.process.send_signal(signal.SIGSTOP)
    before = speaker("memory()")
    for number in range(5):
        speaker(f"[end.bus.tell(KEYS, range(k, k + {MOST - 1})) or time.sleep(0.01) for k in range(100)] and None")
        say(speaker, 2 + number, other)
    assert speaker("memory()") - before < 20_000_000
    stopped.process.send_signal(signal.SIGCONT)
    until(lambda: speaker("end.bus.wake(1)") or stopped("EVERYTHING in end.kinds()"))


def test_a_process_that_is_stopped_before_anybody_connects_hinders_nobody(processes: NewProcesses) -> None:
    speaker, stopped, other = processes(0, 1, 2)
    stopped.process.send_signal(signal.SIGSTOP)
    say(speaker, 1, other)
    for number in range(10):
        speaker(f"time.sleep(0.05) or end.bus.wake({100 + number})")
    stopped.process.send_signal(signal.SIGCONT)
    say(speaker, 2, stopped)
    speaker("end.bus.wake(3)")
    speaker("time.sleep(0.05) or end.bus.wake(4)")
    say(speaker, 5, stopped)
    assert stopped("[hash for message in end.heard for hash in message.hashes if hash in (3, 4)]") == [3, 4]


def test_a_process_that_is_killed_is_missed_by_nobody_and_its_successor_is_heard_and_hears(
    processes: NewProcesses,
) -> None:
    speaker, killed, other = processes(0, 1, 2)
    killed("end.bus.wake(1)")
    say(speaker, 1, other, killed)
    killed.kill()
    say(speaker, 2, other)
    (successor,) = processes(1)
    say(speaker, 3, other, successor)
    say(successor, 4, other, speaker)


def test_a_forked_child_is_an_end_of_its_own(processes: NewProcesses) -> None:
    parent, other = processes(0, 1)
    say(parent, 1, other)
    assert parent("fork(2)") == 0
    for each in (parent, other):
        assert each("until(lambda: 7 in end.hashes(LOADED))")
    say(parent, 2, other)


FORK_AT_ONCE = """
import os, signal, sys, time
from colocache.runtime import bus as module
from colocache.runtime.logs import Log
from colocache.runtime.waiting.threads import ThreadErrands

class Nobody:
    def version(self): return 0
    def living(self): return ()

def begin(seat):
    bus = module.Bus(sys.argv[1], seat, seat, Nobody(), print, Log("test"), ThreadErrands())
    assert bus.start()
    return bus

parent = begin(0)
time.sleep(float(sys.argv[2]))
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
signal.alarm(20)
parent.forget_after_fork()
child = begin(1)
while not os.path.exists(sys.argv[1] + "/1.bus"):
    time.sleep(0.001)
assert child.close(10)
"""


@pytest.mark.parametrize("after", [0.0, 0.005, 0.01, 0.015, 0.02, 0.03])
def test_a_fork_while_the_thread_begins_does_no_harm(run_dir: str, after: float) -> None:
    command = [sys.executable, "-c", FORK_AT_ONCE, run_dir, str(after)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_may_end_while_its_bus_lives(processes: NewProcesses) -> None:
    one, other = processes(0, 1)
    say(one, 1, other)
    say(other, 1, one)
    assert [one.end(), other.end()] == ["", ""]


def test_a_process_that_runs_out_of_descriptors_hears_and_says_all_that_it_did(processes: NewProcesses) -> None:
    poor, other = processes(0, 1)
    say(other, 1, poor)
    say(poor, 2, other)
    poor("leave_descriptors(50)")
    poor("use_up_descriptors()")
    several = processes(2, 3, 4)
    for number, each in enumerate(several):
        say(each, 10 + number, other, poor)
    say(poor, 3, other)
    poor("[os.close(file) for file in files] and leave_descriptors(100)")
    say(poor, 5, other, *several)


def test_under_gevent_greenlets_wait_and_finalizers_run_in_the_hub(processes: NewProcesses) -> None:
    pytest.importorskip("gevent")
    (plain,) = processes(0)
    (patched,) = processes(1, options=["gevent"])
    patched.begin("waiting_greenlets_let_others_run()")
    assert patched.answer() == "waits"
    plain("end.bus.wake(1)")
    assert patched.answer() is True
    say(patched, 2, plain)
    for process in (plain, patched):
        assert process("until(lambda: end.deaths)")
        assert process("sorted(set(end.deaths))") == [False]
    assert patched("end.bus.close(30)")


@pytest.mark.skipif(sys.platform != "linux", reason="counts switches as Linux does")
def test_nothing_happens_in_a_group_that_is_idle(processes: NewProcesses, until: Any) -> None:
    several = processes(0, 1, 2, 3)
    for process in several:
        say(process, 1, *(other for other in several if other is not process))

    def switches() -> list[int]:
        time.sleep(1)
        return [
            int(line.split()[1])
            for process in several
            for task in Path(f"/proc/{process.process.pid}/task").iterdir()
            for line in (task / "status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        ]

    until(lambda: switches() == switches(), failing="it is never quiet")
