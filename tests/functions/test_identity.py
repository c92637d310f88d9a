"""Names of functions: two functions never share results, and one function has one name in all processes."""

from __future__ import annotations

import enum
import functools
import gc
import importlib
import os
import subprocess
import sys
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colocache import Cache
from colocache.naming import qualified, shortened
from tests import ROOT
from tests.conftest import Crew


def name_of(function: Any) -> str:
    return str(function.cache_parameters()["namespace"])


# --- Functions of a factory


class Currency(enum.Enum):
    EUR = 2
    USD = 3


def converter(cache: Cache, rate: Any, **options: Any) -> Any:
    @cache.cached(**options)
    def convert(cents: int) -> Any:
        return cents, str(rate)

    return convert


@pytest.mark.parametrize(
    "rates", [(2, 3), ("a", "b"), (1.5, None), (Currency.EUR, Currency.USD), (int, str), (len, max)]
)
def test_functions_of_a_factory_are_told_apart_by_what_they_close_over(cache: Cache, rates: tuple[Any, Any]) -> None:
    one, other = (converter(cache, rate) for rate in rates)
    assert [one(10), other(10), one(10), other(10)] == [(10, str(rates[0])), (10, str(rates[1]))] * 2
    assert name_of(one) == name_of(converter(cache, rates[0])) != name_of(other)


def test_what_a_function_closes_over_is_not_shown_in_its_name(cache: Cache) -> None:
    assert "secret" not in name_of(converter(cache, "secret"))


def test_living_functions_that_close_over_different_objects_are_refused(cache: Cache) -> None:
    one = converter(cache, SimpleNamespace(rate=2))
    with pytest.raises(ValueError, match=r"'.*convert'.*: they differ in 'rate', which .*convert\(\) uses"):
        converter(cache, SimpleNamespace(rate=3))
    assert converter(cache, SimpleNamespace(rate=3), name="other")(1) != one(1)


def test_an_application_that_is_made_again_has_its_functions_again(cache: Cache) -> None:
    """Each test may call `create_app`. The former application is gone, but in a circle of references."""

    def create_app() -> Any:
        app = SimpleNamespace(database=["tea"])
        app.itself = app

        @cache.cached()
        def products() -> Any:
            return app.database

        app.products = products
        return app

    for _ in range(3):
        assert create_app().products() == ["tea"]
    living = create_app()
    with pytest.raises(ValueError, match="they differ in 'app'"):
        create_app()
    assert living.products() == ["tea"]


def test_that_the_former_application_is_gone_is_seen_while_another_thread_collects_garbage(
    cache: Cache, crew: Crew
) -> None:
    """Python collects in one thread at a time, as in the one that imports zmq. `gc.collect` does nothing meanwhile."""

    def create_app() -> Any:
        app = SimpleNamespace(database=["tea"])
        app.itself = app

        @cache.cached()
        def products() -> Any:
            return app.database

        app.products = products
        return app

    begun = threading.Event()

    def take_long(phase: str, _info: object) -> None:
        if threading.current_thread() in crew.threads and phase == "start":
            begun.set()
            threading.Event().wait(0.05)

    assert create_app().products() == ["tea"]
    gc.callbacks.append(take_long)
    try:
        crew.start(gc.collect)
        assert begun.wait(30)
        assert create_app().products() == ["tea"]
    finally:
        gc.callbacks.remove(take_long)
        crew.join()


def test_functions_with_helpers_of_their_own_are_the_same_if_these_are(cache: Cache) -> None:
    def make(rate: int) -> Any:
        def helper(cents: int) -> int:
            return cents * rate

        @cache.cached()
        def convert(cents: int) -> int:
            return helper(cents)

        return convert

    one, again = make(2), make(2)
    assert one(1) == again(1) == 2
    with pytest.raises(ValueError, match="they differ in 'rate'"):
        make(3)


def test_a_given_name_tells_functions_apart(cache: Cache) -> None:
    euros, dollars = (converter(cache, rate, name=f"convert-{rate}") for rate in (2, 3))
    assert (euros(1), dollars(1)) == ((1, "2"), (1, "3"))
    assert name_of(euros) == "convert-2"
    assert cache.namespace("convert-2").clear().complete
    assert euros.cache_info().currsize == 0
    with pytest.raises(ValueError, match=r"two functions are cached as 'convert-2'.* they differ in 'rate'"):
        converter(cache, 5, name="convert-2")


@pytest.mark.parametrize("name", ["", "/a", "a/", 5, ("a",)])
def test_a_name_that_cannot_be_used_is_refused(cache: Cache, name: Any) -> None:
    with pytest.raises(ValueError, match="name is a non-empty text that neither begins nor ends with '/'"):
        cache.cached(name=name)


def test_a_lambda_can_be_given_a_name(cache: Cache) -> None:
    assert cache.cached(name="one")(lambda: 1)() == 1


# --- Functions of one name


