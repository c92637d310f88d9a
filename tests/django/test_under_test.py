"""Tests of a Django project: they never meet a server of the same project on the same host.

The project is a real one, in a directory of its own; its server and its tests are processes of their own.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.test.utils import override_settings, setup_test_environment, teardown_test_environment

import tests.django.project  # noqa: F401  # sets Django up
from colocache.django import cache_of, groups, invalidate_on_commit
from colocache.django.under_test import is_under_test
from tests import ROOT

SETTINGS = """
import os

SECRET_KEY = "a secret for the tests, of more than 32 bytes"
DEBUG = True
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(os.path.dirname(__file__), "db")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["colocache.django", "shop"]
MIDDLEWARE = ["colocache.django.CacheMiddleware"]
ROOT_URLCONF = "shop.urls"
STATIC_URL = "static/"
USE_TZ = True
CACHES = {"default": {"BACKEND": "colocache.django.ColocacheCache", "LOCATION": "shop"}}
"""

MODELS = """
from django.db import models


class Product(models.Model):
    sku = models.CharField(max_length=20)
    price = models.IntegerField()
"""

VIEWS = """
from django.core.cache import cache
from django.http import JsonResponse

from colocache.django import cache_of, invalidate_with

from .models import Product

own = cache_of()


@own.cached(ttl=600, tags=lambda sku: (f"product:{sku}",))
def price(sku):
    return Product.objects.get(sku=sku).price


invalidate_with(Product, tags=lambda product: [f"product:{product.sku}"], cache=own)


def show(request):
    stats = own.stats()
    return JsonResponse({
        "price": price("tea"),
        "key": cache.get_or_set("key", request.GET.get("key", "nothing")),
        "processes": stats.processes, "loads": stats.loads,
    })
"""

TESTS = """
import asyncio

from django.core.cache import cache
from django.test import LiveServerTestCase, TestCase

from colocache.django import cache_of, invalidate_on_commit

from .models import Product
from .views import own, price


class Prices(TestCase):
    def setUp(self):
        own.clear()
        self.tea = Product.objects.create(sku="tea", price=3)

    def test_nothing_of_a_server_is_found(self):
        self.assertEqual([member.role for member in own.members()], ["private"])
        self.assertIsNone(cache.get("key"))
        cache.set("key", "of the tests")
        self.assertEqual(cache.get("key"), "of the tests")

    def test_a_hit_makes_no_query(self):
        with self.assertNumQueries(1):
            self.assertEqual(price("tea"), 3)
        with self.assertNumQueries(0):
            self.assertEqual(price("tea"), 3)

    def test_what_is_saved_is_invalidated_on_commit(self):
        price("tea")
        self.tea.price = 4
        with self.captureOnCommitCallbacks(execute=True):
            self.tea.save()
        self.assertEqual(price("tea"), 4)

    def test_a_view_is_served_by_the_private_cache(self):
        for _ in range(2):
            seen = self.client.get("/").json()
        self.assertEqual((seen["price"], seen["processes"]), (3, 1))


class Others(TestCase):
    def test_caches_are_thrown_away_like_those_of_a_process(self):
        Product.objects.create(sku="tea", price=7)
        own.clear()
        self.assertEqual(price("tea"), 7)
        invalidate_on_commit("default", "key", tags=("product:tea",))
        cache.clear()


class Served(LiveServerTestCase):
    def test_the_server_of_a_test_shares_its_cache(self):
        import urllib.request

        own.clear()
        cache.set("key", "of the live test")
        Product.objects.create(sku="tea", price=5)
        with urllib.request.urlopen(self.live_server_url) as answer:
            self.assertIn("of the live test", answer.read().decode())
