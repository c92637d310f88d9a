"""The benchmarks run where nothing is installed but colocache, and their arithmetic is right.

Whether something is fast is not tested here: see ``make bench``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench, capacity, draw, hit, host, measure, render
from tests import ROOT

BENCHMARKS = ROOT / "benchmarks"

#: The smallest run of each that needs no other process for long.
SMALLEST = {
    "hit": ("--quick", "--rounds", "1"),
    "capacity": ("--requests", "1000"),
    "footprint": ("--quick", "--only", "group"),
    "hosts": ("--quick", "--only", "many"),
    "life": ("--quick", "--only", "starts", "--rounds", "1"),
}


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        capture_output=True, text=True, timeout=100, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def sampler(*values: float) -> Any:
    """One value a round, after the round that does not count."""
    left = iter((99.0, *values))
    return lambda: [next(left)]


def series_of(*values: float) -> list[list[float]]:
    return [[value] for value in values]


# --- Running


def test_every_benchmark_is_on_the_runners_list() -> None:
    named = {benchmark.name for benchmark in bench.BENCHMARKS}
    assert {name for name in named if (BENCHMARKS / f"{name}.py").exists()} == named


def test_all_take_less_than_15_minutes_and_the_guard_about_one() -> None:
    assert sum(benchmark.seconds for benchmark in bench.BENCHMARKS) <= 900
    assert sum(benchmark.quick or 0 for benchmark in bench.BENCHMARKS) <= 60


def reports(path: Path) -> bool:
    return "= Report(" in path.read_text() and path.stem != "measure"


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py") if reports(path)))
def test_a_benchmark_says_its_question_whatever_is_installed(name: str) -> None:
    assert "?" in run(name, "--help")


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_run_tells_something(name: str, tmp_path: Path) -> None:
    said = run(name, *SMALLEST[name], "--json", str(tmp_path / "facts"))
    facts = json.loads((tmp_path / "facts").read_text())
    assert facts["benchmark"] == name
    assert facts["tables"]
    assert all(table["rows"] for table in facts["tables"])
    assert "colocache" in said


# --- Rendering


@pytest.mark.parametrize("path", sorted(render.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_committed_text_is_made_from_the_committed_figures(path: Path) -> None:
    assert path.with_suffix(".txt").read_text() == render.text(json.loads(path.read_text()))


def test_a_report_is_written_as_figures_text_and_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    for module in (measure, render):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(render, "find_spec", lambda name: True)
    monkeypatch.setattr(draw, "bars", lambda path, **of: drawn.append((path.name, of)) or path)
    report = measure.Report("mine", "How long?", measure.options("", argv=["--write"]))
    report.table("times", ("", "s"), [("one", 0.25)])
    report.note("so it is")
    report.target("one", measure.Ratio(2.0, 1.0, 3.0), 1.0)
    report.missing("two", "not installed")
    report.bars("mine", "s", {"one": 0.25})
    found = report.finish()
    assert json.loads((tmp_path / "mine.json").read_text()) == found
    assert (tmp_path / "mine.txt").read_text().splitlines()[-7:] == [
        "# times",
        "        s",
        "one  0.25",
        "",
        "so it is",
        "NOT met  one: 2.00 (1.00 to 3.00), at most 1.00",
        "missing: two: not installed",
    ]
    assert drawn == [("mine.png", {"label": "s", "values": {"one": 0.25}, "log": False, "title": "How long?"})]


# --- Measuring


def test_contenders_are_measured_once_a_round_in_changing_order() -> None:
    order: list[str] = []

    def taking(name: str) -> Any:
        return measure.Contender(name, lambda: [float(order.append(name) is None)])

    series = measure.interleave([taking("a"), taking("b")], rounds=20)
    rounds = [order[place : place + 2] for place in range(0, len(order), 2)]
    assert {frozenset(pair) for pair in rounds} == {frozenset("ab")}
    assert {tuple(pair) for pair in rounds} == {("a", "b"), ("b", "a")}
    assert len(series["a"]) == 20


def test_the_first_round_does_not_count() -> None:
    series = measure.interleave([measure.Contender("a", sampler(1.0, 2.0))], rounds=2)
    assert series == {"a": [[1.0], [2.0]]}


def test_two_contenders_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        measure.interleave([measure.Contender("a", sampler())] * 2, rounds=1)


def test_a_ratio_is_taken_within_each_round() -> None:
    slow_rounds = [1.0, 10.0, 100.0]
    ratio = measure.ratio(series_of(*[2 * took for took in slow_rounds]), series_of(*slow_rounds))
    assert (ratio.median, ratio.low, ratio.high) == (2, 2, 2)


def test_a_ratio_of_tails_is_that_of_all_samples() -> None:
    one, other = [[2.0] * 50, [6.0] * 50], [[1.0] * 50, [2.0] * 50]
    ratio = measure.tail_ratio(one, other)
    assert ratio.median == 3
    assert 2 < ratio.low < ratio.high < 3


def test_parts_are_chosen_by_name() -> None:
    parts = {"a": 1, "b": 2, "c": 3}
    assert measure.chosen_parts(parts, "c,a") == {"a": 1, "c": 3}
    assert measure.chosen_parts(parts, "") == parts
    with pytest.raises(SystemExit, match="no d; there are a, b, c"):
        measure.chosen_parts(parts, "d")


def test_percentiles_lie_between_the_samples() -> None:
    assert measure.percentile([4, 1, 3, 2], 50) == 2.5
    assert measure.percentile([1, 2], 100) == 2
    assert measure.percentile([7], 99) == 7


def test_a_loop_that_was_held_up_once_is_not_subtracted_as_such() -> None:
    assert measure.less(series_of(5.0, 8.0, 5.0), series_of(1.0, 1.0, 40.0)) == series_of(4.0, 7.0, 4.0)


def test_a_loop_is_long_enough_to_be_timed() -> None:
    counts: list[int] = []
    sample = measure.looped(lambda count: counts.append(count) or sum(range(count)), seconds=1e-4)
    sample()
    sample()
    assert counts[-1] == counts[-2] > 1


# --- The guard


@pytest.mark.parametrize(
    ("before", "now", "moved"),
    [
        ((2.0, 1.9, 2.1), (2.05, 1.95, 2.2), False),  # the spans meet
        ((2.0, 1.9, 2.1), (3.0, 2.0, 4.0), False),  # far, but so noisy that nobody can tell
        ((2.0, 1.9, 2.1), (2.5, 2.4, 2.6), True),
        ((2.0, 1.9, 2.1), (1.5, 1.4, 1.6), True),
        ((2.0, 2.0, 2.0), (2.1, 2.1, 2.1), False),  # certain, and not worth a word
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), True),
    ],
)
def test_moved_is_what_moved_by_more_than_the_noise(before: Any, now: Any, moved: bool) -> None:
    assert bench.Change("x", measure.Ratio(*before), measure.Ratio(*now)).has_moved is moved


def facts(cpu: str = "a", **ratios: float) -> dict[str, Any]:
    spans = {name: {"median": value, "low": value * 0.99, "high": value * 1.01} for name, value in ratios.items()}
    return {"machine": {"cpu": cpu, "cores": 2, "python": "CPython 3.11"}, "ratios": spans, "targets": []}


def test_the_guard_tells_what_moved_the_most_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    (tmp_path / "hit.json").write_text(json.dumps(facts(same=1.0, up=1.0, down=1.0, gone=1.0)))
    found = facts(same=1.001, up=1.2, down=0.5, new=7.0)
    said = list(bench.compared("hit", found, lambda: found))
    assert said[0] == "hit: 3 ratios compared, 2 moved by more than the noise"
    assert [line.split()[:2] for line in said[1:]] == [["-50%", "down:"], ["+20%", "up:"]]


def test_what_moves_in_one_run_only_is_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    (tmp_path / "hit.json").write_text(json.dumps(facts(once=1.0, to_and_fro=1.0)))
    said = list(bench.compared("hit", facts(once=1.5, to_and_fro=1.5), lambda: facts(once=1.0, to_and_fro=0.5)))
    assert said == ["hit: 2 ratios compared, 0 moved by more than the noise"]


def test_the_guard_says_that_another_machine_was_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    (tmp_path / "hit.json").write_text(json.dumps(facts(cpu="another")))
    assert "another cpu: another, now a" in next(bench.compared("hit", facts(), facts))


def test_the_guard_says_where_nothing_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    assert list(bench.compared("hit", facts(), facts)) == ["hit: nothing is committed to compare with"]


def test_a_broken_benchmark_is_told_and_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "broken.py").write_text("raise SystemExit('no luck')")
    (tmp_path / "programs" / "endless.py").write_text("import signal; signal.pause()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(bench, "PROGRAMS", "programs")
    assert bench.run(bench.Benchmark("broken", 1, 1), [], limit=30, aloud=False) is None
    assert bench.run(bench.Benchmark("endless", 1, 1), [], limit=0.1, aloud=False) is None
    said = capsys.readouterr().out
    assert "broken BROKE: 1\nno luck" in said
    assert "endless BROKE: no end after 0 s" in said


# --- All rows of one host


@pytest.fixture
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoServers:
        def __enter__(self) -> NoServers:
            return self

        def __exit__(self, *exc_info: object) -> None:
            pass

        def versions(self) -> dict[str, str]:
            return {}

    monkeypatch.setattr(host, "Servers", NoServers)


@pytest.mark.usefixtures("no_servers")
def test_all_bounds_are_told_at_the_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def row(bench: Any) -> None:
        bench.report.target("fast", measure.exactly(1.0), 2.0)
        bench.report.note("by the way")

    monkeypatch.setattr(host, "ROWS", {"a": row, "b": row})
    host.main(["--only", "b"])
    said = capsys.readouterr().out
    assert said.endswith("=== all of them\nmet      fast: 1.00 (1.00 to 1.00), at most 2.00\n")
    assert "=== a" not in said.partition("=== all")[0]


@pytest.mark.usefixtures("no_servers")
def test_a_row_that_breaks_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "ROWS", {"a": lambda bench: 1 / 0, "b": lambda bench: bench.report.note("b was here")})
    with pytest.raises(SystemExit, match="BROKEN: a"):
        host.main([])
    assert "b was here" in capsys.readouterr().out


def test_results_of_some_rows_are_not_written() -> None:
    with pytest.raises(SystemExit, match="needs all rows"):
        host.main(["--only", "fetch", "--write"])


def test_the_package_is_taken_out_of_git_as_it_was() -> None:
    try:
        with hit.exported(hit.BEFORE) as directory:
            assert (directory / "colocache" / "runtime" / "driver.py").exists()
            assert not (directory / "benchmarks").exists()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git does not have that commit here: {error}")


# --- Simulated policies


@pytest.mark.parametrize("name", ["colocache sieve", "colocache lru", "colocache lfu", "LRU, exact", "S3-FIFO"])
def test_no_policy_beats_the_optimum_and_all_hit_what_fits(name: str) -> None:
    requests, simulate = capacity.zipf(3000, seed=1), capacity.SIMULATIONS[name]
    assert simulate(requests, 50) <= capacity.belady(requests, 50)
    assert simulate(requests, 10_000) == len(requests) - len(set(requests)) == capacity.belady(requests, 10_000)


def test_the_optimum_of_a_loop_that_does_not_fit() -> None:
    """Three keys in turn, and room for two: LRU never hits; the optimum keeps one and hits it every time."""
    requests = [1, 2, 3] * 10
    assert capacity.SIMULATIONS["LRU, exact"](requests, 2) == 0
    assert capacity.belady(requests, 2) >= 9


def test_a_trace_names_runs_of_blocks(tmp_path: Path) -> None:
    (tmp_path / "t.lis").write_text("7 3 0 1\n2 1 0 2\n")
    assert capacity.traced(tmp_path / "t.lis") == [7, 8, 9, 2]


def test_one_shared_cache_loads_less_than_separate_ones() -> None:
    requests = capacity.zipf(4000, seed=1)
    shared, alone = (capacity.told_apart(requests, 4 << 20, together, 1) for together in (True, False))
    assert shared["loaded"] < alone["loaded"]
    assert shared.total() == alone.total() == len(requests)
    assert alone["fetched"] == 0
