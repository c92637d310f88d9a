"""What is printed: nothing that does harm to a terminal, and the same with colours as without."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from colocache.cli import output
from colocache.cli.output import Output, Page, Table, as_json, duration, plain_lines, rich_table, safe, size

EVIL = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\r\n",
    "\u202e",
    "\u2066",
    "\x7f",
    "\x9b31m",
    "\u2028",
    "\ud800",
    "\t",
    "\0",
    "\ufeff",
]


@pytest.mark.parametrize("evil", EVIL, ids=ascii)
def test_what_a_terminal_obeys_is_shown_as_python_writes_it(evil: str) -> None:
    shown = safe(f"a{evil}ü b")
    assert shown.isprintable()
    assert shown[0] == "a"
    assert shown.endswith("ü b")
    line = as_json({"key": evil})
    assert line.isprintable()
    assert line.isascii()
    assert json.loads(line) == {"key": evil}


TABLE = Table("keys\x1b[1m", ("key", ">hits"), [("\x1b[31m[bold]x", "1"), ("y" * 200, "22")])


def test_a_table_has_columns_that_stand_below_each_other() -> None:
    title, head, first, second = map(safe, plain_lines(TABLE))
    assert title == "keys\\x1b[1m"
    assert head == "key" + " " * 57 + "  hits"
    assert first == "\\x1b[31m[bold]x".ljust(60) + "     1"
    assert second == "y" * 59 + "…    22"


def test_a_table_without_rows_says_so() -> None:
    assert list(plain_lines(Table("title", ("a",), [], "nobody"))) == ["title", "nobody"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_and_carry_the_same_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, plain, file = Terminal(), Terminal(), io.StringIO()
    for is_plain, stream in ((False, terminal), (True, plain), (False, file)):
        Output(as_json=False, plain=is_plain, stream=stream).page(Page(["a line"], [TABLE]))
    assert plain.getvalue() == file.getvalue()
    assert "\x1b" not in file.getvalue()
    if rich_table(TABLE) is None:
        pytest.skip("rich is not installed")
    assert "\x1b[" in terminal.getvalue()
    assert "\\x1b[31m[bold]x" in terminal.getvalue(), "its markup is no markup of ours"


def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)  # type: ignore[misc]
    monkeypatch.setitem(sys.modules, "rich.table", None)  # type: ignore[misc]
    assert rich_table(TABLE) is None
    terminal = Terminal()
    Output(as_json=False, plain=False, stream=terminal).table(TABLE)
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (size, 0, "0 B"), (size, 1536, "1.5 KiB"), (size, 5 << 40, "5120.0 GiB"), (duration, None, "for ever"),
        (duration, 0.0000023, "2 us"), (duration, 0.0031, "3.1 ms"), (duration, 7, "7.0 s"), (duration, 125, "2 min"),
        (duration, 7500, "2 h 5 min"), (duration, 200000, "2 d 7 h"), (duration, float("inf"), "longer"),
    ],
)  # fmt: skip
def test_numbers_are_for_people(function: Any, value: Any, text: str) -> None:
    assert function(value) == text


def test_one_is_not_several() -> None:
    assert [output.count(number, "process", "processes") for number in (0, 1, 2)] == [
        "0 processes",
        "1 process",
        "2 processes",
    ]
