"""The short form of the matrix: the servers and modes that differ most in how they make their processes."""

from __future__ import annotations

import sys

import pytest

from verification.servers.matrix import CHECKS, run
from verification.servers.modes import MODES, Mode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: it looks into /proc")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.short], ids=str)
def test_what_the_cache_promises_holds_under(mode: Mode) -> None:
    assert not mode.missing, f"pip install 'colocache[test]': missing are {mode.missing}"
    cells = run(mode)
    assert not [cell for cell in cells.values() if cell.startswith("FAILED")], cells
    assert set(cells) == set(CHECKS)
