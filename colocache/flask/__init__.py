"""For Flask: the extension `FlaskCache`, `current_cache`, and `Backend` for Flask-Caching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .extension import FlaskCache, current_cache

if TYPE_CHECKING:
    from .flask_caching import Backend

__all__ = ["Backend", "FlaskCache", "current_cache"]


def __getattr__(name: str) -> Any:
    if name == "Backend":  # at its first use, because it needs Flask-Caching, and the extension does not
        from .flask_caching import Backend

        return Backend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
