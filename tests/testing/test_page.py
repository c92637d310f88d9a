"""The tests on the page about testing run and pass. Those for Django run in tests/django/test_under_test.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

PAGE = ROOT / "docs" / "howto" / "testing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("ini", ["", "colocache_private = true"], ids=["", "private"])
def test_what_the_page_shows_passes(tmp_path: Path, run_dir: str, ini: str) -> None:
    for number, block in enumerate(BLOCKS):
        (tmp_path / f"test_{number}.py").write_text(block)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n{ini}\n")
    options = ["-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:django"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(len(re.findall('def test_', block)) for block in BLOCKS)} passed" in done.stdout
    assert os.listdir(run_dir) == []
