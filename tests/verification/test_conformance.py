"""The runner of the suites of others: what it takes for expected, and that it looks both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import ROOT
from verification.conformance import run

EXPECTED = run.HERE / "expected"


def test_every_suite_has_a_list_and_every_entry_a_reason() -> None:
    lists = {path.stem: run.expected(path) for path in EXPECTED.glob("*.txt")}
    assert lists.keys() == {suite.name for suite in run.SUITES}
    assert all(why for tests in lists.values() for why in tests.values())


def test_the_page_gives_the_number_of_differences_of_each_suite() -> None:
    page = (ROOT / "docs" / "topics" / "conformance.md").read_text("utf-8")
    told = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[-1].isdigit():
            ran, passed, differ = map(int, cells[-3:])
            assert ran == passed + differ
            told[cells[0]] = differ
    assert told == {suite.name: len(run.expected(EXPECTED / f"{suite.name}.txt")) for suite in run.SUITES}


def test_a_list_gives_each_test_the_reason_above_it(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# One reason,\n# in two lines.\none\ntwo\n\n# Another.\nthree\n")
    assert run.expected(path) == {
        "one": "One reason, in two lines.", "two": "One reason, in two lines.", "three": "Another."
    }  # fmt: skip
    path.write_text("one\n")
    with pytest.raises(ValueError, match="no reason above"):
        run.expected(path)


def test_a_difference_is_told_both_ways(tmp_path: Path) -> None:
    report = tmp_path / "report"
    lines = [("a", "passed"), ("b", "failed"), ("c", "passed"), ("d", "failed"), ("d", "passed"), ("e", "skipped")]
    report.write_text("\n".join(json.dumps(line) for line in lines))
    outcome = run.read(report, {"b": "why", "c": "why", "f": "why"})
    assert (outcome.passed, outcome.failed, outcome.skipped) == ({"a", "c"}, {"b", "d"}, {"e"})
    assert outcome.unexpected == [
        "fails: d", "passes, and is expected to differ: c", "is expected to differ, and was not run: f"
    ]  # fmt: skip


def test_what_cannot_be_downloaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SOURCES", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    suite = run.Suite("some", "cachetools", run.pytest(), {})
    with pytest.raises(run.Unavailable, match=r"cachetools .* could not be downloaded: .*\. Connect to the network"):
        run.source(suite)
