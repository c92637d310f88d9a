"""Short forms of what `make hosts` proves: many hosts, two versions in one group, and secrets that change."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from verification import ROOT
from verification.network import campaign, many, proof, secrets
from verification.network.campaign import conduct
from verification.network.mixed import NEW, OLD, Mixed, Package
from verification.network.namespaces import Loopback, Namespaces, Network, why_not
from verification.network.proof import Part
from verification.network.secrets import Secrets

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: it looks into /proc"),
    pytest.mark.timeout(300),
]


@pytest.fixture(autouse=True)
def _short_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "CALM", 0.5)


def need_namespaces() -> None:
    if why_not():
        pytest.skip(why_not())


# --- Many hosts


def test_hosts_that_are_hardly_used_become_current_and_do_not_grow() -> None:
    need_namespaces()
    result = many.run(seconds=1.0, hosts=4)
    assert not result.complaints(), result.table()
    assert result.reads >= 4 * result.changes - 4
    assert len(result.samples) == len(result.packets) == 4
    assert all(result.packets), "they ping each other"


def samples(**last: float) -> list[list[dict[str, float]]]:
    before = {"descriptors": 50.0, "threads": 7.0, "memory KiB": 30_000.0}
    return [[before, before, before | last], [before, before, before]]


@pytest.mark.parametrize(
    ("last", "growth"),
    [
        ({}, []),
        ({"descriptors": 52.0, "threads": 8.0, "memory KiB": 31_000.0}, []),
        ({"descriptors": 53.0}, ["descriptors of h1 grew from 50 to 53"]),
        ({"threads": 9.0}, ["threads of h1 grew from 7 to 9"]),
        ({"memory KiB": 35_000.0}, ["memory KiB of h1 grew from 30,000 to 35,000"]),
    ],
)
def test_what_grows_is_found(last: dict[str, float], growth: list[str]) -> None:
    assert many.Result(2, 1.0, samples=samples(**last)).complaints() == growth


# --- Two versions


@pytest.fixture
def net() -> Iterator[Network]:
    with Loopback(2) if why_not() else Namespaces(2) as made:
        yield made


@pytest.fixture
def old(tmp_path: Path) -> Package:
    """The package of this source tree, somewhere else."""
    shutil.copytree(ROOT / "colocache", tmp_path / "path" / "colocache", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "path" / "verification").symlink_to(ROOT / "verification")
    return Package(Path(sys.executable), tmp_path / "path")


def test_hosts_are_replaced_by_those_of_another_package(net: Network, old: Package) -> None:
    run = Mixed(net, 1, 1, {NEW: Package(Path(sys.executable), ROOT), OLD: old})
    result = conduct(run, 1, lambda: run.roll(1.0, (NEW,)), least_reads=1.0, keep=False)
    assert not result.complaints(), result.table()
    assert result.faults == {"replace": 1}
    assert result.details["mixed"].startswith("old and new together for 1 of 3 steps")


def test_a_process_that_runs_the_wrong_package_is_found(net: Network, old: Package) -> None:
    run = Mixed(net, 1, 1, {NEW: old, OLD: old})
    with pytest.raises(AssertionError, match="h2 should run the new package, and runs "):
        conduct(run, 1, lambda: run.roll(1.0, ()), keep=False)


# --- Secrets


def test_a_secret_is_changed_and_a_wrong_one_named_and_strangers_do_no_harm() -> None:
    need_namespaces()
    result = secrets.run(
        1, seconds=3.0, hosts=2, workers=1, connections=40, least_reads=1.0, least_hits=0.0, keep=False
    )
    assert not result.complaints(), result.table()
    assert result.faults == {"replace": 8}
    assert result.details["wrong secret"] == "h2 and h1 named each other in their logs"
    assert result.details["strangers"].startswith("40 connections")


def test_a_refusal_that_is_not_in_the_log_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    need_namespaces()
    monkeypatch.setattr(secrets, "REFUSAL", "is a text that nobody logs")
    with Namespaces(2) as net:
        run = Secrets(net, 1, 1)

        def course() -> None:
            monkeypatch.setattr(campaign, "PATIENCE", 10.0)
            run.have_a_wrong_one(0.0)

        with pytest.raises(AssertionError, match="h2 says that h1 refuses it"):
            conduct(run, 1, course, keep=False)


# --- The whole


class Judged:
    """What a part came to."""

    def __init__(self, *wrong: str) -> None:
        self._wrong = list(wrong)

    def complaints(self) -> list[str]:
        return self._wrong

    def table(self) -> str:
        return "reads  7"


def broken() -> Judged:
    raise AssertionError("h1 hangs\nand this is its log")


GOOD, CANNOT = Part("good", "all is well", Judged), Part("old", "there is nothing", Judged, lambda: "it is too old")


@pytest.mark.parametrize(
    ("part", "verdict"),
    [
        (Part("bad", "it fails", lambda: Judged("2 stale")), "it fails: failed: 2 stale"),
        (Part("bad", "it hangs", broken), "it hangs: failed: h1 hangs"),
        (CANNOT, "there is nothing: not run: it is too old"),
    ],
)
def test_one_part_that_fails_is_a_failure_of_all(
    part: Part, verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proof, "parts", lambda *_, **__: [part, GOOD])
    monkeypatch.setattr(proof, "FILE", tmp_path / "hosts.txt")
    monkeypatch.setattr(proof, "ROOT", tmp_path)
    assert proof.main(["--seed", "3", "--write"]) == 1
    written = (tmp_path / "hosts.txt").read_text()
    assert capsys.readouterr().out.endswith(written)
    assert written.startswith('$ make hosts ARGS="--seed 3"\n')
    assert verdict in written
    assert "all is well: passed" in written, "the others are run all the same"
    assert "--- good\nreads  7" in written


def test_what_passes_and_what_need_not_run_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "parts", lambda *_, **__: [GOOD, CANNOT._replace(must_run=False)])
    assert proof.main([]) == 0


def test_all_parts_are_named_in_the_help() -> None:
    names = [part.name for part in proof.parts(1, seconds=1.0, is_short=True)]
    assert names == ["campaign", "many", "mixed", "secrets"]
