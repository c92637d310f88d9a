"""The file of a board: its head, the bell, the seats, the hints of claims, and the marks.

Layout 3, in words of 8 bytes in the host's byte order. The first eight words mean the same in every layout, so that a
process of any version can end a region.

======= ================================================================================================================
word    meaning
======= ================================================================================================================
0       magic
1       layout
2       state: 0 while it is made, then `LIVES`, then `ENDED`
3       the next writer's number: raised by each process that joins
4, 5    the words where the bell and the root's mark are
6, 7    the region's id, random
8       bytes of capacity of the shelf
9       marks, without the root's
10      a number that changes when a process joins or leaves
11      seats that were ever taken
12      bytes of capacity that were asked for: where there is no room, the shelf has less
13      the inode of the time namespace, where that is known: in another one, `time.monotonic` is another clock
14      1 if there is a file ``hosts``, because the group has several hosts
15      a hash of the id of the machine's boot; 0 where that is not known
16 …    inodes of the region's files
512     the bell, alone in its page
1024    seats, four words each: pid, nonce, time of joining in ns, and role: 0 for a peer, 1 for a server
…       hints, eight words each
…       the root's mark, and in the next page the first of the others
======= ================================================================================================================

**The end.** A process that ends a region stores `ENDED`, and then invalidates everything and rings the bell. So a
process that maps the region, and does not know of the end yet, finds its near copies dead. It must not keep what it
reads from then on:

1. P misses k, reads the stamps, and loads.
2. N ends the region and makes a new one, in which Q invalidates k.
3. P keeps what it has loaded. Its stamps are older than the end, so it is dead.

But if P reads the stamps after the end, they stand for good. So P looks at the state after it has read the stamps.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

from ..core.host.claims import HINT_WORDS, HINTS
from ..core.host.layout import geometry
from ..core.host.numbers import MAX_WRITER, number
from ..interruptions import raise_if_from_handler
from .fences import Fences

LAYOUT = 3
LIVES, ENDED = 1, 2
SEATS = 4096  # a few hundred processes on one host are many
SEAT_WORDS = 4
ROLES = ("peer", "server", "client")  # what processes are to the group, each by its place here
LAST_WRITER = MAX_WRITER - 1  # the very last number is for whoever ends the region

_MAGIC = int.from_bytes(b"colocabd", sys.byteorder)
_PAGE = 512  # words
_LAYOUT, _STATE, _NEXT_WRITER, _BELL, _ROOT, _ID = 1, 2, 3, 4, 5, 6
_CAPACITY, _COUNT, _VERSION, _USED, _WANTED, _CLOCK, _HOSTS, _BOOT = 8, 9, 10, 11, 12, 13, 14, 15
_INODES = 16
_BELL_AT = _PAGE
_SEATS_AT = 2 * _PAGE
_HINTS_AT = _SEATS_AT + SEATS * SEAT_WORDS
_ROOT_AT = _HINTS_AT + HINTS * HINT_WORDS + _PAGE - 1

HEAD_BYTES = 4096
LEAST_MARKS = 1 << 15
BYTES_PER_MARK = 64  # of the shelf's capacity


def marks_for(capacity: int) -> int:
    """Return how many marks a shelf of that capacity gets: a power of two."""
    return max(LEAST_MARKS, 1 << (capacity // BYTES_PER_MARK).bit_length() - 1)


def size_for(marks: int) -> int:
    """Return the bytes of a board with so many marks."""
    return 8 * (_ROOT_AT + 1 + marks)


@dataclass(frozen=True, slots=True)
class Seat:
    """A process's place on its host. ``pid`` is 0 if the process is in another pid namespace."""

    number: int
    pid: int
    nonce: int  # random; a later process with this seat has another one
    role: str = "peer"  # one of `ROLES`
    version: str = ""  # of colocache


