"""How the state machines in these tests are run: about a hundred histories at a time, or sixty times as many.

    HYPOTHESIS_PROFILE=long pytest -s tests/core/test_store_stateful.py     # "short" is what runs otherwise; -s: counts

If a history fails, Hypothesis shrinks it, which may take minutes, and prints the statements that repeat it. It keeps
the history in ``.hypothesis``, and tries it first the next time. To repeat it elsewhere, put the line
``@reproduce_failure(...)``, which is printed, too, above the machine's class. Each run draws new histories. Where
``CI`` is set, they are the same in every run.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

FACTORS = {"short": 1, "long": 60}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "short")

#: Marks a test that runs a machine. It takes seconds, but when it fails Hypothesis may shrink the history for minutes.
machine_test = pytest.mark.timeout(0 if PROFILE == "long" else 600)


class Machine(RuleBasedStateMachine):
    """A state machine that counts what happened in its histories, so that one which exercises nothing does not pass."""

    tally: ClassVar[Counter[str]] = Counter()

    def __init_subclass__(cls) -> None:
        cls.tally = Counter()

    def note(self, what: str, times: int = 1) -> None:
        """Count something that happened."""
        self.tally[what] += times


def explore(machine: type[Machine], histories: int, steps: int, *must_happen: str) -> None:
    """Run random histories of at most ``steps`` steps. All that ``must_happen`` must have happened in one of them."""
    assert PROFILE in FACTORS, f"HYPOTHESIS_PROFILE={PROFILE}: choose one of {', '.join(FACTORS)}"
    machine.tally.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories * FACTORS[PROFILE],
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            phases=[phase for phase in Phase if phase is not Phase.explain],  # it takes minutes, and tells little here
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    print(f"\n{machine.__name__}: " + ", ".join(f"{count} {what}" for what, count in sorted(machine.tally.items())))
    missed = [what for what in must_happen if not machine.tally[what]]
    assert not missed, f"no history came to: {', '.join(missed)}"
