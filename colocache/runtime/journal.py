"""A member's stream in a mapped file: its last number and its newest events, readable after its process was killed.

The kernel keeps what a process stored in a shared mapping, however the process ends, so a host-mate that has the
file mapped can answer for the dead. (Not so when the whole host goes down: nobody is left to ask then, either.)

The file, layout 1, in the host's byte order:

====== ================================================================================================
offset meaning
====== ================================================================================================
0      head, written once: magic 8s, layout u32, unused u32, ring size u64, incarnation 16s
64     last, u64: the number of the newest event, 0 before the first
72     ends, two u64: where in the stream the newest event ends, in ``ends[last % 2]``
128    ring: byte p of the stream is at 128 + p % ring size
====== ================================================================================================

A record is the frame, its number u64, its length u32, and the CRC-32 of these three, u32: its measures come last
because it is read backwards, from the newest event's end.

Appending event n stores, in this order, (1) the record, (2) ``ends[n % 2]``, (3) ``last = n``. Killed after (1) or
(2) the writer leaves last = n - 1 and its end, which (2) did not touch. What (1) overwrote of the oldest records, and
a record caught half-written, shows by number and checksum, and is never given out.

The file is under a POSIX record lock for as long as its member lives, which is how others know that it does. The
kernel gives the lock back when the process ends, in whatever way. (A ``flock`` would live on in every child that the
process forked.) But closing ANY descriptor of a file gives up all record locks that the process has on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
import sys
import zlib
from collections.abc import Callable

from ..errors import ConfigError
from . import logs

_MAGIC = b"colocach"
_LAYOUT = 1
_HEAD = struct.Struct("=8sI4xQ16s")
_LAST, _ENDS = 8, 9  # as indices of 8-byte words; in a cache line apart from the head's
_RING = 128
_LARGEST = 1 << 24  # bytes of a file that is read; ours are of 1 MiB. Empty events take six times their place in it
_MOST = (1 << 63) - 1  # events of one stream: a greater number could not be told to others

_MEASURES = struct.Struct("=QI")
_CHECKSUM = struct.Struct("=I")
_OVERHEAD = _MEASURES.size + _CHECKSUM.size


class Journal:
    """The writing end: one member's own stream. Appended to by one thread; read by any."""

    def __init__(self, mapping: mmap.mmap, incarnation: bytes) -> None:
        """Begins a stream in ``mapping``, which is all zeros and longer than 128 bytes."""
        self._map = mapping
        self._size = len(mapping) - _RING
        mapping[: _HEAD.size] = _head(self._size, incarnation)
        # struct.pack_into clears its target before it fills it: watched from another process, one read in five of a
        # number that never changed came out wrong. Storing into a word of a memoryview is one aligned 8-byte store.
        self._words = _words(mapping)
        self._last = self._end = 0

    @classmethod
    def create(cls, descriptor: int, path: str, incarnation: bytes, log_bytes: int, log: logs.Log) -> Journal:
        """Locks the new file open at ``descriptor`` and begins a stream in it, with ``log_bytes`` for its events.

        Where there is no room for it the journal lives in this process's memory only and the file stays empty, which
        a reader takes for an unreadable log; ``log`` gets a warning that names ``path``.
        """
        size = _RING + log_bytes
        try:
            _allocate(descriptor, size)
            mapping = mmap.mmap(descriptor, size)
        except OSError as error:
            os.ftruncate(descriptor, 0)
            log.warning(
                "no room for the %d bytes of %s (%s): the cache works without it, but if this process is killed, every"
                " other one drops what it has cached; free some space there, or set COLOCACHE_DIR to another place",
                size, path, error,
            )  # fmt: skip
            mapping = mmap.mmap(-1, size)
        # Not earlier: a mapping that fails has closed its own duplicate of the descriptor, and the lock with it.
        lock(descriptor)
        return cls(mapping, incarnation)

    @property
    def last(self) -> int:
        """The number of the newest event; 0 before the first."""
        return self._last

    def append(self, number: int, frame: bytes) -> None:
        """Stores event ``number``, which is the last one plus 1; once this returns, no kill can undo it.

        ValueError if the number is another, or if the frame and its 16 bytes of measures exceed the log.
        """
        if number != self._last + 1:
            raise ValueError(f"event {number} does not follow event {self._last}")
        record = frame + _MEASURES.pack(number, len(frame))
        record += _CHECKSUM.pack(zlib.crc32(record))
        if len(record) > self._size:
            raise ValueError(f"event {number} of {len(frame)} bytes exceeds the log of {self._size} bytes")
        self._put(record)
        self._end += len(record)
        self._words[_ENDS + number % 2] = self._end
        self._words[_LAST] = self._last = number

    def _put(self, record: bytes) -> None:
        start = _RING + self._end % self._size
        room = _RING + self._size - start
        if len(record) <= room:
            self._map[start : start + len(record)] = record
        else:
            self._map[start:] = record[:room]
            self._map[_RING : _RING + len(record) - room] = record[room:]

    def log(self, incarnation: bytes) -> Log:
        """The reading end for this very process, which may outlive the journal."""
        return Log(self._map, incarnation)

    def close(self) -> None:
        """Nothing more can be appended; the mapping goes once no ``log()`` of it is left."""
        self._words.release()
        _close(self._map)


