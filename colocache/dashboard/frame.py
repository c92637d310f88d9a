"""What all pages share: the frame around them, sections, and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from ..version import __version__
from . import words
from .markup import Child, Markup, tag

_HTML: Final = Markup("<!doctype html>\n")


@dataclass(frozen=True)
class Frame:
    """What all pages of one request share."""

    group: str
    root: str  # path at which the application is mounted, with a ``/`` at its end
    assets: Mapping[str, str]  # paths of the files below the root, by name
    may_act: bool = False
    csrf: str = ""

    def link(self, page: str = "", **query: str) -> str:
        """Return the address of a page."""
        return f"{self.root}{page}{'?' + urlencode(query, errors='surrogatepass') if query else ''}"


def whole(frame: Frame, title: str, body: Child, here: str = "", *, live: bool = False, public: bool = False) -> Markup:
    """Return a page around its body."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} · {words.name(frame.group)} · colocache" if not public else title),
        tag("link", rel="icon", href=frame.root + frame.assets["icon.svg"], type="image/svg+xml"),
        tag("link", rel="stylesheet", href=frame.root + frame.assets["dashboard.css"]),
        tag("script", src=frame.root + frame.assets["dashboard.js"], defer=True) if live else None,
    )
    links = [("", "Overview"), ("keys", "Keys")]
    navigation = tag(
        "nav",
        [tag("a", text, href=frame.link(page), aria_current="page" if page == here else None) for page, text in links],
        aria_label="Pages",
    )
    header = tag(
        "header",
        tag("a", Markup(_LOGO), tag("b", "colocache"), class_="brand", href=frame.link()),
        tag("span", words.name(frame.group), class_="group", title="group") if not public else None,
        navigation if not public else None,
        _controls(frame, live) if not public else None,
    )
    footer = tag("footer", tag("p", f"colocache {__version__}. Values are never shown here."))
    body = tag(
        "body",
        tag("a", "Skip to the figures", href="#main", class_="skip"),
        tag("div", header, tag("main", body, id="main", tabindex="-1"), footer, class_="page"),
        data_live=frame.link(here) if live else None,
    )
    return Markup(_HTML + tag("html", head, body, lang="en"))


_LOGO: Final = (
    '<svg viewBox="0 0 24 24" aria-hidden="true" class="logo"><rect x="2" y="2" width="9" height="9" rx="2"></rect>'
    '<rect x="13" y="2" width="9" height="9" rx="2"></rect><rect x="2" y="13" width="9" height="9" rx="2"></rect>'
    '<rect x="13" y="13" width="9" height="9" rx="2"></rect></svg>'
)


def _controls(frame: Frame, live: bool) -> Markup:
    button = tag(
        "button", tag("span", class_="dot", aria_hidden="true"), tag("span", "Live", id="state", role="status"),
        type="button", id="pause", aria_pressed="false", title="Stop and continue to update (p)", hidden=True,
    )  # fmt: skip
    reload = tag("noscript", tag("a", "Reload", href=""))
    leave = tag(
        "form", hidden_fields(frame), tag("button", "Log out", type="submit", class_="quiet"), method="post",
        action=frame.link("logout"),
    )  # fmt: skip
    return tag("div", button if live else None, reload, leave if frame.may_act else None, class_="controls")


def hidden_fields(frame: Frame) -> Markup:
    """Return what each form sends beside its own fields."""
    return tag("input", type="hidden", name="csrf", value=frame.csrf)


def section(id: str, title: str, *children: Child, hint: Child = None, wide: bool = False) -> Markup:
    """Return a panel."""
    return tag(
        "section", tag("h2", title, tag("small", hint) if hint else None, id=f"{id}-title"), *children, id=id,
        aria_labelledby=f"{id}-title", class_="wide" if wide else None,
    )  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    is_minor: bool = False  # left out on a phone
    kind: str = ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Child]], label: str, empty: str = "None.") -> Markup:
    """Return a table in a box that scrolls for itself. The first cell of each row is its head."""
    if not rows:
        return tag("p", empty, class_="empty")
    kinds = [
        " ".join(filter(None, ("number" if each.is_number else "", "minor" if each.is_minor else "", each.kind)))
        or None
        for each in columns
    ]
    head = [tag("th", each.title, scope="col", class_=kind) for each, kind in zip(columns, kinds, strict=True)]
    body = [
        tag(
            "tr",
            [
                tag("th", cell, scope="row", class_=kind) if not place else tag("td", cell, class_=kind)
                for place, (cell, kind) in enumerate(zip(row, kinds, strict=True))
            ],
        )
        for row in rows
    ]
    grid = tag("table", tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", grid, class_="scroll", role="region", aria_label=label, tabindex="0")
