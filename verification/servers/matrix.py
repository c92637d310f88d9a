"""Every server and mode in which applications are run, and what must hold in each: ``make servers``.

    python -m verification.servers.matrix [WORD ...]

Prints a table, and puts it into docs/howto/servers.md. With words only the modes whose names have one of them, such as
``gunicorn`` or ``preload``, and the page stays as it is. Exits with 0 only if everything was there, and held.

Beside the server's workers one more process is in the group, this one, a plain script: the **witness**. What the
workers say of themselves comes by HTTP; who is in the group, on which seat, and when somebody is gone, the witness
sees. Nothing below comes true because time passes.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import colocache
from verification import ROOT
from verification.servers.modes import MODES, Mode
from verification.servers.running import PATIENCE, Broken, Running, place, until

PAGE = ROOT / "docs" / "howto" / "servers.md"
BEGIN, END = "<!-- the matrix: make servers -->", "<!-- the end of the matrix -->"

SHELF = "8MiB"  # small ones are made quickly
SETTINGS = {"COLOCACHE_TTL": "never", "COLOCACHE_SHELF": SHELF}
AT_ONCE = 5.0  # s; the kernel frees the locks of a process when the last of its threads has ended
PROMPT = 0.5  # s; an invalidation takes microseconds, also beside processes that were killed


class Trial:
    """One server in one mode, beside the witness. The checks run in the order of `CHECKS`; each returns its cell."""

    def __init__(self, mode: Mode, directory: Path, server: Running, witness: colocache.Cache) -> None:
        self.mode = mode
        self.directory = directory
        self.server = server
        self.witness = witness
        self._seats: set[int] = set()  # of the workers, once all had joined
        self._killed: set[int] = set()  # seats of processes that could not tidy up

    # --- What can be seen

    def members(self) -> dict[int, int]:
        """The others in the group: pid to seat."""
        return {member.pid: member.seat for member in self.witness.members() if not member.me}

    def pids(self) -> set[int]:
        """The processes of the others."""
        return set(self.members())

    @property
    def files(self) -> Path:
        """The group's directory."""
        return self.directory / "c" / "servers"

    def sockets(self) -> set[int]:
        """The seats of which there is a socket."""
        return {int(path.stem) for path in self.files.glob("*.bus")}

    def lines(self, name: str, key: str) -> list[int]:
        """The processes that asked for a key, or loaded it, one for each time."""
        pairs = [line.split() for line in (self.directory / name).read_text().splitlines()]
        return [int(pid) for which, pid in pairs if which == key]

    def all_joined(self) -> bool:
        """Ask a few; whether all workers are members now, and know each other and the witness."""
        answers = self.server.burst("/who")
        members = self.members()
        good = [each for each in answers if each["processes"] == self.mode.workers + 1]
        return len(members) == self.mode.workers and {each["pid"] for each in good} == set(members)

    def await_workers(self) -> dict[int, int]:
        """Return the members, once all workers are."""

        def ready() -> bool:
            assert not self.server.has_ended(), f"the server has ended:{self.server.last_words()}"
            try:
                return self.all_joined()
            except Broken:  # it is not up yet, or one of it is just being replaced
                return False

        until(ready, lambda: f"the workers are the members, {self.members()}:{self.server.last_words()}")
        return self.members()

    def write(self) -> int:
        """Change the source; its version."""
        number = int((self.directory / "version").read_text()) + 1
        fresh = self.directory / "version.new"
        fresh.write_text(str(number))
        fresh.rename(self.directory / "version")
        return number

    # --- The checks

    def joins(self) -> str:
        """All workers are members, and answer as the processes that they are."""
        members = self.await_workers()
        self._seats = set(members.values())
        if self.mode.warning:
            said = self.server.log.read_text(errors="replace")
            assert self.mode.warning in said, f"no warning: {self.server.last_words()}"
        warned = f", with a warning: {self.mode.warning}" if self.mode.warning else ""
        return f"{len(members)} of {self.mode.workers}{warned}"

    def shares_a_load(self) -> str:
        """All workers are asked for one missing key at once, and one of them loads it."""
        key, gate = "shared", self.directory / "hold-shared"
        gate.touch()
        asked: list[Future[dict[str, Any]]] = []
        # At growing intervals, because a worker may accept all that come at once, while another one gets no processor.
        ask_at = (time.monotonic() + 0.002 * 1.3**number for number in range(24))
        next_at = next(ask_at)

        def all_wait() -> bool:
            nonlocal next_at
            if time.monotonic() >= next_at and not any(each.done() for each in asked):
                asked.extend(self.server.ask_at_once(f"/read/{key}", 2))
                next_at = next(ask_at, math.inf)
            return len(set(self.lines("asked", key))) == self.mode.workers

        try:
            until(all_wait, lambda: f"all workers wait for {key}; do: {set(self.lines('asked', key))}")
        finally:
            gate.unlink()
        marks = {future.result(PATIENCE)["mark"] for future in asked}
        loads = self.lines("loads", key)
        assert len(loads) == len(marks) == 1, f"{len(loads)} loads, {len(marks)} values"
        return "1 load"

    def hears_invalidations(self) -> str:
        """All workers have a value; one is asked to invalidate it; the next answer of each is new."""
        assert {each["version"] for each in self.server.reach("/read/seen", self.pids)} == {1}
        self._change()
        assert len(self.lines("loads", "seen")) == 2, "one load, and one more"
        return "all"

    def _change(self) -> None:
        number = self.write()
        assert self.server.ask("/invalidate/seen")["complete"]
        answers = self.server.reach("/read/seen", self.pids)
        assert {each["version"] for each in answers} == {number}, "an old value after the invalidation"

    def starts_nothing_elsewhere(self) -> str:
        """No process of the server but the workers has anything of the cache: not the master, not the reloader."""
        workers: set[int] = set()

        def all_have_answered() -> bool:
            workers.update(each["pid"] for each in self.server.burst("/who"))
            return len(workers) == self.mode.workers

        until(all_have_answered, lambda: f"{self.mode.workers} workers answer; did: {workers}")
        others = [pid for pid in self.server.processes() if pid not in workers]
        started = [pid for pid in others if self.server.holds_a_member(pid)]
        assert not started, f"something was started in {started}; the workers are {workers}"
        assert all(self.server.holds_a_member(pid) for pid in workers), "what tells a member is not to be seen"
        return "nothing" if others else "no such process"

    def gives_seats_back(self) -> str:
        """A worker is replaced, and its successor takes its seat, and finds what its predecessor had."""
        if self.mode.recycling == "none":
            return "nobody replaces workers"
        before = self.members()
        victim = min(before)
        loads = len(self.lines("loads", "seen"))
        replace: dict[str, Callable[[int], None]] = {
            "signal": self._by_signal, "requests": self._by_requests, "reload": self._by_reload,
            "hangup": self._by_hangup, "upgrade": self._by_upgrade,
        }  # fmt: skip
        replace[self.mode.recycling](victim)
        after = self.await_workers()
        assert set(after) != set(before), "nobody was replaced"
        self._seats_are_as_ever(after)
        self.server.reach("/read/seen", self.pids)
        changes = self.mode.recycling == "upgrade"
        if self.mode.workers > 1:  # else nobody may have been left in between
            assert len(self.lines("loads", "seen")) == loads + changes, "a value was lost with a worker"
        return "others: both generations at once" if self.mode.overlaps else "the same"

    def _seats_are_as_ever(self, members: dict[int, int]) -> None:
        if not self.mode.overlaps:  # else the seats of the first generation are free, and lower
            seats = set(members.values())
            assert seats == self._seats, f"the seats were {sorted(self._seats)}, and are {sorted(seats)}"

    def _by_signal(self, victim: int) -> None:
        os.kill(victim, self.mode.signal)
        until(lambda: victim not in self.members(), f"a worker that was sent {self.mode.signal.name} leaves")

    def _by_requests(self, victim: int) -> None:
        def gone() -> bool:
            self.server.burst("/read/seen")
            return victim not in self.members()

        until(gone, "a worker leaves after so many requests")

    def _by_reload(self, victim: int) -> None:
        def gone() -> bool:  # a watcher compares with what it saw when it looked last, if it has looked yet
            (self.directory / "reloaded.py").write_text(f"AT = {time.time()}\n")
            return victim not in self.members()

        until(gone, "a worker leaves, as the code has changed")

    def _by_hangup(self, victim: int) -> None:
        os.kill(self.server.process.pid, signal.SIGHUP)
        until(lambda: victim not in self.members(), "all workers leave, and others come")

    def _by_upgrade(self, victim: int) -> None:
        old = set(self.members())
        master = self.server.parent(victim)
        os.kill(master, signal.SIGUSR2)

        def both() -> bool:
            self.server.burst("/read/seen")
            return len(self.members()) == 2 * self.mode.workers

        until(both, "two generations of workers in one group")
        self._change()
        os.kill(master, signal.SIGQUIT)
        until(lambda: not old & set(self.members()), "the old workers leave")
        until(lambda: self.server.process.poll() is not None, "and their master")

    def notices_a_kill(self) -> str:
        """A worker is stopped, and killed. The witness sees it at once, and an invalidation waits for neither."""
        victim = self._busy() if self.mode.by_celery else self._one_that_stays()
        until(lambda: victim in self.members(), "the victim is known")
        seat = self.members()[victim]
        os.kill(victim, signal.SIGSTOP)
        self._invalidate_at_once()
        started = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in self.members(), "a killed worker is noticed")
        noticed = time.monotonic() - started
        assert noticed < AT_ONCE, f"noticed after {noticed:.1f} s"
        self._invalidate_at_once()
        self._killed.add(seat)
        if self.mode.replaces_killed:
            self._seats_are_as_ever(self.await_workers())
        return "at once"

    def _invalidate_at_once(self) -> None:
        receipt = self.witness.invalidate("seen")
        assert receipt.complete, receipt
        assert receipt.seconds < PROMPT, receipt

    def _one_that_stays(self) -> int:
        """Return a worker that stays, and that has not just come: granian would give up if that one died."""
        return (max if self.mode.recycling == "requests" else min)(self.members())

    def _busy(self) -> int:
        """A worker in the middle of a task: one that waits for work has the lock that all of celery's wait for."""
        gate = self.directory / "hold-doomed"
        gate.touch()
        self.server.ask_at_once("/read/doomed", 1)
        (pid,) = until(lambda: self.lines("loads", "doomed"), "a worker is busy")
        return pid

    def leaves_nothing(self) -> str:
        """The server is stopped: no member, no file and no process of it is left."""
        self.server.stop()
        until(lambda: not self.members(), lambda: f"nobody is left; there are {self.members()}")
        left = self.sockets() - self._killed - {self.seat()}
        assert not self.server.alarms(), self.server.last_words()
        assert not left or not self.mode.tidy, f"sockets are left, of the seats {left}"
        self.witness.close()
        assert not self.files.exists(), f"the last process has left {[*self.files.iterdir()]}"
        return "nothing left" if self.mode.tidy else "nobody left; files, for the others to delete"

    def seat(self) -> int:
        """The seat of the witness."""
        (me,) = (member for member in self.witness.members() if member.me)
        return me.seat