class Head:
    """What the head of a board's file says. It is read from the file, so that nothing has to be mapped to look."""

    def __init__(self, descriptor: int) -> None:
        """Read it. What is cut off reads as zeros."""
        self._words = memoryview(os.pread(descriptor, HEAD_BYTES, 0).ljust(HEAD_BYTES, b"\0")).cast("Q")
        self.size = os.fstat(descriptor).st_size

    @property
    def is_a_board(self) -> bool:
        """Whether this is a board of any layout."""
        return self._words[0] == _MAGIC

    @property
    def layout(self) -> int:
        """The layout."""
        return self._words[_LAYOUT]

    @property
    def lives(self) -> bool:
        """Whether the region was completed, and not ended."""
        return self._words[_STATE] == LIVES

    @property
    def was_begun(self) -> bool:
        """Whether the region was completed."""
        return self._words[_STATE] in (LIVES, ENDED)

    @property
    def id(self) -> bytes:
        """The region's id."""
        return bytes(self._words[_ID : _ID + 2])

    @property
    def hosts(self) -> bool:
        """Whether there is a file ``hosts``."""
        return self._words[_HOSTS] == 1

    @property
    def boot(self) -> int:
        """At which boot of which machine the region was made; 0 if that is not known."""
        return self._words[_BOOT]

    @property
    def can_be_ended(self) -> bool:
        """Whether the bell and the root's mark are inside the file."""
        return self.is_a_board and 0 < self.bell < self.size // 8 and 0 < self.root < self.size // 8

    @property
    def bell(self) -> int:
        """The word where the bell is."""
        return self._words[_BELL]

    @property
    def root(self) -> int:
        """The word where the root's mark is."""
        return self._words[_ROOT]

    @property
    def clock(self) -> int:
        """Which clock all times are of; 0 if that is not known."""
        return self._words[_CLOCK]

    @property
    def capacity(self) -> int:
        """The bytes of capacity of the shelf."""
        return self._words[_CAPACITY]

    @property
    def wanted(self) -> int:
        """The capacity that whoever made the region has asked for."""
        return self._words[_WANTED]

    @property
    def shelf_size(self) -> int:
        """The bytes of the shelf's file; 0 if no shelf has such a capacity."""
        try:
            return geometry(self.capacity).total_size
        except ValueError as error:
            raise_if_from_handler(error)
            return 0

    @property
    def is_whole(self) -> bool:
        """Whether the file is as long as its marks require, in this layout."""
        return self.size == size_for(self._words[_COUNT])

    @property
    def next_writer(self) -> int:
        """The number of the next writer."""
        return self._words[_NEXT_WRITER]

    def inodes(self, number: int) -> list[int]:
        """Return the inodes of the first files."""
        return list(self._words[_INODES : _INODES + number])


class BoardMemory:
    """A board's memory, mapped or anonymous, as one process uses it."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self.words = words = memoryview(mapping).cast("Q")
        self.count = (len(words) - _ROOT_AT - 1) if len(words) > _ROOT_AT else 0
        self.state = words[_STATE : _STATE + 1]
        self.bell = words[_BELL_AT : _BELL_AT + 1]
        self.heard = self.bell.cast("B").cast("d")
        self.hints = words[_HINTS_AT : _HINTS_AT + HINTS * HINT_WORDS]
        self.marks = words[_ROOT_AT:]

    def begin(
        self, id: bytes, capacity: int, wanted: int, inodes: list[int], fences: Fences, *, hosts: bool = False
    ) -> None:
        """Write the head into memory that holds only zeros. The region lives from then on."""
        words = self.words
        words[_LAYOUT], words[_NEXT_WRITER], words[_BELL], words[_ROOT] = LAYOUT, 1, _BELL_AT, _ROOT_AT
        words[_CAPACITY], words[_COUNT], words[_WANTED], words[_CLOCK] = capacity, self.count, wanted, clock()
        words[_HOSTS], words[_BOOT] = hosts, boot()
        words[_ID : _ID + 2] = memoryview(id).cast("Q")
        for place, inode in enumerate(inodes, _INODES):
            words[place] = inode
        words[0] = _MAGIC
        fences.full()
        words[_STATE] = LIVES

    @property
    def id(self) -> bytes:
        """The region's id."""
        return bytes(self.words[_ID : _ID + 2])

    @property
    def wanted(self) -> int:
        """The capacity that whoever made the region has asked for."""
        return self.words[_WANTED]

    def new_writer(self) -> int:
        """Return the number of a new writer. Call it under the lock of joining."""
        number = self.words[_NEXT_WRITER]
        self.words[_NEXT_WRITER] = number + 1
        return number

    # --- Seats

    @property
    def version(self) -> int:
        """A number that changes when a process joins or leaves."""
        return self.words[_VERSION]

    def change_version(self, number: int) -> None:
        """Tell the others that somebody has joined or left, by a number that was never used."""
        self.words[_VERSION] = number

    @property
    def used_seats(self) -> int:
        """How many seats were ever taken. Those beyond are free."""
        return min(self.words[_USED], SEATS)

    def seat(self, number: int) -> tuple[int, int]:
        """Return the pid, in the process's own namespace, and the nonce of who has a seat; zeros if nobody has."""
        at = _SEATS_AT + number * SEAT_WORDS
        return self.words[at], self.words[at + 1]

    def role(self, number: int) -> str:
        """Return one of `ROLES`: what a seat's process is. One that this version does not know counts as a peer."""
        place = self.words[_SEATS_AT + number * SEAT_WORDS + 3] & 0xFF
        return ROLES[place if place < len(ROLES) else 0]

    def release(self, number: int) -> str:
        """Return the version of colocache of a seat's process."""
        word = self.words[_SEATS_AT + number * SEAT_WORDS + 3] >> 8
        return ".".join(str(word >> shift & 0xFFFF) for shift in (0, 16, 32))

    def take_seat(self, number: int, pid: int, nonce: int, now: int, role: str = "peer", release: str = "") -> None:
        """Say who has a seat, in which role, and of which version. For whoever has the lock of joining."""
        at = _SEATS_AT + number * SEAT_WORDS
        numbers = [int(each) & 0xFFFF for each in release.split(".")[:3] if each.isdecimal()]
        self.words[at + 3] = ROLES.index(role) | sum(each << 8 + 16 * place for place, each in enumerate(numbers))
        self.words[at], self.words[at + 1], self.words[at + 2] = pid, nonce, now
        self.words[_USED] = max(self.words[_USED], number + 1)

    def seats_ever(self, living: Mapping[int, Seat]) -> list[tuple[Seat, bool]]:
        """Return who has each seat that was ever taken, or had it last, and whether it is one of those that live."""
        return [
            (living[number], True) if number in living else (self._last(number), False)
            for number in range(self.used_seats)
        ]

    def _last(self, number: int) -> Seat:
        pid, nonce = self.seat(number)
        return Seat(number, pid, nonce, self.role(number), self.release(number) if nonce else "")

    def leave_seat(self, number: int) -> None:
        """Note that nobody has a seat. Call it in the process that has it."""
        at = _SEATS_AT + number * SEAT_WORDS
        self.words[at] = self.words[at + 1] = self.words[at + 2] = self.words[at + 3] = 0

    def end(self, fences: Fences) -> None:
        """End the region."""
        end(self.words, _BELL_AT, _ROOT_AT, fences)


