"""The keys of one namespace, as operations see them: what the namespace's user chose, and its near cache."""

from __future__ import annotations

import contextlib
import copy as copying
import math
from collections.abc import Callable, Iterable
from time import monotonic
from types import FunctionType
from typing import Any, NamedTuple, cast

from ..config import Duration, Unset, parse_ttl
from ..core import keys
from ..core.entry import MISSING, Entry, Home
from ..core.group.messages import EVERYTHING, MAX_TAGS, check_tag, key_target, namespace_target
from ..core.keys import Key
from ..core.options import EntryOptions
from ..errors import OversizeError
from ..member import Member
from ..naming import shortened, shown
from ..near_cache import NearCache
from ..runtime.driver import Driver
from . import fenced
from .under_way import note_age

Ttl = Duration | None | Unset


class Given(NamedTuple):
    """What a caller gives with a value, checked."""

    options: EntryOptions
    excess: str = ""  # why no value can have all the tags; "" if one can


class Keyspace(NearCache):
    """The keys of one namespace, with what one `Space` or decorated function chose for them."""

    __slots__ = ("fence", "function", "member", "prefix", "ttl")

    def __init__(
        self, member: Member, path: str, ttl: float | None, copies: bool, *, fence: bool = False,
        function: FunctionType | None = None, one_part: bool = False,
    ) -> None:  # fmt: skip
        self.member = member
        self.prefix = keys.prefix(path)
        self.ttl = ttl  # s; None is for ever
        self.fence = fence
        self.function = function  # whose results these keys hold; None once a load has checked it
        super().__init__(member.near_caches, path, copies, one_part)

    # --- Others beside it

    def below(self, name: str, ttl: Ttl, copy: bool | None, fence: bool | None) -> Keyspace:
        """Return the keyspace of a namespace below this one; None means that of this one."""
        if type(name) is not str or not name or name.startswith("/") or name.endswith("/"):
            raise ValueError(f"a namespace is a non-empty text that neither begins nor ends with '/': {name!r}")
        path = f"{self.path}/{name}" if self.path else name
        copies = self._copies_below(path) if copy is None else check_copy(copy)
        return Keyspace(self.member, path, self.seconds(ttl), copies, fence=self.fence if fence is None else fence)

    def of_function(
        self, function: FunctionType, name: str | None, ttl: float | None, one_part: bool
    ) -> tuple[Keyspace, str]:
        """Return the keyspace of a decorated function, and its name."""
        known = self.member.functions.name(function, self.path, name)
        before = f"{self.path}/" if self.path else ""
        if name is None:
            known = shortened(known, keys.MAX_NAMESPACE - len(before.encode()))
        copies = self._copies_below(before + known)
        keyspace = Keyspace(self.member, before + known, ttl, copies, function=function, one_part=one_part)
        self.member.carrier.learn(function)
        return keyspace, known

    def _copies_below(self, path: str) -> bool:
        used = self.member.near_caches.copies_in(path)
        return self.copies if used is None else used

    # --- Reading from the near cache

    def hit(self, key: Key) -> Any:
        """Return what a reader is served at once, and count it; MISSING if nothing is."""
        gate = self.gate  # before the entry: see `NearCaches.bind`
        entry = self._look_up(key)
        if entry is None:
            return MISSING
        now = monotonic()
        is_behind = now >= gate.current_until
        if not gate.lets(entry, now):
            return MISSING
        value = entry.value if entry.value is not MISSING else self._copy_of(entry)
        if value is not MISSING:
            entry.hits += 1
            if is_behind:
                note_age(entry.loaded_at)
        return value

    def _look_up(self, key: Key) -> Entry | None:
        written: Any = key[0] if self.one_part else key
        try:
            entry = self.entries.get(written)
        except TypeError:  # it cannot be hashed
            entry = None
        if entry is None:
            canonical = self._canonical(key)
            entry = self.entries.get(canonical) if canonical is not written else None
        return entry

    def _copy_of(self, entry: Entry) -> Any:
        if self.copies and entry.payload is not None:
            with contextlib.suppress(ValueError):  # the call that asks the member then is told what is wrong
                return self.member.carrier.decode(entry.payload)
        return MISSING

    def _canonical(self, key: Key) -> Key:
        """Return the form of a key by which `entries` has it. Raise TypeError if this is not a key."""
        if type(key) is str:
            return key
        form = keys.canonical_form(key)
        return cast(Key, form[0] if self.one_part else form)

    # --- Using what the member answers

    def use(self, driver: Driver, key: Key, entry: Entry) -> Any:
        """Return the value of a member's entry, and let later readers find the entry by the key.

        Raise ValueError if the value cannot be decoded.
        """
        if monotonic() >= driver.gate.current_until:
            note_age(entry.loaded_at)
        payload, value = entry.payload, entry.value  # in this order: see `Entry.publish`
        if self.copies and payload is None:  # it was too large to be kept
            return copied(value)
        if self.copies or value is MISSING:
            assert payload is not None
            value = self.member.carrier.decode(payload)
        elif self.entries.get(self._canonical(key)) is entry:
            return value
        self.publisher(driver, key, value)(entry)
        return value

    def publisher(self, driver: Driver, key: Key, value: object) -> Callable[[Entry], None]:
        """Return what lets readers of this process find an entry of a member by its key."""
        home, key = self.home, self._canonical(key)
        if home.owner is not driver.store:  # it is another member's by now, which could not invalidate the entry
            home = Home(driver.store)
        if self.copies:
            return lambda entry: entry.publish(home, key, MISSING, keep_payload=True)
        return lambda entry: entry.publish(home, key, value, keep_payload=False)

    # --- Checking what callers give

    def wire(self, key: Key) -> bytes:
        """Return the key as it travels. Raise TypeError for what is not a key."""
        return keys.wire(self.prefix, key)

    def given(self, ttl: Ttl, tags: Iterable[str]) -> Given:
        """Return what a caller gives with a value. Raise TypeError or ConfigError if it cannot be used."""
        names, excess = travelling(checked_tags(tags))
        if len(names) > MAX_TAGS:
            excess = f"it has {len(names)} tags, more than {MAX_TAGS}: {names!r:.100}"
        seconds = self.seconds(ttl)
        return Given(EntryOptions(math.inf if seconds is None else seconds, names), excess)

    def seconds(self, ttl: Ttl) -> float | None:
        """Return a ttl in seconds, this namespace's own if none is given; None is for ever."""
        return self.ttl if isinstance(ttl, Unset) else parse_ttl(ttl)

    def encode(self, key: Key, value: object, given: Given) -> bytes | None:
        """Return a value as it travels; None, counted and logged, if it or its tags are too large to be kept.

        Raise TypeError, with the key, if it cannot travel.
        """
        payload, excess = b"", given.excess
        try:
            payload = self.member.carrier.encode(value)
        except TypeError as error:
            where = f" of {self.path}" if self.path else ""
            raise TypeError(f"the value of the key {shown(key)}{where} cannot be carried: {error}") from None
        except OversizeError as error:
            excess = str(error)
        if not excess:
            return payload
        self.member.decline(key, self.path, excess)
        return None

    def check_function(self) -> None:
        """Raise TypeError, before the first load, if the function returns a class that cannot travel."""
        if self.function is not None:
            self.member.carrier.check(self.function)
            self.function = None

    # --- What an invalidation names

    def key_targets(self, names: Iterable[Key]) -> list[bytes]:
        """Return the targets of keys, which this context does not take for missed any more."""
        wires = [self.wire(key) for key in names]
        if self.fence:
            fenced.forget(self.member.serial, wires)
        return [key_target(wire) for wire in wires]

    def own_targets(self) -> list[bytes]:
        """Return the target of all keys here and below, which this context does not take for missed any more."""
        if self.fence:
            fenced.forget_within(self.member.serial, self.path)
        return [namespace_target(self.path) if self.path else EVERYTHING]


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
        raise ValueError(f"it cannot be copied: {type(error).__name__}: {error}") from error
