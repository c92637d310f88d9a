"""A short form of the campaign; the long one is `make simulate`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import campaign

# A cache that never hits passes every check of safety; so there is a floor under what it is good for, too.
FLOORS = {
    "none": 0.55, "drop": 0.55, "double": 0.55, "mute": 0.4, "crash": 0.5, "slow": 0.4, "pause": 0.4, "churn": 0.4,
    "partition": 0.4, "all": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("faults", campaign.FAULTS)
def test_no_history_breaks_the_contract(faults: str) -> None:
    results = [campaign.Run(seed, faults, seconds=6.0).go() for seed in range(8)]
    broken = [(result.seed, result.violations[0]) for result in results if result.violations]
    assert not broken, f"replay with campaign.run({broken[0][0]}, {faults!r})"
    hits, reads = sum(r.hits for r in results), sum(r.reads for r in results)
    assert hits >= FLOORS[faults] * reads
    assert sum(r.complete for r in results) >= 0.8 * sum(r.invalidations for r in results)


def test_a_seed_gives_the_same_history_again() -> None:
    assert campaign.run(3, "all") == campaign.run(3, "all")


def test_one_load_per_miss_while_nothing_fails() -> None:
    result = campaign.Run(5, "none", seconds=6.0).go()
    # Every write leaves at most one miss per key that it hits, a failed load one more.
    assert result.loads <= result.reads - result.hits
