"""The scoreboard: what a process shows of itself, wherever it is killed, and whoever takes its seat."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from colocache.core.host import scores
from colocache.core.host.scores import (
    COLUMNS,
    EVENTS,
    GAUGES,
    HOTTEST,
    NAME_BYTES,
    NOTHING,
    OTHERS,
    ROWS,
    ROWS_AT_ONCE,
    SIZE,
    TAGS,
    WORDS,
    Block,
    Event,
    Writer,
    end_of_rows,
    first_part,
    read_block,
    read_events,
    read_tag,
)
from tests.core.leases import NoFences
from tests.interrupts import handled, interrupted

FENCES = NoFences()
NOW = 1_700_000_000_000_000_000


def a_block() -> memoryview:
    return memoryview(bytearray(SIZE)).cast("Q")


def always(start: int, end: int) -> bool:
    return True


def a_writer(words: scores.Words, nonce: int = 7, pid: int = 100, grow: scores.Grow = always) -> Writer:
    writer = Writer(words, FENCES, grow)
    writer.sit_down(nonce, pid, NOW + nonce)
    return writer


def counts(*first: int) -> list[int]:
    return [*first, *[0] * (COLUMNS - len(first))]


def count(writer: Writer, name: str, *first: int) -> bool:
    """Count so much more in a namespace."""
    return writer.add(writer.row(name), counts(*first), counts())


def read(words: scores.Words) -> Block:
    return read_block(words, FENCES)


def sums(words: scores.Words) -> dict[str, int]:
    """What all processes of the seat have counted first, by namespace."""
    return {row.name: row.counts[0] for row in read(words).rows if any(row.counts)}


def own(words: scores.Words) -> dict[str, int]:
    """What the present process has counted first, by namespace."""
    rows = {row.name: row.counts[0] - row.base[0] for row in read(words).rows}
    return {name: count for name, count in rows.items() if count}


def events(words: scores.Words, after: int = 0) -> list[tuple[int, str]]:
    return [(event.number, event.text) for event in read_events(words, FENCES, after)]


# --- Rows


def test_a_block_of_which_nobody_knows_says_nothing() -> None:
    assert read(a_block()) == NOTHING == Block(0, 0, 0, 0, (0,) * GAUGES, ())
    assert read_events(a_block(), FENCES) == []
    assert read_tag(a_block(), 5, FENCES) is None


def test_a_process_shows_who_it_is_and_what_it_counts() -> None:
    words = a_block()
    writer = a_writer(words, nonce=7, pid=100)
    writer.show([3, 4096], [(5, 20), (6, 10)], NOW + 50)
    assert count(writer, "users", 1, 2)
    assert count(writer, "", 5)
    assert count(writer, "users", 10)
    block = read(words)
    assert block[:4] == (7, 100, NOW + 7, NOW + 50)
    assert block.gauges[:3] == (3, 4096, 0)
    assert block.hottest == ((5, 20), (6, 10))
    assert [row.name for row in block.rows] == [OTHERS, "users", ""]
    assert [row.counts[:3] for row in block.rows] == [(0, 0, 0), (11, 2, 0), (5, 0, 0)]
    assert {row.base for row in block.rows} == {(0,) * COLUMNS}
    assert read(writer.words) == block


def test_only_what_was_not_told_is_added() -> None:
    words = a_block()
    writer = a_writer(words)
    row, told = writer.row("users"), counts()
    assert writer.add(row, counts(5, 2), told)
    assert told == counts(5, 2)
    assert not writer.add(row, counts(5, 2), told)
    assert writer.add(row, counts(5, 3), told)
    assert read(words).rows[row].counts[:2] == (5, 3)
    assert not writer.add(row, counts(4, 3), told), "another thread has looked later, and told it before"
    assert read(words).rows[row].counts[:2] == (5, 3), "it never shrinks"
    last = [*[0] * (COLUMNS - 1), 9]
    assert writer.add(row, last, counts())
    assert read(words).rows[row].counts[-1] == 9


def test_a_successor_goes_on_and_is_told_from_who_was_there() -> None:
    words = a_block()
    first = a_writer(words, nonce=7)
    count(first, "users", 5)
    first.show([1] * GAUGES, [(each + 1, 9) for each in range(HOTTEST + 5)], NOW)
    assert len(read(words).hottest) == HOTTEST
    second = a_writer(words, nonce=8, pid=200)
    assert sums(words) == {"users": 5}
    assert own(words) == {}
    assert read(words)[:4] == (8, 200, NOW + 8, NOW + 8)
    assert (read(words).gauges, read(words).hottest) == ((0,) * GAUGES, ())
    count(second, "posts", 2)
    count(second, "users", 1)
    assert second.row("users") == first.row("users"), "the row of a namespace stays"
    assert sums(words) == {"users": 6, "posts": 2}
    assert own(words) == {"users": 1, "posts": 2}


def test_a_row_is_as_long_as_it_says_and_the_block_holds_them_all() -> None:
    words = a_block()
    writer = a_writer(words)
    for number in range(1, ROWS):
        row = writer.row(f"space {number}")
        assert row == number
        writer.add(row, [number] * COLUMNS, counts())
    writer = a_writer(words, nonce=8)
    for number, row in enumerate(read(words).rows):
        assert row.name == (f"space {number}" if number else OTHERS)
        assert row.counts == row.base == (number,) * COLUMNS
    assert end_of_rows(ROWS) <= SIZE
    assert writer.row("space 5") == 5


def test_what_there_is_no_row_for_counts_with_others() -> None:
    words = a_block()
    writer = a_writer(words)
    for number in range(ROWS + 10):
        count(writer, f"space {number}", 1)
    block = read(words)
    assert len(block.rows) == ROWS
    assert sums(words)[OTHERS] == 11
    assert sum(sums(words).values()) == ROWS + 10
    successor = a_writer(words, nonce=8)
    count(successor, "new", 1)
    count(successor, "space 3", 1)
    assert own(words) == {OTHERS: 1, "space 3": 1}


def test_names_that_take_too_much_count_with_others_and_others_are_shown_as_they_are() -> None:
    words = a_block()
    writer = a_writer(words)
    longest, too_long, odd, wide = "x" * NAME_BYTES, "y" * (NAME_BYTES + 1), "a\udc80b", "名前" * 30
    for number, name in enumerate((longest, too_long, odd, wide, "", too_long)):
        count(writer, name, 10**number)
    assert sums(words) == {longest: 1, OTHERS: 100010, "a\\udc80b": 100, wide: 1000, "": 10000}
    assert a_writer(words, nonce=8).row(odd) == writer.row(odd), "a successor finds it"


def test_rows_get_their_memory_before_anybody_stores_there() -> None:
    asked, stored = [first_part()], list[int]()

    class Watched:
        def __init__(self) -> None:
            self.words = a_block()

        def __getitem__(self, place: int) -> int:
            return self.words[place]

        def __setitem__(self, place: int, value: int) -> None:
            assert any(start <= 8 * place < end for start, end in asked), f"word {place} of {asked}"
            stored.append(place)
            self.words[place] = value

    def grow(start: int, end: int) -> bool:
        assert start == asked[-1][1], "it goes on where the last part has ended"
        asked.append((start, end))
        return True

    words = Watched()
    for nonce in (7, 8):  # the second one finds all rows
        writer = a_writer(words, nonce, grow=grow)
        for number in range(ROWS + 10):
            count(writer, f"space {number}", *[1] * COLUMNS)
        for number in range(EVENTS):
            writer.note_event(1, number, 1, "text" * 20, NOW)
        for hash in range(TAGS):
            writer.note_tag(hash + TAGS, "tag" * 20)
    assert len(asked) == 1 + (ROWS - 1) // ROWS_AT_ONCE
    assert asked[-1][1] == min(SIZE, end_of_rows(len(asked) * ROWS_AT_ONCE))
    assert max(stored) < WORDS


@pytest.mark.parametrize("rows", [ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1])
def test_a_successor_knows_which_rows_have_memory(rows: int) -> None:
    words, asked = a_block(), list[int]()

    def grow(start: int, end: int) -> bool:
        asked.append(start)
        return True

    writer = a_writer(words, grow=grow)
    for number in range(1, rows):
        writer.row(f"space {number}")
    asked.clear()
    a_writer(words, nonce=8, grow=grow).row("new")
    assert asked == ([end_of_rows(ROWS_AT_ONCE)] if rows == ROWS_AT_ONCE else [])


def test_where_there_is_no_memory_for_more_rows_the_others_count_together_until_there_is() -> None:
    words, room = a_block(), list[bool]()
    writer = a_writer(words, grow=lambda start, end: bool(room))
    for number in range(ROWS_AT_ONCE + 5):
        count(writer, f"space {number}", 1)
    assert len(read(words).rows) == ROWS_AT_ONCE
    assert sums(words)[OTHERS] == 6
    room.append(True)
    count(writer, f"space {ROWS_AT_ONCE + 4}", 1)
    assert sums(words)[OTHERS] == 6
    assert sums(words)[f"space {ROWS_AT_ONCE + 4}"] == 1


def test_a_block_that_somebody_has_written_into_harms_nobody() -> None:
    words = a_block()
    count(a_writer(words), "users", 3)
    for place in range(WORDS):
        words[place] = (1 << 64) - 1
    assert len(read(words).rows) == ROWS
    read_events(words, FENCES)
    for word in (0, 1, ROWS_AT_ONCE, 1 << 63):
        words = a_block()
        words[scores._ROWS] = word
        writer = a_writer(words)
        count(writer, "users", 3)
        assert sum(sums(words).values()) == 3


def test_a_reader_that_meets_a_change_of_processes_has_the_figures_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it reads, another process sits down, once or again and again."""
    words, nonces = a_block(), itertools.count(8)
    count(a_writer(words), "users", 5)
    successor, times = None, 1
    reads = scores._row

    def row(words: scores.Words, at: int) -> scores.Row:
        nonlocal successor, times
        if times and at == scores._ROWS_AT + scores._ROW:
            times -= 1
            nonce = next(nonces)
            successor = a_writer(words, nonce, pid=nonce)
            count(successor, "users", 1)
        return reads(words, at)

    monkeypatch.setattr(scores, "_row", row)
    block = read(words)
    assert (block.nonce, block.pid, block.rows[1].counts[0], block.rows[1].base[0]) == (8, 8, 6, 5)
    times = 100
    block = read(words)
    assert (block.nonce, block.pid) == (0, 0), "whose figures these are is not certain"
    assert block.rows[1].counts[0] >= 7


