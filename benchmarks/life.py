"""What is lost when a worker is replaced or many keys are written, and how soon can a fresh process use the cache?

    python -m benchmarks.life [--quick] [--write] [--only recycled,crowded,starts]

Recycled. Eight processes have loaded 1,000 keys and saved 1,000 Django sessions, which are only in the cache. All of
them load, write and invalidate other keys when one ends: in its own time, or by SIGKILL in the midst of that work.
Another one takes its place. Then the processes read all keys and sessions, each in turn: which keys have to be loaded
again, and which sessions are lost? Nobody has changed them.

Crowded. 2,000 sessions are stored by `set`, so nobody can load them again. Another process stores 180,000 other keys,
or invalidates as many. How many of the sessions does a fresh process find?

Starts. A group is alive, and a process starts. How long does it take from the end of its ``import colocache`` until its
first call has returned? The first call is one of several kinds, and the benchmark counts those that did not work.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.group import Group, Member
from benchmarks.measure import Contender, Report, chosen_parts, exactly, interleave, options, progress, samples, spread

PROCESSES = 8
KEYS, SESSIONS = 1000, 1000
ENDS = {"in its own time": False, "by SIGKILL": True}
LOADED_AGAIN = 1.0  # % of the keys, at most, for each process that is replaced
CROWD, HELD, SIZE = 180_000, 2_000, 200  # other keys, sessions, bytes of each
LOST = 1.0  # % of the sessions, at most
START = 10.0  # ms


# --- Recycled


class Served(Member):
    """A worker of an application with Django's sessions."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self._loaded = 0
        self._sessions(directory)

    def _sessions(self, directory: str) -> None:
        from django.conf import settings

        place = {
            "BACKEND": "colocache.django.ColocacheCache",
            "LOCATION": "sessions",
            "OPTIONS": {"directory": directory},
        }
        settings.configure(CACHES={"default": place}, SECRET_KEY="of no importance", USE_TZ=True,
                           SESSION_ENGINE="django.contrib.sessions.backends.cache")  # fmt: skip
        from django.contrib.sessions.backends.cache import SessionStore

        self._store = SessionStore

    def save(self, first: int, count: int) -> list[str]:
        """Save so many sessions; return their keys."""
        names = []
        for number in range(first, first + count):
            session = self._store()
            session["user"] = number
            session.save()
            names.append(str(session.session_key))
        return names

    def lost(self, names: Sequence[str], first: int) -> int:
        """Return how many of these sessions are lost, or are not as they were saved."""
        return sum(self._store(name).get("user") != number for number, name in enumerate(names, first))

    def loaded(self, keys: Sequence[str]) -> int:
        """Read these keys; return how many of them were loaded."""
        before = self._loaded
        for key in keys:
            self.cache.get_or_load(key, self._load)
        return self._loaded - before

    def _load(self) -> dict[str, Any]:
        self._loaded += 1
        return {"text": "x" * SIZE, "number": self._loaded}

    def churn(self, seed: int, seconds: float) -> None:
        """Load, write and invalidate other keys for so long."""
        dice, ends = random.Random(seed), time.monotonic() + seconds
        while time.monotonic() < ends:
            key, what = f"busy:{dice.randrange(KEYS)}", dice.random()
            if what < 0.1:
                self.cache.invalidate(key)
            elif what < 0.2:
                self.cache.set(key, what)
            elif what < 0.3:
                self.cache.incr(f"count:{dice.randrange(KEYS)}", initial=0)
            else:
                self.cache.get_or_load(key, self._load)


def shares(items: Sequence[Any]) -> Iterator[tuple[int, int, Sequence[Any]]]:
    """Yield for each process its number, and the items that it takes, with the place of the first."""
    size = len(items) // PROCESSES
    for number in range(PROCESSES):
        yield number, number * size, items[number * size : (number + 1) * size]


def recycle(group: Group, kill: bool) -> None:
    """Replace one process, while all are working."""
    for number, worker in enumerate(group.workers):
        worker.send("churn", number, 0.6)
    time.sleep(0.3)
    victim, others = group.workers[0], group.workers[1:]
    if not kill:
        victim.answer()
    group.remove(victim, kill=kill)
    for worker in others:
        worker.answer()
    group.start(Served)


def tell_recycled(report: Report) -> None:
    """Tell what is lost with a worker."""
    keys = [f"quiet:{number}" for number in range(KEYS)]
    times, rows = 1 if report.options.quick else 3, []
    with Group() as group:
        group.start(Served, PROCESSES)
        for number, _, part in shares(keys):
            group.workers[number].call("loaded", part)
        parts = [
            group.workers[number].call("save", first, len(part)) for number, first, part in shares(range(SESSIONS))
        ]
        names = [name for part in parts for name in part]
        for how, kill in ENDS.items():
            loaded, lost = list[float](), 0
            for _ in range(times):
                progress(f"recycled, {how}")
                recycle(group, kill)
                loaded += [
                    100 * sum(group.workers[number].call("loaded", part) for number, _, part in shares(keys)) / KEYS
                ]
                lost += sum(group.workers[number].call("lost", part, first) for number, first, part in shares(names))
            rows.append((how, times, spread(loaded).median, max(loaded), lost))
            report.target(f"a worker of {PROCESSES} is replaced, it ends {how}: % of unchanged keys loaded again",
                          spread(loaded), LOADED_AGAIN)  # fmt: skip
            report.target(f"a worker of {PROCESSES} is replaced, it ends {how}: sessions lost", exactly(lost), 0)
    columns = ("it ends", "times", "% loaded again", "most", "sessions lost")
    report.table(f"a worker of {PROCESSES} is replaced: {KEYS} keys and {SESSIONS} Django sessions", columns, rows)


