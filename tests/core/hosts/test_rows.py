"""What a host knows of others: one row for each gateway, the largest of all rows, and entries that are used again."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest

from colocache.core.hosts import layout
from colocache.core.hosts.layout import ENTRIES, LISTENERS, ROWS_USED, entry_of
from colocache.core.hosts.rows import (
    ACKED,
    ALIVE,
    APPLIED,
    ENDED,
    ENDED_AT,
    ENDED_SINCE,
    LAST,
    LIVE,
    MOST_GIVEN_UP,
    REMEMBERED,
    SIGN,
    STATE,
    TOLD,
    TOLD_OF,
    Host,
    Row,
    Rows,
    TooManyHosts,
)
from tests.core.host.shelves import Death, StepFences, Steps, StepWords

NOW = 10**12
A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))


def host(id: bytes, name: str = "") -> Host:
    return Host(id, name or f"h{id[0]}", f"h{id[0]}:7400", 3)


class Memory:
    """The file of a host."""

    def __init__(self) -> None:
        self.words = array("Q", bytes(8 * layout.WORDS))

    def row(self, number: int = 0, steps: Steps | None = None) -> Row:
        """Return the row of a gateway."""
        steps = steps or Steps()
        return Row(StepWords("word", self.words, steps), StepFences(steps), number)

    def rows(self, steps: Steps | None = None) -> Rows:
        """Return what a process reads."""
        steps = steps or Steps()
        return Rows(StepWords("word", self.words, steps), StepFences(steps))


@pytest.fixture
def memory() -> Memory:
    return Memory()


def test_nobody_is_known_at_first(memory: Memory) -> None:
    rows = memory.rows()
    assert rows.ids() == rows.live() == rows.counted() == []
    assert rows.state(A) == rows.largest(A, ALIVE) == rows.total(A, SIGN) == rows.heard(A, 1) == 0
    assert rows.positions(A, TOLD) == {}
    assert rows.host(A) == Host(A, "", "", 0)
    assert not rows.is_forgotten(A)
    assert rows.published(0) == 0


def test_what_a_host_says_of_itself_is_noted(memory: Memory) -> None:
    row, rows = memory.row(), memory.rows()
    row.meet(host(A), NOW)
    assert rows.live() == [A]
    assert rows.host(A) == host(A)
    row.meet(host(A)._replace(weight=5, address="x:1"), NOW + 1)
    assert rows.host(A) == host(A)._replace(weight=5, address="x:1")


def test_names_that_are_too_long_are_cut(memory: Memory) -> None:
    row = memory.row()
    row.meet(Host(A, "n" * 100, "a" * 100, 1), NOW)
    assert memory.rows().host(A) == Host(A, "n" * 64, "a" * 64, 1)


# --- Several rows


def test_the_largest_of_all_rows_counts(memory: Memory) -> None:
    first, second, rows = memory.row(0), memory.row(1), memory.rows()
    first.meet(host(A), NOW)
    second.raise_to(A, TOLD, 8)
    first.raise_to(A, TOLD, 7)
    first.raise_to(A, TOLD + 3, 5)
    assert rows.positions(A, TOLD) == {0: 8, 3: 5}
    assert rows.largest(A, TOLD) == 8
    assert rows.has_reached(A, {0: 8, 3: 5}, TOLD)
    assert not rows.has_reached(A, {0: 9}, TOLD)
    assert not rows.has_reached(A, {1: 1}, TOLD)


def test_a_gateway_that_wakes_takes_nothing_back(memory: Memory) -> None:
    """It is stopped before it stores 7. Its successor stores 8 meanwhile."""
    steps = Steps()
    old, new, rows = memory.row(0, steps), memory.row(1), memory.rows()
    old.meet(host(A), NOW)
    steps.steps_left, steps.others = 1, lambda: new.raise_to(A, APPLIED, 8)
    old.raise_to(A, APPLIED, 7)
    assert rows.positions(A, APPLIED) == {0: 8}


def test_signs_of_life_of_all_rows_are_added(memory: Memory) -> None:
    first, second, rows = memory.row(0), memory.row(1), memory.rows()
    first.meet(host(A), NOW)
    before = rows.total(A, SIGN)
    for row in (first, second, second):
        row.sign_of_life(A)
    assert rows.total(A, SIGN) == before + 3


def test_any_sign_of_life_takes_back_that_a_host_is_forgotten(memory: Memory) -> None:
    first, second, rows = memory.row(0), memory.row(1), memory.rows()
    first.meet(host(A), NOW)
    first.forget(A, rows.total(A, SIGN))
    assert rows.is_forgotten(A)
    assert rows.counted() == []
    assert rows.live() == [A]
    second.sign_of_life(A)
    assert not rows.is_forgotten(A)
    assert rows.counted() == [A]
    second.forget(A, rows.total(A, SIGN) - 1)  # decided before that sign
    assert not rows.is_forgotten(A)


def test_a_lease_holds_under_what_it_was_agreed_under(memory: Memory) -> None:
    row, rows = memory.row(), memory.rows()
    row.meet(host(A), NOW)
    row.hear(A, 100, 7)
    assert (rows.heard(A, 7), rows.heard(A, 8)) == (100, 0)
    row.hear(A, 90, 7)  # it is late
    assert rows.heard(A, 7) == 100
    row.hear(A, 90, 8)
    assert (rows.heard(A, 7), rows.heard(A, 8)) == (0, 90)


def test_nobody_believes_half_of_a_lease(memory: Memory) -> None:
    row = memory.row()
    row.meet(host(A), NOW)
    row.hear(A, 100, 7)
    for stores in range(3):
        dying = Memory()
        dying.words[:] = memory.words
        steps = Steps()
        row = dying.row(0, steps)
        steps.stores_left = stores
        with pytest.raises(Death):
            row.hear(A, 90, 8)
        rows = dying.rows()
        assert rows.heard(A, 7) in (0, 100)
        assert rows.heard(A, 8) == 0


def test_two_gateways_begin_at_once(memory: Memory) -> None:
    """One overwrites that the other one's row is in use. That one notices at its next tick."""
    first = memory.row(1)
    first.meet(host(A), NOW)
    memory.words[ROWS_USED] = 1
    rows = memory.rows()
    assert rows.live() == []
    first.use(NOW)
    assert rows.live() == [A]


