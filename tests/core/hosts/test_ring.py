"""The ring of hosts: who owns which slot, how evenly, and how little moves."""

from __future__ import annotations

import random
from collections import Counter
from functools import lru_cache
from hashlib import sha256
from math import sqrt

import pytest

from colocache.core.hosts import ring as rings
from colocache.core.hosts.ring import MAX_WEIGHT, SLOTS, Ring, ring_of, slot_of
from tests import printed_with_two_hash_seeds

SIZES = (2, 3, 10, 32, 100)


def equal(size: int, seed: int) -> dict[str, int]:
    """Hosts of 1 GiB, by running numbers."""
    return {f"web{seed}-{number}": 16 for number in range(size)}


def small_and_large(size: int, seed: int) -> dict[str, int]:
    """Hosts of 64 MiB and of 1 GiB, with names like those of pods."""
    rng = random.Random(f"{size} {seed}")
    return {f"shop-{rng.getrandbits(40):x}": rng.choice((1, 16)) for _ in range(size)}


def mixed(size: int, seed: int) -> dict[str, int]:
    """Hosts of 64 MiB to 1 GiB, by address."""
    rng = random.Random(f"{size} {seed}")
    return {f"10.{seed % 256}.{number // 8}.{number % 8}": rng.randint(1, 16) for number in range(size)}


def very_mixed(size: int, seed: int) -> dict[str, int]:
    """Hosts of 64 MiB to 64 GiB, as many between two doublings as between any others."""
    rng = random.Random(f"{size} {seed}")
    return {f"{rng.getrandbits(48):x}.example": 1 << rng.randint(0, 10) for _ in range(size)}


KINDS = pytest.mark.parametrize("kind", [equal, small_and_large, mixed, very_mixed], ids=lambda kind: kind.__name__)


def table(weights: dict[str, int]) -> list[str | None]:
    return _table(tuple(weights.items()))


@lru_cache(maxsize=256)
def _table(weights: tuple[tuple[str, int], ...]) -> list[str | None]:
    ring = Ring(dict(weights))
    return [ring.owner(slot) for slot in range(SLOTS)]


def checksum(weights: dict[str, int]) -> str:
    return sha256("\n".join(map(str, table(weights))).encode()).hexdigest()


def part(weights: dict[str, int], host: str) -> float:
    """The slots that a host should have by its weight."""
    return SLOTS * weights.get(host, 0) / sum(weights.values())


def bound(weights: dict[str, int], host: str) -> int:
    return -(-11 * SLOTS * weights[host] // (10 * sum(weights.values())))


def changed(weights: dict[str, int], host: str, weight: int) -> dict[str, int]:
    return {**weights, host: weight}


def few(weights: dict[str, int], seed: int) -> list[str]:
    """A host of the most weight, one of the least, and any other."""
    by_weight = sorted(weights, key=weights.__getitem__)
    return list({by_weight[0]: 0, by_weight[-1]: 0, random.Random(seed).choice(by_weight): 0})


def race(weights: dict[str, int], room: dict[str, int]) -> list[str]:
    """The table as the rule says it, without any short cut: all arrivals in turn."""
    hosts, room = sorted(weights), dict(room)
    draws, now = [], 0
    for left in range(SLOTS, 0, -1):
        now += (1 << 44) // left
        draws.append(now)
    racers = Ring(weights)._racers
    arrivals = [(*arrival, slot) for slot in range(SLOTS) for arrival in rings._arrivals(racers, slot)]
    for index, host in enumerate(hosts):
        mine = sorted(time for time, who, _ in arrivals if who == index)
        assert mine == [draw // weights[host] for draw in draws]  # each place of the wish list is one slot's
    arrivals.sort()
    owners = [""] * SLOTS
    for _, index, slot in arrivals:
        if not owners[slot] and room[hosts[index]]:
            owners[slot] = hosts[index]
            room[hosts[index]] -= 1
    return owners


# --- The same everywhere


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"web1": 16}, "7e008fd1d8609a22c1fa166946614fecac13bb5e4ed9dbb4b1a61707ffbf5322"),
        (equal(5, 0), "fede4eaa00677917fa17e367679777575193ce07105a3596b234bd4ddbf30998"),
        (equal(100, 0), "e8a551a6e37f3dd043d594a4f09dd4f25364c297116bed6dccf507ffc2b59a11"),
        ({"a": 1, "b": 16, "c": 1024}, "d8adc774f0e1058bd0d3f32e9243f1e1a3fcce585f654f557cd4f3b394b59d3a"),
        ({f"h{n}": 1 << n % 11 for n in range(40)}, "f9928e4d1472a002874caceafaf3cd52e096c68a716807c38a68db964e63e71b"),
    ],
    ids=["one", "five", "hundred", "three weights", "forty weights"],
)  # fmt: skip
def test_owners_are_those_of_every_other_release_and_machine(weights: dict[str, int], expected: str) -> None:
    # Hosts of two releases share a group during a rolling upgrade; with two tables they would load everything twice.
    assert checksum(weights) == expected


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
        "from colocache.core.hosts.ring import SLOTS, ring_of, slot_of\n"
        "ring = ring_of({f'web{n}': 1 + n for n in range(20)})\n"
        "print([ring.owner(slot) for slot in range(SLOTS)], [ring.owners(slot, 9) for slot in range(99)], ring)\n"
        "print(slot_of(b'key'), slot_of(b'key', b'secret'))\n"
    )
    assert len(printed_with_two_hash_seeds(program)) == 1


