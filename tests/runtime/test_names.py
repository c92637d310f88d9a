"""A member tells its own name. No name leads another member out of the group's directory."""

from __future__ import annotations

import os
from typing import Any

import pytest
import zmq

from colocache import Cache
from colocache.core.group.members import Member
from colocache.core.group.messages import Ping, Roster, encode

TEXTS = (
    "../../etc/passwd", "/etc/passwd", "..", "a\0b", "@abstract", "tcp://127.0.0.1:7400", "ipc:///tmp/elsewhere",
    "host/../0", "host/-1", "host/99999999", "%s%s%n", "{0.__class__}", "\n[critical] forged", "😀" * 300,
)  # fmt: skip
INCARNATIONS = (
    b"/../../../../tmp", b"................", b"//////////////..", bytes(16), b"\xff" * 16, b"0-*.stream\n\0\0\0\0\0",
)  # fmt: skip


class Spy:
    """Notes which files are opened, and which sockets connected to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.connected: list[str] = []
        open_, connect = os.open, zmq.Socket.connect

        def spied_open(path: Any, *arguments: Any, **options: Any) -> int:
            self.opened.append(os.fsdecode(path))
            return open_(path, *arguments, **options)

        def spied_connect(socket: zmq.Socket[bytes], endpoint: str) -> Any:
            self.connected.append(endpoint)
            return connect(socket, endpoint)

        monkeypatch.setattr(os, "open", spied_open)
        monkeypatch.setattr(zmq.Socket, "connect", spied_connect)

    def outside(self, directory: str) -> list[str]:
        """Return the paths that are not directly in a directory."""
        paths = [*self.opened, *(endpoint.removeprefix("ipc://") for endpoint in self.connected)]
        return [path for path in paths if os.path.dirname(os.path.normpath(path)) != directory]


def test_no_name_leads_out_of_the_groups_directory(
    new_cache: Any, run_dir: str, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    cache, other = new_cache(), new_cache()
    cache.start()
    other.start()
    until(lambda: cache.stats().current and cache.stats().members == 2)
    known = len(spy.connected)
    assert known == 4, "each connects to the other, twice"

    me, friend = (each._member.join()._peer.me for each in (cache, other))
    driver = cache._member.join()
    for frame in _hostile(me, friend):
        driver._look(lambda now, frame=frame: driver._peer.receive(frame, now))
    until(lambda: cache.stats().members == 2, failing="a process that is not in the directory is not a member")

    (directory,) = (entry.path for entry in os.scandir(run_dir))
    assert not spy.outside(os.path.realpath(directory))
    assert len(spy.connected) == known, "there was nobody to connect to"
    assert cache.get_or_load("still", lambda: "works") == "works"


def _hostile(me: Member, friend: Member) -> list[bytes]:
    pings = [
        Ping(incarnation, me.incarnation, 1, bytes(8), 0, 1, text) for incarnation in INCARNATIONS for text in TEXTS[:3]
    ]
    renamed = [Ping(friend.incarnation, me.incarnation, 1, bytes(8), 0, 1, text[:300]) for text in TEXTS]
    rosters = [
        Roster(friend.incarnation, me.incarnation, ((bytes((number,)) + incarnation[1:], text[:300], 1, -1, 0.0),))
        for number, incarnation in enumerate(INCARNATIONS)
        for text in TEXTS
    ]
    return [encode(message) for message in (*pings, *renamed, *rosters)]


def test_the_spy_sees_a_member_that_goes_astray(cache: Cache, run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    os.close(os.open("/dev/null", os.O_RDONLY))
    assert spy.outside(run_dir) == ["/dev/null"]