def test_a_row_is_continued(memory: Memory) -> None:
    memory.row().meet(host(A), NOW)
    again = memory.row()
    again.raise_to(A, TOLD, 3)
    again.meet(host(B), NOW)
    assert memory.rows().positions(A, TOLD) == {0: 3}
    assert memory.rows().live() == [A, B]


def test_no_note_in_the_head_of_a_row_takes_another_ones_place(memory: Memory) -> None:
    """Otherwise, 1. an event is told in a further lane, because a writer is stopped in the first one. 2. The gateway
    notes that it has given up some places, or none. 3. Readers look at no further lane, and fetches name no event of
    it: who has not heard of it answers the old value.
    """
    row, rows = memory.row(), memory.rows()
    row.meet(host(A), NOW)
    row.clients.listen(host(B), NOW + 5, NOW)
    last = layout.LANES - 1
    for lane in range(layout.LANES):
        row.raise_to(A, TOLD + lane, 70 + lane)
        row.clients.raise_to(B, ACKED + lane, 80 + lane)
        row.publish(lane, 90 + lane)
    row.write_by(7)
    row.be_quiet(NOW)

    def read() -> tuple[object, ...]:
        fresh = memory.rows()  # one that has nothing kept
        return *[
            (
                each.positions(A, TOLD)[last], each.every_position(TOLD)[A][last],
                each.clients.positions(B, ACKED)[last], each.clients.ids(), each.ids(),
                [each.published(lane) for lane in range(layout.LANES)], each.writers(), each.quiet,
            )
            for each in (rows, fresh)
        ], memory.row().positions(A, TOLD)  # fmt: skip

    before = read()
    for places in ({*range(1, 1 + MOST_GIVEN_UP)}, {5}, set[int]()):
        row.give_up(places, NOW)
        assert memory.rows().given_up(NOW - 1) == places
        assert read() == before


# --- Ends


def test_an_end_with_and_without_last_numbers(memory: Memory) -> None:
    row, rows = memory.row(), memory.rows()
    row.meet(host(A), NOW)
    row.meet(host(B), NOW)
    row.end(A, {0: 5, 2: 1}, NOW)
    row.end(B, None, NOW)
    assert (rows.state(A), rows.state(B)) == (ENDED_AT, ENDED)
    assert rows.positions(A, LAST) == {0: 5, 2: 1}
    assert rows.live() == []


def test_what_has_ended_stays_so_in_the_row_of_a_gateway_that_wakes(memory: Memory) -> None:
    old, new, rows = memory.row(0), memory.row(1), memory.rows()
    old.meet(host(A), NOW)
    new.end(A, None, NOW)
    old.meet(host(A), NOW)
    assert rows.state(A) == ENDED


