"""The application of the matrix as a Django project in one module: settings, addresses, and the one view.

Its cache is the one behind Django's own.
"""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path

SECRET_KEY = "of no importance"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = __name__
USE_TZ = True
INSTALLED_APPS = ["colocache.django"]
MIDDLEWARE = ["colocache.django.CacheMiddleware"]
CACHES = {"default": {"BACKEND": "colocache.django.ColocacheCache", "LOCATION": "servers"}}


def anything(request: HttpRequest, address: str) -> JsonResponse:
    """Every route."""
    from colocache.django import cache_of
    from verification.servers import served  # here: a settings module can import nothing that needs the settings

    served.cache = cache_of("default")
    return JsonResponse(served.answer(address))


urlpatterns = [path("<path:address>", anything)]
