"""The secret of a group is changed under load; a host has a wrong one; and strangers knock.

``python -m verification.network.secrets``. The processes work as in `campaign.py`, and are judged as there, while

1. the secret is changed in three steps, ``old,new``, ``new,old``, ``new``, each host restarted in turn for each;
2. the last host is restarted with a secret that no other has: it and the others must name each other in the log, and
   what any of them reads must stay right; then it gets the right one;
3. many connections are held open to each host by somebody who says nothing, and others send what port scanners send.
   Meanwhile each receipt has to be complete, and all hosts must stay current.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from functools import partial
from typing import Final

from verification.chaos.group import together
from verification.network.campaign import Campaign, Result, conduct
from verification.network.checker import LEASE
from verification.network.namespaces import Namespaces, why_not

OLD, NEW, WRONG = ("the-old-secret-" + 20 * "o", "a-new-secret---" + 20 * "n", "a-wrong-secret-" + 20 * "w")
STEPS: Final = (f"{OLD},{NEW}", f"{NEW},{OLD}", NEW)
REFUSAL: Final = "refuses our secret"

#: Opens so many connections to each address, sends scanners' bytes by half of them, and says so; then it holds them
#: until its standard input ends. Whoever is cut off comes back, as long as the other side lets it.
KNOCK: Final = """
import os, select, socket, sys
greeting = b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00NULL" + bytes(16) + b"\\x00" + bytes(31)
curve = greeting.replace(b"NULL" + bytes(1), b"CURVE")
said = [
    b"GET / HTTP/1.0\\r\\n\\r\\n", b"SSH-2.0-scan\\r\\n", b"\\n", b"\\0" * 4096, os.urandom(64), os.urandom(1 << 20),
    b"\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01\\xfc\\x03\\x03" + os.urandom(500),
    greeting, greeting[:11], greeting + b"\\x04\\xff" + b"\\xff" * 8, greeting + b"\\x04\\x26\\x05READY",
    curve, curve + os.urandom(300), curve + b"\\x04\\xc8\\x05HELLO" + os.urandom(194),
]
held, count = {}, 0
targets = [(each.rpartition(":")[0], int(each.rpartition(":")[2])) for each in sys.argv[2:]]
def knock(target):
    global count
    each = socket.socket()
    each.setblocking(False)
    each.connect_ex(target)
    held[each] = target, said[count // 2 % len(said)] if count % 2 else b""
    count += 1
for number in range(int(sys.argv[1])):
    knock(targets[number % len(targets)])
print("knocks", flush=True)
while not select.select([0], [], [], 0.1)[0]:
    for each, (target, what) in list(held.items()):
        try:
            if what:
                each.send(what)
                held[each] = target, b""
            if not each.recv(65536):
                raise ConnectionError
        except BlockingIOError:
            pass
        except OSError:
            each.close()
            del held[each]
            knock(target)
print(count, flush=True)
"""


class Secrets(Campaign):
    """A campaign whose hosts have secrets of their own."""

    def __init__(self, net: Namespaces, seed: int, workers: int) -> None:
        """All hosts have the old secret."""
        super().__init__(net, seed, workers)
        self._net = net
        self._secret = {host.name: OLD for host in net.hosts}

    def environment(self, host: str) -> dict[str, str]:
        return self.net.environment(host, self.directory, self._secret[host])

    def change(self, pause: float) -> None:
        """Change the secret; after each restart work for a ``pause`` in s."""
        for number, secrets in enumerate(STEPS, 1):
            for host in self.working:
                self.note("change", host=host, step=number)
                self._secret[host] = secrets
                self.replace(host)
                self.pass_time(pause)
        self.details["secret changed"] = f"in {len(STEPS)} steps, {len(STEPS) * len(self.working)} restarts of hosts"

    def have_a_wrong_one(self, seconds: float) -> None:
        """Restart the last host with a wrong secret, for so long at least, and until all name it."""
        host, *others = reversed(self.working)
        said_before = len(self.log())
        self._secret[host] = WRONG
        self.note("wrong secret", host=host)
        self.restart(host)
        refusals = [(host, other) for other in others] + [(other, host) for other in others]
        for who, whom in refusals:
            self.until(partial(self._has_named, who, whom, said_before), f"{who} says that {whom} refuses it")
        self.pass_time(seconds)
        for worker, hosts in zip(self.living(), together(self.living(), "is_current", within=LEASE), strict=True):
            if hosts:
                self.board.accuse("is current with somebody who has another secret", victim=worker.pid)
        self._secret[host] = NEW
        self.replace(host)
        self.details["wrong secret"] = f"{host} and {', '.join(sorted(others))} named each other in their logs"

    def _has_named(self, host: str, other: str, since: int) -> bool:
        """Whether a process of one host has logged that another one refuses its secret."""
        pids = {str(worker.pid) for worker in self.working[host]}
        place = self.net.listen(other)
        lines = self.log()[since:].splitlines()
        return any(REFUSAL in line and place in line and pids & set(line.split()[2:3]) for line in lines)

    def have_strangers(self, seconds: float, connections: int) -> None:
        """Hold so many connections open to each host, and send nonsense; all must stay current meanwhile."""
        targets = [self.net.listen(host) for host in self.working]
        command = [sys.executable, "-c", KNOCK, str(connections * len(targets)), *targets]
        command = ["sh", "-c", 'ulimit -n "$(ulimit -H -n)"; exec "$@"', "sh", *command]
        stranger = subprocess.Popen(self._net.in_router(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert stranger.stdin is not None
        assert stranger.stdout is not None
        try:
            if stranger.stdout.readline() != b"knocks\n":
                raise AssertionError("nobody knocks")
            self.board.change_deletions()  # even: receipts must be complete
            self.pass_time(seconds)
            workers = self.living()
            for worker, is_current in zip(workers, self.answers(workers, "is_current", within=LEASE), strict=True):
                if not is_current:
                    self.board.accuse("not current while strangers knock", victim=worker.pid)
            self.board.change_deletions()
            stranger.stdin.close()
            knocked = int(stranger.stdout.readline() or 0)
        finally:
            stranger.kill()
            stranger.wait()
            stranger.stdout.close()
        self.details["strangers"] = f"{connections} connections to each host at a time, {knocked:,} in all"


def run(
    seed: int, *, seconds: float, hosts: int = 3, workers: int = 2, connections: int = 500, least_reads: float = 100.0,
    least_hits: float = 0.3, keep: bool = True,
) -> Result:  # fmt: skip
    """Run it; each of its three parts takes a third of the time at least. Raise AssertionError if something hangs."""
    with Namespaces(hosts) as net:
        campaign = Secrets(net, seed, workers)

        def course() -> None:
            campaign.change(seconds / 3 / (len(STEPS) * hosts))
            campaign.have_a_wrong_one(seconds / 3)
            campaign.have_strangers(seconds / 3, connections)

        return conduct(campaign, seed, course, least_reads=least_reads, least_hits=least_hits, keep=keep)


def main(arguments: list[str]) -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(prog="secrets.py", description="Change the secret under load; judge reads.")
    parser.add_argument("--seconds", type=float, default=150.0, help="without the time that hosts take to come back")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--hosts", type=int, default=3, help="2 at least")
    parser.add_argument("--workers", type=int, default=2, help="processes on each host")
    parser.add_argument("--connections", type=int, default=500, help="that strangers hold open to each host")
    options = parser.parse_args(arguments)
    if options.hosts < 2:
        parser.error("--hosts must be 2 at least")
    if why_not():
        print(f"not run, because {why_not()}")
        return 1
    print(f"seed {options.seed}", flush=True)
    result = run(
        options.seed, seconds=options.seconds, hosts=options.hosts, workers=options.workers,
        connections=options.connections,
    )  # fmt: skip
    print(result.table(), flush=True)
    return bool(result.complaints())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
