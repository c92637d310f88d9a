"""HTML and SVG that is made of texts: whatever is not markup already is escaped.

Names of keys, tags and namespaces come from users of the application, and may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

Child = object  # a Markup, a text, a number, None for nothing, or several of them

_VOID: Final = {"br", "hr", "img", "input", "link", "meta", "wbr"}  # those of SVG need their end


class Markup(str):
    """A text that is HTML."""

    __slots__ = ()


def text(child: Child) -> Markup:
    """Return a child as HTML."""
    if isinstance(child, Markup):
        return child
    if child is None or child is False:
        return Markup()
    if isinstance(child, str):
        return Markup(escape(child, quote=True))
    if isinstance(child, Iterable):
        return Markup("".join([text(each) for each in child]))
    return Markup(escape(str(child), quote=True))


def joined(*several: Markup | None) -> Markup:
    """Return several pieces of HTML, one after the other."""
    return Markup("".join([each for each in several if each is not None]))


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """Return an element.

    A ``_`` at the end of an attribute's name is left out, and another one becomes a hyphen. None and False leave the
    attribute out; True gives it no value.
    """
    pairs = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = key.rstrip("_").replace("_", "-")
        pairs.append(f" {shown}" if value is True else f' {shown}="{escape(str(value), quote=True)}"')
    begin = f"<{name}{''.join(pairs)}>"
    return Markup(begin if name in _VOID else f"{begin}{text(children)}</{name}>")
