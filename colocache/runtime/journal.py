"""A member's stream in a mapped file: its last number and its newest events, readable after its process was killed.

The kernel keeps what a process stored in a shared mapping, however the process ends. So a host-mate that has the file
mapped can answer for the dead member. If the whole host goes down, nobody is left to ask.

The file has layout 1, in the host's byte order:

====== ================================================================================================
offset meaning
====== ================================================================================================
0      head, written once: magic 8s, layout u32, unused u32, ring size u64, incarnation 16s
64     last, u64: the number of the newest event, 0 before the first
72     ends, two u64: where in the stream the newest event ends, in ``ends[last % 2]``
128    ring: byte p of the stream is at 128 + p % ring size
====== ================================================================================================

A record is the frame, its number u64, its length u32, and the CRC-32 of these three, u32. The measures come last
because records are read backwards, from the end of the newest event.

Appending event n stores

1. the record,
2. ``ends[n % 2]``,
3. ``last = n``.

A writer that is killed after step 1 or 2 leaves last = n - 1 and the end of that event, which step 2 did not touch.
Step 1 overwrites parts of the oldest records. Their numbers and checksums show that, and so does a record that is read
half-written. None of these is given out.

The file is under a POSIX record lock as long as its member lives. That is how others know that it lives. The kernel
gives the lock back when the process ends, in whatever way. (A ``flock`` would live on in every child that the process
forked.) But closing ANY descriptor of a file gives up all record locks that the process has on it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import zlib

from .files import lock
from .logs import Log

_MAGIC = b"colocach"
_LAYOUT = 1
_HEAD = struct.Struct("=8sI4xQ16s")
_LAST, _ENDS = 8, 9  # as indices of 8-byte words; in a cache line apart from the head's
_RING = 128
_LARGEST = 1 << 24  # bytes of a file that is read; ours have 1 MiB. In memory, empty events take six times as much
_MOST = (1 << 63) - 1  # events of one stream: a greater number could not be told to others

_MEASURES = struct.Struct("=QI")
_CHECKSUM = struct.Struct("=I")
_OVERHEAD = _MEASURES.size + _CHECKSUM.size


class Journal:
    """The writing end: one member's own stream. One thread appends, and any thread reads."""

    def __init__(self, mapping: mmap.mmap, incarnation: bytes) -> None:
        """Begin a stream in ``mapping``, which is all zeros and longer than 128 bytes."""
        self._map = mapping
        self._size = len(mapping) - _RING
        mapping[: _HEAD.size] = _head(self._size, incarnation)
        # struct.pack_into clears its target before it fills it. Another process that watched a number which never
        # changed read a wrong one every fifth time. Storing into a word of a memoryview is one aligned 8-byte store.
        self._words = _words(mapping)
        self._last = self._end = 0

    @classmethod
    def create(cls, descriptor: int, path: str, incarnation: bytes, ring_bytes: int, log: Log) -> Journal:
        """Lock the new file open at ``descriptor``, and begin a stream in it, with ``ring_bytes`` for its events.

        If there is no room for it, the journal is in this process's memory only, and the file stays empty. A reader
        takes an empty file for an unreadable journal. ``log`` gets a warning that names ``path``.
        """
        size = _RING + ring_bytes
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
        # Not earlier: a mapping that fails has closed its own duplicate of the descriptor, and so given up the lock.
        lock(descriptor)
        return cls(mapping, incarnation)

    @property
    def last(self) -> int:
        """The number of the newest event, or 0 before the first."""
        return self._last

    def append(self, number: int, frame: bytes) -> None:
        """Store event ``number``, which is the last one plus 1. Once this returns, no kill can undo it.

        Raise ValueError if the number is another, or if the frame and its 16 bytes of measures exceed the ring.
        """
        if number != self._last + 1:
            raise ValueError(f"event {number} does not follow event {self._last}")
        record = frame + _MEASURES.pack(number, len(frame))
        record += _CHECKSUM.pack(zlib.crc32(record))
        if len(record) > self._size:
            raise ValueError(f"event {number} of {len(frame)} bytes exceeds the journal of {self._size} bytes")
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

    def reader(self, incarnation: bytes) -> JournalReader:
        """Return the reading end for this very process. It may outlive the journal."""
        return JournalReader(self._map, incarnation)

    def close(self) -> None:
        """End the writing. The mapping goes once no `reader` of it is left."""
        self._words.release()
        _close(self._map)


class JournalReader:
    """The reading end: another member's stream, whether the member lives or is dead. For one thread at a time."""

    def __init__(self, mapping: mmap.mmap | None, incarnation: bytes) -> None:
        self._map = mapping
        self._size = 0 if mapping is None else len(mapping) - _RING
        self._head = b"" if mapping is None else _head(self._size, incarnation)
        self._words = memoryview(b"").cast("Q") if mapping is None else _words(mapping)

    @classmethod
    def of(cls, descriptor: int, incarnation: bytes) -> JournalReader:
        """Return a reader of the file open at ``descriptor``. It reads nothing if the file has an impossible size.

        The mapping keeps a duplicate of the descriptor until `close`. Never use this on a file that this very process
        has locked.
        """
        size = os.fstat(descriptor).st_size
        if not _RING < size <= _LARGEST:
            return cls(None, incarnation)
        try:
            return cls(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), incarnation)
        except (OSError, ValueError):  # the latter if it shrank in between
            return cls(None, incarnation)

    def last(self) -> int | None:
        """Return the newest event's number, 0 before the first; None if this is not that member's, in this layout."""
        if self._map is None or _is_cut(self._map) or self._map[: _HEAD.size] != self._head:
            return None
        number = int(self._words[_LAST])
        return number if number <= _MOST else None

    def events(self, first: int) -> list[tuple[int, bytes]] | None:
        """Return the events from ``first`` (at least 1) to the last, in order; empty if ``first`` lies beyond it.

        Return None if the journal no longer reaches back, is damaged, or was overwritten by a living member meanwhile.
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
        """Return the frame of record ``number``, which ends before byte ``end`` of the stream; None if it is not whole.

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
        """Give the mapping back. Nothing can be read afterwards. Callable twice."""
        self._words.release()
        if self._map is not None:
            _close(self._map)
            self._map = None


def _head(ring: int, incarnation: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, _LAYOUT, ring, incarnation)


def _words(mapping: mmap.mmap) -> memoryview:
    return memoryview(mapping)[:_RING].cast("Q")


def _is_cut(mapping: mmap.mmap) -> bool:
    """Tell whether the file is shorter than its mapping. Reading past its end kills the process (SIGBUS)."""
    with contextlib.suppress(OSError):  # the mapping has no file
        return mapping.size() < len(mapping)
    return False


def _close(mapping: mmap.mmap) -> None:
    # BufferError: a reading end in this process still looks into it. Then the last reference closes it.
    with contextlib.suppress(BufferError):
        mapping.close()


def _allocate(descriptor: int, size: int) -> None:
    """Give the file all of its blocks, so that a full disk is an OSError here, and not a SIGBUS at some later store."""
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
