"""The rules of a host, taken out one at a time; and where that is noticed.

Most mutants say in which scenario they are caught, by every interleaving within a budget of deviations. Some rules
matter only on machines that reorder more than x86. Others say which tests notice them that are written by hand. The
rest are for random histories.

Rules V1 to V7 are those of near copies, C1 to C12 those of claims, as in the comments of the core. Each has a mutant,
and so has each rule of the log.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from typing import Any, NamedTuple

import colocache.host
from colocache.core.host import claims, record
from colocache.core.host.board import GROUP, Board, Label
from colocache.core.host.claims import Claims
from colocache.core.host.logs import Logs
from colocache.core.host.shelf import Shelf
from colocache.core.hosts.log import HostLog
from colocache.core.near import NearStore
from colocache.host import Host as RealHost
from colocache.near_cache import NearCaches
from colocache.operations import write
from colocache.operations.keyspace import Keyspace
from colocache.operations.load import Duty
from verification.host.machine import SimulatedRingLocks
from verification.host.oracle import Thing, Value
from verification.host.world import Copy, Host

Change = AbstractContextManager[Any]


class Mutant(NamedTuple):
    """A rule that is taken out."""

    change: Callable[[], Change]
    scenario: str  # where that is noticed; "" if there is none
    tests: str  # the file or folder of the tests that notice it; "" if it is for the two other nets
    only_weak: bool  # whether only on machines that reorder more than x86
    budget: int  # of deviations


MUTANTS: dict[str, Mutant] = {}


def mutant(
    scenario: str = "", *, tests: str = "", only_weak: bool = False, budget: int = 2
) -> Callable[[Callable[[], Change]], Callable[[], Change]]:
    """Register a mutant under its function's name."""

    def register(change: Callable[[], Change]) -> Callable[[], Change]:
        MUTANTS[change.__name__] = Mutant(change, scenario, tests, only_weak, budget)
        return change

    return register