def test_no_key_is_shown_with_the_hits_of_another() -> None:
    """While a reader looks, another key takes the place, before any of its loads."""
    for loads in range(10):
        words, left = a_block(), loads
        writer = a_writer(words)
        writer.show([], [(10, 100)], NOW)

        class Changing(Dying):
            def __getitem__(self, place: int, writer: Writer = writer) -> int:
                nonlocal left
                if scores._HOT_AT <= place < scores._ROWS_AT:
                    left -= 1
                    if left == 0:
                        writer.show([], [(20, 200)], NOW)
                return self.words[place]

        assert read(Changing(words)).hottest in ((), ((10, 100),), ((20, 200),))


# --- Events


def test_events_are_read_the_oldest_first_and_those_after_a_number() -> None:
    words = a_block()
    writer = a_writer(words, pid=4_194_303)
    writer.note_event(1, (1 << 64) - 1, 1, "user:7", NOW)
    writer.note_event(255, 6, 1 << 40, "", NOW + 1)
    assert read_events(words, FENCES) == [
        Event(1, NOW, 4_194_303, 1, (1 << 64) - 1, 1, "user:7"),
        Event(2, NOW + 1, 4_194_303, 255, 6, 1 << 40, ""),
    ]
    assert events(words, after=1) == [(2, "")]
    assert events(words, after=2) == []


