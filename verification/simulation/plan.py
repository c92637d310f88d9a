"""What happens in a history: drawn from a seed as a list of steps, each with dice of its own.

So a step can be left out, and the others do what they did before: a history that fails shrinks to a few steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from colocache.core.group.seam import Settings
from colocache.testing.simulator import SCALED

#: The kinds of fault in each class. "vanish" is a crash that nobody notices, as when a host loses its power.
FAULTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "drop": ("drop",),
    "slow": ("delay", "stretch"),
    "reorder": ("double", "swap"),
    "mute": ("mute",),
    "pause": ("pause",),
    "crash": ("crash",),
    "vanish": ("vanish",),
    "churn": ("leave", "join"),
    "partition": ("partition",),
    "overflow": ("burst", "drop", "pause"),
    "memory": ("drop", "burst"),
    "all": ("drop", "delay", "stretch", "double", "swap", "mute", "pause", "crash", "leave", "join", "partition",
            "burst"),
}  # fmt: skip
CLASSES = tuple(FAULTS)

# Histories with users who get, compute, and set under a fence; and who count.
FAULTS["fence"] = ()
FAULTS["fence all"] = FAULTS["all"]
FENCED = ("fence", "fence all")
EVERY = tuple(FAULTS)

OPERATIONS = {"read": 84, "read cold": 6, "peek": 4, "invalidate": 5, "set": 1}  # in percent
FENCED_OPERATIONS = {"read": 54, "peek": 4, "invalidate": 10, "set": 1, "habit": 25, "count": 6}
PER_SECOND = 230.0
FAULTS_PER_SECOND = 1.6
BEGIN = 1.0  # s; by then everybody is current


@dataclass(frozen=True)
class Step:
    """Something that happens at an instant; ``dice`` is the seed of whatever is random about it."""

    at: float
    kind: str
    dice: int


@dataclass(frozen=True)
class Plan:
    """A group and what happens to it."""

    seed: int
    faults: str
    size: int
    hosts: int
    settings: Settings
    memory: int
    high_water_mark: int
    seconds: float
    steps: tuple[Step, ...]
    salt: int = 0  # another one gives the same steps another network


def draw(seed: int, faults: str, seconds: float = 3.0) -> Plan:
    """Draw a history of a fault class."""
    dice = Random(f"{seed} {faults}")
    size = dice.choices((2, 3, 4, 5, 8), (15, 30, 38, 14, 3))[0]
    mixed = faults.endswith("all")
    tight = faults == "overflow" or (mixed and dice.random() < 0.5)
    small = faults == "memory" or (mixed and dice.random() < 0.3)
    settings = SCALED._replace(log_events=8) if tight else SCALED
    operations = FENCED_OPERATIONS if faults in FENCED else OPERATIONS
    steps = _times(dice, PER_SECOND, tuple(operations), tuple(operations.values()), seconds)
    kinds = FAULTS[faults]
    steps += _times(dice, FAULTS_PER_SECOND if kinds else 0.0, kinds, (1,) * len(kinds), seconds)
    return Plan(
        seed, faults, size, dice.choice((1, 2, size)), settings, 8_000 if small else 1 << 24, 10 if tight else 10_000,
        seconds, tuple(sorted(steps, key=lambda step: step.at)),
    )  # fmt: skip


def only(plan: Plan, steps: tuple[Step, ...], salt: int = 0) -> Plan:
    """Return the same history with some of its steps alone."""
    return replace(plan, steps=steps, salt=salt)


def _times(dice: Random, rate: float, kinds: tuple[str, ...], weights: tuple[int, ...], seconds: float) -> list[Step]:
    steps: list[Step] = []
    at = BEGIN
    while rate and (at := at + dice.expovariate(rate)) < BEGIN + seconds:
        steps.append(Step(at, dice.choices(kinds, weights)[0], dice.getrandbits(48)))
    return steps
