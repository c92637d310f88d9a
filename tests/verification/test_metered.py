"""A short run of metered workers: the figures are what was done, and never fall."""

from __future__ import annotations

import sys

import pytest

from verification.servers import metered

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: it looks into /proc")


def test_metrics_agree_with_what_was_done_while_workers_are_replaced_and_killed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ["--workers", "3", "--visitors", "4", "--keys", "20", "--max-requests", "60", "--witness"]
    status = metered.main(["--requests", "200", "--kills", "3", *few])
    report = capsys.readouterr().out
    assert status == 0, report
    assert report.count("  agrees\n") == 3
    assert "counters that have fallen      0" in report


def test_a_counter_that_falls_or_disappears_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    scraper = metered.Scraper(0)
    reads = '# TYPE colocache_reads_total counter\ncolocache_reads_total{{result="hit"}} {}\n'
    sets = '# TYPE colocache_sets_total counter\ncolocache_sets_total{group="shop"} 1\n'
    good = reads.format(3) + sets
    scrapes = iter([good, "", good, reads.format(2)])
    monkeypatch.setattr(scraper, "_scraped", lambda: next(scrapes))
    found = [scraper.scrape() for _ in range(4)]
    assert found[0] == metered.Figures(3, 0, 0)
    assert found[1] is None
    assert [each.split("{")[0] for each in scraper.fallen] == ["colocache_reads_total", "colocache_sets_total"]
