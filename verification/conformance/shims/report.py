"""A plugin of pytest that writes one line of JSON for each test: its id, and what became of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A part of a test has ended: a failure of any part is the test's."""
    test = report.nodeid
    if report.failed or (report.skipped and _outcomes.get(test) != "failed"):
        _outcomes[test] = report.outcome
    else:
        _outcomes.setdefault(test, report.outcome)


def pytest_sessionfinish() -> None:
    """Write the report."""
    lines = [json.dumps([test, outcome]) for test, outcome in _outcomes.items()]
    Path(os.environ["CONFORMANCE_REPORT"]).write_text("\n".join(lines), "utf-8")
