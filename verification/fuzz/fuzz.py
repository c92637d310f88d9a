"""Fuzzing, guided by coverage: ``python -m verification.fuzz.fuzz --seconds 600``, or ``make fuzz``.

Every target of `targets.py` runs in a process of its own for its share of the time, under atheris, which makes new
inputs of those that reached new code. It begins with the corpus: an input for each thing that can happen, kept in
``corpus/``. An input that fails is put there, too, as ``failure-...``: from then on the tests fail on it, until the
defect is fixed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.util import find_spec
from pathlib import Path

from verification import ROOT
from verification.fuzz.targets import TARGETS

CORPUS = ROOT / "verification" / "fuzz" / "corpus"
LONGEST = {
    "peer": 1500,
    "region": 600,
    "shelf": 600,
    "bus": 9000,
    "frames": 6000,
    "values": 6000,
}  # bytes of an input, else 2000
SHARES = {"peer": 4}  # of the time, else 1
PROGRESS = re.compile(r"#(\d+)\s+\S+\s+cov: (\d+) ft: (\d+) corp: (\d+)")
TOTAL = re.compile(r"stat::number_of_executed_units: (\d+)")
SHOW_EVERY = 10  # s
HEAD = "target   seconds   executions   per s  edges features corpus failures"


class Campaign:
    """The fuzzing of one target."""

    def __init__(self, target: str, scratch: Path) -> None:
        self.target = target
        self.corpus = CORPUS / target
        self.corpus.mkdir(parents=True, exist_ok=True)
        self.found = scratch / target
        self.found.mkdir()
        self.executions = self.edges = self.features = 0
        self.seconds = 0.0
        self.failures: list[Path] = []
        self.log: list[str] = []

    def run(self, seconds: float) -> None:
        """Fuzz for so long, or until something fails."""
        before, began = set(self.corpus.iterdir()), time.monotonic()
        broken = self._libfuzzer(
            f"-max_total_time={seconds:.0f}", f"-max_len={LONGEST.get(self.target, 2000)}", "-len_control=0",
            "-timeout=60", "-report_slow_units=60", "-rss_limit_mb=1024", "-print_final_stats=1",
            f"-artifact_prefix={self.corpus}/failure-",
            self.found, self.corpus,
        )  # fmt: skip
        self.seconds = time.monotonic() - began
        self.failures = sorted(set(self.corpus.iterdir()) - before) or [self.corpus] * broken

    def keep(self) -> None:
        """Add to the corpus the inputs that reach new code. It stays small, because the tests run it."""
        self._libfuzzer("-merge=1", "-use_counters=0", self.corpus, self.found)

    def _libfuzzer(self, *options: object) -> bool:
        command = [sys.executable, "-m", "verification.fuzz.guided", self.target, *map(str, options)]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        surroundings = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(self.found.parent)}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stderr=pipe, text=True, errors="replace", env=surroundings) as process:
            assert process.stderr is not None
            for line in process.stderr:
                self._read(line)
        return process.returncode != 0

    def _read(self, line: str) -> None:
        self.log = [*self.log[-60:], line.rstrip()[:200]]
        if progress := PROGRESS.match(line):
            self.executions, self.edges, self.features, _ = map(int, progress.groups())
        elif total := TOTAL.match(line):
            self.executions = int(total[1])

    def line(self) -> str:
        """Return a line of the table."""
        rate = self.executions / max(1.0, self.seconds)
        inputs = len(list(self.corpus.iterdir()))
        return (
            f"{self.target:8} {self.seconds:7.0f} {self.executions:12,} {rate:7,.0f} {self.edges:6,} "
            f"{self.features:8,} {inputs:6,} {len(self.failures):8,}"
        )

    def story(self) -> str:
        """Return what there is to say of the failure."""
        begins = next((place for place, line in enumerate(self.log) if "Uncaught" in line), 0)
        replays = [
            f"replay: {sys.executable} -m verification.fuzz.fuzz --replay {os.path.relpath(path)}"
            for path in self.failures
        ]
        return "\n".join((f"\n--- {self.target}", *self.log[begins : begins + 25], *replays))


def fuzz(targets: list[str], seconds: float, jobs: int, keep: bool) -> int:
    """Fuzz for so long in all, show how it goes, and return how many targets failed."""
    with tempfile.TemporaryDirectory(prefix="cc", dir="/tmp") as scratch:
        longest_first = sorted(targets, key=lambda target: -SHARES.get(target, 1))
        campaigns = [Campaign(target, Path(scratch)) for target in longest_first]
        share = seconds * jobs / sum(SHARES.get(target, 1) for target in targets)
        print(f"{len(campaigns)} targets, {share:.0f} s each, {jobs} at a time; {SHARES} shares", flush=True)
        with ThreadPoolExecutor(jobs) as pool:
            open_ = {pool.submit(each.run, share * SHARES.get(each.target, 1)): each for each in campaigns}
            while open_:
                for run in wait(open_, SHOW_EVERY).done:
                    run.result()
                    del open_[run]
                print(" ", "; ".join(_state(campaign) for campaign in open_.values() if campaign.log), flush=True)
        for campaign in campaigns if keep else ():
            campaign.keep()
        failed = [campaign for campaign in campaigns if campaign.failures]
        print("\n".join((HEAD, *(campaign.line() for campaign in campaigns), *(each.story() for each in failed))))
        return len(failed)


def _state(campaign: Campaign) -> str:
    return f"{campaign.target} {campaign.executions:,} executions, {campaign.edges:,} edges"


def replay(path: Path) -> None:
    """Run one input; its directory says of which target it is."""
    TARGETS[path.resolve().parent.name](path.read_bytes())
    print("nothing fails")


def main() -> int:
    """Return how many targets failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="over all targets; %(default)s by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at a time; else one per core")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), help="some of the targets")
    parser.add_argument("--keep", action="store_true", help="take what is found up into the corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input of a corpus, and nothing else")
    options = parser.parse_args()
    if options.replay:
        replay(options.replay)
        return 0
    if find_spec("atheris") is None:
        parser.error("atheris is not installed here; `make fuzz` installs it")
    return fuzz(options.only, options.seconds, min(options.jobs, len(options.only)), options.keep)


if __name__ == "__main__":
    sys.exit(main())