def test_the_last_events_stay_and_a_successor_goes_on_with_the_numbers() -> None:
    words = a_block()
    writer = a_writer(words)
    for number in range(1, 2 * EVENTS + 10):
        writer.note_event(1, number, 1, f"k{number}", NOW)
    last = 2 * EVENTS + 9
    assert events(words) == [(number, f"k{number}") for number in range(last - EVENTS + 1, last + 1)]
    a_writer(words, nonce=8).note_event(1, 0, 1, "new", NOW)
    assert events(words, after=last - 1) == [(last, f"k{last}"), (last + 1, "new")]
    assert [event.pid for event in read_events(words, FENCES, last - 1)] == [100, 100]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 77 + "…"),
        ("é" * 41, "é" * 38 + "…"),  # 77 bytes are 38 letters and a half
        ("a\udc80", "a\\udc80"),
        ("\x00\x00", "\x00\x00"),
    ],
)
def test_a_long_text_is_cut_between_two_letters(text: str, shown: str) -> None:
    words = a_block()
    a_writer(words).note_event(1, 1, 1, text, NOW)
    assert events(words) == [(1, shown)]


def test_no_event_is_made_of_two_where_a_slow_thread_is_overtaken_by_a_whole_round() -> None:
    """1. A thread begins to note an event. 2. Others note so many that they come to its place. 3. It goes on."""
    met, came, number = set[int](), True, 0
    while came:
        number += 1
        words = a_block()
        writer = a_writer(words)
        texts = {each: f"k{each} " * 9 for each in range(1, EVENTS + 2)}

        def overtake(writer: Writer = writer, texts: dict[int, str] = texts) -> None:
            for each in range(2, EVENTS + 2):
                writer.note_event(1, each, 1, texts[each], NOW)

        def note(writer: Writer = writer, texts: dict[int, str] = texts) -> None:
            writer.note_event(1, 1, 1, texts[1], NOW)

        came = handled(number, note, overtake, ("core/host/scores.py",))
        found = read_events(words, FENCES)
        for event in found:
            assert event.text == texts[event.hash], (number, event)
        met.add(len(found))
    assert met >= {EVENTS - 1, EVENTS}, "sometimes one is lost"
    assert number > 50