def test_ends_are_told_for_a_while(memory: Memory) -> None:
    row, rows = memory.row(), memory.rows()
    row.meet(host(A), NOW)
    row.end(A, None, NOW)
    row.meet(host(B), NOW)
    assert rows.recent_ends(NOW + TOLD_OF - 1) == [A]
    assert rows.recent_ends(NOW + TOLD_OF) == []


def test_a_decision_to_forget_that_is_void_stays_so_and_a_new_one_holds(memory: Memory) -> None:
    row, rows = memory.row(), memory.rows()
    row.meet(host(A), NOW)
    row.forget(A, rows.total(A, SIGN))
    assert rows.forgotten() == {A}
    row.sign_of_life(A)
    assert [rows.forgotten(), rows.forgotten(), rows.counted()] == [set(), set(), [A]]
    row.forget(A, rows.total(A, SIGN))
    assert (rows.forgotten(), rows.counted()) == ({A}, [])


def test_a_decision_to_forget_holds_once_the_signs_are_seen_that_it_counts(memory: Memory) -> None:
    # 1. Gateway Q notes a sign of life of A. 2. Gateway P reads it, and forgets A. 3. R sees P's store, and not Q's.
    # 4. R sees Q's.
    p, q, rows = memory.row(0), memory.row(1), memory.rows()
    p.meet(host(A), NOW)
    q.sign_of_life(A)
    p.forget(A, rows.total(A, SIGN) + 1)
    assert rows.forgotten() == set()
    q.sign_of_life(A)
    assert rows.forgotten() == {A}


def test_who_says_something_else_of_itself_is_not_known(memory: Memory) -> None:
    row, rows = memory.row(), memory.rows()
    assert not rows.knows(host(A))
    row.meet(host(A), NOW)
    assert rows.host(A) == host(A)
    assert rows.knows(host(A))
    row.describe(host(A)._replace(weight=9))
    assert rows.host(A).weight == 9
    assert not rows.knows(host(A))
    row.end(A, None, NOW)
    assert not rows.knows(rows.host(A)), "what is over is said once more, and merged"


def test_what_is_read_of_all_is_what_is_read_of_each(memory: Memory) -> None:
    first, second, rows = memory.row(0), memory.row(1), memory.rows()
    first.meet(host(A), NOW)
    second.meet(host(A), NOW)
    second.meet(host(B), NOW)
    first.raise_to(A, ACKED, 7)
    second.raise_to(A, ACKED + 1, 5)
    second.raise_to(A, ACKED, 6)
    first.raise_to(A, ALIVE, NOW)
    assert rows.every(ALIVE) == {A: NOW, B: 0} == {id: rows.largest(id, ALIVE) for id in (A, B)}
    assert rows.every_position(ACKED) == {A: {0: 7, 1: 5}, B: {}} == {id: rows.positions(id, ACKED) for id in (A, B)}
    second.forget(B, rows.total(B, SIGN))
    assert rows.forgotten() == {B}
    second.sign_of_life(B)
    assert rows.forgotten() == set()


@pytest.mark.parametrize("name", ["", "a", "12345678", "123456789", "ä" * 32])
def test_a_name_and_an_address_are_those_of_the_host(memory: Memory, name: str) -> None:
    memory.row().meet(Host(A, name, "[2001:db8::1]:7400", 3), NOW)
    rows = memory.rows()
    assert (rows.name(A), rows.address(A)) == (name, "[2001:db8::1]:7400")
    assert rows.host(A) == Host(A, name, "[2001:db8::1]:7400", 3)
    assert rows.name(B) == rows.address(B) == ""


def test_places_that_were_given_up_are_those_that_were_noted_lately(memory: Memory) -> None:
    first, second, rows = memory.row(0), memory.row(1), memory.rows()
    first.give_up({7, 8}, NOW)
    second.give_up({9}, NOW + 5)
    assert rows.given_up(NOW - 1) == {7, 8, 9}
    assert rows.given_up(NOW) == {9}
    second.give_up((), NOW + 6)
    assert rows.given_up(NOW) == set()
    assert memory.row(2).given_up(-NOW) == {7, 8}


