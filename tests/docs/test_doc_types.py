"""``make types`` checks the examples that the other tests run, and names the line of the page."""

from __future__ import annotations

import pytest

from scripts import check_doc_types as check
from tests import ROOT


def test_every_line_of_every_example_is_checked_under_its_number() -> None:
    programs = sessions = 0
    for example in check.examples():
        page = (ROOT / example.page).read_text("utf-8").splitlines()
        for number, line in example.lines:
            assert page[number - 1].rstrip().endswith(line.strip())
        sessions += any(page[number - 1].lstrip().startswith(">>>") for number, _ in example.lines)
        programs += 1
    languages = [language for page in check.PAGES for _, language, _ in check.FENCED.findall(page.read_text("utf-8"))]
    assert programs - sessions == languages.count("python")
    assert sessions > 0


def test_an_exception_is_for_one_line_of_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "EXCEPTIONS", (("a.md", "f(", "wrong", "why"), ("b.md", "g(", "wrong", "why")))
    intended, other = (check.Complaint("mypy", page, 3, "f(1)", "this is wrong") for page in ("a.md", "b.md"))
    assert check.is_intended(intended)
    assert not check.is_intended(other)
    assert list(check.needless([intended, other])) == ["b.md: the exception 'g(' no longer occurs: remove it"]
