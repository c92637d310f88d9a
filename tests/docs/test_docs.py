"""The documentation is true: its examples run, its links have targets, and its tables agree with the code.

A ``pycon`` block is a session. The test replays all sessions of a page in one process. They must print what the page
says, and close their caches. A ``python`` block is a program that must run. If it begins with a comment such as
``# shop.py``, the programs after it on the page can import it. Each program runs in a process and a runtime directory
of its own.

An indented block is a command or its output. If it is Python, a comment before it says why the tests do not run it
here, ``<!-- not run: … -->``, or which test runs it, ``<!-- run by tests/… -->``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import colocache
from colocache.config import SERVER_SETTINGS, SETTINGS
from colocache.core import entry, keys, options
from colocache.core.host import claims, record, scores
from colocache.core.hosts import ring
from colocache.runtime import board_file, frames
from colocache.stats import LOAD_TIMES
from tests import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/**/*.md")])
ELSEWHERE = {DOCS / "howto" / "django.md": ROOT / "tests" / "django" / "test_docs.py"}  # which runs the page
LAYOUT = DOCS / "reference" / "layout.md"
API = sorted((DOCS / "reference" / "api").glob("*.rst"))
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
TABLE_ROW = re.compile(r"^\| *(.*?) *\|$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n|\n)+)")
MARK = re.compile(r"<!-- (?:not run: .+|run by (\S+)) -->\s*\Z")
FILE = re.compile(r"# (\w+\.py)$", re.MULTILINE)

# Replays the session on stdin. Exits with 1 if its output differs, or if it has left a cache open.
REPLAY = """\
import doctest, sys, threading
session = doctest.DocTestParser().get_doctest(sys.stdin.read(), {"__name__": "page"}, sys.argv[1], sys.argv[1], 0)
failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(session).failed
still_open = [thread.name for thread in threading.enumerate() if thread.name.startswith("colocache")]
sys.exit(f"caches that were not closed: {still_open}" if still_open else failed > 0)
"""


def name_of(page: Path) -> str:
    """Return a page's path within the project."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    found = FENCED.findall(page.read_text("utf-8"))
    return [re.sub(f"^{indent}", "", code, flags=re.MULTILINE) for indent, kind, code in found if kind == language]


def rows(page: Path) -> list[list[str]]:
    """Return the rows of a page's tables, cell by cell."""
    lines = TABLE_ROW.findall(page.read_text("utf-8"))
    return [[cell.strip() for cell in re.split(r" \| ", line)] for line in lines]


