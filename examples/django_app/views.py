"""The one page there is."""

from __future__ import annotations

import os
from typing import Any

from django.core.cache import cache
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.urls import path

from .models import User

reads = 0


def read(user_id: int) -> dict[str, Any] | None:
    """A user, and which process read it; None if there is none."""
    global reads
    reads += 1
    found = User.objects.filter(pk=user_id).values("id", "name").first()
    return {**found, "read_by": os.getpid()} if found else None


def user(user_id: int) -> dict[str, Any]:
    """A user's page, read once in all workers together, until the user is written."""
    found = cache.get_or_set(f"user:{user_id}", lambda: read(user_id))
    if found is None:
        raise Http404
    return {**found, "answered_by": os.getpid(), "database_reads": reads}


def users(request: HttpRequest, user_id: int) -> HttpResponse:
    """Show a user, or rename one; no worker shows the old name once the response begins."""
    if request.method == "POST":
        name = request.POST.get("name")
        if not name:
            return HttpResponseBadRequest("name=... is missing")
        for found in User.objects.filter(pk=user_id):
            found.name = name
            found.save()  # not update(), which sends no signal
    return JsonResponse(user(user_id))


urlpatterns = [path("users/<int:user_id>", users)]
