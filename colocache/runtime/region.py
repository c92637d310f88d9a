"""The region: the files that the processes of a group map on one host. It lives until the last of them leaves.

====================== ================================================================================================
file                   meaning
====================== ================================================================================================
``locks``              locks of single bytes: of joining and leaving, of rings, of seats
``board``              the board, the seats, and what the processes must agree on (`colocache.runtime.board_file`)
``shelf``              the shelf; it is as long as it can become, and gets its blocks as it grows
``claims.0`` … ``.15`` empty; their bytes are the claims
====================== ================================================================================================

**Joining** and leaving happen one after another, under the lock of a byte. Whoever joins first shows that it lives
(`colocache.runtime.life`), and then looks who else does, and what files there are:

========================== ==================== =======================================================================
others live                files                then
========================== ==================== =======================================================================
no                         any                  end what is there, delete it, and make a new region
yes                        of a living region   join it, if the layout is the same
yes                        a board that can be  end it, delete it, and make a new region: those who use the old one
                           ended, but something find out at their next hit
                           else is missing
yes                        none, or not theirs  raise `CannotJoin`: they may serve what they have, and cannot be told.
                                                They find out themselves, by `Region.is_in_place`, and let go
========================== ==================== =======================================================================

The board's head names the files of its region by their inodes, its own among them. So a copy differs from what others
have mapped, and so are locks of a deleted file from those that others use:

1. A has the lock of joining. A cleaner deletes all files.
2. B makes a new ``locks``, and has its lock of joining.
3. Each of the two shows that it lives before it looks. So at least one finds the other one, but no region, and raises.
4. If A has made a region meanwhile, its head names the ``locks`` that was deleted. C, which comes now, ends it.

A process that is killed while it joins has made nothing that anybody uses: the state in the head is stored last.

**Locks** of bytes have three traps (see `colocache.runtime.files`). So a process has one `Region` for a directory,
whatever its spelling, and all its caches of the group share it; each file is opened once.

If another program truncates a file, a process that touches what is gone is killed (SIGBUS). Nothing can be done about
that from Python.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import sys
import time
from dataclasses import dataclass

from ..core.host.layout import Geometry, ShelfMemory, geometry
from ..core.host.memory import Heard
from ..core.host.numbers import Numbers
from ..errors import CannotJoin, ConfigError
from . import board_file
from .board_file import BoardMemory, Head, anonymous, map_file
from .fences import Fences, fences_for
from .files import Held, allocate, identity, open_new, open_ours
from .life import Life
from .places import largest_file, open_place, room
from .record_locks import (
    CLAIM_FILES,
    FIRST_PAUSE,
    ClaimLocks,
    Holds,
    RecordLocks,
    RingLocks,
    hold_of_caller,
    rest,
)
from .servers import call_after_fork
from .signals import raise_if_from_handler

PATIENCE = 2.0  # s: how long a process waits for others that join or leave
LEAVING_PATIENCE = 0.5  # s: the same for one that leaves; whoever comes next cleans up

TOUCH_EVERY = 3600.0  # s; cleaners of temp directories spare files younger than 3 days (macOS) or 10 days (systemd)

LEAST_CAPACITY = 1 << 20
_MIB = 1 << 20

# Bytes of the file `locks`.
_JOIN = 0
_RINGS = 1 << 16
_SEATS = 1 << 32
_FENCES = 1 << 33

_CLAIMS = tuple(f"claims.{number}" for number in range(CLAIM_FILES))
_FILES = ("board", "locks", "shelf", *_CLAIMS)  # in the order of their inodes in the head
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _reached(step: str) -> None:
    """Do nothing. Tests have a process killed here."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A process's place on its host. ``pid`` is 0 if the process is in another pid namespace."""

    number: int
    pid: int
    nonce: int  # random; a later process with this seat has another one


#: What `Region.lives` looks at once the process has left.
_NO_STATE = memoryview(bytes(8)).cast("Q")


class _Again(OSError):
    """What this process has opened was deleted meanwhile."""

    def __init__(self) -> None:
        super().__init__("its files are deleted again and again")


