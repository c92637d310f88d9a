"""``cache_page``, template fragments and sessions: they work, are shared, and are never filled with what is stale."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("tests.django.project")  # sets Django up

from django.contrib.sessions.backends.cached_db import SessionStore as CachedDbStore
from django.core.cache import caches
from django.core.cache.utils import make_template_fragment_key
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.utils.cache import get_cache_key, learn_cache_key

from colocache import Space
from colocache.django import invalidate_on_commit, pages
from colocache.django.checks import check_caches
from colocache.scope import Scope
from tests.django import project

Site = Callable[..., Any]
OURS = "colocache.django.CacheMiddleware"
UPDATE, FETCH = (f"django.middleware.cache.{name}Middleware" for name in ("UpdateCache", "FetchFromCache"))
OTHER = {"OPTIONS": {"memory": "32MiB"}}  # another member of the group, as in another process


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What pages are made of: counts what was asked of it, and lets a test in between."""

    class Source:
        def __init__(self) -> None:
            self.version = 1
            self.reads = 0
            self.after_reading: list[Callable[[], object]] = []

        def __call__(self) -> str:
            self.reads += 1
            read = f"version {self.version}"
            while self.after_reading:
                self.after_reading.pop()()
            return read

    made = Source()
    monkeypatch.setattr(project, "source", made)
    return made


@pytest.fixture
def keep(source: Any) -> Callable[..., Any]:
    """Asks for a page twice, the second time in vain for the source, and returns its key."""

    def ask(cache: Any, path: str, **headers: str) -> Any:
        get(path, **headers)
        reads = source.reads
        get(path, **headers)
        assert source.reads == reads, "the page is not kept"
        return get_cache_key(RequestFactory().get(path, headers=headers), key_prefix="", cache=cache)

    return ask


def get(path: str, **headers: str) -> HttpResponse:
    """Ask in a context of its own, as for a server's request."""
    return contextvars.Context().run(Client().get, path, headers=headers)  # type: ignore[no-any-return]


async def _aget(path: str) -> HttpResponse:
    return await AsyncClient().get(path)  # type: ignore[no-any-return]


def aget(path: str) -> HttpResponse:
    """Ask over the asynchronous handler."""
    return asyncio.run(_aget(path))


def elsewhere(alias: str, call: str, *args: Any, **kwargs: Any) -> Any:
    """Use a cache in a context of its own, as another process does."""
    return contextvars.Context().run(getattr(caches[alias], call), *args, **kwargs)


@contextmanager
def answered_by(alias: str) -> Iterator[None]:
    """Have the page middlewares use another alias: the requests are then those of another process."""
    with override_settings(CACHE_MIDDLEWARE_ALIAS=alias):
        yield


# --- They work


@pytest.mark.parametrize("path", ["/page", "/templated", "/fragment", "/asynchronous", "/fragment_in_async"])
@pytest.mark.parametrize("ask", [get, aget], ids=["wsgi", "asgi"])
def test_a_page_is_made_once(site: Site, source: Any, path: str, ask: Callable[[str], HttpResponse]) -> None:
    cache = site()
    first = ask(path)
    assert b"version 1" in first.content
    source.version = 2
    for _ in range(3):
        again = ask(path)
        assert again.content == first.content
        assert set(again.headers) - {"Age"} == set(first.headers)
    assert source.reads == 1
    cache.clear()
    assert b"version 2" in ask(path).content


def test_a_page_is_shared_by_the_group_with_all_that_is_in_it(site: Site, source: Any, keep: Any) -> None:
    cache = site(other=OTHER)
    with override_settings(MIDDLEWARE=["django.middleware.clickjacking.XFrameOptionsMiddleware"]):
        first = get("/varied", x_colour="red")
        found = caches["other"].get(keep(cache, "/varied", x_colour="red"))
    assert (found.content, found["Content-Type"]) == (b"version 1 in red", "text/plain")
    assert found.cookies.output() == first.cookies.output() != ""
    assert "X-Frame-Options" not in first  # what the view's decorator has left in the response is there on a hit, too
    assert found.xframe_options_exempt is True
    with override_settings(MIDDLEWARE=["django.middleware.clickjacking.XFrameOptionsMiddleware"]):
        assert "X-Frame-Options" not in get("/varied", x_colour="red")


