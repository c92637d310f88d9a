"""A short form of the campaign of several hosts; the long one is `make simulate-hosts`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from colocache.core.hosts import requests
from colocache.core.hosts.rows import Rows
from verification.host.mutations import replaced
from verification.hosts import mutants, simulate
from verification.hosts.actor import Actor
from verification.hosts.computer import Worker
from verification.hosts.history import History
from verification.hosts.items import ITEMS
from verification.hosts.mutations import MUTANTS
from verification.hosts.plan import KINDS, draw
from verification.hosts.scripted import SCRIPTS, play
from verification.hosts.simulate import Tally


@pytest.mark.parametrize("kind", KINDS)
def test_no_history_breaks_the_contract(kind: str) -> None:
    tally, result = Tally(kind), History(draw(1, kind)).go()
    again = f"python -m verification.hosts.simulate --replay {kind} 1"
    assert not result.violation, f"{result.violation}; again: {again}"
    tally.add(result)
    assert tally.hits > 0.3  # it is one history only
    assert tally.counts["complete"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_history_that_is_written_by_hand_breaks_the_contract(name: str) -> None:
    history = play(name, 0)
    assert not history.go().violation
    assert history.counts["complete"]


def test_a_seed_gives_the_same_history_again() -> None:
    first, again = (History(draw(3, "gateways"), tells=True) for _ in range(2))
    assert first.go() == again.go()
    assert first.story == again.story != []


@pytest.mark.parametrize("lost", [(requests.Settle,), (requests.Announce, requests.Announce, requests.Settle)])
def test_who_waits_for_one_answer_after_another_does_not_hang(lost: tuple[type, ...]) -> None:
    """A client asks one member after another. What it asks gets lost, and it waits as long as it may for each."""
    asked: list[type] = []

    def script(history: History) -> None:
        history._plan_all()
        carry = history.network.request

        def request(asker: Worker, target: int, frame: bytes, take: Callable[[bytes], object]) -> None:
            kind = type(requests.decode_request(frame))
            if kind in lost and asker.region.is_client:
                asked.append(kind)
                if asked.count(kind) <= lost.count(kind):
                    return
            carry(asker, target, frame, take)

        history.network.request = request  # type: ignore[method-assign]

        def invalidate() -> None:
            region = history.regions[3]
            assert region is not None
            actor = Actor(region.awake()[0], Random(1))
            history.actors.append(actor)

            def call() -> None:
                actor.busy_since = history.machine.clock
                actor.invalidate(1, [ITEMS[0].hash], ["k0"])
                actor.busy_since = None

            region.awake()[0].spawn("waits", call)

        history.policy.at(3.5, invalidate)

    plan = draw(0, "clients")._replace(
        hosts=4, clients=1, late_hosts=0, faults=(), loss=0.0, things="keys", writes=False, rate=0.01, forgets=False,
        end=4.5, over=7.1, weak=False,
    )  # fmt: skip
    assert History(plan, script).go().violation == ""
    assert {*asked} == {*lost}


# --- It fails if something is wrong


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("applied_before_stamped", "told"),
        ("not_stamped", "told"),
        ("stamped_before_told", "lagging_owner"),
        ("own_events_are_told_unstamped", "own"),
        ("the_owner_takes_the_record_first", "slow_owner"),
    ],
)
def test_a_history_notices_a_rule_that_is_missing(name: str, script: str) -> None:
    with MUTANTS[name].change():
        results = (play(script, seed).go() for seed in range(10))  # most do
        noticed = next((result for result in results if result.violation), None)
    assert noticed is not None
    assert not noticed.is_error


def test_a_tally_complains_of_too_few_hits_and_receipts_and_of_what_was_not_seen() -> None:
    tally = Tally("ends", histories=simulate.ENOUGH)
    tally.counts.update({"reads": 1000, "near": 10, "complete": 1, "incomplete": 9})
    assert tally.complaints() == [
        "ends: only 1.0% hits, less than 45%", "ends: only 10.0% complete receipts, less than 70%",
        "ends: no goodbyes", "ends: no kills",
    ]  # fmt: skip
    tally.counts.update({"shelf": 900, "kills": 1, "goodbyes": 1, "complete": 90})
    assert not tally.complaints()


def test_the_program_prints_how_to_tell_a_broken_history_again(capsys: pytest.CaptureFixture[str]) -> None:
    with MUTANTS["not_stamped"].change():
        result = History(draw(0, "calm")).go()
        simulate._take([result], {"calm": Tally("calm")})
        assert "--replay calm 0" in capsys.readouterr().out
    assert simulate.replay("calm", 0, "not_stamped") == 1
    assert result.violation in capsys.readouterr().out
    assert simulate.replay("calm", 0) == 0


# --- Mutants


def test_what_a_mutant_edits_is_afterwards_what_it_was() -> None:
    before = inspect.getattr_static(Rows, "_holds")
    with MUTANTS["forgotten_for_good"].change():
        assert inspect.getattr_static(Rows, "_holds") is not before
    assert inspect.getattr_static(Rows, "_holds") is before


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_changes_what_is_there(name: str) -> None:
    """The text that it replaces is there, once."""
    with MUTANTS[name].change():
        pass
    assert {*MUTANTS[name].scripts} <= {*SCRIPTS}
    assert {*MUTANTS[name].kinds} <= {*KINDS}
    assert MUTANTS[name].change.__doc__
    assert all(Path(test).is_file() for test in MUTANTS[name].tests)
    assert MUTANTS[name].kinds or MUTANTS[name].scripts or MUTANTS[name].tests


def test_a_mutant_that_nothing_notices_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = MUTANTS["not_stamped"]._replace(
        change=lambda: replaced(simulate, "CHUNK", 1), scripts=("told",), tests=()
    )
    monkeypatch.setitem(MUTANTS, "harmless", harmless)
    caught = mutants.look(1, 1, "harmless")
    assert caught.histories == 2
    assert not caught.where
    assert caught.line("harmless").endswith("NOT CAUGHT")


def test_an_error_is_no_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = MUTANTS["not_stamped"]._replace(change=lambda: replaced(simulate.History, "boot", None), scripts=("told",))
    monkeypatch.setitem(MUTANTS, "wrong", wrong)
    assert mutants.look(1, 1, "wrong").what.startswith("ERROR: ")