@KINDS
def test_the_order_of_the_hosts_does_not_matter(kind) -> None:
    weights = kind(40, 1)
    shuffled = dict(random.Random(1).sample(list(weights.items()), 40))
    assert table(shuffled) == table(weights)
    assert Ring(shuffled) == Ring(weights)
    assert hash(Ring(shuffled)) == hash(Ring(weights))
    assert repr(Ring(shuffled)) == repr(Ring(weights))


@pytest.mark.parametrize(
    "weights",
    [
        {"one": 1, "two": 1},
        {"small": 1, "large": 1024},
        {"a": 1, "b": 2, "c": 16},
        {f"h{number}": 1 + 7 * number for number in range(6)},
        {"x": MAX_WEIGHT, "y": MAX_WEIGHT - 1, "z": 1},
    ],
    ids=str,
)
def test_the_table_is_that_of_the_race_written_plainly(weights: dict[str, int]) -> None:
    assert table(weights) == race(weights, {host: bound(weights, host) for host in weights})


@pytest.mark.parametrize("early", [0.1, 4.0, 11.0])
def test_the_moment_from_which_slots_are_looked_at_one_by_one_changes_no_owner(early: float, monkeypatch) -> None:
    weights = mixed(9, 1)
    expected = table(weights)
    monkeypatch.setattr(rings, "log", lambda _: early)
    ring = Ring(weights)
    assert [ring.owner(slot) for slot in range(SLOTS)] == expected


@pytest.mark.parametrize("weights", [equal(7, 1), mixed(6, 2), {"a": 1, "b": 1, "c": 90}], ids=str)
def test_full_hosts_pass_slots_on_as_in_the_race_written_plainly(weights: dict[str, int]) -> None:
    # There is room for all slots and no more, so that slots are passed on by hosts that others have filled, too.
    hosts = sorted(weights)
    room = {host: int(part(weights, host)) for host in hosts}
    room[hosts[-1]] += SLOTS - sum(room.values())
    racers = Ring(weights)._racers
    times, owners = rings._race(racers)
    before = list(owners)
    rings._share_out(racers, list(room.values()), times, owners)
    assert [hosts[owner] for owner in owners] == race(weights, room)
    assert owners != before


# --- Even


@KINDS
@pytest.mark.parametrize("size", [1, *SIZES])
def test_a_host_owns_about_its_part_and_at_most_a_tenth_more(kind, size: int) -> None:
    for seed in range(2):
        weights = kind(size, seed)
        loads = Counter(table(weights))
        assert set(loads) <= set(weights)
        for host in weights:
            mean = part(weights, host)
            assert mean - 4 * sqrt(mean) <= loads[host] <= bound(weights, host), (seed, host)


