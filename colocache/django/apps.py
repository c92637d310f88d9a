"""The application ``"colocache.django"`` for INSTALLED_APPS. It adds the system checks, and starts nothing."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from .checks import check_caches


class ColocacheConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """Registers the system checks.

    A process joins a group at its first use of the cache, and not here. Otherwise each management command, and the
    parent process of runserver's autoreloader, would join, too.
    """

    name = "colocache.django"
    label = "colocache"

    def ready(self) -> None:
        """Register the checks."""
        checks.register(check_caches, checks.Tags.caches)
