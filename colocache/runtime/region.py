"""The region: the files that the processes of a group map on one host. It lives until the last of them leaves.

====================== ================================================================================================
file                   meaning
====================== ================================================================================================
``locks``              locks of single bytes: of joining and leaving, of rings, of seats
``board``              the board, the seats, and what the processes must agree on (`colocache.runtime.board_file`)
``shelf``              the shelf; it is as long as it can become, and gets its blocks as it grows
``claims.0`` … ``.15`` empty; their bytes are the claims
``scores``             what each process has counted (`colocache.runtime.scores_file`)
``hosts``              only in a group of several hosts: what this host knows of others, and its own events
``ended``              the same: who was this host before (`colocache.runtime.hosts_file`)
====================== ================================================================================================

**Joining** and leaving happen one after another, under the lock of a byte. Whoever joins first shows that it lives
(`colocache.runtime.life`), and then looks who else does, and what files there are:

========================== ==================== =======================================================================
others live                files                then
========================== ==================== =======================================================================
no                         any                  end what is there, delete it, and make a new region
yes                        of a living region   join it, if the layout is the same, and if it has ``hosts`` where that
                                                is wanted
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
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from ..core.host.layout import Geometry, ShelfMemory, geometry
from ..core.host.memory import Heard
from ..core.host.numbers import Numbers
from ..core.host.scores import Writer
from ..errors import CannotJoin, ConfigError
from ..interruptions import pass_over, raise_if_from_handler
from ..version import __version__
from . import board_file, hosts_file, scores_file
from .board_file import BoardMemory, Head, Seat, anonymous
from .fences import Fences, fences_for
from .files import allocate, close_inherited, identity, largest_file, lengthen
from .forks import do_all
from .holds import FIRST_PAUSE, Holds, hold_of_caller, rest
from .hosts_file import Ended, HostsFile
from .places import open_place, room
from .record_locks import ClaimLocks, RecordLocks, RingLocks
from .region_files import CLAIMS, HOSTS, SCORES, Again, Files
from .scores_file import Scores
from .servers import call_after_fork

PATIENCE = 2.0  # s: how long a process waits for others that join or leave
LEAVING_PATIENCE = 0.5  # s: the same for one that leaves; whoever comes next cleans up

LEAST_CAPACITY = 1 << 20
_MIB = 1 << 20

# Bytes of the file `locks`.
JOIN: Final = 0
_RINGS = 1 << 16
SEATS_AT: Final = 1 << 32
_FENCES = 1 << 33
_LEAVING = 1 << 34  # and the seat of a process that is about to leave

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _reached(step: str) -> None:
    """Do nothing. Tests have a process killed here."""


#: What `Region.lives` looks at once the process has left.
_NO_STATE = memoryview(bytes(8)).cast("Q")


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
    scores: Writer
    """This process's block of the scoreboard."""
    rings: RingLocks
    claims: ClaimLocks
    fences: Fences
    hosts: HostsFile | None
    """What this host knows of others; None where the group has one host."""
    ended: list[Ended]
    """Which members this host was before that have ended for certain, the oldest first: see `hosts_file`."""

    def __init__(
        self, files: Files | None, board: BoardMemory, shelf: mmap.mmap, fences: Fences, capacity: int,
        hosts: HostsFile | None = None, ended: Sequence[Ended] = (),
    ) -> None:  # fmt: skip
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
        self.hosts, self.ended = hosts, list(ended)
        self.has_ended = False  # because this process was the last one that has left
        self.path = ""
        self.locks: RecordLocks | None = None
        claims = []
        if files is not None:
            self.locks, claims = files.locks, [RecordLocks(files.held[name]) for name in CLAIMS]
            self.path = files.path
        self.rings = RingLocks(self.locks, _RINGS, self.geometry.rings)
        self.claims = ClaimLocks(claims)

    # --- Coming

    @classmethod
    def join(
        cls, group: str, directory: str | None, capacity: int, *, hosts: bool = False, role: str = "peer",
        patience: float = PATIENCE, joined: list[Region] | None = None,
    ) -> Region:  # fmt: skip
        """Join the group's region on this host, or make it. Call `release` when a cache no longer uses it.

        ``directory`` is the setting: an absolute path, or None for the default. ``capacity`` are the bytes that the
        shelf may have; if the file system has less room, it gets less. The process that makes the region chooses it for
        all, and ``wanted`` tells what that process wanted.

        ``hosts`` says that the group has several hosts. Whoever makes the region chooses this, too, and who wants
        something else cannot join.

        An exception of a signal handler may come out of this call instead of its result. So the region is appended to
        ``joined``, too, if that is given: a caller that catches an exception gives back what is there.

        ``role`` is one of `board_file.ROLES`. It is what the others see of this process.

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
                    wish = _Wish(capacity, hosts, role)
                    return _join(process, base, name, wish, ends, [] if joined is None else joined)
                except OSError as error:
                    raise_if_from_handler(error)
                    if not isinstance(error, Again | FileNotFoundError | FileExistsError) or time.monotonic() >= ends:
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
        region._take_seat(0, "peer")
        region._users = 1
        return region

    def _take_seat(self, number: int, role: str) -> None:
        """Sit down. For whoever has the lock of joining."""
        self.numbers = Numbers(self._board.new_writer())
        self.seat = Seat(number, os.getpid(), secrets.randbits(63) + 1, role, __version__)
        self._board.take_seat(number, self.seat.pid, self.seat.nonce, time.time_ns(), role, __version__)
        self.scores = scores_file.sit_down(self._files, number, self.seat.nonce, self.fences)
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
                pid = files.locks.holder(SEATS_AT + number)
            except OSError as error:
                raise_if_from_handler(error)
                continue
            if pid is not None:
                found.append(Seat(number, pid, nonce, self._board.role(number), self._board.release(number)))
        return found

    def all_scores(self) -> Scores:
        """Return the blocks of all processes, to be read and closed. Raise OSError if they cannot be mapped.

        Where there was no room for this process's block, it is shown to this process alone.
        """
        files, mine = self._files, cast(memoryview, self.scores.words)
        if files is None or self._left:
            return Scores({self.seat.number: mine}, self.fences)
        file = files.held.get(SCORES)
        return Scores.mapped(-1 if file is None else file.number_if_open, self.fences, {self.seat.number: mine})

    def seats_ever(self) -> list[tuple[Seat, bool]]:
        """Return who has each seat that was ever taken, or had it last, and whether that process lives.

        Where the last one has left in order, nothing but the number is known of it.
        """
        if self._files is None or self._left:
            return [(self.seat, not self._left)]
        living = {seat.number: seat for seat in (self.seat, *self.seats())}
        return self._board.seats_ever(living)

    def is_last(self) -> bool:
        """Begin to leave, and return whether all others have left, or have begun to.

        Of two that leave at the same time, one or both are told that: each says so first, and then looks.
        """
        files = self._files
        if files is None or self._left:
            return False
        try:
            files.locks.take(_LEAVING + self.seat.number)
            return all(files.locks.holder(_LEAVING + seat.number) is not None for seat in self.seats())
        except OSError as error:
            raise_if_from_handler(error)
            return False

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

        In a group of several hosts there stays a directory with the file ``ended``, in which the last one notes that
        the member has ended. Whoever deletes that does no harm.

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
        """In a forked child, let go of what it inherited, and leave the parent alone. Callable twice.

        Nothing stands by the empty memory: a label with the stamp 0 would, of things that nobody had stamped.
        """
        self._leave_memory()
        if self._files is not None and self._files.forget_after_fork():
            self.bell[0] = self.marks[0] = _NEVER

    def _leave_memory(self) -> None:
        self._left = True
        self.state = _NO_STATE


#: What no bell and no mark ever is.
_NEVER: Final = (1 << 64) - 1

# --- Joining


class _Wish(NamedTuple):
    """What a process that joins wants; whoever makes the region chooses the first two."""

    capacity: int
    hosts: bool
    role: str


def _join(process: _Process, base: str, name: str, wish: _Wish, ends: float, joined: list[Region]) -> Region:
    place = identity(os.stat(f"{base}/{name}"))
    for region in process.regions_at(place, f"{base}/{name}"):
        if region.is_in_place() and region.is_whole():
            _check_hosts(region.path, region.hosts is not None, wish.hosts)
            if region.hosts is not None:
                _check_role(region.path, region.hosts.is_client, wish)
            region._users += 1
            joined.append(region)
            return region
        _leave(process, region)
    files = Files(process.files, base, name)
    try:
        if not files.locks.take_soon(JOIN, ends - time.monotonic()):
            raise CannotJoin(
                f"process {files.locks.holder(JOIN)} has begun to join the group in {files.path}, or to leave it, and"
                " does not go on: continue it, or end it"
            )
        if not files.is_at_its_path("locks"):
            raise Again
        _reached("locked")
        region = _join_alone(files, wish)
        files.locks.free(JOIN)
        _reached("joined")
        if process.pid != os.getpid():
            raise OSError(errno.EBADF, "the process has forked meanwhile")
    except BaseException:
        if not files.is_closed:
            files.life.let_go()
        files.close()
        raise
    process.regions[identity(os.fstat(files.held["."].number))] = region
    region._users = 1
    joined.append(region)
    return region


def _join_alone(files: Files, wish: _Wish) -> Region:
    files.life.hold()
    _reached("alive")
    others = files.life.others()
    ended = hosts_file.ended_before(files.path)
    fences = fences_for(files.locks, _FENCES)
    head = None
    with contextlib.suppress(Again):
        head = Head(files.open("board").number)
    if head is not None and _is_theirs(files, head):
        if others and head.lives:
            _check_layout(files, head)
            _check_clock(head)
            _check_hosts(files.path, head.hosts, wish.hosts)
            region = _attach(files, head, fences, ended, wish)
            if region is not None:
                return region
        if head.can_be_ended:
            board_file.end_file(files.held["board"].number, head, fences)
        if wish.hosts and not others:
            ended += hosts_file.end_of(files, head)
        others = others and not head.can_be_ended
    if others:
        raise CannotJoin(
            f"other processes of this group use files that were deleted from {files.path}, or replaced: nobody can join"
            " before they have noticed. A process that is stopped does not notice: continue it, or end it"
        )
    return _make(files, wish, fences, hosts_file.note_ended(files.path, ended) if wish.hosts else None)


def _is_theirs(files: Files, head: Head) -> bool:
    """Tell whether a board is what processes have mapped that use it, and not a copy."""
    return head.is_a_board and head.inodes(1) == [files.held["board"].identity[1]]


def _check_layout(files: Files, head: Head) -> None:
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


def _check_hosts(path: str, there: bool, wanted: bool) -> None:
    if there and not wanted:
        raise CannotJoin(
            f"the processes of this group in {path} were started for several hosts, and this one for one: all processes"
            " of the group on this host need the same settings (COLOCACHE_LISTEN, COLOCACHE_PEERS, the secret)"
        )
    if wanted and not there:
        raise CannotJoin(
            f"the processes of this group in {path} were started for one host, and this one for several: all processes"
            " of the group on this host need the same settings (COLOCACHE_LISTEN, COLOCACHE_PEERS). End the others"
            " first"
        )


def _check_role(path: str, is_client: bool, wish: _Wish) -> None:
    if wish.hosts and is_client != (wish.role == "client"):
        there = "clients" if is_client else "members"
        raise CannotJoin(
            f"the processes of this group in {path} are {there}, and this one has COLOCACHE_ROLE={wish.role}: a "
            "host is a client with all its processes, or with none. Give it another COLOCACHE_DIR, or the same role"
        )


def _attach(files: Files, head: Head, fences: Fences, ended: list[Ended], wish: _Wish) -> Region | None:
    """Join a living region. Return None if it lacks something: then it has to be ended."""
    try:
        for name in ("shelf", *CLAIMS, SCORES, *([HOSTS] if head.hosts else [])):
            files.open(name)
    except (Again, ConfigError):
        return None
    shelf_size = os.fstat(files.held["shelf"].number).st_size
    inodes = files.inodes()
    if head.inodes(len(inodes)) != inodes or not head.is_whole or shelf_size != head.shelf_size:
        return None
    if head.next_writer > board_file.LAST_WRITER:
        return None
    if head.hosts and os.fstat(files.held[HOSTS].number).st_size != hosts_file.SIZE:
        return None
    if head.hosts:
        _check_role(files.path, hosts_file.is_of_a_client(files), wish)
    board = BoardMemory(files.map("board", head.size))
    return _sit_down(files, board, fences, head.capacity, ended, wish.role)


def _sit_down(
    files: Files, board: BoardMemory, fences: Fences, capacity: int, ended: Sequence[Ended], role: str
) -> Region:
    shelf = files.map("shelf", geometry(capacity).total_size)
    hosts = hosts_file.attach(files, fences) if HOSTS in files.held else None
    region = Region(files, board, shelf, fences, capacity, hosts, ended if hosts is not None else ())
    for number in range(board_file.SEATS):
        if files.locks.take(SEATS_AT + number):
            _reached("seated")
            region._take_seat(number, role)
            files.remember_board()
            return region
    raise CannotJoin(f"all {board_file.SEATS} seats of the group in {files.path} are taken")


def _make(files: Files, wish: _Wish, fences: Fences, ended: list[Ended] | None) -> Region:
    """Make a new region, in place of all that is in the directory. ``ended`` is None in a group of one host."""
    kept = () if ended is None else (hosts_file.ENDED,)
    files.delete_all(*kept)
    _reached("cleaned")
    capacity = _capacity(files.path, wish.capacity)
    while True:
        try:
            return _create(files, capacity, wish, fences, ended)
        except OSError as error:
            files.delete_all(*kept)
            raise_if_from_handler(error)
            if error.errno not in _FULL:
                raise
            capacity //= 4  # the file system has less room for this user than it says
            if capacity < LEAST_CAPACITY:
                raise _no_room(files.path) from error


def _create(files: Files, capacity: int, wish: _Wish, fences: Fences, ended: list[Ended] | None) -> Region:
    sizes = geometry(capacity)
    for name in CLAIMS:
        files.create(name)
    files.create(SCORES)
    _reached("claims made")
    shelf = files.create("shelf").number
    lengthen(shelf, sizes.total_size)
    allocate(shelf, 0, sizes.data_offset)
    _reached("shelf made")
    if ended is not None:
        hosts_file.create(files, wish.role == "client")
        _reached("hosts made")
    board = files.create("board").number
    size = board_file.size_for(board_file.marks_for(capacity))
    allocate(board, 0, size)
    _reached("board made")
    memory = BoardMemory(files.map("board", size))
    memory.begin(secrets.token_bytes(16), capacity, wish.capacity, files.inodes(), fences, hosts=ended is not None)
    _reached("begun")
    return _sit_down(files, memory, fences, capacity, ended or (), wish.role)


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
    if region.hosts is not None:
        region.hosts.lanes.close()
    for place in [place for place, each in process.regions.items() if each is region]:
        del process.regions[place]
    if files is not None and not files.is_closed:
        try:
            with pass_over(OSError):
                _leave_files(files, region)
        finally:
            if not files.is_closed:
                files.life.let_go()
            files.close()


def _leave_files(files: Files, region: Region) -> None:
    if files.board_is_gone() and not files.board_is_cut():
        # Newcomers cannot end it. Others who use it have to let go, too; and a child that forked past Python's hooks
        # may use it, which has no life of its own.
        region._board.end(region.fences)
        return
    if not files.board_is_in_place() or not files.are_ours():
        return
    in_order = files.locks.take_soon(JOIN, LEAVING_PATIENCE) and files.is_at_its_path("locks")
    region._board.leave_seat(region.seat.number)
    region._board.change_version(region.numbers.next())
    files.locks.free(SEATS_AT + region.seat.number)
    files.life.let_go()
    _reached("let go")
    if in_order and not files.life.others():
        region._board.end(region.fences)
        if region.hosts is None:
            files.delete_all()
        else:
            hosts_file.note_ended(files.path, [*region.ended, (region.id, region.hosts.log.lasts())])
            _reached("noted")
            files.delete_all(hosts_file.ENDED)
            region.has_ended = True
        _reached("deleted")
        os.unlink(files.file("locks"))
        if region.hosts is None:
            os.rmdir(files.path)


# --- This process


class _Process:
    """What this process has joined, and opened."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.regions: dict[tuple[int, int], Region] = {}  # by the device and inode of their directories
        self.files: list[Files] = []  # more than the regions': another thread may join one when the process forks
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
        files, regions = [*self.files], [*self.regions.values()]
        do_all([*(region.forget_after_fork for region in regions), *(each.forget_after_fork for each in files)])
        close_inherited()  # last: whatever is raised before, the next call goes on


_process = _Process()


def region_of(path: str) -> Region | None:
    """Return the region that this process has joined in a group's directory; None if there is none."""
    return next((region for region in _mine().regions.values() if region.path == path), None)


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
