"""Files and directories that only this user can touch, record locks on them, and file descriptors.

Record locks have three traps:

1. Closing ANY descriptor of a file gives up all locks that the process has on it.
2. A process is never refused a lock that it has.
3. A forked child has the descriptors and not the locks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import struct
import sys
from collections.abc import Callable

from ..errors import ConfigError
from ..interruptions import pass_over, raise_if_from_handler
from .forks import opening

SPARE = 64  # where libzmq can have no descriptor for an epoll, it aborts the whole process
HIGH = 500  # where numbers begin that hardly any process gets to


class Descriptor:
    """A file descriptor that belongs to the holder of this object. It is closed once, however often it is closed.

    Its number is given up before the kernel is told, because the kernel gives it to the next one that opens a file:

    1. the driver's thread closes descriptor 7;
    2. the application opens a file, which gets the number 7;
    3. the process forks;
    4. the child lets go of what it inherited, and closes 7, which is the application's.

    A fork between giving up the number and telling the kernel leaves the descriptor open in the child. That is
    harmless.
    """

    def __init__(self, number: int) -> None:
        self._numbers = [number]
        self.number_if_open = number  # or -1 once it is closed

    @property
    def number(self) -> int:
        """The descriptor itself. Raises IndexError once it is closed."""
        return self._numbers[0]

    def close(self) -> None:
        """Close it, unless it is closed. Raise nothing: where the kernel refuses, there is nothing to repair."""
        self.number_if_open = -1
        with pass_over(IndexError, OSError):
            os.close(self._numbers.pop())


class Held(Descriptor):
    """A descriptor that is held for long, in a process where somebody may close all descriptors: a daemoniser.

    1. This package opens descriptor 7.
    2. The application closes all that are open, and opens a socket, which gets the number 7.
    3. This package closes descriptor 7.

    So it has a high number, because new ones get the lowest that is free; and it is closed only if it still is what it
    was.
    """

    def __init__(self, number: int) -> None:
        """Take over an open descriptor; its number may become another. Do so before anything is locked."""
        super().__init__(_out_of_the_way(number))
        self.identity = identity(os.fstat(self.number))
        _all_held.add(self)

    @classmethod
    def opened(cls, open: Callable[[], int]) -> Held:
        """Open something. A child of this process closes it, even if another thread forks at this moment:

        1. This thread opens a file, and does not know its number yet.
        2. Another thread forks. The child has the descriptor, too, and nobody there knows of it.
        3. This thread locks the open file, and is killed with its process.
        4. Nobody gets the lock as long as the child lives, because the child has the open file.
        """
        with opening.lock:
            return cls(open())

    def is_ours(self) -> bool:
        """Tell whether this is open, and still the same file."""
        try:
            return identity(os.fstat(self.number)) == self.identity
        except (IndexError, OSError) as error:
            raise_if_from_handler(error)
            return False

    def close(self) -> None:
        """Close it, unless it is closed, or somebody else's by now."""
        if self.is_ours():
            super().close()
        self.number_if_open = -1
        self._numbers.clear()
        _all_held.discard(self)


_all_held: set[Held] = set()


def close_inherited() -> None:
    """In a forked child, close what the parent held. Otherwise it would keep locked what its parent has locked."""
    for held in list(_all_held):
        held.close()


