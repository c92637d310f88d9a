"""A stream in a mapped file: a reader gets what was written, or None, and never anything else."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from colocache.errors import ConfigError
from colocache.runtime import files, logs
from colocache.runtime import journal as journal_module
from colocache.runtime.journal import Journal, JournalReader
from tests import ROOT

ME = bytes(range(16))
LOG = logs.Log("test")
OVERHEAD = 16  # bytes of a record beside its frame
LAST, RING = 64, 128  # offsets of layout 1


def frame(number: int) -> bytes:
    return f"event {number} ".encode() * (number % 5)


def anonymous(ring_bytes: int, appended: int = 0) -> tuple[mmap.mmap, Journal]:
    mapping = mmap.mmap(-1, RING + ring_bytes)
    journal = Journal(mapping, ME)
    for number in range(1, appended + 1):
        journal.append(number, frame(number))
    return mapping, journal


def copy_of(mapping: mmap.mmap) -> mmap.mmap:
    copy = mmap.mmap(-1, len(mapping))
    copy[:] = mapping[:]
    return copy


@pytest.fixture
def new_file(tmp_path: Path) -> Iterator[tuple[int, str]]:
    path = str(tmp_path / "stream")
    descriptor = files.open_new(path)
    yield descriptor, path
    os.close(descriptor)


def test_what_is_appended_can_be_read_from_the_file(new_file: tuple[int, str]) -> None:
    journal = Journal.create(*new_file, ME, 1000, LOG)
    reader = JournalReader.of(new_file[0], ME)
    assert (reader.last(), reader.events(1)) == (0, [])
    for number in (1, 2, 3):
        journal.append(number, frame(number))
    assert journal.last == reader.last() == 3
    assert reader.events(2) == [(2, frame(2)), (3, frame(3))]
    assert reader.events(4) == []
    reader.close()
    reader.close()
    assert (reader.last(), reader.events(1)) == (None, None)


def test_numbers_follow_one_another() -> None:
    mapping, journal = anonymous(1000, appended=2)
    for number in (0, 2, 4):
        with pytest.raises(ValueError, match=f"event {number} does not follow event 2"):
            journal.append(number, b"")
    assert JournalReader(mapping, ME).events(1) == [(1, frame(1)), (2, frame(2))]


def test_the_largest_frame_fills_the_journal_and_a_larger_one_is_refused() -> None:
    mapping, journal = anonymous(100, appended=1)
    with pytest.raises(ValueError, match="event 2 of 85 bytes exceeds the journal of 100 bytes"):
        journal.append(2, bytes(100 - OVERHEAD + 1))
    reader = JournalReader(mapping, ME)
    assert reader.events(1) == [(1, frame(1))]
    journal.append(2, b"x" * (100 - OVERHEAD))
    assert reader.events(2) == [(2, b"x" * (100 - OVERHEAD))]
    assert reader.events(1) is None


@pytest.mark.parametrize("checksums", ["that work", "that miss everything"])
def test_the_ring_holds_what_fits_and_says_what_is_gone(checksums: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # One checksum in 2**32 misses an event whose place is overwritten. The journal must not depend on it.
    if checksums == "that miss everything":
        monkeypatch.setattr(zlib, "crc32", lambda _: 0)
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    for _ in range(60):
        size = rng.randrange(40, 700)
        mapping, journal = anonymous(size)
        reader, frames = JournalReader(mapping, ME), [b""]
        for number in range(1, 120):
            frames.append(rng.randbytes(rng.randrange(min(size - OVERHEAD, rng.choice((1, 30, 700))) + 1)))
            journal.append(number, frames[number])
            first = rng.randrange(1, number + 2)
            fits = sum(len(each) + OVERHEAD for each in frames[first:]) <= size
            expected = list(enumerate(frames))[first:] if fits else None
            assert reader.events(first) == expected, f"seed {seed}, size {size}, events {first} to {number}"


class Killed(Exception):
    """The process ends here."""


class Countdown:
    def __init__(self, stores: int) -> None:
        self.left = stores

    def strike(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


class MortalMap(mmap.mmap):
    countdown: Countdown | None = None

    def __setitem__(self, where: object, data: object) -> None:
        if self.countdown and self.countdown.left == 0:
            half = slice(where.start, where.start + len(data) // 2)
            super().__setitem__(half, data[: len(data) // 2])
        if self.countdown:
            self.countdown.strike()
        super().__setitem__(where, data)


class MortalWords:
    def __init__(self, words: memoryview, countdown: Countdown) -> None:
        self.words, self.countdown = words, countdown

    def __setitem__(self, where: int, word: int) -> None:
        self.countdown.strike()
        self.words[where] = word


@pytest.mark.parametrize("before", [1, 2, 3, 10, 11, 12, 13])
def test_a_kill_between_any_two_stores_leaves_the_earlier_state(before: int) -> None:
    survived = False
    for stores in range(6):
        mapping = MortalMap(-1, RING + 300)
        journal = Journal(mapping, ME)
        for number in range(1, before + 1):
            journal.append(number, frame(number))
        mapping.countdown = Countdown(stores)
        journal._words = MortalWords(journal._words, mapping.countdown)
        with contextlib.suppress(Killed):
            journal.append(before + 1, b"the last words of a dying process")
            survived = True
            break
        reader = JournalReader(mapping, ME)
        assert reader.last() == before
        assert reader.events(before) == [(before, frame(before))]
        assert reader.events(1) in (None, [(number, frame(number)) for number in range(1, before + 1)])
    assert survived
    assert stores in (3, 4)  # in two pieces at the ring's end, or in one; then two words


def test_a_record_with_any_bit_changed_is_not_given_out() -> None:
    mapping, journal = anonymous(1000, appended=3)
    journal.append(4, b"four")
    third = sum(len(frame(number)) + OVERHEAD for number in (1, 2))
    fourth = third + len(frame(3)) + OVERHEAD
    for at in range(third, fourth + 4 + OVERHEAD):
        damaged = copy_of(mapping)
        damaged[RING + at] ^= 1 << (at % 8)
        reader = JournalReader(damaged, ME)
        assert reader.last() == 4
        assert reader.events(3) is None
        assert reader.events(4) == ([(4, b"four")] if at < fourth else None)


@pytest.mark.parametrize("junk", [b"\xff" * 24, b"\x01" * 24, bytes(24)])
def test_junk_numbers_and_places_give_no_events(junk: bytes) -> None:
    mapping, _ = anonymous(1000, appended=3)
    mapping[LAST : LAST + 24] = junk
    assert JournalReader(mapping, ME).events(1) in (None, [])


@pytest.mark.parametrize(
    ("offset", "what"), [(0, "magic"), (8, "layout"), (16, "size"), (24, "incarnation"), (39, "incarnation")]
)
def test_a_head_of_another_kind_makes_the_journal_unreadable(offset: int, what: str) -> None:
    mapping, _ = anonymous(1000, appended=3)
    reader = JournalReader(mapping, ME)
    assert reader.last() == 3
    mapping[offset] ^= 1
    assert (reader.last(), reader.events(1)) == (None, None), what


@pytest.mark.parametrize("size", [0, 1, RING, RING + 1, RING + 999, RING + 1001])
def test_a_file_of_another_size_is_unreadable(new_file: tuple[int, str], size: int) -> None:
    Journal.create(*new_file, ME, 1000, LOG).append(1, b"one")
    assert JournalReader.of(new_file[0], ME).last() == 1
    os.ftruncate(new_file[0], size)
    reader = JournalReader.of(new_file[0], ME)
    assert (reader.last(), reader.events(1)) == (None, None)
    reader.close()


CUT = f"""
import os, sys
from colocache.runtime import logs
from colocache.runtime.files import open_new
from colocache.runtime.journal import Journal, JournalReader
path = sys.argv[1]
descriptor = open_new(path)
Journal.create(descriptor, path, {ME!r}, 1 << 16, logs.Log('test')).append(1, b"one")
reader = JournalReader.of(descriptor, {ME!r})
print(reader.last(), reader.events(1), flush=True)
os.ftruncate(descriptor, int(sys.argv[2]))
print(reader.last(), reader.events(1), flush=True)
"""


@pytest.mark.parametrize("size", [0, 1, RING, RING + 5000, RING + (1 << 16) - 1])
def test_a_file_that_is_cut_short_under_its_reader_kills_nobody(tmp_path: Path, size: int) -> None:
    # Reading a mapping past the end of its file raises SIGBUS, so this needs a process of its own.
    command = [sys.executable, "-c", CUT, str(tmp_path / "stream"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 [(1, b'one')]\nNone None\n"


@pytest.mark.parametrize(("number", "known"), [(0, 0), (2**63 - 1, 2**63 - 1), (2**63, None), (2**64 - 1, None)])
def test_a_number_that_no_message_can_carry_is_refused(number: int, known: int | None) -> None:
    mapping, _ = anonymous(1000, appended=3)
    mapping[LAST : LAST + 8] = number.to_bytes(8, sys.byteorder)
    assert JournalReader(mapping, ME).last() == known


def test_a_file_larger_than_any_journal_is_not_even_mapped(new_file: tuple[int, str]) -> None:
    Journal.create(*new_file, ME, (1 << 24) - RING, LOG)
    assert JournalReader.of(new_file[0], ME).last() == 0
    os.ftruncate(new_file[0], 1 << 40)  # a hole, which takes no room
    os.pwrite(new_file[0], journal_module._head((1 << 40) - RING, ME), 0)
    assert JournalReader.of(new_file[0], ME).last() is None


def test_a_writer_that_overtakes_the_reader_spoils_only_the_answer() -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    answered = 0
    for _ in range(400):
        mapping, journal = anonymous(400, appended=rng.randrange(1, 30))
        reader = JournalReader(mapping, ME)
        read = reader._bytes

        def overtaken(start: int, length: int, journal: Journal = journal, read: object = read) -> bytes:
            for _ in range(rng.choice((0, 0, 0, 1, 5))):
                journal.append(journal.last + 1, frame(journal.last + 1))
            return read(start, length)

        reader._bytes = overtaken
        first = rng.randrange(1, journal.last + 1)
        last = journal.last
        events = reader.events(first)
        assert events in (None, [(number, frame(number)) for number in range(first, last + 1)]), f"seed {seed}"
        answered += events is not None
    assert answered


APPEND_FOR_EVER = f"""
import sys
from colocache.runtime import logs
from colocache.runtime.files import open_new
from colocache.runtime.journal import Journal
path = sys.argv[1]
journal = Journal.create(open_new(path), path, {ME!r}, 1 << 14, logs.Log('test'))
frames = [f"event {{n}} ".encode() for n in range(1000)]
journal.append(1, frames[1])
print("ready", flush=True)
number = 1
while True:
    number += 1
    journal.append(number, frames[number % 1000])
