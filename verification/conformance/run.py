"""``make conformance``: the tests of the projects whose interfaces colocache has, run against colocache.

Each suite is downloaded as the source distribution of the version that is installed, and run in a process of its own.
What is in ``shims/`` puts colocache in the place of the cache that the suite was written for. Whatever fails must be in
the suite's list in ``expected/``, below the reason for it. Whatever is in the list must fail, so that the lists stay
true. The exit status is 0 if both hold for every suite, and every suite could be run.

    make conformance ARGS="dogpile cachelib"      some suites
    make conformance ARGS="--output report.txt"   write the table to a file, too
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHIMS = HERE / "shims"
SOURCES = Path(sys.prefix) / "conformance"  # within the virtual environment, which `make clean` removes
TIMEOUT = 900  # s for one suite


@dataclass(frozen=True)
class Suite:
    """One suite: where it is from, and how it is run."""

    name: str
    package: str
    command: Callable[[Path], list[str]]  # of the directory that the tests were unpacked into
    own: Mapping[str, str]  # what of ours is put beside the tests: the name of a shim, and where
    environment: Mapping[str, str] = field(default_factory=dict)
    is_downloaded: bool = True  # otherwise the tests come with the installed package


class Unavailable(Exception):
    """A suite could not be downloaded."""


@dataclass(frozen=True)
class Outcome:
    """What became of the tests of a suite."""

    passed: set[str]
    failed: set[str]
    skipped: set[str]
    expected: dict[str, str]  # test to reason

    @property
    def unexpected(self) -> list[str]:
        """What the list of expected differences does not say."""
        ran = self.passed | self.failed | self.skipped
        return [
            *(f"fails: {test}" for test in sorted(self.failed - self.expected.keys())),
            *(f"passes, and is expected to differ: {test}" for test in sorted(self.passed & self.expected.keys())),
            *(f"is expected to differ, and was not run: {test}" for test in sorted(self.expected.keys() - ran)),
        ]


def pytest(*arguments: str) -> Callable[[Path], list[str]]:
    """Return the command that runs pytest without the settings of the suite's own project."""
    fixed = ["-q", "-p", "report", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
    return lambda tests: [sys.executable, "-m", "pytest", *fixed, *arguments]


def django(tests: Path) -> list[str]:
    """Return the command that runs Django's tests as Django does."""
    return [sys.executable, "runtests.py", "--settings=django_settings", "--parallel=1", "cache.tests_colocache"]


#: What of Flask-Caching's tests is about another backend.
OTHERS = "Redis redis Memcached memcached FileSystem NullCache cachelib_class cachelib_backend unlink multi_apps"

DJANGO = {"tests_colocache.py": "cache", "django_settings.py": "."}

SUITES = (
    Suite("django-pickle", "Django", django, DJANGO, {"CONFORMANCE_CODEC": "pickle"}),
    Suite("django-default", "Django", django, DJANGO, {"CONFORMANCE_CODEC": "django"}),
    Suite(
        "flask-caching", "Flask-Caching",
        pytest("-p", "flask_colocache", "-k", " and ".join(f"not {other}" for other in OTHERS.split())), {},
    ),
    Suite("cachelib", "cachelib", pytest("test_cachelib_colocache.py"), {"test_cachelib_colocache.py": "."}),
    Suite(
        "cachetools", "cachetools", pytest("tests/test_cachetools_colocache.py"),
        {"test_cachetools_colocache.py": "tests"},
    ),
    Suite(
        "dogpile", "dogpile.cache", pytest("-W", "ignore", "test_dogpile_colocache.py"),
        {"test_dogpile_colocache.py": "."}, is_downloaded=False,
    ),
)  # fmt: skip


# --- The sources


def source(suite: Suite) -> Path:
    """Return the source distribution of a suite's package, downloaded if need be. Raises Unavailable."""
    wanted = version(suite.package)
    directory = SOURCES / f"{suite.package}-{wanted}"
    if not (found := list(directory.glob("*.tar.gz"))):
        print(f"Downloading {suite.package} {wanted}", flush=True)
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
            "--no-deps", "--no-binary", suite.package, "--dest", str(directory), f"{suite.package}=={wanted}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        found = list(directory.glob("*.tar.gz"))
        if done.returncode or not found:
            why = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise Unavailable(
                f"the source distribution of {suite.package} {wanted} could not be downloaded: {why}. Connect to the "
                f"network, or point pip at a mirror (PIP_INDEX_URL), or put the archive into {directory}"
            )
    return found[0]


def unpack(suite: Suite, directory: Path) -> Path:
    """Put the tests of a suite, and what is ours beside them, into a directory; return where they are run."""
    if suite.is_downloaded:
        with tarfile.open(source(suite)) as archive:
            archive.extractall(directory, filter="data")
        (unpacked,) = directory.iterdir()
        tests = unpacked if suite.name == "cachetools" else unpacked / "tests"
        shutil.rmtree(unpacked / "src", ignore_errors=True)  # what is tested is what is installed
    else:
        tests = directory
    for name, where in suite.own.items():
        shutil.copy(SHIMS / name, tests / where)
    return tests


# --- Running


def run(suite: Suite) -> Outcome:
    """Run a suite. Raises Unavailable if it cannot be downloaded."""
    with tempfile.TemporaryDirectory(prefix="cc") as temporary:
        runtime, report, log = Path(temporary, "run"), Path(temporary, "report"), Path(temporary, "log")
        runtime.mkdir(mode=0o700)
        Path(temporary, "suite").mkdir()
        tests = unpack(suite, Path(temporary, "suite"))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COLOCACHE_")},
            "COLOCACHE_DIR": str(runtime), "PYTHONPATH": str(SHIMS), "CONFORMANCE_REPORT": str(report),
            **suite.environment,
        }  # fmt: skip
        with log.open("w") as output:
            subprocess.run(
                suite.command(tests), cwd=tests, env=environment, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False,
            )  # fmt: skip
        if not report.exists():
            raise RuntimeError(f"{suite.name} ended without a report:\n{log.read_text()[-3000:]}")
        outcome = read(report, expected(HERE / "expected" / f"{suite.name}.txt"))
        if outcome.unexpected:
            print(log.read_text()[-20000:])
        return outcome


