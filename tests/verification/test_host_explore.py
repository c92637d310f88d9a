"""Every interleaving of the smallest scenarios of one host; the long form is `make explore`."""

from __future__ import annotations

import pytest

from verification.host import explore, search
from verification.host.scenarios import SCENARIOS, played

#: What takes little time with one deviation.
SMALL = (
    "a_copy_beside_an_invalidation", "two_writers", "everything_is_invalidated", "a_load_beside_an_invalidation",
    "a_record_is_read_beside_a_set", "two_count", "two_add", "two_miss_at_once", "the_loader_raises",
    "an_event_is_read_while_it_is_appended", "two_append_at_once", "a_slot_is_taken_while_it_is_read",
)  # fmt: skip


@pytest.mark.parametrize("weak", [False, True], ids=["x86", "weak"])
@pytest.mark.parametrize("name", SMALL)
def test_no_interleaving_breaks_the_contract(name: str, weak: bool) -> None:
    report = explore.explore(name, weak, 1, 3000)
    assert not report.violation, explore.told(name, weak, report)
    assert report.ends > 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_plays_to_its_end_when_nothing_unusual_happens(name: str) -> None:
    report = explore.explore(name, False, 0, 40)
    assert not report.violation, explore.told(name, False, report)
    assert report.ends > 0


@pytest.mark.parametrize(
    ("mutant", "weak"),
    [
        ("stamps_are_not_compared", False), ("one_mark_is_stamped", False), ("no_fence_behind_the_bell", True),
        ("threads_do_not_join", False), ("no_fence_before_the_last_number", True),
    ],
)  # fmt: skip
def test_an_interleaving_notices_a_rule_that_is_missing(mutant: str, weak: bool) -> None:
    name = explore.MUTANTS[mutant].scenario
    report = explore.explore(name, weak, 2, 3000, mutant)
    assert report.violation
    with explore.MUTANTS[mutant].change():
        story = search.replay(played(name, weak=weak), report.route)
    assert story == report.story
    assert story[-1] == report.violation


def test_a_route_is_told_as_it_was_taken() -> None:
    assert explore.spelled(((17, 1), (40, 2))) == "17.1,40.2"


def test_a_mutant_without_a_scenario_has_to_be_given_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["explore", "--mutant", "checks_have_no_seed"])
    with pytest.raises(SystemExit):
        explore.main()
    assert "checks_have_no_seed has no scenario of its own" in capsys.readouterr().err


def test_a_mutant_is_searched_for_with_the_budget_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["explore", "--mutant", "no_full_fence", "--x86"])
    assert explore.main() == 0
    assert "was given the stale load 0" in capsys.readouterr().out