def test_each_of_several_definitions_in_one_body_has_its_own_results(cache: Cache) -> None:
    @cache.cached()
    def total(x: int) -> str:
        return "first"

    one = total
    one(1)

    @cache.cached()
    def total(x: int) -> str:
        return "second"

    assert (one(1), total(1)) == ("first", "second")


def test_implementations_of_a_generic_function_have_their_own_results(cache: Cache) -> None:
    @functools.singledispatch
    def kind(value: Any) -> str:
        return "object"

    @kind.register
    @cache.cached()
    def _(value: int) -> str:
        return "int"

    @kind.register
    @cache.cached()
    def _(value: bool) -> str:
        return "bool"

    assert [kind(1), kind(True), kind(1)] == ["int", "bool", "int"]


def test_stubs_for_type_checkers_do_not_count(cache: Cache) -> None:
    @typing.overload
    def size(value: int) -> int: ...
    @typing.overload
    def size(value: str) -> int: ...
    @cache.cached()
    def size(value: Any) -> Any:
        return value

    assert name_of(size).endswith("<locals>.size")


def test_one_function_under_two_decorators_of_one_cache_is_refused(cache: Cache) -> None:
    def price(sku: str) -> int:
        return 1

    def taxed(function: Callable[..., int]) -> Callable[..., int]:
        return functools.wraps(function)(lambda sku: function(sku) * 2)

    def twice(function: Callable[..., int]) -> Callable[..., int]:
        return functools.wraps(function)(lambda sku: function(sku) * 2 + 0)

    plain = cache.cached()(price)
    for other in (taxed(price), plain):
        with pytest.raises(ValueError, match="one wraps the other"):
            cache.cached()(other)
    assert cache.cached(name="taxed")(taxed(price))("tea") == 2
    first = cache.namespace("n").cached()(taxed(price))
    with pytest.raises(ValueError, match="would get each other's results"):
        cache.namespace("n").cached()(twice(price))
    assert first("tea") == 2


MODULE = """
import colocache
cache = colocache.Cache("test") if "cache" not in globals() else cache
@cache.cached()
def report(x):
    return {result!r}
"""