# --- Crowded


class Crowd(Member):
    """A process that stores, invalidates, and finds."""

    def hold(self, count: int) -> None:
        """Store sessions."""
        space = self.cache.namespace("sessions", ttl="14d")
        for number in range(count):
            if not space.set(str(number), "x" * SIZE):
                raise RuntimeError("the cache has not stored a session")

    def write(self, count: int) -> float:
        """Store so many other keys; return the seconds that each took."""
        began = time.monotonic()
        for number in range(count):
            self.cache.set(f"other:{number}", number)
        return (time.monotonic() - began) / count

    def invalidate(self, count: int) -> float:
        """Invalidate so many other keys; return the seconds that each took."""
        began = time.monotonic()
        for number in range(count):
            self.cache.invalidate(f"other:{number}")
        return (time.monotonic() - began) / count

    def missing(self, count: int) -> int:
        """Return how many sessions are not there."""
        space = self.cache.namespace("sessions")
        return sum(space.get(str(number)) is None for number in range(count))


def tell_crowded(report: Report) -> None:
    """Tell what is lost when many other keys are written or invalidated."""
    count, rows = CROWD // 20 if report.options.quick else CROWD, []
    for what, does in (("sets", "write"), ("invalidations", "invalidate")):
        progress(f"crowded by {what}")
        with Group() as group:
            holder, other = group.start(Crowd, 2)
            holder.call("hold", HELD)
            took = other.call(does, count)
            [fresh] = group.start(Crowd)
            lost = fresh.call("missing", HELD)
        rows.append((f"{count:,} {what} of other keys", 100 * lost / HELD, took * 1e6))
        if not report.options.quick:
            report.target(f"sessions lost after {count:,} {what} of other keys: %", exactly(100 * lost / HELD), LOST)
    report.table(f"{HELD:,} sessions that were set", ("after", "% lost", "us for each key"), rows)


# --- Starts

#: What a fresh process does. It prints the seconds that its first call took, and whether that worked.
FRESH = """
import sys
from time import perf_counter
import colocache
began = perf_counter()
cache = colocache.Cache("bench", directory=sys.argv[1])
found = {call}
print(perf_counter() - began, int(bool(found)))
cache.close()
"""
CALLS = {
    "get": "cache.get('there') == 'a value'",
    "get_or_load": "cache.get_or_load('loaded ' + sys.argv[2], lambda: 'a value') == 'a value'",
    "set": "cache.set('set ' + sys.argv[2], 1)",
    "add": "cache.add('added ' + sys.argv[2], 1)",
    "incr": "cache.incr('counted ' + sys.argv[2], initial=0) == 1",
    "invalidate": "cache.invalidate('there too').complete",
}


def tell_starts(report: Report) -> None:
    """Tell how soon a fresh process can use the cache."""
    started, failed = 0, dict.fromkeys(CALLS, 0)

    def sampler(group: Group, call: str) -> Callable[[], list[float]]:
        command = [sys.executable, "-c", FRESH.format(call=CALLS[call]), str(group.directory / "c")]

        def sample() -> list[float]:
            nonlocal started
            started += 1
            said = subprocess.run([*command, str(started)], capture_output=True, text=True, check=True).stdout
            seconds, worked = said.split()
            failed[call] += not int(worked)
            return [float(seconds)]

        return sample

    with Group() as group:
        workers = group.start(Starter, 4)
        workers[0].call("store")
        rounds = report.options.rounds or (3 if report.options.quick else 15)
        contenders = [Contender(f"colocache {call}", sampler(group, call)) for call in CALLS]
        series = interleave(contenders, rounds, report.options.seed, "starts:")
    report.timings("the first call of a fresh process, after its import", series, "colocache get", "ms", None)
    for name, each in series.items():
        report.target(f"a fresh process, first call {name.split()[1]}: ms", spread(1e3 * one for one in samples(each)),
                      START)  # fmt: skip
    report.note(f"first calls that did not work: {json.dumps(failed)}")
    report.target("a fresh process: first calls that did not work", exactly(sum(failed.values())), 0)


class Starter(Member):
    """A process of the group that is there already."""

    def store(self) -> None:
        """Store what fresh processes read."""
        self.cache.set("there", "a value")


PARTS: dict[str, Callable[[Report], None]] = {
    "recycled": tell_recycled, "crowded": tell_crowded, "starts": tell_starts,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what it found."""
    only = ("--only", {"default": "", "help": f"parts: {','.join(PARTS)}"})
    chosen = options(__doc__ or "", only, argv=argv)
    report = Report("life", "What is lost when workers are replaced, and how soon can a fresh one use the cache?",
                    chosen, ("django",))  # fmt: skip
    for part in chosen_parts(PARTS, chosen.only).values():
        part(report)
    return report.finish()


if __name__ == "__main__":
    main()