# --- Little moves


def moves(before: list[str | None], after: list[str | None]) -> list[tuple[str | None, str | None]]:
    return [(old, new) for old, new in zip(before, after, strict=True) if old != new]


def most(must: float) -> float:
    """How many slots may move where ``must`` have to. What is drawn varies by the root of its mean."""
    return 1.2 * must + 2 * sqrt(must) + 2


@KINDS
@pytest.mark.parametrize("size", SIZES)
def test_a_host_that_comes_or_goes_moves_little_more_than_its_part(kind, size: int) -> None:
    for seed in range(1 if size > 10 else 2):
        weights = kind(size, seed)
        before = table(weights)
        for host in few(weights, seed):
            after = table(changed(weights, host, 0))
            assert len(moves(before, after)) <= most(part(weights, host)), (seed, host)


@KINDS
@pytest.mark.parametrize("size", SIZES)
def test_one_step_of_weight_moves_little_more_than_has_to_move(kind, size: int) -> None:
    for seed in range(1 if size > 10 else 2):
        weights = kind(size, seed)
        before = table(weights)
        for host in few(weights, seed):
            more = changed(weights, host, weights[host] + 1)
            must = part(more, host) - part(weights, host)
            assert len(moves(before, table(more))) <= most(must), (seed, host)


@KINDS
def test_over_many_changes_what_moves_is_what_has_to_move(kind) -> None:
    moved = must = 0.0
    weights = kind(15, 1)
    before = table(weights)
    for host in weights:
        more = changed(weights, host, weights[host] + 1)
        moved += len(moves(before, table(more)))
        must += part(more, host) - part(weights, host)
    assert 0.8 * must <= moved <= 1.2 * must


@pytest.mark.parametrize("size", [2, 5, 16])
def test_while_no_host_is_full_slots_move_only_from_or_to_the_host_that_changes(size: int) -> None:
    weights = equal(size, 1)
    before = table(weights)
    for host in few(weights, 1):
        assert {old for old, _ in moves(before, table(changed(weights, host, 0)))} == {host}
        assert {old for old, _ in moves(before, table(changed(weights, host, 15)))} == {host}
        assert {new for _, new in moves(before, table(changed(weights, host, 17)))} == {host}


def test_a_host_that_returns_gets_its_slots_back() -> None:
    weights = mixed(10, 1)
    host = "10.1.0.3"
    slots = ring_of(weights).slots(host)
    ring_of(changed(weights, host, 0))
    assert ring_of(dict(weights)).slots(host) == slots


def test_hosts_without_weight_own_nothing_and_change_nothing() -> None:
    weights = mixed(10, 1)
    clients = {f"client{number}": 0 for number in range(50)}
    ring = ring_of({**clients, **weights})
    assert ring == Ring({**weights, **clients}) == Ring(weights)
    assert ring is ring_of(weights)
    assert ring.hosts == tuple(sorted(weights))
    assert ring.slots("client7") == ()


# --- Look-ups


@KINDS
@pytest.mark.parametrize("size", [1, 2, 40])
def test_owners_begin_with_the_owner_and_name_every_host_once(kind, size: int) -> None:
    weights = kind(size, 1)
    ring = Ring({**weights, "client": 0})
    for slot in range(0, SLOTS, 61):
        owners = ring.owners(slot, size + 1)
        assert owners[0] == ring.owner(slot)
        assert sorted(owners) == sorted(weights)
        assert ring.owners(slot, 2) == owners[:2]
        assert ring.owners(slot, 0) == ()


def test_who_was_too_full_for_a_slot_is_the_last_of_its_owners() -> None:
    ring = Ring(very_mixed(100, 1))
    owners = rings._race(ring._racers)[1]
    passed_over = [slot for slot in range(SLOTS) if ring.owner(slot) != ring.hosts[owners[slot]]]
    assert passed_over
    for slot in passed_over:
        found = ring.owners(slot, 100)
        assert found[0] == ring.owner(slot)
        assert sorted(found) == list(ring.hosts)
        assert found.index(ring.hosts[owners[slot]]) >= 100 - 3