"""

FILES = {
    "settings.py": SETTINGS,
    "manage.py": "import os, sys\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'settings')\n"
    "from django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n",
    "shop/__init__.py": "",
    "shop/models.py": MODELS,
    "shop/views.py": VIEWS,
    "shop/urls.py": "from django.urls import path\n\nfrom .views import show\n\nurlpatterns = [path('', show)]\n",
    "shop/tests.py": TESTS,
}


class Project:
    """A project in a directory of its own, whose processes find each other in the runtime directory of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for name, text in FILES.items():
            file = path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)

    def run(self, *command: str, **environment: str) -> str:
        """Run a program of the project to its end, with warnings as errors; return what it said."""
        done = subprocess.run(
            [sys.executable, "-W", "error", *command], cwd=self.path, env=self.environment | environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program of the project."""
        return subprocess.Popen([sys.executable, *command], cwd=self.path, env=self.environment)


@pytest.fixture
def project(tmp_path: Path, run_dir: str) -> Project:
    """A project whose database has a product."""
    project = Project(tmp_path)
    project.run("manage.py", "migrate", "--run-syncdb", "-v0")
    project.run("manage.py", "shell", "-v0", "-c",
                "from shop.models import Product; Product.objects.create(sku='tea', price=1)")  # fmt: skip
    return project


@pytest.fixture
def ask(project: Project, until: Callable[..., None]) -> Iterator[Callable[[str], str]]:
    """Asks a development server of the project."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    server = project.start("manage.py", "runserver", "--noreload", str(port))

    def ask(query: str = "") -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{query}") as answer:
            return str(answer.read().decode())

    def answers() -> bool:
        assert server.poll() is None
        with suppress(OSError):
            return bool(ask("?key=of the server".replace(" ", "%20")))
        return False

    try:
        until(answers, failing="the server does not answer")
        yield ask
    finally:
        server.terminate()
        server.wait()


def test_tests_in_parallel_and_a_server_never_meet(project: Project, ask: Callable[..., str], run_dir: str) -> None:
    expected = '{"price": 1, "key": "of the server", "processes": 1, "loads": 2}'
    assert ask() == expected
    board = identity(run_dir)
    said = project.run("manage.py", "test", "--parallel", "2", "--noinput")
    assert "Ran 6 tests" in said
    assert ask() == expected
    assert identity(run_dir) == board


def identity(run_dir: str) -> tuple[list[str], int]:
    """Return which groups there are, and what tells the server's memory from any that came after it."""
    return os.listdir(run_dir), os.stat(f"{run_dir}/shop/board").st_ino


LOCMEM, DUMMY, FILES_BACKEND = (
    f"django.core.cache.backends.{name}"
    for name in ("locmem.LocMemCache", "dummy.DummyCache", "filebased.FileBasedCache")
)

WITH_PYTEST = """
import pytest
from django.core.cache import cache
from shop.models import Product
from shop.views import own, price


@pytest.mark.colocache_private
@pytest.mark.django_db
@pytest.mark.parametrize("amount", [3, 4])
def test_each_begins_empty(amount, django_assert_num_queries, client, django_capture_on_commit_callbacks):
    product = Product.objects.create(sku="tea", price=amount)
    assert cache.get("key") is None
    assert price("tea") == amount
    with django_assert_num_queries(0):
        assert price("tea") == amount
    product.price += 1
    with django_capture_on_commit_callbacks(execute=True):
        product.save()
    assert client.get("/").json()["price"] == amount + 1


@pytest.mark.django_db
def test_without_a_mark_it_is_private_too():
    assert cache.set("key", 1) is None
    assert own.members()[0].role == "private"


@pytest.mark.colocache_group
def test_unless_a_group_is_asked_for():
    cache.set("key", 1)
    assert own.members()[0].role == "peer"
"""


def test_with_pytest_django(project: Project, run_dir: str) -> None:
    (project.path / "test_shop.py").write_text(WITH_PYTEST)
    said = project.run("-m", "pytest", "--ds=settings", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_shop.py",
                       "--strict-markers", "--rootdir=.", "-c", "/dev/null")  # fmt: skip
    assert "4 passed" in said
    assert os.listdir(run_dir) == []


PAGE = ROOT / "docs" / "howto" / "testing.md"
ON_PAGE = re.compile(r"^    from colocache.*\n(?:(?:    .*)?\n)*", re.MULTILINE)


def test_the_tests_that_the_page_shows_pass(project: Project, run_dir: str) -> None:
    [block] = ON_PAGE.findall(PAGE.read_text("utf-8"))
    (project.path / "shop" / "tests.py").write_text(dedent(block))
    assert "Ran 2 tests" in project.run("manage.py", "test", "--noinput")
    assert os.listdir(run_dir) == []


# --- In this process


@pytest.fixture
def under_test(run_dir: str) -> Iterator[None]:
    """Django's test environment, as its test runner sets it up."""
    setup_test_environment()
    try:
        yield
    finally:
        teardown_test_environment()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, run_dir: str) -> Iterator[None]:
    """The caches of this test are of no other one."""
    for name in ("_of_aliases", "_groups", "_caches"):
        monkeypatch.setattr(groups, name, {})
    yield
    for cache in {*groups._of_aliases.values(), *groups._caches.values()}:
        cache.close()