# --- Tags


def test_a_tag_is_known_by_its_hash_until_another_one_takes_its_place() -> None:
    words = a_block()
    writer = a_writer(words)
    writer.note_tag(5, "user:5")
    writer.note_tag(6, "x" * 41)
    writer.note_tag((1 << 64) - 1, "a\udc80")
    tags = {hash: read_tag(words, hash, FENCES) for hash in (5, 6, (1 << 64) - 1, 7, 0)}
    assert tags == {5: "user:5", 6: "x" * 37 + "…", (1 << 64) - 1: "a\\udc80", 7: None, 0: None}
    writer.note_tag(5 + TAGS, "other")
    assert (read_tag(words, 5, FENCES), read_tag(words, 5 + TAGS, FENCES)) == (None, "other")
    a_writer(words, nonce=8).note_tag(5, "user:5")
    assert (read_tag(words, 5, FENCES), read_tag(words, 5 + TAGS, FENCES)) == ("user:5", None)


def test_a_tag_that_is_known_is_not_stored_again() -> None:
    words = Dying(a_block())
    writer = a_writer(words)
    writer.note_tag(5, "user:5")
    words.left = 0
    writer.note_tag(5, "user:5")


# --- Kills


class Killed(BaseException):
    """The process is no more."""


class Dying:
    """Words of a process that is killed before a store: after so many others."""

    def __init__(self, words: scores.Words, left: float = float("inf")) -> None:
        self.words = words
        self.left = left

    def __getitem__(self, place: int) -> int:
        return self.words[place]

    def __setitem__(self, place: int, value: int) -> None:
        if self.left <= 0:
            raise Killed
        self.left -= 1
        self.words[place] = value


def killed_at_every_store(
    prepare: Callable[[memoryview], Writer | None], work: Callable[[Writer], object]
) -> Iterator[tuple[memoryview, bool]]:
    """Prepare a block; have another process work on it, killed after no store, one, and so on; give what is left.

    And whether it was killed. The last one has come to its end.
    """
    for stores in itertools.count():
        words = a_block()
        prepare(words)
        dying = Dying(words)
        writer = Writer(dying, FENCES, always)
        if work is not sits_down:
            writer.sit_down(99, 990, NOW)
        dying.left = stores
        try:
            work(writer)
        except Killed:
            yield words, True
        else:
            yield words, False
            assert stores > 0
            return


def sits_down(writer: Writer) -> None:
    writer.sit_down(99, 990, NOW)


