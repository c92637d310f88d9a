from __future__ import annotations

import random
from collections import Counter
from hashlib import sha256

import pytest

from colocache.core.group.ring import SLOTS, Ring, slot_of
from tests import printed_with_two_hash_seeds

SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 16, 32, 47, 64, 128, 200)


def hosts(seats: int) -> list[str]:
    """The seats of hosts that run eight workers each."""
    return [f"web{seat // 8}/{seat % 8}" for seat in range(seats)]


def random_seats(seats: int, seed: int) -> list[str]:
    rng = random.Random(f"{seats} {seed}")
    return [f"{rng.getrandbits(48):x}.example/{rng.randrange(100)}" for _ in range(seats)]


def table(ring: Ring) -> list[str]:
    return [ring.owner(slot) for slot in range(SLOTS)]


def checksum(ring: Ring) -> str:
    return sha256("\n".join(table(ring)).encode()).hexdigest()


def moved(before: Ring, after: Ring) -> float:
    """The slots with another owner, as a multiple of one seat's share in the larger ring."""
    changes = sum(old != new for old, new in zip(table(before), table(after), strict=True))
    return changes * max(len(before.seats), len(after.seats)) / SLOTS


def leavers(ring: Ring, seed: int) -> list[str]:
    """Return the seat with the most slots, the one with the fewest, and any other."""
    by_load = [seat for seat, _ in Counter(table(ring)).most_common()]
    return [by_load[0], by_load[-1], random.Random(seed).choice(ring.seats)]


@pytest.mark.parametrize(
    ("seats", "expected"),
    [
        (1, "66c0d990f2e85a6a7bf67bb6d425866f5094685f471cc070fa41432f8eae7045"),
        (5, "c65714cffce67f773690a9208824ac49dbbd1a4b9fc63ae4a1d580d877c99bf7"),
        (64, "01fe366cde4cc9173295742e21c0572ab3c9765e82029ccedcdeb797667581c3"),
        (200, "9fbbda0918fe4c13348e2527a2b995e0fb1f4837d357a687461d2426a19083ed"),
    ],
)
def test_owners_are_those_of_every_other_release_and_machine(seats: int, expected: str) -> None:
    # Members of two releases share a group during a rolling upgrade; with two tables they would load everything twice.
    assert checksum(Ring(hosts(seats))) == expected


@pytest.mark.parametrize(
    ("wire", "secret", "expected"),
    [
        (b"", b"", 25417),
        (b"users:42", b"", 29404),
        (b"users:42", b"secret", 27890),
        (b"users:42", b"x" * 64, 12318),
        (b"users:42", b"x" * 65, 14624),
        (b"k" * 1000, b"", 3549),
    ],
)
def test_slots_are_those_of_every_other_release_and_machine(wire: bytes, secret: bytes, expected: int) -> None:
    assert slot_of(wire, secret) == expected


def test_processes_with_different_hash_seeds_agree() -> None:
    program = (
        "from colocache.core.group.ring import SLOTS, Ring, slot_of\n"
        "ring = Ring({f'web{n}/0' for n in range(20)})\n"
        "print([ring.owner(slot) for slot in range(SLOTS)], slot_of(b'key'), slot_of(b'key', b'secret'))\n"
    )
    assert len(printed_with_two_hash_seeds(program)) == 1


def test_order_and_repetition_of_the_seats_do_not_matter() -> None:
    seats = hosts(64)
    shuffled = random.Random(1).sample(seats, 64) + seats[:5]
    assert table(Ring(shuffled)) == table(Ring(iter(seats)))
    assert Ring(shuffled).seats == tuple(sorted(seats))


def test_rings_of_the_same_seats_are_equal() -> None:
    ring = Ring(["b/0", "a/0"])
    assert ring == Ring(["a/0", "b/0", "a/0"])
    assert hash(ring) == hash(Ring(["a/0", "b/0"]))
    assert ring != Ring(["a/0"])
    assert ring != ("a/0", "b/0")
    assert repr(ring) == "Ring(['a/0', 'b/0'])"


def test_a_ring_cannot_be_changed() -> None:
    ring = Ring(["a/0"])
    with pytest.raises(AttributeError):
        ring.seats = ("b/0",)  # type: ignore[misc]