class Log:
    """The reading end: another member's stream, alive or dead. One thread at a time."""

    def __init__(self, mapping: mmap.mmap | None, incarnation: bytes) -> None:
        self._map = mapping
        self._size = 0 if mapping is None else len(mapping) - _RING
        self._head = b"" if mapping is None else _head(self._size, incarnation)
        self._words = memoryview(b"").cast("Q") if mapping is None else _words(mapping)

    @classmethod
    def of(cls, descriptor: int, incarnation: bytes) -> Log:
        """The stream in the file open at ``descriptor``, unreadable if that is no journal by its size, or not mappable.

        The mapping keeps a duplicate of the descriptor until ``close()``: never use this on a file that this very
        process has locked.
        """
        size = os.fstat(descriptor).st_size
        if not _RING < size <= _LARGEST:
            return cls(None, incarnation)
        try:
            return cls(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), incarnation)
        except (OSError, ValueError):  # the latter if it shrank in between
            return cls(None, incarnation)

    def last(self) -> int | None:
        """The newest event's number, 0 before the first; None if this is no journal of that member in this layout."""
        if self._map is None or _is_cut(self._map) or self._map[: _HEAD.size] != self._head:
            return None
        number = int(self._words[_LAST])
        return number if number <= _MOST else None

    def events(self, first: int) -> list[tuple[int, bytes]] | None:
        """The events from ``first`` (at least 1) to the last, in order; empty if ``first`` lies beyond it.

        None if the log no longer reaches back, is damaged, or was overwritten by a living member while being read.
        """
        last = self.last()
        if last is None:
            return None
        end = int(self._words[_ENDS + last % 2])
        oldest = max(end - self._size, 0)
        events: list[tuple[int, bytes]] = []
        for number in range(last, first - 1, -1):
            frame = self._frame(number, end, oldest)
            if frame is None:
                return None
            events.append((number, frame))
            end -= len(frame) + _OVERHEAD
        return events[::-1]

    def _frame(self, number: int, end: int, oldest: int) -> bytes | None:
        """The frame of record ``number``, whose last byte is byte ``end - 1`` of the stream, if it is there and whole.

        ``oldest`` is the first byte of the stream that nothing has been written over.
        """
        _, length = _MEASURES.unpack(self._bytes(end - _OVERHEAD, _MEASURES.size))
        start = end - _OVERHEAD - length
        if start < oldest:
            return None
        record = self._bytes(start, length + _OVERHEAD)
        body, checksum = record[: -_CHECKSUM.size], record[-_CHECKSUM.size :]
        intact = _CHECKSUM.pack(zlib.crc32(body)) == checksum and body[length:] == _MEASURES.pack(number, length)
        return body[:length] if intact else None

    def _bytes(self, start: int, length: int) -> bytes:
        assert self._map is not None
        at = _RING + start % self._size
        piece = self._map[at : at + length]
        return piece if len(piece) == length else piece + self._map[_RING : _RING + length - len(piece)]

    def close(self) -> None:
        """Gives the mapping back; the log is unreadable afterwards. May be called twice."""
        self._words.release()
        if self._map is not None:
            _close(self._map)
            self._map = None


def _head(ring: int, incarnation: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, _LAYOUT, ring, incarnation)


def _words(mapping: mmap.mmap) -> memoryview:
    return memoryview(mapping)[:_RING].cast("Q")


def _is_cut(mapping: mmap.mmap) -> bool:
    """Whether the file has become shorter than its mapping: the kernel kills (SIGBUS) who looks behind its end."""
    with contextlib.suppress(OSError):  # there is no file
        return mapping.size() < len(mapping)
    return False


def _close(mapping: mmap.mmap) -> None:
    # BufferError: a reading end in this process still looks into it; the last reference closes it then.
    with contextlib.suppress(BufferError):
        mapping.close()


