"""What a process that gevent has patched does, for test_gevent.py. Each function is a story with its own process.

    python greenlets.py STORY          ends with 0 if the story went as it should

Another process, which the story may stop by a signal, is a member of the same group, and owns half of the keys.
"""

from __future__ import annotations

import sys

import gevent
import gevent.event
import gevent.monkey

if "unpatched" not in sys.argv[1]:
    gevent.monkey.patch_all()

import contextlib
import gc
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import colocache
from colocache.core import keys

PATIENCE = 30.0  # s; only a story that fails waits so long
TICKS = 50

OTHER = """\
import sys, colocache
cache = colocache.Cache("greenlets", lease=20, fetch_timeout=20)
cache.start()
print("there", flush=True)
for line in sys.stdin:
    key, value = line.split()
    while not cache.set(key, value):  # it does not hear everybody yet
        pass
    print("stored", flush=True)
"""


def until(condition: Callable[[], object]) -> None:
    """Let the other greenlets run until a condition holds."""
    with gevent.Timeout(PATIENCE):
        while not condition():
            gevent.sleep(0.001)


class Ticker:
    """A greenlet that counts how often it had its turn, and then does something."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.ticks = 0
        self._then = then
        gevent.spawn(self._run)

    def _run(self) -> None:
        while self.ticks < TICKS:
            self.ticks += 1
            gevent.sleep(0.001)
        self._then()


class Other:
    """The other member, a process without gevent."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "error", "-c", OTHER]
        self._process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "there\n"

    def set(self, key: str, value: str) -> None:
        self._process.stdin.write(f"{key} {value}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "stored\n"

    def stop(self) -> None:
        """Stop the process. On return none of its threads runs: the signal alone lets it answer one request more."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        self._process.stdin.close()
        assert self._process.wait() == 0
        self._process.stdout.close()


@contextlib.contextmanager
def two_members() -> Iterator[tuple[colocache.Cache, Other]]:
    """This process and another one, which hear each other."""
    other = Other()
    with colocache.Cache("greenlets", lease=20, fetch_timeout=20) as cache:
        cache.start()
        until(lambda: cache.stats().current and len(cache.members()) == 2)
        try:
            yield cache, other
        finally:
            other.close()


def key_owned(cache: colocache.Cache, *, here: bool) -> str:
    """Find a key that this process owns, or the other one."""
    driver = cache._member.join()
    me = driver.members().me.incarnation
    for number in range(1000):
        wire = keys.wire(keys.prefix(""), f"key-{number}")
        if (driver._look(lambda now, wire=wire: driver._peer.owner_of(wire)) == me) is here:
            return f"key-{number}"
    raise AssertionError("no such key")


# --- Stories


def many_greenlets_miss_one_key_and_one_loads_it() -> None:
    loads = []

    def load() -> str:
        loads.append(gevent.getcurrent())
        until(lambda: cache.stats().waits == 99)
        return "loaded"

    with two_members() as (cache, _):
        for here in (True, False):
            key, base = key_owned(cache, here=here), cache.stats().waits
            readers = [gevent.spawn(cache.get_or_load, key, load) for _ in range(100)]
            if base:
                break
            assert [reader.get(timeout=PATIENCE) for reader in readers] == ["loaded"] * 100
            assert len(loads) == 1


def a_fetch_from_a_stopped_owner_does_not_stop_the_others() -> None:
    with two_members() as (cache, other):
        key = key_owned(cache, here=False)
        other.set(key, "theirs")
        other.stop()
        ticker = Ticker(other.go_on)
        assert cache.get(key) == "theirs"
        assert ticker.ticks == TICKS


def an_invalidation_that_waits_does_not_stop_the_others() -> None:
    with two_members() as (cache, other):
        other.stop()
        ticker = Ticker(other.go_on)
        receipt = cache.invalidate("key")
        assert ticker.ticks == TICKS
        assert receipt.complete
        assert len(receipt.acknowledged) == 1


def closing_waits_without_stopping_the_others() -> None:
    with two_members() as (cache, other):
        other.stop()
        cache.invalidate("key", wait=False)
        ticker = Ticker(other.go_on)
        cache.close()
        assert ticker.ticks == TICKS


def a_killed_waiter_harms_nobody() -> None:
    with two_members() as (cache, other):
        key = key_owned(cache, here=False)
        other.set(key, "theirs")
        other.stop()
        killed, given_up, waits = gevent.spawn(cache.get, key), gevent.spawn(give_up, cache, key), None
        gevent.sleep(0)
        waits = gevent.spawn(cache.get, key)
        gevent.sleep(0)
        killed.kill()
        assert given_up.get(timeout=PATIENCE) == "gave up"
        other.go_on()
        assert waits.get(timeout=PATIENCE) == "theirs"
        assert isinstance(killed.value, gevent.GreenletExit)


def give_up(cache: colocache.Cache, key: str) -> str:
    """Wait for a key for no longer than a moment."""
    with gevent.Timeout(0.001, False):
        cache.get(key)
        return "got it"
    return "gave up"


def the_load_of_a_killed_greenlet_passes_on() -> None:
    started = gevent.event.Event()

    def never() -> None:
        started.set()
        gevent.sleep(PATIENCE)

    with two_members() as (cache, _):
        leader = gevent.spawn(cache.get_or_load, "key", never)
        started.wait()
        waiter = gevent.spawn(cache.get_or_load, "key", lambda: "mine")
        until(lambda: cache.stats().waits == 1)
        leader.kill()
        assert waiter.get(timeout=PATIENCE) == "mine"


def loads_of_greenlets_that_run_out_of_time_are_bounded() -> None:
    """What must not happen:

    1. a load takes longer than each request may take;
    2. each request hands its duty to load on to the next;
    3. nobody is ever served.
    """
    begun: list[gevent.Greenlet] = []

    def never() -> None:
        begun.append(gevent.getcurrent())
        gevent.sleep(PATIENCE)

    with two_members() as (cache, _):
        requests = [gevent.spawn(cache.get_or_load, "key", never) for _ in range(5)]
        for count in (1, 2):
            until(lambda count=count: len(begun) == count and cache.stats().waits >= 4)
            begun[-1].kill(gevent.Timeout(), block=False)
            until(begun[-1].ready)
        until(lambda: len(begun) == 5)  # the others load for themselves
        gevent.killall(requests)


def a_callback_of_the_hub_is_refused_what_would_wait() -> None:
    with two_members() as (cache, _):
        key, seen = key_owned(cache, here=True), list[Any]()
        cache.get_or_load(key, lambda: "value")
        assert cache.get(key) == "value"

        def callback() -> None:
            seen.append(cache.get(key))
            seen.append(cache.stats().members)  # answered by this process alone
            try:
                cache.get("another")
            except colocache.EventLoopError as error:
                seen.append(str(error))

        gevent.get_hub().loop.run_callback(callback)
        until(lambda: len(seen) == 3)
        assert seen[:2] == ["value", 2]
        assert "gevent.spawn" in seen[2]


def threads_of_a_pool_and_greenlets_may_use_one_cache() -> None:
    def work(number: int) -> str:
        for turn in range(20):
            key = f"key-{(number + turn) % 7}"
            assert cache.get_or_load(key, lambda key=key: key) == key
            cache.invalidate(key)
        return "done"

    with two_members() as (cache, _):
        pool = gevent.get_hub().threadpool
        tasks = [pool.spawn(work, number) for number in range(5)] + [gevent.spawn(work, number) for number in range(5)]
        assert [task.get(timeout=PATIENCE) for task in tasks] == ["done"] * 10


def greenlets_and_the_drivers_thread_may_log_at_once() -> None:
    logged: list[str] = []

    class Slow(logging.Handler):
        """Lets others run while it has its lock, as a handler does that sends to a server."""

        def emit(self, record: logging.LogRecord) -> None:
            gevent.sleep(0.001)
            logged.append(record.getMessage())

    def chatter() -> None:
        while not done:
            logging.getLogger("chatter").warning("and so on")
            gevent.sleep(0)

    done: list[bool] = []
    logging.basicConfig(level=logging.INFO, handlers=[Slow()])
    talking = [gevent.spawn(chatter) for _ in range(3)]
    with two_members():
        for _ in range(3):
            with colocache.Cache("greenlets", lease=20, fetch_timeout=20) as another:
                assert another.get_or_load("key", lambda: "value") == "value"
                assert another.invalidate("key").complete
        until(lambda: sum("joined on seat" in line for line in logged) == 4)
    done.append(True)
    gevent.joinall(talking, timeout=PATIENCE, raise_error=True)


def a_greenlet_that_waits_lives_on_in_a_forked_child() -> None:
    """gevent copies all greenlets into the child, where the parent's driver does not answer those that wait."""
    with two_members() as (cache, other):
        parent, key = os.getpid(), key_owned(cache, here=False)
        other.set(key, "theirs")
        other.stop()
        reader, loader = gevent.spawn(cache.get, key), gevent.spawn(cache.get_or_load, key, os.getpid)
        gevent.sleep(0)
        child = os.fork()
        if child == 0:
            try:
                gevent.joinall([reader, loader], timeout=PATIENCE)
                os._exit(10 * (reader.value is None) + (loader.value == os.getpid() != parent))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
        other.go_on()
        assert reader.get(timeout=PATIENCE) == loader.get(timeout=PATIENCE) == "theirs"


def a_child_forked_by_gevent_joins_by_itself() -> None:
    with two_members() as (cache, _):
        cache.start()
        child = os.fork()
        if child == 0:
            try:
                assert gevent.spawn(cache.get_or_load, "key", os.getpid).get(timeout=PATIENCE) == os.getpid()
                assert cache.get("key") == os.getpid()
                members = len(cache.members())
                cache.close()
                os._exit(members)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def a_dropped_cache_leaves_without_being_closed() -> None:
    with two_members() as (cache, _):
        dropped = colocache.Cache("greenlets", lease=20, fetch_timeout=20)
        dropped.start()
        until(lambda: len(cache.members()) == 3)
        del dropped
        gc.collect()
        until(lambda: len(cache.members()) == 2)


def a_process_that_ends_says_goodbye() -> None:
    cache = colocache.Cache("greenlets")
    cache.set("key", "value")


def a_cache_that_joined_unpatched_goes_on_when_gevent_patches() -> None:
    with two_members() as (cache, other):
        key = key_owned(cache, here=False)
        other.set(key, "theirs")
        gevent.monkey.patch_all()
        other.stop()
        ticker = Ticker(other.go_on)
        assert cache.get(key) == "theirs"
        assert ticker.ticks == TICKS


def greenlets_in_an_unpatched_process_wait_like_threads() -> None:
    with two_members() as (cache, other):
        key = key_owned(cache, here=False)
        other.set(key, "theirs")
        ticker = Ticker(lambda: None)
        assert gevent.spawn(cache.get, key).get(timeout=PATIENCE) == "theirs"
        until(lambda: ticker.ticks == TICKS)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
