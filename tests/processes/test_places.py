"""Where processes meet: a directory with a long path, seen by processes whose temp directories are not the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.conftest import Until

PROGRAM = """\
import sys, colocache
cache = colocache.Cache("shop")
cache.start()
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class Process:
    """A process that evaluates expressions, in which ``cache`` is its cache."""

    def __init__(self, directory: Path, *before: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLOCACHE_DIR": str(directory)}
        self.process: Any = subprocess.Popen(
            [*before, sys.executable, "-c", PROGRAM],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, expression: str) -> Any:
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()
        return eval(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()


@pytest.fixture
def long_directory(run_dir: str) -> Iterator[Path]:
    """A directory outside of the temp directory, whose path is too long for sockets."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else "/var/tmp"
    path = Path(tempfile.mkdtemp(prefix="cc", dir=place)) / "-".join(["shared-by-all-services-of-the-host"] * 4)
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path.parent)


def _with_a_temp_directory_of_its_own(old: Path) -> tuple[str, ...]:
    """Return what to put before a command, so that its process has its own /tmp, as with PrivateTmp=yes of systemd.

    What this test needs of the ``old`` one is shown there.
    """
    old.mkdir()
    needed = [path for path in {str(ROOT), sys.prefix, sys.base_prefix} if path.startswith("/tmp/")]
    show = [f"mkdir -p {path} && mount --bind {old}/{path.removeprefix('/tmp/')} {path}" for path in needed]
    steps = [f"mount --bind /tmp {old}", "mount -t tmpfs none /tmp", *show, 'exec "$@"']
    return "unshare", "--mount", "sh", "-c", " && ".join(steps), "sh"


@pytest.mark.parametrize("private", [False, True], ids=["", "private temp directories"])
def test_processes_meet_in_a_directory_with_a_long_path(long_directory: Path, private: bool, until: Until) -> None:
    before = _with_a_temp_directory_of_its_own(long_directory.parent / "old") if private else ()
    if private and subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount anything")
    one, other = Process(long_directory, *before), Process(long_directory, *before)
    assert [process("cache.start()") for process in (one, other)] == [None, None]
    assert [process("len(cache.members())") for process in (one, other)] == [2, 2]
    for number in range(5):
        assert one(f"cache.set('k', {number})")
        assert other("cache.get('k')") == number
        assert one("cache.invalidate('k').complete")
        assert other("cache.get('k')") is None
    until(lambda: len(list(long_directory.glob("shop/*.bus"))) == 2)  # each where the other one finds it
    one.end()
    other.end()
    assert os.listdir(long_directory) == []