def used(words: memoryview) -> None:
    """A block that two processes have used."""
    first = a_writer(words, nonce=7)
    for number in range(3):
        count(first, f"space {number}", 10 + number)
    first.note_event(1, 1, 1, "first", NOW)
    second = a_writer(words, nonce=8)
    count(second, "space 1", 5)
    count(second, "the second's", 2)
    for number in range(2, EVENTS + 3):
        second.note_event(1, number, 1, f"k{number}", NOW)
    second.note_tag(5, "user:5")
    second.show([], [(10, 100)], NOW + 8)


USED = {"space 0": 10, "space 1": 16, "space 2": 12, "the second's": 2}


def new(words: memoryview) -> None:
    """A block of which nobody knows."""


def sees_no_nonsense(words: memoryview, before: dict[str, int]) -> Block:
    """Check what a reader sees of a block, and return that."""
    block, now = read(words), sums(words)
    for name, total in before.items():
        assert now.get(name, 0) >= total, "sums never shrink"
    names = [row.name for row in block.rows]
    assert len(set(names)) == len(names)
    assert set(names) <= {OTHERS, *USED, "new"}, "no half of a name"
    if block.nonce:
        assert (block.nonce, block.pid) in ((8, 100), (99, 990))
        assert all(0 <= base <= total for row in block.rows for total, base in zip(row.counts, row.base, strict=True))
    for number, text in events(words):
        assert text == {1: "first", EVENTS + 3: "the last one's" * 5}.get(number, f"k{number}")
    assert read_tag(words, 5, FENCES) in (None, "user:5")
    assert read_tag(words, 5 + TAGS, FENCES) in (None, "a new tag's name")
    return block


def the_next_one_goes_on(words: memoryview) -> None:
    """Check that whoever sits down next is right about himself, and adds to what is there."""
    before, last = sums(words), max([0, *[number for number, _ in events(words)]])
    writer = a_writer(words, nonce=101, pid=1010)
    assert (read(words).nonce, read(words).pid) == (101, 1010)
    assert own(words) == {}
    assert sums(words) == before
    for name in ("space 1", "new", "newer"):
        count(writer, name, 3)
    assert own(words) == {"space 1": 3, "new": 3, "newer": 3}
    assert sums(words) == {**before, **{name: before.get(name, 0) + 3 for name in ("space 1", "new", "newer")}}
    writer.note_event(2, 1, 1, "next", NOW)
    ((number, text),) = [each for each in events(words, after=last) if each[1] == "next"]
    assert (number, text) == (events(words)[-1][0], "next")
    for hash, tag in ((5, "user:5"), (5 + TAGS, "a new tag's name")):
        writer.note_tag(hash, tag)
        assert read_tag(words, hash, FENCES) == tag


@pytest.mark.parametrize("prepare", [new, used])
def test_a_process_that_is_killed_while_it_sits_down(prepare: Callable[[memoryview], None]) -> None:
    before = USED if prepare is used else {}
    seen = set()
    for words, was_killed in killed_at_every_store(prepare, sits_down):
        block = sees_no_nonsense(words, before)
        assert sums(words) == before
        seen.add(block.nonce)
        if not was_killed:
            assert block[:2] == (99, 990)
            assert own(words) == {}
        the_next_one_goes_on(words)
    assert seen == {0, 99} | ({8} if prepare is used else set())


@pytest.mark.parametrize("prepare", [new, used])
def test_a_process_that_is_killed_while_it_adds_a_row(prepare: Callable[[memoryview], None]) -> None:
    before = USED if prepare is used else {}
    for words, was_killed in killed_at_every_store(prepare, lambda writer: writer.row("new")):
        block = sees_no_nonsense(words, before)
        assert ("new" in [row.name for row in block.rows]) is not was_killed
        the_next_one_goes_on(words)


def test_a_process_that_is_killed_while_it_adds_a_row_behind_a_half_of_another() -> None:
    """What the first one has written of a longer name is not part of the next one's."""
    for words, _ in killed_at_every_store(used, lambda writer: writer.row("x" * NAME_BYTES)):
        a_writer(words, nonce=101).row("short")
        assert {row.name for row in read(words).rows} - {"x" * NAME_BYTES} == {OTHERS, *USED, "short"}


