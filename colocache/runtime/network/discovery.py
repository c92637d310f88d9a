"""Where the other hosts of the group may be, as far as lists, DNS and other hosts tell. Pure. For one thread.

No socket, clock or thread is used here. `lookups` looks the items up, and the gateway dials the addresses and tells
what came of it. Time is an argument, in seconds of a clock that does not jump back.

**Lists and DNS are hints.** They say what to dial, and never who is a member: what answers there says which host it is.

- An answer replaces the one before it. A lookup that fails, or that finds no such name, takes nothing away. So while
  DNS is down, the last addresses stay.
- An address that was met, or that another host has told, stays for as long as its host does, whatever DNS says: a
  server of names drops a host that is not ready, or is late, or lies.
- Two addresses of one host are one: the second is not dialled while the first is connected. Nor is our own.

**What is unknown is a host that may serve old values.** An address that is listed and that never answered counts as a
silent host of which nothing is known. Otherwise a host would believe that it is alone and current:

1. A and B start, and are listed. Each is not reached by the other one yet.
2. A believes that it is alone, and loads a value. B does the same.
3. A invalidates it, waits for nobody, and B serves the old value.

But DNS goes on listing what is dead, and that must not put everybody behind for long. So an address counts only while
it is listed, for ``forget_after`` seconds in all, and not if the host that last had it has said goodbye. If it comes
back within ``forget_after`` seconds, as where DNS serves two versions by turns, it continues where it was. A gateway
goes on where the one before it was, by what `Discovery.given_up` has returned there.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Set
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from .answers import Absent, Answer, Failed, Found
from .peers import MAX_ITEMS, Address, Item, Lines, Literal
from .schedule import Schedule

MAX_ADDRESSES: Final = 4096  # that are listed, that others have told, and that are dialled; each of the three
MAX_OF_A_HOST: Final = 8  # addresses: two gateways, with several networks
INTERVAL: Final = 5.0  # s between two lookups of one item
FORGET_AFTER: Final = 30.0  # s
AGAIN_AFTER: Final = 60.0  # s until an address of ours, or a second one of a host, is dialled again: it may have moved
LOG_PERIOD: Final = 60.0  # s between two lines about one item
SLOW_AFTER: Final = 30.0  # s


class Line(NamedTuple):
    """A line for the log: ``level`` is "warning" or "info", and ``text`` follows the item in a sentence."""

    level: str
    item: str
    text: str


class Discovery:
    """What is listed, since when, what was met, and so what to dial. Nothing it returns is more than its bounds.

    A host is named by what its answers carry, its incarnation: any hashable value, and a new one after each restart.
    """

    def __init__(
        self, items: Iterable[Item], now: float, interval: float = INTERVAL, forget_after: float = FORGET_AFTER
    ) -> None:
        """``items`` are from `parse_peers`; ``interval`` and ``forget_after`` are in seconds, and more than 0."""
        self.version = 0  # another one after each change of what `to_dial` returns, but for those that only time makes
        self._items = tuple(dict.fromkeys(items))[:MAX_ITEMS]
        self._forget_after = forget_after
        self._started = now
        self._schedule = Schedule(interval)
        self._known: dict[Item, _Known] = {}
        self._listed: dict[Address, None] = {}  # in the order of the items
        self._places: dict[
            Address, _Place
        ] = {}  # of all addresses: listed ones, told ones, and those not forgotten yet
        self._told: dict[Hashable, list[Address]] = {}  # by host: those that stay for as long as it does
        self._told_count = 0
        self._met: set[Hashable] = set()  # those of these hosts that have answered
        self._reached: dict[Hashable, Address] = {}  # where they are connected
        self._lines: dict[str, tuple[float, bool]] = {}  # when a trouble was told, and whether it still is one
        self._left_out = 0
        self._given_up: Set[int] = frozenset()  # hashes of addresses that do not count, if they are listed soon
        self._given_up_until = now
        self._relist(now)

    # --- Lookups

    def due(self, now: float) -> list[Item]:
        """Return the items to be looked up now. Each is under way until `answer`, and is not returned again before."""
        return self._schedule.take(now)

    def answer(self, item: Item, answer: Answer, now: float) -> None:
        """Take what a lookup has found out. It may come late, and of an item that is not listed any more."""
        self._schedule.done(item, now, isinstance(answer, Found | Lines))
        known = self._known.get(item)
        if known is not None and known.take(answer):
            self._relist(now)

    def look_again(self, now: float) -> None:
        """Have all items looked up now. No lookup is under way any more: in a forked child, for example."""
        self._schedule.look_again(now)

    # --- What others tell, and what becomes of addresses

    def learn(self, address: Address, host: Hashable) -> bool:
        """Take an address that a roster tells, and whose it is. Return False if there is no room for it.

        It stays until `ended` or `said_goodbye` of that host, or until another host answers there. Do not tell this of
        a host that has ended. Addresses that a peer has chosen go through `peers.usable` first.
        """
        place = self._places.get(address)
        if place is not None and (place.me or self._reached.get(place.host) == address):
            return True  # what answers there knows better
        if place is not None and place.host != host:
            place.answered = False
        return self._give(address, host)

    def met(self, address: Address, host: Hashable, now: float) -> None:
        """Note that a host has answered at an address, and that the connection stands."""
        place = self._places.get(address)
        if place is None:
            return  # it was given up while it was dialled
        place.answered, place.me, place.gone, place.again_at = True, False, False, now + AGAIN_AFTER
        if self._give(address, host):
            self._met.add(host)
            self._reached.setdefault(host, address)
        self.version += 1

    def lost(self, address: Address) -> None:
        """Note that the connection is gone. So other addresses of the same host are dialled as well."""
        place = self._places.get(address)
        if place is not None and self._reached.get(place.host) == address:
            del self._reached[place.host]
            self.version += 1

    def is_me(self, address: Address, now: float) -> None:
        """Note that this host itself has answered at an address."""
        place = self._places.get(address)
        if place is not None:
            self._remember(address, now)
            self._take_away(address)
            place.answered, place.me, place.gone, place.again_at = True, True, False, now + AGAIN_AFTER
            self._limit_places()
            self.version += 1

    def said_goodbye(self, host: Hashable, now: float) -> None:
        """Note that a host has left in order. Where it was last, nobody is missed until somebody answers there."""
        for address in self._told.get(host, ()):
            self._places[address].gone = True
            self._remember(address, now)
        self.ended(host)
        self._limit_places()

    def ended(self, host: Hashable) -> None:
        """Note that a host is not a member any more: it is forgotten, or certified to have ended."""
        for address in [*self._told.get(host, ())]:
            self._take_away(address)
            self.version += 1

    def paused(self, seconds: float) -> None:
        """Note that this process was stopped for so long, in which nobody could answer it: that time does not count."""
        self._started += seconds
        for place in self._places.values():
            place.since += seconds
            place.unlisted_at += seconds

    # --- What follows

    def to_dial(self, now: float) -> list[Address]:
        """Return the addresses to be connected now: those listed, in the order of the items, and then those told."""
        told = (address for addresses in self._told.values() for address in addresses if address not in self._listed)
        wanted = [address for address in [*self._listed, *told] if self._is_to_dial(address, now)]
        return wanted[:MAX_ADDRESSES]

    def silent(self, now: float) -> list[Address]:
        """Return the listed addresses that count as silent hosts of which nothing is known."""
        return [address for address in self._listed if self._counts_until(address) > now]

    def given_up(self, now: float) -> set[int]:
        """Return hashes of the listed addresses that do not count, although nobody is connected there: for `give_up`.

        A successor knows the hosts that live, but not all of their addresses.
        """
        return {
            _hash(address)
            for address in self._listed
            if self._is_vacant(address) and self._counts_until(address) <= now
        }

    def give_up(self, hashes: Set[int], now: float) -> None:
        """Let these addresses not count, and all others where nobody is connected count anew.

        One of these that comes to be listed within ``forget_after`` seconds does not count, either: names are looked up
        meanwhile.
        """
        self._given_up, self._given_up_until = hashes, now + self._forget_after
        for address in filter(self._is_vacant, self._listed):
            place = self._places[address]
            if _hash(address) in hashes:
                place.since = -math.inf
            else:
                place.since, place.answered, place.gone = now, False, False

    def all_met(self, now: float, forgotten: Set[Hashable] = frozenset()) -> bool:
        """Tell whether a host that starts may be established, as far as discovery is concerned (rule J1).

        So it is when all items were looked up, and every address that is listed, and every host that others have told,
        was met; or ``forget_after`` seconds after the start. What has left with a goodbye, is ``forgotten``, or is this
        host itself, need not be met. A name that does not exist lists nothing. But if nothing at all is listed by any
        item, one waits: there should be at least this host.
        """
        return now >= self._started + self._forget_after or not self._items or self._is_complete(forgotten)

    def deadline(self, now: float) -> float:
        """Return the next instant at which an answer of this class changes by time alone, or a lookup is due."""
        instants = [self._started + self._forget_after, *map(self._counts_until, self._listed)]
        instants += [place.again_at for place in self._places.values() if place.answered]
        return min([self._schedule.deadline(), *(instant for instant in instants if instant > now)])

    def lines(self, now: float) -> list[Line]:
        """Return what to log now: of each item that is in trouble, a line a minute; and that it is well again."""
        troubles = {str(item): known.trouble() for item, known in self._known.items()}
        for item in self._schedule.slow(now, SLOW_AFTER):
            troubles[str(item)] = troubles[str(item)] or "is being looked up, and there is no answer yet"
        troubles["COLOCACHE_PEERS"] = (
            f"lists more than {MAX_ITEMS} items or {MAX_ADDRESSES} addresses: {self._left_out} of them are left out"
            if self._left_out
            else ""
        )
        self._forget_lines(troubles.keys(), now)
        lines = [self._line(what, text, now) for what, text in troubles.items()]
        return [line for line in lines if line is not None]

    # --- Inside

    def _line(self, item: str, trouble: str, now: float) -> Line | None:
        said_at, was_told = self._lines.get(item, (-math.inf, False))
        if trouble and now - said_at >= LOG_PERIOD:
            self._lines[item] = (now, True)
            return Line("warning", item, trouble)
        if not trouble and was_told:
            self._lines[item] = (said_at, False)
            return Line("info", item, "is well again")
        return None

    def _forget_lines(self, listed: Set[str], now: float) -> None:
        """Forget when something was said of items that are gone: after a while, because they may come and go."""
        gone = [(said_at, item) for item, (said_at, _) in self._lines.items() if item not in listed]
        for number, (said_at, item) in enumerate(sorted(gone)):
            if now - said_at >= LOG_PERIOD or number < len(gone) - MAX_ITEMS:
                del self._lines[item]
            else:
                self._lines[item] = (said_at, False)

    def _is_complete(self, forgotten: Set[Hashable]) -> bool:
        return (
            bool(self._listed)
            and all(known.answered for known in self._known.values())
            and all(self._is_settled(self._places[address], forgotten) for address in self._listed)
            and forgotten >= self._told.keys() - self._met
        )

    def _is_settled(self, place: _Place, forgotten: Set[Hashable]) -> bool:
        """Tell whether somebody was met at an address, or need not be."""
        return place.answered or place.gone or place.host in self._met or place.host in forgotten

    def _is_vacant(self, address: Address) -> bool:
        """Tell whether nobody is connected at an address, as far as is known, nor is it this host's own."""
        place = self._places[address]
        return not place.me and place.host not in self._reached

    def _counts_until(self, address: Address) -> float:
        """Return until when a listed address counts as a silent host."""
        place = self._places[address]
        if place.answered or place.gone or place.host in self._told:  # a host that is told is no unknown one
            return -math.inf
        return place.since + self._forget_after

    def _is_to_dial(self, address: Address, now: float) -> bool:
        place = self._places[address]
        elsewhere = self._reached.get(place.host, address) != address
        if place.answered and (place.me or elsewhere):
            return now >= place.again_at
        return address in self._listed or not elsewhere

    def _give(self, address: Address, host: Hashable) -> bool:
        """Have an address stay for as long as a host does. Return False if there is no room."""
        own = self._told.get(host, [])
        if address in own:
            return True
        if len(own) >= MAX_OF_A_HOST:
            self._take_away(next(each for each in own if each != self._reached.get(host)))
        place = self._places.get(address)
        if place is not None:
            self._take_away(address)
        if self._told_count >= MAX_ADDRESSES:
            return False
        place = self._places.setdefault(address, place or _Place())
        place.host, place.gone = host, False
        self._told.setdefault(host, []).append(address)
        self._told_count += 1
        self._limit_places()
        self.version += 1
        return True

    def _take_away(self, address: Address) -> None:
        """Let an address be nobody's."""
        place = self._places[address]
        host, place.host = place.host, None
        if self._reached.get(host) == address:
            del self._reached[host]
        own = self._told.get(host, [])
        if address in own:
            own.remove(address)
            self._told_count -= 1
        if not own:
            self._told.pop(host, None)
            self._met.discard(host)
        if address not in self._listed and place.unlisted_at == -math.inf:
            del self._places[address]  # it never was listed, so there is nothing to remember

    def _relist(self, now: float) -> None:
        """Compute anew what is listed."""
        items, left_out = self._expand()
        lookups = [item for item in items if not isinstance(item, Literal)]
        self._known = {item: self._known.get(item) or _Known() for item in lookups}
        self._schedule.keep(lookups, now)
        listed: dict[Address, None] = {}
        for item in items:
            listed.update(dict.fromkeys((item.address,) if isinstance(item, Literal) else self._known[item].addresses))
        self._left_out = left_out + max(0, len(listed) - MAX_ADDRESSES)
        before, self._listed = self._listed, dict.fromkeys([*listed][:MAX_ADDRESSES])
        for address in before.keys() - self._listed.keys():
            self._places[address].unlisted_at = now
        for address in self._listed.keys() - before.keys():
            self._list(address, now)
        self._forget_places(now)
        if [*before] != [*self._listed]:
            self.version += 1

    def _expand(self) -> tuple[list[Item], int]:
        """Return all items, with those that files and services list after each, and how many are left out.

        The items of the setting are always among them.
        """
        found: dict[Item, None] = {}
        room, left_out = MAX_ITEMS - len(self._items), 0
        ahead = [*reversed(self._items)]
        own = set(self._items)
        while ahead:
            item = ahead.pop()
            if item in found:
                continue
            if item not in own:
                if not room:
                    left_out += 1
                    continue
                room -= 1
            found[item] = None
            if item in self._known:
                ahead.extend(reversed(self._known[item].items))
        return [*found], left_out

    def _list(self, address: Address, now: float) -> None:
        """Begin to count an address, or go on if it was listed a short time ago."""
        place = self._places.setdefault(address, _Place())
        if now - place.unlisted_at >= self._forget_after:
            place.since, place.gone = now, False
            if now < self._given_up_until and _hash(address) in self._given_up:  # it was not listed since
                place.since = -math.inf
        if self._reached.get(place.host) != address:
            place.answered = place.me = False  # it may be another one's now

    def _remember(self, address: Address, now: float) -> None:
        """Keep what is known of an address for a while, although it is not listed: it may be by a late answer."""
        if address not in self._listed:
            self._places[address].unlisted_at = now

    def _limit_places(self) -> None:
        """Forget the oldest addresses that are idle, if there are too many."""
        if len(self._places) > 3 * MAX_ADDRESSES:
            self._forget_places(-math.inf)

    def _forget_places(self, now: float) -> None:
        """Forget addresses that are neither listed nor told any more, some time after that."""
        idle = [
            (place.unlisted_at, address)
            for address, place in self._places.items()
            if address not in self._listed and address not in self._told.get(place.host, ())
        ]
        too_many = len(idle) - MAX_ADDRESSES
        for number, (unlisted_at, address) in enumerate(sorted(idle)):
            if number < too_many or now - unlisted_at >= self._forget_after:
                del self._places[address]


