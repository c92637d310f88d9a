"""Two versions of the package in one group, and the hosts replaced one after another, from old to new and back.

``python -m verification.network.mixed --old v1.2.0``. The old package is built as a wheel from a commit of this
repository, and installed in an environment of its own; the new one is this source tree. The processes work as in
`campaign.py`, and are judged as there: no read is stale, late or torn, and no call fails. Without ``--old`` it is the
newest tag, or the commit before the present one if there is no tag.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

from verification import ROOT
from verification.chaos.group import together
from verification.network.campaign import Campaign, Result, conduct
from verification.network.namespaces import Loopback, Namespaces, Network, why_not

SPEAKS: Final = "colocache/core/hosts"  # what a package has that speaks between hosts
NEW, OLD = "new", "old"


class Package:
    """A version of the package: the Python that has it, and what its processes find first on their path."""

    def __init__(self, python: Path, path: Path) -> None:
        """``path`` is for PYTHONPATH."""
        self.python, self.path = python, path


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise AssertionError(f"git {' '.join(arguments)} failed: {done.stderr.decode().strip()}")
    return done.stdout


def newest() -> str:
    """The newest tag; the commit before the present one if there is no tag."""
    tags = _git("tag", "--merged", "HEAD", "--sort=-version:refname").decode().split()
    return tags[0] if tags else "HEAD~1"


def why_not_old(ref: str) -> str:
    """Return why the package of a commit cannot be in a group of several hosts; nothing if it can."""
    return "" if _git("ls-tree", "-d", ref, SPEAKS) else f"colocache of {ref} does not speak between hosts"


@contextmanager
def installed(ref: str) -> Iterator[Package]:
    """The package of a commit, in an environment of its own. Raise AssertionError if it cannot be built."""
    with tempfile.TemporaryDirectory(prefix="colocache-old-") as name:
        place = Path(name)
        with tarfile.open(fileobj=BytesIO(_git("archive", ref))) as archive:
            archive.extractall(place / "source", filter="data")
        _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", place, place / "source")
        wheel = next(place.glob("*.whl"))
        venv.create(place / "venv", with_pip=True)
        python = place / "venv" / "bin" / "python"
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
        # Only the verification of this source tree, and not its package.
        (place / "path").mkdir()
        (place / "path" / "verification").symlink_to(ROOT / "verification")
        yield Package(python, place / "path")


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"failed with status {done.returncode}: {' '.join(map(str, command))}\n{done.stderr}")


class Mixed(Campaign):
    """A campaign whose hosts run one of two packages each."""

    def __init__(self, net: Network, seed: int, workers: int, packages: dict[str, Package]) -> None:
        """Old and new hosts in turns; the first is old."""
        super().__init__(net, seed, workers)
        self._packages = packages
        self._runs = {host.name: (OLD, NEW)[number % 2] for number, host in enumerate(net.hosts)}

    def interpreter(self, host: str) -> list[str]:
        # Safe path: neither package is to be found in the directory in which this is run.
        return [str(self._packages[self._runs[host]].python), "-X", "dev", "-P"]

    def environment(self, host: str) -> dict[str, str]:
        return super().environment(host) | {"PYTHONPATH": str(self._packages[self._runs[host]].path)}

    def roll(self, seconds: float, directions: Sequence[str] = (NEW, OLD, NEW)) -> None:
        """Work mixed, then have all become new, one after another, then old, then new; work a while between all."""
        changes = [(host, name) for name in directions for host in self.working]
        pause = seconds / (len(changes) + 1)
        self._check_packages()
        self.pass_time(pause)
        mixed = 1
        for host, name in changes:
            if self._runs[host] != name:
                self._runs[host] = name
                self.note("replace", host=host, by=name)
                self.replace(host)
                self._check_packages()
            mixed += len(set(self._runs.values())) > 1
            self.pass_time(pause)
        self.details["mixed"] = f"old and new together for {mixed} of {len(changes) + 1} steps, {pause:.1f} s each"

    def _check_packages(self) -> None:
        """Raise AssertionError unless each process runs the package that it is there to run."""
        prefixes = {NEW: ROOT, OLD: self._packages[OLD].path.parent}
        for host, workers in self.working.items():
            for package in together(workers, "package"):
                if not Path(package).resolve().is_relative_to(prefixes[self._runs[host]].resolve()):
                    raise AssertionError(f"{host} should run the {self._runs[host]} package, and runs {package}")


def run(
    seed: int, ref: str, *, seconds: float, hosts: int = 3, workers: int = 2, least_reads: float = 100.0,
    least_hits: float = 0.3, keep: bool = True,
) -> Result:  # fmt: skip
    """Run it. Raise AssertionError if something hangs, or the old package cannot be built."""
    net: Network = Loopback(hosts) if why_not() else Namespaces(hosts)
    with installed(ref) as old, net:
        campaign = Mixed(net, seed, workers, {NEW: Package(Path(sys.executable), ROOT), OLD: old})
        campaign.details["old package"] = f"{ref}, commit {_git('rev-parse', '--short', ref).decode().strip()}"
        return conduct(
            campaign, seed, lambda: campaign.roll(seconds), least_reads=least_reads, least_hits=least_hits, keep=keep
        )


def main(arguments: list[str]) -> int:
    """Run it; its exit status."""
    parser = argparse.ArgumentParser(prog="mixed.py", description="Run two versions in one group; judge reads.")
    parser.add_argument("--old", help="a commit or tag; by default the newest tag, or the commit before this one")
    parser.add_argument("--seconds", type=float, default=120.0, help="without the time that hosts take to come back")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--hosts", type=int, default=3, help="2 at least")
    parser.add_argument("--workers", type=int, default=2, help="processes on each host")
    options = parser.parse_args(arguments)
    if options.hosts < 2:
        parser.error("--hosts must be 2 at least")
    ref = options.old or newest()
    if reason := why_not_old(ref):
        print(reason)
        return 0
    print(f"seed {options.seed}", flush=True)
    result = run(options.seed, ref, seconds=options.seconds, hosts=options.hosts, workers=options.workers)
    print(result.table(), flush=True)
    return bool(result.complaints())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