@contextmanager
def replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Have an attribute replaced for a while."""
    before = inspect.getattr_static(holder, name)  # a static method as it is, and not its function
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


def edited(holder: Any, name: str, *edits: tuple[str, str]) -> Change:
    """Have the text of a method edited for a while. Each text that is replaced must be there, once."""
    method = inspect.getattr_static(holder, name)
    static = isinstance(method, staticmethod)
    function = method.__func__ if static else method
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in edits:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} is {source.count(old)} times in {name}")
        source = source.replace(old, new)
    made: dict[str, Any] = {}
    exec(compile(source, f"<mutant of {name}>", "exec"), function.__globals__, made)
    return replaced(holder, name, staticmethod(made[name]) if static else made[name])


# --- Board and near copies


@mutant("a_copy_beside_an_invalidation")
def bell_before_stamps() -> Any:
    """V1: the stamps come first."""

    def invalidate(board: Board, hashes: Iterable[int], *, related: bool = False) -> None:
        board.ring()
        board.stamp(hashes)

    return replaced(Board, "invalidate", invalidate)


@mutant("a_copy_beside_an_invalidation")
def returns_without_ringing() -> Any:
    """V1: the bell is rung before the call returns."""
    return replaced(Board, "invalidate", lambda board, hashes, related=False: board.stamp(hashes))


@mutant("a_copy_beside_an_invalidation", only_weak=True, budget=3)
def no_fence_before_the_bell() -> Any:
    """V1: a fence lies between stamps and bell."""

    def ring(board: Board) -> None:
        board.bell[0] = board._numbers.next()
        board._fences.full()

    return replaced(Board, "ring", ring)


@mutant("the_reader_has_just_invalidated_something")
def no_full_fence() -> Any:
    """V7: before the call returns, a full fence."""

    def ring(board: Board) -> None:
        board._fences.order()
        board.bell[0] = board._numbers.next()

    return replaced(Board, "ring", ring)


@mutant("a_copy_beside_an_invalidation")
def one_mark_is_stamped() -> Any:
    """An event stamps all four marks."""

    def stamp(board: Board, hashes: Iterable[int]) -> None:
        number = board._numbers.next()
        for hash in hashes:
            board.marks[board.marks_of(hash)[0]] = number

    return replaced(Board, "stamp", stamp)


@mutant("a_copy_beside_an_invalidation")
def bell_is_not_compared() -> Any:
    """V2: a hit compares the bell."""
    return replaced(NearStore, "lets", lambda near, entry, now: entry.expires > now)


@mutant("a_copy_beside_an_invalidation")
def stamps_are_not_compared() -> Any:
    """V3: at another bell, the stamps are compared."""

    return edited(NearStore, "lets", ("if not self._board.stands(entry.label):", "if False:"))


@mutant("a_copy_beside_an_invalidation")
def stamps_before_the_bell() -> Any:
    """V3: the bell is read before the stamps."""

    return edited(
        NearStore, "lets", ("        self._fences.order()\n", ""),
        ("    entry.bell = bell\n", "    self._fences.order()\n    entry.bell = self.bell[0]\n"),
    )  # fmt: skip


@mutant("a_copy_beside_an_invalidation", only_weak=True)
def no_fence_behind_the_bell() -> Any:
    """V3: a fence lies between bell and stamps."""

    return edited(NearStore, "lets", ("self._fences.order()", "pass"))


@mutant("a_copy_of_a_load_beside_an_invalidation")
def new_copy_has_the_present_bell() -> Any:
    """V4: a new near copy has no bell."""

    def keep(host: Host, key: int, label: Label, value: Value, expires: float = math.inf) -> None:
        host.copies[key] = Copy(label, expires, value)
        host.copies[key].bell = host.board.bell[0]

    return replaced(Host, "keep", keep)


@mutant("a_copy_of_a_load_beside_an_invalidation")
def label_is_read_after_the_load() -> Any:
    """V4: a load is labelled with stamps that were read before it."""

    def load(host: Host, key: int, *others: Thing) -> None:
        things = ("all", key, *others)
        host.world.machine.yield_now()
        host.world.hear()
        value = host.world.oracle.value("load", key, things)
        host.world.machine.yield_now()
        host.keep(key, host.board.label(host.hashes_in_order(key, others)), value)

    return replaced(Host, "load_near", load)


@mutant("a_record_is_copied_beside_an_invalidation")
def copy_is_labelled_near_by() -> Any:
    """The label rule: what is copied takes over the label of what it was made of."""

    def copy(host: Host, record: Copy, key: int) -> None:
        host.world.machine.yield_now()
        if host.board.stands(record.label):
            host.keep(key, host.board.label(host.hashes_in_order(key, ())), record.value)

    return replaced(Host, "copy", copy)


@mutant("two_writers", budget=3)
def bell_is_a_counter() -> Any:
    """V5: the number in the bell was never used before."""

    def ring(board: Board) -> None:
        board._fences.order()
        board.bell[0] = board.bell[0] + 1
        board._fences.full()

    return replaced(Board, "ring", ring)


@mutant("parent_and_child_invalidate")
def child_keeps_the_writer() -> Any:
    """V5: a forked child does not use its parent's numbers."""
    fork = Host.fork

    def keeps(host: Host, name: str) -> Host:
        child = fork(host, name)
        numbers = child.numbers
        numbers.next = count(_peek(host)).__next__
        return child

    return replaced(Host, "fork", keeps)


def _peek(host: Host) -> int:
    """Return the next number of a host, which keeps it."""
    number = host.numbers.next()
    host.numbers.next = count(number).__next__
    return number


@mutant("a_copy_beside_an_invalidation")
def stamps_are_counters() -> Any:
    """V5: a stamp is a number that was never used before."""

    def stamp(board: Board, hashes: Iterable[int]) -> None:
        for hash in hashes:
            places = board.marks_of(hash)
            number = board.marks[places[0]] + 1
            for place in places:
                board.marks[place] = number

    return replaced(Board, "stamp", stamp)


@mutant(tests="tests/test_near_cache.py")
def entries_outlive_their_region() -> Change:
    """V6: what was kept on another region is not found on this one."""
    return edited(
        NearCaches, "bind",
        ("self._homes = weakref", "self._homes = getattr(self, '_homes', None) or weakref"),
    )  # fmt: skip


@mutant()
def copies_outlive_their_expiry() -> Change:
    """A near copy is not served when it has expired."""
    return edited(NearStore, "lets", ("if expires <= now:", "if False:"))


@mutant()
def what_is_found_is_labelled_near_by() -> Change:
    """The label rule, where users' reads copy a record: the near copy has the record's label."""
    return edited(
        Keyspace, "keep", ("value, hash, label, way", "value, hash, host.board.label_of(hash, self.path_hashes), way")
    )  # fmt: skip


