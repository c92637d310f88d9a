"""The places of keys, namespaces and tags on the board."""

from __future__ import annotations

from itertools import product

from colocache.core.host.hashes import ANY_TAG, ROOT, WRITES, key_hash, namespace_hash, path_hashes, tag_hash


def offsets(hash: int) -> set[int]:
    return {hash >> shift & 511 for shift in (0, 9, 18, 27)}


def test_no_write_stamps_all_marks_of_its_key() -> None:
    bits = offsets(WRITES)
    # Marks of a key that a write could stamp differ by sums of those bits. What else they have in common is no matter.
    sums = [sum(b for b, chosen in zip(bits, choice, strict=True) if chosen) for choice in product((0, 1), repeat=4)]
    for one, two, three, four in product(sums, repeat=4):
        hash = one | two << 9 | three << 18 | four << 27
        assert not offsets(hash) <= offsets(hash ^ WRITES)


def test_the_writes_to_a_key_have_their_marks_in_the_page_of_the_key() -> None:
    assert WRITES >> 36 == 0
    for number in range(1000):
        hash = key_hash(b"%d" % number)
        assert all(hash >> shift & 511 != (hash ^ WRITES) >> shift & 511 for shift in (0, 9, 18, 27))


def test_a_key_a_namespace_and_a_tag_of_one_text_are_three_things() -> None:
    assert len({key_hash(b"a"), namespace_hash("a"), tag_hash("a"), ROOT, ANY_TAG}) == 5
    assert namespace_hash("") == ROOT


def test_a_namespace_depends_on_all_above_it() -> None:
    assert path_hashes("") == (ROOT,)
    assert path_hashes("a/b/c") == (ROOT, namespace_hash("a"), namespace_hash("a/b"), namespace_hash("a/b/c"))


def test_any_text_has_a_hash() -> None:
    assert tag_hash("\udcff") != tag_hash("\udcfe")
    assert namespace_hash("\udcff") != namespace_hash("ÿ")


def test_all_processes_agree_on_hashes() -> None:
    """They are written to memory that other versions of this package may read."""
    assert key_hash(b"key") == 0x0C37033BF42105F2
    assert namespace_hash("a/b") == 0x71391BACDF1322B2
    assert tag_hash("t") == 0x4B7E63AE4F8028E2
