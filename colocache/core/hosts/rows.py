"""What a host knows of other hosts: who they are, how far it has heard them, and how far they have heard it.

The member between hosts is an *incarnation*: a host for as long as its region lives, named by the region's id. Each
gateway of this host has a **row** of its own, in which it alone writes. Whoever reads takes the largest value over all
rows. So a gateway that was stopped, and wakes beside its successor, takes nothing back:

1. The old gateway is about to store that event 7 is told, and is stopped.
2. The new one stores 8, and its event is applied. A process reads the new stamps, and that 8 is told.
3. The old one wakes, and stores 7, in its own row. The largest is still 8.

An entry is about one incarnation for as long as that one is remembered, so no position of one is ever taken for that of
another. Where an entry is used again, much later, a reader notices.

**What changes seldom** is who is known, who has ended, and what each has said of itself. With a hundred hosts that is
much, and each message asks for it. So a reader keeps it, and looks at one word of each row, `_CHANGES`, to see whether
it still holds. A writer makes that word odd before such a change, and even after it, and never what it was before:

1. What was read between two equal words belongs together, and holds for as long as the words are the same.
2. It is not kept if one of them is odd. Otherwise: A gateway is killed after it has stored an end, and before the word.
   A reader that has read the row before would take that host for alive until somebody changes the row again.

The next gateway that has the row makes the word even.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from ..host.memory import Fences, Words
from .layout import ENTRIES, ENTRY_WORDS, LANES, LISTENERS, ROWS, ROWS_USED, WORD, entry_of

Incarnation = bytes
"""The id of a region, 16 bytes: a host from the first process's coming to the last one's leaving."""

Numbers = Mapping[int, int]
"""The number of an event for each lane that has any."""

LIVE: Final = 1
ENDED: Final = 2  # it is over, and nobody knows how many events it has had
ENDED_AT: Final = 3  # the numbers of its last events are known

MAX_NAME: Final = 64  # bytes
MAX_ADDRESS: Final = 64
MAX_RELEASE: Final = 32

# Words of an entry. Those of positions are followed by one for each further lane.
ID: Final = 0  # two words; the first one is stored last
STATE: Final = 2
WEIGHT: Final = 3  # of what it owns; 0 is a client
ALIVE: Final = 4  # ns: a lease after the ping whose answer was the newest sign of life
SIGN: Final = 5  # how many signs of life this row has noted
HEARD: Final = 6  # ns: until when this host is current as far as that one is concerned
GRANTED: Final = 6  # of a listener, ns: until when it may serve what this host has told it
HEARD_UNDER: Final = 7  # which hosts were forgotten when that was agreed
TOLD: Final = 8  # its event of this number is being applied
APPLIED: Final = 16  # its events up to this number are applied
ACKED: Final = 24  # it has acknowledged this host's own events up to this number
LAST: Final = 32  # of `ENDED_AT`: the number of its last event
MET: Final = 40  # ns: when this host has met it
FORGOT: Final = 41  # 1 + the signs of life on which it was decided that it is forgotten; 0 is never
ENDED_SINCE: Final = 42  # ns: when this host has learned of its end
ROUND_TRIP: Final = 43  # ns, of the last ping that was answered
_NAME, _ADDRESS, _RELEASE = 44, 52, 60

# Words of a row's head, which is its entry 0.
_COUNT, _CHANGES, _WRITER, _LISTENERS, _LISTENER_CHANGES, _QUIET = range(6)
_LANES, _LISTENER_LANES = 6, 7  # beside lane 0, positions have lanes below that
_PUBLISHED: Final = 8  # of each lane
_GIVEN_UP: Final = _PUBLISHED + LANES  # ns: when that was so which stands behind it
MOST_GIVEN_UP: Final = ENTRY_WORDS - _GIVEN_UP - 1  # hashes of places; 0 is none
_TWO_WORDS = struct.Struct("=2Q")
_WORD = struct.Struct("=Q")


class Host(NamedTuple):
    """What a host says of itself."""

    id: Incarnation
    name: str
    address: str  # where its gateway listens, as others should dial it; "" if nowhere
    weight: int  # of what it owns; 0 for a client
    release: str = ""  # of the package


class TooManyHosts(Exception):
    """There is no room for a further host in a row: there are as many that live, or have ended lately."""


#: Words of an entry that change seldom, so that readers keep them.
_KEPT: Final = (STATE, MET, FORGOT, ENDED_SINCE)


class Roster:
    """What changes seldom, as it was read at one moment. Only what is found out later about that is noted in it."""

    __slots__ = ("changes", "ended", "entries", "hosts", "kept", "lanes", "live", "marks")

    def __init__(
        self, changes: list[int], entries: dict[Incarnation, tuple[int, ...]], kept: dict[int, dict[Incarnation, int]],
        lanes: int,
    ) -> None:  # fmt: skip
        """``kept`` has the largest of each kept word over all rows, ``lanes`` how many lanes positions have."""
        self.changes = changes  #: the words that say whether it still holds; none if it is not to be kept
        self.entries = entries  #: where the entries of each incarnation are
        self.kept = kept
        self.lanes = range(lanes)
        self.live = [id for id, state in kept[STATE].items() if state == LIVE]
        self.ended = [
            (id, kept[ENDED_SINCE][id]) for id, state in kept[STATE].items() if state in (ENDED, ENDED_AT)
        ]  #: since when
        self.marks = {id: mark for id, mark in kept[FORGOT].items() if mark}  #: without those that are known to be void
        self.hosts: dict[Incarnation, Host] = {}  #: what was read of them, by now


class Rows:
    """What this host knows of other members, as one process reads it. Any thread may call all methods."""

    clients: Listeners
    """What it knows of clients."""

    # Of these entries in a row, and of the words of its head that say how many are in use, that something has changed,
    # and how many lanes positions have.
    _FIRST, _MOST, _COUNT_AT, _CHANGES_AT, _LANES_AT = 1, ENTRIES - 1, _COUNT, _CHANGES, _LANES

    def __init__(self, words: Words, fences: Fences) -> None:
        """``words`` are those of the whole file."""
        self._words = words
        self._fences = fences
        if not isinstance(self, Listeners):
            self.clients = Listeners(words, fences)
        self._changes_at = [entry_of(row, 0) + self._CHANGES_AT for row in range(ROWS)]
        self._roster = Roster([-1], {}, {field: {} for field in _KEPT}, 1)

    def order(self) -> None:
        """Load nothing earlier of what is read here after this call."""
        self._fences.order()

    def ids(self) -> list[Incarnation]:
        """Return all incarnations that are known, with those that have ended."""
        return list(self._now().entries)

    def largest(self, id: Incarnation, field: int) -> int:
        """Return a word of an incarnation: the largest over all rows; 0 if it is not known."""
        if field in _KEPT:
            return self._now().kept[field].get(id, 0)
        words = self._words
        while True:
            roster = self._look()
            places = roster.entries.get(id, ())
            found = words[places[0] + field] if len(places) == 1 else max([words[at + field] for at in places] or [0])
            if self._is_unchanged(roster):
                return found

    def every(self, field: int) -> dict[Incarnation, int]:
        """Return a word of each incarnation that is known, as `largest` does for one."""
        if field in _KEPT:
            return dict(self._now().kept[field])
        words = self._words
        while True:
            roster = self._look()
            found = {
                id: words[places[0] + field] if len(places) == 1 else max([words[at + field] for at in places])
                for id, places in roster.entries.items()
            }
            if self._is_unchanged(roster):
                return found

    def total(self, id: Incarnation, field: int) -> int:
        """Return the sum of a word over all rows: of what is counted in each."""
        while True:
            roster = self._look()
            found = sum([self._words[at + field] for at in roster.entries.get(id, ())])
            if self._is_unchanged(roster):
                return found

    def positions(self, id: Incarnation, field: int) -> dict[int, int]:
        """Return `TOLD`, `APPLIED`, `ACKED` or `LAST` of an incarnation, for each lane that has one."""
        words = self._words
        while True:
            roster = self._look()
            found = _positions(words, roster.entries.get(id, ()), field, roster.lanes)
            if self._is_unchanged(roster):
                return found

    def every_position(self, field: int) -> dict[Incarnation, dict[int, int]]:
        """Return the positions of each incarnation that is known, as `positions` does for one."""
        words = self._words
        while True:
            roster = self._look()
            lanes = roster.lanes
            found = {id: _positions(words, places, field, lanes) for id, places in roster.entries.items()}
            if self._is_unchanged(roster):
                return found

    def state(self, id: Incarnation) -> int:
        """Return `LIVE`, `ENDED`, `ENDED_AT`, or 0 if the incarnation is not known."""
        return self._now().kept[STATE].get(id, 0)

    def live(self) -> list[Incarnation]:
        """Return those that have not ended, forgotten or not."""
        return [*self._now().live]

    def recent_ends(self, now: int) -> list[Incarnation]:
        """Return those that have ended, and of whose end others may not know yet at an instant (ns)."""
        return [id for id, since in self._now().ended if since + TOLD_OF > now]

    def knows(self, host: Host) -> bool:
        """Tell whether an incarnation lives, and has said just that of itself. If in doubt, it is False."""
        roster = self._now()
        return roster.kept[STATE].get(host.id) == LIVE and roster.hosts.get(host.id) == host

    def host(self, id: Incarnation) -> Host:
        """Return what an incarnation has said of itself. What is not known is empty, or 0."""
        while True:
            roster = self._now()
            known = roster.hosts.get(id)
            if known is not None:
                return known
            host = self._host(id, roster.entries.get(id, ()))
            if self._is_unchanged(roster):
                roster.hosts[id] = host
                return host

    def _host(self, id: Incarnation, places: tuple[int, ...]) -> Host:
        name = address = release = b""
        weight = 0
        for at in places:
            name = name or self._text(at + _NAME, MAX_NAME)
            address = address or self._text(at + _ADDRESS, MAX_ADDRESS)
            release = release or self._text(at + _RELEASE, MAX_RELEASE)
            weight = weight or self._words[at + WEIGHT]
        return Host(id, name.decode("utf-8", "replace"), address.decode("ascii", "replace"), weight, release.decode())

    def name(self, id: Incarnation) -> str:
        """Return the name that `host` gives."""
        return self.host(id).name

    def address(self, id: Incarnation) -> str:
        """Return the address that `host` gives."""
        return self.host(id).address

    def heard(self, id: Incarnation, under: int) -> int:
        """Return until when (ns) this host is current as far as another one is concerned.

        That was agreed while the same hosts were forgotten as now (``under``), or it does not hold.
        """
        return self.every_heard(under).get(id, 0)

    def every_heard(self, under: int) -> dict[Incarnation, int]:
        """Return the same for each other host that is known."""
        words = self._words
        while True:
            roster = self._look()
            entries = roster.entries
            agreed = [(id, at) for id, places in entries.items() for at in places if words[at + HEARD_UNDER] == under]
            self._fences.order()
            heard = [(id, at, words[at + HEARD]) for id, at in agreed]
            self._fences.order()
            found = dict.fromkeys(entries, 0)
            for id, at, until in heard:
                if until > found[id] and words[at + HEARD_UNDER] == under:
                    found[id] = until
            if self._is_unchanged(roster):
                return found

    def is_forgotten(self, id: Incarnation) -> bool:
        """Tell whether this host waits no more for another one. Any sign of life since the decision makes it void."""
        # The mark first: a sign of life that comes between the two loads makes it void, and never valid.
        mark = self.largest(id, FORGOT)
        return bool(mark) and self._holds(mark, self.total(id, SIGN))

    def forgotten(self) -> set[Incarnation]:
        """Return those for which `is_forgotten` is true."""
        return self._forgotten_of(self._now())

    def _forgotten_of(self, roster: Roster) -> set[Incarnation]:
        marks = roster.marks
        if not marks:
            return set()
        signs = {id: self.total(id, SIGN) for id in marks}
        forgotten = {id for id, mark in marks.items() if self._holds(mark, signs[id])}
        # A decision that is void stays so, and is looked at no more: after a cut there is one about each host. One that
        # counts more signs than are seen is not void. They were noted in another row, and are about to be seen here.
        roster.marks = {id: mark for id, mark in marks.items() if id in forgotten or mark > signs[id]}
        return forgotten

    @staticmethod
    def _holds(mark: int, signs: int) -> bool:
        """Tell whether a decision to forget still holds, given the signs of life that were read after it."""
        return mark == 1 + signs

    def counted(self) -> list[Incarnation]:
        """Return those that live and are not forgotten: who is waited for."""
        roster = self._now()
        forgotten = self._forgotten_of(roster)
        return [id for id in roster.live if id not in forgotten]

    def has_reached(self, id: Incarnation, numbers: Numbers, field: int = APPLIED) -> bool:
        """Tell whether all events of an incarnation up to these are applied, or what else a field says."""
        if not numbers:
            return True
        words = self._words
        while True:
            roster = self._look()
            places = roster.entries.get(id)
            if places is None:
                return not any(numbers.values())
            found = True
            for lane, number in numbers.items():
                found = found and max([words[at + field + lane] for at in places]) >= number
            if self._is_unchanged(roster):
                return found

    @property
    def quiet(self) -> int:
        """Until when (ns) clients may serve values who do not wait for this host: see `Row.be_quiet`."""
        return max([self._words[entry_of(row, 0) + _QUIET] for row in range(self.used)], default=0)

    def writers(self) -> list[int]:
        """Return the seats of those that had a row last, if they noted it."""
        writers = [self._words[entry_of(row, 0) + _WRITER] for row in range(self.used)]
        return [writer - 1 for writer in writers if writer]

    def published(self, lane: int) -> int:
        """Return the number of the last own event of a lane that a gateway has told others."""
        return max([self._words[entry_of(row, 0) + _PUBLISHED + lane] for row in range(self.used)], default=0)

    def given_up(self, since: int) -> set[int]:
        """Return hashes of the places that gateways of this host have noted by `Row.give_up` after an instant (ns)."""
        found: set[int] = set()
        for at in [entry_of(row, 0) + _GIVEN_UP for row in range(self.used)]:
            if self._words[at] > since:
                self._fences.order()
                found.update([self._words[place] for place in range(at + 1, at + 1 + MOST_GIVEN_UP)])
        return found - {0}

    # --- Entries

    @property
    def used(self) -> int:
        """How many rows are in use."""
        return min(self._words[ROWS_USED], ROWS)

    def _look(self) -> Roster:
        """Return what changes seldom, as it is now.

        What is read afterwards from an entry of it is about its incarnation if `_is_unchanged` says so then.
        """
        words, roster = self._words, self._roster
        if words[ROWS_USED] == len(roster.changes):
            for place, word in zip(self._changes_at, roster.changes):  # noqa: B905  # one of them is longer
                if words[place] != word:
                    break
            else:
                return roster
        while True:
            changes = [words[place] for place in self._changes_at[: min(words[ROWS_USED], ROWS)]]
            self._fences.order()
            entries: dict[Incarnation, tuple[int, ...]] = {}
            lanes = 1
            for row in range(len(changes)):
                head = entry_of(row, 0)
                lanes = max(lanes, min(words[head + self._LANES_AT], LANES))
                for entry in range(self._FIRST, self._FIRST + min(words[head + self._COUNT_AT], self._MOST)):
                    at = entry_of(row, entry)
                    id = self._id_at(at)
                    if words[at]:
                        entries[id] = (*entries.get(id, ()), at)
            kept = {
                field: {id: max([words[at + field] for at in places]) for id, places in entries.items()}
                for field in _KEPT
            }
            roster = Roster(changes, entries, kept, lanes)
            if self._is_unchanged(roster):
                if not any(word & 1 for word in changes):
                    self._roster = roster
                return roster

    def _now(self) -> Roster:
        """Return what changes seldom. What is loaded after this call is not older than that."""
        roster = self._look()
        self._fences.order()
        return roster

    def _is_unchanged(self, roster: Roster) -> bool:
        """Tell whether what was read is really about its incarnations: an entry may have become another one's."""
        self._fences.order()
        words = self._words
        for place, word in zip(self._changes_at, roster.changes):  # noqa: B905, SIM110  # a generator takes longer
            if words[place] != word:
                return False
        return True

    def _id_at(self, at: int) -> Incarnation:
        return _TWO_WORDS.pack(self._words[at], self._words[at + 1])

    def _text(self, at: int, most: int) -> bytes:
        words: list[int] = []
        for place in range(at, at + most // WORD):
            word = self._words[place]
            if not word:
                break
            words.append(word)
        return struct.pack(f"={len(words)}Q", *words).rstrip(b"\0")


class Row(Rows):
    """The same, with a row of one's own. One thread of one process has it; the others may read."""

    def __init__(self, words: Words, fences: Fences, row: int) -> None:
        """``row`` is this gateway's own, as long as it lives. What a dead one has left there stays."""
        super().__init__(words, fences)
        self._row = row
        self._instant = 0  # the latest instant that it was told
        self._own: dict[Incarnation, int] = {}
        head = entry_of(row, 0)
        self._changes = head + self._CHANGES_AT
        self._lanes = max(1, words[head + self._LANES_AT])
        if not isinstance(self, ListenersRow):
            self.clients: ListenersRow = ListenersRow(words, fences, row)
        words[ROWS_USED] = max(words[ROWS_USED], row + 1)  # another gateway may store less: see `use`
        for entry in range(self._FIRST, self._FIRST + words[head + self._COUNT_AT]):
            at = entry_of(row, entry)
            if words[at]:
                self._own[self._id_at(at)] = at
        if words[head + self._CHANGES_AT] & 1:  # a dead gateway was killed in the middle of a change
            self._end_change()
        for id, at in self._own.items():  # whose end another gateway has noted since
            state = self.state(id)
            if state != words[at + STATE] and state in (ENDED, ENDED_AT):
                self.end(id, self.positions(id, LAST) if state == ENDED_AT else None, self.largest(id, ENDED_SINCE))

    def use(self, now: int) -> None:
        """See to it that readers look at this row: two gateways that begin at once may overwrite each other's word.

        ``now`` (ns) says which entries may be used again.
        """
        self._instant = self.clients._instant = now
        if self._words[ROWS_USED] <= self._row:
            self._words[ROWS_USED] = self._row + 1

    def make_room_for(self, id: Incarnation) -> bool:
        """Make an entry of an incarnation, if there is none; return False if there is no room.

        Where it returns False, all that notes something of that incarnation raises TooManyHosts.
        """
        try:
            self._entry(id)
        except TooManyHosts:
            return False
        return True

    def meet(self, host: Host, now: int) -> None:
        """Note an incarnation that lives. Raise TooManyHosts if there is no room."""
        self._instant = now
        if self.state(host.id):
            self.describe(host)
            return
        at = self._entry(host.id)
        self._begin_change()
        self._describe(at, host)
        self._words[at + MET] = now
        self._words[at + SIGN] += 1
        self._fences.order()
        self._words[at + STATE] = LIVE
        self._end_change()

    def describe(self, host: Host) -> None:
        """Note what an incarnation says of itself now."""
        if self.host(host.id) != host:
            at = self._entry(host.id)
            self._begin_change()
            self._describe(at, host)
            self._end_change()

    def end(self, id: Incarnation, last: Numbers | None, now: int) -> None:
        """Note that an incarnation is over; ``last`` are the numbers of its last events, if they are known."""
        self._instant = now
        at = self._entry(id)
        self._begin_change()
        for lane, number in (last or {}).items():
            self._use_lane(lane)
            self._words[at + LAST + lane] = number
        if not self._words[at + ENDED_SINCE]:
            self._words[at + ENDED_SINCE] = max(now, 1)
        self._fences.order()
        self._words[at + STATE] = ENDED if last is None else ENDED_AT
        self._end_change()

    def raise_to(self, id: Incarnation, field: int, value: int) -> None:
        """Raise a word of an incarnation in this row; never lower it."""
        at = self._entry(id)
        if value > self._words[at + field]:
            if TOLD <= field < LAST + LANES and (lane := field % LANES) >= self._lanes:
                self._begin_change()
                self._use_lane(lane)
                self._end_change()
            self._words[at + field] = value

    def note(self, id: Incarnation, field: int, value: int) -> None:
        """Note a word of an incarnation that only tells people something."""
        self._words[self._entry(id) + field] = value

    def sign_of_life(self, id: Incarnation) -> None:
        """Note that an incarnation has shown that it lives. That makes the decision to forget it void."""
        self._words[self._entry(id) + SIGN] += 1

    def hear(self, id: Incarnation, until: int, under: int) -> None:
        """Note until when (ns) this host is current as far as another one is concerned.

        Both words belong together. So nobody believes either while they are stored.
        """
        at, words = self._entry(id), self._words
        if words[at + HEARD_UNDER] == under and words[at + HEARD] >= until:
            return
        words[at + HEARD_UNDER] = 0
        self._fences.order()
        words[at + HEARD] = until
        self._fences.order()
        words[at + HEARD_UNDER] = under

    def be_quiet(self, until: int) -> None:
        """Note until when (ns) clients may serve values who do not wait for this host, because they do not know it."""
        at = entry_of(self._row, 0) + _QUIET
        self._words[at] = max(self._words[at], until)

    def write_by(self, seat: int) -> None:
        """Note which process has the row now, for people to see."""
        self._words[entry_of(self._row, 0) + _WRITER] = seat + 1

    def publish(self, lane: int, number: int) -> None:
        """Note that others were told own events up to this one, which are all stamped."""
        self._words[entry_of(self._row, 0) + _PUBLISHED + lane] = number

    def give_up(self, places: Iterable[int], now: int) -> None:
        """Note hashes of the places where nobody is missed any more, as of an instant (ns).

        There is room for `MOST_GIVEN_UP`; at others somebody is missed once more. Who reads them meanwhile may find
        some of these and some of those before, under either instant: each was right not long before it.
        """
        at, words = entry_of(self._row, 0) + _GIVEN_UP, self._words
        noted = sorted(places)[:MOST_GIVEN_UP]
        for place, hash in enumerate([*noted, *[0] * (MOST_GIVEN_UP - len(noted))], at + 1):
            if words[place] != hash:
                words[place] = hash
        self._fences.order()
        words[at] = now

    def forget(self, id: Incarnation, signs: int) -> None:
        """Mark an incarnation as forgotten, as was decided when there were so many signs of life of it."""
        at = self._entry(id)
        self._begin_change()
        self._words[at + FORGOT] = 1 + signs
        self._end_change()

    # --- Changes

    def _begin_change(self) -> None:
        """Say that something is about to change of what changes seldom: the word is odd, and another one."""
        self._words[self._changes] = self._words[self._changes] + 1 | 1
        self._fences.order()

    def _end_change(self) -> None:
        """Say that it has changed."""
        self._fences.order()
        self._words[self._changes] = (self._words[self._changes] | 1) + 1

    def _use_lane(self, lane: int) -> None:
        """See to it that readers look at the positions of a lane, in the middle of a change."""
        if lane >= self._lanes:
            self._lanes = lane + 1
            self._words[entry_of(self._row, 0) + self._LANES_AT] = self._lanes
            self._fences.order()

    # --- Entries

    def _entry(self, id: Incarnation) -> int:
        """Return where this row's entry of an incarnation is, made if need be. Raise TooManyHosts."""
        at = self._own.get(id)
        if at is None:
            at = self._own[id] = self._new_entry(id)
        return at

    def _new_entry(self, id: Incarnation) -> int:
        words, head = self._words, entry_of(self._row, 0)
        count = words[head + self._COUNT_AT]
        if count < self._MOST:
            at = entry_of(self._row, self._FIRST + count)
        else:
            at = self._unused()
            words[at] = 0
            self._own = {other: place for other, place in self._own.items() if place != at}
        self._begin_change()  # before anything is stored to an entry that is used again
        for place in range(1, 64):  # also what a dead gateway has begun
            words[at + place] = 0
        first, words[at + 1] = _TWO_WORDS.unpack(id)
        self._fences.order()
        words[at] = first
        self._fences.order()
        if count < self._MOST:
            words[head + self._COUNT_AT] = count + 1
        self._end_change()
        return at

    def _unused(self) -> int:
        """Return the entry of what has ended first, if that is so long ago that nobody speaks of it any more.

        Not while it lives in another row, which would count then:

        1. Gateway P notes in its row that X lives, and dies. 2. Gateway Q notes the end of X, in its own row.
        3. Much later Q uses that entry for Y. For this host X lives, is silent, and is waited for.

        Whoever has P's row next ends X there.
        """
        words, entries = self._words, self._look().entries
        since = [
            (words[at + ENDED_SINCE], at) for id, at in self._own.items()
            if words[at + ENDED_SINCE]
            and all(words[other + STATE] in (0, ENDED, ENDED_AT) for other in entries.get(id, ()))
        ]  # fmt: skip
        oldest = min(since, default=None)
        if oldest is None or oldest[0] + REMEMBERED > self._instant:
            raise TooManyHosts
        return oldest[1]

    def _describe(self, at: int, host: Host) -> None:
        for place, text, most in (
            (_NAME, host.name, MAX_NAME), (_ADDRESS, host.address, MAX_ADDRESS), (_RELEASE, host.release, MAX_RELEASE)
        ):  # fmt: skip
            raw = text.encode()[:most].ljust(most, b"\0")
            for number, (word,) in enumerate(_WORD.iter_unpack(raw)):
                self._words[at + place + number] = word
        self._words[at + WEIGHT] = host.weight


class Listeners(Rows):
    """What this host knows of its **listeners**: of clients that hear its events. Any thread may call all methods.

    They are no members: they have no events of their own, and no other host is told of them. What is known of each is
    until when it may serve what this host has told it, and what it has acknowledged.
    """

    _FIRST, _MOST = ENTRIES, LISTENERS
    _COUNT_AT, _CHANGES_AT, _LANES_AT = _LISTENERS, _LISTENER_CHANGES, _LISTENER_LANES

    def granted(self, id: Incarnation) -> int:
        """Return until when (ns) a client may serve what this host has told it; 0 if it has left, or is not known."""
        return self.largest(id, GRANTED) if self.state(id) == LIVE else 0

    def who_may_serve(self, now: int) -> dict[Incarnation, int]:
        """Return the clients that may still serve what this host has told them, and until when (ns).

        To be called after what they have to be waited for is in the log.
        """
        states, granted = self.every(STATE), self.every(GRANTED)
        return {id: until for id, until in granted.items() if until > now and states.get(id) == LIVE}


class ListenersRow(Listeners, Row):
    """The same, with a row of one's own."""

    def listen(self, host: Host, until: int, now: int) -> None:
        """Note that a client may serve what this host tells it, until then (ns). Nothing is ever taken back.

        Raise TooManyHosts if there is no room.
        """
        self._instant = now
        at = self._entry(host.id)
        if not self._words[at + STATE]:
            self._begin_change()
            self._describe(at, host)
            self._words[at + STATE] = LIVE
            self._end_change()
        if until > self._words[at + GRANTED]:
            self._words[at + GRANTED] = until

    def leave(self, id: Incarnation, now: int) -> None:
        """Note that a client has left: nobody waits for it any more."""
        self._instant = now
        at = self._entry(id)
        self._begin_change()
        self._words[at + STATE] = ENDED_AT
        self._end_change()

    def _unused(self) -> int:
        """Return the entry of a client whom nobody waits for any more, the one that was answered first."""
        oldest = min([(self._words[at + GRANTED], at) for at in self._own.values()], default=None)
        if oldest is None or oldest[0] > self._instant:
            raise TooManyHosts
        return oldest[1]


TOLD_OF: Final = 600 * 10**9  # ns that others are told of an end, and that a fetch names it
REMEMBERED: Final = 3 * TOLD_OF  # ns after which the entry of an end may be used again


def _positions(words: Words, places: Iterable[int], field: int, lanes: Iterable[int]) -> dict[int, int]:
    """Return the largest position of each lane that has one, of these, in the entries of an incarnation."""
    found: dict[int, int] = {}
    for at in places:
        for lane in lanes:
            number = words[at + field + lane]
            if number and number > found.get(lane, 0):
                found[lane] = number
    return found
