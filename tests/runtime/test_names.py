"""What others write into the memory and to the sockets of a group leads nobody out of the group's directory."""

from __future__ import annotations

import os
from array import array
from contextlib import closing
from typing import Any

import pytest

from colocache import Cache
from colocache.host import Host
from colocache.runtime import board_file
from colocache.runtime.frames import KEYS, encode
from colocache.runtime.transport import Full, Voice
from colocache.testing.group import OtherProcess
from tests.conftest import NewCache, Until

HOSTILE = (
    0,
    1,
    77,
    2**31,
    2**63,
    2**64 - 1,
    int.from_bytes(b"../../et", "little"),
    int.from_bytes(b"/tmp/xyz", "little"),
)


class Spy:
    """Notes which files are opened, and which sockets connected to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.connected: list[str] = []
        open_, begin = os.open, Voice.__init__

        def spied_open(path: Any, *arguments: Any, **options: Any) -> int:
            self.opened.append(os.fsdecode(path))
            return open_(path, *arguments, **options)

        def spied_begin(voice: Voice, path: str) -> None:
            self.connected.append(path)
            begin(voice, path)

        monkeypatch.setattr(os, "open", spied_open)
        monkeypatch.setattr(Voice, "__init__", spied_begin)

    def outside(self, directory: str) -> list[str]:
        """Return the paths that are not directly in a directory."""
        paths = [*self.opened, *self.connected]
        return [path for path in paths if os.path.dirname(os.path.normpath(path)) != directory]


def test_nothing_that_others_say_leads_out_of_the_groups_directory(
    new_cache: NewCache, run_dir: str, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = new_cache("test")
    cache.start()
    host = cache._member.own_host()
    assert host is not None
    directory = os.path.realpath(f"{run_dir}/test")
    until(lambda: os.path.exists(f"{directory}/0.bus"))
    other = OtherProcess(run_dir)
    try:
        other.call(use_the_group)
        until(lambda: os.path.exists(f"{directory}/1.bus"))
        with closing(Voice(f"{directory}/0.bus")) as mouth:
            spy = Spy(monkeypatch)
            _scribble(host)
            _shout(mouth, until)
            until(lambda: host._shared.bus.bad_frames > 0)  # type: ignore[union-attr]

        def connected() -> bool:
            cache.invalidate("k")
            return f"{directory}/1.bus" in spy.connected

        until(connected)
        assert not spy.outside(directory)
        assert set(spy.connected) == {f"{directory}/1.bus"}, "nobody else has the lock of a seat"
        assert [member.pid for member in cache.members()] == [os.getpid(), other.pid]
        assert cache.get_or_load("still", lambda: "works") == cache.get("still") == "works"
    finally:
        other.stop()


_kept: list[Cache] = []


def use_the_group() -> None:
    _kept.append(Cache("test"))
    _kept[0].set("k", 1)


def _scribble(host: Host) -> None:
    """Write nonsense into all seats that are free, and say that all have been taken."""
    board = host.region._board
    for seat in range(2, board_file.SEATS):
        board.take_seat(seat, HOSTILE[seat % len(HOSTILE)], HOSTILE[seat % 7], HOSTILE[seat % 5])
    board.words[board_file._USED] = 2**64 - 1


def _shout(mouth: Voice, until: Until) -> None:
    """Say something under names that are no names, with numbers that are none, and what is not even a frame."""
    frames = [encode(KEYS, name, number, array("Q", HOSTILE)) for name in HOSTILE for number in HOSTILE]
    for frame in (*frames, b"", b"cb", bytes(64), *map(os.urandom, range(1, 200))):
        until(lambda frame=frame: _takes(mouth, frame))  # type: ignore[misc]


def _takes(mouth: Voice, frame: bytes) -> bool:
    try:
        mouth.send(frame)
    except Full:
        return False
    return True


def test_the_spy_sees_what_goes_astray(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    os.close(os.open("/dev/null", os.O_RDONLY))
    assert spy.outside(run_dir) == ["/dev/null"]
