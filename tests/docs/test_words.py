"""One word for one thing: the glossary names what the code names, and no retired word comes back."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

CODE = sorted((ROOT / "colocache").rglob("*.py"))
GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"

#: The decisions are history, and may quote the words of their time.
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "decisions"),
]

#: Words that the project used before it took those of the field, and the words that replace them.
RETIRED = {
    "buried": "reaped",
    "bury": "reap",
    "desk": "load queue",
    "desks": "load queues",
    "ears": "subscriber",
    "knock": "probe",
    "knocked": "probed",
    "knocks": "probes",
    "lowered": "to_wire",
    "mend": "reconnect",
    "mended": "reconnected",
    "mends": "reconnects",
}

#: Words of the protocol between hosts, which the processes of one host do not use, and what these say.
BETWEEN_HOSTS = {
    "acknowledgement": "an invalidation holds when its call returns",
    "established": "joined",
    "fetch timeout": "load timeout",
    "fill token": "claim",
    "goodbye": "leave",
    "host-mate": "process",
    "host-mates": "processes",
    "journal": "board",
    "lease": "stamps",
    "load queue": "claim",
    "owner's": "the shelf's",
    "shard": "shelf",
    "switch interval": "nothing: nobody waits for another process's interpreter",
    "the owner": "the shelf, or the process that loads",
    "waited out": "nothing: nobody is waited for",
}

#: Where that protocol is: its code and simulator, the transport of both, the glossary's last part, and the titles of
#: decisions.
ITS_OWN = (
    "colocache/core/hosts/", "colocache/runtime/network/",
    "colocache/hosts.py", "colocache/network.py", "colocache/operations/fetch.py",
    "docs/reference/glossary.md", "docs/README.md", "docs/howto/hosts.md", "docs/howto/security.md",
    "docs/topics/hosts.md",
)  # fmt: skip

#: What a text says that is about several hosts, wherever it stands.
SEVERAL = re.compile(r"\b(?:another|other|owner|several)\s+hosts?\b", re.IGNORECASE)

#: A string that is a name, as in ``__slots__``, tells nobody anything.
NAME = re.compile(r'"_?[a-z]+"$')

#: Retired only as names in the code: in a sentence these are plain English.
RETIRED_NAMES = {"moment": "version", "moments": "versions"}

#: Whole names that are gone.
GONE = {"invalidate_tag": "invalidate_tags", "Left": "Goodbye"}

ROW = re.compile(r"^\| \*\*(?P<word>.+?)\*\*.*\| `(?P<name>\w+)` \|$", re.MULTILINE)


@cache
def tokens() -> list[tuple[Path, tokenize.TokenInfo]]:
    """Return all tokens of the package."""
    return [(path, each) for path in CODE for each in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)]


@cache
def names() -> frozenset[str]:
    """Return all names in the package, without leading underscores."""
    return frozenset(token.string.lstrip("_") for _, token in tokens() if token.type == tokenize.NAME)


def words_of(name: str) -> set[str]:
    """Return the words of a name: those of ``near_hits`` and of ``NearCopy`` are two each."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def prose() -> Iterator[tuple[str, str]]:
    """Yield a place and a text that people read: comments and texts of the package, and the pages."""
    for path, token in tokens():
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield f"{path.relative_to(ROOT)}:{token.start[0]}", token.string
    for page in PAGES:
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            yield f"{page.relative_to(ROOT)}:{number}", line


@pytest.mark.parametrize("row", [*ROW.finditer(GLOSSARY.read_text("utf-8"))], ids=lambda row: str(row["word"]))
def test_the_code_uses_the_word(row: re.Match[str]) -> None:
    assert row["name"] in names()


def test_every_row_of_the_glossary_names_a_place_in_the_code() -> None:
    text = GLOSSARY.read_text("utf-8")
    assert len(ROW.findall(text)) == text.count("\n| **") > 40


@pytest.mark.parametrize("word", RETIRED | RETIRED_NAMES)
def test_no_name_has_a_retired_word(word: str) -> None:
    assert not [name for name in names() if word in words_of(name)], f"say {(RETIRED | RETIRED_NAMES)[word]}"


@pytest.mark.parametrize("name", GONE)
def test_no_name_that_is_gone_comes_back(name: str) -> None:
    assert name not in names(), f"say {GONE[name]}"


@pytest.mark.parametrize("word", RETIRED)
def test_no_text_has_a_retired_word(word: str) -> None:
    found = re.compile(rf"\b{word}\b", re.IGNORECASE)
    assert not [place for place, text in prose() if found.search(text)], f"say {RETIRED[word]}"


@pytest.mark.parametrize("word", BETWEEN_HOSTS)
def test_no_text_about_one_host_has_a_word_of_the_protocol_between_hosts(word: str) -> None:
    found = re.compile(rf"\b{word}\b", re.IGNORECASE)
    others = ((place, text) for place, text in prose() if not place.startswith(ITS_OWN))
    about_one_host = ((place, text) for place, text in others if not SEVERAL.search(text) and not NAME.match(text))
    told = [place for place, text in about_one_host if found.search(re.sub(r"`[^`]*`|\]\([^)]*\)", "", text))]
    assert not told, f"say {BETWEEN_HOSTS[word]}"