def identity(found: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from all others: its device and inode."""
    return found.st_dev, found.st_ino


def _out_of_the_way(number: int) -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    least = HIGH if limit == resource.RLIM_INFINITY else min(HIGH, limit // 2)
    try:
        higher = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, least)
    except OSError as error:  # all of them are in use
        raise_if_from_handler(error)
        return number
    os.close(number)
    return higher


def descriptors_are_scarce() -> bool:
    """Tell whether fewer than `SPARE` more files can be opened. A new one gets the lowest number that is free."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest, next_one = os.pipe()  # a pipe, because in a container there may be no file, not even /dev/null
    except OSError as error:
        raise_if_from_handler(error)
        return True
    os.close(lowest)
    os.close(next_one)
    return limit != resource.RLIM_INFINITY and lowest > limit - SPARE


# --- Record locks

if sys.platform == "linux":
    _FLOCK = struct.Struct("hhqqi4x")
    _TYPE, _PID = 0, 4
else:  # macOS and the BSDs
    _FLOCK = struct.Struct("qqihh")
    _TYPE, _PID = 3, 2


def flock(kind: int, byte: int) -> bytes:
    """Return a struct flock, as the C compiler lays it out, for a lock of one byte.

    ``kind`` is F_RDLCK, F_WRLCK or F_UNLCK. Where it asks for a lock, it is that of a lock that would be refused.
    """
    if sys.platform == "linux":
        return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
    else:
        return _FLOCK.pack(byte, 1, 0, kind, os.SEEK_SET)


def owner_in(answer: bytes) -> int | None:
    """Return whose lock a struct flock names that the kernel has filled in: a pid, or None if nobody has a lock.

    The pid is 0 if that process is in another pid namespace, and -1 if the lock belongs to an open file.
    """
    fields = _FLOCK.unpack(answer)
    return None if fields[_TYPE] == fcntl.F_UNLCK else int(fields[_PID])


# --- Files and directories of this user alone


_CAREFULLY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last one because a named pipe would block
_NOT_A_FILE = (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO)
_NOT_FOR_US = (*_NOT_A_FILE, errno.ENOTDIR, errno.EACCES, errno.EPERM)
_BAD_PLACE = (*_NOT_FOR_US, errno.ENOENT, errno.EROFS, errno.ENAMETOOLONG)


def make_private(path: str) -> None:
    """Create the directory if needed. Raise ConfigError if that is not possible, or if other users can get in.

    Raise FileNotFoundError if somebody deletes it meanwhile.
    """
    try:
        with pass_over(FileExistsError):
            os.mkdir(path, 0o700)
    except OSError as error:
        raise_if_from_handler(error)
        if error.errno not in _BAD_PLACE:
            raise
        raise ConfigError(_advice(path, f"cannot be used: {error.strerror}")) from error
    try:
        wrong = _what_is_wrong(os.lstat(path), stat.S_ISDIR, "directory")
    except OSError as error:
        raise_if_from_handler(error)
        if error.errno not in _NOT_FOR_US:
            raise
        wrong = f"cannot be used: {error.strerror}"
    if wrong:
        raise ConfigError(_advice(path, wrong))


def why_not_private(path: str) -> str:
    """Return why `make_private` would refuse the directory, or an empty text. Create nothing."""
    try:
        wrong = _what_is_wrong(os.lstat(path), stat.S_ISDIR, "directory")
    except FileNotFoundError as error:
        raise_if_from_handler(error)
        parent = os.path.dirname(path)
        may_create = os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)
        wrong = "" if may_create else f"is not there, and cannot be created in {parent}"
    except OSError as error:
        raise_if_from_handler(error)
        wrong = f"cannot be used: {error.strerror}"
    return _advice(path, wrong) if wrong else ""


def _advice(path: str, wrong: str) -> str:
    return (
        f"the runtime directory {path} {wrong}. Correct that, or set COLOCACHE_DIR to another path: a directory of"
        " this user's with mode 0700, or one that is to be created where this user may write"
    )


def open_new(path: str) -> int:
    """Create a file, and return a descriptor of it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600)


def open_ours(path: str) -> int:
    """Return a descriptor of a file, created if needed. Raise ConfigError if something else is there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _CAREFULLY, 0o600)
    except OSError as error:
        raise_if_from_handler(error)
        if error.errno not in _NOT_A_FILE:
            raise
        raise ConfigError(f"{path} is not a plain file: remove it") from error
    wrong = _what_is_wrong(os.fstat(descriptor), stat.S_ISREG, "plain file")
    if wrong:
        os.close(descriptor)
        raise ConfigError(f"{path} {wrong}: remove it")
    return descriptor


def _what_is_wrong(found: os.stat_result, is_kind: Callable[[int], bool], kind: str) -> str:
    """Return what is wrong with something that must be a ``kind`` that only this user can touch, or an empty text.

    The text follows the path in an error.
    """
    if not is_kind(found.st_mode):
        return f"is {'a symbolic link' if stat.S_ISLNK(found.st_mode) else 'something else'}, not a {kind}"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to {os.geteuid()}, who runs this process"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"has mode {stat.S_IMODE(found.st_mode):04o}, which lets other users in"
    return ""


def largest_file() -> int:
    """Return how many bytes a file of this process may have."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def lengthen(descriptor: int, size: int) -> None:
    """Make a file so long, without blocks. Raise OSError if this process may have no file of that length."""
    _refuse_beyond_limit(size)
    os.ftruncate(descriptor, size)


def _refuse_beyond_limit(size: int) -> None:
    """Raise OSError where the system would send SIGXFSZ: Python ignores that, but an application may not."""
    if size > largest_file():
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def allocate(descriptor: int, start: int, end: int) -> None:
    """Give a file its blocks from one byte to another, so that a full disk is an OSError here, and not a SIGBUS later.

    What is there already stays; all else becomes zeros. Nobody stores anything there yet.
    """
    _refuse_beyond_limit(end)
    while start < end:
        start += _allocate_some(descriptor, start, min(end - start, _AT_ONCE))


#: In bytes. A memory file system begins anew when a signal arrives, so many bytes would never be done beside a timer.
_AT_ONCE = 1 << 20


def _allocate_some(descriptor: int, start: int, size: int) -> int:
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(descriptor, start, size)
            return size
        except OSError as error:
            raise_if_from_handler(error)
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # how file systems without it answer under musl
                raise
    return os.pwrite(descriptor, os.pread(descriptor, size, start).ljust(size, b"\0"), start)