KILL = "SIGKILL noticed"

#: Column to check, in the order in which they are done.
CHECKS: dict[str, Callable[[Trial], str]] = {
    "workers join": Trial.joins,
    "one missing key, all asked": Trial.shares_a_load,
    "see an invalidation": Trial.hears_invalidations,
    "in master or reloader": Trial.starts_nothing_elsewhere,
    "seats after a replacement": Trial.gives_seats_back,
    KILL: Trial.notices_a_kill,
    "after the stop": Trial.leaves_nothing,
}


@contextmanager
def trial(mode: Mode, **settings: str) -> Iterator[Trial]:
    """A server in a group of its own, with the witness."""
    with place() as directory:
        witness = colocache.Cache("servers", directory=str(directory / "c"), shelf=SHELF)
        with witness, Running(mode, directory, **SETTINGS, **settings) as server:
            witness.start()
            yield Trial(mode, directory, server, witness)


def install(mode: Mode) -> bool:
    """Install what a mode needs, apart from all others; tell whether that worked."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps", "--only-binary", ":all:"]
    return subprocess.run([*pip, "--target", str(mode.place), mode.aside], stderr=subprocess.DEVNULL).returncode == 0


def run(mode: Mode) -> dict[str, str]:
    """The cells of a mode, as far as it got."""
    if mode.aside and not mode.place.exists() and not install(mode):
        return {"workers join": f"not tried: no wheel of {mode.aside} for this Python"}
    if mode.replaces_killed:
        return attempt(mode, CHECKS)
    # The server ends with the worker: so the kill has a server of its own.
    killing = {"workers join": Trial.joins, KILL: Trial.notices_a_kill}
    others = {column: check for column, check in CHECKS.items() if column != KILL}
    return attempt(mode, killing) | attempt(mode, others)


def attempt(mode: Mode, checks: Mapping[str, Callable[[Trial], str]]) -> dict[str, str]:
    """Check one thing after the other, on one server; the cells, the last of which says so if it failed."""
    cells: dict[str, str] = {}
    with trial(mode) as one:
        for column, check in checks.items():
            try:
                cells[column] = check(one)
            except AssertionError as error:
                cells[column] = "FAILED: " + " ".join(str(error).split())
                break
    return cells


# --- The table


def table(rows: Sequence[tuple[Mode, dict[str, str]]]) -> str:
    """The rows in Markdown."""
    lines = ["| server | mode | " + " | ".join(CHECKS) + " |", "|---|---|" + "---|" * len(CHECKS)]
    for mode, cells in rows:
        texts = [cells.get(column, "").replace("|", "/") for column in CHECKS]
        lines.append(f"| {mode.server} | {mode.mode} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def where() -> str:
    """What was used, in one line."""
    modules = sorted({name for mode in MODES if not mode.missing for name in mode.needs})
    versions = [f"{name.replace('_', '-')} {version(name)}" for name in modules]
    return f"Python {platform.python_version()} on {platform.system()}; {', '.join(versions)}."


def write(text: str) -> None:
    """Put the table where the page has it."""
    page = PAGE.read_text("utf-8")
    pattern = re.compile(f"(?<={re.escape(BEGIN)}\n).*(?={re.escape(END)})", re.DOTALL)
    assert pattern.search(page), f"{PAGE} has no place for the table"
    PAGE.write_text(pattern.sub(lambda _: f"\n{text}\n", page), "utf-8")


def main(arguments: list[str]) -> int:
    """Run the matrix; its exit status."""
    parser = argparse.ArgumentParser(prog="matrix.py", description="Every server and mode, and what must hold in each.")
    parser.add_argument("words", nargs="*", help="only modes whose names have one of these; the page stays as it is")
    options = parser.parse_args(arguments)
    rows: list[tuple[Mode, dict[str, str]]] = []
    for mode in MODES:
        if options.words and not any(word in str(mode) for word in options.words):
            continue
        started = time.monotonic()
        missing = ", ".join(mode.missing)
        cells = {"workers join": f"FAILED: not installed here: {missing}"} if missing else run(mode)
        rows.append((mode, cells))
        print(f"{mode!s:28} {time.monotonic() - started:5.1f} s  " + "; ".join(cells.values()), flush=True)
    text = f"{table(rows)}\n\n{where()}\n"
    print(f"\n{text}")
    if not options.words:
        write(text)
    return 1 if any(cell.startswith("FAILED") for _, cells in rows for cell in cells.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
