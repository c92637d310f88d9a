"""Sockets between two members, without the rest of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from colocache.runtime import transport as transport_module
from colocache.runtime.transport import Transport

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


class Node:
    """One member's transport. The first byte of a frame tells its sender."""

    def __init__(self, directory: str, incarnation: bytes) -> None:
        self.incarnation = incarnation
        self.received: list[tuple[bytes, bool]] = []
        self.transport = Transport(self._receive, 8)
        self.link, self.bus = (f"ipc://{directory}/{incarnation[:1].decode()}.{kind}" for kind in ("link", "bus"))
        self.transport.bind(self.link, self.bus)

    def _receive(self, frame: bytes, now: float, *, bus: bool = False) -> bytes | None:
        self.received.append((frame, bus))
        return {b"a": A, b"b": B}.get(frame[:1])

    def connect(self, other: Node) -> None:
        self.transport.connect(other.incarnation, other.link, other.bus)


@pytest.fixture
def nodes(run_dir: str) -> Iterator[list[Node]]:
    os.makedirs(run_dir, exist_ok=True)
    nodes = [Node(run_dir, A), Node(run_dir, B)]
    yield nodes
    for node in nodes:
        node.transport.close()


def until(nodes: list[Node], condition: Callable[[], object]) -> None:
    """Have all nodes receive until a condition holds."""
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        for node in nodes:
            node.transport.wait(0.005)
            node.transport.receive()


def test_a_frame_by_the_bus_reaches_those_that_have_connected(nodes: list[Node]) -> None:
    one, other = nodes
    other.connect(one)

    def heard() -> bool:
        one.transport.publish(b"a")
        return (b"a", True) in other.received

    until(nodes, heard)


def test_frames_before_the_connection_stands_are_kept_in_order_and_others_are_dropped(
    nodes: list[Node], run_dir: str
) -> None:
    one, _ = nodes
    one.transport.connect(C, f"ipc://{run_dir}/c.link", f"ipc://{run_dir}/c.bus")  # nobody is there yet
    sent = [one.transport.send(C, b"a%d" % number, False) for number in range(transport_module.EARLY + 1)]
    assert sent == [True] * transport_module.EARLY + [False]
    late = Node(run_dir, C)
    nodes.append(late)
    until(nodes, lambda: len(late.received) == transport_module.EARLY)
    assert late.received == [(b"a%d" % number, False) for number in range(transport_module.EARLY)]
    assert one.transport.send(C, b"again", False)
    until(nodes, lambda: (b"again", False) in late.received)


def test_a_reply_goes_back_on_the_connection_of_the_request(nodes: list[Node]) -> None:
    one, other = nodes
    one.connect(other)
    assert not other.transport.send(A, b"b", True), "there is no request yet, and no link"
    one.transport.send(B, b"a", False)
    until(nodes, lambda: other.received)
    assert other.transport.send(A, b"b", True)
    until(nodes, lambda: one.received == [(b"b", False)])


def test_after_a_reconnection_frames_arrive_again(nodes: list[Node]) -> None:
    one, other = nodes
    one.connect(other)
    one.transport.send(B, b"a1", False)
    until(nodes, lambda: other.received)
    one.transport.reconnect(B)

    def arrived() -> bool:
        one.transport.send(B, b"a2", False)
        return (b"a2", False) in other.received

    until(nodes, arrived)


def test_after_a_disconnection_nothing_can_be_sent(nodes: list[Node]) -> None:
    one, other = nodes
    one.connect(other)
    one.transport.disconnect(B)
    one.transport.disconnect(B)
    assert not one.transport.send(B, b"a", False)


def test_a_probe_needs_no_link(nodes: list[Node]) -> None:
    one, other = nodes
    one.transport.probe(other.link, b"a")
    until(nodes, lambda: (b"a", False) in other.received)
    assert other.transport._routes
    other.transport.forget_strangers()
    assert not other.transport._routes


def test_errors_of_zeromq_are_errors_of_the_system(nodes: list[Node], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="ZeroMQ: ") as raised:
        nodes[0].transport.connect(B, "ipc://" + "x" * 200, nodes[1].bus)
    assert raised.value.errno
    assert not nodes[0].transport.send(B, b"a", False)
