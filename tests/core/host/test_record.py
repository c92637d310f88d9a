"""Records as bytes: what goes in comes out, at the places where readers look for it."""

from __future__ import annotations

import math
import mmap
import random
import sys

import pytest

from colocache.core.host import hashes
from colocache.core.host.board import GROUP, Board, Label
from colocache.core.host.hashes import WRITES
from colocache.core.host.numbers import Numbers
from colocache.core.host.record import (
    BESIDE,
    CHECK,
    COPIED,
    HEAD,
    KEY_GROUPS,
    LENGTH,
    MORE_GROUPS,
    PAD,
    PREFIX,
    groups_of,
    label_of,
    pack,
    unpack,
    unpack_header,
)
from colocache.core.keys import MAX_WIRE

from .shelves import MARKS, StepFences, Steps, groups

WIRE = b"a wire key"
HASH = hashes.key_hash(WIRE)


@pytest.fixture
def board() -> Board:
    words = memoryview(mmap.mmap(-1, 8 * (2 + MARKS))).cast("Q")
    return Board(words[:1], words[1:], MARKS, Numbers(1), StepFences(Steps()))


def label_with(board: Board, others: int) -> Label:
    """Return a label of the key with so many groups beside the first three, all with stamps of their own."""
    things = (hashes.ROOT, *[hashes.tag_hash(str(number)) for number in range(others)])
    for thing in (*things, HASH, HASH ^ WRITES):
        board.stamp((thing,))
    return board.label_of(HASH, things)


several = pytest.mark.parametrize("others", [0, 1, 2, 7, 1000])


@several
@pytest.mark.parametrize("wire", [WIRE, b"", b"x" * MAX_WIRE], ids=["", "empty", "longest"])
@pytest.mark.parametrize("size", [0, 1, COPIED, COPIED + 1, 100_000])
def test_what_goes_into_a_record_comes_out(board: Board, others: int, wire: bytes, size: int) -> None:
    label, payload = label_with(board, others), random.Random(size).randbytes(size)
    body = pack(wire, label, payload, 12.5, 77, 6.25)
    assert len(body) + CHECK == BESIDE + len(label) + len(wire) + size >= PREFIX
    record = unpack(body, wire, 9)
    assert record is not None
    assert bytes(record.payload) == payload
    assert isinstance(record.payload, bytes) == (size <= COPIED)
    assert record[1:] == (label, 12.5, 6.25, 77, 9, 0)
    assert label_of(body) == label
    assert unpack(body, wire + b"x", 9) is None
    assert unpack(body, b"another", 9) is None
    header = unpack_header(body)
    assert (header.hash, header.expires) == (HASH, 12.5)


@several
def test_the_first_three_groups_are_where_readers_look_for_them(board: Board, others: int) -> None:
    label = label_with(board, others)
    shape, expires, version, loaded, root, *stamps = HEAD.unpack_from(pack(WIRE, label, b"payload", math.inf, 5, 2.5))
    assert (expires, version, loaded) == (math.inf, 5, 2.5)
    assert shape & LENGTH == BESIDE + len(label) + len(WIRE) + len(b"payload")
    assert not shape & PAD
    assert (shape >= MORE_GROUPS) == (others > 0)
    first, key, writes = groups(label)[:KEY_GROUPS]
    assert GROUP.unpack(first) == (hashes.ROOT, root, 0, 0, 0)
    assert GROUP.unpack(key) == (HASH, *stamps[:4])
    assert GROUP.unpack(writes) == (HASH ^ WRITES, *stamps[4:])
    assert len({root, *stamps}) > 2


@several
def test_the_groups_of_a_label_are_found_by_their_hashes_and_keep_their_order(board: Board, others: int) -> None:
    label = label_with(board, others)
    found = groups_of(label)
    assert [*found.values()] == groups(label)
    assert all(group[: len(hash)] == hash for hash, group in found.items())
    assert b"".join(found.values()) == label
    assert len(found) == others + KEY_GROUPS
    assert found[HASH.to_bytes(8, sys.byteorder)] == board.group(HASH)


def test_a_label_without_groups_has_none() -> None:
    assert groups_of(b"") == {}
