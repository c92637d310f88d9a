"""The file ``hosts`` of a region, as one process uses it, and the file ``ended``: who was this host before.

``hosts`` is there only where the group has several hosts. What lies in it says `colocache.core.hosts.layout`. It is a
sparse file: its head and the first lane have their blocks from the beginning, and the rest get them when they are used.

**Ends.** To other hosts a region is a member of the group, by its id. When its files are found and nobody lives who
uses them, it has ended for certain, after the last number of each lane of its log. Other hosts need not wait for it any
more, if they are told so. Therefore whoever makes the next region notes that in ``ended`` before he deletes anything,
and so does whoever leaves last. ``ended`` survives both, in a directory with nothing else. If a cleaner of temp
directories deletes it, the members that it named are only silent: other hosts wait until they may forget them.

Only files of the present boot of this machine count. Of a disk that was copied, the other copy may be in use. And after
a power failure the last number in the file may be one that is too low.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import Iterable
from hashlib import blake2b
from struct import Struct
from typing import Final

from ..core.hosts import layout
from ..core.hosts.layout import LANES
from ..core.hosts.log import HostLog
from ..errors import ConfigError
from .board_file import LAYOUT, Head, boot
from .fences import Fences
from .files import Held, allocate, lengthen, open_new, open_ours
from .record_locks import lane_locks
from .region_files import FILES, HOSTS, Files
from .signals import raise_if_from_handler

SIZE: Final = layout.WORD * layout.WORDS
ENDED: Final = "ended"
MOST_ENDED: Final = 64  # members whose end is remembered, the newest

#: A member that has ended: its region's id, and the last number of each lane that had any; None if that is not known.
Ended = tuple[bytes, dict[int, int] | None]

_MEMBER = Struct(f"<16s?{LANES}Q")
_SUM = 16  # bytes: a checksum of all that is before it


class HostsFile:
    """The file ``hosts`` of a region. Any thread may call all methods."""

    words: memoryview
    """All words of the file. What has no blocks yet must not be touched."""
    log: HostLog
    """The host's own events."""

    def __init__(self, mapping: mmap.mmap, file: Held, own: Held, path: str, fences: Fences) -> None:
        """``own`` is another descriptor of the same file, which is at ``path``."""
        self.words = memoryview(mapping).cast("Q")
        self.lanes = lane_locks(own)
        self.log = HostLog(self.words, self.lanes, fences, self.grow_lane)
        self._file = file
        self._path = path

    @property
    def is_client(self) -> bool:
        """Whether this host owns nothing."""
        return bool(self.words[layout.CLIENT])

    def grow_lane(self, lane: int) -> bool:
        """Give a lane its blocks; return False if there is no room."""
        return self._grow(*layout.lane_part(lane))

    def grow_row(self, row: int) -> bool:
        """Give a row its blocks; return False if there is no room."""
        return self._grow(*layout.row_part(row))

    def open_again(self) -> Held:
        """Open the file another time, for locks. Raise OSError if it is not there any more, or was replaced."""
        if not os.path.lexists(self._path):  # `open_ours` would create it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path)
        file = Held(open_ours(self._path))
        if file.identity != self._file.identity:
            file.close()
            raise OSError(f"{self._path} was replaced")
        return file

    def _grow(self, start: int, end: int) -> bool:
        try:
            allocate(self._file.number, start, end)
        except (OSError, IndexError) as error:
            raise_if_from_handler(error)
            return False
        return True


def create(files: Files, is_client: bool) -> None:
    """Create the file, of a client host, or of a member. Raise OSError if there is no room."""
    file = files.create(HOSTS).number
    lengthen(file, SIZE)
    allocate(file, 0, layout.lane_part(0)[1])
    os.pwrite(file, int(is_client).to_bytes(layout.WORD, sys.byteorder), layout.WORD * layout.CLIENT)


def is_of_a_client(files: Files) -> bool:
    """Tell whether the file, which is open, is that of a client host."""
    return any(os.pread(files.held[HOSTS].number, layout.WORD, layout.WORD * layout.CLIENT))


def attach(files: Files, fences: Fences) -> HostsFile:
    """Map the file, which is open. Raise `Again` if it was replaced meanwhile."""
    own = files.open_again(HOSTS)
    return HostsFile(files.map(HOSTS, SIZE), files.held[HOSTS], own, files.file(HOSTS), fences)


# --- Ends


def ended_before(path: str) -> list[Ended]:
    """Return what is noted in the directory of a group, the oldest first; nothing where it is damaged."""
    try:
        descriptor = open_ours(f"{path}/{ENDED}") if os.path.lexists(f"{path}/{ENDED}") else -1
    except (OSError, ConfigError) as error:
        raise_if_from_handler(error)
        return []
    if descriptor < 0:
        return []
    try:
        raw = os.read(descriptor, MOST_ENDED * _MEMBER.size + _SUM)
    except OSError as error:
        raise_if_from_handler(error)
        return []
    finally:
        os.close(descriptor)
    body, found = raw[:-_SUM], raw[-_SUM:]
    if found != _checksum(body) or len(body) % _MEMBER.size:
        return []
    return [(id, _lasts(lasts) if is_known else None) for id, is_known, *lasts in _MEMBER.iter_unpack(body)]


def note_ended(path: str, ended: Iterable[Ended]) -> list[Ended]:
    """Note which members have ended, the oldest first, in place of what is noted; return it, as far as it is kept.

    Where there is no room, what was noted stays.
    """
    kept = list({id: (id, lasts) for id, lasts in ended}.values())[-MOST_ENDED:]
    body = b"".join(
        [
            _MEMBER.pack(id, lasts is not None, *[(lasts or {}).get(lane, 0) for lane in range(LANES)])
            for id, lasts in kept
        ]
    )
    new = f"{path}/{ENDED}.new"
    try:
        if os.path.lexists(new):
            os.unlink(new)
        descriptor = open_new(new)
        try:
            os.write(descriptor, body + _checksum(body))
        finally:
            os.close(descriptor)
        os.replace(new, f"{path}/{ENDED}")
    except OSError as error:
        raise_if_from_handler(error)
    return kept


def end_of(files: Files, head: Head) -> list[Ended]:
    """Return the end of the member whose board has been found; nothing if it was none, or if that is not certain.

    To be called only if nobody lives who uses it.
    """
    if head.layout != LAYOUT or not head.was_begun or not head.hosts or not head.boot or head.boot != boot():
        return []
    return [(head.id, _last_numbers(files, head))]


def _last_numbers(files: Files, head: Head) -> dict[int, int] | None:
    try:
        file = files.open(HOSTS)
        if file.identity[1] != head.inodes(len(FILES) + 1)[-1] or os.fstat(file.number).st_size != SIZE:
            return None
        words = memoryview(os.pread(file.number, layout.WORD * layout.HEAD_WORDS, 0)).cast("Q")
        return _lasts([words[layout.lane_last(lane)] for lane in range(LANES)])
    except (OSError, ConfigError) as error:
        raise_if_from_handler(error)
        return None


def _lasts(numbers: list[int]) -> dict[int, int]:
    return {lane: last for lane, last in enumerate(numbers) if last}


def _checksum(body: bytes) -> bytes:
    return blake2b(body, digest_size=_SUM).digest()
