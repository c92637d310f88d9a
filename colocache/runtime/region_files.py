"""The files of a region: which there are, and those of them that one process has open."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import time
from functools import partial
from typing import Final

from ..interruptions import pass_over, raise_if_from_handler
from .board_file import detach, map_file
from .files import Held, identity, open_new, open_ours
from .life import Life
from .record_locks import CLAIM_FILES, RecordLocks

CLAIMS: Final = tuple(f"claims.{number}" for number in range(CLAIM_FILES))
SCORES: Final = "scores"
FILES: Final = ("board", "locks", "shelf", *CLAIMS, SCORES)  # in the order of their inodes in the head
HOSTS: Final = "hosts"  # comes after them, where the group has several hosts

TOUCH_EVERY = 3600.0  # s; cleaners of temp directories spare files younger than 3 days (macOS) or 10 days (systemd)


class Again(OSError):
    """What this process has opened was deleted meanwhile."""

    def __init__(self) -> None:
        super().__init__("its files are deleted again and again")


class Files:
    """The files of a region that this process has opened, and what it has locked there."""

    def __init__(self, all_files: list[Files], base: str, name: str) -> None:
        """Open what is needed to join; take no lock. As long as anything is open, this is among ``all_files``."""
        self._all = all_files
        self.path = f"{base}/{name}"
        self.held: dict[str, Held] = {}
        self.is_closed = False
        self._maps: list[mmap.mmap] = []
        self._lives: list[Life] = []
        all_files.append(self)
        try:
            self.held["."] = Held.opened(partial(os.open, self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            self.held["locks"] = Held.opened(partial(open_ours, self.file("locks")))
            self.locks = RecordLocks(self.held["locks"])
            self._lives.append(Life(base, name))
        except BaseException:
            self.close()
            raise

    @property
    def life(self) -> Life:
        """This process's life in the group."""
        return self._lives[0]

    def file(self, name: str) -> str:
        """Return the path of a file. Raise OSError once all are closed: in a child that goes on to join or leave."""
        if self.is_closed:
            raise OSError(errno.EBADF, "the process has forked meanwhile")
        return f"{self.path}/{name}"

    def open(self, name: str) -> Held:
        """Open a file that is there. Raise `Again` if it is not."""
        try:
            self.held[name] = held = Held.opened(partial(_open_there, self.file(name)))
        except FileNotFoundError as error:
            raise_if_from_handler(error)
            raise Again from None
        return held

    def open_again(self, name: str) -> Held:
        """Open a file another time that is open, and return that. Raise `Again` if it is not the same file any more."""
        try:
            self.held[f"{name} again"] = held = Held.opened(partial(_open_there, self.file(name)))
        except FileNotFoundError as error:
            raise_if_from_handler(error)
            raise Again from None
        if held.identity != self.held[name].identity:
            raise Again
        return held

    def create(self, name: str) -> Held:
        """Create a file."""
        self.held[name] = held = Held.opened(partial(open_new, self.file(name)))
        return held

    def map(self, name: str, size: int, start: int = 0) -> mmap.mmap:
        """Map some bytes of a file, from ``start`` on, which is that of a page."""
        self._maps.append(map_file(self.held[name].number, size, start))  # in one line: see `forget_after_fork`
        return self._maps[-1]

    def inodes(self) -> list[int]:
        """Return the inodes of all files."""
        return [self.held[name].identity[1] for name in (*FILES, HOSTS) if name in FILES or name in self.held]

    def is_at_its_path(self, name: str) -> bool:
        """Tell whether an open file is what its path names."""
        try:
            return identity(os.lstat(self.file(name))) == self.held[name].identity
        except FileNotFoundError as error:
            raise_if_from_handler(error)
            return False

    def remember_board(self) -> None:
        """Remember what `board_is_in_place` compares with."""
        found = os.fstat(self.held["board"].number)
        self._board, self._device, self._inode, self._size = self.file("board"), *identity(found), found.st_size

    def board_is_in_place(self) -> bool:
        """Tell whether the board is at its path, in its length."""
        try:
            found = os.stat(self._board)
        except OSError as error:  # among others, this process may not look there any more
            raise_if_from_handler(error)
            return False
        return found.st_ino == self._inode and found.st_dev == self._device and found.st_size == self._size

    def board_is_gone(self) -> bool:
        """Tell whether newcomers cannot find the board, so that they cannot end the region either."""
        try:
            return identity(os.stat(self._board)) != (self._device, self._inode)
        except OSError as error:
            raise_if_from_handler(error)
            return isinstance(error, FileNotFoundError | NotADirectoryError)

    def board_is_cut(self) -> bool:
        """Tell whether touching the board's memory may kill the process."""
        board = self.held["board"]
        return not board.is_ours() or os.fstat(board.number).st_size < self._size

    def are_ours(self) -> bool:
        """Tell whether all files are still open."""
        return self.life.is_held() and all(held.is_ours() for held in self.held.values())

    def tend(self) -> bool:
        """Keep the files young, and tell whether all are still open."""
        if not self.are_ours():
            return False
        for held in (*self.held.values(), *self.life.files()):
            if abs(time.time() - os.fstat(held.number).st_mtime) > TOUCH_EVERY:
                os.utime(held.number)
        return True

    def delete_all(self, *kept: str) -> None:
        """Delete all files of the directory but the one whose lock this process has. Call it under that lock.

        Those with the names ``kept`` stay, too.
        """
        for name in ("board", "shelf", *CLAIMS, SCORES, HOSTS, f"{HOSTS} again"):
            if name in self.held:
                self.held.pop(name).close()
        for name in sorted(os.listdir(self.path)):  # the board comes first
            if name != "locks" and name not in kept:
                with pass_over(FileNotFoundError, IsADirectoryError, PermissionError):
                    os.unlink(self.file(name))

    def forget_after_fork(self) -> bool:
        """In a forked child, let go of everything. Callable twice. Return whether all memory is the child's own now.

        The child may be in the middle of an operation, and go on with it: a signal handler or a finalizer has forked.

        1. The parent draws a number, and forks before it stamps a key with it. It goes on, and loads the key.
        2. Another process invalidates the key, with a later number.
        3. The child goes on, and stamps the key with the first number. What the parent has loaded is current again.

        So there is memory of the child's own, without anything in it, where the mapped files were.
        """
        detached = [detach(mapping) for mapping in self._maps]
        self.close()
        return bool(detached) and all(detached)

    def close(self) -> None:
        """Close everything, which gives up all locks of bytes. Callable twice."""
        if sys.version_info < (3, 13) and not all(held.is_ours() for held in self.held.values()):
            _abandoned.extend(self._maps)
        self.is_closed = True
        self._maps.clear()
        for held in [*self.held.values()]:
            held.close()
        self.held.clear()
        while self._lives:
            self._lives.pop().close()
        with pass_over(ValueError):
            self._all.remove(self)


#: What must stay mapped for ever. Until Python 3.13, a map has a descriptor of its own. If somebody has closed all
#: descriptors of the process, that number is somebody else's now, and a map that goes would close it.
_abandoned: list[mmap.mmap] = []


def _open_there(path: str) -> int:
    if not os.path.lexists(path):  # open_ours would create it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return open_ours(path)
