"""A cut between two hosts that neither is told of: who finds it? For test_heartbeats.py, in namespaces of its own.

    unshare -Urnm --kill-child python -m tests.runtime.network.black_hole pings|nothing

Two network namespaces are joined by a cable. One listens, the other dials, and sends a ping each 0.1 s, or nothing.
Then each gets a wrong hardware address for the other, so that all packets get lost. Each side's name is printed when
libzmq tells it that the connection is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from colocache.runtime.network.options import set_options

HERE, THERE = "10.9.0.1", "10.9.0.2"
ENDPOINT = f"tcp://{THERE}:7400"
PATIENCE = 60.0  # s


def run(*command: str, inside: int | None = None) -> None:
    """Run a command, in the network of a process or in this one's."""
    subprocess.run([*(["nsenter", "-t", str(inside), "-n"] if inside else []), *command], check=True)


class Side:
    """One end of the connection, and what libzmq says of it."""

    def __init__(self, kind: int, talks: bool) -> None:
        self.socket: Any = zmq.Context().socket(kind)
        set_options(self.socket, largest=1 << 16, queue=100, chance=0.0)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._talks = talks

    def wait_for(self, event: int) -> None:
        """Return when libzmq has reported an event. Meanwhile talk, or not; answers are pings, too."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            if self.monitor.poll(100) and recv_monitor_message(self.monitor)["event"] == event:
                return
            try:
                if self._talks:
                    self.socket.send(b"ping", zmq.NOBLOCK)
                elif self.socket.poll(0):
                    self.socket.recv_multipart()
            except zmq.ZMQError:
                pass
        sys.exit("libzmq has not reported it")


def listen() -> None:
    """Be the host that is dialled, in a network of its own that begins without a cable."""
    print("ready", flush=True)
    sys.stdin.readline()
    side = Side(zmq.ROUTER, talks=False)
    side.socket.bind(ENDPOINT)
    print("bound", flush=True)
    side.wait_for(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    print("connected", flush=True)
    side.wait_for(zmq.EVENT_DISCONNECTED)
    print("listens", flush=True)
    os._exit(0)


def main(traffic: str) -> None:
    """Be the host that dials, and cut."""
    program = ["unshare", "-n", sys.executable, "-m", "tests.runtime.network.black_hole", "listen"]
    other = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(other.pid))
    for address, name, inside in ((HERE, "here", None), (THERE, "there", other.pid)):
        run("ip", "addr", "add", f"{address}/24", "dev", name, inside=inside)
        run("ip", "link", "set", name, "up", inside=inside)
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "bound\n"
    side = Side(zmq.DEALER, talks=traffic == "pings")
    side.socket.connect(ENDPOINT)
    side.wait_for(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    assert other.stdout.readline() == "connected\n"
    for address, name, inside in ((THERE, "here", None), (HERE, "there", other.pid)):
        nowhere = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
        run("ip", "neigh", "replace", address, *nowhere, "dev", name, inside=inside)
    side.wait_for(zmq.EVENT_DISCONNECTED)
    print("dials", flush=True)
    print(other.stdout.read(), end="", flush=True)
    os._exit(other.wait())


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen()
    else:
        main(sys.argv[1])
