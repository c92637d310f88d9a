"""Processes without trouble: one load, acknowledged invalidations, and no harm from strangers."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from colocache.core.group import messages
from verification.chaos.group import Group, together, until

#: An owner that does not answer within the fetch timeout is passed over. Here that would only measure the machine.
PATIENT = {"fetch_timeout": 20.0, "lease": 20.0}


@pytest.mark.parametrize(("threads", "waves"), [(100, 1), (25, 4)])
def test_four_hundred_misses_of_a_key_in_four_processes_are_one_load(
    group: Callable[..., Group], threads: int, waves: int
) -> None:
    ours = group(**PATIENT)
    workers = ours.start(4)
    for wave in range(waves):
        for versions in together(workers, "read_in_threads", key=f"k{wave}", threads=threads):
            assert versions == [0] * threads
    assert ours.loads() == waves


def test_what_one_process_invalidates_all_read_anew(group: Callable[..., Group]) -> None:
    ours = group(**PATIENT)
    workers = ours.start(4)
    for version in range(1, 5):
        together(workers, "read", key="k0")
        receipt = workers[version % 4].call("write", key="k0")
        assert receipt["complete"]
        assert len(receipt["acknowledged"]) == 3
        assert not receipt["waited_out"]
        assert together(workers, "read", key="k0") == [version] * 4
    assert ours.loads() == 5


def test_what_one_process_sets_it_reads_at_once_and_all_read_once_all_have_acknowledged(
    group: Callable[..., Group],
) -> None:
    workers = group(**PATIENT).start(4)
    for number, worker in enumerate(workers):
        together(workers, "read", key="k0")
        assert worker.call("set", key="k0", value=100 + number)
        assert worker.call("get", key="k0") == 100 + number
        assert worker.call("set", key="k0", value=200 + number, wait="all")
        assert together(workers, "get", key="k0") == [200 + number] * 4


def test_a_tag_reaches_the_entries_that_carry_it_in_all_processes_and_no_others(group: Callable[..., Group]) -> None:
    ours = group(**PATIENT)
    workers = ours.start(3)
    for key, tags in (("k0", ["red"]), ("k1", ["red", "blue"]), ("k2", ["blue"]), ("k3", [])):
        together(workers, "read", key=key, tags=tags)
    before = ours.loads()
    assert workers[0].call("invalidate_tags", tag="red")["complete"]
    for key in ("k0", "k1", "k2", "k3"):
        together(workers, "read", key=key)
    assert (ours.directory / "loads").read_text().split()[before:] == ["k0", "k1"]


def test_clearing_a_namespace_clears_those_below_it_in_all_processes_and_no_others(
    group: Callable[..., Group],
) -> None:
    ours = group(**PATIENT)
    workers = ours.start(3)
    spaces = ("", "users", "users/names", "orders")
    for space in spaces:
        together(workers, "read", key="k0", space=space)
    before = ours.loads()
    assert workers[2].call("clear", space="users")["complete"]
    for space in spaces:
        together(workers, "read", key="k0", space=space)
    assert ours.loads() == before + 2
    assert workers[1].call("clear")["complete"]
    for space in spaces:
        together(workers, "read", key="k0", space=space)
    assert ours.loads() == before + 2 + 4


def test_a_thousand_invalidations_from_four_processes_at_once_are_all_acknowledged(
    group: Callable[..., Group],
) -> None:
    ours = group(**PATIENT)
    workers = ours.start(4)
    keys = [f"k{number}" for number in range(40)]
    together(workers, "read_all", keys=keys)
    writing = [worker.send("write_each", keys=keys[place::4], times=25) for place, worker in enumerate(workers)]
    for future in writing:
        assert future.result() == {"complete": 250, "incomplete": 0, "errors": []}
    for versions in together(workers, "read_all", keys=keys):
        assert versions == [25] * 40


def test_sixteen_processes_that_join_at_once_become_one_group(group: Callable[..., Group]) -> None:
    ours = group(lease=10.0)
    workers = ours.start(16)
    views = together(workers, "members")
    assert all(view == views[0] for view in views)
    assert len(set(views[0].values())) == 16
    assert workers[7].call("write", key="k0")["complete"]


# --- Strangers


def _noise(random: random.Random, incarnation: bytes) -> bytes:
    """Return a frame of one of many kinds that no member sends."""
    ping = messages.encode(messages.Ping(bytes(16), incarnation, 1, bytes(8), 0, 1, "nowhere/0"))
    return random.choice(
        (
            b"",
            random.randbytes(random.randrange(1, 200)),
            ping[:1] + random.randbytes(40),
            ping[: random.randrange(len(ping))],
            bytes((ping[0] + 1,)) + ping[1:],
            messages.encode(messages.Event(random.randbytes(16), 7, (messages.EVERYTHING,))),
            messages.encode(messages.Goodbye(random.randbytes(16), incarnation, 0)),
            messages.encode(messages.Ack(random.randbytes(16), incarnation, 1 << 40)),
            messages.encode(messages.Reset(random.randbytes(16), incarnation, incarnation, 9)),
        )
    )


def test_garbage_on_every_socket_harms_nobody(group: Callable[..., Group]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    ours = group(**PATIENT)
    workers = ours.start(2)
    together(workers, "read", key="k0")
    before = together(workers, "stats")
    for worker in workers:
        worker.call("begin_reading", keys=["k0"])
    with zmq.Context() as context, ExitStack() as sockets:
        for path in [*ours.files.glob("*.link"), *ours.files.glob("*.bus")]:
            _shout(sockets.enter_context(context.socket(zmq.DEALER if path.suffix == ".link" else zmq.SUB)), path, dice)
        until(lambda: all(s["frames_refused"] + s["frames_ignored"] >= 100 for s in together(workers, "stats")))
        assert workers[0].call("write", key="k0")["complete"]
        assert together(workers, "read", key="k0") == [1, 1]
    for worker, stats in zip(workers, before, strict=True):
        assert worker.call("end_reading")["errors"] == []
        after = worker.call("stats")
        assert after["resets"] == stats["resets"]
        assert after["members"] == 2
        assert after["current"]


def _shout(ours: zmq.Socket[Any], path: Path, dice: random.Random) -> None:
    """Send noise by ZeroMQ, and noise that is not even ZeroMQ."""
    incarnation = bytes.fromhex(next(path.parent.glob(f"{path.stem}*.stream")).stem.partition("-")[2])
    ours.linger = 0
    ours.connect(f"ipc://{path}")
    for _ in range(200):
        if path.suffix == ".link":
            ours.send_multipart([_noise(dice, incarnation) for _ in range(dice.randrange(1, 4))])
        else:
            ours.subscribe(dice.randbytes(30))
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            raw.send(dice.choice((b"GET / HTTP/1.1\r\n\r\n", dice.randbytes(64), b"\xff" + bytes(8) + b"\x7f\x03")))
