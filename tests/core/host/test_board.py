"""The board: what an event makes void, what a write does, and in which order all is stored."""

from __future__ import annotations

import itertools
import mmap
import random
from collections.abc import Callable, Sequence

import pytest

from colocache.core.host import hashes
from colocache.core.host.board import GROUP, PAGE, Board, Label
from colocache.core.host.hashes import WRITES
from colocache.core.host.numbers import Numbers

from .shelves import MARKS, Death, StepFences, Steps, StepWords, but_writes, groups

HASH = hashes.key_hash(b"key")
THINGS = (hashes.ROOT, HASH, HASH ^ WRITES, hashes.namespace_hash("a"), hashes.tag_hash("t"))


class Memory:
    """The words of a board, and the processes that use it."""

    def __init__(self, marks: int = MARKS) -> None:
        self.count = marks
        self.words = memoryview(mmap.mmap(-1, 8 * (2 + marks))).cast("Q")
        self.steps: list[Steps] = []

    def board(self) -> Board:
        steps = Steps()
        self.steps.append(steps)
        bell, marks = StepWords("bell", self.words[:1], steps), StepWords("mark", self.words[1:], steps)
        return Board(bell, marks, self.count, Numbers(len(self.steps)), StepFences(steps))


def stamps(board: Board, hash: int) -> tuple[int, ...]:
    """Return the stamps of a thing's four marks."""
    found, *four = GROUP.unpack(board.group(hash))
    assert found == hash
    return tuple(four)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def board(memory: Memory) -> Board:
    return memory.board()


