"""What this process keeps near: live objects, within a budget of bytes, and the one rule of what may be served.

Nothing tells a process that a near copy is out of date. So each hit compares the copy's bell with the region's bell,
and looks at the clock. After an event it also compares the entry's label with the board, and where the group has
several hosts, it asks the lease of this one from time to time. The rule stands in `NearStore.lets`. What readers
compare before they ask for it is `SERVE_AT_ONCE`, as source text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from heapq import nlargest

from .entry import DEAD, Entry
from .host.board import Board
from .host.memory import Fences, HostLease
from .policy import POLICIES, Policy


class NearStore:
    """The near copies of one cache. One thread at a time may change them. Any thread may call the rest at any time.

    What leaves is dead, and is put into ``gone``. Take it out there when no lock is held, and `withdraw` it: keys and
    values are users' code.

    An exception of a signal handler may come in the middle of a change. Then call `heal` before the next one. No entry
    is lost: it is in ``gone`` before it leaves the policy.
    """

    def __init__(self, budget: int, policy: str, board: Board, fences: Fences, lease: HostLease) -> None:
        """``budget`` is in bytes."""
        self.gone: deque[Entry] = deque()
        self._new_policy = partial[Policy[Entry]](POLICIES[policy], budget, self._evicted)
        self._budget = budget
        self._entries = self._new_policy()
        self._board = board
        self._fences = fences
        self._lease = lease
        self.bell = board.heard

    def lets(self, entry: Entry, now: float) -> bool:
        """Tell whether an entry may be served: it has not expired, the host is current, and its key had no event.

        If so, readers are served at once until the bell changes, or the entry expires, or `HostLease` has to be asked
        again. While the host is behind, the entry stays as it is: it may be served again once the host is current.

        It is asked first, and the bell is read before the label, because an event stores its stamps before it
        rings. In the other orders an event between two of these loads would count as compared.

        An entry that is dropped meanwhile is left dead:

        1. L finds that an entry has not expired.
        2. D drops it: ``expires`` is that of the dead, and so is ``until``.
        3. L stores its own ``until``.
        4. L looks at ``expires`` once more, and takes that back. If D comes later, D stores ``until`` after L.

        The entry has no bell from before step 3 until after step 4, so nobody is served at once in between.
        """
        expires = entry.expires
        if expires <= now:
            return False
        until = self._lease.until(now)
        if until <= now:
            return False
        bell = self.bell[0]
        if entry.bell != bell:
            self._fences.order()
            if not self._board.stands(entry.label):
                entry.die()
                return False
        entry.bell = None
        entry.until = until if until < expires else expires
        if entry.expires == DEAD:
            entry.until = DEAD
            return False
        entry.bell = bell
        return True

    def _is_over(self, entry: Entry, now: float) -> bool:
        """Tell whether an entry may never be served again: it has expired, or its key had an event."""
        return entry.expires <= now or (entry.bell != self.bell[0] and not self._board.stands(entry.label))

    # --- Changes: one thread at a time

    def put(self, entry: Entry) -> None:
        """Keep an entry in place of its key's present one. Others may have to leave for it, or it leaves itself.

        To put it again does nothing, if the first time was interrupted.
        """
        present = self._entries.find(entry.hash)
        if present is not None and present is not entry:
            self._drop(present)
        if entry.size > self._budget or entry.expires == DEAD:
            self._leave(entry)
        else:
            self._entries[entry.hash] = entry

    def drop(self, hashes: Iterable[int], now: float) -> None:
        """Drop the entries of keys, given by their hashes, that may never be served again."""
        for hash in hashes:
            entry = self._entries.find(hash)
            if entry is not None and self._is_over(entry, now):
                self._drop(entry)

    def sweep(self, now: float) -> None:
        """Drop all entries that may never be served again."""
        for entry in self._entries.entries():
            if self._is_over(entry, now):
                self._drop(entry)

    def heal(self) -> None:
        """Begin anew with what there is, after an exception in the middle of a change."""
        entries = self._new_policy()
        for entry in self._entries.entries():
            if entry.expires != DEAD:
                entries[entry.hash] = entry
            else:
                self.gone.append(entry)
        self._entries = entries

    def _evicted(self, entry: Entry) -> None:
        entry.home.counts.evictions += 1
        self._leave(entry)

    def _drop(self, entry: Entry) -> None:
        self._leave(entry)
        del self._entries[entry.hash]

    def _leave(self, entry: Entry) -> None:
        entry.die()
        self.gone.append(entry)

    def withdraw(self, entry: Entry) -> None:
        """Stop readers from finding an entry that has left. Any thread may call it, once for each entry of ``gone``."""
        entry.withdraw()

    # --- What there is

    def has(self, hash: int) -> bool:
        """Tell whether there is an entry of a key."""
        return self._entries.find(hash) is not None

    def used(self) -> list[Entry]:
        """Return the entries that were hit since this was last asked."""
        used = [entry for entry in self._entries.entries() if entry.hits > entry.told]
        for entry in used:
            entry.told = entry.hits
        return used

    def count_hits(self, most: int = 0) -> list[tuple[int, int]]:
        """Have the homes of all entries count their hits. What is just leaving is counted when it has left.

        Return which keys were hit most since this was called last, by their hashes, with how often.
        """
        found: list[tuple[int, int]] = []
        for entry in self._entries.entries():
            hits = entry.hits - entry.counted
            if hits:
                entry.home.counts.hits += hits  # until here as `Entry.count` does, which would take longer
                entry.counted += hits
                found.append((hits, entry.hash))
        return [(hash, hits) for hits, hash in nlargest(most, found)]

    def size(self) -> tuple[int, int]:
        """Return the number and the bytes of the entries."""
        return len(self._entries), int(self._entries.currsize)


#: What readers compare before they ask `NearStore.lets`, as source text, for functions that answer most readers: a call
#: of `lets` would make a hit longer. The bell has not changed since the entry was last compared, and until the instant
#: that the entry has, nobody has to be asked.
#: ``{keyspace}`` is where the reader reads, and ``{key}`` is what entries are found by there. ``{serve}`` is
#: `SERVE`, or `SERVE_UNLESS_DRAWN`. tests/core/test_near.py compares the text with the rule.
SERVE_AT_ONCE = """\
    _cc_keyspace = {keyspace}
    _cc_entries, _cc_bell = _cc_keyspace.near
    try:
        _cc_entry = _cc_entries[{key}]
    except _cc_MISSES as _cc_error:  # there is no entry, or the key has another form, or it cannot be hashed
        if _cc_error.__class__ not in _cc_MISSES:
            _cc_raise_if_from_handler(_cc_error)
    else:  # not above: an exception of a signal handler would be taken for a miss
        if _cc_entry.bell == _cc_bell[0] and _cc_entry.until > _cc_monotonic():
            {serve}
        elif _cc_entry.home.owner.lets(_cc_entry, _cc_monotonic()):
            {serve}
"""

SERVE = """\
            _cc_entry.hits += 1
            return _cc_entry.value
""".strip()

#: A hit that is drawn for an audit goes the longer way, past the text, where it is served, too.
SERVE_UNLESS_DRAWN = """\
            _cc_hits = _cc_entry.hits
            if _cc_hits < _cc_entry.draw_at:
                _cc_entry.hits = _cc_hits + 1
                return _cc_entry.value
""".strip()
