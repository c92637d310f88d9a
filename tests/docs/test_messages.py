"""The page on log messages lists every message of the package, and none that is gone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import ROOT

PAGE = ROOT / "docs" / "reference" / "messages.md"
LEVELS = {"info": "INFO", "warning": "WARNING", "error": "ERROR", "exception": "ERROR"}
WARNINGS = ("UserWarning", "RuntimeWarning")

SECTION = re.compile(r"^### (\w+): .*\n\n(?:Events?: (.*)\n\n)?((?:.*\n)*?)(?=^##|\Z)", re.MULTILINE)
LINE = re.compile(r"^ {4}(.+)$", re.MULTILINE)
PREFIX = "colocache[4242] shop: "


class Message(NamedTuple):
    """What the package says. ``text`` is a regular expression for it with its details filled in."""

    level: str
    event: str
    text: str


class Section(NamedTuple):
    """What the page says of some messages."""

    level: str
    events: list[str]
    lines: list[str]


def package() -> Iterator[tuple[Path, ast.Module]]:
    """Yield the modules of the package."""
    for path in sorted((ROOT / "colocache").rglob("*.py")):
        yield path, ast.parse(path.read_text("utf-8"))


def writes(node: ast.AST) -> str | None:
    """Return the level at which a method of a log writes; None if this is not one."""
    is_method = isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("log")
    return LEVELS.get(node.attr) if isinstance(node, ast.Attribute) and is_method else None


def said(tree: ast.AST) -> Iterator[Message]:
    """Yield the messages of a module: ``log.info("…", event="…")``, and ``later(log.info, "…", event="…")``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        around = [node.func, *node.args]
        for method, text in pairwise(around):
            level, events = writes(method), [each.value for each in node.keywords if each.arg == "event"]
            if level and isinstance(text, ast.Constant) and events and isinstance(events[0], ast.Constant):
                filled_in = ".+".join(map(re.escape, re.split(r"%[a-z]", PREFIX + text.value)))
                yield Message(level, events[0].value, filled_in)


def warned(tree: ast.AST) -> Iterator[Message]:
    """Yield what ``warn(f"…")`` gives, as warnings of Python."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"(warnings\.)?warn", ast.unparse(node.func)):
            text = node.args[0]
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            literals = [re.escape(each.value) if isinstance(each, ast.Constant) else ".+" for each in parts]
            yield Message(ast.unparse(node.args[1]) if len(node.args) > 1 else "UserWarning", "", "".join(literals))


def sections(page: str) -> list[Section]:
    """Return the sections of a page."""
    return [
        Section(level, re.findall(r"`(\w+)`", events), LINE.findall(rest))
        for level, events, rest in SECTION.findall(page)
    ]


def is_line_of(line: str, message: Message) -> bool:
    """Tell whether a line is a message. The page may leave out the end of a long one."""
    return re.match(message.text, line) is not None


def differences(page: str, messages: Iterable[Message]) -> Iterator[str]:
    """Yield what a page has that the code has not, and the other way round."""
    all_messages, found = [*messages], set[Message]()
    for section in sections(page):
        of_section = set()
        for line in section.lines:
            those = {each for each in all_messages if each.level == section.level and is_line_of(line, each)}
            if not those:
                yield f"{section.level}: nobody says {line!r}"
            of_section |= those
        found |= of_section
        events = {each.event for each in of_section} - {""}
        if events != {*section.events}:
            yield f"the section of {section.lines[0]!r} is about {sorted(events)}, and names {section.events}"
    for message in all_messages:
        if message not in found:
            yield f"{message.level}: the page does not have {message.text!r}"


MESSAGES = [message for _, tree in package() for message in said(tree)]
WARNED = [message for _, tree in package() for message in warned(tree)]


def test_the_page_has_every_message_and_no_other() -> None:
    assert len({*MESSAGES}) >= 50
    assert len({*WARNED}) >= 5
    assert not [*differences(PAGE.read_text("utf-8"), [*MESSAGES, *WARNED])]


def test_no_line_is_written_in_a_way_that_is_not_found_here() -> None:
    for path, tree in package():
        assert len([*said(tree)]) == len([node for node in ast.walk(tree) if writes(node)]), path


def test_the_names_of_events_are_short_words() -> None:
    assert not [each for each in MESSAGES if not re.fullmatch(r"[a-z]+(_[a-z]+){0,3}", each.event)]


CODE = """
log.warning("cannot read %s", path, event="unreadable")
later(self.log.info, "reads again", event="reads_again")
warnings.warn(f"{name} is no setting", stacklevel=2)
"""
GOOD = """## All
### WARNING: cannot read

Event: `unreadable`

    colocache[4242] shop: cannot read /x

It is not there.

### INFO: reads again

Event: `reads_again`

    colocache[4242] shop: reads again

## Warnings

### UserWarning: settings

    XY is no setting
"""


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("", "", None),
        ("cannot read /x", "cannot write /x", "nobody says"),
        ("cannot read /x", "cannot write /x", "does not have"),
        ("### INFO", "### ERROR", "nobody says"),
        ("`unreadable`", "`readable`", "is about"),
        ("Event: `reads_again`\n\n", "", "is about"),
        ("XY is no setting", "XY is known", "does not have"),
    ],
)
def test_a_difference_is_found(old: str, new: str, difference: str | None) -> None:
    tree = ast.parse(CODE)
    found = [*differences(GOOD.replace(old, new), [*said(tree), *warned(tree)])]
    assert any(difference in each for each in found) if difference else not found
