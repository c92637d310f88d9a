"""Each rule of the protocol between hosts taken out, one at a time: something must notice.

    python -m verification.hosts.mutants                    # all on all cores: about an hour
    python -m verification.hosts.mutants not_stamped nothing_is_named --histories 100

Each is looked for in the histories that are written by hand for it (`scripted`), in turn with random ones of its kinds,
and, if none has noticed it, by its tests. What is too rare for histories is looked for by tests only, in which its
interleaving is written by hand. Prints after how many histories each was noticed, and what was wrong, or in which test.

That a fetch names also hosts of which nothing was told yet has no mutant, because nothing rests on it: where nothing of
a host is told, no stamp is one of its events. Without it an owner would answer that has never met such a host.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

from verification.host.mutants import First
from verification.hosts.history import History
from verification.hosts.mutations import MUTANTS
from verification.hosts.plan import draw
from verification.hosts.scripted import play

SCRIPTED = 40  # histories of each script, at most
HISTORIES = 60  # random ones, at most


class Caught(NamedTuple):
    """Where a mutant was noticed."""

    where: str  # the script or the kind; "" if nowhere
    seed: int
    histories: int  # until then, or in all
    what: str

    def line(self, name: str) -> str:
        """Return a line of the table."""
        what = self.what if self.where else "NOT CAUGHT"
        where = f"{self.where} {self.seed}" if self.histories and self.where not in ("", "a test") else self.where
        return f"{name:48} {where:>28} {self.histories:9,}  {what:.110}"


def look(histories: int, scripted: int, name: str) -> Caught:
    """Look for a mutant: in turn in histories of each script, and of each kind."""
    mutant, done = MUTANTS[name], 0
    with mutant.change():
        for seed in range(max(histories, scripted)):
            runs = [(script, partial(play, script, seed)) for script in mutant.scripts if seed < scripted]
            if seed < histories and mutant.kinds:
                kind = mutant.kinds[seed % len(mutant.kinds)]
                runs.append((kind, partial(_random, kind, seed)))
            for where, make in runs:
                done += 1
                result = make().go()
                if result.violation:
                    what = f"ERROR: {result.violation}" if result.is_error else result.violation
                    return Caught(where, seed, done, what)
    test = by_tests(name) if mutant.tests else ""
    return Caught("a test" if test else "", 0, done, test)


def by_tests(name: str) -> str:
    """Return the first test that notices a mutant; "" if none does."""
    command = [sys.executable, "-m", "verification.hosts.mutants", "--by-tests", name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def run_tests(name: str) -> str:
    """Run the tests of the core without a rule, up to the first that fails, and return its name."""
    import pytest  # it is needed for nothing else here

    first = First()
    with MUTANTS[name].change(), contextlib.redirect_stdout(io.StringIO()):
        # A test that takes long where other programs run has noticed nothing.
        options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=1200"]
        pytest.main([*options, *MUTANTS[name].tests], plugins=[first])
    return first.name


def _random(kind: str, seed: int) -> History:
    return History(draw(seed, kind))


def main() -> int:
    """Print the table; the exit status is 1 if a mutant is not caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="mutant", help="which (default: all)")
    parser.add_argument("--histories", type=int, default=HISTORIES, help="random ones of each, at most (%(default)s)")
    parser.add_argument("--scripted", type=int, default=SCRIPTED, help="of each script, at most (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--by-tests", metavar="MUTANT", help="print the first test of the core that notices this one")
    options = parser.parse_args()
    if options.by_tests:
        print(run_tests(options.by_tests))
        return 0
    names = options.names or list(MUTANTS)
    began, missed = time.monotonic(), list[str]()
    print(f"{'the hosts, but':48} {'noticed in':>28} {'histories':>9}  what was wrong first")
    with ProcessPoolExecutor(options.jobs) as pool:
        found = pool.map(partial(look, options.histories, options.scripted), names)
        for name, caught in zip(names, found, strict=True):
            if caught.what.startswith("ERROR") or not caught.where:
                missed.append(name)
            print(caught.line(name), flush=True)
    print(f"{len(names) - len(missed)} of {len(names)} caught; {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
