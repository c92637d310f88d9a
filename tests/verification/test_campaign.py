"""A short form of the campaign; the long one is `make simulate-group`."""

from __future__ import annotations

import pytest

from verification.simulation.history import History, Result
from verification.simulation.mutants import MUTANTS
from verification.simulation.plan import EVERY, draw
from verification.simulation.shrink import story

SEEDS = 8  # of each class. They catch all but three of the mutants that random histories catch at all

# A cache that never hits passes every check of safety; so there is a floor under what it is good for, too.
FLOORS = {"none": 0.5, "drop": 0.5, "memory": 0.15, "vanish": 0.2, "fence": 0.2, "fence all": 0.15}
FLOOR = 0.3


@pytest.mark.parametrize("faults", EVERY)
def test_no_history_breaks_the_contract(faults: str) -> None:
    results = [History(draw(seed, faults)).go() for seed in range(SEEDS)]
    broken = [(result.seed, result.violations[0]) for result in results if result.violations]
    assert not broken, f"replay with: python -m verification.simulation.simulate --story {broken[0][0]} {faults}"
    assert share(results, "hits", "reads") >= FLOORS.get(faults, FLOOR)
    assert share(results, "complete", "invalidations") >= 0.8


def share(results: list[Result], part: str, whole: str) -> float:
    """Return one sum as a share of another one."""
    return sum(getattr(r, part) for r in results) / sum(getattr(r, whole) for r in results)


def test_a_seed_gives_the_same_history_again() -> None:
    assert History(draw(3, "all")).go() == History(draw(3, "all")).go()


def test_a_history_that_breaks_the_contract_shrinks_to_an_interleaving() -> None:
    with MUTANTS["token_is_not_voided"]():
        plan, lines = story(draw(2, "none", seconds=0.8))
    assert len(plan.steps) <= 6
    assert any("fill" in line for line in lines)
    assert "BROKEN" in lines[-1]
