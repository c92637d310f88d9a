"""What a process that gevent has patched does, for test_gevent.py. Each function is a story with its own process.

    python greenlets.py STORY          ends with 0 if the story went as it should

Another process, which the story may stop by a signal, is on the same host. It loads and stores what it is told.
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

PATIENCE = 30.0  # s; only a story that fails waits so long
TICKS = 50

OTHER = """\
import sys, threading, colocache
cache = colocache.Cache("greenlets")
cache.start()
may_end = threading.Event()

def load(key, value):
    def loader():
        print("loading", flush=True)
        may_end.wait()
        return value
    cache.get_or_load(key, loader)

print("there", flush=True)
for line in sys.stdin:
    do, *words = line.split()
    if do == "load":
        threading.Thread(target=load, args=words).start()
    elif do == "invalidate":
        cache.invalidate(*words)
    else:
        may_end.set()
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
    """The other process, which is without gevent."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "error", "-c", OTHER]
        self._process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "there\n"

    def load(self, key: str, value: str) -> None:
        """Begin to load a key. The loader ends with the story, or after `release`."""
        self._say(f"load {key} {value}")
        assert self._process.stdout.readline() == "loading\n"

    def invalidate(self, key: str) -> None:
        """Invalidate a key."""
        self._say(f"invalidate {key}")

    def release(self) -> None:
        """Let all loaders end."""
        self._say("release")

    def _say(self, line: str) -> None:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Stop the process. On return none of its threads runs."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        self.release()
        self._process.stdin.close()
        assert self._process.wait() == 0
        self._process.stdout.close()


@contextlib.contextmanager
def two_processes() -> Iterator[tuple[colocache.Cache, Other]]:
    """This process and another one."""
    other = Other()
    with colocache.Cache("greenlets") as cache:
        cache.start()
        assert len(cache.members()) == 2
        try:
            yield cache, other
        finally:
            other.close()


def waiting(cache: colocache.Cache) -> int:
    """How many calls of this process wait for the loads of others."""
    claims: Any = cache._member.own_host().claims  # type: ignore[union-attr]
    queues = [*(load.waiters for load in [*claims._loads.values()]), *claims._sleepers.values()]
    return sum(map(len, queues))


# --- Stories


def many_greenlets_miss_one_key_and_one_loads_it() -> None:
    loads = []

    def load() -> str:
        loads.append(gevent.getcurrent())
        until(lambda: waiting(cache) == 99)
        return "loaded"

    with two_processes() as (cache, _):
        readers = [gevent.spawn(cache.get_or_load, "key", load) for _ in range(100)]
        assert [reader.get(timeout=PATIENCE) for reader in readers] == ["loaded"] * 100
        assert len(loads) == 1


def a_load_of_a_stopped_process_is_waited_for_without_stopping_the_others() -> None:
    with two_processes() as (cache, other):
        other.load("key", "theirs")
        other.stop()
        other.release()
        ticker = Ticker(other.go_on)
        assert cache.get_or_load("key", lambda: "ours") == "theirs"
        assert ticker.ticks == TICKS


def a_stopped_process_delays_neither_an_invalidation_nor_the_end() -> None:
    with two_processes() as (cache, other):
        assert cache.get_or_load("key", lambda: "value") == cache.get("key") == "value"
        other.stop()
        assert cache.invalidate("key").complete
        assert cache.get("key") is None
        cache.close()


def a_killed_waiter_harms_nobody() -> None:
    with two_processes() as (cache, other):
        other.load("key", "theirs")
        killed = gevent.spawn(cache.get_or_load, "key", lambda: "the killed one's")
        given_up = gevent.spawn(give_up, cache, "key")
        waits = gevent.spawn(cache.get_or_load, "key", lambda: "ours")
        until(lambda: waiting(cache) == 3)
        killed.kill()
        assert given_up.get(timeout=PATIENCE) == "gave up"
        other.release()
        assert waits.get(timeout=PATIENCE) == "theirs"
        assert isinstance(killed.value, gevent.GreenletExit)
        assert waiting(cache) == 0


def give_up(cache: colocache.Cache, key: str) -> str:
    """Wait for a key for no longer than a moment."""
    with gevent.Timeout(0.2, False):
        cache.get_or_load(key, lambda: "own")
        return "got it"
    return "gave up"


def the_load_of_a_killed_greenlet_passes_on() -> None:
    started = gevent.event.Event()

    def never() -> None:
        started.set()
        gevent.sleep(PATIENCE)

    with two_processes() as (cache, _):
        leader = gevent.spawn(cache.get_or_load, "key", never)
        started.wait()
        waiter = gevent.spawn(cache.get_or_load, "key", lambda: "mine")
        until(lambda: waiting(cache) == 1)
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

    with two_processes() as (cache, _):
        requests = [gevent.spawn(cache.get_or_load, "key", never) for _ in range(5)]
        for count in (1, 2):
            until(lambda count=count: len(begun) == count and waiting(cache) == 5 - count)
            begun[-1].kill(gevent.Timeout(), block=False)
            until(begun[-1].ready)
        until(lambda: len(begun) == 5)  # the others load for themselves
        assert begun[1] is requests[-1], "the newest request will wait longest"
        gevent.killall(requests)
        assert cache.get_or_load("key", lambda: "value") == "value"


def a_callback_of_the_hub_is_refused_what_could_wait() -> None:
    with two_processes() as (cache, _):
        seen = list[Any]()
        assert cache.get_or_load("near", lambda: "value") == "value"

        def callback() -> None:
            seen.append(cache.get_or_load("near", lambda: "another"))
            seen.append(cache.get("another"))
            seen.append(cache.set("another", 1))
            seen.append(cache.stats().processes)
            try:
                cache.get_or_load("key", lambda: "loaded")
            except colocache.EventLoopError as error:
                seen.append(str(error))

        gevent.get_hub().loop.run_callback(callback)
        until(lambda: len(seen) == 5)
        assert seen[:4] == ["value", None, True, 2]
        assert "gevent.spawn" in seen[4]


def threads_of_a_pool_and_greenlets_may_use_one_cache() -> None:
    def work(number: int) -> str:
        for turn in range(20):
            key = f"key-{(number + turn) % 7}"
            assert cache.get_or_load(key, lambda key=key: key) == key
            cache.invalidate(key)
        return "done"

    with two_processes() as (cache, _):
        pool = gevent.get_hub().threadpool
        tasks = [pool.spawn(work, number) for number in range(5)] + [gevent.spawn(work, number) for number in range(5)]
        assert [task.get(timeout=PATIENCE) for task in tasks] == ["done"] * 10


def greenlets_and_the_thread_of_the_bus_may_log_at_once() -> None:
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
    with two_processes() as (cache, other):
        for number in range(3):
            with colocache.Cache(f"greenlets {number}") as another:
                assert another.get_or_load("key", lambda: "value") == "value"
                assert another.invalidate("key").complete
        bus: Any = cache._member.own_host()._shared.bus  # type: ignore[union-attr]
        bus._receive = None  # so that its thread has something to complain of
        other.invalidate("key")
        until(lambda: any("could not be taken in" in line for line in logged))
        until(lambda: sum("joined on seat" in line for line in logged) == 4)
    done.append(True)
    gevent.joinall(talking, timeout=PATIENCE, raise_error=True)


def a_greenlet_that_waits_lives_on_in_a_forked_child() -> None:
    """gevent copies all greenlets into the child, where nobody wakes those that wait."""
    with two_processes() as (cache, other):
        parent = os.getpid()
        other.load("key", "theirs")
        loader = gevent.spawn(cache.get_or_load, "key", os.getpid)
        until(lambda: waiting(cache) == 1)
        child = os.fork()
        if child == 0:
            try:
                loader.join(timeout=PATIENCE)
                os._exit(7 if loader.value == os.getpid() != parent else 1)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        other.release()
        assert loader.get(timeout=PATIENCE) == "theirs"


def a_child_forked_by_gevent_joins_by_itself() -> None:
    with two_processes() as (cache, _):
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
    dropped, directory = colocache.Cache("dropped"), f"{os.environ['COLOCACHE_DIR']}/dropped"
    dropped.start()
    assert os.path.exists(directory)
    del dropped
    gc.collect()
    until(lambda: not os.path.exists(directory))


def a_process_that_ends_leaves_nothing() -> None:
    cache = colocache.Cache("greenlets")
    cache.set("key", "value")


def a_cache_that_joined_unpatched_goes_on_when_gevent_patches() -> None:
    with two_processes() as (cache, other):
        other.load("key", "theirs")
        gevent.monkey.patch_all()
        ticker = Ticker(other.release)
        assert cache.get_or_load("key", lambda: "ours") == "theirs"
        assert ticker.ticks == TICKS


def greenlets_in_an_unpatched_process_wait_like_threads() -> None:
    with two_processes() as (cache, other):
        other.load("key", "theirs")
        ticker = Ticker(lambda: None)
        other.release()
        assert gevent.spawn(cache.get_or_load, "key", lambda: "ours").get(timeout=PATIENCE) == "theirs"
        until(lambda: ticker.ticks == TICKS)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
