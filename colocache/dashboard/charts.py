"""Charts as SVG: a line over time, and bars. `static/dashboard.js` draws the same lines again from newer samples.

Widths and heights are attributes of SVG, because the page allows no inline styles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Literal

from . import words
from .history import Rate, Sample, rate
from .markup import Markup, tag

Series = Literal["reads", "ratio", "saved", "loads"]

WIDTH: Final = 600
HEIGHT: Final = 120

_OF_RATE: Final[dict[Series, Callable[[Rate], float | None]]] = {
    "reads": lambda rate: rate.reads,
    "ratio": lambda rate: rate.ratio,
    "saved": lambda rate: rate.saved,
    "loads": lambda rate: rate.loads,
}
_SHOWN: Final[dict[Series, Callable[[float], str]]] = {
    "reads": lambda value: f"{words.rate(value)}/s",
    "ratio": words.share,
    "saved": lambda value: f"{words.duration(value)}/s",
    "loads": lambda value: f"{words.rate(value)}/s",
}
_CALLED: Final[dict[Series, str]] = {
    "reads": "Reads", "ratio": "Hit ratio", "saved": "Time saved", "loads": "Loads",
}  # fmt: skip


def points(samples: Sequence[Sample], series: Series, path: str | None) -> list[tuple[float, float]]:
    """Return times and values of a series."""
    found = []
    for before, now in pairwise(samples):
        happened = rate(before, now, path)
        value = None if happened is None else _OF_RATE[series](happened)
        if value is not None:
            found.append((now.time, value))
    return found


def top(series: Series, values: Sequence[float]) -> float:
    """Return the value at the upper edge of a chart: 1, 2 or 5 times a power of ten."""
    most = max(values, default=0.0)
    if series == "ratio" or most <= 0:
        return 1.0
    step = 10.0 ** len(str(int(most))) / 10 if most >= 1 else 1e-6
    while step < 1 and step * 10 <= most:
        step *= 10
    return next(step * factor for factor in (1, 2, 5, 10, 20) if step * factor >= most)


def lines(found: Sequence[tuple[float, float]], edge: float) -> tuple[str, str]:
    """Return the paths of the line of a chart, and of the area below it."""
    if not found:
        return "", ""
    first, last = found[0][0], found[-1][0]
    span = (last - first) or 1.0
    corners = [
        f"{(at - first) / span * WIDTH:.1f},{HEIGHT - min(1.0, max(0.0, value / edge)) * HEIGHT:.1f}"
        for at, value in found
    ]
    if len(corners) == 1:
        corners.append(f"{WIDTH:.1f},{corners[0].split(',')[1]}")
    line = "M" + "L".join(corners)
    return line, f"{line}L{WIDTH},{HEIGHT}L0,{HEIGHT}Z"


def spark(samples: Sequence[Sample], series: Series, path: str | None = None, *, of: str = "") -> Markup:
    """Return a small chart without axes. ``of`` is what people call the namespace."""
    found = points(samples, series, path)
    return _svg(found, series, path, "spark", of)


def chart(samples: Sequence[Sample], series: Series, path: str | None = None, *, title: str, hint: str) -> Markup:
    """Return a large chart with its axes."""
    found = points(samples, series, path)
    edge = top(series, [value for _, value in found])
    begin = words.clock(found[0][0]) if found else ""
    return tag(
        "figure",
        tag("figcaption", tag("b", title), " ", tag("span", hint)),
        tag(
            "div",
            tag("span", _SHOWN[series](edge), class_="edge", data_edge=True),
            _svg(found, series, path, "chart", ""),
            tag(
                "p",
                "Collecting: a line begins with the second look.",
                class_="none",
                hidden=bool(found),
                data_none=True,
            ),
            class_="plot",
        ),
        tag("div", tag("time", begin, data_begin=True), tag("span", "now"), class_="axis", aria_hidden="true"),
        class_="figure",
    )


def label(series: Series, found: Sequence[tuple[float, float]], of: str = "") -> str:
    """Return what a chart shows, for those who do not see it."""
    begin = f"{_CALLED[series]}{' of ' + of if of else ''} over time"
    if not found:
        return f"{begin}: nothing yet"
    values = [value for _, value in found]
    show = _SHOWN[series]
    return f"{begin}: now {show(values[-1])}, lowest {show(min(values))}, highest {show(max(values))}"


def _svg(found: Sequence[tuple[float, float]], series: Series, path: str | None, kind: str, of: str) -> Markup:
    line, area = lines(found, top(series, [value for _, value in found]))
    grid = [tag("path", d=f"M0,{HEIGHT * part / 4:.0f}H{WIDTH}", class_="grid") for part in (1, 2, 3)]
    return tag(
        "svg",
        grid if kind == "chart" else None,
        tag("path", d=area, class_="area"),
        tag("path", d=line, class_="line"),
        class_=f"{kind} {series}", viewBox=f"0 0 {WIDTH} {HEIGHT}", preserveAspectRatio="none", role="img",
        aria_label=label(series, found, of), data_series=series, data_of=path, data_name=of or None,
    )  # fmt: skip


def bar(part: float, kind: str = "bar") -> Markup:
    """Return a bar that is full to some part of 1. What it says stands beside it in letters."""
    width = max(0.0, min(1.0, part)) * 100
    return tag(
        "svg",
        tag("rect", width=100, height=4, class_="whole"),
        tag("rect", width=f"{width:.2f}", height=4, class_="part"),
        class_=kind, viewBox="0 0 100 4", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip


def columns(counts: Sequence[int], labels: Sequence[str], what: str) -> Markup:
    """Return a histogram: a column for each class."""
    most, wide = max(counts, default=0) or 1, 20
    drawn = [
        tag(
            "rect", tag("title", f"{name}: {words.number(count)}"), x=place * wide + 2, width=wide - 4,
            y=f"{60 - 60 * count / most:.1f}", height=f"{max(60 * count / most, 1 if count else 0):.1f}",
        )
        for place, (count, name) in enumerate(zip(counts, labels, strict=True))
    ]  # fmt: skip
    said = ", ".join([f"{name}: {count}" for count, name in zip(counts, labels, strict=True) if count])
    return tag(
        "svg", drawn, class_="columns", viewBox=f"0 0 {wide * len(counts)} 60", preserveAspectRatio="none",
        role="img", aria_label=f"{what}: {said or 'none'}",
    )  # fmt: skip
