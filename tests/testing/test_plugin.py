"""The plugin for pytest, in separate runs of pytest, together with plugins that applications use."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests import ROOT

pytest_plugins = ["pytester"]

SHOP = """
    import colocache

    cache = colocache.Cache("shop")
    loads = []

    @cache.cached(ttl=60)
    def price(sku):
        loads.append(sku)
        return 3

    @cache.cached(ttl=60)
    async def aprice(sku):
        loads.append(sku)
        return 3

    def held():
        return cache.get("k")

    def put(value):
        return cache.set("k", value)

    def fail():
        raise LookupError("no such thing")
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, run_dir: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a test module in another process, with warnings as errors, and returns the result."""
    pytester.makepyfile(shop=SHOP)
    pytester.makeini("[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n"
                     "asyncio_default_fixture_loop_scope = function\n")  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(pytester.path)]))

    def run(source: str, *options: str, ini: str = "", **files: str) -> pytest.RunResult:
        if ini:
            path = pytester.path / "tox.ini"
            path.write_text(f"{path.read_text()}\n{ini}\n")
        pytester.makepyfile(test_shop=source, **files)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return run


LEAKS = """
    import pytest
    from shop import cache, loads, price

    @pytest.mark.{mark}
    @pytest.mark.parametrize("time", [1, 2])
    def test_each_begins_empty(time):
        loads.clear()
        assert price("tea") == price("tea") == 3
        assert loads == ["tea"]
        assert cache.get("k") is None
        assert cache.set("k", time)
        assert cache.stats().sets == 1
        assert cache.members()[0].role == "private"
"""


def test_a_mark_makes_the_caches_of_a_test_private(run: Run, run_dir: str) -> None:
    run(LEAKS.format(mark="colocache_private")).assert_outcomes(passed=2)
    assert os.listdir(run_dir) == []


def test_a_setting_makes_all_tests_private(run: Run, run_dir: str) -> None:
    source = LEAKS.format(mark="skipif(False, reason=str())") + """
    import os
    from colocache import Cache
    made = Cache("made at import")
    assert made.set("k", 1)

    def test_what_was_made_at_import_is_private_too():
        assert made.get("k") is None

    def test_processes_that_a_test_starts_are_told():
        assert os.environ["COLOCACHE_PRIVATE"] == "true"
    """  # fmt: skip
    run(source, ini="colocache_private = true").assert_outcomes(passed=4)
    assert os.listdir(run_dir) == []


def test_without_either_nothing_changes(run: Run) -> None:
    run("""
        import os
        from shop import held, put

        def test_first():
            assert put(1)
            assert os.listdir(os.environ["COLOCACHE_DIR"]) == ["shop"]

        def test_second():
            assert held() == 1
    """).assert_outcomes(passed=2)  # fmt: skip


def test_a_run_that_does_not_use_it_imports_nothing_of_the_package(run: Run) -> None:
    done = run("""
        import sys

        def test_nothing():
            assert "pytest_colocache" in sys.modules
            assert not [name for name in sys.modules if name.split(".")[0] in ("colocache", "zmq")]
    """)  # fmt: skip
    done.assert_outcomes(passed=1)


def test_the_fixture_moves_the_time(run: Run) -> None:
    run("""
        import time
        from shop import loads, price

        def test_an_hour_later(colocache_private):
            before = time.monotonic()
            price("tea")
            colocache_private.travel("59s")
            price("tea")
            assert len(loads) == 1
            colocache_private.travel("1s")
            price("tea")
            assert len(loads) == 2
            assert time.monotonic() - before < 59
    """).assert_outcomes(passed=1)  # fmt: skip


UNITTEST = """
    import unittest
    import pytest
    from shop import cache

    @pytest.mark.colocache_private
    class TestShop(unittest.TestCase):
        def setUp(self):
            self.assertIsNone(cache.get("k"))
            cache.set("k", 1)

        def test_one(self):
            self.assertEqual(cache.get("k"), 1)

        def test_two(self):
            self.assertEqual(cache.get("k"), 1)
"""


def test_classes_of_unittest_can_be_marked(run: Run) -> None:
    run(UNITTEST).assert_outcomes(passed=2)


# --- Groups

GROUP = """
    import os
    import pytest
    from shop import cache, fail, held, put

    def loaded_there():
        cache.get_or_load("k", lambda: "theirs")
        return os.getpid()

    async def acalled():
        return await cache.aget("k")

    @pytest.mark.parametrize("time", [1, 2])
    def test_what_one_invalidates_the_other_does_not_serve(colocache_group, time):
        group = colocache_group
        assert cache.get("k") is None and group.other.call(held) is None
        assert group.other.call(loaded_there) == group.other.pid != os.getpid()
        assert cache.get_or_load("k", lambda: "ours") == "theirs"
        assert group.other.call(acalled) == "theirs"
        assert cache.invalidate("k").complete
        assert group.other.call(held) is None
        assert len(cache.members()) == 2
        assert os.environ["COLOCACHE_DIR"] == group.directory

    @pytest.mark.colocache_group
    def test_a_mark_is_enough():
        assert put(1)
        assert cache.members()[0].role == "peer"

    def test_what_is_raised_there_is_raised_here(colocache_group):
        with pytest.raises(LookupError, match="no such thing") as raised:
            colocache_group.other.call(fail)
        assert "in fail" in raised.value.__notes__[0]

    def test_only_functions_of_modules_can_be_called(colocache_group):
        for function in (cache.start, lambda: None):
            with pytest.raises(TypeError, match="functions of modules only"):
                colocache_group.other.call(function)

    def test_an_end_of_the_other_is_an_error(colocache_group):
        with pytest.raises(RuntimeError, match="has ended, with 3"):
            colocache_group.other.call(os._exit, 3)
        assert put(1)
"""


@pytest.mark.parametrize(("mode", "ini"), [("importlib", ""), ("prepend", "colocache_private = true")])
def test_a_group_of_two_processes(run: Run, run_dir: str, mode: str, ini: str) -> None:
    run(GROUP, f"--import-mode={mode}", ini=ini).assert_outcomes(passed=6)
    assert os.listdir(run_dir) == []


# --- With other plugins


def test_with_xdist(run: Run, run_dir: str) -> None:
    done = run(LEAKS.format(mark="colocache_private").replace("[1, 2]", "range(8)") + GROUP, "-n2")
    done.assert_outcomes(passed=14)
    assert os.listdir(run_dir) == []


ASYNC = """
    import pytest
    from shop import cache, loads, aprice

    @pytest.mark.{mark}
    @pytest.mark.colocache_private
    @pytest.mark.parametrize("time", [1, 2])
    async def test_each_in_a_loop_of_its_own(time):
        loads.clear()
        assert await aprice("tea") == await aprice("tea") == 3
        assert loads == ["tea"]
        assert (await aprice.invalidate("tea")).complete

    @pytest.mark.{mark}
    @pytest.mark.colocache_group
    @pytest.mark.parametrize("time", [1, 2])
    async def test_of_a_group(time):
        assert await aprice("tea") == 3
        assert (await cache.aclear()).complete
"""


def test_with_pytest_asyncio(run: Run) -> None:
    run(ASYNC.format(mark="asyncio")).assert_outcomes(passed=4)


def test_with_anyio(run: Run) -> None:
    backend = "import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    run(ASYNC.format(mark="anyio"), conftest=backend).assert_outcomes(passed=4)
