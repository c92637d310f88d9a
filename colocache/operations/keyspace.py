"""The keys of one namespace, as operations see them: what the namespace's user chose, and its near cache."""

from __future__ import annotations

import copy as copying
import math
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from types import FunctionType
from typing import Any, NamedTuple, cast

from ..config import UNSET, Duration, Unset, parse_ttl
from ..core import keys
from ..core.entry import MISSING, OVERHEAD_BESIDE_LABEL, Entry, SampledEntry
from ..core.host.hashes import path_hashes, tag_hash
from ..core.host.record import Outcome, Record
from ..core.hosts.lease import FOREVER
from ..core.keys import Key
from ..core.near import NearStore
from ..core.options import MAX_TAGS, check_tag
from ..core.sampling import Sample
from ..errors import OversizeError
from ..host import Host
from ..interruptions import raise_if_foreign, raise_if_from_handler
from ..member import Member
from ..naming import shortened, shown
from ..near_cache import NearCache
from .under_way import active

Ttl = Duration | None | Unset


class Given(NamedTuple):
    """What a caller gives with a value, checked."""

    ttl: float  # s; infinity is for ever, and 0 stores nothing
    tags: tuple[str, ...]
    excess: str = ""  # why no value can have all the tags; "" if one can


class Keyspace(NearCache):
    """The keys of one namespace, with what one `Space` or decorated function chose for them."""

    __slots__ = ("_given", "fence", "function", "member", "path_hashes", "prefix", "sample", "ttl")

    def __init__(
        self, member: Member, path: str, ttl: float | None, copies: bool, *, fence: bool = False,
        function: FunctionType | None = None, one_part: bool = False, sample: Sample | None = None,
    ) -> None:  # fmt: skip
        self.member = member
        self.prefix = keys.prefix(path)
        self.path_hashes = path_hashes(path)
        self.ttl = ttl  # s; None is for ever
        self._given = Given(math.inf if ttl is None else ttl, ())
        self.fence = fence
        self.function = function  # whose results these keys hold; None once a load has checked it
        self.sample = sample  # draws the hits that are audited; None if none are
        member.notice_fork()
        super().__init__(member.near_caches, path, copies, one_part, function is not None)

    # --- Others beside it

    def below(self, name: str, ttl: Ttl, copy: bool | None, fence: bool | None) -> Keyspace:
        """Return the keyspace of a namespace below this one; None means that of this one."""
        if type(name) is not str or not name or name.startswith("/") or name.endswith("/"):
            raise ValueError(f"a namespace is a non-empty text that neither begins nor ends with '/': {name!r}")
        path = f"{self.path}/{name}" if self.path else name
        copies = self._copies_below(path) if copy is None else check_copy(copy)
        return Keyspace(self.member, path, self.seconds(ttl), copies, fence=self.fence if fence is None else fence)

    def of_function(
        self, function: FunctionType, name: str | None, ttl: float | None, one_part: bool, sample: Sample | None
    ) -> tuple[Keyspace, str]:
        """Return the keyspace of a decorated function, and its name. ``sample`` draws the hits that are audited."""
        known = self.member.functions.name(function, self.path, name)
        before = f"{self.path}/" if self.path else ""
        if name is None:
            known = shortened(known, keys.MAX_NAMESPACE - len(before.encode()))
        copies = self._copies_below(before + known)
        keyspace = Keyspace(
            self.member, before + known, ttl, copies, function=function, one_part=one_part, sample=sample
        )
        self.member.carrier.learn(function)
        return keyspace, known

    def _copies_below(self, path: str) -> bool:
        used = self.member.near_caches.copies_in(path)
        return self.copies if used is None else used

    # --- Reading from the near cache

    def hit(self, key: Key) -> Any:
        """Return what a reader is served at once, and count it; MISSING if nothing is."""
        entries, bell = self.near
        entry = self._look_up(entries, key)
        if entry is None:
            return MISSING
        if entry.bell != bell[0] or entry.until <= monotonic():
            store = entry.home.owner
            if not isinstance(store, NearStore) or not store.lets(entry, monotonic()):
                return MISSING
        entry.hits += 1
        return entry.value

    def entry(self, key: Key) -> Entry | None:
        """Return the near copy of a key, whether it may be served or not; None if there is none."""
        return self._look_up(self.near[0], key)

    def _look_up(self, entries: dict[Key, Entry], key: Key) -> Entry | None:
        written: Any = key[0] if self.one_part else key
        try:
            entry = entries.get(written)
        except TypeError as error:  # it cannot be hashed
            raise_if_from_handler(error)
            entry = None
        if entry is None and type(key) is not str:
            canonical = self._canonical(key)
            entry = entries.get(canonical) if canonical is not written else None
        return entry

    def _canonical(self, key: Key) -> Key:
        """Return the form of a key by which entries are found. Raise TypeError if this is not a key."""
        if type(key) is str:
            return key
        form = keys.canonical_form(key)
        return cast(Key, form[0] if self.one_part else form)

    # --- Using what the shelf has

    def use(self, host: Host, key: Key, wire: bytes, hash: int, record: Record) -> Any:
        """Return the value of a record, and let later readers of this process find it near, if it was found before.

        Many values are read once. To keep them near would take time, and the memory of values that are read again. The
        shelf counts in any case how often all processes have found a value. Return MISSING, and log it, if this process
        cannot decode the value. (See docs/decisions/0024.)
        """
        value = self.decode(record.payload)
        if host.lease is not FOREVER:
            self.note_age(host, record.loaded)
        if record.uses and not self.copies and value is not MISSING:
            self.keep(host, key, wire, hash, record, value)
        return value

    def note_age(self, host: Host, loaded: float) -> None:
        """Have loads that this call is a part of count their ages from when a value was loaded, if the host is behind.

        See `colocache.core.hosts.lease.Lease.as_of`.
        """
        if not host.is_current():
            for load in active():
                load.age(loaded)

    def decode(self, payload: bytes | memoryview) -> Any:
        """Return the value of a payload; MISSING, logged, if this process cannot decode it."""
        try:
            return self.member.carrier.decode(payload)
        except ValueError as error:
            raise_if_from_handler(error)
            self.member.tell_undecodable(self.path, error)
            return MISSING

    def keep(self, host: Host, key: Key, wire: bytes, hash: int, record: Record, value: object) -> None:
        """Let readers of this process find a value near, as long as its record is the key's present one.

        Not for keyspaces whose readers get copies.
        """
        home, keeper = self.home, host.keeper
        if home.owner is not keeper.store:  # it belongs to another life by now
            return
        payload, label, expires, loaded, _, way, _ = record
        found_by = key if type(key) is str else self._canonical(key)
        size = OVERHEAD_BESIDE_LABEL + len(label) + len(wire) + len(payload)
        new: Callable[..., Entry] = Entry
        sample = self.sample
        if sample is not None:
            new = partial(SampledEntry, sample.skip(), loaded)
        keeper.keep(new(home, found_by, value, hash, label, way, expires - host.ahead, size))

    def hashes(self, tags: Iterable[str] = ()) -> tuple[int, ...]:
        """Return the hashes of all that a value depends on beside its key: its namespaces, the root first, its tags."""
        if tags == ():
            return self.path_hashes
        tags = tuple(tags)
        host = self.member.own_host()
        if host is not None:
            host.note_tags(tags)
        return (*self.path_hashes, *map(tag_hash, tags))

    # --- Checking what callers give

    def wire(self, key: Key) -> bytes:
        """Return the key as it travels. Raise TypeError for what is not a key."""
        return keys.wire(self.prefix, key)

    def given(self, ttl: Ttl, tags: Iterable[str]) -> Given:
        """Return what a caller gives with a value. Raise TypeError or ConfigError if it cannot be used."""
        if ttl is UNSET and tags == ():
            return self._given
        names, excess = travelling(checked_tags(tags)) if tags != () else ((), "")
        if len(names) > MAX_TAGS:
            excess = f"it has {len(names)} tags, more than {MAX_TAGS}: {names!r:.100}"
        seconds = self.seconds(ttl)
        return Given(math.inf if seconds is None else seconds, names, excess)

    def seconds(self, ttl: Ttl) -> float | None:
        """Return a ttl in seconds, this namespace's own if none is given; None is for ever."""
        return self.ttl if isinstance(ttl, Unset) else parse_ttl(ttl)

    def encode(self, key: Key, value: object, given: Given, host: Host | None = None) -> bytes | None:
        """Return a value as it travels; None, counted and logged, if it or its tags are too large to be kept.

        The same if there is no memory for that: the caller is to have the value all the same. ``host`` is where it is
        to be kept; None is the present one. Raise TypeError, with the key, if it cannot travel.
        """
        payload, excess = b"", given.excess
        try:
            payload = self.member.carrier.encode(value)
        except TypeError as error:
            raise_if_from_handler(error)
            where = f" of {self.path}" if self.path else ""
            raise TypeError(f"the value of the key {shown(key)}{where} cannot be carried: {error}") from None
        except OversizeError as error:
            excess = str(error)
        except MemoryError as error:
            raise_if_from_handler(error)
            excess = "there is not enough memory to encode it"
        if not excess:
            host = host or self.member.join()
            if host is None or len(payload) <= host.shelf.max_value:
                return payload
            excess = (
                f"it takes {len(payload)} bytes, more than the {host.shelf.max_value} that a shelf of this size takes"
            )
        self.decline(key, excess)
        return None

    def encode_loaded(self, key: Key, wire: bytes, value: object, given: Given, host: Host) -> bytes | None:
        """Encode a loaded value as `encode` does.

        If the last value of this key was too large, look first whether this one is, too: to encode it takes long.
        """
        large, most = self.member.life.large, host.shelf.max_value
        if large.holds(wire) and self.member.carrier.takes_more_than(value, most):
            self.decline(key, f"it takes more than {most} bytes")
            return None
        payload = self.encode(key, value, given, host)
        if payload is None:
            large.note(wire)
        else:
            large.forget(wire)
        return payload

    # --- Counting

    def count_write(self, outcome: Outcome, *, is_fill: bool = False) -> None:
        """Count what became of a write, or of a fill, which is the write of a loaded value."""
        counters, is_stored, is_refused = self.counters, outcome is Outcome.STORED, outcome is Outcome.REFUSED
        if outcome is Outcome.BUSY:
            counters.busy += 1
        elif is_fill:
            counters.fills += is_stored
            counters.fills_refused += is_refused
        else:
            counters.sets += is_stored
            counters.sets_refused += is_refused

    def decline(self, key: Key, why: str) -> None:
        """Count and log that a value is used, and not kept."""
        self.counters.oversize += 1
        self.member.tell_declined(key, self.path, why)

    # --- Checking the function

    def check_function(self) -> None:
        """Raise TypeError, before the first load, if the function returns a class that cannot travel."""
        if self.function is not None:
            self.member.carrier.check(self.function)
            self.function = None


def checked_tags(tags: Iterable[str]) -> Iterable[str]:
    """Return the tags. Raise TypeError if they are a text, which would be taken for one tag for each letter."""
    if isinstance(tags, str):
        raise TypeError(f"tags is a tuple of texts, not a text: write tags=({tags!r},)")
    return tags


def travelling(tags: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Return the tags that can travel, each once, and why another one cannot. Raise TypeError if one is not a text."""
    names, excess = dict[str, None](), ""
    for tag in tags:
        try:
            names[check_tag(tag)] = None
        except ValueError as error:
            raise_if_from_handler(error)
            excess = str(error)
    return tuple(names), excess


def check_copy(copy: bool) -> bool:
    """Tell whether readers get copies. Raise TypeError if this is not a bool."""
    if not isinstance(copy, bool):
        raise TypeError(f"copy is True or False, not {copy!r:.60}")
    return copy


def copied(value: Any) -> Any:
    """Return a copy of a value that does not travel. Raise ValueError if it cannot be copied: it may be too deep."""
    try:
        return copying.deepcopy(value)
    except Exception as error:
        raise_if_foreign(error)
        raise ValueError(f"it cannot be copied: {type(error).__name__}: {error}") from error