def test_a_process_that_is_killed_while_it_counts() -> None:
    told, more = counts(), counts(1, 0, 2, 3)
    more[-1] = 4

    def add(writer: Writer) -> None:
        told[:] = counts()
        writer.add(writer.row("space 1"), more, told)

    seen = []
    for words, was_killed in killed_at_every_store(used, add):
        block = sees_no_nonsense(words, USED)
        row = {row.name: row for row in block.rows}["space 1"]
        own_counts = [total - base for total, base in zip(row.counts, row.base, strict=True)]
        assert own_counts == told, "what was told is there, and nothing else"
        assert (own_counts == more) is not was_killed
        seen.append(sum(own_counts))
        the_next_one_goes_on(words)
    assert seen == [0, 1, 3, 6, 10]


def test_a_process_that_is_killed_while_it_shows_its_state() -> None:
    first, hottest = [(10, 100)], [(20, 200), (30, 300)]

    def show(writer: Writer) -> None:
        writer.show([7, 8, 9], first, NOW)
        writer.show([7, 8, 9], hottest, NOW + 1)

    for words, was_killed in killed_at_every_store(used, show):
        block = sees_no_nonsense(words, USED)
        assert set(block.hottest) <= {*first, *hottest}, "no key has the hits of another"
        assert all(gauge in (0, wanted) for gauge, wanted in zip(block.gauges, (7, 8, 9), strict=False))
        assert block.written == (NOW if was_killed else NOW + 1), "last, so that it says of when all others are"
        the_next_one_goes_on(words)


def test_a_process_that_is_killed_while_it_notes_an_event() -> None:
    seen = []
    for words, was_killed in killed_at_every_store(
        used, lambda writer: writer.note_event(3, 77, 1, "the last one's" * 5, NOW)
    ):
        sees_no_nonsense(words, USED)
        found = events(words)
        assert [number for number, _ in found[:-1]] == [*range(found[0][0], found[-1][0])]
        assert (found[-1][0] == EVENTS + 3) is not was_killed
        seen.append(len(found))
        the_next_one_goes_on(words)
    assert seen == [EVENTS, *[EVENTS - 1] * (len(seen) - 2), EVENTS], "one is lost at most, the oldest"


def test_a_process_that_is_killed_while_it_notes_a_tag() -> None:
    for words, was_killed in killed_at_every_store(used, lambda writer: writer.note_tag(5 + TAGS, "a new tag's name")):
        sees_no_nonsense(words, USED)
        assert (read_tag(words, 5 + TAGS, FENCES) is None) is was_killed
        the_next_one_goes_on(words)


# --- Signal handlers, and threads that do not wait


def test_whoever_tells_the_same_in_the_middle_and_whatever_is_raised_there() -> None:
    """A signal handler comes at any point, tells the same and more, and raises. The next call tells the rest."""
    came, number, shared = True, 0, 0
    while came:
        number += 1
        words = a_block()
        writer, told = a_writer(words), counts()

        def tell(*first: int, writer: Writer = writer, told: list[int] = told) -> None:
            writer.add(writer.row("users"), counts(*first), told)

        def handler(writer: Writer = writer, tell: Callable[..., None] = tell) -> None:
            tell(5, 8, 7)
            count(writer, "the handler's", 10)

        came = interrupted(number, lambda tell=tell: tell(5, 6, 7), ("core/host/scores.py",), handler)  # type: ignore[misc]
        tell(5, 9, 7)
        count(writer, "more", 1000)
        assert told == counts(5, 9, 7)
        rows = {row.name: row.counts for row in read(words).rows}
        assert set(rows) <= {OTHERS, "users", "the handler's", "more"}
        assert [sum(columns[place] for columns in rows.values()) for place in range(3)] == [
            1015 if came else 1005,
            9,
            7,
        ]
        assert rows["more"] == (1000, *[0] * (COLUMNS - 1)), "the next one adds its row"
        assert rows.get("the handler's", (10,))[0] == 10
        shared += any(rows[OTHERS])
    assert shared > 0, "while a row is added, the handler counts with others"
    assert number > 15