@mutant()
def refused_fills_are_kept_near() -> Change:
    """What was loaded is not kept near if its fill was refused."""
    return edited(
        Duty, "_keep", ("if outcome is not Outcome.REFUSED and", "if")
    )  # fmt: skip


# --- The shelf: readers


@mutant("a_record_is_overwritten_while_it_is_read", budget=2)
def readers_check_no_sum() -> Change:
    """A record is served only if its checksum is right."""
    return edited(Shelf, "find", (") == check:", ") == check or True:"))


@mutant("a_key_with_the_place_of_another_one")
def keys_are_not_compared() -> Change:
    """A record is served only if it is of the key."""
    return edited(Shelf, "find", ("if body[end:start] != wire:", "if False:"))


@mutant("a_load_beside_an_invalidation")
def readers_do_not_look_at_the_board() -> Change:
    """A record is served only if its label stands."""
    return edited(
        Shelf, "find", ("marks[0] != root\n", "False\n"), ("marks[page + (hash & OFFSET)] != k1\n", "False\n"),
        ("marks[page + (writes & OFFSET)] != w1\n", "False\n"),
    )  # fmt: skip


@mutant("a_count_beside_an_event_of_its_tag", budget=1)
def readers_do_not_look_at_tags() -> Change:
    """Tags are in the label, too."""
    return edited(Shelf, "find", ("self._board.stands(label[KEY_GROUPS * GROUP.size :])", "True"))


@mutant("a_set_that_expires")
def readers_do_not_look_at_the_clock() -> Change:
    """What has expired is not served."""
    return edited(Shelf, "find", ("if expires <= now or", "if"))


@mutant("a_counter_is_read_while_it_is_counted")
def readers_do_not_look_again() -> Change:
    """Who finds a record void looks whether the key has another one by now."""
    return edited(Shelf, "_find_again", ("if looks and", "if False and"))


@mutant(tests="tests/core/host/test_shelf.py")
def checks_have_no_seed() -> Change:
    """A record's checksum is seeded with its position."""
    stack = ExitStack()
    stack.enter_context(edited(Shelf, "find", ("seed = word & POSITION", "seed = 0")))
    stack.enter_context(edited(Shelf, "_copy", ("checksum(body, word & POSITION)", "checksum(body, 0)")))
    stack.enter_context(edited(Logs, "append", ("checksum(body, seed)", "checksum(body, 0)")))
    stack.enter_context(edited(Logs, "_read", ("checksum(body, position)", "checksum(body, 0)")))
    return stack


@mutant(tests="tests/core/host/test_shelf.py")
def no_fence_behind_a_torn_record() -> Change:
    """Who finds a record that is not whole looks again behind a fence."""
    return edited(Shelf, "find", ("self._fences.order()", "pass"))


@mutant(tests="tests/core/host/test_shelf.py")
def misses_do_not_look_behind_their_label() -> Change:
    """C2: the label of a miss is read before the shelf is looked at."""
    return edited(Shelf, "look", ("self.find(wire, hash, now, after) or Miss(label, now)", "Miss(label, now)"))


@mutant(tests="tests/core/host/test_shelf.py")
def no_fence_behind_the_label_of_a_miss() -> Change:
    """C2: a fence lies between the two."""
    return edited(Shelf, "look", ("self._fences.order()", "pass"))


# --- The shelf: writers


@mutant("a_counter_is_read_while_it_is_counted", only_weak=True)
def no_fence_behind_the_commit() -> Change:
    """A fence lies between the commit and the stamps."""
    return edited(Shelf, "_stamp", ("self._fences.order()", "pass"))


@mutant("who_counts_is_killed", budget=1)
def stamps_before_the_commit() -> Change:
    """The commit comes before the stamps."""
    return edited(
        Shelf, "_write", ("way = logs.commit(", "stamps and self._board.stamp_write(label); way = logs.commit(")
    )


@mutant("a_record_is_read_beside_a_set")
def writes_are_not_stamped() -> Change:
    """A write stamps the writes to the key."""
    return edited(Shelf, "_stamp", ("    self._board.stamp_write(label)\n        return True\n", "    return True\n"))


@mutant("a_record_is_read_beside_a_set")
def writes_do_not_ring() -> Change:
    """A write rings the bell."""
    return edited(Shelf, "_put", ("self._board.ring()", "pass"))


