"""The pages, as HTML. What updates itself are the parts of a page, each with an id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final
from urllib.parse import urlencode

from ..core.host.scores import COLUMNS, OTHERS
from ..core.keys import within
from ..group_stats import HostStats, ProcessStats, SpaceStats
from ..inspection import EventInfo, KeyInfo
from ..stats import FIGURES, LOAD_TIMES
from ..version import __version__
from . import charts, words
from .findings import Finding
from .history import RECENT, Rate, recent
from .markup import Child, Markup, joined, tag, text
from .model import Memory, Model, Picture, Search

ROWS: Final = 25  # functions and namespaces of the first page
MOST: Final = 10  # rows of other lists
EVENTS: Final = 8  # rows of what was invalidated
SEATS: Final = 128  # on the map

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


Parts = dict[str, Markup]


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
        "form", _hidden(frame), tag("button", "Log out", type="submit", class_="quiet"), method="post",
        action=frame.link("logout"),
    )  # fmt: skip
    return tag("div", button if live else None, reload, leave if frame.may_act else None, class_="controls")


def _hidden(frame: Frame) -> Markup:
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


# --- The first page


def overview(frame: Frame, model: Model, picture: Picture) -> Parts:
    """Return the parts of the first page."""
    shown = rows_of(picture)
    return {
        "figures": figures(picture),
        "health": health(picture.findings),
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
        "functions": functions(frame, picture, shown),
        "loaders": loaders(frame, picture),
        "hot": hot(frame, picture.hot),
        "memory": memory(frame, picture.memory, picture.host),
        "events": events(picture.events, frame),
        "seats": seats(picture),
        "hosts": hosts(picture),
        "since": since(model, picture),
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


def figures(picture: Picture) -> Markup:
    """Return the strip of the most important figures."""
    samples, host = picture.samples, picture.host
    now, total = recent(samples), host.total
    saved = sum([space.saved for space in host.spaces.values()])

    def tile(title: str, value: Child, below: Child, drawn: Child = None, name: str = "") -> Markup:
        return tag(
            "div", tag("dt", title), tag("dd", tag("b", value, data_rate=name or None), tag("small", below), drawn)
        )

    ratio = now.ratio if now is not None and now.ratio is not None else (total.hit_ratio if total.reads else None)
    return tag(
        "dl",
        tile(
            "Hit ratio", words.share(ratio),
            [words.share(total.hit_ratio if total.reads else None), " in all"], charts.spark(samples, "ratio"), "ratio",
        ),
        tile(
            "Reads", _per_second(now, "reads"), [words.number(total.reads), " in all"], charts.spark(samples, "reads"),
            "reads",
        ),
        tile(
            "Time saved", _per_second(now, "saved"), [words.duration(saved), " in all"],
            charts.spark(samples, "saved"), "saved",
        ),
        tile(
            "Loads", _per_second(now, "loads"),
            [words.number(int(total.counters["loads"])), " in all, 95 % within ", _quantile(total, 0.95)],
            charts.spark(samples, "loads"), "loads",
        ),
        tile(
            "Processes", words.number(len(host.alive)),
            [words.size(sum([each.bytes for each in host.alive])), " of near copies"],
        ),
        tile(
            "Shelf", words.size(host.shelf_bytes),
            ["of ", words.size(host.shelf_capacity), ", ", words.plural(host.shelf_entries, "value")],
            charts.bar(host.shelf_bytes / host.shelf_capacity if host.shelf_capacity else 0),
        ),
        id="figures", class_="figures", aria_label="The most important figures",
    )  # fmt: skip


def _per_second(now: Rate | None, name: str) -> str:
    if now is None:
        return words.DASH
    return f"{words.duration(now.saved)}/s" if name == "saved" else f"{words.rate(getattr(now, name))}/s"


def _quantile(space: SpaceStats, part: float) -> str:
    return words.duration(space.load_quantile(part)) if space.timed_loads else words.DASH


def health(found: Sequence[Finding]) -> Markup:
    """Return what deserves a look."""
    if not found:
        return tag(
            "section", tag("h2", "Health", class_="hidden", id="health-title"),
            tag("p", tag("span", "✓", aria_hidden="true"), " Nothing to report.", class_="well"), id="health",
            aria_labelledby="health-title",
        )  # fmt: skip
    rows = [
        tag(
            "li", tag("strong", each.level, class_="level"), tag("span", each.text),
            tag("span", each.remedy, class_="remedy"), class_=each.level,
        )
        for each in found[:MOST]
    ]  # fmt: skip
    more = len(found) - MOST
    return section(
        "health", "Health", tag("ul", rows, class_="findings"),
        tag("p", f"and {more} more", class_="empty") if more > 0 else None,
    )  # fmt: skip


def functions(frame: Frame, picture: Picture, shown: Sequence[str]) -> Markup:
    """Return the table of functions and namespaces."""
    samples, spaces = picture.samples, picture.host.spaces
    columns = (
        Column("Function or namespace", kind="name"), Column("Reads", True), Column("Hit ratio", True),
        Column("over time", is_minor=True, kind="curve"), Column("Saves", True),
        Column("over time", is_minor=True, kind="curve"), Column("Saved", True, True), Column("Loads", True, True),
        Column("Load takes", True, True), Column("Failed", True, True),
    )  # fmt: skip
    rows = []
    for path in shown:
        space, now, called = spaces[path], recent(samples, path), words.space(path)
        has_loads = space.timed_loads > 0
        rows.append([
            tag("a", _name(path), href=frame.link("space", of=path)),
            tag("span", _per_second(now, "reads"), data_rate="reads", data_of=path),
            tag("span", words.share(space.hit_ratio if space.reads else None), title="of all reads"),
            charts.spark(samples, "ratio", path, of=called),
            tag("span", _per_second(now, "saved"), data_rate="saved", data_of=path) if has_loads else words.DASH,
            charts.spark(samples, "saved", path, of=called),
            words.duration(space.saved) if has_loads else words.DASH,
            words.number(space.counters["loads"]),
            words.duration(space.load_time) if has_loads else words.DASH,
            words.number(space.counters["failed_loads"]) if space.counters["failed_loads"] else words.DASH,
        ])  # fmt: skip
    more = len(spaces) - len(shown)
    return section(
        "functions", "Functions and namespaces",
        table(columns, rows, "Functions and namespaces", "Nothing was read yet."),
        tag("p", f"and {words.number(more)} more, which save less", class_="empty") if more else None,
        hint=f"reads and what they save are of the last {RECENT:.0f} s; the rest is since the group has begun",
        wide=True,
    )  # fmt: skip


def _name(path: str) -> Markup:
    """Return a path with the places where it may be broken, and with the module of a function less loud."""
    module, colon, function = words.space(path).rpartition(":")
    return joined(
        tag("span", _broken(module), colon, class_="module") if colon else None, tag("wbr"), _broken(function)
    )


def _broken(name: str) -> Markup:
    """Return a name that may be broken behind each point, parenthesis and slash."""
    return text([[part, tag("wbr")] for part in re.split(r"(?<=[./(])", name)])


def loaders(frame: Frame, picture: Picture) -> Markup:
    """Return the slowest loaders."""
    spaces = picture.host.spaces
    slow = sorted([path for path in spaces if spaces[path].timed_loads], key=lambda path: -spaces[path].load_time)[
        :MOST
    ]
    columns = (
        Column("Loader", kind="name"), Column("On average", True), Column("95 % within", True),
        Column("Spread", is_minor=True, kind="curve"), Column("Loads", True), Column("In all", True, True),
    )  # fmt: skip
    rows = [
        [
            tag("a", _name(path), href=frame.link("space", of=path)), words.duration(spaces[path].load_time),
            _quantile(spaces[path], 0.95), histogram(path, spaces[path]), words.number(spaces[path].timed_loads),
            words.duration(spaces[path].counters["load_seconds"]),
        ]
        for path in slow
    ]  # fmt: skip
    return section("loaders", "Slowest loaders", table(columns, rows, "Slowest loaders", "Nothing was loaded yet."))


def histogram(path: str, space: SpaceStats) -> Markup:
    """Return how many loaders took how long."""
    labels = [f"up to {words.duration(bound)}" for bound in LOAD_TIMES] + ["longer"]
    return charts.columns(space.load_times, labels, f"Load times of {words.space(path)}")


def hot(frame: Frame, keys: Sequence[KeyInfo], id: str = "hot") -> Markup:
    """Return the keys that are hit most."""
    most = max([info.hits for info in keys], default=0) or 1
    columns = (
        Column("Key", kind="name"), Column("Hits", True), Column("", is_minor=True, kind="meter"), Column("Age", True),
        Column("Left", True, True), Column("Size", True, True),
    )  # fmt: skip
    rows = [
        [
            key_link(frame, info),
            f"{words.rate(info.hits)}/s",
            charts.bar(info.hits / most),
            words.duration(info.age),
            words.ttl(info.ttl),
            words.size(info.size),
        ]
        for info in keys
    ]
    return section(
        id, "Hottest keys", table(columns, rows, "Hottest keys", "No key is hit often at present."),
        hint="near hits of all processes of this host",
    )  # fmt: skip


def key_link(frame: Frame, info: KeyInfo) -> Markup:
    """Return the name of a key, which leads to its page."""
    return tag(
        "a",
        _broken(words.name(info.name)) if info.name else "(empty)",
        href=frame.link("key", k=info.wire.hex()),
        class_="key",
    )


def memory(frame: Frame, found: Memory, host: HostStats) -> Markup:
    """Return what each namespace takes of the shelf."""
    whole = sum([usage.bytes for usage in found.spaces.values()]) or 1
    columns = (
        Column("Namespace", kind="name"), Column("Size", True), Column("", is_minor=True, kind="meter"),
        Column("Share", True), Column("Values", True, True),
    )  # fmt: skip
    rows = [
        [
            tag("a", _name(path), href=frame.link("space", of=path)),
            words.size(usage.bytes),
            charts.bar(usage.bytes / whole),
            words.share(usage.bytes / whole),
            words.number(usage.values),
        ]
        for path, usage in islice(found.spaces.items(), MOST)
    ]
    is_estimate = found.part < 1
    hint = (
        f"estimated from {words.share(found.part)} of the shelf" if is_estimate else f"as of {words.clock(found.time)}"
    )
    return section(
        "memory", "Memory by namespace", table(columns, rows, "Memory by namespace", "The shelf is empty."), hint=hint
    )


def events(found: Sequence[EventInfo], frame: Frame, id: str = "events") -> Markup:
    """Return what was invalidated lately."""
    columns = (
        Column("When", kind="when"), Column("What"), Column("Name", kind="name"), Column("Process", True, True),
    )  # fmt: skip
    rows = [
        [
            tag("time", words.clock(each.time), datetime=words.timestamp(each.time)),
            each.kind,
            [
                tag("span", _event_name(each), class_="key"),
                tag("small", f" and {words.number(each.things - 1)} more") if each.things > 1 else None,
            ],
            each.pid,
        ]
        for each in found[:EVENTS]
    ]
    return section(
        id, "Last invalidations", table(columns, rows, "Last invalidations", "Nothing was invalidated lately.")
    )


def _event_name(event: EventInfo) -> str:
    return words.name(event.name) or ("everything" if event.kind == "namespace" else "(empty)")


def seats(picture: Picture) -> Markup:
    """Return the map of seats: a cell for each process, also for those that have ended and whose seat is free."""
    host = picture.host
    shown = sorted(host.processes, key=lambda process: process.seat)[:SEATS]
    cells = [_seat(process, picture.time) for process in shown]
    more = len(host.processes) - len(shown)
    return section(
        "seats", "Processes of this host",
        tag("ol", cells, class_="seats") if cells else tag("p", "None.", class_="empty"),
        tag("p", f"and {words.number(more)} more seats", class_="empty") if more else None,
        hint=f"{len(host.alive)} alive, {words.plural(len(host.processes) - len(host.alive), 'free seat')}", wide=True,
    )  # fmt: skip


def _seat(process: ProcessStats, now: float) -> Markup:
    total, is_quiet = process.total, process.is_alive and now - process.seen > 30
    state = "quiet" if is_quiet else "alive" if process.is_alive else "ended"
    lines = [
        tag("span", tag("b", process.pid), tag("span", f"seat {process.seat}", class_="seat"), class_="first"),
        tag(
            "span",
            words.share(total.hit_ratio if total.reads else None), " of ", words.plural(total.reads, "read"),
        ),
        charts.bar(process.bytes / process.memory if process.memory else 0),
        tag(
            "span",
            f"{words.size(process.bytes)} near" if process.is_alive else f"ended by {words.clock(process.seen)}",
            f", {words.duration(now - process.began)}" if process.is_alive else "",
            class_="last",
        ),
    ]  # fmt: skip
    role = process.role if process.role != "peer" else ""
    badge = tag("span", " · ".join(filter(None, (role, "shows nothing" if is_quiet else ""))), class_="badge")
    return tag("li", lines, badge if role or is_quiet else None, tag("span", state, class_="hidden"), class_=state)


_UNSEEN: Final = "Other hosts are seen by processes of the group: mount the dashboard into one."


def hosts(picture: Picture) -> Markup:
    """Return the hosts of the group, if there are several."""
    if not picture.has_hosts:
        return tag("div", id="hosts")
    columns = (
        Column("Host", kind="name"), Column("State"), Column("Address", is_minor=True), Column("Owns", True, True),
        Column("Answers within", True), Column("Version", is_minor=True),
    )  # fmt: skip
    rows = [
        [
            words.name(each.name), "this one, " + each.state if each.me else each.state, words.name(each.address),
            words.size(each.owns), words.duration(each.round_trip), words.name(each.version),
        ]
        for each in picture.hosts
    ]  # fmt: skip
    return section(
        "hosts", "Hosts", table(columns, rows, "Hosts", _UNSEEN),
        hint="all other figures of this page are of this host alone", wide=True,
    )  # fmt: skip


def since(model: Model, picture: Picture) -> Markup:
    """Return of when the figures are."""
    begun = picture.samples[0].time if picture.samples else picture.time
    return tag(
        "p", "As of ", tag("time", words.clock(picture.time), datetime=words.timestamp(picture.time)),
        ". The curves begin at ", words.clock(begun), ", when this process first looked. ",
        tag("code", picture.path) if picture.path else None, id="since", class_="since",
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
        tile("Reads", _per_second(now, "reads"), f"over the last {RECENT:.0f} s", "reads"),
        tile("Time saved", _per_second(now, "saved"), f"{words.duration(stats.saved)} in all", "saved"),
        tile("A load takes", words.duration(stats.load_time) if stats.timed_loads else words.DASH,
             f"95 % within {_quantile(stats, 0.95)}"),
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
        "hot": hot(frame, keys),
        "counters": section("counters", "Counters", table(columns, rows, "Counters", "Nothing was counted yet.")),
        "events": events(
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
    return tag("div", histogram(path, stats), tag("div", bounds, class_="bounds", aria_hidden="true"), class_="times")


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
        tag("h1", _name(path)),
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
                key_link(frame, info), words.size(info.size), words.duration(info.age), words.ttl(info.ttl),
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
        ("Namespace", tag("a", _name(info.namespace), href=frame.link("space", of=info.namespace))),
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
        events(info.events, frame),
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
        "form", _hidden(frame), tag("input", type="hidden", name="kind", value=kind),
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
