"""What a group of processes writes to the log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from colocache.host import MOST_NAMED, _named
from colocache.runtime.board_file import Seat

WORKER = """
import logging, sys, colocache
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
cache = colocache.Cache("shop")
cache.start()
for line in sys.stdin:
    print(len(cache.members()), flush=True)
"""
WORKERS = 8
PATIENCE = 60.0


def test_eight_workers_that_start_and_stop_write_one_line_each_for_that(run_dir: str) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(WORKERS)
    ]  # fmt: skip
    ends = time.monotonic() + PATIENCE
    for worker in workers:
        assert worker.stdin
        assert worker.stdout
        while True:
            print(file=worker.stdin, flush=True)
            if int(worker.stdout.readline()) == WORKERS:
                break
            assert time.monotonic() < ends, "they do not find each other"
    seats = set()
    for worker in workers:
        _, log = worker.communicate(timeout=PATIENCE)
        joined, left = log.splitlines()
        begin = rf"INFO colocache\[{worker.pid}\] shop: "
        seat = re.fullmatch(begin + rf"joined on seat (\d+) in {run_dir}/shop", joined)
        assert seat, log
        assert re.fullmatch(begin + f"left seat {re.escape(seat[1])}", left), log
        seats.add(seat[1])
    assert len(seats) == WORKERS


TWO_CACHES = """
import logging, sys, colocache
logging.basicConfig(level=logging.INFO, format="%(message)s")
say = logging.getLogger("test").info
with colocache.Cache("shop") as one:
    one.start()
    with colocache.Cache("shop") as two:
        two.start()
    say("a second cache was there")
say("both have left")
"""


def test_a_process_with_two_caches_joins_and_leaves_once(run_dir: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_CACHES], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    lines = [re.sub(r".* shop: ", "", line) for line in done.stderr.splitlines()]
    assert sorted(lines[:-2]) == ["a second cache was there", f"joined on seat 0 in {run_dir}/shop"]
    assert lines[-2:] == ["left seat 0", "both have left"]


#: A worker that misses others at once, and not after ten seconds.
EXPECTANT = """
import logging, sys, colocache, colocache.host
from colocache.core.host import attendance
attendance.SETTLED, colocache.host.PUBLISH_IDLE = 0.0, 0.01
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
with colocache.Cache(sys.argv[1]) as cache:
    cache.start()
    print(cache.stats().expected, flush=True)
    sys.stdin.readline()
"""
SEE = (
    r"See whether the others have the same COLOCACHE_GROUP and COLOCACHE_DIR, run as the same user, have this "
    r"directory where they are in another container, and have used the cache"
)


class Worker:
    """A process that joins, and stays until it is told to leave."""

    def __init__(self, group: str, directory: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", EXPECTANT, group],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "COLOCACHE_DIR": directory, "COLOCACHE_EXPECT": "2"},
        )  # fmt: skip
        self.lines: list[str] = []
        assert self.process.stdout
        self.expected = self.process.stdout.readline()

    def line(self, begin: str) -> str:
        """Wait for a line of the log that begins like this, and return it."""
        assert self.process.stderr
        while not (self.lines and self.lines[-1].startswith(begin)):
            line = self.process.stderr.readline()
            assert line, self.lines
            self.lines.append(line.rstrip("\n"))
        return self.lines[-1]


NewWorker = Callable[..., Worker]


@pytest.fixture
def worker(run_dir: str) -> Iterator[NewWorker]:
    """Start workers, which are killed at the end."""
    started: list[Worker] = []

    def start(group: str = "shop", directory: str = run_dir) -> Worker:
        started.append(Worker(group, directory))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_a_worker_in_a_wrong_directory_or_group_is_missed_until_it_is_there(worker: NewWorker, run_dir: str) -> None:
    one = worker()
    pid = one.process.pid
    assert one.expected == "2\n"
    missing = (
        f"processes are missing: 2 are expected (COLOCACHE_EXPECT), and 1 joined: seat 0 (pid {pid}), in {run_dir}"
    )
    assert one.line("WARNING") == f"WARNING colocache[{pid}] shop: {missing}/shop. {SEE}"
    elsewhere = f"{run_dir}/elsewhere"
    os.mkdir(elsewhere, 0o700)
    for other, place in [(worker(directory=elsewhere), f"{elsewhere}/shop"), (worker("shopp"), f"{run_dir}/shopp")]:
        assert f"seat 0 (pid {other.process.pid}), in {place}. {SEE}" in other.line("WARNING")
    worker()
    begin = f"INFO colocache[{pid}] shop: "
    assert one.line(f"{begin}no") == f"{begin}no process is missing any more: 2 joined"


def test_a_line_names_some_processes_and_counts_the_others() -> None:
    few = [Seat(2, 0, 7), Seat(1, 4242, 8)]
    assert _named(few) == "seat 1 (pid 4242), seat 2 (pid unknown)"
    many = [Seat(number, 4242, number) for number in range(MOST_NAMED + 3)]
    assert _named(many).endswith(f"seat {MOST_NAMED - 1} (pid 4242) and 3 more")