@mutant("who_counts_is_killed", budget=1)
def records_stand_by_their_new_stamps_only() -> Change:
    """A record stands from its commit on, before its writer's stamps are stored."""
    return edited(Board, "write_label", ("GROUP.pack(writes, first,", "GROUP.pack(writes, number,"))


@mutant("who_sets_is_killed", budget=1)
def sets_stand_by_their_new_stamps_only() -> Change:
    """The same where nothing is taken over of the value before."""
    return edited(Board, "label_to_write", ("writes, marks[page + (writes & OFFSET)]", "writes, number"))


@mutant("who_sets_is_killed", only_weak=True)
def ways_are_seen_before_their_records() -> Change:
    """A way is seen after the bytes that it points to."""
    return edited(Logs, "append", ("self._fences.order()", "pass"))


@mutant("who_counts_is_killed", budget=1)
def first_stamp_is_stored_first() -> Change:
    """The first stamp, by which the record stands, is stored last."""
    return edited(
        Board, "stamp_write",
        ("    self._fences.order()  # otherwise the record could be seen to stand by none of its marks\n", ""),
        ("    marks[first] = number", "    pass"),
        ("    marks[fourth] = number", "    marks[first] = number; marks[fourth] = number"),
    )  # fmt: skip


@mutant("a_count_beside_an_invalidation")
def counters_are_labelled_near_by() -> Change:
    """What is made of a value takes over its label."""
    return edited(
        Shelf, "_change",
        ("self._board.write_label(found.label)", "self._board.label_to_write(hash, hashes)"),
    )  # fmt: skip


@mutant("compare_and_set_beside_an_invalidation")
def compared_and_set_is_labelled_near_by() -> Change:
    """The same for compare and set."""
    return edited(Shelf, "replace", ("known.get(thing, group)", "group"))


@mutant("compare_and_set_with_a_new_tag", budget=1)
def events_of_new_tags_are_overlooked() -> Change:
    """Who compares and sets with a new tag asks whether any tag was invalidated."""
    return edited(Shelf, "replace", ("if not no_tag_event():", "if False:"))


@mutant("compare_and_set_with_a_new_tag")
def events_are_asked_for_before_the_label() -> Change:
    """He asks once he has read the tag's stamps."""
    return edited(
        Shelf, "replace",
        ("label = self._label(hash, hashes)  # before the question",
         "passed = no_tag_event(); label = self._label(hash, hashes)"),
        ("if not no_tag_event():", "if not passed:"),
    )  # fmt: skip


@mutant("compare_and_set_with_a_new_tag")
def all_tags_are_stamped_after_the_tag() -> Change:
    """An event of a tag stamps all tags together first."""
    return edited(
        Host, "stamp_and_ring",
        ("    self.board.stamp((ANY_TAG,))\n", "    pass\n"),
        ("    self.board.invalidate(hashes, related=related)\n",
         "    self.board.invalidate(hashes, related=related); self.board.stamp((ANY_TAG,))\n"),
    )  # fmt: skip


@mutant("two_compare_and_set")
def versions_are_not_compared() -> Change:
    """Who compares and sets compares the version."""
    return edited(Shelf, "replace", ("or record.version != version ", ""))


@mutant("two_add")
def add_looks_at_nothing() -> Change:
    """Who adds looks whether there is a value."""
    return edited(Shelf, "add", ("None if self._is_current(record, now) else", ""))


@mutant("an_add_beside_a_load")
def fills_replace_what_is_current() -> Change:
    """A fill is refused if there is a current value."""
    return edited(
        Shelf, "fill", ("return None if self._is_kept(record, miss, now) else miss.label", "return miss.label")
    )  # fmt: skip


@mutant("a_load_beside_an_invalidation")
def fills_are_labelled_near_by() -> Change:
    """A fill has the label of its miss."""
    return edited(
        Shelf, "fill",
        ("else miss.label", "else self._label(hash, (0,))"),
    )  # fmt: skip


@mutant("a_fenced_set_beside_a_set_that_is_void")
def fences_are_not_compared() -> Change:
    """A set under a fence is refused if the label of its miss does not stand."""
    return edited(Shelf, "set_fenced", ("or not self._board.stands(miss.label)", ""))


