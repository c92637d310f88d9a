"""The layout of a shelf's file."""

from __future__ import annotations

import mmap

import pytest

from colocache.core.host.layout import MAX_CAPACITY, MIN_CAPACITY, PAGE_BYTES, RING, ShelfMemory, geometry

MIB = 1 << 20


@pytest.mark.parametrize(("capacity", "rings"), [(MIN_CAPACITY, 1), (16 * MIB, 1), (64 * MIB, 4), (100 * MIB, 8),
                                                 (256 * MIB, 16), (1024 * MIB, 64)])  # fmt: skip
def test_a_shelf_has_rings_of_at_most_16_mib(capacity: int, rings: int) -> None:
    found = geometry(capacity)
    assert found.rings == rings
    assert found.ring_size <= RING
    assert capacity * 0.5 <= found.rings * found.ring_size <= capacity


@pytest.mark.parametrize("capacity", [MIN_CAPACITY, 3 * MIB + 5, 100 * MIB, 256 * MIB, MAX_CAPACITY])
def test_parts_follow_each_other_on_whole_pages(capacity: int) -> None:
    found = geometry(capacity)
    assert 64 * (1 + found.rings) <= found.index_offset
    assert found.index_offset + 8 * found.ways <= found.used_offset
    assert found.used_offset + found.ways <= found.ghosts_offset
    assert found.ghosts_offset + 4 * found.rings * found.ring_ghosts <= found.data_offset == found.size
    assert found.data_offset + found.rings * found.ring_size == found.total_size
    for offset in (found.index_offset, found.used_offset, found.ghosts_offset, found.data_offset, found.small_size):
        assert offset % PAGE_BYTES == 0


def test_there_are_four_ways_for_each_kib_of_values() -> None:
    assert geometry(256 * MIB).ways == 4 * 256 * 1024


@pytest.mark.parametrize("capacity", [0, -1, MIN_CAPACITY - 1, MAX_CAPACITY + 1])
def test_a_shelf_of_another_size_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity={capacity}: a shelf has from"):
        geometry(capacity)


def test_memory_lets_go_of_its_map() -> None:
    found = geometry(MIN_CAPACITY)
    mapped = mmap.mmap(-1, found.total_size)
    memory = ShelfMemory.over(mapped, found, lambda start, end: True)
    memory.index[3] = 1 << 63
    memory.index[9] = 7
    assert memory.bucket(0) == (0, 0, 0, 1 << 63, 0, 0, 0, 0)
    assert memory.bucket(8 * 8) == (0, 7, 0, 0, 0, 0, 0, 0), "it is given bytes"
    memory.release()
    mapped.close()
