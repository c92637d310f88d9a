"""A short form of the campaign of one host; the long one is `make simulate`. `make mutants` shows that it looks."""

from __future__ import annotations

import pytest

from verification.host import mutants, simulate
from verification.host.history import KINDS, History, draw
from verification.host.mutations import MUTANTS, replaced
from verification.host.scenarios import SCENARIOS
from verification.host.simulate import FLOOR, FLOORS, Tally

HISTORIES = 40  # of each kind


@pytest.mark.parametrize("kind", KINDS)
def test_no_history_breaks_the_contract(kind: str) -> None:
    tally = Tally(kind)
    for seed in range(HISTORIES):
        result = History(draw(seed, kind)).go()
        again = f"python -m verification.host.simulate --replay {kind} {seed}"
        assert not result.violation, f"{result.violation}; again: {again}"
        tally.add(result)
    assert tally.hits >= FLOORS.get(kind, FLOOR) - 0.05  # there are few histories here


def test_a_seed_gives_the_same_history_again() -> None:
    first, again = (History(draw(3, "all"), tells=True) for _ in range(2))
    assert first.go() == again.go()
    assert first.story == again.story != []


def test_a_history_does_what_its_kind_says() -> None:
    assert not any(draw(seed, "calm").kills or draw(seed, "calm").forks for seed in range(20))
    assert all(draw(seed, "kill").kills for seed in range(20))
    tally = Tally("all")
    for seed in range(100, 130):
        tally.add(History(draw(seed, "all")).go())
    assert {
        "kills",
        "stops",
        "forks",
        "losses",
        "evicted",
        "tags",
        "namespaces",
        "fills",
        "writes",
    } <= tally.counts.keys()


# --- It fails if something is wrong


@pytest.mark.parametrize(
    "name",
    [
        "returns_without_ringing", "one_mark_is_stamped", "bell_is_not_compared", "copies_outlive_their_expiry",
        "writes_are_not_stamped", "counters_are_labelled_near_by", "fills_are_labelled_near_by",
        "fenced_sets_are_labelled_near_by", "nobody_takes_the_lock", "waiters_take_any_record",
    ],
)  # fmt: skip
def test_a_history_notices_a_rule_that_is_missing(name: str) -> None:
    assert mutants.first_history(name, 80) is not None


def test_a_tally_complains_of_too_few_hits_and_of_what_was_not_seen() -> None:
    tally = Tally("kill", histories=simulate.ENOUGH)
    tally.counts.update({"reads": 1000, "near": 10})
    assert tally.complaints() == ["kill: only 1.0% hits, less than 50%", "kill: no kills"]
    tally.counts.update({"shelf": 900, "kills": 1})
    assert not tally.complaints()


def test_the_program_prints_how_to_tell_a_broken_history_again(capsys: pytest.CaptureFixture[str]) -> None:
    with MUTANTS["bell_is_not_compared"].change():
        result = next(r for seed in range(20) if (r := History(draw(seed, "calm")).go()).violation)
        simulate._take([result], {"calm": Tally("calm")})
        assert f"--replay calm {result.seed}" in capsys.readouterr().out
    assert simulate.replay("calm", result.seed, "bell_is_not_compared") == 1
    assert result.violation in capsys.readouterr().out
    assert simulate.replay("calm", result.seed) == 0


# --- Mutants


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_changes_what_is_there(name: str) -> None:
    """The text that it replaces is there, once."""
    with MUTANTS[name].change():
        pass
    assert MUTANTS[name].scenario in {"", *SCENARIOS}
    assert MUTANTS[name].change.__doc__


def test_a_mutant_that_nothing_notices_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = MUTANTS["no_full_fence"]._replace(change=lambda: replaced(simulate, "CHUNK", 1), budget=0)
    monkeypatch.setitem(MUTANTS, "harmless", harmless)
    monkeypatch.setattr(mutants, "by_hand", lambda name: "")
    caught = mutants.look(2, 100, "harmless")
    assert caught.is_missed
    assert caught.line("harmless").endswith("NOT CAUGHT")
