"""``write_reference.py [--check]``: write the tables of docs/reference whose facts stand in the code.

Each table stands on its page between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. With ``--check`` the script
writes nothing, and its exit status is 1 if a page is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from colocache.cli import parser
from colocache.cli.exits import MEANINGS
from colocache.config import SERVER_SETTINGS, SETTINGS, server_options
from colocache.stats import FIGURES

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
EXPLAINED = re.compile("(?<=36500d): a number of seconds.* a timedelta|(?<=1MiB): .*")
WIDTH = 120  # letters of a line
PART = re.compile(r"(<!-- begin ([\w-]+) -->\n).*?(<!-- end \2 -->\n)", re.DOTALL)


def figures() -> Iterator[str]:
    """Yield the lines of the tables of all figures, one table for each section."""
    section = ""
    for figure in FIGURES:
        if figure.section != section:
            section = figure.section
            yield from ("", f"## {section}", "", "| figure | kind | unit | meaning |", "|---|---|---|---|")
        yield f"| `{figure.name}` | {figure.kind} | {figure.unit} | {figure.help} |"
    yield ""


def settings() -> Iterator[str]:
    """Yield the lines of the table of all settings."""
    yield from ("| variable | argument | default | meaning |", "|---|---|---|---|")
    for name, setting in SETTINGS.items():
        default = setting.default_in_words or setting.default
        yield f"| `{setting.variable}` | `{name}` | {default} | {setting.meaning} |"


def forms() -> Iterator[str]:
    """Yield the lines of the table that says how each setting is written; the page explains durations and sizes."""
    yield from ("| argument | accepted |", "|---|---|")
    for name, setting in SETTINGS.items():
        yield f"| `{name}` | {EXPLAINED.sub('', setting.form)} |"


def server() -> Iterator[str]:
    """Yield the lines of the table of the options of `colocache serve`."""
    yield from ("| option | variable | default | meaning |", "|---|---|---|---|")
    for name, (option, setting) in server_options().items():
        default = setting.default_in_words or setting.default
        meaning = setting.meaning if name in SERVER_SETTINGS else "as above"
        yield f"| `{option}` | `{setting.variable}` | {default} | {meaning} |"


def commands() -> Iterator[str]:
    """Yield a section for each command: what it does, how it is written, and its options."""
    [whole] = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    for name, command in whole.choices.items():
        yield from ("", f"## colocache {name}", "", *textwrap.wrap(str(command.description), WIDTH))
        if name == "serve":
            yield from ("", "Its options have [a table of their own](environment.md#those-of-a-server).")
            continue
        yield from ("", f"    colocache {name} {arguments(command)}", "")
        yield from ("| argument | meaning |", "|---|---|")
        for action in command._actions:
            if action.dest != "help":
                said = str(action.help).replace("%(default)s", str(action.default)).replace("|", "\\|")
                yield f"| {', '.join([f'`{each}`' for each in written(action)])} | {said} |"
    yield ""


def arguments(command: argparse.ArgumentParser) -> str:
    """Return how the arguments of a command are written."""
    texts = []
    for action in command._actions:
        if action.dest != "help":
            text = written(action)[0]
            needed = not action.option_strings and action.nargs is None
            texts.append(text if needed else f"[{text}{' …' if action.nargs == '*' else ''}]")
    return " ".join(texts)


def written(action: argparse.Action) -> list[str]:
    """Return how an argument is written, by each of its names."""
    value = action.metavar or ("{" + ",".join(action.choices) + "}" if action.choices else None)
    if action.option_strings:
        takes = action.nargs != 0
        return [f"{name} {value or action.dest.upper()}" if takes else name for name in action.option_strings]
    return [str(value)]


def statuses() -> Iterator[str]:
    """Yield the lines of the table of exit statuses."""
    yield from ("| status | meaning |", "|---|---|")
    for status, meaning in MEANINGS.items():
        yield f"| {status} | {meaning.replace('|', chr(92) + '|')} |"


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "figures": figures, "settings": settings, "forms": forms, "server": server,
    "statuses": statuses, "commands": commands,
}  # fmt: skip


def up_to_date(page: str) -> str:
    """Return the text of a page with its parts written anew."""
    return PART.sub(lambda found: found[1] + "".join(f"{line}\n" for line in PARTS[found[2]]()) + found[3], page)


def pages() -> list[Path]:
    """Return the pages that have such parts."""
    return [page for page in sorted(REFERENCE.glob("*.md")) if PART.search(page.read_text("utf-8"))]


def outdated() -> list[Path]:
    """Return the pages whose text would change."""
    return [page for page in pages() if up_to_date(page.read_text("utf-8")) != page.read_text("utf-8")]


def main() -> None:
    """Write the pages, or tell which are out of date."""
    found = outdated()
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"{page} is out of date: run scripts/write_reference.py" for page in found))
    for page in found:
        page.write_text(up_to_date(page.read_text("utf-8")), "utf-8")
        print(f"{page} is written")


if __name__ == "__main__":
    main()