def test_there_is_room_for_some_places(memory: Memory) -> None:
    """Nothing else of a row's head is among them."""
    row, rows = memory.row(), memory.rows()
    row.meet(host(A), NOW)
    row.raise_to(A, TOLD + 7, 3)
    row.clients.listen(host(B), NOW, NOW)
    row.clients.raise_to(B, ACKED + 5, 4)
    row.write_by(2)
    row.be_quiet(NOW)
    for lane in range(layout.LANES):
        row.publish(lane, 10 + lane)
    places = {2**64 - 1 - number for number in range(100)}
    row.give_up(places, NOW)
    found = rows.given_up(0)
    assert found < places
    assert len(found) == MOST_GIVEN_UP
    row.give_up((), NOW)
    assert rows.given_up(0) == set()
    for reader in (rows, memory.rows()):
        assert reader.host(A) == host(A)
        assert reader.positions(A, TOLD) == {7: 3}
        assert reader.clients.positions(B, ACKED) == {5: 4}
        assert (reader.writers(), reader.quiet) == ([2], NOW)
        assert [reader.published(lane) for lane in range(layout.LANES)] == [*range(10, 10 + layout.LANES)]


# --- Entries


def fill(row: Row, ended: int) -> list[bytes]:
    """Fill a row with hosts, of which some have ended."""
    ids = [number.to_bytes(8, "little") * 2 for number in range(1, ENTRIES)]
    for place, id in enumerate(ids):
        row.meet(host(id, f"n{place}"), NOW)
        row.raise_to(id, ACKED, 7)
    for place in range(ended):
        row.end(ids[place], {0: 1}, NOW + place)
    return ids


def test_there_is_no_room_while_all_live(memory: Memory) -> None:
    row = memory.row()
    fill(row, 0)
    with pytest.raises(TooManyHosts):
        row.meet(host(b"x" * 16), NOW + 2 * REMEMBERED)
    assert len(memory.rows().live()) == ENTRIES - 1


def test_an_entry_is_used_again_once_nobody_speaks_of_the_end(memory: Memory) -> None:
    row, rows, new = memory.row(), memory.rows(), b"x" * 16
    ids = fill(row, 2)
    assert rows.state(ids[0]) == ENDED_AT
    with pytest.raises(TooManyHosts):
        row.meet(host(new), NOW + REMEMBERED - 1)
    row.meet(host(new), NOW + REMEMBERED)
    assert rows.state(ids[0]) == 0
    assert rows.positions(ids[0], ACKED) == {}
    assert rows.state(ids[1]) == ENDED_AT
    assert rows.state(new) == LIVE
    assert rows.positions(new, ACKED) == rows.positions(new, LAST) == {}  # nothing of the other one is left
    assert rows.host(new) == host(new)


def test_who_has_ended_does_not_live_again_when_its_entry_is_used_again(memory: Memory) -> None:
    """One gateway notes that it lives, and dies. Another one notes its end, and much later uses that entry again."""
    old = bytes([200]) * 16
    memory.row(0).meet(host(old), NOW)
    row = memory.row(1)
    row.end(old, {0: 5}, NOW)
    for number in range(1, ENTRIES - 1):
        row.meet(host(number.to_bytes(8, "little") * 2), NOW)
    with pytest.raises(TooManyHosts):
        row.meet(host(b"x" * 16), NOW + REMEMBERED)
    assert memory.rows().state(old) == ENDED_AT
    # Whoever has the first row next ends it there, too.
    memory.row(0)
    row.meet(host(b"x" * 16), NOW + REMEMBERED)
    assert memory.rows().state(old) == ENDED_AT
    assert memory.rows().positions(old, LAST) == {0: 5}
    assert memory.rows().state(b"x" * 16) == LIVE


@pytest.mark.parametrize("note", [
    lambda row, id: row.raise_to(id, ACKED, 1), lambda row, id: row.sign_of_life(id),
    lambda row, id: row.hear(id, NOW, 1), lambda row, id: row.forget(id, 0), lambda row, id: row.note(id, SIGN, 1),
    lambda row, id: row.describe(host(id)),
])  # fmt: skip
def test_whatever_is_noted_of_a_host_in_another_row_may_use_an_entry_again(
    memory: Memory, note: Callable[[Row, bytes], object]
) -> None:
    new, row = b"x" * 16, memory.row(1)
    memory.row(0).raise_to(new, ACKED, 1)
    fill(row, 1)
    row.use(NOW + REMEMBERED - 1)
    assert not row.make_room_for(new)
    with pytest.raises(TooManyHosts):
        note(row, new)
    row.use(NOW + REMEMBERED)
    note(row, new)
    assert row.make_room_for(new)


