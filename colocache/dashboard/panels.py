"""The panels of the first page, each a section with an id. Some of them are on other pages, too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Final

from ..group_stats import HostStats, ProcessStats, SpaceStats
from ..inspection import EventInfo, KeyInfo
from ..stats import LOAD_TIMES
from . import charts, words
from .findings import Finding
from .frame import Column, Frame, section, table
from .history import RECENT, Rate, recent
from .markup import Child, Markup, joined, tag, text
from .model import Memory, Model, Picture

MOST: Final = 10  # rows of other lists
EVENTS: Final = 8  # rows of what was invalidated
SEATS: Final = 128  # on the map


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
            "Reads", per_second(now, "reads"), [words.number(total.reads), " in all"], charts.spark(samples, "reads"),
            "reads",
        ),
        tile(
            "Time saved", per_second(now, "saved"), [words.duration(saved), " in all"],
            charts.spark(samples, "saved"), "saved",
        ),
        tile(
            "Loads", per_second(now, "loads"),
            [words.number(int(total.counters["loads"])), " in all, 95 % within ", quantile(total, 0.95)],
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


def per_second(now: Rate | None, name: str) -> str:
    """Return a rate, for people; a dash if there is none yet."""
    if now is None:
        return words.DASH
    return f"{words.duration(now.saved)}/s" if name == "saved" else f"{words.rate(getattr(now, name))}/s"


def quantile(space: SpaceStats, part: float) -> str:
    """Return within which time a part of the loads ended, for people."""
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
            tag("a", shown_name(path), href=frame.link("space", of=path)),
            tag("span", per_second(now, "reads"), data_rate="reads", data_of=path),
            tag("span", words.share(space.hit_ratio if space.reads else None), title="of all reads"),
            charts.spark(samples, "ratio", path, of=called),
            tag("span", per_second(now, "saved"), data_rate="saved", data_of=path) if has_loads else words.DASH,
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


def shown_name(path: str) -> Markup:
    """Return a path with the places where it may be broken, and with the module of a function less loud."""
    module, colon, function = words.space(path).rpartition(":")
    return joined(tag("span", broken(module), colon, class_="module") if colon else None, tag("wbr"), broken(function))


def broken(name: str) -> Markup:
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
            tag("a", shown_name(path), href=frame.link("space", of=path)), words.duration(spaces[path].load_time),
            quantile(spaces[path], 0.95), histogram(path, spaces[path]), words.number(spaces[path].timed_loads),
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
        broken(words.name(info.name)) if info.name else "(empty)",
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
            tag("a", shown_name(path), href=frame.link("space", of=path)),
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
