"""All small scenarios, by name."""

from __future__ import annotations

from collections.abc import Callable

from verification.host import board_scenarios, claims_scenarios, log_scenarios, shelf_scenarios
from verification.host.world import World

SCENARIOS: dict[str, Callable[[World], None]] = {}

for _module in (board_scenarios, shelf_scenarios, claims_scenarios, log_scenarios):
    for _name, _make in _module.SCENARIOS.items():
        SCENARIOS[_name if _name not in SCENARIOS else f"{_name}_on_the_shelf"] = _make


def played(name: str, *, weak: bool) -> Callable[[], World]:
    """Return what sets a scenario up."""

    def play() -> World:
        world = World(weak=weak, traced=True)
        SCENARIOS[name](world)
        return world

    return play
