"""A short rolling restart: workers are replaced under load, and no client sees it."""

from __future__ import annotations

import sys

import pytest

from verification.servers import rolling

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: it looks into /proc")


def test_no_request_fails_and_nothing_is_lost_while_workers_are_replaced(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ["--workers", "3", "--max-requests", "60", "--visitors", "6", "--keys", "40", "--witness"]
    status = rolling.main(["--replaced", "6", *few])
    report = capsys.readouterr().out
    assert status == 0, report
    assert "failed requests                0" in report
    assert "stale reads                    0" in report
    assert "lost 0 times" in report
    assert "quiet keys loaded again        0 of 40" in report