def test_nobody_owns_a_slot_of_an_empty_ring() -> None:
    ring = Ring([])
    assert ring.seats == ()
    with pytest.raises(LookupError, match="slot 7 has no owner: this ring has 0 seats"):
        ring.owner(7)
    with pytest.raises(LookupError, match="slot 7 has no owner"):
        ring.owners(7, 2)


def test_there_is_no_slot_behind_the_last() -> None:
    ring = Ring(["a/0"])
    assert ring.owner(SLOTS - 1) == "a/0"
    with pytest.raises(LookupError, match=f"slot {SLOTS} has no owner: .* slots from 0 to {SLOTS - 1}"):
        ring.owner(SLOTS)


def test_a_lone_name_is_not_taken_for_its_letters() -> None:
    with pytest.raises(TypeError, match="web1/0"):
        Ring("web1/0")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("naming", [hosts, lambda size: random_seats(size, seed=1)], ids=["hosts", "random"])
def test_no_seat_owns_more_than_a_tenth_above_the_mean(naming, size: int) -> None:
    seats = naming(size)
    loads = Counter(table(Ring(seats)))
    assert set(loads) == set(seats)
    assert max(loads.values()) <= -(-SLOTS * 11 // (size * 10))


@pytest.mark.parametrize("size", [2, 5, 32])
def test_while_no_seat_is_full_only_the_slots_of_the_one_that_comes_or_goes_move(size: int) -> None:
    before = Ring(hosts(size))
    for seat in leavers(before, seed=1):
        after = Ring(set(before.seats) - {seat})
        changes = [slot for slot in range(SLOTS) if before.owner(slot) != after.owner(slot)]
        assert {before.owner(slot) for slot in changes} == {seat}


@pytest.mark.parametrize("size", [47, 100, 200])
def test_one_seat_that_comes_or_goes_moves_little_more_than_its_share(size: int) -> None:
    before = Ring(random_seats(size, seed=1))
    for seat in leavers(before, seed=1):
        assert moved(before, Ring(set(before.seats) - {seat})) <= 1.25, seat


@pytest.mark.parametrize("size", [1, 2, 64, 200])
def test_owners_begin_with_the_owner_and_name_every_seat_once(size: int) -> None:
    ring = Ring(hosts(size))
    for slot in range(0, SLOTS, 61):  # enough to meet slots that a full seat passed over
        owners = ring.owners(slot, size + 1)
        assert owners[0] == ring.owner(slot)
        assert sorted(owners) == sorted(ring.seats)
        assert ring.owners(slot, 2) == owners[:2]
        assert ring.owners(slot, 0) == ()


@pytest.mark.parametrize("size", [3, 16, 200])
def test_the_second_of_the_owners_inherits_the_slot(size: int) -> None:
    ring = Ring(hosts(size))
    heirs = []
    for seat in leavers(ring, seed=1):
        after = Ring(set(ring.seats) - {seat})
        left = [slot for slot in range(SLOTS) if ring.owner(slot) == seat][:100]
        heirs += [ring.owners(slot, 2)[1] == after.owner(slot) for slot in left]
    assert sum(heirs) / len(heirs) >= (1 if size <= 16 else 0.95)


def test_keys_spread_evenly_over_the_slots() -> None:
    for secret in (b"", b"secret"):
        counts = Counter(slot_of(b"users:%d" % n, secret) for n in range(50_000))
        assert set(counts) <= set(range(SLOTS))
        mean = 50_000 / SLOTS
        chi_square = sum((counts[slot] - mean) ** 2 / mean for slot in range(SLOTS))
        assert abs(chi_square - (SLOTS - 1)) <= 3 * (2 * (SLOTS - 1)) ** 0.5


def test_keys_chosen_to_meet_at_one_owner_are_spread_by_the_secret() -> None:
    ring = Ring(hosts(4))
    victim = ring.seats[0]
    chosen = [key for key in map(b"%d".__mod__, range(50_000)) if ring.owner(slot_of(key)) == victim]
    loads = Counter(ring.owner(slot_of(key, b"secret")) for key in chosen)
    slots = Counter(table(ring))
    for seat in ring.seats:
        share = slots[seat] / SLOTS
        sigma = (len(chosen) * share * (1 - share)) ** 0.5
        assert abs(loads[seat] - len(chosen) * share) <= 3 * sigma