def _hash(address: Address) -> int:
    """Return what stands for an address in 64 bits; never 0."""
    return xxh3_64_intdigest(str(address).encode()) | 1


class _Known:
    """What is known of an item that is looked up."""

    __slots__ = ("_state", "_why", "addresses", "answered", "items")

    def __init__(self) -> None:
        self.answered = False  # somebody has said all that it lists, if only once
        self.addresses: tuple[Address, ...] = ()
        self.items: tuple[Item, ...] = ()
        self._state = self._why = ""

    def take(self, answer: Answer) -> bool:
        """Take an answer, and return whether it changes what the item lists."""
        before = (self.addresses, self.items)
        self._state = self._why = ""
        match answer:
            case Found(addresses, wrong):
                # In the order that they have already: name servers turn their answers round.
                now = {*addresses, *(self.addresses if wrong else ())}
                kept = (each for each in self.addresses if each in now)
                self.addresses = tuple(dict.fromkeys([*kept, *addresses]))[:MAX_ADDRESSES]
                self._state, self._why = wrong and "cannot be looked up in full", wrong
            case Lines(items, wrong):
                # A line that cannot be read may be a good one that is half written. So it takes nothing away.
                self.items = (tuple(dict.fromkeys([*items, *self.items])) if wrong else items)[:MAX_ITEMS]
                self._state, self._why = wrong and "has something in it that cannot be used", wrong
            case Absent(why):
                self._state, self._why = "is not there", why
            case Failed(why):
                self._state, self._why = "cannot be looked up", why
        self.answered = self.answered or isinstance(answer, Absent) or not self._why
        return before != (self.addresses, self.items)

    def trouble(self) -> str:
        """Return what is wrong, as it follows the item in a sentence, or an empty text."""
        kept = len(self.addresses) or len(self.items)
        last = f"what it listed last ({kept}) stays" if kept else "it lists nothing"
        return f"{self._state}, and {last}: {self._why}" if self._state else ""


class _Place:
    """What is known of an address."""

    __slots__ = ("again_at", "answered", "gone", "host", "me", "since", "unlisted_at")

    def __init__(self) -> None:
        self.since = -math.inf  # it counts from here
        self.unlisted_at = -math.inf  # the last time
        self.host: Hashable = None  # that has it, as others tell, or as it has said itself, as long as it lives
        self.answered = False  # since it was listed
        self.me = False
        self.gone = False  # whoever had it last has said goodbye
        self.again_at = -math.inf
