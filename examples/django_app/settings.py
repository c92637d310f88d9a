"""The smallest settings: the database, and what colocache needs."""

from __future__ import annotations

import os
import tempfile

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "an example has no secrets; set your own in the environment")
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "django_app.views"
INSTALLED_APPS = ["colocache.django", "django_app"]
MIDDLEWARE = ["colocache.django.CacheMiddleware", "django.middleware.common.CommonMiddleware"]
CACHES = {"default": {"BACKEND": "colocache.django.ColocacheCache", "LOCATION": "example-django", "TIMEOUT": 300}}

_FILE = os.path.join(tempfile.gettempdir(), f"colocache-django-{os.getuid()}.sqlite")
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("USERS_DATABASE") or _FILE,
        "OPTIONS": {"timeout": 30},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