def _allocate(descriptor: int, size: int) -> None:
    """Gives the file all of its blocks, so that a full disk is an OSError here and not a SIGBUS at some later store."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # how file systems without it answer under musl
                raise
    zeros = memoryview(bytes(size))
    while zeros:
        zeros = zeros[os.write(descriptor, zeros) :]


# Record locks. A struct flock is packed as the C compiler lays it out; a question has it ask for the whole file.

if sys.platform == "linux":
    _FLOCK = struct.Struct("hhqqi4x")
    _TYPE, _PID = 0, 4
    _QUESTION = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
else:  # macOS and the BSDs
    _FLOCK = struct.Struct("qqihh")
    _TYPE, _PID = 3, 2
    _QUESTION = _FLOCK.pack(0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)


def lock(descriptor: int) -> bool:
    """Locks the file; False if another process has it. Granted again to a process that has it already."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def holder(descriptor: int) -> int | None:
    """The pid of the other process that has the file locked; None if there is none. Takes nothing.

    0 if that process is in another pid namespace.
    """
    answer = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _QUESTION))
    return None if answer[_TYPE] == fcntl.F_UNLCK else int(answer[_PID])


# Files and directories that are ours alone.


_CAREFULLY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last, lest a named pipe keep us waiting
_NOT_A_FILE = (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO)
_NOT_FOR_US = (*_NOT_A_FILE, errno.ENOTDIR, errno.EACCES, errno.EPERM)
_BAD_PLACE = (*_NOT_FOR_US, errno.ENOENT, errno.EROFS, errno.ENAMETOOLONG)


def make_private(path: str) -> None:
    """Creates the directory if need be; ConfigError if that is not possible, or if others can get in."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        wrong = _what_is_wrong(os.lstat(path), stat.S_ISDIR, "directory")
    except OSError as error:
        if error.errno not in _BAD_PLACE:
            raise
        wrong = f"cannot be used: {error.strerror}"
    if wrong:
        raise ConfigError(_advice(path, wrong))


def why_not_private(path: str) -> str:
    """Why `make_private` would refuse the directory; empty if it would not. Creates nothing."""
    try:
        wrong = _what_is_wrong(os.lstat(path), stat.S_ISDIR, "directory")
    except FileNotFoundError:
        parent = os.path.dirname(path)
        may_create = os.path.isdir(parent) and os.access(parent, os.W_OK | os.X_OK)
        wrong = "" if may_create else f"is not there, and cannot be created in {parent}"
    except OSError as error:
        wrong = f"cannot be used: {error.strerror}"
    return _advice(path, wrong) if wrong else ""


def _advice(path: str, wrong: str) -> str:
    return (
        f"the runtime directory {path} {wrong}. Correct that, or set COLOCACHE_DIR to another path: a directory of"
        " this user's with mode 0700, or one that is to be created where this user may write"
    )


def open_new(path: str) -> int:
    """A descriptor of the file that this creates."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CAREFULLY, 0o600)


def open_ours(path: str) -> int:
    """A descriptor of the file, created if need be; ConfigError if something else is there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _CAREFULLY, 0o600)
    except OSError as error:
        if error.errno not in _NOT_A_FILE:
            raise
        raise ConfigError(f"{path} is not a plain file: remove it") from error
    wrong = _what_is_wrong(os.fstat(descriptor), stat.S_ISREG, "plain file")
    if wrong:
        os.close(descriptor)
        raise ConfigError(f"{path} {wrong}: remove it")
    return descriptor


def open_theirs(path: str) -> int:
    """A descriptor to look at a file of another process; FileNotFoundError if there is none, or none of ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _CAREFULLY)
    except OSError as error:
        if error.errno not in _NOT_FOR_US:
            raise
        raise FileNotFoundError(errno.ENOENT, "there is no file of ours", path) from error
    if _what_is_wrong(os.fstat(descriptor), stat.S_ISREG, "plain file"):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "there is no file of ours", path)
    return descriptor


def _what_is_wrong(found: os.stat_result, is_kind: Callable[[int], bool], kind: str) -> str:
    """Why what was found is not a ``kind`` that only this user can touch, to follow its name; empty if it is one."""
    if not is_kind(found.st_mode):
        return f"is {'a symbolic link' if stat.S_ISLNK(found.st_mode) else 'something else'}, not a {kind}"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to {os.geteuid()}, who runs this process"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"has mode {stat.S_IMODE(found.st_mode):04o}, which lets other users in"
    return ""
