"""What each use leaves behind in a process: nothing. The short form of a part of ``make soak``."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("where", [(), ("--hosts",)], ids=["one host", "two hosts"])
def test_nothing_is_left_of_caches_namespaces_cancelled_calls_and_loads(where: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "verification.chaos.wear", "--share", "0.01", "--quiet", "1", *where]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COLOCACHE_")}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("verdict: flat\n")
