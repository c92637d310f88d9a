"""The application of the matrix as a Django project in one module: settings, addresses, and the one view."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path

SECRET_KEY = "of no importance"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = __name__
USE_TZ = True


def anything(request: HttpRequest, address: str) -> JsonResponse:
    """Every route."""
    from served import answer  # here: a settings module should import nothing of the project

    return JsonResponse(answer(address))


urlpatterns = [path("<path:address>", anything)]
