"""The campaign against several hosts finds what it is there to find: each stand-in has one fault, or none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from time import monotonic_ns
from typing import Any

import pytest

from verification.chaos.values import value_of
from verification.network import campaign
from verification.network.campaign import FAULTS, Campaign, Fault, timeline, ways_cut
from verification.network.checker import KEPT, Announced, Checker, Look, UnderWay
from verification.network.namespaces import Loopback, Network, network, why_not

HOSTS = ("h1", "h2", "h3", "h4")
CUT = [Fault(0.1, "cut", ("h1", "h2"), 2.5, 0.0)]

# --- The timeline


def test_a_seed_gives_the_same_faults_again() -> None:
    faults = timeline(7, 100.0, HOSTS, 8.0)
    assert faults == timeline(7, 100.0, HOSTS, 8.0)
    assert faults != timeline(8, 100.0, HOSTS, 8.0)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(0.15 <= fault.lasts <= 8.0 and 0 <= fault.chance < 1 for fault in faults)
    assert {fault.what for fault in timeline(7, 1000.0, HOSTS, 8.0)} == set(FAULTS)


@pytest.mark.parametrize(
    ("what", "ways"),
    [
        ("cut", {("h1", "h2"), ("h2", "h1")}),
        ("cut_one_way", {("h1", "h2")}),
        ("refuse", {("h1", "h2"), ("h2", "h1")}),
        ("isolate", {way for way in permutations(HOSTS, 2) if "h1" in way}),
        ("star", {way for way in permutations(HOSTS, 2) if "h1" not in way}),
        ("ring", set(permutations(HOSTS, 2)) - {("h1", "h2"), ("h2", "h3"), ("h3", "h4"), ("h4", "h1")}),
        ("slow", set()),
        ("kill", set()),
    ],
)
def test_what_a_fault_cuts(what: str, ways: set[tuple[str, str]]) -> None:
    assert ways_cut(Fault(0.0, what, HOSTS, 1.0, 0.0)) == ways


def test_faults_that_overlap_cut_what_any_of_them_cuts(tmp_path: Path) -> None:
    with Loopback(3) as net:
        run = Campaign(net, 1, 1, "honest")
        try:
            pair, one = Fault(0.0, "cut", HOSTS[:2], 1.0, 0.0), Fault(0.0, "isolate", HOSTS[:3], 1.0, 0.0)
            run._happen(pair)
            run._happen(one)
            run._end_cut(pair)
            assert net.cuts == ways_cut(one), "the other fault cuts the same way"
            run._end_cut(one)
            assert net.cuts == set()
        finally:
            run.close()


# --- The checker


@pytest.fixture
def checker(tmp_path: Path) -> Iterator[Checker]:
    made = Checker.create(tmp_path, 2)
    yield made
    made.register.close()


def accused(checker: Checker) -> list[str]:
    return [line["what"] for line in checker.board.violations()]


def test_a_read_that_began_after_a_complete_receipt_is_stale_if_it_gives_less(checker: Checker) -> None:
    before = checker.look("k1")
    versions = checker.commit("by_key", ("k1",))
    checker.told(0, versions, complete=True, is_announced=True)
    checker.judge(7, "k1", before, value_of("k1", 0))
    checker.judge(7, "k1", checker.look("k1"), value_of("k1", 1))
    assert accused(checker) == []
    checker.judge(7, "k1", checker.look("k1"), value_of("k1", 0))
    assert accused(checker) == ["stale"]


def test_a_part_of_a_page_is_judged_by_its_own_receipts(checker: Checker) -> None:
    checker.told(0, checker.commit("by_key", ("k9",)), complete=True, is_announced=True)
    page = {part: value_of(part, 0) for part in ("k0", "k9", "k18")}
    checker.judge(0, "p0", checker.look("p0"), page)
    assert [(line["what"], line["part"]) for line in checker.board.violations()] == [("stale", "k9")]


def test_a_read_is_late_if_it_began_long_after_what_nobody_acknowledged(tmp_path: Path) -> None:
    checker = Checker(Checker.create(tmp_path, 2).board._directory, 2, 0, bound=10.0)
    checker.told(0, checker.commit("by_key", ("k1",)), complete=False, is_announced=True)
    soon, long_after = (Look({"k1": 0}, monotonic_ns() + int(after * 1e9)) for after in (9.0, 10.1))
    checker.judge(7, "k1", soon, value_of("k1", 0))
    assert accused(checker) == []
    checker.judge(7, "k1", long_after, value_of("k1", 1))
    assert accused(checker) == []
    checker.judge(7, "k1", long_after, value_of("k1", 0))
    assert accused(checker) == ["late"]
    checker.register.close()


def test_what_a_host_says_that_is_not_established_bounds_nobody(checker: Checker) -> None:
    checker.told(0, checker.commit("by_key", ("k1",)), complete=False, is_announced=False)
    checker.judge(7, "k1", Look({"k1": 0}, monotonic_ns() + int(1e12)), value_of("k1", 0))
    assert accused(checker) == []


def test_what_is_no_value_is_torn(checker: Checker) -> None:
    checker.judge(0, "k1", checker.look("k1"), {"version": 1, "body": b"", "check": 0})
    assert accused(checker) == ["torn"]


def test_announcements_by_several_threads_are_kept_for_a_while(tmp_path: Path) -> None:
    mine, other = Announced(tmp_path, 2), Announced(tmp_path, 2)
    for version in range(1, 3 * KEPT, 2):
        mine.announce(0, {"k1": version}, 10 * version)
        other.announce(9, {"k1": version + 1}, 10 * version + 5)
    newest = 3 * KEPT
    assert mine.newest("k1") == other.newest("k1") == newest
    assert mine.due("k1", 10 * newest) == newest
    assert mine.due("k1", 10 * newest - 6) == newest - 1
    assert mine.due("k2", 10 * newest) == mine.newest("k2") == 0


def test_a_call_that_is_under_way_is_seen_by_others(tmp_path: Path) -> None:
    mine, other = UnderWay(tmp_path, 2), UnderWay(tmp_path, 2)
    assert other.longest(1) == (0, 0)
    with mine.call(9):
        thread, began = other.longest(1)
        assert (thread, 0 < began <= monotonic_ns()) == (2, True)
        assert other.longest(0) == (0, 0)
    assert other.longest(1) == (0, 0)


# --- The whole


@pytest.fixture(autouse=True)
def _short_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "CALM", 0.5)


def run(kind: str, **arguments: Any) -> campaign.Result:
    settings: dict[str, Any] = {"seconds": 3.0, "hosts": 2, "workers": 2, "least_reads": 1.0, "keep": False}
    return campaign.run(1, kind=kind, **{**settings, **arguments})


@pytest.mark.parametrize("loopback", [False, True])
def test_a_cache_without_a_fault_passes(loopback: bool) -> None:
    faults = [
        *CUT,
        Fault(0.3, "kill_gateway", ("h2", "h1"), 0.5, 0.0),
        Fault(0.6, "stop_gateway", ("h1", "h2"), 0.5, 0.0),
        Fault(0.7, "restart", ("h1", "h2"), 0.5, 0.0),
        Fault(0.9, "cut_one_way", ("h1", "h2"), 0.5, 0.0),
        Fault(1.0, "lose", ("h2", "h1"), 0.5, 0.0),
    ]
    result = run("honest", faults=faults, loopback=loopback)
    assert not result.complaints(), result.table()
    assert result.faults["cut"] == result.faults["cut_one_way"] == result.faults["restart"] == 1
    assert result.lives > 4
    assert "passed" in result.table()


def test_hosts_that_find_each_other_by_name_pass_while_names_are_wrong() -> None:
    if why_not():
        pytest.skip(why_not())
    faults = [Fault(0.1 + 0.4 * number, "names", ("h1", "h2"), 0.3, number / 5) for number in range(5)]
    result = run("honest", faults=[*faults, Fault(0.2, "restart", ("h2", "h1"), 0.3, 0.0)], by_name=True)
    assert not result.complaints(), result.table()
    assert result.faults["names"] == 5


def test_the_real_cache_passes_where_all_hosts_are_one_region() -> None:
    result = run("one region", least_hits=0.2, faults=[Fault(0.5, "kill", ("h1", "h2"), 0.5, 0.0), *CUT])
    assert not result.complaints(), result.table()


def test_stale_reads_are_found() -> None:
    result = run("stale", faults=[], seconds=2.0)
    found = {each["what"] for each in result.violations}
    assert {"stale", "wrong at the end"} <= found <= {"stale", "late", "wrong at the end"}
    assert "what came before" in result.table()


def test_late_reads_are_found_apart_from_stale_ones() -> None:
    result = run("late", faults=[], seconds=6.0)
    found = {each["what"] for each in result.violations}
    assert "late" in found
    assert "stale" not in found
    assert "incomplete" in found, "there is a calm in which receipts are complete"


def test_a_call_that_hangs_is_found() -> None:
    with pytest.raises(AssertionError, match=r"hangs in a call for 2\.0 s"):
        run("hanging", faults=[], seconds=20.0, hang=2.0)


@pytest.fixture
def net() -> Iterator[Network]:
    with network(2) as made:
        yield made


def test_hosts_that_do_not_become_current_again_are_found(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Campaign(net, 1, 1, "deaf")
    try:
        one.begin()
        monkeypatch.setattr(campaign, "PATIENCE", 5.0)
        one.harm(CUT, 3.0)
        with pytest.raises(AssertionError, match="all hosts are current: h1 hears"):
            one.recover()
    finally:
        one.close()
