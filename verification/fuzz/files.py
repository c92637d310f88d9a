"""What another process can leave in the group's directory: streams that lie, and things that are no streams at all."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from types import TracebackType

from colocache.core.group.messages import NO_NUMBER
from colocache.runtime import journal
from colocache.runtime.directory import Directory
from colocache.runtime.journal import Journal
from verification.fuzz.dice import Dice
from verification.fuzz.world import ME, A, B

NUMBERS = (0, 1, 2, 3, 4, 5, 9, 64, 200, NO_NUMBER, NO_NUMBER + 1, (1 << 64) - 1)
PAGE = 4096


# --- A stream


@contextlib.contextmanager
def journal_file(dice: Dice) -> Iterator[tuple[int, Callable[[], None]]]:
    """A file that was a journal of M once, and what cuts it short."""
    with tempfile.TemporaryFile() as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, forged_journal(dice), 0)
        yield descriptor, lambda: os.ftruncate(descriptor, dice.pick((PAGE, 0, 1, 127, 128, 5000, 1 << 20)))


def forged_journal(dice: Dice) -> bytes:
    """Return a journal's bytes: some good events, some that only their checksums say are good, and some damage."""
    size = dice.pick((256, 64, 16, 1024, 3 * PAGE))
    file = bytearray(_with_events(size, dice.below(20)))
    for _ in range(dice.below(4)):
        _forge_event(file, dice, size)
    for at in (64, 72, 80):
        if dice.once_in(4):
            file[at : at + 8] = dice.pick(NUMBERS).to_bytes(8, "little")
    for _ in range(dice.below(4)):
        damage = dice.blob(20)
        at = dice.below(len(file))
        file[at : at + len(damage)] = damage
    return bytes(file[: -dice.below(9) or None])


@cache
def _with_events(size: int, events: int) -> bytes:
    with contextlib.closing(mmap.mmap(-1, 128 + size)) as mapping:
        stream = Journal(mapping, ME)
        for number in range(1, events + 1):
            with contextlib.suppress(ValueError):
                stream.append(number, b"e" * (number % 5))
        content = bytes(mapping)
        stream.close()
    return content


def _forge_event(file: bytearray, dice: Dice, size: int) -> None:
    """Put a record into the ring that is intact by its checksum, and have the stream end with it."""
    number, frame = dice.pick(NUMBERS) % (1 << 63), dice.blob(60)
    length = dice.pick((len(frame), 0, 1 << 31, (1 << 32) - 1))
    record = frame + journal._MEASURES.pack(number, length)
    record += journal._CHECKSUM.pack(zlib.crc32(record))
    end = dice.pick((len(record), size, size + 7, 5 * size, (1 << 64) - 1))
    for place, byte in enumerate(record, end - len(record)):
        file[128 + place % size] = byte
    file[64:72] = number.to_bytes(8, "little")
    file[72 + 8 * (number % 2) : 80 + 8 * (number % 2)] = end.to_bytes(8, "little")


# --- A directory

NAMES = ("0", "1", "9999", "00", "-1", "4096", "٣", "")
INCARNATIONS = (A.hex(), B.hex(), A.hex().upper(), A.hex()[1:], ME.hex(), "..", "*")
KINDS = ("stream", "tmp", "seat", "link", "bus", "stream~", "stream\n")


class Files:
    """A directory with things in it that dice chose; gone afterwards."""

    def __init__(self, dice: Dice) -> None:
        self._base = tempfile.mkdtemp(prefix="cc", dir="/tmp")
        self._outside = f"{self._base}/outside"
        os.mkdir(self._outside, 0o700)
        with open(f"{self._outside}/precious", "w") as file:
            file.write("untouched")
        self.directory = Directory("fuzz", f"{self._base}/run", journal_bytes=PAGE)
        self.directory.open()
        for _ in range(dice.below(7)):
            path = f"{self.directory.path}/{_name(dice)}"
            if not os.path.lexists(path):
                self._make(dice, path)

    def _make(self, dice: Dice, path: str) -> None:
        kind = dice.below(8)
        if kind < 4:
            with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644 if kind == 3 else 0o600), "wb") as file:
                file.write(forged_journal(dice))
        elif kind == 4:
            os.mkdir(path, 0o700)
        elif kind == 5:
            os.symlink(dice.pick((f"{self._outside}/precious", self._outside, "nowhere", ".", path)), path)
        elif kind == 6:
            os.mkfifo(path, 0o600)
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)

    def look_at(self, incarnation: bytes) -> None:
        """Watch a member that was found."""
        neighbour = self.directory.watch(incarnation)
        if neighbour is not None:
            sockets = [endpoint.removeprefix("ipc://") for endpoint in neighbour.endpoints]
            assert all(os.path.dirname(socket) == self.directory.path for socket in sockets)
            neighbour.alive()
            neighbour.last()
            neighbour.events(1)
            neighbour.close()

    def join(self, incarnation: bytes) -> None:
        """Take a seat, and leave it."""
        seat = self.directory.take(incarnation)
        try:
            seat.announce()
            seat.tend()
        finally:
            seat.release()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with open(f"{self._outside}/precious") as file:
            precious = file.read()
        left = os.listdir(self._outside)
        shutil.rmtree(self._base)
        assert (left, precious) == (["precious"], "untouched"), "something outside of the directory was touched"


def _name(dice: Dice) -> str:
    if dice.once_in(8):
        raw = dice.blob(20).decode("latin-1").replace("/", "_").replace("\0", "_")
        return raw if raw not in ("", ".", "..") else "_"
    number, incarnation = dice.pick(NAMES), dice.pick(INCARNATIONS)
    kind = dice.pick(KINDS)
    return f"{number}.seat" if kind == "seat" else f"{number}-{incarnation}.{kind}"
