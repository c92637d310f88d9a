"""The middleware under both kinds of handlers, the system checks, and what must not start a cache."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

pytest.importorskip("tests.django.project")  # sets Django up

from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

import colocache.asgi
import colocache.scope
import colocache.wsgi
from colocache import Cache
from colocache.django import CacheMiddleware, cache_of, invalidate_on_commit
from colocache.django.checks import check_caches
from colocache.operations.tally import tallies
from colocache.scope import current
from tests.django import project

Site = Callable[..., Any]
OTHER = {"OPTIONS": {"memory": "32MiB"}}
OURS = "colocache.django.CacheMiddleware"

#: What a view does, by its path; to be replaced by tests.
doing: dict[str, Callable[[], Any]] = {}


def view(request: HttpRequest) -> HttpResponse:
    """Do it in this thread."""
    return HttpResponse(str(doing["sync"]()))


async def aview(request: HttpRequest) -> HttpResponse:
    """Do it in this task."""
    return HttpResponse(str(await doing["async"]()))


urlpatterns = (*project.urlpatterns, path("sync", view), path("async", aview))


def ask(name: str, **extra: Any) -> HttpResponse:
    """Return a client for the sync view over WSGI, and one for the async view over ASGI."""
    if name == "sync":
        return contextvars.Context().run(Client().get, "/sync", **extra)  # type: ignore[no-any-return]

    async def aask() -> HttpResponse:
        return await AsyncClient().get("/async", **extra)  # type: ignore[no-any-return]

    return asyncio.run(aask())


@pytest.fixture(params=["sync", "async"])
def act(request: pytest.FixtureRequest) -> Callable[..., HttpResponse]:
    """Return a function that lets a view call a method of a space, and returns the response."""

    def do(space: Any, method: str, *args: Any, headers: Any = None, **kwargs: Any) -> HttpResponse:
        async def in_task() -> Any:
            return await getattr(space, f"a{method}")(*args, **kwargs)

        doing["sync"] = lambda: getattr(space, method)(*args, **kwargs)
        doing["async"] = in_task
        return ask(request.param, headers=headers or {})

    return do


@pytest.fixture
def with_middleware() -> Iterator[Callable[..., None]]:
    """Return settings with the middleware."""
    contexts = []

    def use(*middleware: str, **settings: Any) -> None:
        contexts.append(override_settings(MIDDLEWARE=middleware or [OURS], ROOT_URLCONF=urlpatterns, **settings))
        contexts[-1].__enter__()

    yield use
    for context in reversed(contexts):
        context.__exit__(None, None, None)


# --- Before the response


def test_what_a_request_invalidates_is_seen_by_all_when_the_response_is_there(
    site: Site, with_middleware: Any, act: Any
) -> None:
    site(other=OTHER)
    with_middleware()
    mine, other = cache_of(), cache_of("other")
    mine.set_many({"a": 1, "b": 2})
    assert other.get_many(["a", "b"]) == {"a": 1, "b": 2}
    for key in ("a", "b"):
        assert b"Receipt" in act(mine, "invalidate", key, wait="response").content
        assert other.get(key) is None


def test_a_view_that_raises_has_invalidated_all_the_same(site: Site, with_middleware: Any) -> None:
    site(other=OTHER)
    with_middleware()
    mine, other = cache_of(), cache_of("other")

    def fail() -> None:
        mine.invalidate("a", wait="response")
        raise ZeroDivisionError

    async def afail() -> None:
        await mine.ainvalidate("a", wait="response")
        raise ZeroDivisionError

    doing["sync"], doing["async"] = fail, afail
    for name in doing:
        mine.set("a", 1)
        assert other.get("a") == 1
        with pytest.raises(ZeroDivisionError):
            ask(name)
        assert other.get("a") is None


def test_what_is_invalidated_on_commit_is_seen_by_all_when_the_response_is_there(
    site: Site, with_middleware: Any
) -> None:
    cache = site(other=OTHER)
    with_middleware()

    def write(*keys: str, tags: Any = ()) -> str:
        with transaction.atomic():
            invalidate_on_commit("default", *keys, tags=tags)
            return "written"

    for gone, work in [("tea", partial(write, "tea")), ("tagged", partial(write, tags=["shelf"]))] * 10:
        doing["sync"] = work
        cache.set("tea", 1)
        cache.set("tagged", 1, tags=("shelf",))
        assert caches["other"].get_many(["tea", "tagged"]) == {"tea": 1, "tagged": 1}
        assert ask("sync").content == b"written"
        assert gone not in caches["other"]


def test_each_cache_of_the_project_has_a_scope_and_none_outlives_the_request(site: Site, with_middleware: Any) -> None:
    site(other={"LOCATION": "second"}, locmem={"BACKEND": "django.core.cache.backends.locmem.LocMemCache"})
    with_middleware()
    doing["sync"] = lambda: [current(cache_of(alias)) is not None for alias in ("default", "other")]
    assert ask("sync").content == b"[True, True]"
    assert current(cache_of()) is None


def test_the_first_request_has_the_process_join(site: Site, with_middleware: Any, act: Any) -> None:
    site()
    with_middleware()
    assert cache_of().members() == []
    act(cache_of(), "get", "x")
    assert len(cache_of().members()) == 1


def test_a_fence_of_one_request_is_none_of_the_next(site: Site, with_middleware: Any) -> None:
    """Because the thread of a worker answers one request after another."""
    cache = site(default={"OPTIONS": {"fence": True}}, other=OTHER)
    with_middleware()
    doing["sync"] = lambda: cache.get("tea")
    client = Client()
    client.get("/sync")
    caches["other"].delete("tea")
    doing["sync"] = lambda: cache.set("tea", "written")
    client.get("/sync")
    assert caches["other"].get("tea") == "written"


# --- Around it


def test_within_colocaches_own_middleware_it_does_nothing(site: Site, with_middleware: Any) -> None:
    from django.core.handlers.wsgi import WSGIHandler
    from django.test import RequestFactory

    site()
    with_middleware(COLOCACHE_MIDDLEWARE={"debug_header": True})
    scopes = []

    def look() -> None:
        scopes.append(len([each for each in tallies.get() if each.member is cache_of()._member]))

    doing["sync"] = look
    application = colocache.wsgi.CacheMiddleware(WSGIHandler(), cache_of(), debug_header=True)
    headers: list[Any] = []
    environ = RequestFactory().get("/sync").environ
    list(application(environ, lambda status, got, *rest: headers.extend(got) or (lambda data: None)))
    assert scopes == [1]
    assert [name for name, _ in headers].count("Server-Timing") == 1
    ask("sync")
    assert scopes == [1, 1]


def test_twice_is_once(site: Site, with_middleware: Any, act: Any) -> None:
    site()
    with_middleware(OURS, OURS, COLOCACHE_MIDDLEWARE={"debug_header": True})
    response = act(cache_of(), "get", "x")
    assert response["Server-Timing"].count("colocache") == 1


def test_settings_say_what_else_it_does(site: Site, with_middleware: Any, act: Any) -> None:
    cache = site(other={"LOCATION": "second"})
    with_middleware(COLOCACHE_MIDDLEWARE={"debug_header": True, "barrier": "cookie", "barrier_name": "seen"})
    response = act(cache_of(), "get", "x")
    assert response["Server-Timing"].count("colocache") == 2
    assert not response.cookies
    response = act(cache_of(), "invalidate", "x", wait=False)
    assert set(response.cookies) == {"seen"}
    carried = response.cookies["seen"]
    assert (carried["httponly"], carried["path"], carried["samesite"]) == (True, "/", "Lax")
    response = act(cache_of("other"), "invalidate", "x", wait=False)
    assert set(response.cookies) == {"seen-2"}
    response = act(cache.group.cache, "get", "x", headers={"cookie": f"seen={carried.value}; seen-2=nonsense"})
    assert response.status_code == 200


def test_the_barrier_waits_for_what_the_client_has_announced(
    site: Site, with_middleware: Any, act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site()
    with_middleware(COLOCACHE_MIDDLEWARE={"barrier": "header", "barrier_name": "X-Seen"})
    waited = []
    monkeypatch.setattr(Cache, "catch_up", lambda self, position, timeout=None: waited.append(position) or True)

    async def acatch_up(self: Any, position: str, timeout: float | None = None) -> bool:
        waited.append(position)
        return True

    monkeypatch.setattr(Cache, "acatch_up", acatch_up)
    position = act(cache_of(), "invalidate", "x", wait=False)["X-Seen"]
    act(cache_of(), "get", "x", headers={"X-Seen": position})
    assert waited == [position]


@pytest.mark.parametrize("given", [{"barrier": "letter"}, {"unheard_of": 1}, {"barrier": True, "barrier_name": "a b"}])
def test_settings_that_make_no_sense_are_named(site: Site, given: Any) -> None:
    site()
    says = "COLOCACHE_MIDDLEWARE"
    with override_settings(COLOCACHE_MIDDLEWARE=given), pytest.raises(ImproperlyConfigured, match=says):
        CacheMiddleware(lambda request: HttpResponse())


def test_without_a_cache_of_ours_it_is_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MiddlewareNotUsed):
        CacheMiddleware(lambda request: HttpResponse())
    monkeypatch.setenv("COLOCACHE_DISABLED", "true")
    site()
    with pytest.raises(MiddlewareNotUsed):
        CacheMiddleware(lambda request: HttpResponse())


def test_trouble_with_the_cache_fails_no_request(site: Site, with_middleware: Any, act: Any, caplog: Any) -> None:
    site()
    with_middleware()
    cache_of().close()
    doing["sync"] = lambda: "answered"

    async def answer() -> str:
        return "answered"

    doing["async"] = answer
    assert ask("sync").content == ask("async").content == b"answered"
    assert "closed" in caplog.text


def test_under_asgi_no_thread_stands_between(site: Site, with_middleware: Any) -> None:
    site()
    with_middleware()

    async def thread() -> str:
        return threading.current_thread().name

    doing["async"] = thread
    assert ask("async").content.decode() == threading.current_thread().name
    assert CacheMiddleware.async_capable
    assert CacheMiddleware.sync_capable


# --- Checks


def test_a_good_configuration_has_nothing_to_be_said_about(site: Site) -> None:
    site(other={"KEY_PREFIX": "x", "OPTIONS": {"fence": True}}, second={"LOCATION": "second", **OTHER})
    assert check_caches() == []
    call_command("check")


@pytest.mark.parametrize(
    ("config", "identity", "says"),
    [
        ({}, "colocache.E001", "LOCATION"),
        ({"LOCATION": ""}, "colocache.E001", "LOCATION"),
        ({"LOCATION": "x", "OPTIONS": {"MAX_ENTRIES": 5}}, "colocache.W002", "MAX_ENTRIES"),
        ({"LOCATION": "x", "OPTIONS": {"CULL_FREQUENCY": 5}}, "colocache.W002", "CULL_FREQUENCY"),
    ],
)
def test_likely_mistakes_are_told(config: Any, identity: str, says: str) -> None:
    caches_ = {"default": {"BACKEND": project.BACKEND, **config}}
    with override_settings(CACHES=caches_):
        (found,) = check_caches()
        assert (found.id, says in found.msg, bool(found.hint)) == (identity, True, True)


def test_one_group_with_different_options_is_told(run_dir: str) -> None:
    aliases = {
        "a": {"LOCATION": "x", "OPTIONS": {"memory": "8MiB"}},
        "b": {"LOCATION": "x", "OPTIONS": {"codec": "pickle"}},
        "c": {"LOCATION": "y"},
    }
    with override_settings(CACHES={alias: {"BACKEND": project.BACKEND, **each} for alias, each in aliases.items()}):
        (found,) = check_caches()
    assert found.id == "colocache.W003"
    assert "'a', 'b'" in found.msg


def test_a_place_that_cannot_be_used_is_told_once_for_all_who_have_it(run_dir: str, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    bad = {"OPTIONS": {"directory": str(tmp_path / "file")}}
    aliases = {"a": {"LOCATION": "x", **bad}, "b": {"LOCATION": "y", **bad}, "c": {"LOCATION": "z"}}
    with override_settings(CACHES={alias: {"BACKEND": project.BACKEND, **each} for alias, each in aliases.items()}):
        (found,) = check_caches()
    assert found.id == "colocache.W005"
    assert "'a', 'b'" in found.msg
    assert "is something else, not a directory" in found.msg


def test_manage_check_tells(site: Site) -> None:
    site(other={"LOCATION": "test", **OTHER})
    with pytest.raises(SystemCheckError, match=r"colocache\.W003"):
        call_command("check", fail_level="WARNING")


# --- What starts nothing


IDLE = """\
import os, threading
from django.conf import settings
settings.configure(
    CACHES={"default": {"BACKEND": "colocache.django.ColocacheCache", "LOCATION": "idle"}},
    INSTALLED_APPS=["colocache.django"], MIDDLEWARE=["colocache.django.CacheMiddleware"], ROOT_URLCONF=__name__,
    SECRET_KEY="x",
)
urlpatterns = []
import django
django.setup()
from django.core.cache import cache, caches
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from colocache.django import cache_of
call_command("check")
get_wsgi_application()
caches["default"].make_key("x")
own = cache_of().namespace("x")
@own.cached()
def f(x): ...
caches.close_all()
assert threading.active_count() == 1, threading.enumerate()
assert os.listdir(os.environ["COLOCACHE_DIR"]) == []
"""


def test_importing_configuring_and_commands_start_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    environment = {"COLOCACHE_DIR": str(tmp_path / "run"), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IDLE], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_package_can_be_imported_before_settings_are_there() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import colocache.django; print(colocache.django.__all__)"],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_logging_is_quiet_in_peace(site: Site, with_middleware: Any, act: Any, caplog: Any) -> None:
    cache = site(other=OTHER)
    with_middleware()
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            cache.set("key", number)
            act(cache, "delete", "key")
    # The two caches stand for two processes here, but the warning that they are in one process is right.
    assert not [each for each in caplog.records if "colocache" in each.name and "two caches" not in each.getMessage()]
