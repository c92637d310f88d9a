"""Forks at every line of every operation, by Python and past it: ``make forks``.

    python -m verification.forks.forks [--operations get set] [--ways fork "past Python"] [--step 1] [--first 1]
                                       [--most N] [--hosts] [--write]

One process does an operation again and again, and forks at another line each time. It goes on with the operation at
once. The child, where it is, or after it has gone on with the operation, too, reads, joins, writes, reads again, leaves
and ends. Other threads of the process, and another process, use the cache all the while. With ``--hosts`` that is on
another host.

Nothing that anybody reads may be older than what was acknowledged before. No call may raise, and no child may hang. No
descriptor may be closed twice, nor one that is the application's. Each increment of a counter counts once. What went
wrong is told with the command that does the same again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from verification import ROOT
from verification.forks.operations import OPERATIONS
from verification.forks.parent import Plan
from verification.forks.truth import COUNTED, COUNTER, IS_OVER, LONGEST, WRITES, Truth

PROOF = ROOT / "docs" / "proof" / "forks.txt"
SLOWEST = 600.0  # s, then a parent hangs
#: The ways to fork: the name, past Python, whether the operation joins, whether the child goes on with it.
WAYS = {
    "fork": (False, False, False),
    "fork, and go on": (False, False, True),
    "fork while joining": (False, True, False),
    "fork while joining, and go on": (False, True, True),
    "past Python": (True, False, False),
    "past Python while joining": (True, True, False),
}


#: Those that make sense beside other hosts. The network is never so quiet as a fork past Python needs it, and the
#: receipts of a host that has just joined are not complete.
BESIDE_HOSTS = ("fork", "fork, and go on")


class Outcome(NamedTuple):
    """What came of one operation and way."""

    points: int
    forks: int
    stillborn: int  # past Python: the interpreter was stuck, and another child at the same line was not
    noisy: int  # past Python: there was no fork, because other threads did not pause
    writes: int  # of the other process
    longest: float  # s that a round of the other process took
    complaints: list[dict[str, Any]]
    log: str


def run(operation: str, way: str, first: int, step: int, most: int, hosts: bool) -> Outcome:
    """Run one operation and way."""
    with ExitStack() as undo:
        directory = Path(tempfile.mkdtemp(prefix="cf"))
        undo.callback(shutil.rmtree, directory, ignore_errors=True)
        truth = Truth(directory)
        mine, others = _settings(directory, hosts)
        log = undo.enter_context(open(directory / "log", "w+"))
        other = undo.enter_context(_started(log, "other", str(directory), json.dumps(others)))
        assert other.stdout is not None
        other.stdout.readline()
        plan = Plan(operation, *WAYS[way], first, step, most)
        said = ""
        with _started(log, "parent", str(directory), json.dumps(plan), json.dumps(mine)) as parent:
            try:
                said = parent.communicate(timeout=SLOWEST)[0]
            except subprocess.TimeoutExpired:
                parent.send_signal(6)
                truth.complain("the parent", wrong="it hangs")
        if parent.returncode:
            truth.complain("the parent", wrong=f"it ended with {parent.returncode}")
        truth.words[IS_OVER] = 1
        if other.wait(60):
            truth.complain("the other process", wrong=f"it ended with {other.returncode}")
        counted = truth.words[COUNTER]
        if counted != truth.words[COUNTED]:
            truth.complain("the counter", wrong=f"it is {counted}, and was raised {truth.words[COUNTED]} times")
        log.seek(0)
        figures = json.loads(said) if said else {"points": 0, "forks": 0, "stillborn": 0, "noisy": 0}
        return Outcome(
            **figures, writes=truth.words[WRITES], longest=truth.words[LONGEST] / 1e6,
            complaints=truth.complaints(), log=log.read(),
        )  # fmt: skip


def _settings(directory: Path, hosts: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return those of the process that forks, and those of the other one."""
    common = {"shelf": "8MiB", "ttl": "1h", "load_timeout": 5.0, "directory": str(directory / "c")}
    if not hosts:
        return common, common
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    mine, others = [
        {**common, "directory": str(directory / name), "listen": address, "peers": ",".join(addresses), "host": name}
        for name, address in zip("ab", addresses, strict=True)
    ]
    return mine, others


@contextmanager
def _started(log: Any, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"verification.forks.{name}", *arguments], cwd=ROOT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=log,
    )  # fmt: skip
    try:
        with process:
            yield process
            if process.poll() is None:
                process.wait(60)
    finally:
        process.kill()


def main() -> int:
    """Run the campaign; return how many combinations have failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", nargs="*", choices=list(OPERATIONS), default=list(OPERATIONS))
    parser.add_argument("--ways", nargs="*", choices=list(WAYS))
    parser.add_argument("--first", type=int, default=1, help="the first line at which it forks")
    parser.add_argument("--step", type=int, default=1, help="lines from one fork to the next")
    parser.add_argument("--most", type=int, default=1 << 30, help="forks in each operation and way")
    parser.add_argument("--hosts", action="store_true", help="the other process is on another host")
    parser.add_argument("--write", action="store_true", help=f"write {PROOF.relative_to(ROOT)}")
    options = parser.parse_args()
    ways = options.ways or (BESIDE_HOSTS if options.hosts else WAYS)
    if options.hosts and not {*ways} <= {*BESIDE_HOSTS}:
        parser.error(f"with --hosts, --ways are of {BESIDE_HOSTS}")
    lines, failed, began = [f"{'operation':16} {'way':30} lines forks  other's rounds, longest"], 0, time.monotonic()
    print(lines[0], flush=True)
    head = (
        f"a fork at each {options.step}th line, from the {options.first}th on" if options.step > 1 else "at each line"
    )
    for operation, way in itertools.product(options.operations, ways):
        found = run(operation, way, options.first, options.step, options.most, options.hosts)
        failed += bool(found.complaints)
        details = {"stillborn": found.stillborn, "not forked, because others did not pause": found.noisy}
        besides = "".join([f"; {number} {what}" for what, number in details.items() if number])
        lines.append(
            f"{operation:16} {way:30} {found.points:5} {found.forks:5}  {found.writes:6} {found.longest:8.3f} s"
            f"  {'WRONG' if found.complaints else 'ok'}{besides}"
        )
        print(lines[-1], flush=True)
        for complaint in found.complaints[:5]:
            print(f"  {_in_short(complaint)}\n  again: {again(operation, way, complaint['point'], options.hosts)}")
        if found.complaints:
            print("  " + found.log[-4000:].replace("\n", "\n  "), flush=True)
    lines.append(f"{failed} of {len(lines) - 1} went wrong; {time.monotonic() - began:.0f} s")
    print(lines[-1])
    if options.write:
        PROOF.write_text("\n".join([head, "", *lines]) + "\n")
    return failed


def _in_short(complaint: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {str(each)[-1000:]}" for name, each in complaint.items())


def again(operation: str, way: str, point: int, hosts: bool) -> str:
    """Return the command that does the same once more."""
    return (
        f"python -m verification.forks.forks --operations {operation} --ways {way!r} --first {point} --most 1"
        f"{' --hosts' if hosts else ''}"
    )


if __name__ == "__main__":
    sys.exit(min(main(), 100))