def test_a_page_that_varies_is_kept_for_each_value(site: Site, source: Any) -> None:
    site()
    for colour in ("red", "blue", "red", "blue"):
        assert get("/varied", x_colour=colour).content == f"version 1 in {colour}".encode()
    assert source.reads == 2


def test_the_site_wide_middlewares_work_under_wsgi_and_asgi(site: Site, source: Any) -> None:
    site()
    with override_settings(MIDDLEWARE=[OURS, UPDATE, FETCH], CACHE_MIDDLEWARE_SECONDS=60):
        assert get("/fragment").content == aget("/fragment").content
        assert "Age" in get("/fragment")
    assert source.reads == 1


def test_where_the_fence_would_be_gone_no_page_is_kept_and_a_check_tells_why(site: Site, source: Any) -> None:
    site(other=OTHER)
    with override_settings(MIDDLEWARE=[UPDATE, OURS, FETCH], CACHE_MIDDLEWARE_SECONDS=60):
        assert [each.id for each in check_caches() if "UpdateCache" in each.msg] == ["colocache.W004"]

        def invalidate() -> None:
            source.version = 2
            elsewhere("other", "clear")

        source.after_reading.append(invalidate)
        assert b"version 1" in get("/fragment").content
        assert b"version 2" in get("/fragment").content
        assert "Age" not in get("/fragment")


@pytest.mark.parametrize("backend", ["cache", "cached_db"])
@pytest.mark.parametrize("path", ["/counted", "/counted_in_async"])
def test_sessions_count(site: Site, backend: str, path: str) -> None:
    site(other=OTHER)
    sessions = "django.contrib.sessions.middleware.SessionMiddleware"
    with override_settings(MIDDLEWARE=[sessions], SESSION_ENGINE=f"django.contrib.sessions.backends.{backend}"):
        client = Client()
        assert [client.get(path).content for _ in range(3)] == [b"1", b"2", b"3"]
        with override_settings(SESSION_CACHE_ALIAS="other"):  # what was written is seen at once
            assert client.get(path).content == b"4"
        assert client.get(path).content == b"5"

        async def story() -> list[bytes]:
            aclient = AsyncClient()
            return [(await aclient.get(path)).content for _ in range(3)]

        assert asyncio.run(story()) == [b"1", b"2", b"3"]
        client.session.flush()
        assert client.get(path).content == b"1"


def test_sessions_carry_what_django_and_its_users_put_there(site: Site) -> None:
    from django.contrib.sessions.backends.cache import SessionStore
    from django.utils.safestring import mark_safe

    site(other=OTHER)
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cache"):
        store = SessionStore()
        store["_auth_user_id"] = "1"
        store["basket"] = {"items": [("tea", 2)], "note": mark_safe("<b>")}
        store.set_expiry(300)
        store.save()
        with override_settings(SESSION_CACHE_ALIAS="other"):
            found = SessionStore(store.session_key)
            assert found["basket"] == store["basket"]
            assert type(found["basket"]["note"]) is type(mark_safe(""))
            assert found.get_expiry_age() == 300
            found.cycle_key()
        assert SessionStore(store.session_key).load() == {}