def execute(
    program: str, *arguments: str, stdin: str = "", modules: Iterable[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program in a process and a runtime directory of its own, beside some modules, with warnings as errors."""
    with tempfile.TemporaryDirectory(prefix="cc") as directory:
        for module in modules:
            if named := FILE.match(module):
                (Path(directory) / named[1]).write_text(module, "utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COLOCACHE_")}
        environment |= {"COLOCACHE_DIR": directory, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "error", "-c", program, *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, cwd=directory, timeout=60
        )


# --- Examples


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "pycon")], ids=name_of)
def test_sessions_print_what_the_page_says(page: Path) -> None:
    done = execute(REPLAY, name_of(page), stdin="\n".join(blocks(page, "pycon")))
    assert done.returncode == 0, done.stdout + done.stderr


PROGRAMS = [
    pytest.param(code, blocks(page, "python")[:number], id=f"{name_of(page)}-{number}")
    for page in PAGES
    if page not in ELSEWHERE
    for number, code in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize(("code", "before"), PROGRAMS)
def test_programs_run(code: str, before: list[str]) -> None:
    done = execute(code, modules=before)
    assert done.returncode == 0, done.stderr


def test_a_page_that_is_run_elsewhere_is_named_there() -> None:
    assert all(page.name in test.read_text("utf-8") for page, test in ELSEWHERE.items())


def test_no_example_escapes_the_tests_by_its_language() -> None:
    others = {language for page in PAGES for _, language, _ in FENCED.findall(page.read_text("utf-8"))}
    assert others <= {"pycon", "python"}


def is_python(block: str) -> bool:
    """Tell whether a block is Python that does something, and not a command or some output."""
    try:
        tree = ast.parse(textwrap.dedent(block))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.FunctionDef | ast.Import | ast.ImportFrom) for node in ast.walk(tree))


def unmarked(page: Path) -> Iterator[str]:
    """Yield the indented Python blocks of a page without a valid reason for not being run here."""
    text = FENCED.sub("", page.read_text("utf-8"))
    for found in INDENTED.finditer(text):
        mark = MARK.search(text[: found.start()])
        if is_python(found[0]) and not (mark and (mark[1] is None or (ROOT / mark[1]).is_file())):
            yield found[0]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_that_is_not_run_says_why(page: Path) -> None:
    assert not [*unmarked(page)]


def test_an_unmarked_block_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "A command:\n\n    make test\n\nPython:\n\n    import colocache\n\n<!-- not run: why -->\n\n    f(1)\n"
    )
    assert [block.strip() for block in unmarked(page)] == ["import colocache"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    |\$ )make ([a-z-]+)\b", text, re.MULTILINE)) <= targets
    scripts = re.findall(r"python ((?:benchmarks|examples|scripts|tests|verification)/\S+?\.py)", text)
    scripts += [
        f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m ((?:benchmarks|verification)\.[\w.]+)", text)
    ]
    assert not [script for script in scripts if not (ROOT / script).is_file()]


# --- Links


def anchors(page: Path) -> set[str]:
    """Return the anchors that the hosts of repositories make from a page's headings."""
    text = FENCED.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    """Yield the links of a page whose target is not in the project."""
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert not [*broken_links(page)]


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            ahead += [
                (page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(page.read_text("utf-8"))
            ]
    assert not {name_of(page) for page in PAGES if DOCS in page.parents} - {name_of(page) for page in reached}


# --- The reference


def test_the_pages_name_no_variable_that_is_not_a_setting() -> None:
    known = {setting.variable for table in (SETTINGS, SERVER_SETTINGS) for setting in table.values()}
    known.add("COLOCACHE_MIDDLEWARE")  # a setting of Django's
    for page in PAGES:
        text = page.read_text("utf-8").replace("COLOCACHE_TLL", "")  # the misspelt variable of the page on messages
        assert set(re.findall(r"COLOCACHE_[A-Z_]+[A-Z]", text)) <= known, page


def public_methods(cls: type) -> set[str]:
    """Return the public methods of a class and its bases."""
    return {name for name, _ in inspect.getmembers(cls, callable) if not name.startswith("_")}


def documented() -> set[str]:
    """Return the full names of what the API pages document."""
    names: set[str] = set()
    for page in API:
        text = page.read_text("utf-8")
        module = "colocache." if ".. py:currentmodule:: colocache\n" in text else ""
        for name in re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", text, re.MULTILINE):
            names.add(name if name.startswith("colocache.") else module + name)
    return names


FRAMEWORKS = [
    "asgi", "django", "dogpile", "fastapi", "flask", "opentelemetry", "prometheus", "sqlalchemy", "testing", "wsgi",
]  # fmt: skip


def test_the_api_pages_have_every_public_name() -> None:
    assert {f"colocache.{name}" for name in colocache.__all__} <= documented()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_api_pages_have_every_public_name_for_a_framework(framework: str) -> None:
    module = importlib.import_module(f"colocache.{framework}")
    assert module.__all__
    assert {f"colocache.{framework}.{name}" for name in module.__all__} <= documented()


@pytest.mark.parametrize("cls", [colocache.Cache, colocache.Space, colocache.Cached], ids=lambda cls: cls.__name__)
def test_every_public_method_has_a_docstring_to_make_the_page_from(cls: type) -> None:
    assert not [name for name in public_methods(cls) if not inspect.getdoc(getattr(cls, name))]


def test_the_numbers_that_the_pages_quote_are_those_of_the_code() -> None:
    quoted = {
        DOCS / "reference" / "glossary.md": [f"one of {ring.SLOTS} buckets"],
        DOCS / "topics" / "memory.md": [f"{entry.OVERHEAD} bytes, the key"],
        LAYOUT: [
            f"has this layout, **{board_file.LAYOUT}**",
            f"| {board_file._SEATS_AT} | {board_file.SEATS} seats, of four words each",
            f"| {board_file._HINTS_AT} | {claims.HINTS} hints, of eight words each",
            f"| {board_file._ROOT_AT} | the root's mark",
            f"at least {board_file.LEAST_MARKS:,}: {board_file.marks_for(256 << 20):,} with 256 MiB",
            f"takes {record.PREFIX} bytes beside the key, the payload, and {record.GROUP.size} bytes for each",
            f"A wire key has at most {keys.MAX_WIRE} bytes.",
            f"| a tag | {options.MAX_TAG} bytes; {options.MAX_TAGS} for a value |",
            f"in the form `{frames._HEAD.format}` of",
            f"a **block** of {scores.SIZE >> 10} KiB for each seat",
            f"for its first {scores.ROWS_AT_ONCE} rows",
            f"| {scores._GAUGES_AT} | {scores.GAUGES} gauges",
            f"| {scores._EVENTS_AT} | {scores.EVENTS} events, of {scores._EVENT} words each",
            f"{scores._TEXT} bytes of text",
            f"| {scores._TAGS_AT} | {scores.TAGS} tags, of {scores._TAG} words each, by their hashes",
            f"{scores._TAG_TEXT} bytes of the name",
            f"| {scores._HOT_AT} | {scores.HOTTEST} keys that are hit most",
            f"| {scores._ROWS_AT} | {scores.ROWS} rows, of {scores._ROW} words each",
            f"{scores.NAME_BYTES} bytes of name, {scores.COLUMNS} counts",
            f"Its name is `{scores.OTHERS}`.",
            f"in the last {len(LOAD_TIMES) + 1} words how many loaders took up to "
            "1, 2.5, 5, 10, 25, 50, 100, 250 and 500 ms, 1, 2.5, 5 and 10 s",
        ],
    }
    text = {page: " ".join(page.read_text("utf-8").split()) for page in quoted}
    assert not [(page.name, each) for page, all_of_it in quoted.items() for each in all_of_it if each not in text[page]]


# --- The project


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) < 200


def test_the_picture_can_be_read_without_seeing_it() -> None:
    picture = ElementTree.parse(DOCS / "architecture.svg").getroot()
    for part in ("title", "desc"):
        assert (picture.findtext(f"{{http://www.w3.org/2000/svg}}{part}") or "").strip()


def test_the_newest_entry_of_the_changelog_is_this_version_or_what_comes_after_it() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert colocache.__version__ in versions[: 1 + (versions[0] == "Unreleased")]
    assert f'version = "{colocache.__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_the_decisions_are_numbered_without_gaps_and_say_why() -> None:
    assert [page.name[:5] for page in DECISIONS] == [f"{number:04}-" for number in range(1, len(DECISIONS) + 1)]
    for page in DECISIONS:
        text = page.read_text("utf-8")
        assert text.startswith(f"# {page.name[:4]} "), page
        assert all(f"**{part}" in text for part in ("Context", "Decision", "Consequence", "Rejected")), page