@pytest.fixture
def module(run_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module, the first time and again, with code that returns the given result."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loaded: list[Any] = []

    def load(result: str, before: str = "") -> Any:
        (tmp_path / "reloaded.py").write_text(before + MODULE.format(result=result))
        importlib.invalidate_caches()
        loaded.append(importlib.reload(loaded[-1]) if loaded else importlib.import_module("reloaded"))
        return loaded[-1]

    yield load
    loaded[-1].cache.close()
    del sys.modules["reloaded"]


def test_a_module_may_be_loaded_again(module: Any) -> None:
    first = module("one").report
    assert first(1) == "one"
    again = module("one", before="import os\n\n").report
    assert again is not first
    assert again(1) == "one"
    assert name_of(again) == name_of(first) == "reloaded:report"


def test_a_function_that_is_loaded_again_with_other_code_gives_a_warning(module: Any) -> None:
    first = module("one").report
    with pytest.warns(UserWarning, match=r"'reloaded:report' is defined again, .*report.cache_clear\(\)"):
        again = module("two").report
    assert first is not again


def test_two_modules_of_one_name_are_refused(cache: Cache, tmp_path: Path) -> None:
    code, functions = "def report():\n    return {!r}\n", []
    for name in ("one", "two"):
        names: dict[str, Any] = {"__name__": "reports"}
        exec(compile(code.format(name), str(tmp_path / name), "exec"), names)
        functions.append(names["report"])
    kept = cache.cached()(functions[0]), cache.cached()(functions[0])
    with pytest.raises(
        ValueError, match=r"cached as 'reports:report'.*: one is at .*one, line 1, and one at .*two, line 1"
    ):
        cache.cached()(functions[1])
    assert kept[0]() == "one"


# --- Long names


@pytest.mark.parametrize("end", ["", "_and_customer", "_и_клиентам"])
def test_a_long_name_is_shortened_and_stays_apart_from_others(cache: Cache, end: str) -> None:
    names = set[str]()
    for n in range(2):

        def function(x: int, n: int = n) -> int:
            return x + n

        function.__module__ = "company.platform.services.billing.integrations.providers.invoicing.repositories"
        function.__qualname__ = f"get_line_items_{'for_billing_period_' * 8}{end}_{n}"
        decorated = cache.namespace("deep/er").cached()(function)
        assert decorated(1) == 1 + n
        names.add(name_of(decorated))
    assert len(names) == 2
    assert all(name.startswith("company.platform.") for name in names)


def test_names_are_shortened_alike_everywhere_and_only_if_they_must() -> None:
    assert shortened("a" * 200, 200) == "a" * 200
    assert shortened("a" * 201, 200) == "a" * 175 + "~579cccfac31436655c0d2458"
    assert len(shortened("я" * 150, 199).encode()) <= 199


# --- The main module

SHOP = """
import sys
import threading
import colocache

cache = colocache.Cache("test")

class Product:
    pass

@cache.cached()
def price(sku):
    return 1

if __name__ == "__main__":
    from colocache.naming import qualified
    print(price.cache_parameters()["namespace"], qualified(Product))
    cache.close()
"""


def run_main(
    directory: Path, *command: str, path: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    places = [str(ROOT), *filter(None, [path])]
    environment = {"COLOCACHE_DIR": str(directory / "run"), "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=cwd or directory, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("file", "command", "name"),
    [
        ("shop.py", ["-m", "shop"], "shop"),
        ("shop.py", ["shop.py"], "shop"),
        ("web/__main__.py", ["-m", "web"], "web.__main__"),
        ("web/shop.py", ["-m", "web.shop"], "web.shop"),
        ("my-shop.py", ["my-shop.py"], "my-shop"),
    ],
)
def test_a_main_module_has_the_name_by_which_others_import_it(
    tmp_path: Path, file: str, command: list[str], name: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(SHOP)
    done = run_main(tmp_path, *command)
    assert "Warning" not in done.stderr
    assert done.stdout == f"{name}:price {name}:Product\n", done.stderr


def test_a_script_in_a_package_has_the_name_of_its_package(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "__init__.py").write_text("")
    (tmp_path / "web" / "shop.py").write_text(SHOP)
    done = run_main(tmp_path, "web/shop.py")
    assert done.stdout == "web.shop:price web.shop:Product\n", done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("way", ["by the directory that it is run from", "by the path"])
def test_a_script_that_others_may_import_by_another_name_gives_a_warning(tmp_path: Path, way: str) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "shop.py").write_text(SHOP)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cwd, path = (tmp_path, "") if way.startswith("by the dir") else (elsewhere, str(tmp_path))
    done = run_main(tmp_path, str(tmp_path / "jobs" / "shop.py"), path=path, cwd=cwd)
    assert done.stdout == "shop:price shop:Product\n"
    assert "run it by `python -m jobs.shop`, or give each function cached(name=...)" in done.stderr
    assert done.stderr.count("UserWarning") == 1
    assert "@cache.cached()" in done.stderr, "the warning points to the decorated function"


def test_code_without_a_file_is_the_main_module(tmp_path: Path) -> None:
    done = run_main(tmp_path, "-c", SHOP)
    assert done.stdout == "__main__:price __main__:Product\n", done.stderr


STALL = """
import colocache

cache = colocache.Cache("test")

@cache.cached()
def price(sku):
    with open("source") as source:
        return source.read()

if __name__ == "__main__":
    print(price.invalidate("tea").complete)
    cache.close()
"""

WORKER = """
import stall, sys
for line in sys.stdin:
    print(stall.price("tea"), flush=True)
"""


@pytest.mark.parametrize("command", [["-m", "stall"], ["stall.py"]], ids=str)
def test_a_script_invalidates_what_workers_hold_that_import_it(
    run_dir: str, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "stall.py").write_text(STALL)
    root = str(ROOT)
    environment = {"COLOCACHE_DIR": run_dir, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER], env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert worker.stdin is not None
    assert worker.stdout is not None

    def ask() -> str:
        print(file=worker.stdin, flush=True)
        return worker.stdout.readline()

    with worker:
        (tmp_path / "source").write_text("old")
        assert ask() == ask() == "old\n"
        (tmp_path / "source").write_text("new")
        done = subprocess.run(
            [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "True\n", done.stderr
        assert ask() == "new\n"
        worker.stdin.close()


def test_classes_and_functions_of_this_module_have_its_name() -> None:
    assert qualified(Currency) == f"{__name__}:Currency"


class Visitor:
    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize("given", [None, "orders"])
def test_a_function_that_is_defined_again_around_another_object_is_logged(
    cache: Cache, caplog: pytest.LogCaptureFixture, given: str | None
) -> None:
    """The earlier function is gone, so there is no conflict. But its results are still cached."""

    def view(user: Visitor) -> Any:
        @cache.cached(ttl=60, name=given)
        def orders() -> str:
            return user.name

        return orders()

    ann = Visitor("ann")
    assert view(ann) == view(ann) == "ann"
    assert "is decorated again" not in caplog.text
    view(Visitor("bob"))
    assert "orders is decorated again, with another 'user' around it" in caplog.text


def test_another_container_around_a_function_is_logged(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    def view(rows: list[int]) -> Any:
        @cache.cached
        def total() -> int:
            return sum(rows)

        return total()

    view([1])
    view([2])
    assert "with another 'rows' around it" in caplog.text


def test_two_functions_cannot_be_given_one_name(cache: Cache) -> None:
    @cache.cached(name="prices")
    def one() -> int:
        return 1

    with pytest.raises(ValueError, match="two functions are cached as 'prices'"):

        @cache.cached(name="prices")
        def other() -> int:
            return 2

    assert one() == 1


def test_a_name_with_a_slash_and_a_namespace_are_one_place(cache: Cache) -> None:
    @cache.cached(name="a/b")
    def one() -> int:
        return 1

    with pytest.raises(ValueError, match="two functions are cached as"):

        @cache.namespace("a").cached(name="b")
        def other() -> int:
            return 2

    assert one() == 1
