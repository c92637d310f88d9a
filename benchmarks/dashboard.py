"""How long does the dashboard take to load in a browser, and what does a look cost its process?

    python -m benchmarks.dashboard [--processes 8] [--functions 200] [--values 100000]

Some processes of a group have used some functions, and the shelf has some values. The stand-alone dashboard looks at
them, and a headless Chromium opens its first page again and again, without what it has kept. The figure is the time
from the beginning of the navigation to the ``load`` event, as the browser itself measures it; a page is to be loaded
within 200 ms. The cost of a look, and of a page, is the processor time of the thread that makes it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from colocache.dashboard.application import Application, Request
from colocache.dashboard.model import FRESH
from colocache.dashboard.source import OfObserver
from scripts.browser import Browser

ROOT = Path(__file__).resolve().parents[1]
TIMES = 20

WORKER = """\
import sys, colocache
number, functions, values = map(int, sys.argv[1:])
cache = colocache.Cache()
cache.start()
for place in range(functions):
    load = cache.cached(ttl=3600, name=f"shop.module_{place % 9}:function_{place}")(lambda key: key)
    for _ in range(3):
        for key in range(20):
            load(key)
for value in range(values):
    cache.set(("value", number, value), "x" * 50)
cache.stats()
print("ready", flush=True)
sys.stdin.read()
"""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("processes", 8), ("functions", 200), ("values", 100_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="colocache-") as place:
        os.environ |= {"COLOCACHE_DIR": place, "COLOCACHE_GROUP": "shop", "PYTHONPATH": str(ROOT)}
        each = chosen.values // chosen.processes
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(number), str(chosen.functions), str(each)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for number in range(chosen.processes)
        ]  # fmt: skip
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
        command = [sys.executable, "-m", "colocache", "dashboard", "--listen", "127.0.0.1:0"]
        served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert served.stdout is not None
        address = served.stdout.readline().split()[-1]
        try:
            print(f"{chosen.processes} processes, {chosen.functions} functions, {chosen.values} values")
            looks(place)
            loads(address)
        finally:
            for process in (served, *workers):
                process.terminate()
                process.communicate()


def looks(directory: str) -> None:
    """Measure what a page costs here, without a browser."""
    application = Application(OfObserver("shop", directory), None, None)
    request = Request("GET", "/", "/", "", {})
    fresh, kept = [], []
    for _ in range(TIMES):
        time.sleep(FRESH)  # until a look counts as old
        began = time.thread_time()
        application.answer(request)
        then = time.thread_time()
        application.answer(request)
        fresh.append(then - began)
        kept.append(time.thread_time() - then)
    print(f"a page with a look at the host   {statistics.median(fresh) * 1000:6.1f} ms of processor time")
    print(f"a page of the look before        {statistics.median(kept) * 1000:6.1f} ms of processor time")


def loads(address: str) -> None:
    """Measure what the browser measures."""
    with Browser() as browser:
        browser.call("Network.setCacheDisabled", cacheDisabled=True)
        found = []
        for _ in range(TIMES):
            browser.open(address)
            found.append(browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        found.sort()
    print(
        f"loaded by the browser within     {statistics.median(found):6.1f} ms in the middle, {found[-1]:.1f} ms at most"
    )


if __name__ == "__main__":
    main()
