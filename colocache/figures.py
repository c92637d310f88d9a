"""Figures of statistics: the fields of a dataclass, and what is known about each."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class Figure:
    """What is known about one figure. Sections group figures; the unit of plain numbers is empty."""

    name: str
    kind: Kind
    section: str
    unit: str
    help: str


def counter(section: str, text: str, unit: str = "", start: float = 0) -> Any:
    """Return a field for what only grows."""
    return field(default=start, metadata={"kind": "counter", "section": section, "unit": unit, "help": text})


def gauge(text: str, unit: str = "", start: float = 0) -> Any:
    """Return a field for what tells the present state."""
    return field(default=start, metadata={"kind": "gauge", "section": "State", "unit": unit, "help": text})


def figures_of(stats: type[Any]) -> tuple[Figure, ...]:
    """Return the figures of a dataclass of which every field is a `counter` or a `gauge`, in their order."""
    return tuple(Figure(name=each.name, **each.metadata) for each in fields(stats))