@mutant("a_fenced_set_beside_an_invalidation")
def fenced_sets_are_labelled_near_by() -> Change:
    """A set under a fence has the label of its miss."""
    return edited(
        Shelf, "set_fenced",
        ("or not self._board.stands(miss.label):", ":"), ("write_label(miss.label)", "label_to_write(hash, (0,))"),
    )  # fmt: skip


@mutant("a_set_without_the_lock")
def sets_without_the_lock_do_nothing() -> Change:
    """A set that does not get the lock invalidates the key."""
    return edited(Shelf, "set", ("self._board.invalidate((hash,))", "pass"))


@mutant(tests="tests/core/host/test_shelf.py")
def fenced_sets_without_the_lock_do_nothing() -> Change:
    """A set under a fence that is not possible invalidates the key."""
    return edited(Shelf, "set_fenced", ("self._board.invalidate((hash,))", "pass"))


@mutant(tests="tests/test_atomic.py")
def late_fences_leave_the_old_value() -> Change:
    """A set under a fence that is too old invalidates the key."""
    return edited(write, "put_missed", ("host.void((hash,))", "pass"))


@mutant(tests="tests/test_atomic.py")
def events_of_a_fences_tags_are_overlooked() -> Change:
    """A set under a fence with tags asks whether any tag was invalidated since the miss."""
    return edited(write, "put_missed", ("if host.any_tag() != fence.any_tag:", "if False:"))


@mutant(tests="tests/test_atomic.py")
def tags_of_a_fence_are_labelled_after_the_question() -> Change:
    """It asks once it has read the tags' stamps."""
    return edited(
        write, "put_missed",
        ("    if given.tags:", "    asked = host.any_tag()\n    if given.tags:"),
        ("if host.any_tag() != fence.any_tag:", "if asked != fence.any_tag:"),
    )  # fmt: skip


@mutant(tests="tests/test_atomic.py")
def all_tags_are_not_stamped() -> Change:
    """An event of a tag stamps all tags together, too, where users' calls come in."""
    return edited(colocache.host, "stamp", ("board.stamp((ANY_TAG,))", "pass"))


@mutant(tests="tests/operations/test_near_copies.py")
def related_things_are_not_told_of() -> Change:
    """Users' calls tell the board where a value may be among the things that is made of others among them."""
    return edited(RealHost, "void", ("kind != KEYS or len(hashes) > 1", "False"))


@mutant("two_count")
def nobody_takes_the_lock() -> Change:
    """Writers of one ring exclude each other."""
    return replaced(SimulatedRingLocks, "lock", lambda locks, ring: True)


@mutant("a_page_made_of_a_part")
def related_things_are_stamped_once() -> Change:
    """An event that names a part and what is made of it stamps twice."""
    return edited(Board, "invalidate", ("if related:", "if False:"))


@mutant("a_page_made_of_a_part")
def related_things_are_not_rung_for_in_between() -> Change:
    """It rings the bell before it stamps again."""
    return edited(Board, "invalidate", ("if related:\n        self.ring()", "if related:\n        pass"))


# --- The logs


@mutant("who_writes_in_a_full_ring_is_killed")
def head_before_the_bytes() -> Change:
    """The head is stored after the bytes."""
    return edited(
        Logs, "append",
        ("    self._data[offset + 8 : offset + total] = body\n",
         "    head[at + _HEAD] = position + (total + UNIT - 1 & -UNIT)\n"
         "    self._data[offset + 8 : offset + total] = body\n"),
    )  # fmt: skip


@mutant("who_writes_in_a_full_ring_is_killed")
def tail_after_the_bytes() -> Change:
    """Room is made before anything is overwritten."""
    late: list[tuple[Any, int, int]] = []
    append = Logs.append

    def appends(self: Logs, *arguments: Any) -> int:
        seed = append(self, *arguments)
        while late:
            head, place, tail = late.pop(0)
            if not head._machine.is_closed:  # otherwise it is left from another run
                head[place] = tail
        return seed

    stack = ExitStack()
    stack.enter_context(
        edited(
            Logs,
            "_make_room",
            ("        head[at + _TAIL] = tail\n", "        self._late.append((head, at + _TAIL, tail))\n"),
        )
    )
    stack.enter_context(replaced(Logs, "append", appends))
    Logs._late = late  # type: ignore[attr-defined]
    return stack


