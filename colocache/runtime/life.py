"""Who lives: a lock that each process of a group holds for as long as it uses the group's region.

The files of a region may be deleted under living processes: by a cleaner, by systemd when a user logs out. A newcomer
that made new ones while others still use the old ones would invalidate what they never hear of. So their lives must not
show in those files. They show

* on the base directory, under the name of the group's directory,
* on the directory above it, under both names. It is not this package's, and hardly ever deleted.

A name is a byte, by its hash. Two containers that share a base directory under different paths have the first in
common.

On Linux this is a read lock of an open file (`F_OFD_SETLK`), which works on directories. It has other rules than record
locks have: it is not lost when another descriptor of the file is closed, and a forked child has it in common with its
parent. So a child that forked past Python's hooks, and may still serve what it inherited, counts as its parent does.
Where there are no such locks, it is a record lock on a file beside the group's directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from functools import partial
from hashlib import blake2b

from ..interruptions import pass_over, raise_if_from_handler
from .files import Held, flock, open_ours, owner_in

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NOT_HERE = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class Life:
    """This process's life in one group on one host, and whether others live. For one thread at a time."""

    def __init__(self, base: str, name: str) -> None:
        """``base`` is the real path of the base directory, which exists, and ``name`` that of the group's directory.

        Nothing is held yet. Raise OSError or ConfigError if neither directories nor files can be locked here.
        """
        self._marks: list[_Mark] = []
        try:
            self._marks = _on_directories(base, name) or [
                _Mark(Held.opened(partial(open_ours, f"{base}/{name}~life")), 0, False)
            ]
        except BaseException:
            self.close()
            raise

    def hold(self) -> None:
        """Live, for others to see."""
        for mark in self._marks:
            mark.set(fcntl.F_RDLCK)

    def others(self) -> bool:
        """Tell whether any other process lives."""
        return any(mark.is_anybodys() for mark in self._marks)

    def is_held(self) -> bool:
        """Tell whether the descriptors are still open: somebody may close all that a process has."""
        return all(mark.descriptor.is_ours() for mark in self._marks)

    def files(self) -> list[Held]:
        """Return the descriptors of what belongs to this package alone."""
        return [mark.descriptor for mark in self._marks if not mark.by_open_file]

    def let_go(self) -> None:
        """Stop living: this process, and a child that has the lock in common with it."""
        for mark in self._marks:
            with pass_over(OSError, IndexError):
                mark.set(fcntl.F_UNLCK)

    def close(self) -> None:
        """Close the descriptors. In a forked child this lets the parent live on."""
        for mark in self._marks:
            mark.descriptor.close()


def anybody_lives(base: str, name: str) -> bool:
    """Tell whether any other process lives in a group, as one asks who does not belong to it. Create nothing.

    False where that cannot be told. Raise OSError if the directory cannot be opened.
    """
    if not hasattr(fcntl, "F_OFD_SETLK"):  # to ask would need a file that may have to be made
        return False
    marks = _on_directories(base, name)
    try:
        return any(mark.is_anybodys() for mark in marks)
    finally:
        for mark in marks:
            mark.descriptor.close()


class _Mark:
    """One byte of one file or directory that is locked."""

    def __init__(self, descriptor: Held, byte: int, by_open_file: bool) -> None:
        self.descriptor = descriptor
        self.by_open_file = by_open_file
        self._byte = byte
        linux = sys.platform == "linux"
        self._set = fcntl.F_OFD_SETLK if linux and by_open_file else fcntl.F_SETLK
        self._get = fcntl.F_OFD_GETLK if linux and by_open_file else fcntl.F_GETLK

    def set(self, kind: int) -> None:
        fcntl.fcntl(self.descriptor.number, self._set, flock(kind, self._byte))

    def is_anybodys(self) -> bool:
        answer = fcntl.fcntl(self.descriptor.number, self._get, flock(fcntl.F_WRLCK, self._byte))
        return owner_in(answer) is not None


def _on_directories(base: str, name: str) -> list[_Mark]:
    """Return marks on directories, as many as can be locked: none where there are no locks of open files."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        return []
    above, base_name = os.path.split(base)
    marks = []
    for path, names in ((base, name), (above, f"{base_name}/{name}")):
        try:
            mark = _Mark(Held.opened(partial(os.open, path, _DIRECTORY)), _byte_of(names), True)
        except PermissionError as error:  # the directory above may be entered and not read
            raise_if_from_handler(error)
            continue
        marks.append(mark)
        try:
            mark.set(fcntl.F_UNLCK)  # nothing, unless directories cannot be locked here
            mark.is_anybodys()
        except OSError as error:
            for each in marks:
                each.descriptor.close()
            raise_if_from_handler(error)
            if error.errno not in _NOT_HERE:
                raise
            return []
    return marks


def _byte_of(names: str) -> int:
    return int.from_bytes(blake2b(os.fsencode(names), digest_size=8).digest(), "big") >> 2