@pytest.mark.parametrize("count", [0, 1, PAGE - 1, PAGE // 2, 3 * PAGE, PAGE + 1])
def test_a_board_of_another_size_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count={count}: the number of marks is a power of two"):
        Memory(count).board()


@pytest.mark.parametrize("count", [PAGE, MARKS, 1 << 22])
def test_the_four_marks_of_a_thing_lie_in_one_page_and_none_is_the_roots(count: int) -> None:
    board, pages = Memory(count).board(), set()
    for number in range(2000):
        marks = board.marks_of(hashes.key_hash(b"%d" % number))
        assert all(0 < mark <= count for mark in marks)
        assert len({(mark - 1) // PAGE for mark in marks}) == 1
        pages.add((marks[0] - 1) // PAGE)
    assert len(pages) > 0.2 * min(count // PAGE, 2000)
    assert board.marks_of(hashes.ROOT) == (0, 0, 0, 0)


@pytest.mark.parametrize("thing", THINGS)
def test_an_event_makes_labels_void_that_name_its_thing_and_no_others(board: Board, thing: int) -> None:
    label, others = board.label(THINGS), board.label([each for each in THINGS if each != thing])
    assert board.stands(label)
    bell = board.bell[0]
    board.invalidate((thing,))
    assert not board.stands(label)
    assert board.stands(others)
    assert board.stands(board.label(THINGS))
    assert board.bell[0] != bell


def test_one_event_may_name_many_things(board: Board) -> None:
    labels = [board.label((thing,)) for thing in THINGS]
    board.invalidate(THINGS, related=True)
    assert not any(board.stands(label) for label in labels)


def test_a_stamp_alone_makes_labels_void_and_rings_no_bell(board: Board) -> None:
    label, bell = board.label((HASH,)), board.bell[0]
    board.stamp((HASH,))
    assert not board.stands(label)
    assert board.bell[0] == bell


def test_no_stamp_and_no_bell_is_ever_repeated(memory: Memory) -> None:
    boards, rnd, seen = [memory.board() for _ in range(3)], random.Random(1), set[int]()
    for _ in range(1000):
        board = rnd.choice(boards)
        board.invalidate((HASH,))
        new = {board.bell[0], stamps(board, HASH)[0]}
        assert len(new) == 2
        assert not new & seen
        seen |= new


def test_a_process_that_was_stopped_in_an_event_repeats_no_number_of_others(memory: Memory) -> None:
    for at in itertools.count():
        late, other, seen = memory.board(), memory.board(), [0]

        def others(other: Board = other, seen: list[int] = seen) -> None:
            for _ in range(3):
                other.invalidate((HASH,))
                seen += [other.bell[0], *stamps(other, HASH)]

        memory.steps[-2].steps_left, memory.steps[-2].others = at, others
        late.invalidate((HASH,))
        assert memory.words[0] not in seen
        if len(seen) == 1:  # it has no such step
            assert at == 5
            break


def test_many_events_of_others_hardly_ever_make_a_label_void() -> None:
    board = Memory(1 << 22).board()
    labels = [board.label((hashes.key_hash(b"%d" % number),)) for number in range(5000)]
    for number in range(50_000):
        board.stamp((hashes.key_hash(b"other %d" % number),))
    assert sum(not board.stands(label) for label in labels) < 10


def test_the_bell_is_stored_after_the_stamps_and_before_a_full_fence(memory: Memory, board: Board) -> None:
    marks = [f"mark {mark}" for mark in board.marks_of(HASH)]
    board.invalidate((HASH,))
    assert memory.steps[0].journal == [*marks, "order", "bell 0", "full"]


def test_what_is_made_of_others_that_one_event_names_is_current_only_if_they_are_void_before(memory: Memory) -> None:
    """A label that stands after the event was read after a bell that made near copies of the others void."""
    part, page = THINGS[1], THINGS[4]
    standing = 0
    for at in itertools.count():
        board, other = memory.board(), memory.board()
        part_label, bell = other.label((part, page)), other.bell[0]
        seen: list[tuple[Label, int, bool]] = []

        def load(seen: list[tuple[Label, int, bool]] = seen, other: Board = other, part: Label = part_label) -> None:
            seen.append((other.label((page,)), other.bell[0], other.stands(part)))

        memory.steps[-2].steps_left, memory.steps[-2].others = at, load
        board.invalidate((part, page), related=True)
        memory.steps[-2].steps_left = None
        if not seen:
            break
        label, bell_then, part_stood = seen[0]
        if other.stands(label):
            assert bell_then != bell
            assert not part_stood
            standing += 1
    assert at == 2 * 9
    assert standing == 4


def test_related_things_are_stamped_before_the_first_bell_and_after_it(memory: Memory, board: Board) -> None:
    marks = [f"mark {mark}" for thing in THINGS[1:3] for mark in board.marks_of(thing)]
    board.invalidate(THINGS[1:3], related=True)
    once = [*marks, "order", "bell 0", "full"]
    assert memory.steps[0].journal == [*once, "order", *once]


def test_whoever_is_killed_within_an_event_has_rung_no_bell_before_all_stamps(memory: Memory) -> None:
    things = THINGS[1:4]  # each has four marks
    for after in range(13):
        dying, board = memory.board(), memory.board()
        labels, bell = [board.label((thing,)) for thing in things], board.bell[0]
        memory.steps[-2].stores_left = after
        with pytest.raises(Death):
            dying.invalidate(things)
        assert [board.stands(label) for label in labels] == [after < 4 * number for number in (1, 2, 3)]
        assert board.bell[0] == bell


def test_a_label_that_was_read_within_an_event_stands_and_an_older_one_stands_until_its_end(memory: Memory) -> None:
    """So what is copied has to keep its own label."""
    for after in range(4):
        dying, board = memory.board(), memory.board()
        old = board.label((HASH,))
        memory.steps[-2].stores_left = after
        with pytest.raises(Death):
            dying.stamp((HASH,))
        within = board.label((HASH,))
        assert board.stands(old)
        assert board.stands(within)
        board.invalidate((HASH,))
        assert not board.stands(old)
        assert not board.stands(within)


def test_the_stamp_of_the_root_is_read_in_one_step_and_is_the_only_one(memory: Memory, board: Board) -> None:
    """Waiters look for a record of exactly their label."""
    board.invalidate((hashes.ROOT,))
    stamp = memory.words[1]
    assert stamp != 0
    steps, other = memory.steps[0], memory.board()
    for at, expected in ((0, 1), (1, 0)):
        steps.steps_left, steps.others = at, lambda: other.stamp((hashes.ROOT,))
        root = stamps(board, hashes.ROOT)
        assert (root[0] != stamp, root[1:]) == (bool(expected), (0, 0, 0))
        steps.steps_left, stamp = None, memory.words[1]


# --- Labels


SEVERAL = [(), (3,), (5,), (3, 5), (3, 5, 4), tuple(range(100, 130))]


def things_of(numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the root, and some namespaces and tags."""
    return hashes.ROOT, *[hashes.tag_hash(str(number)) for number in numbers]


def write_at_random(board: Board, rnd: random.Random, things: Sequence[int]) -> None:
    for thing in things:
        if rnd.random() < 0.5:
            board.invalidate((thing,))


@pytest.mark.parametrize("others", SEVERAL)
def test_the_label_of_a_key_has_the_groups_of_the_root_the_key_its_writes_and_the_rest(
    board: Board, others: tuple[int, ...]
) -> None:
    things = things_of(others)
    write_at_random(board, random.Random(1), (*things, HASH, HASH ^ WRITES))
    label = board.label_of(HASH, things)
    assert label == board.label((hashes.ROOT, HASH, HASH ^ WRITES, *things[1:]))
    assert groups(label) == [board.group(thing) for thing in (hashes.ROOT, HASH, HASH ^ WRITES, *things[1:])]
    assert len(label) == GROUP.size * (len(things) + 2)


@pytest.mark.parametrize("others", SEVERAL)
def test_an_event_of_any_group_makes_a_label_void_however_many_it_has(board: Board, others: tuple[int, ...]) -> None:
    things = things_of(others)
    for thing in (*things, HASH, HASH ^ WRITES):
        read, to_write = board.label_of(HASH, things), board.label_to_write(HASH, things)
        assert board.stands(read)
        assert board.stands(to_write)
        board.invalidate((thing,))
        assert not board.stands(read)
        assert not board.stands(to_write)
        board.invalidate((hashes.tag_hash("of another"),))


@pytest.mark.parametrize("others", SEVERAL)
def test_no_label_is_void_while_one_of_the_four_marks_of_each_group_has_its_stamp(
    memory: Memory, board: Board, others: tuple[int, ...]
) -> None:
    things, rnd = things_of(others), random.Random(2)
    label = board.label_of(HASH, things)
    for thing in (HASH, HASH ^ WRITES, *things[1:]):
        left = rnd.randrange(4)
        for number, mark in enumerate(board.marks_of(thing)):
            if number != left:
                memory.words[1 + mark] = 1
    assert board.stands(label)


@pytest.mark.parametrize("others", SEVERAL)
@pytest.mark.parametrize("hash", [HASH, HASH & ~511 | HASH >> 9 & 511, HASH >> 36 << 36])
def test_the_label_to_write_is_the_one_that_is_made_of_the_label_that_was_read(
    others: tuple[int, ...], hash: int
) -> None:
    """Byte by byte: so both stand by the same, and stamp the same."""
    one_memory, other_memory, things, rnd = Memory(), Memory(), things_of(others), random.Random(3)
    one, other = one_memory.board(), other_memory.board()
    for _ in range(20):
        at_once, in_two_steps = one.label_to_write(hash, things), other.write_label(other.label_of(hash, things))
        assert at_once == in_two_steps
        for board, label in ((one, at_once), (other, in_two_steps)):
            assert board.stands(label)
            board.stamp_write(label)
            assert board.stands(label)
        assert one_memory.words == other_memory.words
        seed = rnd.random()
        for board in (one, other):
            write_at_random(board, random.Random(seed), (*things, hash, hash ^ WRITES))
        assert one_memory.words == other_memory.words


@pytest.mark.parametrize("others", SEVERAL)
def test_a_label_that_was_read_before_others_wrote_is_written_with_other_stamps_of_the_writes_alone(
    memory: Memory, board: Board, others: tuple[int, ...]
) -> None:
    things, old = things_of(others), board.label_of(HASH, things_of(others))
    other = memory.board()
    other.stamp_write(other.label_to_write(HASH, things))
    label = board.write_label(old)
    assert but_writes(label) == but_writes(old)
    assert groups(label)[2] != groups(old)[2]
    assert not board.stands(old)
    assert board.stands(label)
    board.stamp_write(label)
    assert board.stands(label)


def test_a_void_label_stays_void_when_it_is_written(board: Board) -> None:
    """What is derived of a value takes over its label, also if an event has come meanwhile."""
    for thing in (hashes.ROOT, HASH, hashes.tag_hash("t")):
        old = board.label_of(HASH, (hashes.ROOT, hashes.tag_hash("t")))
        board.invalidate((thing,))
        label = board.write_label(old)
        assert not board.stands(label)
        board.stamp_write(label)
        assert not board.stands(label)


# --- Writes


#: How a write gets its label.
Label_of = Callable[[Board, int], Label]


def at_once(board: Board, hash: int) -> Label:
    return board.label_to_write(hash, (hashes.ROOT,))


def of_what_was_read(board: Board, hash: int) -> Label:
    return board.write_label(board.label_of(hash, (hashes.ROOT,)))


either_way = pytest.mark.parametrize("to_write", [at_once, of_what_was_read])


def written(board: Board, hash: int, to_write: Label_of = at_once) -> tuple[Label, Label]:
    """Write; return the label of what was there before, and the one of what was written."""
    before = board.label_of(hash, (hashes.ROOT,))
    label = to_write(board, hash)
    board.stamp_write(label)
    return before, label


@either_way
def test_a_write_makes_older_labels_of_its_key_void_and_its_own_stands(to_write: Label_of) -> None:
    board = Memory().board()
    for number in range(10_000):
        before, after = written(board, hashes.key_hash(b"%d" % number), to_write)
        assert not board.stands(before)
        assert board.stands(after)
        assert board.stands(but_writes(before)), "what is made of a value has its label but for the writes"


@either_way
def test_writes_of_one_key_make_each_other_void(board: Board, to_write: Label_of) -> None:
    labels = [written(board, HASH, to_write)[1] for _ in range(20)]
    assert [board.stands(label) for label in labels] == [False] * 19 + [True]


@either_way
def test_an_invalidation_makes_written_values_void(board: Board, to_write: Label_of) -> None:
    _, label = written(board, HASH, to_write)
    board.invalidate((HASH,))
    assert not board.stands(label)


@either_way
@pytest.mark.parametrize("hash", [HASH, HASH & ~511 | HASH >> 9 & 511, HASH >> 36 << 36])
def test_a_value_stands_before_between_and_after_the_stamps_of_its_write(
    memory: Memory, hash: int, to_write: Label_of
) -> None:
    """Also of keys some of whose marks are one."""
    for after in range(5):
        dying, board = memory.board(), memory.board()
        old = board.label_of(hash, (hashes.ROOT,))
        label = to_write(dying, hash)
        memory.steps[-2].stores_left = after
        if after < 4:
            with pytest.raises(Death):
                dying.stamp_write(label)
        else:
            dying.stamp_write(label)
        assert board.stands(label)
        assert not (board.stands(old) and after == 4)
        _, new = written(board, hash)
        assert not board.stands(label)
        assert not board.stands(old)
        assert board.stands(new)


@either_way
def test_a_reader_beside_a_write_sees_its_value_stand_at_every_step(memory: Memory, to_write: Label_of) -> None:
    for at in range(5):
        reader, writer = memory.board(), memory.board()
        label = to_write(writer, HASH)
        group = groups(label)[2]
        memory.steps[-2].steps_left = at
        memory.steps[-2].others = lambda writer=writer, label=label: writer.stamp_write(label)
        assert reader.stands(group), at


@either_way
def test_the_first_mark_of_a_write_is_stored_last(memory: Memory, board: Board, to_write: Label_of) -> None:
    first, second, third, fourth = board.marks_of(HASH ^ WRITES)
    board.stamp_write(to_write(board, HASH))
    assert memory.steps[0].journal == [f"mark {fourth}", f"mark {third}", f"mark {second}", "order", f"mark {first}"]


# --- What is made of what


@pytest.mark.parametrize("near", [True, False], ids=["a near copy", "a record"])
@pytest.mark.parametrize("begins", range(11))
@pytest.mark.parametrize("later", range(11))
def test_no_page_that_was_made_of_an_old_part_survives_the_event_of_both(
    memory: Memory, near: bool, begins: int, later: int
) -> None:
    """R reads the page's label before one step of the event, and the part before a later one."""
    writer, reader = memory.board(), memory.board()
    steps, things = memory.steps[0], (hashes.ROOT, hashes.tag_hash("t"))
    part, bell = reader.label(things), reader.bell[0]
    page: list[Label] = []
    is_old: list[bool] = []

    def read(at: int) -> None:
        if at == begins:
            page.append(reader.label(things))
        if at == begins + later:
            is_old.append((near and reader.bell[0] == bell) or reader.stands(part))

    class Counted(Steps):
        count = 0

        def store(self, what: str) -> None:
            read(self.count)
            self.count += 1

    counted = Counted()
    for words in (writer.bell, writer.marks):
        words._steps = counted  # type: ignore[attr-defined]
    writer.invalidate([hashes.tag_hash("t")], related=True)
    assert counted.count == 10, "four stamps and the bell, twice"
    assert steps.journal == ["order", "full", "order", "order", "full"]
    if is_old and is_old[0]:
        assert not reader.stands(page[0])