@mutant("who_writes_in_a_full_ring_is_killed")
def way_before_the_head() -> Any:
    """The way is stored after the head."""
    late: list[tuple[Any, int, int]] = []
    commit = Logs.commit

    def commits(self: Logs, *arguments: Any) -> int:
        way = commit(self, *arguments)
        while late:
            head, place, position = late.pop(0)
            if not head._machine.is_closed:  # otherwise it is left from another run
                head[place] = position
        return way

    stack = ExitStack()
    stack.enter_context(
        edited(
            Logs, "append",
            ("    head[at + _HEAD] = position + (total + UNIT - 1 & -UNIT)\n",
             "    self._late.append((head, at + _HEAD, position + (total + UNIT - 1 & -UNIT)))\n"),
        )
    )  # fmt: skip
    stack.enter_context(replaced(Logs, "commit", commits))
    Logs._late = late  # type: ignore[attr-defined]
    return stack


@mutant(tests="tests/core/host/test_logs.py")
def what_is_changed_is_dropped_for_it() -> Change:
    """What is to be changed is moved rather than dropped to make room for its own change."""
    return edited(Logs, "_retire", ("way == keep or ", ""))


@mutant(tests="tests/core/host/test_logs.py")
def records_are_looked_for_behind_the_head() -> Change:
    """Behind the head of a log is no record."""
    return edited(Logs, "_has_room", ("tail == head[at + _HEAD] or ", ""))


@mutant(tests="tests/core/host/test_shelf.py")
def garbage_that_comes_back_is_raised() -> Change:
    """Where two have a lock, a ring may be garbage again at once. The value is declined."""
    return edited(Shelf, "_store", ("range(2)", "range(1)"), ("return Outcome.DECLINED, None", "raise Garbage"))


@mutant("who_writes_in_a_full_ring_is_killed")
def ways_are_cleared_after_the_tail() -> Change:
    """The way of a dropped record is cleared before the tail passes it."""
    return edited(
        Logs, "_retire",
        ("    self._index[way] = 0\n",
         "    self._head[self._line(ring) + log * _LOG_WORDS + _TAIL] += len(body) + 8 + UNIT - 1 & -UNIT\n"
         "    self._index[way] = 0\n"),
    )  # fmt: skip


@mutant("a_record_is_moved_while_its_key_is_invalidated")
def moved_records_are_labelled_near_by() -> Change:
    """A moved record keeps its label."""
    move = Logs._move

    def moves(self: Logs, ring: int, log: int, way: int, hash: int, body: bytes, *more: Any) -> bool:
        old = record.label_of(body)
        label = self._board.label([group[0] for group in GROUP.iter_unpack(old)])
        relabelled = body[: record.LABEL_AT] + label + body[record.LABEL_AT + len(old) :]
        return move(self, ring, log, way, hash, relabelled, *more)

    return replaced(Logs, "_move", moves)


@mutant("a_ring_is_reset_beside_a_load")
def ways_outlive_a_reset() -> Change:
    """A reset drops all ways of the ring."""
    return edited(Logs, "reset", ("self._index[way] = 0", "pass"))


# --- Claims


@mutant("two_threads_of_one_process", budget=1)
def threads_do_not_join() -> Change:
    """C1: threads of one process join by a table."""
    return edited(Claims, "_join", ("self._loads.setdefault((search.wire, miss.label), search.mine)", "search.mine"))


@mutant("two_threads_of_one_process")
def threads_join_whatever_the_label() -> Change:
    """C1: only who has missed the key under the same label joins."""
    return edited(
        Claims, "_join",
        ("return self._loads.setdefault(",
         "return next((x for (w, _), x in [*self._loads.items()] if w == search.wire), None) "
         "or self._loads.setdefault("),
    )  # fmt: skip


@mutant(tests="tests/core/host/test_claims.py")
def joiners_take_what_has_expired() -> Change:
    """C9: what had expired before a call began is not for it."""
    return edited(Claims, "_wait_for_thread", (" and woken.expires > search.began", ""))


@mutant(tests="tests/core/host/test_claims.py")
def holders_wake_nobody() -> Change:
    """C7: a holder who finds that somebody waits has all woken."""
    return edited(Claims, "end", ("self._wake(load.hash)", "pass"))


@mutant(tests="tests/core/host/test_claims.py")
def hints_are_kept() -> Change:
    """C7: word that is left for another claim is not taken for one's own."""
    return edited(Claims, "_is_awaited_elsewhere", ("+ _WAITS] == load.hint", "+ _WAITS] != 0"))


