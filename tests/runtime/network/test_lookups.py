"""Lookups in threads: nothing waits for them, whatever they do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from colocache.runtime.network import lookups as module
from colocache.runtime.network.answers import Absent, Answer, Failed, Found
from colocache.runtime.network.discovery import Discovery
from colocache.runtime.network.lookups import Lookups
from colocache.runtime.network.peers import Address, Item, Name, parse_peers
from colocache.runtime.network.schedule import AT_ONCE
from colocache.runtime.waiting.threads import NoThread
from tests import ROOT
from verification.network.dns import NameServer, srv

WEB, SLOW = Name("web", 7400), Name("slow", 7400)
X = Address("10.0.0.1", 7400)


class World:
    """A resolver whose answers are given by hand, for each item in its turn."""

    def __init__(self) -> None:
        self.answers: dict[str, SimpleQueue[Any]] = {}
        self.asked: list[str] = []
        self.woken = 0
        self.lookups: list[Lookups] = []

    def __call__(self, item: Item) -> Answer:
        self.asked.append(str(item))
        answer = self.queue(item).get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def queue(self, item: Item) -> SimpleQueue[Any]:
        return self.answers.setdefault(str(item), SimpleQueue())

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def world(until: Any) -> Iterator[World]:
    world = World()
    yield world
    for lookups in world.lookups:
        lookups.close()
    for queue in [*world.answers.values()]:
        for _ in range(AT_ONCE):
            queue.put(Failed("the test is over"))
    until(lambda: not of_lookups())


def of_lookups() -> list[threading.Thread]:
    """The threads of lookups."""
    return [thread for thread in threading.enumerate() if thread.name == "colocache discovery"]


def discover(text: str, world: World) -> Lookups:
    world.lookups.append(Lookups(Discovery(parse_peers(text), 0), world, world.wake))
    return world.lookups[-1]


def test_what_is_due_is_looked_up_and_what_is_found_is_told(world: World, until: Any) -> None:
    lookups = discover("web:7400", world)
    world.queue(WEB).put(Found((X,)))
    lookups.step(0)
    until(lambda: world.woken)
    assert lookups.discovery.to_dial(0) == [], "nothing changes outside of a step"
    lookups.step(1)
    assert lookups.discovery.to_dial(1) == [X]
    assert lookups.discovery.deadline(1) == 6
    lookups.step(5.9)
    world.queue(WEB).put(Found(()))
    lookups.step(6)
    until(lambda: world.woken == 2)
    lookups.step(7)
    assert (lookups.discovery.to_dial(7), len(world.asked)) == ([], 2)
    assert len(of_lookups()) == 1, "a thread is used again"


def test_a_lookup_that_blocks_holds_up_no_other_one(world: World, until: Any) -> None:
    lookups = discover("slow:7400,web:7400", world)
    for turn in range(1, 4):
        world.queue(WEB).put(Found((X,)))
        lookups.step(10 * turn)
        until(lambda turn=turn: world.woken == turn)
        lookups.step(10 * turn)
        assert lookups.discovery.to_dial(10 * turn) == [X]
    assert world.asked.count("slow:7400") == 1
    [line] = lookups.discovery.lines(60)
    assert line.item == "slow:7400"
    world.queue(SLOW).put(Absent("no such name"))
    until(lambda: world.woken == 4)
    lookups.step(61)
    assert world.asked.count("slow:7400") == 1
    lookups.step(66)
    until(lambda: world.asked.count("slow:7400") == 2)


def test_so_many_threads_are_started_and_no_more(world: World, until: Any) -> None:
    before = threading.active_count()
    lookups = discover(",".join(f"web{number}:1" for number in range(100)), world)
    for now in range(100):
        lookups.step(now)
    until(lambda: len(world.asked) == AT_ONCE)
    assert threading.active_count() <= before + AT_ONCE


@pytest.mark.parametrize(
    ("error", "why"),
    [(ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"), (SystemExit(), "the lookup was broken off")],
    ids=["error", "exit"],
)
def test_a_lookup_that_raises_has_failed_and_the_item_is_looked_up_again(
    world: World, until: Any, error: BaseException, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    lookups = discover("web:7400", world)
    world.queue(WEB).put(error)
    lookups.step(0)
    until(lambda: world.woken)
    until(lambda: not of_lookups() or isinstance(error, Exception))
    lookups.step(0)
    assert lookups.discovery.lines(0)[0].text == f"cannot be looked up, and it lists nothing: {why}"
    world.queue(WEB).put(Found((X,)))
    lookups.step(5)
    until(lambda: world.woken == 2)
    lookups.step(5)
    assert lookups.discovery.to_dial(5) == [X]


def test_where_no_thread_can_be_started_that_is_told_and_tried_again(
    world: World, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise NoThread(11, "the thread cannot be started")

    lookups = discover("web:7400", world)
    with monkeypatch.context() as patch:
        patch.setattr(module, "start_helper", refuse)
        lookups.step(0)
    assert "the thread cannot be started" in lookups.discovery.lines(0)[0].text
    lookups.step(4)
    assert world.asked == []
    lookups.step(5)
    until(lambda: world.asked)


def test_what_is_answered_after_the_end_goes_nowhere(world: World, until: Any) -> None:
    lookups = discover("web:7400,slow:7400", world)
    world.queue(WEB).put(Found((X,)))
    lookups.step(0)
    until(lambda: world.woken == 1 and len(world.asked) == 2)
    threads = of_lookups()
    lookups.close()
    world.queue(SLOW).put(Found((X,)))
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert world.woken == 1
    assert not lookups._post.answers


def test_threads_are_daemons_of_this_name(world: World, until: Any) -> None:
    discover("web:7400", world).step(0)
    until(lambda: world.asked)
    assert all(thread.daemon for thread in of_lookups())
    assert of_lookups()


def test_in_a_forked_child_all_is_looked_up_anew_and_with_the_childs_waker(world: World, until: Any) -> None:
    lookups = discover("web:7400,slow:7400", world)
    world.queue(WEB).put(Found((X,)))
    lookups.step(0)
    until(lambda: world.woken == 1)
    lookups.step(1)
    woken: list[bool] = []
    parents = [*lookups._workers]
    lookups.forget_after_fork(2, lambda: woken.append(True))
    world.queue(SLOW).put(Absent("for the parent"))
    until(lambda: world.woken == 2)
    assert lookups.discovery.to_dial(2) == [X], "what was known is known"
    world.queue(WEB).put(Found(()))
    world.queue(SLOW).put(Found((Address("10.0.0.2", 7400),)))
    lookups.step(2)
    until(lambda: len(woken) == 2)
    lookups.step(3)
    assert lookups.discovery.to_dial(3) == [Address("10.0.0.2", 7400)]
    assert world.woken == 2
    for worker in parents:
        worker.give(None)


# --- Whole processes

START = """\
import os, sys, threading
from time import monotonic, sleep
from colocache.runtime.network.discovery import Discovery
from colocache.runtime.network.lookups import Lookups
from colocache.runtime.network.peers import parse_peers
from colocache.runtime.network.resolver import Resolver, require_what_is_needed
from colocache.runtime.network.answers import Found

