"""The Flask extension and the Flask-Caching backend, with real caches. Two applications stand for two workers."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from typing import Any

import flask
import flask_caching
import pytest
from flask import Flask
from werkzeug.exceptions import NotFound

import colocache
import colocache.flask
from colocache import Cache, Space
from colocache.flask import Backend, FlaskCache, current_cache


@pytest.fixture
def closing() -> Iterator[list[Cache]]:
    """Return a list of caches that are closed after the test."""
    caches: list[Cache] = []
    yield caches
    for cache in caches:
        cache.close()


# --- The extension


def test_an_application_gets_a_cache_that_is_current_in_it(cache: Cache) -> None:
    app = Flask("shop")
    FlaskCache(app, cache)

    @app.get("/")
    def page() -> dict[str, Any]:
        current_cache.set("key", 1)
        return {"key": current_cache.get("key"), "same": flask.request.environ["colocache"] is cache}

    assert cache.members() == []
    assert app.test_client().get("/").json == {"key": 1, "same": True}
    assert app.extensions["colocache"] is cache


def name_of_application() -> str:
    return flask.current_app.name


def test_audits_call_functions_in_a_context_of_the_application(new_cache: Any, until: Any) -> None:
    app, cache = Flask("shop"), new_cache(audit=1)
    FlaskCache(app, cache)
    decorated, closed = cache.cached(name_of_application), list[object]()
    app.teardown_appcontext(closed.append)
    with app.app_context():
        assert [decorated() for _ in range(2)] == ["shop"] * 2
        until(lambda: closed)
    stats = cache.stats()
    assert (stats.audits, stats.audits_failed, stats.audit_errors) == (1, 0, 0)


def test_a_request_waits_for_what_it_invalidates(cache: Cache, until: Any) -> None:
    app, caught = Flask("shop"), []
    FlaskCache(app, cache, debug_header=True, barrier="cookie")
    cache.start()

    @app.post("/")
    def write() -> str:
        caught.append(cache.invalidate("key", wait="response"))
        return "written"

    answer = app.test_client().post("/")
    assert answer.status_code == 200
    assert "invalidations=1" in answer.headers["Server-Timing"]
    assert answer.headers["Set-Cookie"].startswith("colocache=")


def test_settings_are_those_in_the_configuration_of_each_application(run_dir: str, closing: list[Cache]) -> None:
    extension = FlaskCache()
    apps = [Flask("one"), Flask("two")]
    for app, ttl in zip(apps, ("10s", "20s"), strict=True):
        app.config.update(COLOCACHE_GROUP=app.name, COLOCACHE_TTL=ttl)
        extension.init_app(app)
        with app.app_context():
            assert (current_cache.config.group, current_cache.config.ttl) == (app.name, float(ttl[:-1]))
        closing.append(app.extensions["colocache"])


def test_applications_of_one_configuration_share_a_cache(run_dir: str, closing: list[Cache]) -> None:
    apps = [Flask("shop"), Flask("shop")]
    for app in apps:
        app.config["COLOCACHE_GROUP"] = "shared"
        FlaskCache(app)
    assert apps[0].extensions["colocache"] is apps[1].extensions["colocache"]
    closing.append(apps[0].extensions["colocache"])


def test_init_app_twice_wraps_the_application_once(cache: Cache, new_cache: Any) -> None:
    app = Flask("shop")
    extension = FlaskCache(app, cache)
    wrapped = app.wsgi_app
    extension.init_app(app)
    FlaskCache(app, cache)
    assert app.wsgi_app is wrapped
    with pytest.raises(RuntimeError, match=r"'shop' has <.*> already"):
        FlaskCache(app, new_cache("other"))


def test_an_application_without_a_cache_says_what_to_do() -> None:
    with Flask("shop").app_context(), pytest.raises(RuntimeError, match=r"call FlaskCache\(app, cache\)"):
        current_cache.get("key")
    with pytest.raises(RuntimeError, match="outside of application context"):
        current_cache.get("key")


def test_a_setting_that_cannot_be_used_is_named(run_dir: str, cache: Cache) -> None:
    app = Flask("shop")
    with pytest.raises(colocache.ConfigError, match="has no group"):
        FlaskCache(app)
    app.config.update(COLOCACHE_GROUP="shop", COLOCACHE_MEMORY="64M")
    with pytest.raises(colocache.ConfigError, match="memory='64M' cannot be used"):
        FlaskCache(app)
    del app.config["COLOCACHE_MEMORY"]
    app.config["COLOCACHE_TLL"] = 3
    with pytest.warns(UserWarning, match=r"no settings of colocache: \['COLOCACHE_TLL'\]"):
        FlaskCache(app)
    other = Flask("other")
    other.config["COLOCACHE_GROUP"] = "ignored"
    with pytest.warns(UserWarning, match="because the extension was given a cache"):
        FlaskCache(other, cache)
    with pytest.raises(TypeError, match="not str: 'shop'"):
        FlaskCache(None, "shop")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="app is a Flask application, not Cache"):
        FlaskCache(cache)  # type: ignore[arg-type]


def test_a_streamed_response_is_not_buffered_and_waits_for_what_it_invalidates(cache: Cache, until: Any) -> None:
    app = Flask("shop")
    FlaskCache(app, cache)
    cache.start()
    made: list[int] = []

    @app.get("/")
    def page() -> flask.Response:
        def stream() -> Iterator[str]:
            for n in range(3):
                made.append(n)
                current_cache.invalidate("key", wait="response")
                yield str(n)

        return flask.Response(flask.stream_with_context(stream()))

    response = app.test_client().get("/", buffered=False)
    chunks = response.iter_encoded()
    assert (next(chunks), made) == (b"0", [0])
    assert b"".join(chunks) == b"12"
    response.close()


# --- The backend for Flask-Caching


@pytest.fixture
def pair(new_group: Any) -> list[Cache]:
    """Return two members that hear each other. They wait long enough for a busy machine."""
    return new_group(2)  # type: ignore[no-any-return]


@pytest.fixture
def workers(pair: list[Cache]) -> list[flask_caching.Cache]:
    """Return two workers of one application. Each has Flask-Caching on its own member of the group."""
    made = []
    for cache in pair:
        app = Flask("shop")
        FlaskCache(app, cache)
        made.append(flask_caching.Cache(app, config={"CACHE_TYPE": "colocache.flask.Backend"}))
    return made


@pytest.fixture
def backend(workers: list[flask_caching.Cache]) -> Backend:
    """Return the backend in one worker."""
    found = workers[0].cache
    assert isinstance(found, Backend)
    return found


@pytest.fixture
def other(workers: list[flask_caching.Cache]) -> Backend:
    """Return the backend in the other worker."""
    found = workers[1].cache
    assert isinstance(found, Backend)
    return found


def test_it_reads_and_writes_as_flask_caching_says(backend: Backend, other: Backend) -> None:
    assert backend.get("a") is None
    assert backend.set("a", {"n": (1, 2)})
    assert other.get("a") == {"n": (1, 2)}
    assert backend.set_many({"b": 2, "c": None}) == ["b", "c"]
    assert other.get_many("a", "b", "c", "d") == [{"n": (1, 2)}, 2, None, None]
    assert other.get_dict("b", "d") == {"b": 2, "d": None}
    assert [other.has(key) for key in "bcd"] == [True, True, False]
    assert not other.add("b", 3)
    assert other.add("d", 4)
    assert backend.get("d") == 4
    assert backend.delete("d")
    assert not backend.delete("d")
    assert other.get("d") is None
    assert sorted(backend.delete_many("a", "b", "nobody's")) == ["a", "b", "nobody's"]
    assert other.get_many("a", "b") == [None, None]
    assert backend.clear()
    assert not other.has("c")


def test_it_counts_in_the_whole_group(backend: Backend, other: Backend) -> None:
    assert [backend.inc("n"), other.inc("n", 5), backend.dec("n", 2), other.dec("m")] == [1, 6, 4, -1]
    assert backend.get("n") == 4


def test_a_timeout_of_0_is_for_ever_and_none_is_the_default(backend: Backend, cache: Cache) -> None:
    assert backend._ttl(0) is None
    assert backend._ttl(None) == 300
    assert backend._ttl(datetime.timedelta(seconds=5)) == 5
    assert backend._ttl(-1) == 0
    assert backend.set("a", 1, timeout=0)
    assert backend.get("a") == 1
    assert not backend.set("b", 1, timeout=-1)
    assert backend.get("b") is None


def test_readers_may_change_what_they_get(backend: Backend) -> None:
    backend.set("a", [1])
    backend.get("a").append(2)
    assert backend.get("a") == [1]


def test_long_keys_are_distinct(backend: Backend) -> None:
    one, two = "view//" + "x" * 5000 + "1", "view//" + "x" * 5000 + "2"
    backend.set_many({one: 1, two: 2})
    assert backend.get_many(one, two) == [1, 2]


def test_prefixes_keep_applications_apart_and_clear_clears_one(pair: list[Cache]) -> None:
    one, two = Backend(pair[0], "one/"), Backend(pair[0], "two")
    one.set("a", 1)
    two.set("a", 2)
    assert one.clear()
    assert (one.get("a"), two.get("a")) == (None, 2)


def test_what_was_computed_before_its_key_was_deleted_is_not_stored(backend: Backend, other: Backend) -> None:
    assert backend.get("a") is None
    other.delete("a")
    assert not backend.set("a", "read before the deletion")
    assert other.get("a") is None
    assert backend.get("a") is None
    assert backend.set("a", "read after the deletion")


@pytest.mark.parametrize(
    "delete", [lambda backend: backend.delete("a"), lambda backend: backend.delete_many("a"), Backend.clear]
)
def test_what_one_worker_deletes_it_may_set(backend: Backend, delete: Callable[[Backend], object]) -> None:
    assert backend.get("a") is None
    delete(backend)
    assert backend.set("a", 1)


@pytest.mark.parametrize("wait", ["memver", "function"])
def test_delete_memoized_is_seen_by_all_workers(workers: list[flask_caching.Cache], wait: str) -> None:
    calls: list[int] = []

    def memoized(worker: flask_caching.Cache) -> Any:
        def double(n: int) -> int:
            calls.append(n)
            return 2 * n

        double.__qualname__, double.__module__ = "double", "shop"
        return worker.memoize(timeout=0)(double)

    functions = [memoized(worker) for worker in workers]

    def ask(number: int) -> int:
        with workers[number].app.app_context():
            return functions[number](7)  # type: ignore[no-any-return]

    for times in range(1, 21):
        assert [ask(1), ask(0), ask(1), ask(0)] == [14] * 4
        assert len(calls) == times, "a worker computed what another one had, or showed what another one had deleted"
        with workers[0].app.app_context():
            workers[0].delete_memoized(functions[0], *(() if wait == "memver" else (7,)))


def test_delete_memoized_waits_for_all_workers(
    workers: list[flask_caching.Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    function, waits, put = workers[0].memoize()(lambda: 1), list[str](), Space.set

    def noted(self: Space, key: Any, value: Any, **options: Any) -> bool:
        waits.append(options["wait"])
        return put(self, key, value, **options)

    monkeypatch.setattr(Space, "set", noted)
    workers[0].set("key", 1)
    workers[0].delete_memoized(function)
    assert waits == ["stored", "all"]


def test_cached_views_may_return_anything_that_flask_takes(workers: list[flask_caching.Cache]) -> None:
    worker, calls = workers[0], list[str]()
    app = worker.app
    views: dict[str, Callable[[], Any]] = {
        "text": lambda: "text",
        "json": lambda: flask.jsonify(n=1),
        "made": lambda: flask.make_response("made", 201, {"X-Made": "yes"}),
        "tuple": lambda: ("tuple", 202),
        "none": lambda: flask.abort(404),
    }
    for name, view in views.items():

        def counted(name: str = name, view: Callable[[], Any] = view) -> Any:
            calls.append(name)
            return view()

        app.add_url_rule(f"/{name}", name, worker.cached(timeout=50)(counted))

    client = app.test_client()
    for name in views:
        first, second = client.get(f"/{name}"), client.get(f"/{name}")
        assert (first.status, first.data) == (second.status, second.data), name
        assert {*first.headers.items()} == {*second.headers.items()}, name
    assert calls == [*views], "a view was called, though its response was cached"
    assert client.get("/made").headers["X-Made"] == "yes"


def test_what_cannot_be_carried_is_not_cached_and_says_why(
    workers: list[flask_caching.Cache], backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    app = workers[0].app

    @app.get("/")
    @workers[0].cached()
    def streamed() -> flask.Response:
        return flask.Response(iter(["one", "two"]))

    assert app.test_client().get("/").data == b"onetwo"
    assert "a streamed response cannot be cached" in caplog.text
    with pytest.raises(TypeError, match="cannot be carried"):
        backend.set("a", NotFound(response=flask.Response("own")))


def test_without_the_extension_it_makes_the_cache_of_the_configuration(run_dir: str, closing: list[Cache]) -> None:
    app = Flask("shop")
    config = {"CACHE_TYPE": "colocache.flask.Backend", "COLOCACHE_GROUP": "by-itself", "CACHE_DEFAULT_TIMEOUT": 7}
    worker = flask_caching.Cache(app, config=config)
    app.config["COLOCACHE_GROUP"] = "by-itself"
    FlaskCache(app)
    closing.append(app.extensions["colocache"])
    with app.app_context():
        worker.set("a", 1)
        assert worker.get("a") == 1
        assert worker.cache.default_timeout == 7
        assert len(current_cache.members()) == 1


def test_there_is_nothing_else_in_the_module() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Backends'"):
        colocache.flask.Backends  # noqa: B018


# --- Template fragments


@pytest.mark.parametrize("autoescape", [True, False])
def test_a_fragment_is_rendered_once_in_all_workers(
    workers: list[flask_caching.Cache], pair: list[Cache], autoescape: bool
) -> None:
    rendered: list[int] = []
    template = "{% cache 60, 'menu', kind %}<b>{{ render() }}</b>{% endcache %}"
    clients = []
    for worker in workers:
        app = worker.app
        app.jinja_env.autoescape = autoescape

        @app.get("/<kind>")
        def page(kind: str) -> str:
            return flask.render_template_string(template, kind=kind, render=lambda: rendered.append(1) or "a & b")

        clients.append(app.test_client())
    pages = [client.get("/tea").text for client in clients * 3]
    assert set(pages) == {"<b>a &amp; b</b>" if autoescape else "<b>a & b</b>"}, "and escaped once"
    assert len(rendered) == 1
    assert clients[0].get("/cake").text == pages[0]
    assert len(rendered) == 2


def test_a_view_or_fragment_that_cannot_be_cached_is_logged_once(
    workers: list[flask_caching.Cache], caplog: pytest.LogCaptureFixture
) -> None:
    class Odd(str):
        pass

    cache = workers[0]
    with cache.app.test_request_context():
        for number in range(3):
            with pytest.raises(TypeError, match="cannot be carried: convert it, as by str"):
                cache.set(f"key {number}", Odd("x"))
    assert caplog.text.count("Flask-Caching cannot cache what it is given for key 0") == 1
    assert "for key 1" not in caplog.text
