"""The dashboard as an application: alone, and mounted in Django, Flask and FastAPI. No browser takes part."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from colocache import Cache
from colocache.dashboard import make_asgi_app, make_wsgi_app
from colocache.dashboard.application import LARGEST
from tests import ROOT
from tests.conftest import NewCache

TOKEN = "a token of this test alone"


class Answer:
    """What an application has answered."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self) -> str:
        return self.body.decode()


Ask = Callable[..., Answer]


def ask_wsgi(cache: Cache, **settings: Any) -> Ask:
    """Return what asks a WSGI application, which keeps to the rules."""
    import io

    application = validator(make_wsgi_app(cache, **settings))

    def ask(path: str = "/", method: str = "GET", form: Any = None, root: str = "", **headers: str) -> Answer:
        place, _, query = path.partition("?")
        body = urlencode(form or {}).encode()
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method, "PATH_INFO": place, "SCRIPT_NAME": root, "QUERY_STRING": query,
            **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
        }  # fmt: skip
        if form is not None:
            environ |= {
                "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)),
                "CONTENT_TYPE": headers.get("type", "application/x-www-form-urlencoded"),
            }  # fmt: skip
        setup_testing_defaults(environ)
        begun: list[Any] = []
        found = application(environ, lambda *given: begun.extend(given))
        chunks = b"".join(found)
        found.close()  # type: ignore[attr-defined]
        return Answer(int(begun[0].split()[0]), dict(begun[1]), chunks)

    return ask