def read(report: Path, differs: dict[str, str]) -> Outcome:
    """Return what a report says; a test with several lines has failed if one says so."""
    outcomes: dict[str, set[str]] = {"passed": set(), "failed": set(), "skipped": set()}
    for line in report.read_text("utf-8").splitlines():
        test, outcome = json.loads(line)
        outcomes[outcome].add(test)
    outcomes["passed"] -= outcomes["failed"] | outcomes["skipped"]
    return Outcome(**outcomes, expected=differs)


def expected(path: Path) -> dict[str, str]:
    """Return a list of expected differences: lines that begin with ``#`` are the reason for the tests below them."""
    differs: dict[str, str] = {}
    reason, is_new = "", True
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        if line.startswith("#"):
            reason = line[1:].strip() if is_new else f"{reason} {line[1:].strip()}"
            is_new = False
        elif line.strip():
            differs[line.strip()] = reason
            is_new = True
    if unexplained := [test for test, why in differs.items() if not why]:
        raise ValueError(f"{path}: there is no reason above {unexplained}")
    return differs


# --- The table

COLUMNS = "{:<16} {:<21} {:>5} {:>7} {:>8} {:>9} {:>11} {:>6}"
HEAD = COLUMNS.format("suite", "version", "run", "passed", "differ", "skipped", "unexpected", "s")


def rows(suites: list[Suite]) -> Iterator[tuple[str, list[str]]]:
    """Run suites; yield a row of the table for each, and what is wrong with it."""
    for suite in suites:
        release, began = f"{suite.package} {version(suite.package)}", time.monotonic()
        try:
            outcome = run(suite)
        except Unavailable as error:
            yield COLUMNS.format(suite.name, release, "-", "-", "-", "-", "not run", ""), [f"{suite.name}: {error}"]
            continue
        ran, differ = len(outcome.passed | outcome.failed), len(outcome.failed & outcome.expected.keys())
        numbers = (ran, len(outcome.passed), differ, len(outcome.skipped), len(outcome.unexpected))
        wrong = [f"{suite.name}: {each}" for each in outcome.unexpected]
        yield COLUMNS.format(suite.name, release, *numbers, round(time.monotonic() - began)), wrong


def main() -> None:
    """Run the suites that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [suite.name for suite in SUITES]
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(names)}; a part of a name will do")
    parser.add_argument("--output", type=Path, help="a file for the table")
    given = parser.parse_args()
    chosen = [suite for suite in SUITES if not given.suites or any(part in suite.name for part in given.suites)]
    if not chosen:
        parser.error(f"no suite is called {given.suites}: there are {names}")
    table, wrong = [HEAD], list[str]()
    for row, found in rows(chosen):
        print(row, flush=True)
        table.append(row)
        wrong += found
    text = "\n".join([*table, "", *(wrong or ["Everything is as expected."])])
    print(f"\n{text}")
    if given.output:
        given.output.write_text(f"{text}\n", "utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
