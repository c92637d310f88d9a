"""What the command prints: lines and tables for people, or JSON for programs.

Keys, tags and names come from users of the application, and may hold whatever does harm to a terminal. So nothing is
printed that has not passed through `safe`, or through JSON without anything but ASCII.

Where the output is a terminal and rich is installed (``pip install colocache[cli]``), tables have colours. Everything
else is the same without it.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    import rich.table

GAP: Final = "  "
MOST_LETTERS: Final = 60  # of a cell of a table; the whole text is in the JSON


def safe(text: str) -> str:
    """Return a text in which nothing moves a terminal's cursor, changes its colours, or hides.

    Controls, marks of direction, and what is no letter at all become escapes as Python writes them.
    """
    return "".join([letter if letter.isprintable() else _escape(letter) for letter in text])


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def cut(text: str, most: int = MOST_LETTERS) -> str:
    """Return a text without its end, if it is too long for a cell."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


@dataclass(frozen=True)
class Table:
    """Rows of texts below a title. Columns whose name begins with ``>`` are aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    empty: str = ""  #: what is said in place of the rows if there are none


@dataclass(frozen=True)
class Page:
    """What a command shows at once: lines, and tables below them."""

    lines: Sequence[str] = ()
    tables: Sequence[Table] = field(default=())


class Output:
    """Where a command prints."""

    def __init__(
        self, *, as_json: bool, plain: bool, stream: TextIO | None = None, errors: TextIO | None = None
    ) -> None:
        """``as_json`` is for programs. ``plain`` does without colours also where there could be some."""
        self.as_json = as_json
        self.stream = sys.stdout if stream is None else stream
        self._errors = sys.stderr if errors is None else errors
        self.is_plain = plain or as_json or not self.stream.isatty()

    def line(self, text: str = "") -> None:
        """Print a line."""
        print(safe(text), file=self.stream)

    def warn(self, text: str) -> None:
        """Print a line that is no result to the other stream. Lines of it stay lines."""
        print("\n".join([safe(line) for line in text.splitlines()]), file=self._errors)

    def record(self, value: Mapping[str, Any]) -> None:
        """Print an object as a line of JSON."""
        print(as_json(value), file=self.stream)

    def flush(self) -> None:
        """Have what was printed leave this process: somebody may read it as it comes."""
        self.stream.flush()

    def page(self, page: Page) -> None:
        """Print lines and tables."""
        for line in page.lines:
            self.line(line)
        for number, table in enumerate(page.tables):
            if number or page.lines:
                self.line()
            self.table(table)

    def table(self, table: Table) -> None:
        """Print a table, with colours where that is possible."""
        drawn = None if self.is_plain else rich_table(table)
        if drawn is None:
            for line in plain_lines(table):
                self.line(line)
        else:
            import rich.console

            rich.console.Console(file=self.stream, highlight=False).print(drawn)


def as_json(value: Mapping[str, Any]) -> str:
    """Return an object as one line of JSON, of printable ASCII alone."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, default=str).replace("\x7f", "\\u007f")


def plain_lines(table: Table) -> Iterable[str]:
    """Yield the lines of a table without colours."""
    if table.title:
        yield table.title
    if not table.rows:
        yield table.empty or "none"
        return
    names = [column.removeprefix(">") for column in table.columns]
    cells = [[cut(safe(cell)) for cell in row] for row in table.rows]
    widths = [max(len(name), *[len(row[place]) for row in cells]) for place, name in enumerate(names)]
    for row in [names, *cells]:
        padded = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        yield GAP.join(padded).rstrip()


def rich_table(table: Table) -> rich.table.Table | None:
    """Return a table with colours; None where rich is not installed."""
    try:
        import rich.table
        from rich.text import Text
    except ImportError:
        return None
    drawn = rich.table.Table(
        title=Text(table.title, "bold") if table.title else None, title_justify="left", box=None, pad_edge=False,
        header_style="bold cyan", caption=None if table.rows else Text(table.empty or "none", "dim"),
    )  # fmt: skip
    for column in table.columns:
        name, right = column.removeprefix(">"), column.startswith(">")
        drawn.add_column(Text(name), justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for row in table.rows:
        drawn.add_row(*[Text(cut(safe(cell))) for cell in row])
    return drawn


class Nowhere(io.TextIOBase):
    """What is written to a stream that this process was started without."""

    def write(self, text: str, /) -> int:
        """Forget it."""
        return len(text)


def close_quietly() -> None:
    """Have Python not complain at its end that nobody reads the output any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


# --- Numbers, for people


def size(count: float) -> str:
    """Return a number of bytes: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """Return some seconds: ``3.1 ms``, ``5.0 s``, ``2 h 5 min``. None is for ever."""
    if seconds is None:
        return "for ever"
    if seconds == float("inf"):
        return "longer"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = divmod(round(seconds / 60), 60)[::-1]
    if hours == 0:
        return f"{minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def share(part: float) -> str:
    """Return a share of 1: ``97.3 %``."""
    return f"{100 * part:.1f} %"


def count(number: int, one: str, several: str = "") -> str:
    """Return how many there are: ``1 process``, ``2 processes``."""
    return f"{number} {one if number == 1 else several or one + 's'}"
