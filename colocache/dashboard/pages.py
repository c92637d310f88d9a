"""The pages, as HTML. What updates itself are the parts of a page, each with an id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..core.host.scores import COLUMNS, OTHERS
from ..core.keys import within
from ..group_stats import SpaceStats
from ..inspection import KeyInfo
from ..stats import FIGURES, LOAD_TIMES
from . import charts, panels, words
from .frame import Column, Frame, hidden_fields, section, table
from .history import RECENT, recent
from .markup import Child, Markup, joined, tag
from .model import Model, Picture, Search

ROWS: Final = 25  # functions and namespaces of the first page
MOST: Final = 10  # rows of other lists

Parts = dict[str, Markup]


# --- The first page


def overview(frame: Frame, model: Model, picture: Picture) -> Parts:
    """Return the parts of the first page."""
    shown = rows_of(picture)
    return {
        "figures": panels.figures(picture),
        "health": panels.health(picture.findings),
        "curves": tag(
            "div",
            charts.chart(
                picture.samples, "ratio", title="Hit ratio",
                hint="share of reads that needed no load",
            ),
            charts.chart(
                picture.samples, "saved", title="Time saved",
                hint="loading that reads did not wait for, in each second",
            ),
            id="curves", class_="curves",
        ),
        "functions": panels.functions(frame, picture, shown),
        "loaders": panels.loaders(frame, picture),
        "hot": panels.hot(frame, picture.hot),
        "memory": panels.memory(frame, picture.memory, picture.host),
        "events": panels.events(picture.events, frame),
        "seats": panels.seats(picture),
        "hosts": panels.hosts(picture),
        "since": panels.since(model, picture),
    }  # fmt: skip


def rows_of(picture: Picture) -> list[str]:
    """Return the namespaces of the first page: those that save most, and then those with most reads."""
    spaces = picture.host.spaces
    return sorted(spaces, key=lambda path: (-spaces[path].saved, -spaces[path].reads, path))[:ROWS]


def overview_body(parts: Parts, picture: Picture) -> Markup:
    """Return the first page of its parts."""
    return joined(
        tag("h1", "Overview", class_="hidden"),
        parts["figures"], parts["health"], parts["curves"], parts["functions"],
        tag(
            "div", tag("div", parts["loaders"], parts["memory"], class_="stack"),
            tag("div", parts["hot"], parts["events"], class_="stack"), class_="two",
        ),
        parts["seats"], parts["hosts"], parts["since"],
    )  # fmt: skip


# --- A namespace or function


def space(frame: Frame, picture: Picture, path: str, keys: Sequence[KeyInfo]) -> Parts:
    """Return the parts of the page of a namespace or function."""
    stats = picture.host.spaces.get(path) or _NONE
    now, samples, usage = recent(picture.samples, path), picture.samples, picture.memory.within(path)
    counters = stats.counters

    def tile(title: str, value: Child, below: Child, name: str = "") -> Markup:
        return tag(
            "div", tag("dt", title),
            tag("dd", tag("b", value, data_rate=name or None, data_of=path if name else None), tag("small", below)),
        )  # fmt: skip

    strip = tag(
        "dl",
        tile(
            "Hit ratio", words.share(stats.hit_ratio if stats.reads else None),
            f"of {words.plural(stats.reads, 'read')}",
        ),
        tile("Reads", panels.per_second(now, "reads"), f"over the last {RECENT:.0f} s", "reads"),
        tile("Time saved", panels.per_second(now, "saved"), f"{words.duration(stats.saved)} in all", "saved"),
        tile("A load takes", words.duration(stats.load_time) if stats.timed_loads else words.DASH,
             f"95 % within {panels.quantile(stats, 0.95)}"),
        tile("Values", words.number(usage.values), "on the shelf, and below it"),
        tile("Size", words.size(usage.bytes), "on the shelf, and below it"),
        id="figures", class_="figures", aria_label="The most important figures",
    )  # fmt: skip
    rows = [
        [figure.name.replace("_", " "), _counted(figure.name, counters[figure.name]), _help(figure.help)]
        for figure in FIGURES
        if figure.kind == "counter" and counters.get(figure.name)
    ]
    columns = (Column("Counter"), Column("Count", True), Column("Meaning", kind="meaning"))
    return {
        "figures": strip,
        "curves": tag(
            "div",
            charts.chart(samples, "ratio", path, title="Hit ratio", hint="share of reads that needed no load"),
            charts.chart(samples, "saved", path, title="Time saved", hint="in each second"),
            charts.chart(samples, "reads", path, title="Reads", hint="in each second"),
            charts.chart(samples, "loads", path, title="Loads", hint="in each second"),
            id="curves", class_="curves",
        ),
        "times": section(
            "times", "How long its loads take", _times(path, stats),
            hint=f"of {words.plural(stats.timed_loads, 'load')}",
        ),
        "hot": panels.hot(frame, keys),
        "counters": section("counters", "Counters", table(columns, rows, "Counters", "Nothing was counted yet.")),
        "events": panels.events(
            [each for each in picture.events if (each.kind == "namespace" and within(path, each.name))
             or (each.kind == "key" and each.name.startswith(path or "\0"))], frame),
    }  # fmt: skip


_NONE: Final = SpaceStats.of([0] * COLUMNS)


def _counted(name: str, count: float) -> str:
    return words.duration(count) if name.endswith("_seconds") else words.number(count)


def _help(text: str) -> str:
    return text.replace("this process", "a process").replace("`", "")


def _times(path: str, stats: SpaceStats) -> Markup:
    if not stats.timed_loads:
        return tag("p", "Nothing was loaded yet.", class_="empty")
    names = [f"{bound:g}\u202fs" if bound >= 1 else f"{1000 * bound:g}\u202fms" for bound in LOAD_TIMES]
    bounds = [tag("span", name) for name in (*names, "more")]
    return tag(
        "div", panels.histogram(path, stats), tag("div", bounds, class_="bounds", aria_hidden="true"), class_="times"
    )


def space_body(frame: Frame, parts: Parts, path: str) -> Markup:
    """Return the page of a namespace or function of its parts."""
    clear = None
    if frame.may_act and path != OTHERS:
        clear = _act(
            frame, "namespace", path, "Clear",
            "Drops all values of this namespace, and of those below it, in every process of the group.", sure=True,
        )  # fmt: skip
    search = frame.link("keys", **{"in": path})
    return joined(
        tag("h1", panels.shown_name(path)),
        tag("p", tag("a", "List its keys", href=search), class_="links") if path != OTHERS else None,
        parts["figures"], parts["curves"],
        tag(
            "div", tag("div", parts["times"], parts["counters"], class_="stack"),
            tag("div", parts["hot"], parts["events"], class_="stack"), class_="two",
        ),
        clear,
    )  # fmt: skip


# --- Keys


def keys(frame: Frame, namespace: str, like: str, found: Search | None) -> Markup:
    """Return the page that searches keys."""
    form = tag(
        "form",
        _field("Name has", "like", like),
        _field("in the namespace", "in", namespace),
        tag("button", "Search", type="submit"),
        action=frame.link("keys"), method="get", class_="search", role="search",
    )  # fmt: skip
    columns = (
        Column("Key", kind="name"), Column("Size", True), Column("Age", True), Column("Left", True),
        Column("Hits", True, True), Column("Tags", is_minor=True, kind="name"),
    )  # fmt: skip
    body: Markup | None = None
    if found is not None:
        rows = [
            [
                panels.key_link(frame, info), words.size(info.size), words.duration(info.age), words.ttl(info.ttl),
                f"{words.rate(info.hits)}/s" if info.hits else words.DASH,
                words.name(", ".join(info.tags)) or words.DASH,
            ]
            for info in found.keys
        ]  # fmt: skip
        said = words.plural(len(found.keys), "key")
        if not found.is_whole:
            said = f"{said} in the first {words.share(found.part)} of the shelf: a longer text finds fewer"
        body = section(
            "found", "Keys of this host", table(columns, rows, "Keys", "No value has such a key."), hint=said
        )
    return joined(tag("h1", "Keys"), form, body)


def _field(label: str, name: str, value: str) -> Markup:
    return tag(
        "label", label, tag("input", name=name, value=value, maxlength=200, autocomplete="off", spellcheck="false")
    )


def key(frame: Frame, info: KeyInfo | None) -> Markup:
    """Return the page of a key."""
    if info is None:
        return joined(
            tag("h1", "Key"),
            tag("p", "This host has no value of that key any more.", class_="empty"),
        )  # fmt: skip
    state = "served" if info.is_current else "expired" if info.ttl == 0 else "invalidated"
    facts: list[tuple[str, Child]] = [
        ("State", tag("span", state, class_=f"state {state}")),
        ("Namespace", tag("a", panels.shown_name(info.namespace), href=frame.link("space", of=info.namespace))),
        ("Age", words.duration(info.age)),
        ("Time to live that is left", words.ttl(info.ttl)),
        ("Size", f"{words.size(info.size)} with all that belongs to it"),
        ("Tags", [tag("span", words.name(each), class_="tag") for each in info.tags] or "none"),
        ("Near hits", f"{words.rate(info.hits)}/s" if info.hits else "not one of those that are hit most"),
        ("Found on the shelf", f"{info.uses} times" + (" or more" if info.uses >= 3 else "")),
        ("As Python writes it", tag("code", words.name(repr(info.key))) if info.key is not None else "not readable"),
    ]
    rows = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts]
    actions: list[Markup] = []
    if frame.may_act:
        actions = [
            _act(frame, "key", info.wire.hex(), "Invalidate this key", "Drops it in every process of the group.")
        ]
        actions += [
            _act(frame, "tag", each, f"Invalidate the tag {words.name(each)}", "Drops all values that carry it.")
            for each in info.tags
            if not each.startswith("#")
        ]
    return joined(
        tag("h1", tag("span", words.name(info.name) or "(empty)", class_="key")),
        section("facts", "What is known", tag("dl", rows, class_="facts")),
        panels.events(info.events, frame),
        *actions,
    )  # fmt: skip


# --- Actions


def _act(frame: Frame, kind: str, name: str, text: str, about: str, sure: bool = False) -> Markup:
    confirm = (
        tag("label", tag("input", type="checkbox", name="sure", value="yes", required=True), " I mean it ")
        if sure
        else None
    )
    return tag(
        "form", hidden_fields(frame), tag("input", type="hidden", name="kind", value=kind),
        tag("input", type="hidden", name="name", value=name), tag("p", about), confirm,
        tag("button", text, type="submit", class_="act"), method="post", action=frame.link("act"), class_="action",
    )  # fmt: skip


def acted(frame: Frame, what: str, text: str, is_well: bool) -> Markup:
    """Return what has become of an action."""
    return joined(
        tag("h1", "Invalidated" if is_well else "Not complete"),
        tag("p", tag("span", words.name(what), class_="key"), class_="what"),
        tag("p", text, class_="well" if is_well else "wrong", role="status"),
        tag("p", tag("a", "Back to the overview", href=frame.link())),
    )  # fmt: skip


def login(frame: Frame, wrong: str = "") -> Markup:
    """Return the form that asks for the token."""
    return tag(
        "form",
        tag("h1", "Log in"),
        tag("p", wrong, class_="wrong", role="alert") if wrong else None,
        tag(
            "label", "Token",
            tag(
                "input", type="password", name="token", autocomplete="current-password", required=True, maxlength=1024,
                autofocus=True,
            ),
        ),
        tag("button", "Log in", type="submit"),
        method="post", action=frame.link("login"), class_="login",
    )  # fmt: skip


def message(title: str, text: str) -> Markup:
    """Return a page that says one thing."""
    return joined(tag("h1", title), tag("p", text, class_="empty"))
