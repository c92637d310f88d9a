"""The only page."""

from __future__ import annotations

import os
from typing import Any

from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.urls import path

from .models import User

reads = 0


def read(user_id: int) -> dict[str, Any] | None:
    """Return a user, and the process that has read it. Return None for an unknown user."""
    global reads
    reads += 1
    found = User.objects.filter(pk=user_id).values("id", "name").first()
    return {**found, "read_by": os.getpid()} if found else None


def user(user_id: int) -> dict[str, Any] | None:
    """Return a user. All workers together read it once, until it is written."""
    return cache.get_or_set(f"user:{user_id}", lambda: read(user_id))


def rename(user_id: int, name: str) -> None:
    """Write. When the response begins, no worker shows the old name."""
    for found in User.objects.filter(pk=user_id):
        found.name = name
        found.save()  # not update(), which sends no signal


def respond(request: HttpRequest, user_id: int) -> HttpResponse:
    """Show a user, or rename one."""
    if request.method == "POST":
        if not request.POST.get("name"):
            return HttpResponseBadRequest("name=... is missing")
        rename(user_id, request.POST["name"])
    found = user(user_id)
    if found is None:
        raise Http404
    return JsonResponse({**found, "answered_by": os.getpid(), "database_reads": reads})


urlpatterns = [path("users/<int:user_id>", respond)]