def test_switched_off_every_page_is_made_anew(site: Site, source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOCACHE_DISABLED", "true")
    site()
    for path in ("/page", "/templated", "/fragment", "/asynchronous"):
        for _ in range(2):
            assert (get(path).status_code, aget(path).status_code) == (200, 200)
    assert source.reads == 16


# --- The race: get, miss, an invalidation, set


def test_a_page_read_before_an_invalidation_is_not_kept(site: Site, source: Any, keep: Any) -> None:
    """1. A misses, and reads; 2. all is invalidated; 3. A sets its page; 4. B asks."""
    site(other=OTHER)

    def invalidate() -> None:
        source.version = 2
        elsewhere("other", "clear")

    source.after_reading.append(invalidate)
    assert get("/page").content == b"version 1"
    with answered_by("other"):
        assert get("/page").content == b"version 2"
    assert get("/page").content == b"version 2"
    keep(caches["default"], "/page")


def test_nor_one_whose_headers_somebody_learns_again(site: Site, source: Any) -> None:
    """1. A misses the headers; 2. all is invalidated; 3. B learns them; 4. A sets its page; 5. C asks for the page."""
    site(other=OTHER)

    def invalidate() -> None:
        source.version = 2
        elsewhere("other", "clear")
        # Another method of the same URL has the same headers, and a page of its own.
        contextvars.Context().run(Client().head, "/page")

    source.after_reading.append(invalidate)
    assert get("/page").content == b"version 1"
    assert get("/page").content == b"version 2"


def test_nor_one_that_is_deleted_by_its_key(site: Site, source: Any, keep: Any) -> None:
    key = keep(site(other=OTHER), "/page")

    def invalidate() -> None:
        source.version = 3
        elsewhere("other", "delete", key)

    source.version = 2
    assert elsewhere("other", "delete", key) is True
    source.after_reading.append(invalidate)
    assert get("/page").content == b"version 2"
    assert get("/page").content == b"version 3"


def test_nor_one_whose_headers_were_there_while_it_was_not(site: Site, source: Any, keep: Any) -> None:
    """1. A finds the headers, misses the page, and reads; 2. the page is deleted; 3. A sets it."""
    cache = site(other=OTHER)
    key = keep(cache, "/page")
    cache.group.values.invalidate(*cache.wires([key])[:1])  # the page alone, as by expiry

    def invalidate() -> None:
        source.version = 2
        elsewhere("other", "delete", key)

    source.after_reading.append(invalidate)
    assert get("/page").content == b"version 1"
    assert get("/page").content == b"version 2"


def test_a_page_that_outlived_its_headers_is_replaced_or_invalidated(site: Site, source: Any, keep: Any) -> None:
    cache = site(other=OTHER)
    key = keep(cache, "/page")
    headers = pages.headers_key(key)
    cache.delete(headers)  # as by expiry, or because there was no room
    source.version = 2
    assert get("/page").content == b"version 2"
    keep(cache, "/page")
    assert caches["other"].get(key).content == b"version 2"
    cache.delete(headers)
    source.after_reading.append(lambda: elsewhere("other", "delete", key))
    assert get("/page").content == b"version 2"
    assert caches["other"].get(key) is None


def test_nor_a_page_that_took_longer_than_fences_hold(site: Site, source: Any, keep: Any) -> None:
    site(default={"OPTIONS": {"load_timeout": 0.3}})
    began = threading.Event()
    source.after_reading.append(lambda: began.wait(0.35))  # the one way to let time pass
    assert get("/page").content == b"version 1"
    source.version = 2
    assert get("/page").content == b"version 2"

    keep(caches["default"], "/page")  # what is made in time is


def test_a_template_fragment_read_before_an_invalidation_is_not_kept(site: Site, source: Any, keep: Any) -> None:
    site(other=OTHER)

    def invalidate() -> None:
        source.version = 2
        elsewhere("other", "delete", make_template_fragment_key("tea"))

    source.after_reading.append(invalidate)
    assert b"version 1" in get("/fragment").content
    assert b"version 2" in get("/fragment").content
    keep(caches["default"], "/fragment")


def test_so_it_is_under_asgi(site: Site, source: Any) -> None:
    site(other=OTHER)
    for path in ("/asynchronous", "/fragment_in_async"):
        source.version = 1

        def invalidate() -> None:
            source.version = 2
            elsewhere("other", "clear")

        source.after_reading.append(invalidate)
        assert b"version 1" in aget(path).content
        assert b"version 2" in aget(path).content


def test_a_session_read_from_the_database_before_it_was_saved_is_not_kept(site: Site) -> None:
    """1. A misses, and reads the row; 2. B saves; 3. A sets what it has read; 4. C asks."""
    site(other=OTHER)
    with override_settings(SESSION_ENGINE="django.contrib.sessions.backends.cached_db"):
        first = CachedDbStore()
        first["name"] = "old"
        first.save()
        caches["default"].delete(first.cache_key)  # it left the cache

        class Slow(CachedDbStore):
            def decode(self, session_data: str) -> dict[str, Any]:
                read: dict[str, Any] = super().decode(session_data)
                contextvars.Context().run(save)
                return read

        Slow.__qualname__ = CachedDbStore.__qualname__  # Django signs with it

        def save() -> None:
            with override_settings(SESSION_CACHE_ALIAS="other"):
                other = CachedDbStore(first.session_key)
                other._session_cache = {"name": "new"}
                other.save()

        assert Slow(first.session_key)["name"] == "old"
        assert CachedDbStore(first.session_key)["name"] == "new"
        with override_settings(SESSION_CACHE_ALIAS="other"):
            assert CachedDbStore(first.session_key)["name"] == "new"


def test_many_requests_and_invalidations_at_once_never_leave_an_old_page(site: Site, source: Any, crew: Any) -> None:
    site(other=OTHER)
    over = threading.Event()

    def ask() -> int:
        asked = 0
        while not over.is_set():
            get("/page")
            get("/fragment")
            asked += 1
        return asked

    crew.start(ask, times=3)
    stale = []
    for version in range(2, 60):
        source.version = version
        elsewhere("other", "clear")
        for path in ("/page", "/fragment"):
            if f"version {version}".encode() not in get(path).content:
                stale.append((path, version))
    over.set()
    assert all(asked > 0 for asked in crew.join())
    assert stale == []


def test_an_event_between_any_two_steps_of_setting_a_page_keeps_it_out(site: Site, source: Any, keep: Any) -> None:
    """The headers were missed, and the page is there, or not: whatever comes between two steps, no old page stays."""
    cache = site(other=OTHER)
    for is_there in (False, True):
        for pause in range(1, 6):
            key = keep(cache, "/page")
            cache.delete(pages.headers_key(key))
            if not is_there:
                cache.delete(key)

            def story(pause: int = pause, key: str = key) -> int:
                assert cache.get(pages.headers_key(key)) is None
                cache.set(pages.headers_key(key), [], 60)
                steps, is_elsewhere = 0, False

                def counted(call: Any) -> Any:
                    def step(space: Space, *args: Any, **kwargs: Any) -> Any:
                        nonlocal steps, is_elsewhere
                        if not is_elsewhere:
                            steps += 1
                            if steps == pause:
                                is_elsewhere = True
                                elsewhere("other", "delete", key)
                                is_elsewhere = False
                        return call(space, *args, **kwargs)

                    return step

                with pytest.MonkeyPatch.context() as patch:
                    for name in ("get", "gets", "set", "cas"):
                        patch.setattr(Space, name, counted(getattr(Space, name)))
                    cache.set(key, HttpResponse("old"), 60)
                return steps

            steps = contextvars.Context().run(story)
            assert steps >= 2
            found = caches["other"].get(key)
            assert found is None or pause > steps, (is_there, pause, steps)


# --- The habits of those who use Django's functions themselves


def test_who_learns_a_key_finds_it(site: Site) -> None:
    cache = site(other=OTHER)
    request, response = RequestFactory().get("/x"), HttpResponse("x")
    assert get_cache_key(request, cache=cache) is None
    learnt = learn_cache_key(request, response, 60, cache=cache)
    assert get_cache_key(request, cache=cache) == learnt
    assert get_cache_key(request, cache=caches["other"]) == learnt


def test_who_warms_a_page_up_stores_it(site: Site) -> None:
    cache = site(other=OTHER)
    request, response = RequestFactory().get("/x"), HttpResponse("x")
    cache.set(learn_cache_key(request, response, 60, cache=cache), response, 60)
    key = get_cache_key(request, cache=caches["other"])
    assert caches["other"].get(key).content == b"x"
    assert caches["other"].get_many([key])[key].content == b"x"
    cache.set_many({key: HttpResponse("y")})
    assert caches["other"].get(key).content == b"y"


def test_what_an_earlier_request_has_missed_is_no_matter(site: Site) -> None:
    """A worker's thread answers one request after another; one of them misses, fails, and never sets."""
    cache = site(other=OTHER)
    key = make_template_fragment_key("warm")
    with Scope(cache.group.cache):
        assert cache.get(key) is None
    caches["other"].delete(key)
    with Scope(cache.group.cache):
        cache.set(key, "warmed")
    assert caches["other"].get(key) == "warmed"


@pytest.mark.parametrize("alias", ["default", "fenced"])
@pytest.mark.parametrize("key", ["tea", "template.cache.tea", "django.contrib.sessions.cached_dbtea"])
@pytest.mark.parametrize(
    "delete",
    [lambda cache, key: cache.delete(key), lambda cache, key: cache.delete_many([key]), lambda cache, _: cache.clear()],
    ids=["delete", "delete_many", "clear"],
)
def test_who_deletes_what_he_has_missed_may_set_it(site: Site, alias: str, key: str, delete: Any) -> None:
    site(fenced={"OPTIONS": {"fence": True}})
    cache = caches[alias]
    assert cache.get(key) is None
    delete(cache, key)
    cache.set(key, "made since")
    assert cache.get(key) == "made since"


def test_who_clears_pages_may_set_them(site: Site) -> None:
    """As Django's own middleware does for a page that nobody has asked for since."""
    cache = site()
    request, response = RequestFactory().get("/x"), HttpResponse("x")
    assert get_cache_key(request, cache=cache) is None
    learn_cache_key(request, response, 60, cache=cache)
    cache.clear()
    assert get_cache_key(request, cache=cache) is None, "what was learnt before is gone, too"
    cache.clear()
    cache.set(learn_cache_key(request, response, 60, cache=cache), response, 60)
    assert cache.get(get_cache_key(request, cache=cache)).content == b"x"


def test_what_was_read_before_the_own_commit_is_not_kept(site: Site) -> None:
    """The row is written, and with it goes what this very request has read of it before."""
    cache = site()
    key = make_template_fragment_key("tea")
    assert cache.get(key) is None
    invalidate_on_commit("default", key)
    cache.set(key, "read before")
    assert cache.get(key) is None


def test_a_pages_key_names_its_headers_key(site: Site) -> None:
    cache = site()
    for prefix in ("", "a.b", "with.GET.in.it"):
        for accept in ("", "de"):
            request = RequestFactory().get("/x?y=1", headers={"x-colour": accept})
            response = HttpResponse("x", headers={"Vary": "X-Colour"})
            with override_settings(USE_TZ=not prefix, USE_I18N=not accept):
                key = learn_cache_key(request, response, 60, prefix, cache=cache)
                headers = pages.headers_key(key)
                assert headers is not None
                assert cache.get(headers) == ["HTTP_X_COLOUR"]
    assert pages.headers_key("views.decorators.cache.cache_page.odd") is None
    assert pages.headers_key(5) is None


def test_misses_are_not_collected_for_ever(site: Site) -> None:
    cache = site()
    for number in range(3 * pages.MAX_MISSED):
        cache.get(f"template.cache.{number}")
    missed = pages._missed.get()
    assert missed is not None
    assert len(missed) == pages.MAX_MISSED