"""


def expected(events: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [(number, f"event {number % 1000} ".encode()) for number, _ in events]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], JournalReader]]:
    path = str(tmp_path / "stream")
    command = [sys.executable, "-c", APPEND_FOR_EVER, path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        descriptor = files.open_theirs(path)
        reader = JournalReader.of(descriptor, ME)
        yield process, reader
        process.kill()
    reader.close()
    os.close(descriptor)


def test_the_number_of_a_living_writer_only_grows(writer: tuple[subprocess.Popen[str], JournalReader]) -> None:
    _, reader = writer
    before, intact = 0, 0
    for _ in range(20_000):
        last = reader.last()
        assert last is not None
        assert last >= before
        before = last
        events = reader.events(last - 3)
        if events is not None:
            assert events == expected(events)
            intact += 1
    assert before > 1
    assert intact


@pytest.mark.parametrize("attempt", range(5))
def test_the_journal_of_a_killed_writer_is_whole(
    writer: tuple[subprocess.Popen[str], JournalReader], attempt: int
) -> None:
    process, reader = writer
    while (reader.last() or 0) < 1000 * attempt + 500:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = reader.last()
    assert last is not None
    events = reader.events(last - 400)
    assert events is not None
    assert [number for number, _ in events] == list(range(last - 400, last + 1))
    assert events == expected(events)
    assert reader.events(1) is None or last < 700


def test_all_blocks_are_there_before_the_first_event(new_file: tuple[int, str]) -> None:
    Journal.create(*new_file, ME, 1 << 18, LOG)
    assert os.fstat(new_file[0]).st_blocks * 512 >= RING + (1 << 18)


@pytest.mark.parametrize("kind", ["absent", "unsupported"])
def test_without_posix_fallocate_zeros_are_written(
    new_file: tuple[int, str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no such thing")

    if kind == "absent":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", unsupported, raising=False)
    Journal.create(*new_file, ME, 1 << 18, LOG).append(1, b"one")
    assert os.fstat(new_file[0]).st_blocks * 512 >= RING + (1 << 18)
    assert JournalReader.of(new_file[0], ME).events(1) == [(1, b"one")]


def test_a_full_disk_leaves_a_journal_that_others_cannot_read(
    new_file: tuple[int, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int, size: int) -> None:
        os.write(descriptor, bytes(size // 2))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal_module, "_allocate", full)
    journal = Journal.create(*new_file, ME, 1000, logs.Log("test"))
    [record] = caplog.records
    assert (record.name, record.levelname) == ("colocache", "WARNING")
    for part in (new_file[1], "No space left on device", "COLOCACHE_DIR"):
        assert part in record.getMessage()
    journal.append(1, b"one")
    assert journal.last == 1
    assert journal.reader(ME).events(1) == [(1, b"one")]
    assert os.fstat(new_file[0]).st_size == 0
    assert JournalReader.of(new_file[0], ME).last() is None


def test_the_readers_of_the_own_process_outlive_the_journal(new_file: tuple[int, str]) -> None:
    journal = Journal.create(*new_file, ME, 1000, LOG)
    journal.append(1, b"one")
    reader = journal.reader(ME)
    other = journal.reader(ME)
    other.close()
    journal.append(2, b"two")
    journal.close()
    with pytest.raises(ValueError, match="released"):
        journal.append(3, b"three")
    assert reader.events(1) == [(1, b"one"), (2, b"two")]
    reader.close()


def test_only_plain_files_of_this_user_are_opened(tmp_path: Path) -> None:
    (tmp_path / "real").touch(0o600)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "public").touch(0o644)
    (tmp_path / "directory").mkdir(0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    os.close(files.open_theirs(str(tmp_path / "real")))
    for name in ("link", "public", "directory", "pipe", "nothing", "real/beyond"):
        with pytest.raises(FileNotFoundError):
            files.open_theirs(str(tmp_path / name))
    for name in ("link", "public", "directory", "pipe"):
        with pytest.raises(ConfigError, match=f"{name} .*: remove it"):
            files.open_ours(str(tmp_path / name))
    with pytest.raises(FileExistsError):
        files.open_new(str(tmp_path / "real"))
    descriptor = files.open_new(str(tmp_path / "new"))
    assert os.fstat(descriptor).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
