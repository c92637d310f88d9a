"""The shelf: the values that the processes of a host share, as bytes. It belongs to the host, and to no process.

**Readers** take no lock. They copy a record, and believe the copy if it is whole (`record`), of their key, and current:
its label stands, and it has not expired. So it makes no difference which process wrote it, how late, and whether that
process has died. Where the group has several hosts, the lease of this one says from when on a record must have been
loaded to be served, too. It is asked before the label is compared (`colocache.core.hosts.lease`).

**Writers** hold the lock of the key's ring. A key has at most one way, so there is one record of it that can be found.
To store the way is the **commit**. Then the writer stamps the writes to the key, which makes older copies void, and the
loads that are under way; unlocks; and rings the bell. The label of its record stands before the stamps, too, and after
them (`Board.write_label`). So at each moment one of the two records can be found and is current:

1. W stores the way of its record, and is killed. Others find the new value. A process with an older copy may serve
   that. The call never returned, so either is right.
2. X writes the key next. The stamps and the bell of X are for both.

W rings after it has unlocked, so that nobody waits for its fences.

**What is derived takes over the label.** `replace` and `change` give what they store the label of the record that they
made it of, except for the group of writes. An invalidation, at any moment, changes stamps of that label. With stamps
that are read in between:

1. P reads a counter, 7, whose label stands.
2. Q invalidates it, and its call returns.
3. P stores 8 under the new stamps, and it stands: it was made of a value that Q had made void.

So an invalidation needs no lock. `set` is unconditional. It labels its record with stamps that it reads under the lock:
beside an invalidation at the same time, either order is right.

What is derived also takes over when it was loaded. With the time at which it is written, where the group has several
hosts (`colocache.core.hosts.lease`):

1. W, on another host, invalidates a counter, 7. It waits for the lease of P's host, which does not hear of it.
2. P finds that its host is current, for a last moment, and counts: 8. The host is behind.
3. W's call returns. R, on P's host, finds an 8 that was loaded less than a lease ago, and serves it.

**A fill** stores what was loaded, under the label of its miss. Nothing is stamped: no copy is older. It is refused if
there is a current record already that may be served. If an event has made its label void, it is stored all the same,
for those who wait for this load under the same label; for all others it is not there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from xxhash import xxh3_64_intdigest

from .board import GROUP, OFFSET, OFFSET_BITS, PAGE, PAGE_SHIFT, Board, Label
from .hashes import WRITES, key_hash
from .layout import BUCKET, ShelfMemory
from .logs import MAIN, MOST, NO_WAY, POSITION, TAG_SHIFT, UNIT_SHIFT, Garbage, Logs
from .memory import Announcer, Fences, HostLease, RingLocks
from .numbers import Numbers
from .record import (
    BESIDE,
    CHECK,
    COPIED,
    GROUPS_SHIFT,
    HEAD,
    KEY_GROUPS,
    LABEL_AT,
    LENGTH,
    MAX_GROUPS,
    MORE_GROUPS,
    PIECE,
    PREFIX,
    WIRE,
    WIRE_SHIFT,
    Miss,
    Outcome,
    Record,
    Seen,
    checksum,
    groups_of,
    label_of,
    pack,
    unpack,
    wire_of,
)

LOOKS = 8  # how often a reader looks again at most: so many writers would have to come between in a row
ATTEMPTS = 3  # how often a change begins again because what it changes was dropped to make room for it

#: What came of a write, and the record that was stored, or the one that is there instead, if that was looked at.
Stored = tuple[Outcome, Record | None]

#: Given the current record of a key, or None, return the payload and the expiry to store, or None for no change.
Decide = Callable[[Record | None], tuple[bytes, float] | None]

#: Given the key's record, which may be void or expired, and the time: the label of what is written, or None to write
#: nothing.
_Choose = Callable[[Record | None, float], Label | None]

_ALL = -math.inf  # all was loaded after it

_new: Any = tuple.__new__  # of named tuples: their own constructors take longer


class Shelf:
    """The shelf of one host, as one process uses it. Any thread may call all methods.

    ``hash`` is the key's. ``hashes`` are those of what the value depends on beside its key: the root first, then
    namespaces and tags.
    """

    __slots__ = (
        "_announcer", "_board", "_bucket", "_clock", "_data", "_fences", "_index", "_label", "_locks", "_logs",
        "_main_size", "_mains", "_marks", "_most", "_numbers", "_pages", "_ring_shift", "_small_size", "_smalls",
        "_used", "_way_mask", "_words", "capacity", "lease", "max_value", "ways",
    )  # fmt: skip

    def __init__(
        self, memory: ShelfMemory, board: Board, numbers: Numbers, fences: Fences, locks: RingLocks,
        clock: Callable[[], float], lease: HostLease, announcer: Announcer | None = None,
    ) -> None:  # fmt: skip
        """``clock`` is read under the locks, so that a process that was stopped before one uses no old time.

        ``lease`` is that of the host, on the same clock. ``announcer`` tells other hosts of writes, if there are any.
        """
        geometry = memory.geometry
        self._bucket, self._used, self._data, self._words = memory.bucket, memory.used, memory.data, memory.words
        self._board, self._marks, self._pages, self._label = board, board.marks, board.pages, board.label_of
        self._numbers, self._fences, self._locks, self._clock = numbers, fences, locks, clock
        self._logs = Logs(memory, board, fences)
        self._announcer = announcer
        self.lease = lease
        self._way_mask = geometry.ways - 1 & -BUCKET
        self._ring_shift = geometry.ring_ways.bit_length() - 1
        self._small_size, self._main_size = geometry.small_size, geometry.ring_size - geometry.small_size
        self._smalls = [geometry.data_offset + ring * geometry.ring_size for ring in range(geometry.rings)]
        self._mains = [start + self._small_size for start in self._smalls]
        self._most = geometry.max_record
        self._index = memory.index
        self.max_value = geometry.max_value  # how many bytes a payload may have
        self.ways = geometry.ways  # places of the index
        self.capacity = geometry.rings * geometry.ring_size  # bytes of all logs

    @property
    def evicted(self) -> int:
        """How many records this process has dropped to make room."""
        return self._logs.evicted

    @property
    def moved(self) -> int:
        """How many records this process has moved, because they are used."""
        return self._logs.moved

    def entries(self) -> int:
        """Return how many records the host has that can be found, current or not. Each kill may put it one off."""
        return self._logs.entries()

    def taken(self) -> int:
        """Return how many bytes the host's records take, with those that nobody can find any more."""
        return self._logs.taken()

    def resets(self) -> int:
        """Return how often a ring of the host had to be reset, because it was garbage."""
        return self._logs.resets()

    # --- Reading

    def find(self, wire: bytes, hash: int, now: float, after: float | None = None, looks: int = LOOKS) -> Record | None:
        """Return the current record of a key; None if there is none, or it may not be served.

        ``now`` was read before the call. Only what was loaded after the instant ``after`` is returned; None is what
        `lease` says now.

        A key that has a value all the time is found, even while it is written. So a reader looks again if it finds a
        record that is not whole, or that is void and has another way by now:

        1. R loads the way of k, and copies its record.
        2. W writes k. Its record is the current one from now on, and the other one is void.
        3. R compares the stamps of its copy.
        """
        if after is None:
            lease = self.lease
            after = _ALL if now < lease.known else lease.loaded_after(now)
        base = hash & self._way_mask
        tag = hash >> TAG_SHIFT | 1
        words = self._bucket(base << 3)
        for word in words:
            if word >> TAG_SHIFT == tag:
                break
        else:
            return None
        if word & MAIN:
            offset = self._mains[base >> self._ring_shift] + ((word & MAIN - 1) << UNIT_SHIFT) % self._main_size
        else:
            offset = self._smalls[base >> self._ring_shift] + ((word & POSITION) << UNIT_SHIFT) % self._small_size
        at = offset >> 3
        check = self._words[at]
        total = self._words[at + 1] & LENGTH
        if PREFIX <= total <= self._most:
            body = self._data[offset + CHECK : offset + total]
            seed = word & POSITION
            if (xxh3_64_intdigest(body, seed) if total <= PIECE else checksum(body, seed)) == check:
                shape, expires, version, loaded, root, k1, k2, k3, k4, w1, w2, w3, w4 = HEAD.unpack_from(body)
                end = LABEL_AT + GROUP.size * (shape >> GROUPS_SHIFT)
                start = end + (shape >> WIRE_SHIFT & WIRE)
                if body[end:start] != wire:
                    return None
                label = body[LABEL_AT:end]
                # What follows is `Board.stands`, without its loop and call: each label has three groups.
                marks, page, writes = self._marks, (hash >> PAGE_SHIFT & self._pages) * PAGE + 1, hash ^ WRITES
                if (
                    marks[0] != root
                    or (
                        marks[page + (hash & OFFSET)] != k1
                        and marks[page + (hash >> OFFSET_BITS & OFFSET)] != k2
                        and marks[page + (hash >> 2 * OFFSET_BITS & OFFSET)] != k3
                        and marks[page + (hash >> 3 * OFFSET_BITS & OFFSET)] != k4
                    )
                    or (
                        marks[page + (writes & OFFSET)] != w1
                        and marks[page + (writes >> OFFSET_BITS & OFFSET)] != w2
                        and marks[page + (writes >> 2 * OFFSET_BITS & OFFSET)] != w3
                        and marks[page + (writes >> 3 * OFFSET_BITS & OFFSET)] != w4
                    )
                    or (shape >= MORE_GROUPS and not self._board.stands(label[KEY_GROUPS * GROUP.size :]))
                ):
                    return self._find_again(wire, hash, now, after, word, body, looks)
                if expires <= now or loaded <= after:
                    return None
                way = base + words.index(word)
                used = self._used[way]
                if used < MOST:
                    self._used[way] = used + 1
                payload = body[start:] if total - start <= COPIED else memoryview(body)[start:]
                record: Record = _new(Record, (payload, label, expires, loaded, version, way, used))
                return record
        self._fences.order()  # otherwise the bytes could be older than the way once more
        return self.find(wire, hash, now, after, looks - 1) if looks else None

    def _find_again(
        self, wire: bytes, hash: int, now: float, after: float, word: int, body: bytes, looks: int
    ) -> Record | None:
        """Look again for the current record of a key, if what was found was taken for void while it was written."""
        self._fences.order()  # otherwise the way could be older than the stamps, or one stamp older than another
        if looks and (word not in self._bucket((hash & self._way_mask) << 3) or self._board.stands(label_of(body))):
            return self.find(wire, hash, now, after, looks - 1)
        return None

    def look(
        self, wire: bytes, hash: int, hashes: Sequence[int], now: float, after: float | None = None
    ) -> Record | Miss:
        """Return the current record of a key, or a miss, whose label is that of what is loaded from now on.

        ``now`` and ``after`` are as for `find`.
        """
        record = self.find(wire, hash, now, after)
        if record is not None:
            return record
        label = self._label(hash, hashes)
        self._fences.order()  # otherwise a record could be overlooked that the label knows of
        return self.find(wire, hash, now, after) or Miss(label, now)

    def find_labelled(self, wire: bytes, hash: int, label: Label, now: float, after: float) -> Record | None:
        """Return the current record of a key, or one that was current when the caller read this label.

        The caller read the label after it had begun. What is stored under it was read from the source later than any
        event that the caller has to see, if it was loaded after the instant ``after``.
        """
        record = self._peek(wire, hash)
        if record is None or record.expires <= now or record.loaded <= after:
            return None
        return record if record.label == label or self._board.stands(record.label) else None

    def held(self, wire: bytes, hash: int, now: float) -> Record | None:
        """Return what `find` does, and do not count that it was found."""
        after = self.lease.loaded_after(now)
        record = self._peek(wire, hash)
        return record if record is not None and record.loaded > after and self._is_current(record, now) else None

    def walk(self, first: int, count: int, hot: bool, now: float) -> list[tuple[bytes, Record]]:
        """Return the wire keys and records of so many ways from ``first`` on, those that are current and may be served.

        ``hot`` says whether those are wanted that were found before, or the others.
        """
        found: list[tuple[bytes, Record]] = []
        after = self.lease.loaded_after(now)
        for way in range(first, min(first + count, self.ways)):
            word = self._index[way]
            body = self._copy(way, word) if word and bool(self._used[way]) == hot else None
            if body is not None:
                wire = wire_of(body)
                record = unpack(body, wire, way)
                if record is not None and record.loaded > after and self._is_current(record, now):
                    found.append((wire, record))
        return found

    def see(self, first: int, count: int, now: float) -> list[Seen]:
        """Return what so many ways from ``first`` on point to, for somebody who looks what is there.

        This changes nothing, and does for memory that can only be read.
        """
        ways = range(first, min(first + count, self.ways))
        return [seen for way in ways if (word := self._index[way]) and (seen := self._seen(way, word, now)) is not None]

    def see_key(self, hash: int, now: float) -> Seen | None:
        """Return the same of a key, given its hash; None if it has no record."""
        base, tag = hash & self._way_mask, hash >> TAG_SHIFT | 1
        for way, word in enumerate(self._bucket(base << 3), base):
            seen = self._seen(way, word, now) if word >> TAG_SHIFT == tag else None
            if seen is not None and key_hash(seen.wire) == hash:
                return seen
        return None

    def _seen(self, way: int, word: int, now: float) -> Seen | None:
        body = self._copy(way, word)
        if body is None:
            return None
        wire = wire_of(body)
        record = unpack(body, wire, way)
        assert record is not None
        return Seen(wire, record, CHECK + len(body), min(self._used[way], MOST), self._is_current(record, now))

    def use(self, ways: Iterable[int]) -> None:
        """Count hits on near copies as uses of their records, so that what is used most stays on the shelf.

        A way may have another record by now: then that one stays a little longer.
        """
        used = self._used
        for way in ways:
            used[way] = min(used[way] + 1, MOST)

    def _peek(self, wire: bytes, hash: int) -> Record | None:
        """Return a key's record, current or not; None if it has none, or it is torn."""
        base, tag = hash & self._way_mask, hash >> TAG_SHIFT | 1
        words = self._bucket(base << 3)
        for word in words:
            if word >> TAG_SHIFT == tag:
                way = base + words.index(word)
                body = self._copy(way, word)
                return None if body is None else unpack(body, wire, way)
        return None

    def _copy(self, way: int, word: int) -> bytes | None:
        """Return a copy of the record that a way points to, behind its check; None if it is not whole."""
        offset = self._logs.offset(way, word)
        check, total = self._words[offset >> 3], self._words[(offset >> 3) + 1] & LENGTH
        if PREFIX <= total <= self._most:
            body = self._data[offset + CHECK : offset + total]
            if checksum(body, word & POSITION) == check:
                return body
        return None

    # --- Writing

    def set(self, wire: bytes, hash: int, payload: bytes, hashes: Sequence[int], expires: float) -> Stored:
        """Store a value, whatever is there. If that is not possible, the key is invalidated."""
        stored = self._put(
            wire, hash, payload, len(hashes) + 2, expires,
            lambda record, now: self._board.label_to_write(hash, hashes), False,
        )  # fmt: skip
        if stored[0] is not Outcome.STORED:
            self._board.invalidate((hash,))
        return stored

    def add(self, wire: bytes, hash: int, payload: bytes, hashes: Sequence[int], expires: float) -> Stored:
        """Store a value if there is no current one."""

        def choose(record: Record | None, now: float) -> Label | None:
            return None if self._is_current(record, now) else self._board.label_to_write(hash, hashes)

        return self._put(wire, hash, payload, len(hashes) + 2, expires, choose)

    def replace(
        self, wire: bytes, hash: int, version: int, payload: bytes, hashes: Sequence[int], expires: float,
        no_tag_event: Callable[[], bool],
    ) -> Stored:  # fmt: skip
        """Store a value if the current one has this version. It depends on ``hashes`` from then on.

        The value is made of the present one, so it takes over that one's label. Where it depends on more, as on a new
        tag, ``no_tag_event`` says whether no tag at all was invalidated since the version was read.
        """

        def choose(record: Record | None, now: float) -> Label | None:
            if record is None or record.version != version or not self._is_current(record, now):
                return None
            label = self._label(hash, hashes)  # before the question
            known, wanted = groups_of(record.label), groups_of(label)
            if not wanted.keys() <= known.keys():
                self._fences.order()
                if not no_tag_event():
                    return None
            return self._board.write_label(b"".join([known.get(thing, group) for thing, group in wanted.items()]))

        return self._put(wire, hash, payload, len(hashes) + 2, expires, choose, derives=True)

    def fill(self, wire: bytes, hash: int, payload: bytes, miss: Miss, expires: float) -> Stored:
        """Store what was loaded after a miss, unless there is a current value that may be served, or is younger."""

        def choose(record: Record | None, now: float) -> Label | None:
            return None if self._is_kept(record, miss, now) else miss.label

        return self._put(wire, hash, payload, len(miss.label) // GROUP.size, expires, choose, True, False, miss.at)

    def set_fenced(self, wire: bytes, hash: int, payload: bytes, miss: Miss, expires: float) -> Stored:
        """Store a value that was made after a miss, if nothing has happened to the key since, as far as the host knows.

        If the lock cannot be taken in time, or the value is declined, the key is invalidated.
        """

        def choose(record: Record | None, now: float) -> Label | None:
            if self._is_kept(record, miss, now) or not self._board.stands(miss.label):
                return None
            return self._board.write_label(miss.label)

        groups = len(miss.label) // GROUP.size
        stored = self._put(wire, hash, payload, groups, expires, choose, True, True, miss.at)
        if stored[0] is Outcome.BUSY or stored[0] is Outcome.DECLINED:
            self._board.invalidate((hash,))
        return stored

    def change(self, wire: bytes, hash: int, decide: Decide, hashes: Sequence[int]) -> Stored:
        """Store what is made of the current value, under its label; or a first value, which depends on ``hashes``.

        ``decide`` is called under the lock, perhaps more than once. It must be quick, and use neither shelf nor board.
        """
        ring, locks = (hash & self._way_mask) >> self._ring_shift, self._locks
        locked = True
        try:
            if not locks.lock(ring):
                return Outcome.BUSY, None
            stored = self._change(wire, hash, decide, hashes)
            locks.unlock(ring)
            locked = False
        finally:
            if locked:
                locks.unlock(ring)
        if stored[0] is Outcome.STORED:
            self._board.ring()
        return stored

    def _change(self, wire: bytes, hash: int, decide: Decide, hashes: Sequence[int]) -> Stored:
        for _ in range(ATTEMPTS):
            now = self._clock()
            record = self._peek(wire, hash)
            if record is not None:
                if self._is_current(record, now):
                    self.use((record.way,))
                else:
                    record = None
            wanted = decide(record)
            if wanted is None:
                return Outcome.REFUSED, record
            payload, expires = wanted
            version = None if record is None else record.version

            def choose(found: Record | None, now: float, version: int | None = version) -> Label | None:
                if version is None:
                    return None if self._is_current(found, now) else self._board.label_to_write(hash, hashes)
                # It is not looked at again whether it is current: if not, what is made of it is not, either.
                return None if found is None or found.version != version else self._board.write_label(found.label)

            groups = len(hashes) + 2 if record is None else len(record.label) // GROUP.size
            size = self._size(wire, groups, payload)
            if size < 0:
                return Outcome.DECLINED, record
            stored = self._store(wire, hash, payload, size, expires, choose, True, True, None, record is not None)
            if stored[0] is not Outcome.REFUSED:
                return stored
        return Outcome.DECLINED, None

    def _is_kept(self, record: Record | None, miss: Miss, now: float) -> bool:
        """Tell whether a record is current, and either may be served or is younger than what was loaded after a miss.

        Otherwise it counts as none: while the host is behind, everybody would load what nobody may store.
        """
        after = min(self.lease.loaded_after(now), miss.at)  # before the stamps
        return record is not None and record.loaded > after and self._is_current(record, now)

    def _is_current(self, record: Record | None, now: float) -> bool:
        return record is not None and record.expires > now and self._board.stands(record.label)

    def _size(self, wire: bytes, groups: int, payload: bytes) -> int:
        """Return the bytes of a record; -1 if it is too large."""
        size = BESIDE + GROUP.size * groups + len(wire) + len(payload)
        return size if len(payload) <= self.max_value and groups <= MAX_GROUPS and size <= self._most else -1

    def _put(
        self, wire: bytes, hash: int, payload: bytes, groups: int, expires: float, choose: _Choose,
        looks: bool = True, stamps: bool = True, loaded: float | None = None, derives: bool = False,
    ) -> Stored:  # fmt: skip
        """Write a record under the lock of its ring, and ring the bell; see `_write`."""
        size = self._size(wire, groups, payload)
        if size < 0:
            return Outcome.DECLINED, None
        ring, locks = (hash & self._way_mask) >> self._ring_shift, self._locks
        locked = True
        try:
            if not locks.lock(ring):
                return Outcome.BUSY, None
            stored = self._store(wire, hash, payload, size, expires, choose, looks, stamps, loaded, derives)
            locks.unlock(ring)
            locked = False
        finally:
            if locked:
                locks.unlock(ring)
        if stamps and stored[0] is Outcome.STORED:
            self._board.ring()
        return stored

    def _store(
        self, wire: bytes, hash: int, payload: bytes, size: int, expires: float, choose: _Choose, looks: bool,
        stamps: bool, loaded: float | None, derives: bool,
    ) -> Stored:  # fmt: skip
        """Write a record, in a ring that is reset if it is garbage. If it is garbage again, the value is declined.

        Garbage comes back only where two have the lock:

        1. W and X write in one ring, because a descriptor of the locks' file was closed in W's process.
        2. W finds garbage, and resets the ring. Its tails and heads are at the next lap.
        3. X stores its head, which is that of the lap before: behind the tail.
        4. W begins again. The next writer, which has the lock alone, resets the ring once more.
        """
        for _ in range(2):
            try:
                return self._write(wire, hash, payload, size, expires, choose, looks, stamps, loaded, derives)
            except Garbage:
                self._logs.reset((hash & self._way_mask) >> self._ring_shift)
        return Outcome.DECLINED, None

    def _write(
        self, wire: bytes, hash: int, payload: bytes, size: int, expires: float, choose: _Choose, looks: bool,
        stamps: bool, loaded: float | None, derives: bool,
    ) -> Stored:  # fmt: skip
        """Write a record, under the lock of its ring: make room, decide under which label, then the steps of `logs`.

        ``size`` is that of the record.
        ``looks`` says whether ``choose`` wants the present record, ``stamps`` whether what is stored is newer than all
        copies and all loads under way, and ``derives`` whether it was made of the present record: then it was loaded
        when that one was, and else at ``loaded``; None is now.
        """
        logs, now = self._logs, self._clock()
        base, tag = hash & self._way_mask, hash >> TAG_SHIFT | 1
        ring, pops = base >> self._ring_shift, logs.pops
        way, seen = logs.find_way(base, tag)
        keep = way if looks else NO_WAY
        log = logs.log_for(ring, hash, way, seen, size, now)
        position = logs.make_room(ring, log, size, now, keep)
        if position < 0 and not log:
            log, position = 1, logs.make_room(ring, 1, size, now, keep)
        if position < 0:
            return Outcome.DECLINED, None
        word = seen
        if logs.pops != pops:
            way, word = logs.find_way(base, tag)
        record = None
        if looks and word:
            body = self._copy(way, word)
            if body is None:
                raise Garbage(f"the way {way} points to no whole record")
            record = unpack(body, wire, way)
        label = choose(record, now)
        if label is None:
            return Outcome.REFUSED, record
        if derives:
            assert record is not None
            loaded = record.loaded
        elif loaded is None:
            loaded = now
        version = self._numbers.next()
        body = pack(wire, label, payload, expires, version, loaded)
        way = logs.commit(base, way, word, tag << TAG_SHIFT | logs.append(ring, log, position, body))
        if stamps and not self._stamp(hash ^ WRITES, label):
            return Outcome.BUSY, record
        return Outcome.STORED, _new(Record, (payload, label, expires, loaded, version, way, 0))

    def _stamp(self, writes: int, label: Label) -> bool:
        """Announce and stamp a write that is committed. Return False if other hosts cannot be told of it.

        It is announced after the commit, and before the stamps. Before the commit:

        1. W announces. X, another host, applies that, and asks this host for the key: it gets the old value, which
           stands at X.
        2. W commits.

        After the stamps:

        1. W commits, and stamps. The record is dropped, to make room.
        2. R, on this host, misses the key. Its label has the new stamps. It takes another host for the owner, where an
           old value is, and asks it. It cannot name the write, because that is not announced.
        3. The old value stands on this host.
        """
        self._fences.order()  # what is stamped is void, so the record that takes its place has to be there
        announcer = self._announcer
        if announcer is None:
            self._board.stamp_write(label)
            return True
        announced = announcer.announce(writes)
        self._board.stamp_write(label)
        if announced is None:
            return False
        announcer.done(announced)
        return True

    def wait_for_writer(self, hash: int) -> bool:
        """Return once nobody is in the middle of writing a key, given its hash.

        Return False if somebody has been for too long.
        """
        ring, locks = (hash & self._way_mask) >> self._ring_shift, self._locks
        try:
            is_free = locks.lock(ring)
            locks.unlock(ring)
        finally:
            locks.unlock(ring)
        return is_free
