"""Numbers that are never used twice."""

from __future__ import annotations

import threading

import pytest

from colocache.core.host.numbers import COUNTER_BITS, MAX_WRITER, Numbers


@pytest.mark.parametrize("writer", [1, 2, 77, MAX_WRITER])
def test_numbers_are_words_of_their_writer_and_never_0(writer: int) -> None:
    numbers = Numbers(writer)
    taken = [numbers.next() for _ in range(1000)]
    assert len(set(taken)) == 1000
    assert all(0 < number < 1 << 64 and number >> COUNTER_BITS & MAX_WRITER == writer for number in taken)


@pytest.mark.parametrize("writer", [-1, 0, MAX_WRITER + 1])
def test_a_writer_that_is_none_is_refused(writer: int) -> None:
    with pytest.raises(ValueError, match=f"writer={writer}: give a number from 1 to"):
        Numbers(writer)


def test_no_two_threads_get_one_number() -> None:
    numbers, taken = Numbers(1), list[int]()

    def take() -> None:
        taken.extend([numbers.next() for _ in range(20_000)])

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 80_000
