"""What libzmq does when the queue of a process is full, and who has filled it dies. See docs/decisions/0026.

    python -m tests.runtime.network.full_queue HEARTBEATS

starts two processes, and says what became of the first one. ``HEARTBEATS`` is their interval in ms, or 0.

1. The first one is asked by the second one, as fast as that can, and holds the interpreter lock. Its queue fills and
   stays full. libzmq's own thread goes on.
2. The second one is killed once it has sent more than the queues of both ends hold.
3. The first one lets go of the lock, and takes what there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys
from typing import Any

import zmq

from colocache.runtime.network.curve import Doorkeeper, bind_with, dial_with
from colocache.runtime.network.options import set_options
from tests import ROOT

from .hosts import NEW, keys_of

QUEUE = 10
HOLD = 3.0  # s that the interpreter lock is held
FULL = 200  # messages, then the queues of both ends are full, and more wait in the kernel


def outcome(heartbeats: int) -> tuple[int, str, str]:
    """Do all of that, and return the status, the output and the errors of the process that is asked."""
    asked = _start("be_asked", "0", heartbeats)
    assert asked.stdout is not None
    port = asked.stdout.readline().strip()
    asking = _start("ask", port, heartbeats)
    assert asking.stdout is not None
    assert asking.stdout.readline() == "full\n"
    asking.kill()
    asking.communicate()
    output, errors = asked.communicate(timeout=60)
    return asked.returncode, output, errors


def _start(role: str, port: str, heartbeats: int) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "tests.runtime.network.full_queue", str(heartbeats), role, port]
    return subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def be_asked(port: str, heartbeats: int) -> None:
    """Be the process whose queue is full."""
    context: zmq.Context[Any] = zmq.Context()
    door = Doorkeeper(context, keys_of(NEW))
    socket = _socket(context, zmq.ROUTER, heartbeats)
    bind_with(socket, keys_of(NEW)[0])
    socket.bind(f"tcp://127.0.0.1:{port}")
    print(socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode().rpartition(":")[2], flush=True)
    while not socket.poll(1):
        door.work()
    ctypes.PyDLL(None).usleep(int(HOLD * 1e6))  # PyDLL keeps the lock; CDLL would let go of it
    taken = 0
    while socket.poll(100):
        socket.recv_multipart()
        taken += 1
    print("taken", taken, flush=True)
    context.destroy(linger=0)


def ask(port: str, heartbeats: int) -> None:
    """Be the process that fills the queue."""
    socket = _socket(zmq.Context(), zmq.DEALER, heartbeats)
    dial_with(socket, keys_of(NEW)[0])
    socket.connect(f"tcp://127.0.0.1:{port}")
    sent = 0
    while True:
        with contextlib.suppress(zmq.Again):
            socket.send(bytes(1000), zmq.NOBLOCK)
            sent += 1
            if sent == FULL:
                print("full", flush=True)


def _socket(context: zmq.Context[Any], kind: int, heartbeats: int) -> Any:
    socket = context.socket(kind)
    set_options(socket, largest=1 << 16, queue=QUEUE, chance=0.0)
    if heartbeats:
        for option, value in (
            (zmq.HEARTBEAT_IVL, heartbeats),
            (zmq.HEARTBEAT_TIMEOUT, 3 * heartbeats),
            (zmq.HEARTBEAT_TTL, 3 * heartbeats),
        ):
            socket.setsockopt(option, value)
    return socket


if __name__ == "__main__":
    if len(sys.argv) > 2:
        {"be_asked": be_asked, "ask": ask}[sys.argv[2]](sys.argv[3], int(sys.argv[1]))
    else:
        print(outcome(int(sys.argv[1])))
