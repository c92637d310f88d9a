"""Sockets between two members, without the rest of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

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


def test_a_frame_sent_just_after_the_connection_stands_does_not_overtake_those_that_were_kept(
    nodes: list[Node], run_dir: str
) -> None:
    one, _ = nodes
    one.transport.connect(C, f"ipc://{run_dir}/c.link", f"ipc://{run_dir}/c.bus")
    one.transport.send(C, b"a1", False)
    late = Node(run_dir, C)
    nodes.append(late)
    until([], lambda: one.transport.wait(0.005) or one.transport._ready)
    one.transport.send(C, b"a2", False)
    until(nodes, lambda: len(late.received) == 2)
    assert late.received == [(b"a1", False), (b"a2", False)]


def test_frames_of_one_socket_are_taken_in_batches(nodes: list[Node]) -> None:
    """Otherwise a member that sends more than another one can take would keep it from its clock."""
    taken: list[object] = []

    class Flood:
        """A socket that always has another frame."""

        def get(self, option: int) -> int:
            assert len(taken) <= transport_module.BATCH
            return transport_module.POLLIN

    flood: Any = Flood()
    nodes[0].transport._drain(flood, taken.append)
    assert taken == [flood] * transport_module.BATCH


def test_a_reply_goes_back_on_the_connection_of_the_request(nodes: list[Node]) -> None:
    one, other = nodes
    one.connect(other)
    assert not other.transport.send(A, b"b", True), "there is no request yet, and no link"
    one.transport.send(B, b"a", False)
    until(nodes, lambda: other.received)
    assert other.transport.send(A, b"b", True)
    until(nodes, lambda: one.received == [(b"b", False)])


def test_a_reply_takes_the_link_where_the_connection_of_the_request_is_gone(nodes: list[Node]) -> None:
    one, other = nodes
    one.connect(other)
    other.connect(one)
    one.transport.send(B, b"a", False)
    until(nodes, lambda: other.received)
    one.transport.disconnect(B)

    def answered() -> bool:
        other.transport.send(A, b"b", True)
        return (b"b", False) in one.received

    until(nodes, answered)


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


def test_after_a_disconnection_events_are_not_heard_any_more(nodes: list[Node], run_dir: str) -> None:
    one, other = nodes
    nodes.append(third := Node(run_dir, C))
    one.connect(other)
    one.connect(third)

    def heard(node: Node, frame: bytes) -> bool:
        node.transport.publish(frame)
        return (frame, True) in one.received

    until(nodes, lambda: heard(other, b"b1"))
    one.transport.disconnect(B)
    for _ in range(10):
        other.transport.publish(b"b2")
    until(nodes, lambda: heard(third, b"c"))
    assert (b"b2", True) not in one.received


def test_a_probe_needs_no_link(nodes: list[Node]) -> None:
    one, other = nodes
    one.transport.probe(other.link, b"a")
    until(nodes, lambda: (b"a", False) in other.received)
    assert other.transport._routes
    other.transport.forget_strangers()
    assert not other.transport._routes


def test_errors_of_zeromq_are_errors_of_the_system(nodes: list[Node]) -> None:
    with pytest.raises(OSError, match="ZeroMQ: ") as raised:
        nodes[0].transport.connect(B, "ipc://" + "x" * 200, nodes[1].bus)
    assert raised.value.errno
    assert not nodes[0].transport.send(B, b"a", False)