def ask_asgi(cache: Cache, **settings: Any) -> Ask:
    """Return what asks an ASGI application."""
    application = make_asgi_app(cache, **settings)

    def ask(path: str = "/", method: str = "GET", form: Any = None, root: str = "", **headers: str) -> Answer:
        place, _, query = path.partition("?")
        kind = headers.pop("type", "application/x-www-form-urlencoded")
        scope = {
            "type": "http", "method": method, "path": root + place, "root_path": root, "query_string": query.encode(),
            "headers": [(name.encode().replace(b"_", b"-"), value.encode()) for name, value in headers.items()]
            + [(b"host", b"127.0.0.1"), (b"content-type", kind.encode())],
        }  # fmt: skip
        body = urlencode(form or {}).encode()
        parts = [
            {"type": "http.request", "body": body[:5], "more_body": True},
            {"type": "http.request", "body": body[5:], "more_body": False},
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return parts.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(application(scope, receive, send))
        found = {name.decode().title(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], {name.title(): value for name, value in found.items()}, sent[1]["body"])

    return ask


@pytest.fixture(params=[ask_wsgi, ask_asgi], ids=["wsgi", "asgi"])
def mount(request: pytest.FixtureRequest) -> Callable[..., Ask]:
    """Return what mounts the dashboard of a cache, in both forms."""
    found: Callable[..., Ask] = request.param
    return found


def filled(cache: Cache) -> Cache:
    """Return a cache in which a function was read ten times, and loaded once."""

    @cache.cached(ttl=60, name="shop.prices:price", tags=lambda sku: (f"product:{sku}",))
    def price(sku: str) -> str:
        return f"a secret value {sku}"

    for _ in range(10):
        price("tea")
    return cache


def test_it_joins_when_it_is_asked_and_shows_what_was_counted(mount: Callable[..., Ask], new_cache: NewCache) -> None:
    cache = new_cache()
    ask = mount(cache)
    assert cache.members() == []
    filled(cache)
    page = ask()
    assert page.status == 200
    assert "shop.prices:" in page.text
    assert "90.0\u202f%" in page.text
    assert "shop.prices:price" in page.text
    assert "secret" not in page.text
    live = json.loads(ask("/?live=1").body)
    assert live["samples"][-1][1][0] == [None, [10, 9, 1, pytest.approx(0, abs=1), pytest.approx(0, abs=1)]]
    assert {"figures", "functions", "events", "seats"} <= live["parts"].keys()
    assert json.loads(ask(f"/?live=1&after={live['samples'][-1][0]}").body)["samples"] == []
    assert ask("/space?of=shop.prices%3Aprice").status == 200
    assert ask("/space?of=nobody").status == 404
    found = ask("/keys?like=tea&in=shop.prices%3Aprice")
    key = re.search(r'href="(/key\?k=[0-9a-f]+)"', found.text)
    assert key is not None
    assert "product:tea" in ask(key[1]).text
    assert "secret" not in found.text + ask(key[1]).text


def test_all_addresses_are_below_the_place_where_it_is_mounted(mount: Callable[..., Ask], cache: Cache) -> None:
    ask = mount(filled(cache))
    assert ask("", root="/ops/cache").headers["Location"] == "/ops/cache/"
    page = ask("/", root="/ops/cache")
    addresses = re.findall(r'(?:href|src|action)="([^"#]+)"', page.text)
    assert len(addresses) > 5
    assert all(each.startswith("/ops/cache/") for each in addresses)
    for each in re.findall(r'(?:href|src)="/ops/cache(/static/[^"]+)"', page.text):
        asset = ask(each, root="/ops/cache")
        assert asset.status == 200
        assert "immutable" in asset.headers["Cache-Control"]
    assert ask("/static/0/dashboard.js").status == 404


HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/?live=1", "/keys", "/nobody", "/key?k=zz", "/space?of=x"])
def test_each_answer_says_what_a_browser_may_do(mount: Callable[..., Ask], cache: Cache, path: str) -> None:
    answer = mount(filled(cache))(path)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=", answer.text)


def test_without_a_token_nothing_can_be_changed(mount: Callable[..., Ask], cache: Cache) -> None:
    ask = mount(filled(cache))
    for path in ("/act", "/login", "/logout", "/"):
        form = {"kind": "namespace", "name": "", "sure": "yes", "csrf": ""}
        assert ask(path, "POST", form).status == 403
    assert ask("/", "DELETE").status == 405
    assert "<form" not in re.sub(r'<form[^>]*role="search".*?</form>', "", ask("/keys").text, flags=re.S)
    assert len([*cache.entries()]) == 1


def logged_in(ask: Ask) -> tuple[str, str]:
    """Return the cookie of a new session, and what its forms carry."""
    answer = ask("/login", "POST", {"token": TOKEN})
    assert answer.status == 303
    cookie = answer.headers["Set-Cookie"]
    assert re.fullmatch(r"colocache_dashboard=\S+; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict", cookie)
    value = cookie.partition(";")[0]
    csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', ask("/", cookie=value).text)
    assert csrf is not None
    return value, csrf[1]


def test_who_has_not_given_the_token_sees_nothing(mount: Callable[..., Ask], cache: Cache) -> None:
    ask = mount(filled(cache), token=TOKEN)
    for path in ("/", "/keys", "/space?of=shop.prices%3Aprice", "/nobody"):
        assert "Log in" in ask(path).text
        assert "shop" not in ask(path).text
    assert ask("/?live=1").status == 403
    for wrong in ("", TOKEN + "x", TOKEN[:-1], "\u00e9" * 20, "\ud800"):
        form = {"token": wrong.encode("utf-8", "surrogatepass")}
        assert ask("/login", "POST", form).status == 403
    cookie, _ = logged_in(ask)
    forgeries = [cookie[:-1], cookie + "0", cookie.replace("=", "=1"), "=;;;"]
    for forged in (*forgeries, *[f"colocache_dashboard={each}" for each in ("", "a.b", "\u00e9.b.c")]):
        assert "Log in" in ask("/", cookie=forged).text
    assert "shop.prices" in ask("/", cookie=f"other=1; {cookie}").text
    other = mount(cache, token=TOKEN + " of another one")
    assert "Log in" in other("/", cookie=cookie).text


def test_a_session_ends(mount: Callable[..., Ask], cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = mount(filled(cache), token=TOKEN)
    cookie, csrf = logged_in(ask)
    assert "Max-Age=0" in ask("/logout", "POST", {"csrf": csrf}, cookie=cookie).headers["Set-Cookie"]
    import time

    later = time.time() + 12 * 3600 + 1
    monkeypatch.setattr("colocache.dashboard.sessions.time.time", lambda: later)
    assert "Log in" in ask("/", cookie=cookie).text


def test_a_form_of_another_session_changes_nothing(mount: Callable[..., Ask], cache: Cache) -> None:
    ask = mount(filled(cache), token=TOKEN)
    (cookie, csrf), (_, other) = logged_in(ask), logged_in(ask)
    form = {"kind": "namespace", "name": "shop.prices:price", "sure": "yes"}
    for wrong in ({}, {"csrf": ""}, {"csrf": other}, {"csrf": csrf + "0"}, {"csrf": "\u00e9"}):
        assert ask("/act", "POST", form | wrong, cookie=cookie).status == 403
    assert ask("/act", "POST", form | {"csrf": csrf}).status == 403
    assert ask("/act", "POST", form | {"csrf": csrf}, cookie=cookie, sec_fetch_site="cross-site").status == 403
    assert ask("/act", "POST", form | {"csrf": csrf}, cookie=cookie, type="text/plain").status == 400
    assert ask("/act", "POST", {"x": "y" * LARGEST, "csrf": csrf}, cookie=cookie).status == 413
    assert ask("/act", "POST", {**form, "sure": "", "csrf": csrf}, cookie=cookie).status == 400
    assert ask("/act", "POST", {"kind": "all", "csrf": csrf}, cookie=cookie).status == 400
    assert ask("/act?kind=namespace&name=", cookie=cookie).status == 404
    assert len([*cache.entries()]) == 1


@pytest.mark.parametrize("kind", ["key", "tag", "namespace"])
def test_what_is_invalidated_is_gone(mount: Callable[..., Ask], cache: Cache, kind: str) -> None:
    ask = mount(filled(cache), token=TOKEN)
    cache.set("other", 1)
    cookie, csrf = logged_in(ask)
    (info,) = cache.entries(like="tea")
    name = {"key": info.wire.hex(), "tag": "product:tea", "namespace": "shop.prices:price"}[kind]
    answer = ask("/act", "POST", {"kind": kind, "name": name, "sure": "yes", "csrf": csrf}, cookie=cookie)
    assert answer.status == 200
    assert "No process of the group serves it any more: 1 process of this host." in answer.text
    assert [each.name for each in cache.entries()] == ["other"]


def test_what_a_person_cannot_write_is_invalidated_too(mount: Callable[..., Ask], cache: Cache) -> None:
    ask = mount(cache, token=TOKEN)
    cache.set("x" * 5000, 1)
    cookie, csrf = logged_in(ask)
    (info,) = cache.entries()
    assert info.key is None
    assert ask("/act", "POST", {"kind": "key", "name": info.wire.hex(), "csrf": csrf}, cookie=cookie).status == 200
    assert [*cache.entries()] == []


def test_a_request_that_makes_no_sense_is_refused(mount: Callable[..., Ask], cache: Cache) -> None:
    ask = mount(filled(cache))
    for key in ("", "zz", "ff", "00", "0".zfill(5000)[:3000]):
        assert ask(f"/key?k={key}").status == 400, key
    assert ask("/?live=1&after=nan").status == 200
    assert ask("/?live=1&after=" + "9" * 400).status == 200
    assert ask("/keys?in=%ff%00&like=%ff").status == 200
    assert ask("/keys?like=" + "x" * 5000).status == 413
    assert ask("/keys?" + "&".join(["like=x"] * 50)).status == 400
    assert ask("/", "HEAD").body == b""


def test_only_the_names_that_were_given_are_answered(mount: Callable[..., Ask], cache: Cache) -> None:
    assert mount(cache, hosts=["127.0.0.1"])().status == 200
    assert mount(cache, hosts=["cache.example"])().status == 421


def test_what_is_large_is_compressed(mount: Callable[..., Ask], cache: Cache) -> None:
    import gzip

    ask = mount(filled(cache))
    plain, packed = ask("/keys"), ask("/keys", accept_encoding="br, gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body).startswith(b"<!doctype html>")
    assert len(packed.body) < len(plain.body)
    assert "Content-Encoding" not in ask("/keys", accept_encoding="gzip;q=0").headers


def test_a_cache_that_is_off_is_said_to_be_off(mount: Callable[..., Ask], new_cache: NewCache) -> None:
    answer = mount(new_cache(disabled=True))()
    assert answer.status == 503
    assert "COLOCACHE_DISABLED" in answer.text
    assert mount(new_cache(disabled=True))("/?live=1").status == 503


@pytest.mark.parametrize(
    "token", ["", "short", " " * 20, "x" * 2000, "\u00e9" * 20, "a token\nof two lines, and more", 7]
)
def test_a_token_that_cannot_be_used_is_refused(cache: Cache, token: Any) -> None:
    for make in (make_wsgi_app, make_asgi_app):
        with pytest.raises(ValueError, match=r"^token ") as raised:
            make(cache, token=token)
        assert "of two lines" not in str(raised.value)


def test_what_is_no_cache_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cache is a colocache\.Cache"):
        make_wsgi_app("shop")  # type: ignore[arg-type]


def test_a_lifespan_and_a_websocket(cache: Cache) -> None:
    application = make_asgi_app(cache)
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(application({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(RuntimeError, match="websocket"):
        asyncio.run(application({"type": "websocket"}, receive, send))


# --- In frameworks


def test_mounted_in_flask(cache: Cache) -> None:
    import flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = flask.Flask("shop")
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/cache": make_wsgi_app(filled(cache))})  # type: ignore[method-assign]
    client = app.test_client()
    assert client.get("/cache").headers["Location"] == "/cache/"
    page = client.get("/cache/").get_data(as_text=True)
    assert "shop.prices:" in page
    assert 'href="/cache/keys"' in page


def test_mounted_in_fastapi(cache: Cache) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()
    app.mount("/cache", make_asgi_app(filled(cache), token=TOKEN))
    with TestClient(app) as client:
        assert "Log in" in client.get("/cache/").text
        answer = client.post("/cache/login", data={"token": TOKEN})
        assert answer.url.path == "/cache/"
        assert "shop.prices:" in answer.text
        assert 'href="/cache/keys"' in answer.text


DJANGO = """\
import re
from urllib.parse import urlencode

import django
from django.conf import settings
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"], MIDDLEWARE=[])
django.setup()

import colocache
from colocache.django.dashboard import dashboard
from django.http import HttpResponseForbidden
from django.test import Client
from django.urls import re_path

cache = colocache.Cache("test")
cache.set("tea", 1)

def only_staff(view):
    def wrapped(request, *args, **kwargs):
        return view(request, *args, **kwargs) if "staff" in request.GET else HttpResponseForbidden()
    return wrapped

urlpatterns = [
    re_path(r"^cache/(?P<path>.*)$", dashboard(cache, token="a token of this test alone")),
    re_path(r"^open/(?P<path>.*)$", dashboard(cache)),
    re_path(r"^staff/(?P<path>.*)$", only_staff(dashboard(cache))),
]
client = Client(enforce_csrf_checks=True)
page = client.get("/open/keys", {"like": "te"})
assert page.status_code == 200 and b"tea" in page.content and b'href="/open/keys"' in page.content, page.content
assert "default-src 'none'" in page["Content-Security-Policy"] and page["Cache-Control"] == "no-store"
asset = re.search(rb'href="(/open/static/[^"]+css)"', page.content)[1].decode()
assert client.get(asset)["Content-Type"] == "text/css"
assert client.get("/staff/").status_code == 403 and client.get("/staff/?staff=1").status_code == 200
assert b"Log in" in client.get("/cache/").content

def post(path, form):
    return client.post(path, urlencode(form), content_type="application/x-www-form-urlencoded")

assert post("/cache/login", {"token": "another token, of nobody"}).status_code == 403
answer = post("/cache/login", {"token": "a token of this test alone"})
assert (answer.status_code, answer["Location"]) == (303, "/cache/"), answer
cookie = client.cookies["colocache_dashboard"]
assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == ("/cache/", True, "Strict")
csrf = re.search(rb'name="csrf" value="([0-9a-f]+)"', client.get("/cache/").content)[1].decode()
form = {"kind": "namespace", "name": "", "sure": "yes"}
assert post("/cache/act", form).status_code == 403 and cache.get("tea") == 1
assert post("/cache/act", {**form, "csrf": csrf}).status_code == 200 and cache.get("tea") is None
assert client.post("/cache/act", b"x" * 3_000_000, content_type="text/plain").status_code == 413
cache.close()
"""


@pytest.mark.usefixtures("run_dir")
def test_mounted_in_django(tmp_path: Path) -> None:
    """Settings of Django are those of a whole process, so this is one."""
    script = tmp_path / "site_of_django.py"
    script.write_text(DJANGO)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], env=environ, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
