"""The application: ``"colocache.django"`` in INSTALLED_APPS brings the system checks. It starts nothing."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from .checks import check_caches


class ColocacheConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """Registers the system checks. Processes join their groups when they first use a cache, and not here.

    Here, management commands would join, too, and so would the parent of runserver's autoreloader.
    """

    name = "colocache.django"
    label = "colocache"

    def ready(self) -> None:
        """Register the checks."""
        checks.register(check_caches, checks.Tags.caches)
