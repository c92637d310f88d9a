"""What somebody can leave in a group's directory: boards that lie, and things that are no files of a region at all."""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import tempfile
from types import TracebackType

from colocache.core.host.layout import geometry
from colocache.core.hosts.event import KEYS, Event
from colocache.errors import ConfigError
from colocache.runtime import board_file, hosts_file
from colocache.runtime.board_file import BoardMemory, Head
from colocache.runtime.fences import fences_for
from colocache.runtime.life import Life
from colocache.runtime.network.office import Office
from colocache.runtime.region import Region
from colocache.runtime.region_files import FILES, HOSTS
from verification.fuzz.dice import Dice

CAPACITY = 1 << 20
MARKS = board_file.marks_for(CAPACITY)
SIZE = board_file.size_for(MARKS)
NUMBERS = (0, 1, 2, 3, 4096, 1 << 20, MARKS, SIZE // 8 - 1, SIZE // 8, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NAMES = (
    *FILES[:3], HOSTS, hosts_file.ENDED, f"{hosts_file.ENDED}.new", "claims.0", "claims.15", "claims.16", "0.bus",
    "4095.bus", "-1.bus", "board~", "x",
)  # fmt: skip


def head_of(content: bytes) -> Head:
    """Return the head of a file that holds these bytes."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        return Head(file.fileno())


def forged_board(dice: Dice) -> bytes:
    """Return the bytes of a board: all is well with it, but for what dice chose."""
    with mmap.mmap(-1, SIZE) as mapping:
        board = BoardMemory(mapping)
        wanted = dice.pick((CAPACITY, 2 * CAPACITY, 0, (1 << 64) - 1))
        hosts, inodes = dice.once_in(2), [0] * (len(FILES) + 1)
        board.begin(b"0123456789abcdef", CAPACITY, wanted, inodes, fences_for(None, 0), hosts=hosts)
        for _ in range(dice.below(4)):
            board.words[dice.below(16) if not dice.once_in(3) else dice.below(2000)] = dice.pick(NUMBERS)
        content = bytearray(mapping)
        for view in (board.words, board.state, board.heard, board.bell, board.hints, board.marks):
            view.release()
    for _ in range(dice.below(3)):
        damage = dice.blob(20)
        at = dice.below(4096)
        content[at : at + len(damage)] = damage
    return bytes(content[: dice.pick((SIZE, SIZE, SIZE, 4096, 4000, 512, 8, 0, SIZE - 1, SIZE - 8))])


class Files:
    """A group's directory with things in it that dice chose, where others live or not; gone afterwards."""

    def __init__(self, dice: Dice) -> None:
        self._base = tempfile.mkdtemp(prefix="cc", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self._outside = f"{self._base}/outside"
        self.directory = f"{self._base}/run/fuzz"
        for path in (self._outside, f"{self._base}/run", self.directory):
            os.mkdir(path, 0o700)
        self._precious = forged_board(Dice(b""))
        self._write(f"{self._outside}/board", self._precious, 0o600)
        for _ in range(dice.below(8)):
            path = self._file(_name(dice))
            if not os.path.lexists(path):
                self._make(dice, path)
        if dice.once_in(2):
            self._complete(dice)
        self._hosts = dice.once_in(2)
        self._lives: list[Life] = []
        if dice.once_in(2):
            self._lives.append(Life(f"{self._base}/run", "fuzz"))
            self._lives[0].hold()

    def _make(self, dice: Dice, path: str) -> None:
        kind = dice.below(8)
        if kind < 4:
            content = forged_board(dice) if path.endswith("board") else dice.blob(200)
            self._write(path, content, 0o644 if kind == 3 else 0o600)
        elif kind == 4:
            os.mkdir(path, 0o700)
        elif kind == 5:
            os.symlink(dice.pick((f"{self._outside}/board", self._outside, "nowhere", ".", path)), path)
        elif kind == 6:
            os.mkfifo(path, 0o600)
        else:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)

    @staticmethod
    def _write(path: str, content: bytes, mode: int) -> None:
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, mode), "wb") as file:
            file.write(content)

    def _complete(self, dice: Dice) -> None:
        """Add what is missing, in its right size, and have the board name all files, as if they were a region's."""
        for name in (*FILES, HOSTS):
            path = self._file(name)
            if not os.path.lexists(path):
                self._write(path, forged_board(dice) if name == "board" else b"", 0o600)
        sized = [self._file(name) for name in ("shelf", "board", HOSTS)]
        if all(os.path.isfile(path) and not os.path.islink(path) for path in sized):
            os.truncate(self._file("shelf"), geometry(CAPACITY).total_size)
            os.truncate(self._file(HOSTS), hosts_file.SIZE)
            inodes = [os.lstat(self._file(name)).st_ino for name in (*FILES, HOSTS)]
            with open(self._file("board"), "r+b") as board:
                board.seek(8 * board_file._INODES)
                board.write(b"".join(inode.to_bytes(8, "little") for inode in inodes))

    def _file(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def join(self) -> None:
        """Join, use the region, and leave. ConfigError says that it cannot be joined."""
        try:
            region = Region.join("fuzz", f"{self._base}/run", CAPACITY, hosts=self._hosts, patience=0.0)
        except ConfigError:
            return
        try:
            assert region.lives()
            assert region.is_in_place()
            assert isinstance(region.wanted, int)
            region.seats()
            assert region.geometry.total_size == os.stat(self._file("shelf")).st_size
            region.marks[region.mark_count]
            region.shelf.data[region.geometry.total_size - 1 : region.geometry.total_size]
            assert region.hosts is not None or not (self._hosts or region.ended)
            if region.hosts is not None:
                event = Event(KEYS, (1,))
                assert region.hosts.log.read(*region.hosts.log.append(event)) == event
                office = Office(region.hosts.open_again, region.hosts.grow_row, lambda: 0)
                try:
                    assert office.take() == 0
                finally:
                    office.give_back()
        finally:
            region.release()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for life in self._lives:
            life.close()
        with open(f"{self._outside}/board", "rb") as file:
            precious = file.read()
        left = os.listdir(self._outside)
        shutil.rmtree(self._base)
        assert left == ["board"], "something was left, or deleted, outside of the directory"
        assert precious == self._precious, "something outside of the directory was touched"


def _name(dice: Dice) -> str:
    if dice.once_in(12):
        raw = dice.blob(20).decode("latin-1").replace("/", "_").replace("\0", "_")
        return raw if raw not in ("", ".", "..") else "_"
    return dice.pick(NAMES)