started, never = os.pipe(), os.pipe()

def block(item):
    os.write(started[1], b"!")
    os.read(never[0], 1)

def lookups_that_block():
    lookups = Lookups(Discovery(parse_peers("web:7400,other:7400"), 0), block)
    lookups.step(0)
    assert os.read(started[0], 1) and os.read(started[0], 1)
    return lookups

"""
GEVENT = "import gevent.monkey; gevent.monkey.patch_all(); import gevent\n"

BLOCKED_AT_THE_END = """\
lookups = lookups_that_block()
{close}
print("the end")
"""

FORK = """\
lookups = lookups_that_block()
child = os.fork()
if child == 0:
    lookups._look_up = lambda item: Found(())
    lookups.step(1)
    while len(lookups._post.answers) < 2:
        sleep(0.001)
    lookups.step(2)
    assert not lookups.discovery.lines(100), "no lookup is under way"
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert not lookups._post.answers
print("the end")
"""


def run(program: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program],
        env=environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")


@pytest.mark.parametrize("close", ["lookups.close()", ""], ids=["closed", "open"])
def test_a_lookup_that_blocks_does_not_hold_up_the_end_of_the_process(close: str) -> None:
    run(START + BLOCKED_AT_THE_END.format(close=close))


def test_a_forked_child_looks_up_for_itself() -> None:
    run(START + FORK)


@pytest.mark.parametrize(
    "program", [BLOCKED_AT_THE_END.format(close="lookups.close()"), FORK], ids=["blocked at the end", "fork"]
)
def test_so_it_is_under_gevent(program: str) -> None:
    pytest.importorskip("gevent")
    run(GEVENT + START + program)


UNDER_GEVENT = """\
import gc
from gevent.hub import Hub

items = parse_peers("localhost:7400,srv:_colocache._tcp.shop")
require_what_is_needed(items)
resolver, asked = Resolver(name_servers=["127.0.0.1"], port={port}), []

def look_up(item):
    asked.append(item)
    return resolver(item)

lookups = Lookups(Discovery(items, monotonic(), interval=0.001), look_up)
ends = monotonic() + 60
while asked.count(items[1]) < 30 or not lookups.discovery.to_dial(monotonic()):
    assert monotonic() < ends, lookups.discovery.lines(monotonic())
    lookups.step(monotonic())
    gevent.sleep(0.001)
assert lookups.discovery._known[items[1]].items == parse_peers("web1.shop.:7400")
hubs = [each for each in gc.get_objects() if isinstance(each, Hub)]
assert 1 < len(hubs) <= 1 + len(lookups._workers) <= 4, hubs
lookups.close()
for _ in range(100):
    gevent.sleep(0.001)  # the hub of the main thread goes on
print("the end")
"""


def test_names_and_services_are_looked_up_while_greenlets_run() -> None:
    pytest.importorskip("gevent")
    pytest.importorskip("dns")
    with NameServer() as server:
        server.zone["_colocache._tcp.shop"] = [srv(0, 0, 7400, "web1.shop")]
        run(GEVENT + START + UNDER_GEVENT.format(port=server.port))
