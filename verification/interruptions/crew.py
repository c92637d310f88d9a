"""The processes of a campaign: one is interrupted, and others look on from beside, on its host and on another."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from verification import ROOT
from verification.interruptions.kinds import LATE
from verification.interruptions.operations import OPERATIONS
from verification.interruptions.process import PATIENCE

READY: Final = 120.0  # s
BEGINNINGS: Final = 5  # of a crew, until it is given up


class Died(Exception):
    """A process has ended, or hangs, and this is what it has said."""


class Agent:
    """A process that does what it is told."""

    def __init__(self, environ: dict[str, str], patience: float) -> None:
        self._patience = patience  # s for one order; a process that hangs ends by itself before
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `end`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "verification.interruptions.process"], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, bufsize=0, start_new_session=True,
        )  # fmt: skip
        self._rest = b""

    def __call__(self, *order: Any) -> Any:
        """Have it do something, and return what comes of it."""
        self.tell(*order)
        return self.answer()

    def tell(self, *order: Any) -> None:
        """Have it do something."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            raise Died(self.said()) from None

    def answer(self) -> Any:
        """Wait until that is done, and return what has come of it."""
        assert self._process.stdout is not None
        ends = time.monotonic() + self._patience
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, ends - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not more:
                raise Died(self.said() or f"no answer in {self._patience:.0f} s")
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def said(self) -> str:
        """Return the end of what it has written to its standard error, and forget the rest."""
        self._said.seek(0)
        text = self._said.read()
        self._said.truncate(0)
        return text[-3000:]

    def end(self) -> None:
        """Kill it, and all children that it has forked."""
        with contextlib.suppress(ProcessLookupError):  # it is not waited for yet, so the number is nobody else's
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for each in (self._process.stdin, self._process.stdout, self._said):
            assert each is not None
            each.close()


class Crew:
    """A group: one process that is interrupted, one beside it, and one on another host, if there are several."""

    def __init__(self, directory: Path, is_of_hosts: bool, patience: float) -> None:
        self._directory, self.is_of_hosts, self._patience = directory, is_of_hosts, patience
        self._number = 0
        self.others: list[Agent] = []
        self._subject: Agent | None = None
        self._nursery: Agent | None = None

    def _begin(self) -> None:
        self._ports = _free_ports(2)
        for number in range(1 + self.is_of_hosts):
            self.others.append(self._start(number))
        for each in self.others:
            each("start")
        self._until_ready(self.others)

    def _begin_at_last(self) -> None:
        """Begin, once more if the machine is too busy: no attempt has failed yet."""
        for left in reversed(range(BEGINNINGS)):
            try:
                self._begin()
                return
            except Died:
                self.close()
                if not left:
                    raise

    def _start(self, host: int) -> Agent:
        environ = {
            "COLOCACHE_GROUP": "interrupted", "COLOCACHE_DIR": str(self._directory / str(host)),
            "COLOCACHE_SHELF": "8MiB", "COLOCACHE_LOAD_TIMEOUT": f"{5 * self._patience}s",
            PATIENCE: str(self._patience),
        }  # fmt: skip
        if self.is_of_hosts:
            addresses = [f"127.0.0.1:{port}" for port in self._ports]
            environ |= {
                "COLOCACHE_HOST": f"host {host}", "COLOCACHE_LISTEN": addresses[host],
                "COLOCACHE_PEERS": ",".join(addresses),
            }  # fmt: skip
        return Agent(environ, 2 * max(40.0, 8 * self._patience))

    def _until_ready(self, agents: list[Agent]) -> None:
        ends = time.monotonic() + READY
        while not all(each("hosts") == 1 + self.is_of_hosts for each in agents):
            if time.monotonic() > ends:
                raise Died("the hosts do not find each other")
            time.sleep(0.02)

    def attempt(self, name: str, kind: str, unit: str, at: int) -> dict[str, Any]:
        """Make one attempt; return what came of it, and what is wrong under ``found``.

        After one that has found anything all processes are new ones: what it has left behind would be found again.
        """
        self._number += 1
        if not self.others:
            self._begin_at_last()
        try:
            if OPERATIONS[name].joins:
                result = self._attempt_in_child(name, kind, unit, at)
            else:
                result = self._attempt(name, kind, unit, at)
        except Died as error:
            result = {"came": True, "where": "", "passed": at, "found": [f"{LATE}it hangs, or has died: {error}"]}
        if any("has not reached" not in each for each in result["found"]):
            self.close()
        return result

    def _attempt(self, name: str, kind: str, unit: str, at: int) -> dict[str, Any]:
        if self._subject is None:
            self._subject = self._start(0)
            self._subject("start")
            self._until_ready([self._subject])
        subject, operation = self._subject, OPERATIONS[name]
        key = subject("key", self._number, self._number % 4 > 0)
        if operation.before:
            self.others[-1](operation.before, key)
        subject.tell("attempt", name, kind, unit, at, key)
        result = self._result(subject, key)
        if result["came"]:
            self._look(result, [key, "the handler's"])
            result["found"] += subject("works", key)
        return result

    def _attempt_in_child(self, name: str, kind: str, unit: str, at: int) -> dict[str, Any]:
        if self._nursery is None:
            self._nursery = self._start(0)
        if self._subject is not None:  # it would be counted below
            self._subject.end()
            self._subject = None
        child, operation, key = self._nursery, OPERATIONS[name], f"key {self._number}"
        child("fork")
        if operation.before:
            child(operation.before)
        child.tell("attempt", name, kind, unit, at, key)
        result = self._result(child, key)
        if result["came"]:
            result["found"] += child("remains", False)
            self._look(result, [key])
            if not operation.closes:
                result["found"] += child("works", key)
                members = child("members", 2)
                if members != 2:
                    result["found"].append(f"afterwards there are {members} processes, not 2")
            child("close")
            result["found"] += child("remains", True)
        child("end")
        ended = child.answer()["ended"]
        if ended:
            result["found"].append(f"the process has ended with {ended}")
        return result

    def _result(self, subject: Agent, key: str) -> dict[str, Any]:
        """Return what has come of an attempt. If others are to wait for a load, they begin with that when asked."""
        waits = False
        while "event" in (result := subject.answer()):
            waits = True
            for each in self.others:
                each("wait", key)
            subject.tell("go on")
        if waits:
            for each in self.others:
                took = each("waited", key, result["ended"])
                if took is None:
                    result["found"].append(f"{LATE}a load that others waited for is stuck for more than a second")
        return dict(result)

    def _look(self, result: dict[str, Any], keys: list[str]) -> None:
        for each, whom in zip(self.others, ("a mate", "a host"), strict=False):
            if each("look", keys) is None:
                result["found"].append(f"{LATE}a key is stuck for more than a second, for {whom}")

    def close(self) -> None:
        """End all processes. The next attempt begins with new ones."""
        for each in (*self.others, self._subject, self._nursery):
            if each is not None:
                each.end()
        self.others, self._subject, self._nursery = [], None, None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def crew(is_of_hosts: bool, patience: float = 1.0) -> Iterator[Crew]:
    """Give a crew for a while. ``patience`` is how long a key may be stuck, in seconds: more on a busy machine."""
    directory = Path(tempfile.mkdtemp(prefix="interruptions-"))
    for number in range(2):
        (directory / str(number)).mkdir(mode=0o700)
    it = Crew(directory, is_of_hosts, patience)
    try:
        yield it
    finally:
        it.close()
        shutil.rmtree(directory, ignore_errors=True)