def ours(**options: Any) -> dict[str, Any]:
    return {"BACKEND": groups.BACKEND, "LOCATION": "test", "OPTIONS": options}


def test_what_was_joined_before_the_tests_begin_is_left(run_dir: str) -> None:
    with override_settings(CACHES={"default": ours()}):
        own = cache_of()
        own.set("k", "shared")
        assert own.members()[0].role == "peer"
        setup_test_environment()
        try:
            assert is_under_test()
            assert own.set("other", 1)
            assert own.members()[0].role == "private"
            assert own.get("k") is None
        finally:
            teardown_test_environment()
        assert own.get("other") is None
        assert own.members()[0].role == "peer"


def test_the_options_may_ask_for_the_group_in_tests(under_test: None) -> None:
    with override_settings(CACHES={"default": ours(private=False)}):
        cache_of().start()
        assert cache_of().members()[0].role == "peer"


@pytest.mark.parametrize("backend", [LOCMEM, FILES_BACKEND])
def test_beside_another_backend_there_is_a_private_cache(under_test: None, backend: str, tmp_path: Path) -> None:
    with override_settings(CACHES={"default": {"BACKEND": backend, "LOCATION": str(tmp_path)}}):
        own, calls = cache_of(), []

        @own.cached(ttl=60, tags=lambda sku: (f"product:{sku}",))
        def price(sku: str) -> int:
            calls.append(sku)
            return 3

        assert cache_of() is own
        assert (price("tea"), price("tea"), calls) == (3, 3, ["tea"])
        caches["default"].set("key", 1)
        invalidate_on_commit("default", "key", tags=("product:tea",))
        assert (caches["default"].get("key"), price("tea"), calls) == (None, 3, ["tea", "tea"])
        assert own.members()[0].role == "private"


def test_beside_the_dummy_nothing_is_kept(under_test: None) -> None:
    with override_settings(CACHES={"default": {"BACKEND": DUMMY}}):
        assert [cache_of().get_or_load("k", lambda n=n: n) for n in (1, 2)] == [1, 2]


def test_a_function_that_was_decorated_before_hears_of_its_tags_beside_another_backend(under_test: None) -> None:
    with override_settings(CACHES={"default": ours()}):
        own = cache_of()
        own.set("k", 1, tags=("shelf",))
    with override_settings(CACHES={"default": {"BACKEND": LOCMEM}}):
        assert cache_of() is own
        invalidate_on_commit("default", tags=("shelf",))
    assert own.get("k") is None


def test_outside_of_tests_a_shared_backend_of_another_kind_is_an_error_at_the_first_use(tmp_path: Path) -> None:
    with override_settings(CACHES={"default": {"BACKEND": FILES_BACKEND, "LOCATION": str(tmp_path)}}):
        own = cache_of()
        with pytest.raises(ImproperlyConfigured, match=r"CACHES\['default'\] is not a cache of colocache"):
            own.get("k")