@KINDS
@pytest.mark.parametrize("size", [3, 16, 64])
def test_the_second_of_the_owners_inherits_the_slot(kind, size: int) -> None:
    weights = kind(size, 1)
    ring, heirs = Ring(weights), []
    for host in few(weights, 1):
        after = Ring(changed(weights, host, 0))
        heirs += [ring.owners(slot, 2)[1] == after.owner(slot) for slot in ring.slots(host)[:100]]
    assert sum(heirs) / len(heirs) >= 0.95


@KINDS
def test_the_slots_of_the_hosts_are_all_slots(kind) -> None:
    weights = kind(20, 1)
    ring = Ring(weights)
    owned = {host: ring.slots(host) for host in weights}
    assert sorted(slot for slots in owned.values() for slot in slots) == list(range(SLOTS))
    for host, slots in owned.items():
        assert slots == tuple(sorted(slots))
        assert {ring.owner(slot) for slot in slots} <= {host}
    assert ring.slots("unknown") == ()


@pytest.mark.parametrize("weights", [{}, {"a": 0, "b": 0}], ids=str)
def test_without_weight_there_is_no_owner(weights: dict[str, int]) -> None:
    ring = ring_of(weights)
    assert ring == Ring({})
    assert ring.hosts == ()
    assert ring.owner(7) is None
    assert ring.owners(7, 2) == ()
    assert ring.slots("a") == ()


def test_there_is_no_slot_behind_the_last() -> None:
    ring = Ring({"a": 1})
    assert ring.owner(SLOTS - 1) == "a"
    for look_up in (ring.owner, lambda slot: ring.owners(slot, 2)):
        with pytest.raises(LookupError, match=f"there is no slot {SLOTS}: slots go from 0 to {SLOTS - 1}"):
            look_up(SLOTS)


@pytest.mark.parametrize("weight", [-1, MAX_WEIGHT + 1])
def test_a_weight_that_is_none_is_refused_by_name(weight: int) -> None:
    with pytest.raises(ValueError, match=f"'web1' is {weight}: give one from 0 to {MAX_WEIGHT}"):
        Ring({"web0": 1, "web1": weight})


def test_rings_of_the_same_weights_are_equal() -> None:
    ring = Ring({"b": 2, "a": 1, "c": 0})
    assert ring == Ring({"a": 1, "b": 2})
    assert ring != Ring({"a": 2, "b": 2})
    assert ring != {"a": 1, "b": 2}
    assert repr(ring) == "Ring({'a': 1, 'b': 2})"


def test_a_ring_cannot_be_changed_also_not_by_its_weights() -> None:
    weights = {"a": 1}
    ring = Ring(weights)
    weights["b"] = 1
    assert ring.hosts == ("a",)
    with pytest.raises(AttributeError):
        ring.hosts = ("b",)  # type: ignore[misc]


def test_names_may_hold_what_is_no_unicode() -> None:
    weights = {"web\udcff": 1, "web": 1}
    assert set(table(weights)) == set(weights)


# --- Keys


def test_keys_spread_evenly_over_the_slots() -> None:
    for secret in (b"", b"secret"):
        counts = Counter(slot_of(b"users:%d" % n, secret) for n in range(50_000))
        assert set(counts) <= set(range(SLOTS))
        mean = 50_000 / SLOTS
        chi_square = sum((counts[slot] - mean) ** 2 / mean for slot in range(SLOTS))
        assert abs(chi_square - (SLOTS - 1)) <= 3 * (2 * (SLOTS - 1)) ** 0.5


def test_keys_chosen_to_meet_at_one_owner_are_spread_by_the_secret() -> None:
    ring = Ring(equal(4, 0))
    victim = ring.hosts[0]
    chosen = [key for key in map(b"%d".__mod__, range(50_000)) if ring.owner(slot_of(key)) == victim]
    loads = Counter(ring.owner(slot_of(key, b"secret")) for key in chosen)
    for host in ring.hosts:
        share = len(ring.slots(host)) / SLOTS
        sigma = (len(chosen) * share * (1 - share)) ** 0.5
        assert abs(loads[host] - len(chosen) * share) <= 3 * sigma
