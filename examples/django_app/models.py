"""Users, and the keys that a write invalidates."""

from __future__ import annotations

from django.db import models

from colocache.django import invalidate_with


class User(models.Model):
    """A user with a name."""

    name = models.CharField(max_length=200)


invalidate_with(User, keys=lambda user: [f"user:{user.pk}"])  # after COMMIT, and before the response
