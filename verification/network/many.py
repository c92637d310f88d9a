"""Many hosts with a cache that is hardly used: all know each other, and what a process holds does not grow.

``python -m verification.network.many --seconds 600 --hosts 20``. Each host is a network namespace with one process. All
become current. Every now and then one of them changes the source and invalidates, by turns: the receipt has to be
complete, with the acknowledgement of every host, and from then on every host has to read the new version. Descriptors,
threads and memory of each process must not grow. What it costs to know so many hosts is printed, and judged by nobody.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, Final, NamedTuple

from verification.chaos.board import KEYS
from verification.chaos.group import ALARMS, Died, Started, together
from verification.chaos.register import Register
from verification.network.namespaces import Host, Namespaces, why_not

PATIENCE: Final = 180.0  # s, for so many interpreters to start, and to know each other
EVERY: Final = 2.0  # s between two changes, and between two looks at the processes
LEASE: Final = 3.0  # s

#: By how much the median of the last third of a run may exceed that of the first: a share, and so much in any case.
#: A descriptor more is one that somebody holds at that instant, such as that of the register. What a process maps is
#: not counted as its memory, because it touches all of the region in the end. In its first minute, after which it is
#: level, a process takes 2 MiB more, for what its threads allocate: the runs of tests end before.
TOLERANCE: Final = {"descriptors": (0.0, 2), "threads": (0.0, 1), "memory KiB": (0.05, 4096)}


class Cost(NamedTuple):
    """What a process has used since it began."""

    at: float  # s
    processor: float  # s
    packets: int  # of its host, both ways


@dataclass
class Result:
    """What it came to."""

    hosts: int
    seconds: float
    joined_after: float = 0.0  # s
    changes: int = 0
    reads: int = 0
    samples: list[list[dict[str, float]]] = field(default_factory=list)  # of each process, in order of the hosts
    packets: list[float] = field(default_factory=list)  # per second and host
    processor: list[float] = field(default_factory=list)  # share of a core, per process
    wrong: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """Why this run is a failure; nothing if it is none."""
        return [*self.wrong, *self._growth()]

    def table(self) -> str:
        """The figures, and the verdict."""
        rows = {
            "hosts": f"{self.hosts} as namespaces, 1 process on each",
            "seconds": f"{self.seconds:.0f}",
            "all are current": f"{self.joined_after:.1f} s after the first was started",
            "invalidations": f"{self.changes:,}, each acknowledged by all hosts; {self.reads:,} reads after them",
            "packets": f"{_range(self.packets, '{:.0f}')} per second and host, both ways",
            "processor": f"{_range([100 * each for each in self.processor], '{:.1f}')} % of a core per process",
        }
        for what in TOLERANCE:
            first, last = (
                [median(each[what] for each in part) for part in parts] for parts in zip(*self._parts(), strict=True)
            )
            rows[what] = f"at first {_range(first, '{:,.0f}')}, at last {_range(last, '{:,.0f}')}"
        rows["verdict"] = "; ".join(self.complaints()) or "passed"
        return "\n".join(f"{name:<18} {value}" for name, value in rows.items())

    def _parts(self) -> Iterable[tuple[list[dict[str, float]], list[dict[str, float]]]]:
        """The first and the last third of the samples of each process."""
        for samples in self.samples:
            third = max(1, len(samples) // 3)
            yield samples[:third], samples[-third:]

    def _growth(self) -> Iterable[str]:
        for number, (first, last) in enumerate(self._parts(), 1):
            for what, (share, at_least) in TOLERANCE.items():
                before, after = (median(each[what] for each in part) for part in (first, last))
                if after - before > max(share * before, at_least):
                    yield f"{what} of h{number} grew from {before:,.0f} to {after:,.0f}"


def _range(values: list[float], form: str) -> str:
    found = sorted(values) or [0.0]
    low, middle, high = (form.format(each) for each in (found[0], median(found), found[-1]))
    return f"{middle} ({low} to {high})"


class Many:
    """One run, in a network that is up."""

    def __init__(self, net: Namespaces) -> None:
        """Start a process on each host."""
        self.directory = Path(tempfile.mkdtemp(prefix="cm"))  # short, for sockets
        Register.create(self.directory, KEYS)
        self._net = net
        self._began = monotonic()
        self._log = os.open(self.directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.result = Result(len(net.hosts), 0.0)
        self._workers = [self._start(host) for host in net.hosts]

    def _start(self, host: Host) -> Started:
        # No development mode: it makes memory larger than it is.
        command = [sys.executable, "-m", "verification.network.worker", str(self.directory), "colocache"]
        pipe: Any = subprocess.PIPE
        return Started(
            self._net.start(
                host, [*command, str(len(self._net.hosts))], stdin=pipe, stdout=pipe, stderr=self._log,
                env=self._net.environment(host, self.directory),
            )
        )  # fmt: skip

    def run(self, seconds: float) -> Result:
        """Wait until all are current, and use them a little for so long. Raise AssertionError if something hangs."""
        for future in [worker.send("start") for worker in self._workers]:
            future.result(PATIENCE)
        self._until(lambda: all(self._all("is_current", within=LEASE)), "all hosts are current")
        self.result.joined_after = monotonic() - self._began
        self._until(self._is_warm, "no process makes anything more of what it makes at the first use")
        before, began = [self._cost(worker) for worker in self._workers], monotonic()
        self.result.samples = [[] for _ in self._workers]
        while monotonic() - began < seconds or not self.result.samples[0]:
            self._change()
            time.sleep(EVERY if seconds > 10 * EVERY else 0.1)
            for samples, worker in zip(self.result.samples, self._workers, strict=True):
                samples.append(_figures(worker.pid))
        for worker, old in zip(self._workers, before, strict=True):
            new = self._cost(worker)
            self.result.packets.append((new.packets - old.packets) / (new.at - old.at))
            self.result.processor.append((new.processor - old.processor) / (new.at - old.at))
        self._until(lambda: all(self._all("is_current", within=LEASE)), "all hosts are current at the end")
        self.result.seconds = monotonic() - began
        self._end()
        return self.result

    def _is_warm(self) -> bool:
        """Use all processes, and tell whether none of them has opened anything for that.

        What a host keeps to ask another one is made at the first use, and in part after that. It is no growth.
        """
        before = [_figures(worker.pid)["descriptors"] for worker in self._workers]
        for _ in self._workers:
            self._change()
        for _ in range(3):
            self._all("read_register", keys=list(KEYS))
            time.sleep(0.1)
        after = [_figures(worker.pid)["descriptors"] for worker in self._workers]
        return all(new <= old for old, new in zip(before, after, strict=True))

    def _change(self) -> None:
        """Change a key, by the host whose turn it is; then all must read it."""
        turn = self.result.changes
        key, writer = KEYS[turn % len(KEYS)], self._workers[turn % len(self._workers)]
        version, complete, hosts = writer.call("change", key=key)
        self.result.changes += 1
        if not complete or hosts != len(self._workers):
            self._accuse(f"a receipt of h{turn % len(self._workers) + 1} is not complete, or not of all: {hosts} hosts")
        for number, found in enumerate(self._all("read_register", keys=[key]), 1):
            self.result.reads += 1
            if found[key] < version:
                self._accuse(f"h{number} read version {found[key]} of {key} after {version} was acknowledged")

    def _accuse(self, what: str) -> None:
        self.result.wrong.append(what)

    def _all(self, do: str, **arguments: Any) -> list[Any]:
        return together(self._workers, do, **arguments)

    def _until(self, condition: Callable[[], object], what: str) -> None:
        ends = monotonic() + PATIENCE
        while not condition():
            if monotonic() > ends:
                raise AssertionError(f"it did not come to pass in {PATIENCE} s: {what}: {self._all('ages')}")
            time.sleep(0.1)

    def _cost(self, worker: Started) -> Cost:
        # What follows the name of the program, which may contain anything.
        stat = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        device = next(
            line for line in Path(f"/proc/{worker.pid}/net/dev").read_text().splitlines() if "eth0:" in line
        ).partition(":")[2].split()  # fmt: skip
        used = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        return Cost(monotonic(), used, int(device[1]) + int(device[9]))

    def _end(self) -> None:
        for worker in self._workers:
            worker.quit()
        for number, worker in enumerate(self._workers, 1):
            if not worker.dead.wait(PATIENCE):
                raise AssertionError(f"the process of h{number} does not end")
            if worker.process.returncode:
                self._accuse(f"the process of h{number} ended with status {worker.process.returncode}")
        log = (self.directory / "log").read_text(errors="replace")
        self.result.wrong += [line for line in log.splitlines() if any(alarm in line for alarm in ALARMS)]

    def close(self) -> None:
        """End all, and delete what they left behind."""
        for worker in self._workers:
            worker.close()
        os.close(self._log)
        shutil.rmtree(self.directory, ignore_errors=True)


def _figures(pid: int) -> dict[str, float]:
    """What the kernel says of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]),
        "memory KiB": int(status["RssAnon"].split()[0]),
    }


def run(*, seconds: float, hosts: int = 20) -> Result:
    """Run it. Raise AssertionError if hosts do not become current, or a process dies or hangs."""
    with Namespaces(hosts) as net:
        many = Many(net)
        try:
            return many.run(seconds)
        except (Died, FileNotFoundError, ProcessLookupError, TimeoutError) as error:
            log = ""
            with suppress(OSError):
                log = (many.directory / "log").read_text(errors="replace")[-20_000:]
            raise AssertionError(f"a process died or hangs: {error!r}\n{log}") from None
        finally:
            many.close()


def main(arguments: list[str]) -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(
        prog="many.py", description="Have many hosts know each other; judge what they hold."
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--hosts", type=int, default=20)
    options = parser.parse_args(arguments)
    if why_not():
        print(f"not run, because {why_not()}")
        return 1
    result = run(seconds=options.seconds, hosts=options.hosts)
    print(result.table(), flush=True)
    return bool(result.complaints())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