@mutant(tests="tests/core/host/test_claims.py")
def who_is_late_claims_nothing() -> Change:
    """C8: of those whose patience is over one takes the second byte, and others can see it."""
    return edited(Claims, "_try_to_lead", ("self._take(mine, 1)", "pass"))


@mutant(tests="tests/core/host/test_claims.py")
def orphans_are_waited_for() -> Change:
    """C8: beside a load that goes on without its caller another one is begun."""
    return edited(claims.Load, "lets_load_beside", ("if self.is_orphan and not self.beside:", "if False:"))


@mutant(tests="tests/core/host/test_claims.py")
def failed_loads_are_waited_for_without_end() -> Change:
    """C10: after some loads that gave nothing, who has waited for them loads at once."""
    return replaced(claims._Search, "has_waited_enough", False)


@mutant("two_threads_of_one_process")
def joiners_do_not_look_whether_the_load_has_ended() -> Change:
    """C5: who joins looks whether the load has ended meanwhile."""
    return edited(
        claims._Waiting, "join", ("if self._load is not None and self._load.outcome is not None:", "if False:")
    )  # fmt: skip


@mutant("two_miss_at_once")
def holders_do_not_look_again() -> Change:
    """C3: who has got the byte looks at the shelf again."""
    return edited(
        Claims, "_try_to_lead",
        ("record = self._shelf.find(search.wire, search.hash, search.now, search.after)", "record = None"),
    )  # fmt: skip


@mutant("a_load_and_an_invalidation", budget=2)
def late_label_of_a_load() -> Change:
    """C3: the label is read before the source. (Here it is read anew when the load is stored.)"""
    return edited(Shelf, "fill", ("else miss.label", "else self._label(hash, (0,))"))


@mutant("the_loader_raises")
def failed_loads_are_not_ended() -> Change:
    """C10: a load that fails is ended."""
    return edited(
        Host,
        "_lead",
        ("self.claims.end(lead.load, outcome)", "outcome is AGAIN or self.claims.end(lead.load, outcome)"),
    )


@mutant("the_loader_raises")
def ended_loads_tell_nobody() -> Change:
    """C5: the threads that wait for a load are told of its end."""
    return edited(Claims, "end", ("load.end(outcome)", "pass"))


@mutant("the_loader_raises", tests="tests/core/host/test_claims.py")
def ended_loads_stay_in_the_table() -> Change:
    """C6: a load that has ended is forgotten before anybody is told."""
    return edited(Claims, "end", ("self._loads.pop(name, None)", "pass"))


@mutant("the_holder_is_killed", budget=1)
def waiters_do_not_look_again() -> Change:
    """C7: who waits looks at growing intervals, so he notices a death."""
    pause = "min(search.pause + PAUSE_FOR_EACH * (len(self._sleepers) - 1), search.ends - search.now)"
    return edited(Claims, "_wait_for_process", (pause, "search.ends - search.now"))


@mutant("a_load_that_never_ends", budget=0)
def waiters_have_no_limit() -> Change:
    """C8: who waits has a time limit of his own."""
    stack = ExitStack()
    stack.enter_context(edited(Claims, "_try_to_lead", ("late = not taken and search.is_late", "late = False")))
    stack.enter_context(
        edited(
            Claims,
            "_wait_for_process",
            (
                "pause = min(search.pause + PAUSE_FOR_EACH * (len(self._sleepers) - 1), search.ends - search.now)",
                "pause = search.pause",
            ),
        )
    )
    return stack


@mutant("a_waiter_takes_what_is_not_current", budget=2)
def waiters_take_any_record() -> Change:
    """C9: who waits takes a record if it is current, or under his own label."""
    return edited(
        Shelf, "find_labelled", ("record.label == label or self._board.stands(record.label)", "True")
    )  # fmt: skip


@mutant("a_load_that_never_ends_and_an_invalidation", budget=0)
def labels_do_not_choose_the_byte() -> Change:
    """C11: an event changes the byte, so nobody waits for a load from before it."""
    return edited(
        claims,
        "_place",
        ("xxh3_64_intdigest(miss.label, ", 'xxh3_64_intdigest(b"", '),
    )


