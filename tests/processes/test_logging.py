"""What a group of processes writes to the log."""

from __future__ import annotations

import re
import subprocess
import sys
import time

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