def test_who_reads_an_entry_that_is_used_again_notices(memory: Memory) -> None:
    """At whatever moment that is, no position of one incarnation is taken for that of another."""
    row, new = memory.row(), b"x" * 16
    ids = fill(row, 1)
    before = memory.words[:]
    for step in range(40):
        memory.words[:] = before
        row, steps = memory.row(), Steps()
        rows = memory.rows(steps)
        assert rows.positions(ids[0], ACKED) == {0: 7}

        def reuse(row: Row = row) -> None:
            row.meet(host(new), NOW + REMEMBERED)
            row.raise_to(new, ACKED, 3)

        steps.steps_left, steps.others = step, reuse
        assert rows.positions(ids[0], ACKED) in ({0: 7}, {})
        assert memory.rows().positions(new, ACKED) in ({0: 3}, {})


@pytest.mark.parametrize("read", ["every", "every_position"])
def test_who_reads_all_entries_notices_that_one_is_used_again(memory: Memory, read: str) -> None:
    row, new = memory.row(), b"x" * 16
    ids = fill(row, 1)
    before = memory.words[:]
    old, fresh = (7, 3) if read == "every" else ({0: 7}, {0: 3})
    for step in range(20):
        memory.words[:] = before
        row, steps = memory.row(), Steps()
        rows = memory.rows(steps)
        assert getattr(rows, read)(ACKED)[ids[0]] == old

        def reuse(row: Row = row) -> None:
            row.meet(host(new), NOW + REMEMBERED)
            row.raise_to(new, ACKED, 3)

        steps.steps_left, steps.others = step, reuse
        found = getattr(rows, read)(ACKED)
        assert found.get(ids[0], old) == old
        assert found.get(new, fresh) == fresh


@pytest.mark.parametrize("full", [False, True])
def test_a_gateway_that_is_killed_leaves_nothing_wrong(memory: Memory, full: bool) -> None:
    """Before whichever of its stores: others see the newcomer whole, or not at all, and a successor goes on."""
    known = fill(memory.row(), 1) if full else [A]
    if not full:
        memory.row().meet(host(A), NOW)
    before, new = memory.words[:], b"x" * 16

    def meet(row: Row) -> Callable[[], object]:
        return lambda: row.meet(host(new), NOW + REMEMBERED)

    for stores in range(200):
        memory.words[:] = before
        steps = Steps()
        row = memory.row(0, steps)
        steps.stores_left = stores
        try:
            meet(row)()
            break
        except Death:
            pass
        rows = memory.rows()
        assert set(rows.live()) <= {*known, new}
        assert rows.state(new) in (0, LIVE)
        if rows.state(new) == LIVE:
            assert rows.host(new) == host(new)
        if not full:
            assert rows.state(A) == LIVE
            meet(memory.row())()
            assert set(memory.rows().live()) == {A, new}
            assert memory.rows().host(new) == host(new)
    else:
        pytest.fail("it never came to an end")
    assert stores > 60


CHANGES: dict[str, Callable[[Row], object]] = {
    "comes": lambda row: row.meet(host(B), NOW),
    "moves": lambda row: row.meet(host(A)._replace(address="x:1"), NOW),
    "ends": lambda row: row.end(A, {0: 5, 2: 1}, NOW),
    "is forgotten": lambda row: row.forget(A, row.total(A, SIGN)),
    "has an event in another lane": lambda row: row.raise_to(A, TOLD + 3, 5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_all_know_the_same_whenever_a_gateway_is_killed(memory: Memory, change: str) -> None:
    """Who has looked before, who looks in the middle of it, and who looks for the first time; then a successor."""
    memory.row().meet(host(A), NOW)
    before = memory.words[:]

    def known(rows: Rows) -> list[object]:
        return [
            rows.every(STATE), rows.every(ENDED_SINCE), rows.counted(), rows.forgotten(), rows.every_position(TOLD),
            rows.every_position(LAST), [rows.host(id) for id in rows.live()],
        ]  # fmt: skip

    seen = []
    for stores in range(200):
        memory.words[:] = before
        early, always, steps = memory.rows(), memory.rows(), Steps()
        known(early)
        row = memory.row(0, steps)

        def look(always: Rows = always, steps: Steps = steps) -> None:
            known(always)
            steps.steps_left = 0  # before the next step, too

        steps.stores_left, steps.steps_left, steps.others = stores, 0, look
        try:
            CHANGES[change](row)
        except Death:
            assert known(always) == known(early) == known(memory.rows())
            seen.append(known(early))
            memory.row()
            assert known(always) == known(early) == known(memory.rows())
            assert early._look() is early._look(), "nothing is read again as long as nothing changes"
        else:
            break
    assert known(early) == known(memory.rows()) != seen[0]


def test_an_entry_lies_in_its_row() -> None:
    assert entry_of(0, ENTRIES + LISTENERS - 1) + 64 == entry_of(1, 0)
