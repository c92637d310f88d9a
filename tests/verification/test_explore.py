"""Every interleaving of the small, to a depth that takes seconds; the long form is `make explore-group`."""

from __future__ import annotations

import pytest

from verification.simulation import explore
from verification.simulation.exploring.group import Group
from verification.simulation.exploring.scenarios import SCENARIOS
from verification.simulation.exploring.story import story

STATES = 2_000
#: Small enough to be explored to the end.
SMALL = ("everything_is_invalidated", "a_tag_event_of_another_member", "a_joiner_owns_the_key")


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_interleaving_breaks_the_contract(name: str) -> None:
    report = explore.explore(name, 10 * STATES if name in SMALL else STATES)
    assert report.path is None, explore.told(report)
    assert report.exhausted == (name in SMALL)
    assert report.ends > 0  # so that it was seen to settle, too


# --- What is explored is what it says it is


def test_a_member_made_again_by_its_inputs_is_in_the_same_state() -> None:
    group = explore.Search("a_writer_that_dies_after_announcing", STATES)
    group.run()
    cast = group.group.cast
    for spelled, number in list(cast._numbers.items())[::7]:
        assert cast._make_again(number).fingerprint() == spelled


def test_what_a_member_is_told_shows_in_its_fingerprint() -> None:
    group = Group(SCENARIOS["two_writers"])
    world = group.first()
    before = world.states
    after = group.take(world, ("begin", 1)).states
    assert before[0] == after[0]
    assert before[2] != after[2]


# --- It finds what is to be found, by a shortest interleaving


def test_an_owner_that_has_not_heard_gives_the_old_value_back() -> None:
    report = explore.explore("the_reader_hears_before_the_owner", STATES, "requests_name_no_dependencies")
    assert report.story == (
        "W, B: commits 1, and invalidates the key; publishes event 1 to R and O",
        "R hears W's event 1; sends acknowledgement of event 1 to W",
        "R, A: a read begins; sends get 2 to O",
        "O takes R's get 2; sends value 0 for get 2 to R",
        "R takes O's value 0 for get 2; R, A: the call returns",
        "=> R keeps 0 after it has applied event 1 of W",
    )


def test_a_fill_under_a_token_that_an_event_should_have_voided() -> None:
    report = explore.explore("a_reader_invalidates_under_the_owners_load", STATES, "token_is_not_voided")
    assert report.story == (
        "O, A: a read begins; O, A: the loader is called",
        "O, A: the loader reads 0 from the source",
        "R, D: commits 1, and invalidates the key; publishes event 1 to O",
        "O hears R's event 1; sends acknowledgement of event 1 to R",
        "O, A: the loader returns 0; O, A: the call returns",
        "=> O keeps 0 after it has applied event 1 of R",
    )


@pytest.mark.parametrize(
    "mutant",
    ["gap_is_overlooked", "member_is_forgotten_without_a_reset", "joiner_promises", "waits_out_exactly_the_lease"],
)
def test_a_rule_that_is_taken_out_is_missed(mutant: str) -> None:
    report = explore.explore(explore.CAUGHT_IN[mutant], STATES, mutant)
    assert report.path is not None
    with explore.without(mutant):  # and the path that is told leads there again
        assert tuple(story(Group(SCENARIOS[report.name]), report.path)) == report.story