@mutant("a_child_of_a_loader", budget=1)
def children_keep_the_table_of_loads() -> Change:
    """C12: a forked child forgets the loads of its parent."""
    fork = Host.fork

    def keeps(host: Host, name: str) -> Host:
        child = fork(host, name)
        for key, load in host.claims._loads.items():
            child.claims._loads[key] = claims.Load(load.wire, load.hash, load.miss)
        return child

    return replaced(Host, "fork", keeps)


# --- The log of a host, for other hosts

_NUMBERS = """\
    for number in range(before + 1, last + 1):
        words[layout.slot_of(lane, number) + _NUMBER] = number
    fences.order()
"""
_LAST = "    fences.order()\n    words[layout.lane_last(lane)] = last\n"


@mutant("a_slot_is_taken_while_it_is_read")
def the_number_of_an_event_comes_after_the_event() -> Change:
    """An event's number is stored before the event."""
    return edited(HostLog, "_write", (_NUMBERS, ""), (_LAST, "    fences.order()\n" + _NUMBERS + _LAST))


@mutant("an_event_is_read_while_it_is_appended")
def the_last_number_comes_before_the_event() -> Change:
    """The last number of a lane is stored after the event."""
    return edited(HostLog, "_write", (_LAST, ""), (_NUMBERS, _LAST + _NUMBERS))


@mutant("a_call_of_several_events")
def the_last_number_is_stored_for_each_event() -> Change:
    """What one call invalidates is there at once."""
    return edited(
        HostLog, "_write",
        ("            words[place] = hash\n", "            words[place] = hash\n"
                                               "        words[layout.lane_last(lane)] = number\n"),
    )  # fmt: skip


@mutant("an_event_is_read_while_it_is_appended", only_weak=True)
def no_fence_before_the_last_number() -> Change:
    """A fence lies between an event and the last number."""
    return edited(HostLog, "_write", (_LAST, _LAST.replace("    fences.order()\n", "")))


@mutant("a_slot_is_taken_while_it_is_read", only_weak=True)
def no_fence_behind_the_number() -> Change:
    """A fence lies between an event's number and the event."""
    return edited(HostLog, "_write", (_NUMBERS, _NUMBERS.replace("    fences.order()\n", "")))


@mutant("a_slot_is_taken_while_it_is_read")
def readers_do_not_look_at_the_number_again() -> Change:
    """Whoever has read an event looks whether the slot still is that event's."""
    return edited(HostLog, "_load", ("words[at + _NUMBER] != number", "False"))


@mutant("a_slot_is_taken_while_it_is_read")
def readers_look_at_the_number_first() -> Change:
    """Whoever reads an event looks at the number in the slot behind the event."""
    return edited(
        HostLog, "_load",
        ("    shape = words[at + _SHAPE]\n",
         "    if words[at + _NUMBER] != number:\n        return None\n    shape = words[at + _SHAPE]\n"),
        ("words[at + _NUMBER] != number:\n        return None\n    event", "False:\n        return None\n    event"),
    )  # fmt: skip


@mutant("who_appended_was_killed")
def readers_do_not_look_at_the_last_number() -> Change:
    """An event is there once the last number says so."""
    return edited(HostLog, "_load", ("last = self.last(lane)", "last = number"))


@mutant("an_event_is_read_while_it_is_appended", only_weak=True)
def no_fence_behind_the_load_of_the_last_number() -> Change:
    """Whoever reads an event has a fence behind the load of the last number."""
    return edited(HostLog, "_load", ("    fences.order()\n    shape", "    shape"))


@mutant("a_slot_is_taken_while_it_is_read", only_weak=True)
def no_fence_before_the_load_of_the_number() -> Change:
    """Whoever reads an event has a fence before he looks at the number."""
    return edited(HostLog, "_load", ("    fences.order()\n    if words", "    if words"))


@mutant("two_append_at_once")
def nobody_takes_the_lock_of_a_lane() -> Change:
    """Who append to one lane exclude each other."""
    return edited(HostLog, "_append", ("self._locks.lock(lane)", "True"))


@mutant("a_gateway_stamps_what_its_writer_did_not")
def all_events_count_as_stamped() -> Change:
    """An event counts as stamped once its writer has said so."""
    return replaced(HostLog, "is_stamped", lambda log, lane, number: True)


@mutant("a_slot_is_taken_while_its_mark_is_looked_at")
def a_mark_is_for_all_older_events() -> Change:
    """A mark is for the events of one call."""
    return edited(HostLog, "_is_marked", ("== number", ">= number"))
