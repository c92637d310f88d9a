"""Plots of the benchmarks, as PNG; needs matplotlib. What has ``colocache`` in its name stands out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def shown(value: float) -> str:
    """Return a number with three digits that mean something, and none after the point from 100 on."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"


def _figure(height: float) -> tuple[Any, Any, Any]:
    import_module("matplotlib").use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return pyplot, figure, axes


def _saved(pyplot: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def bars(path: Path, label: str, values: Mapping[str, float], log: bool, title: str) -> Path:
    """Draw a bar for each name, the least on top; return the path."""
    pyplot, figure, axes = _figure(1.2 + 0.3 * len(values))
    names = sorted(values, key=values.__getitem__, reverse=True)
    colours = ["tab:orange" if "colocache" in name else "tab:blue" for name in names]
    drawn = axes.barh(names, [values[name] for name in names], color=colours, log=log)
    axes.bar_label(drawn, [shown(values[name]) for name in names], padding=3, fontsize=8)
    axes.margins(x=0.12)
    axes.set(xlabel=label, title=title)
    return _saved(pyplot, figure, path)


def lines(path: Path, labels: tuple[str, str], curves: Mapping[str, Sequence[tuple[float, float]]],
          log: tuple[bool, bool], title: str) -> Path:  # fmt: skip
    """Draw a line for each name; ``labels`` and ``log`` are of x and y; return the path."""
    pyplot, figure, axes = _figure(5)
    for name, points in curves.items():
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker="o", markersize=4, linewidth=2.5 if "colocache" in name else 1.2, label=name)
    for scale, is_log in zip((axes.set_xscale, axes.set_yscale), log, strict=True):
        if is_log:
            scale("log")
    places = sorted({x for points in curves.values() for x, _ in points})
    if log[0] and len(places) < 13:  # what was measured, rather than powers of ten
        axes.set_xticks(places, [shown(place) if place % 1 else f"{place:.0f}" for place in places])
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    axes.legend(fontsize=8)
    return _saved(pyplot, figure, path)
