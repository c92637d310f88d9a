"""The load of the demo: a catalogue of pages, a skewed choice of them, and visitors that read and write over HTTP."""

from __future__ import annotations

import http.client
import json
import random
import socket
import sqlite3
import threading
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from check import Checker

PATIENCE = 20.0  # seconds until an answer counts as missing, because an invalidation may take 3
WRITES = 0.02  # of all requests
TRIES = 2  # because a killed worker loses its request, which is then sent once more


class Zipf:
    """Draws items of a sequence. The n-th item comes 1/n times as often as the first one."""

    def __init__(self, items: Sequence[str], rng: random.Random) -> None:
        self.items = items
        self._rng = rng
        self._weights = list(accumulate(1 / rank for rank in range(1, len(items) + 1)))

    def draw(self) -> str:
        """Draw one item."""
        return self.items[bisect(self._weights, self._rng.random() * self._weights[-1], hi=len(self.items) - 1)]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The pages that visitors ask for, the most popular first, and costly pages that they never ask for."""

    popular: tuple[str, ...]
    reserved: tuple[str, ...]


def catalogue(database: Path, seed: int) -> Catalogue:
    """Choose the pages: 600 characters, all categories, 120 words, and 40 words in reserve."""
    rng = random.Random(seed)
    connection = sqlite3.connect(database)
    try:
        chars = connection.execute("SELECT cp FROM character WHERE category NOT IN ('Lo', 'Cc') ORDER BY cp").fetchall()
        categories = connection.execute("SELECT DISTINCT category FROM character ORDER BY 1").fetchall()
        words = connection.execute("SELECT word FROM word WHERE uses BETWEEN 50 AND 4000 ORDER BY word").fetchall()
    finally:
        connection.close()
    rng.shuffle(words)
    pages = [f"/char/{cp:04X}" for (cp,) in rng.sample(chars, min(600, len(chars)))]
    pages += [f"/category/{category}" for (category,) in categories]
    pages += [f"/word/{word}" for (word,) in words[40:160]]
    rng.shuffle(pages)
    return Catalogue(tuple(pages), tuple(f"/word/{word}" for (word,) in words[:40]))


class Workers:
    """The latest figures of each worker. Figures only grow, so the greatest is the latest. Thread-safe."""

    def __init__(self) -> None:
        self._figures: dict[int, dict[str, int]] = {}
        self._lock = threading.Lock()

    def note(self, figures: dict[str, int]) -> None:
        """Note the figures in a response."""
        with self._lock:
            known = self._figures.setdefault(figures["pid"], {})
            for name, value in figures.items():
                known[name] = max(value, known.get(name, 0))

    def pids(self) -> list[int]:
        """Return all workers, in the order of their first answers."""
        with self._lock:
            return list(self._figures)

    def least(self, name: str) -> int:
        """Return the smallest value of one figure among all workers."""
        with self._lock:
            return min((figures.get(name, 0) for figures in self._figures.values()), default=0)

    def totals(self) -> dict[str, int]:
        """Return the sums of the figures of all workers, including dead ones. This makes sense for counters only."""
        with self._lock:
            names = sorted({name for figures in self._figures.values() for name in figures})
            return {name: sum(figures.get(name, 0) for figures in self._figures.values()) for name in names}


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Unanswered(Exception):
    """A request got no answer, or not the status 200."""


@dataclass(frozen=True, slots=True)
class Client:
    """Sends requests to the server, each on a new connection, because gunicorn's sync workers keep none open."""

    path: str
    workers: Workers

    def send(self, method: str, address: str, content: object = None) -> dict[str, Any]:
        """Return the content of the answer. Raise OSError or HTTPException for a broken connection, or Unanswered."""
        connection = UnixConnection(self.path)
        try:
            connection.request(method, address, None if content is None else json.dumps(content))
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise Unanswered(f"{method} {address} was answered with {response.status}: {body[:200]!r}")
        self.workers.note(json.loads(response.headers["X-Figures"]))
        answer: dict[str, Any] = json.loads(body)
        return answer


@dataclass(slots=True)
class Tally:
    """What one visitor saw. Only its thread writes it. Other threads may read it."""

    seconds: list[float] = field(default_factory=list)  # one for each answer
    receipts: list[float] = field(default_factory=list)  # milliseconds of each complete invalidation
    writes: int = 0
    incomplete: int = 0  # writes whose invalidation not all workers have acknowledged
    resent: int = 0
    unanswered: list[str] = field(default_factory=list)


class Visitor(threading.Thread):
    """Asks for pages, and annotates some of them, one request after another, until it is stopped."""

    def __init__(self, name: str, client: Client, checker: Checker, zipf: Zipf, rng: random.Random) -> None:
        super().__init__(name=name, daemon=True)
        self.tally = Tally()
        self._client = client
        self._checker = checker
        self._zipf = zipf
        self._rng = rng
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Finish the current request, and then stop."""
        self._stopped.set()

    def run(self) -> None:
        """Ask and write until stopped."""
        while not self._stopped.is_set():
            if self._rng.random() < WRITES:
                self.write(next(page for page in iter(self._zipf.draw, None) if page.startswith("/char/")))
            else:
                self.read(self._zipf.draw())

    def read(self, page: str) -> None:
        """Ask for a page, and judge the answer by the floor just before this try."""

        def ask() -> None:
            floor = self._checker.floor(page)
            answer = self._client.send("GET", page)
            self._checker.judge(page, floor, answer["version"])

        self._try(page, ask)

    def write(self, page: str) -> None:
        """Annotate a character. A second try has the same request id, so it does not count twice."""
        self.tally.writes += 1
        content = {"text": f"seen by {self.name}", "request": f"{self.name}-{self.tally.writes}"}
        self._checker.write_sent()

        def tell() -> None:
            answer = self._client.send("POST", page.replace("/char/", "/annotate/"), content)
            if answer["complete"]:
                self._checker.acknowledge(answer["versions"])
                self.tally.receipts += answer["milliseconds"]
            else:
                self.tally.incomplete += 1

        self._try(page, tell)

    def _try(self, page: str, request: Callable[[], None]) -> None:
        started = time.monotonic()
        for left in reversed(range(TRIES)):
            try:
                request()
            except (OSError, http.client.HTTPException) as error:
                if left:
                    self.tally.resent += 1
                else:
                    self.tally.unanswered.append(f"{page}: {error!r}")
            except Unanswered as error:
                self.tally.unanswered.append(str(error))
                return
            else:
                self.tally.seconds.append(time.monotonic() - started)
                return


def ask_at_once(client: Client, page: str, visitors: int) -> int:
    """Ask for a page from several threads at the same time. Return how many loads their answers came from."""
    marks: list[str] = []
    barrier = threading.Barrier(visitors)

    def ask() -> None:
        barrier.wait()
        marks.append(client.send("GET", page)["loaded_by"])

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(visitors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return len(set(marks))