def end(words: memoryview, bell: int, root: int, fences: Fences) -> None:
    """End a region: each process that still uses it finds out at its next hit.

    The two numbers are nobody's: no process gets the last writer's number. If a region is ended twice, nothing is
    served that was read after the first end.
    """
    words[_STATE] = ENDED
    fences.order()
    words[root] = number(MAX_WRITER, 1)
    fences.order()
    words[bell] = number(MAX_WRITER, 2)
    fences.full()


def end_file(descriptor: int, head: Head, fences: Fences) -> None:
    """End a region of any layout, in its file, which `Head.can_be_ended`."""
    mapping = map_file(descriptor, head.size // 8 * 8, 0)
    with memoryview(mapping) as whole, whole.cast("Q") as words:
        end(words, head.bell, head.root, fences)
    mapping.close()


#: Maps a file. From Python 3.13 on it keeps no descriptor of its own: otherwise, after somebody has closed
#: all descriptors of the process, the map would later close a file of somebody else's that has got the number.
map_file: Callable[[int, int, int], mmap.mmap]

if sys.version_info >= (3, 13):

    def map_file(descriptor: int, size: int, start: int) -> mmap.mmap:
        return mmap.mmap(descriptor, size, offset=start, trackfd=False)

else:

    def map_file(descriptor: int, size: int, start: int) -> mmap.mmap:
        return mmap.mmap(descriptor, size, offset=start)


def _own_map() -> Callable[[int, int], int | None] | None:
    """Return what puts empty memory in place of some bytes, given their address and how many; None without ctypes."""
    try:
        import ctypes

        function = ctypes.PyDLL(None).mmap
    except (ImportError, OSError, AttributeError) as error:  # a Python without ctypes, or one that is linked statically
        raise_if_from_handler(error)
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED | _NO_RESERVE
    return lambda address, size: cast("int | None", function(address, size, access, kind, -1, 0))


_MAP_FIXED = 0x10  # on Linux, macOS and the BSDs
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0)
_put_empty_memory = _own_map()


def detach(mapping: mmap.mmap) -> bool:
    """Put memory of this process's own, all zeros, where a file is mapped. Return False where that cannot be done."""
    if _put_empty_memory is None:
        return False
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    return _put_empty_memory(address, len(mapping)) == address


def clock() -> int:
    """Return the inode of the time namespace of this process, or 0."""
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except OSError as error:
        raise_if_from_handler(error)
        return 0


def boot() -> int:
    """Return what tells this boot of this machine from all others, or 0."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return int.from_bytes(blake2b(file.read(), digest_size=8).digest(), "big")
    except OSError as error:
        raise_if_from_handler(error)
        return 0


def anonymous(size: int) -> mmap.mmap:
    """Return memory of this process alone. A forked child has a copy."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    return mmap.mmap(-1, size, flags=flags)