class Region:
    """A region, as one process uses it. `join` or `private` makes it. Any thread may call all methods."""

    id: bytes
    """16 random bytes."""
    path: str
    """The group's directory; empty in a private region."""
    seat: Seat
    """This process's place."""
    numbers: Numbers
    """The numbers of this process in this region."""
    bell: memoryview
    """One word."""
    heard: Heard
    """The same, as a double: see `colocache.core.host.numbers`."""
    marks: memoryview
    """Words: the root's mark, and ``mark_count`` others."""
    mark_count: int
    hints: memoryview
    """Words, `colocache.core.host.claims.HINT_WORDS` for each hint."""
    geometry: Geometry
    shelf: ShelfMemory
    rings: RingLocks
    claims: ClaimLocks
    fences: Fences

    def __init__(
        self, files: _Files | None, board: BoardMemory, shelf: mmap.mmap, fences: Fences, capacity: int
    ) -> None:
        self._files = files
        self._board = board
        self.state = board.state
        self._left = False
        self._users = 0
        self.fences = fences
        self.id = board.id
        self.bell, self.heard, self.hints = board.bell, board.heard, board.hints
        self.marks, self.mark_count = board.marks, board.count
        self.geometry = geometry(capacity)
        self.shelf = ShelfMemory.over(shelf, self.geometry, self._grow)
        self.path = ""
        locks, claims = None, []
        if files is not None:
            locks, claims = files.locks, [RecordLocks(files.held[name]) for name in _CLAIMS]
            self.path = files.path
        self.rings = RingLocks(locks, _RINGS, self.geometry.rings)
        self.claims = ClaimLocks(claims)

    # --- Coming

    @classmethod
    def join(
        cls, group: str, directory: str | None, capacity: int, *, patience: float = PATIENCE,
        joined: list[Region] | None = None,
    ) -> Region:  # fmt: skip
        """Join the group's region on this host, or make it. Call `release` when a cache no longer uses it.

        ``directory`` is the setting: an absolute path, or None for the default. ``capacity`` are the bytes that the
        shelf may have; if the file system has less room, it gets less. The process that makes the region chooses it for
        all, and ``wanted`` tells what that process wanted.

        An exception of a signal handler may come out of this call instead of its result. So the region is appended to
        ``joined``, too, if that is given: a caller that catches an exception gives back what is there.

        All caches of a process that name one directory and group get the same object, as long as it is in place. Raise
        ConfigError if the directory cannot be used, and CannotJoin if the region cannot be joined now.
        """
        ends, pause, process = time.monotonic() + patience, FIRST_PAUSE, _mine()
        call_after_fork(_mine)
        if not process.lock(patience):
            raise CannotJoin("another thread of this process joins or leaves a region, and does not go on")
        try:
            while True:
                try:
                    base, name = open_place(group, directory)
                    return _join(process, base, name, capacity, ends, [] if joined is None else joined)
                except OSError as error:
                    raise_if_from_handler(error)
                    if not isinstance(error, _Again | FileNotFoundError | FileExistsError) or time.monotonic() >= ends:
                        raise CannotJoin(f"the memory of the group {group!r} cannot be had: {error}") from error
                    rest(pause)
                    pause *= 2
        finally:
            process.unlock()

    @classmethod
    def private(cls, capacity: int) -> Region:
        """Make a region for one cache of this process alone: no files, and no locks but those between threads."""
        least = geometry(capacity)
        board = BoardMemory(anonymous(board_file.size_for(board_file.marks_for(capacity))))
        fences = fences_for(None, 0)
        board.begin(secrets.token_bytes(16), capacity, capacity, [], fences)
        region = cls(None, board, anonymous(least.total_size), fences, capacity)
        region._take_seat(0)
        region._users = 1
        return region

    def _take_seat(self, number: int) -> None:
        """Take a seat. Call it under the lock of joining."""
        self.numbers = Numbers(self._board.new_writer())
        self.seat = Seat(number, os.getpid(), secrets.randbits(63) + 1)
        self._board.take_seat(number, self.seat.pid, self.seat.nonce, time.time_ns())
        self._board.change_version(self.numbers.next())

    # --- Being there

    def lives(self) -> bool:
        """Tell whether the region has not ended, as far as its memory says. On x86 it makes no system call.

        Ask this **after** the stamps of what is loaded were read, and after a write: see
        `colocache.runtime.board_file`.
        """
        self.fences.order()
        return self.state[0] == board_file.LIVES

    @property
    def wanted(self) -> int:
        """The capacity that the maker of the region wanted. The shelf has less if there was no room."""
        return self._board.wanted

    def is_in_place(self) -> bool:
        """Tell whether newcomers find this region: it has not ended, and its board is where it was.

        If not, `leave` and `join` anew. Until this process has left, no newcomer can join. This takes one system call.
        """
        return self.lives() and (self._files is None or self._files.board_is_in_place())

    def is_whole(self) -> bool:
        """Tell whether all descriptors are still there: somebody may close all that a process has.

        If not, this process excludes nobody, and does not show that it lives: `leave` and `join` anew. This also keeps
        the files young, so that cleaners of temp directories leave them alone. It takes some system calls for each
        file, so do not call it often.
        """
        return not self._left and (self._files is None or self._files.tend())

    @property
    def seats_version(self) -> int:
        """A number that changes when a process joins or leaves, though not when one is killed."""
        return self._board.version

    def seats(self) -> list[Seat]:
        """Return the seats of the other processes that live."""
        files = self._files
        found: list[Seat] = []
        if files is None or self._left:
            return found
        for number in range(self._board.used_seats):
            _, nonce = self._board.seat(number)
            if number == self.seat.number or not nonce:
                continue
            try:
                pid = files.locks.holder(_SEATS + number)
            except OSError as error:
                raise_if_from_handler(error)
                continue
            if pid is not None:
                found.append(Seat(number, pid, nonce))
        return found

    def _grow(self, start: int, end: int) -> bool:
        """Give the shelf's file its blocks from one byte to another; return False if there is no room."""
        if self._files is None:
            return True
        try:
            allocate(self._files.held["shelf"].number, start, end)
        except (OSError, IndexError, KeyError) as error:
            raise_if_from_handler(error)
            return False
        return True

    # --- Going

    def release(self) -> None:
        """One user less. When the last one has gone, the process leaves the region."""
        process = _mine()
        if process.lock(PATIENCE):
            try:
                self._users -= 1
                if self._users <= 0:
                    _leave(process, self)
            finally:
                process.unlock()

    def leave(self) -> None:
        """Leave the region, for all caches of this process. The last process deletes the files. Callable twice.

        What was mapped stays mapped as long as somebody refers to it. If another thread joins or leaves and does not go
        on, nothing is done: then only the end of the process gives everything back.
        """
        process = _mine()
        if process.lock(PATIENCE):
            try:
                _leave(process, self)
            finally:
                process.unlock()

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what it inherited, and leave the parent alone. Callable twice."""
        self._leave_memory()
        if self._files is not None:
            self._files.close()

    def _leave_memory(self) -> None:
        self._left = True
        self.state = _NO_STATE


class _Files:
    """The files of a region that this process has opened, and what it has locked there."""

    def __init__(self, process: _Process, base: str, name: str) -> None:
        """Open what is needed to join; take no lock."""
        self._process = process
        self.path = f"{base}/{name}"
        self.held: dict[str, Held] = {}
        self._maps: list[mmap.mmap] = []
        self._lives: list[Life] = []
        process.files.append(self)
        try:
            self.held["."] = Held(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            self.held["locks"] = Held(open_ours(self.file("locks")))
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
        """Return the path of a file."""
        return f"{self.path}/{name}"

    def open(self, name: str) -> Held:
        """Open a file that is there. Raise _Again if it is not."""
        try:
            self.held[name] = held = Held(_open_there(self.file(name)))
        except FileNotFoundError:
            raise _Again from None
        return held

    def create(self, name: str) -> Held:
        """Create a file."""
        self.held[name] = held = Held(open_new(self.file(name)))
        return held

    def map(self, name: str, size: int) -> mmap.mmap:
        """Map the first bytes of a file."""
        mapping = map_file(self.held[name].number, size)
        self._maps.append(mapping)
        return mapping

    def inodes(self) -> list[int]:
        """Return the inodes of all files."""
        return [self.held[name].identity[1] for name in _FILES]

    def is_at_its_path(self, name: str) -> bool:
        """Tell whether an open file is what its path names."""
        try:
            return identity(os.lstat(self.file(name))) == self.held[name].identity
        except FileNotFoundError:
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
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError as error:
            raise_if_from_handler(error)
            return False

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

    def delete_all(self) -> None:
        """Delete all files of the directory but the one whose lock this process has. Call it under that lock."""
        for name in ("board", "shelf", *_CLAIMS):
            if name in self.held:
                self.held.pop(name).close()
        for name in sorted(os.listdir(self.path)):  # the board comes first
            if name != "locks":
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                    os.unlink(self.file(name))

    def close(self) -> None:
        """Close everything, which gives up all locks of bytes. Callable twice."""
        if sys.version_info < (3, 13) and not all(held.is_ours() for held in self.held.values()):
            _abandoned.extend(self._maps)
        self._maps.clear()
        for held in self.held.values():
            held.close()
        self.held.clear()
        while self._lives:
            self._lives.pop().close()
        with contextlib.suppress(ValueError):
            self._process.files.remove(self)


#: What must stay mapped for ever. Until Python 3.13, a map has a descriptor of its own. If somebody has closed all
#: descriptors of the process, that number is somebody else's now, and a map that goes would close it.
_abandoned: list[mmap.mmap] = []


def _open_there(path: str) -> int:
    if not os.path.lexists(path):  # open_ours would create it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return open_ours(path)


# --- Joining


def _join(
    process: _Process, base: str, name: str, capacity: int, ends: float, joined: list[Region]
) -> Region:  # fmt: skip
    place = identity(os.stat(f"{base}/{name}"))
    for region in process.regions_at(place, f"{base}/{name}"):
        if region.is_in_place() and region.is_whole():
            region._users += 1
            joined.append(region)
            return region
        _leave(process, region)
    files = _Files(process, base, name)
    try:
        if not files.locks.take_soon(_JOIN, ends - time.monotonic()):
            raise CannotJoin(
                f"process {files.locks.holder(_JOIN)} has begun to join the group in {files.path}, or to leave it, and"
                " does not go on: continue it, or end it"
            )
        if not files.is_at_its_path("locks"):
            raise _Again
        _reached("locked")
        region = _join_alone(files, capacity)
        files.locks.free(_JOIN)
        _reached("joined")
    except BaseException:
        files.life.let_go()
        files.close()
        raise
    process.regions[identity(os.fstat(files.held["."].number))] = region
    region._users = 1
    joined.append(region)
    return region


def _join_alone(files: _Files, capacity: int) -> Region:
    files.life.hold()
    _reached("alive")
    others = files.life.others()
    fences = fences_for(files.locks, _FENCES)
    head = None
    with contextlib.suppress(_Again):
        head = Head(files.open("board").number)
    if head is not None and _is_theirs(files, head):
        if others and head.lives:
            _check_layout(files, head)
            _check_clock(head)
            region = _attach(files, head, fences)
            if region is not None:
                return region
        if head.can_be_ended:
            board_file.end_file(files.held["board"].number, head, fences)
            others = False
    if others:
        raise CannotJoin(
            f"other processes of this group use files that were deleted from {files.path}, or replaced: nobody can join"
            " before they have noticed. A process that is stopped does not notice: continue it, or end it"
        )
    return _make(files, capacity, fences)


def _is_theirs(files: _Files, head: Head) -> bool:
    """Tell whether a board is what processes have mapped that use it, and not a copy."""
    return head.is_a_board and head.inodes(1) == [files.held["board"].identity[1]]


def _check_layout(files: _Files, head: Head) -> None:
    if head.layout != board_file.LAYOUT:
        raise CannotJoin(
            f"the processes of this group in {files.path} run another version of colocache, whose memory has layout"
            f" {head.layout}, and this one's has layout {board_file.LAYOUT}: end them first, or use another group"
        )


def _check_clock(head: Head) -> None:
    ours = board_file.clock()
    if head.clock and ours and head.clock != ours:
        raise CannotJoin(
            "this process is in another time namespace than the others of its group, and so has another clock: run it"
            " with them, or in another group"
        )


def _attach(files: _Files, head: Head, fences: Fences) -> Region | None:
    """Join a living region. Return None if it lacks something: then it has to be ended."""
    try:
        for name in ("shelf", *_CLAIMS):
            files.open(name)
    except (_Again, ConfigError):
        return None
    shelf_size = os.fstat(files.held["shelf"].number).st_size
    if head.inodes(len(_FILES)) != files.inodes() or not head.is_whole or shelf_size != head.shelf_size:
        return None
    if head.next_writer > board_file.LAST_WRITER:
        return None
    board = BoardMemory(files.map("board", head.size))
    return _sit_down(files, board, fences, head.capacity)


def _sit_down(files: _Files, board: BoardMemory, fences: Fences, capacity: int) -> Region:
    shelf = files.map("shelf", geometry(capacity).total_size)
    region = Region(files, board, shelf, fences, capacity)
    for number in range(board_file.SEATS):
        if files.locks.take(_SEATS + number):
            _reached("seated")
            region._take_seat(number)
            files.remember_board()
            return region
    raise CannotJoin(f"all {board_file.SEATS} seats of the group in {files.path} are taken")


def _make(files: _Files, wanted: int, fences: Fences) -> Region:
    """Make a new region, in place of all that is in the directory."""
    files.delete_all()
    _reached("cleaned")
    capacity = _capacity(files.path, wanted)
    while True:
        try:
            return _create(files, capacity, wanted, fences)
        except OSError as error:
            files.delete_all()
            if error.errno not in _FULL:
                raise
            capacity //= 4  # the file system has less room for this user than it says
            if capacity < LEAST_CAPACITY:
                raise _no_room(files.path) from error


def _create(files: _Files, capacity: int, wanted: int, fences: Fences) -> Region:
    sizes = geometry(capacity)
    for name in _CLAIMS:
        files.create(name)
    _reached("claims made")
    shelf = files.create("shelf").number
    os.ftruncate(shelf, sizes.total_size)
    allocate(shelf, 0, sizes.data_offset)
    _reached("shelf made")
    board = files.create("board").number
    size = board_file.size_for(board_file.marks_for(capacity))
    allocate(board, 0, size)
    _reached("board made")
    memory = BoardMemory(files.map("board", size))
    memory.begin(secrets.token_bytes(16), capacity, wanted, files.inodes(), fences)
    _reached("begun")
    return _sit_down(files, memory, fences, capacity)


def _capacity(path: str, wanted: int) -> int:
    """Return the largest capacity, up to the wanted one, for which there is room. Raise CannotJoin if there is none."""
    free, longest = room(path), largest_file()

    def fits(capacity: int) -> bool:
        sizes, board = geometry(capacity), board_file.size_for(board_file.marks_for(capacity))
        return sizes.total_size + board <= free and sizes.total_size <= longest and board <= longest

    if fits(wanted):
        return wanted
    low, high = 0, -(-wanted // _MIB)  # MiB: fits, if it is above 0; does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * _MIB) else (low, middle)
    if low * _MIB < LEAST_CAPACITY:
        raise _no_room(path)
    return low * _MIB


def _no_room(path: str) -> CannotJoin:
    return CannotJoin(
        f"there is no room in {path} for the memory that the processes of a group share: free some space there, give"
        " the container more (--shm-size), or set COLOCACHE_DIR to another place"
    )


# --- Leaving


def _leave(process: _Process, region: Region) -> None:
    files = region._files
    if region._left:
        return
    region._leave_memory()
    region.rings.close()
    for place in [place for place, each in process.regions.items() if each is region]:
        del process.regions[place]
    if files is not None:
        try:
            with contextlib.suppress(OSError):
                _leave_files(files, region)
        finally:
            files.life.let_go()
            files.close()


def _leave_files(files: _Files, region: Region) -> None:
    if files.board_is_gone() and not files.board_is_cut():
        # Newcomers cannot end it. Others who use it have to let go, too; and a child that forked past Python's hooks
        # may use it, which has no life of its own.
        region._board.end(region.fences)
        return
    if not files.board_is_in_place() or not files.are_ours():
        return
    in_order = files.locks.take_soon(_JOIN, LEAVING_PATIENCE) and files.is_at_its_path("locks")
    region._board.leave_seat(region.seat.number)
    region._board.change_version(region.numbers.next())
    files.locks.free(_SEATS + region.seat.number)
    files.life.let_go()
    _reached("let go")
    if in_order and not files.life.others():
        region._board.end(region.fences)
        files.delete_all()
        _reached("deleted")
        os.unlink(files.file("locks"))
        os.rmdir(files.path)


# --- This process


class _Process:
    """What this process has joined, and opened."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.regions: dict[tuple[int, int], Region] = {}  # by the device and inode of their directories
        self.files: list[_Files] = []  # more than the regions': another thread may join one when the process forks
        self._holds = Holds()

    def lock(self, patience: float) -> bool:
        """Take the lock of what is here. Call `unlock` in the same function.

        Return False if another thread has it for too long, or this one, where a signal handler has interrupted it.
        """
        return self._holds.take_soon(0, hold_of_caller(), patience)

    def unlock(self) -> None:
        """Give the lock back."""
        self._holds.give_back(0)

    def regions_at(self, place: tuple[int, int], path: str) -> list[Region]:
        """Return the regions in a directory, or of one that was there and is deleted."""
        return [region for key, region in self.regions.items() if key == place or region.path == path]

    def forget(self) -> None:
        """In a forked child, let go of what it inherited."""
        with contextlib.suppress(KeyError):  # one by one: if anything is raised in between, the next call goes on
            while True:
                self.regions.popitem()[1].forget_after_fork()
        with contextlib.suppress(IndexError):
            while True:
                self.files.pop().close()


_process = _Process()


def _mine() -> _Process:
    """Return what this process has joined. In a child, first drop what it inherited."""
    global _process
    if _process.pid != os.getpid():
        _process.forget()
        _process = _Process()
    return _process


def _after_fork() -> None:
    global _process
    _process.forget()
    _process = _Process()


# A fork that goes past Python (uWSGI) is noticed by comparing the pids. That alone is not enough: a grandchild can get
# the pid of its dead grandparent.
os.register_at_fork(after_in_child=_after_fork)
