"""``make types``: check the types of the documentation's examples, as a reader who copies them would.

Each ``python`` block of a page becomes a file, and so do all sessions (``pycon``) of a page together. mypy --strict and
pyright check these files. An error names the page and its line. ``EXCEPTIONS`` lists the errors that are intended, and
each of them must still occur.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

#: Not the decisions, whose programs are experiments, and not the page on Django, which has no types.
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md"))
    if page.parent.name != "decisions" and page.parts[-2:] != ("howto", "django.md")
)
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

#: Errors that the examples may have, because a page is shorter without annotations of the reader's own functions. The
#: calls inside these functions are checked anyway.
UNANNOTATED = ("no-untyped-def", "no-untyped-call", "untyped-decorator")

THERE = "the session has just stored the value, and a type checker does not know that"

#: The page, a part of the line, a part of the error, and why the error is intended.
EXCEPTIONS: tuple[tuple[str, str, str, str], ...] = (
    ("docs/howto/celery.md", "from tasks import cache, price", "tasks", "the module is another block of the page"),
    ("docs/howto/gunicorn.md", "from shop import cache", "shop", "the module is another block of the page"),
    ("docs/tutorial.md", "from shop import cache", "shop", "the module is another block of the page"),
    ("docs/tutorial.md", 'drafts.get("report").append', "None", THERE),
    ("docs/topics/values.md", 'mine.get("list").append', "None", THERE),
    ("docs/howto/testing.md", 'change.delay("tea")', "delay", "Celery has no types"),
)


class Example(NamedTuple):
    """The lines that become one file: the page, and each line with its number in the page."""

    page: str
    lines: list[tuple[int, str]]


class Complaint(NamedTuple):
    """What a checker says about a line of a page."""

    checker: str
    page: str
    number: int
    line: str
    said: str

    def __str__(self) -> str:
        return f"{self.page}:{self.number}: {self.checker}: {self.said}\n    {self.line.strip()}"


def examples() -> Iterator[Example]:
    """Yield the examples of all pages."""
    for page in PAGES:
        text, name = page.read_text("utf-8"), page.relative_to(ROOT).as_posix()
        session: list[tuple[int, str]] = []
        for found in FENCED.finditer(text):
            indent, language, code = found.groups()
            first = text.count("\n", 0, found.start(3)) + 1
            plain = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
            if language == "python":
                yield Example(name, list(enumerate(plain.splitlines(), first)))
            elif language == "pycon":
                session += _typed_in(plain, first)
        if session:
            yield Example(name, session)


def _typed_in(session: str, first: int) -> Iterator[tuple[int, str]]:
    """Yield the lines that somebody types in a session."""
    for part in doctest.DocTestParser().get_examples(session):
        yield from enumerate(part.source.splitlines(), first + part.lineno)


def check(found: list[Example], directory: Path) -> Iterator[Complaint]:
    """Yield the errors of both checkers."""
    files = {}
    for number, example in enumerate(found):
        file = directory / f"example_{number}.py"
        file.write_text("\n".join(line for _, line in example.lines) + "\n", "utf-8")
        files[file.name] = example
    for checker, name, number, said in (*mypy(directory), *pyright(directory)):
        at, line = files[name].lines[min(number, len(files[name].lines)) - 1]
        yield Complaint(checker, files[name].page, at, line, said)


def mypy(directory: Path) -> Iterator[tuple[str, str, int, str]]:
    """Run mypy; yield its name, the file, the line and the text of each error."""
    disabled = (option for code in UNANNOTATED for option in ("--disable-error-code", code))
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), "--output", "json",
        "--cache-dir", str(directory / ".cache"), *disabled, *map(str, sorted(directory.glob("*.py"))),
    ]  # fmt: skip
    environment = {**os.environ, "MYPYPATH": str(ROOT)}  # neither checker follows an editable installation
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment)
    if done.returncode not in (0, 1):
        sys.exit(f"mypy could not run:\n{done.stdout}{done.stderr}")
    for each in map(json.loads, done.stdout.splitlines()):
        if each["severity"] == "error":
            yield "mypy", Path(each["file"]).name, each["line"], f"{each['message']} [{each['code']}]"


def pyright(directory: Path) -> Iterator[tuple[str, str, int, str]]:
    """Run pyright; yield its name, the file, the line and the text of each error."""
    (directory / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}), "utf-8")
    where = ["--pythonpath", sys.executable, "--project", str(directory)]
    command = [sys.executable, "-m", "pyright", "--outputjson", *where]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        sys.exit(
            "pyright could not run. It is a Node program, which its package installs with npm at the first run: "
            f"can an npm registry be reached?\n{(done.stdout + done.stderr)[-2000:]}"
        )
    for each in report["generalDiagnostics"]:
        if each["severity"] == "error":
            said = f"{each['message'].splitlines()[0]} [{each.get('rule', 'error')}]"
            yield "pyright", Path(each["file"]).name, each["range"]["start"]["line"] + 1, said


def is_intended(complaint: Complaint) -> bool:
    """Tell whether a complaint is one of the exceptions."""
    return any(_fits(exception, complaint) for exception in EXCEPTIONS)


def _fits(exception: tuple[str, str, str, str], complaint: Complaint) -> bool:
    page, line, said, _ = exception
    return complaint.page == page and line in complaint.line and said in complaint.said


def needless(complaints: Iterable[Complaint]) -> Iterator[str]:
    """Yield the exceptions that no longer occur."""
    known = list(complaints)
    for exception in EXCEPTIONS:
        if not any(_fits(exception, complaint) for complaint in known):
            yield f"{exception[0]}: the exception {exception[1]!r} no longer occurs: remove it"


def main() -> None:
    """Check all examples; exit with 1 if one has an error that is not intended."""
    found = list(examples())
    with tempfile.TemporaryDirectory() as directory:
        complaints = list(check(found, Path(directory)))
    wrong = [*(str(each) for each in complaints if not is_intended(each)), *needless(complaints)]
    print("\n".join(wrong) or f"mypy and pyright accept the {len(found)} examples of the documentation")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
