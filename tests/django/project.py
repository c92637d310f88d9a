"""A Django project in one module: settings, models, views, urls. Its import sets Django up, once in a process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings

WORK = tempfile.mkdtemp(prefix="colocache-django-")
atexit.register(shutil.rmtree, WORK, ignore_errors=True)

settings.configure(
    ALLOWED_HOSTS=["*"],
    CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}},
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{WORK}/default.sqlite"},
        "second": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{WORK}/second.sqlite"},
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["colocache.django", "django.contrib.sessions", "tests.django.project"],
    MIDDLEWARE=[],
    ROOT_URLCONF="tests.django.project",
    SECRET_KEY="a secret for the tests, of more than 32 bytes",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    (
                        "django.template.loaders.locmem.Loader",
                        {
                            "fragment.html": "{% load cache %}{% cache 60 tea %}<b>{{ made }}</b>{% endcache %}",
                            "page.html": "<p>{{ made }}</p>",
                        },
                    )
                ]
            },
        }
    ],
    USE_TZ=True,
)
django.setup()

from django.contrib.sessions.models import Session  # noqa: E402
from django.db import connections, models  # noqa: E402


class Tag(models.Model):
    name = models.CharField(max_length=20)

    class Meta:
        app_label = "project"


class Page(models.Model):
    """An abstract model. What is registered for it counts for its subclasses."""

    title = models.CharField(max_length=20)

    class Meta:
        abstract = True
        app_label = "project"


class Article(Page):
    tags = models.ManyToManyField(Tag, related_name="articles")
    likes = models.ManyToManyField("self")

    class Meta:
        app_label = "project"


class News(Article):
    class Meta:
        app_label = "project"


class Draft(Article):
    class Meta:
        app_label = "project"
        proxy = True


for _alias in settings.DATABASES:
    with connections[_alias].schema_editor() as _editor:
        for _model in (Session, Tag, Article, News):
            _editor.create_model(_model)
    connections[_alias].close()


# --- views

from django.http import HttpRequest, HttpResponse, HttpResponseBase  # noqa: E402
from django.template.response import TemplateResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.cache import cache_page  # noqa: E402
from django.views.decorators.clickjacking import xframe_options_exempt  # noqa: E402
from django.views.decorators.vary import vary_on_headers  # noqa: E402


def source() -> str:
    """Return what pages are made of. Tests replace it."""
    return "nothing"


@cache_page(60)
def page(request: HttpRequest) -> HttpResponseBase:
    return HttpResponse(source())


@cache_page(60)
@xframe_options_exempt
@vary_on_headers("Accept-Language", "X-Colour")
def varied(request: HttpRequest) -> HttpResponseBase:
    response = HttpResponse(f"{source()} in {request.headers.get('X-Colour')}", content_type="text/plain")
    response.set_cookie("seen", "yes", max_age=60, secure=True, samesite="Lax")
    return response


@cache_page(60)
def templated(request: HttpRequest) -> HttpResponseBase:
    return TemplateResponse(request, "page.html", {"made": source()})


@cache_page(60)
async def asynchronous(request: HttpRequest) -> HttpResponseBase:
    return HttpResponse(source())


def fragment(request: HttpRequest) -> HttpResponseBase:
    return TemplateResponse(request, "fragment.html", {"made": source})


async def fragment_in_async(request: HttpRequest) -> HttpResponseBase:
    return TemplateResponse(request, "fragment.html", {"made": source}).render()


def counted(request: HttpRequest) -> HttpResponseBase:
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(str(request.session["count"]))


async def counted_in_async(request: Any) -> HttpResponseBase:
    await request.session.aset("count", (await request.session.aget("count", 0)) + 1)
    return HttpResponse(str(await request.session.aget("count")))


urlpatterns = [
    path("page", page),
    path("varied", varied),
    path("templated", templated),
    path("asynchronous", asynchronous),
    path("fragment", fragment),
    path("fragment_in_async", fragment_in_async),
    path("counted", counted),
    path("counted_in_async", counted_in_async),
]


# --- for the tests

#: A member that nobody answers for a fetch timeout is passed over, which here would only measure the machine.
PATIENT = {"load_timeout": 20.0}

BACKEND = "colocache.django.ColocacheCache"


@contextmanager
def configured(directory: str, aliases: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Set CACHES to these aliases, by default of the group "test". Leave the groups afterwards."""
    from django.test import override_settings

    from colocache.django import groups

    made = {
        alias: config
        if "BACKEND" in config
        else {
            "BACKEND": BACKEND, "LOCATION": "test", **config,
            "OPTIONS": {"directory": directory, **PATIENT, **config.get("OPTIONS", {})},
        }
        for alias, config in aliases.items()
    }  # fmt: skip
    known, spaces = dict(groups._caches), dict(groups._groups)
    with override_settings(CACHES=made):
        yield
    new = [groups._caches[each] for each in groups._caches.keys() - known.keys()]
    for cache in new:
        cache.close()
    for mine, before in ((groups._caches, known), (groups._groups, spaces)):
        mine.clear()
        mine.update(before)
