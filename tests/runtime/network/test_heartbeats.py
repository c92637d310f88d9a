"""Without heartbeats of ZMTP, no process is aborted; and a host behind a black hole is found all the same."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests import ROOT

from .full_queue import outcome


def test_a_process_whose_queue_is_full_survives_the_end_of_who_has_filled_it() -> None:
    status, output, errors = outcome(heartbeats=0)
    assert (status, errors) == (0, "")
    assert output.startswith("taken ")
    assert int(output.split()[1]) >= 10


def can_cut() -> bool:
    """Tell whether this user may make networks."""
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    program = ["unshare", "-Urnm", "sh", "-c", "ip link add here type veth peer name there"]
    return subprocess.run(program, capture_output=True).returncode == 0


@pytest.mark.parametrize("traffic", ["pings", "nothing"])
def test_a_host_behind_a_black_hole_is_found_by_both_sides(traffic: str) -> None:
    if not can_cut():
        pytest.skip("this user may not make network namespaces here")
    program = ["unshare", "-Urnm", "--kill-child", sys.executable, "-m", "tests.runtime.network.black_hole", traffic]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == ["dials", "listens"]
