"""What type checkers make of a program that uses the package: mypy, strict, and pyright, on the one below.

`assert_type` says what must be known, and every ``type: ignore`` stands where an error must be found: mypy complains of
each that is not needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import colocache

pytest.importorskip("mypy")

PROGRAM = """
from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

import colocache
from colocache import CacheInfo, MemberInfo, Receipt, Stats

cache = colocache.Cache("shop", ttl="90s", memory="64MiB", disabled=False)
users = cache.namespace("users", ttl=None, copy=True)
cache.namespace("users", copy="always")  # type: ignore[arg-type]
colocache.Cache("shop", memroy=1)  # type: ignore[call-arg]

assert_type(cache.get_or_load("k", lambda: 3), int)
assert_type(cache.get_or_load(("k", 1, None), lambda: "text", ttl=timedelta(1), tags=["a"]), str)
assert_type(cache.get_many(["a", ("b", 1)])["a"], Any)
assert_type(cache.set("k", object()), bool)
assert_type(cache.set_many({"a": 1, ("b", 2): "c"}), bool)
names: dict[str, str] = {}
assert_type(cache.set_many(names), bool)
assert_type(cache.invalidate("k", "l", wait=0.5, strict=True), Receipt)
assert_type(users.delete("k").acknowledged, tuple[str, ...])
assert_type(users.clear().complete, bool)
assert_type(cache.stats(), Stats)
assert_type(cache.members(), list[MemberInfo])
assert_type(cache.members()[0].seat, int)
assert_type(cache.stats().shelf_bytes, int)
assert_type(cache.add("k", object(), ttl=60), bool)
assert_type(cache.incr("k", initial=0), int | None)
assert_type(cache.touch("k", 60), bool)
colocache.Cache("shop", shelf="8MiB", memory=2**20)
colocache.Cache("shop", lease=1.0)  # type: ignore[call-arg]
cache.get(1)  # type: ignore[arg-type]
cache.set("k", 1, wait=True)  # type: ignore[arg-type]
cache.get_or_load("k", 3)  # type: ignore[arg-type]


@cache.register
class Colour(enum.Enum):
    RED = 1


@cache.register
@dataclass
class Product:
    sku: str


assert_type(Product("tea").sku, str)
assert_type(cache.register(Product, name="shop:Product"), type[Product])
cache.register(Product("tea"))  # type: ignore[type-var]
with colocache.Cache("shop") as opened:
    assert_type(opened, colocache.Cache)


# Functions


@cache.cached(ttl=60, tags=("users",))
def profile(user_id: int, *, full: bool = False) -> dict[str, int]:
    return {"id": user_id}


assert_type(profile(42, full=True), dict[str, int])
assert_type(profile.refresh(42), dict[str, int])
assert_type(profile.__wrapped__(42), dict[str, int])
assert_type(profile.invalidate(user_id=42), Receipt)
assert_type(profile.cache_clear(), Receipt)
assert_type(profile.cache_info(), CacheInfo)
assert_type(profile.cache_info().hits, int)
key: str | tuple[Any, ...] = profile.cache_key(42)
profile("42")  # type: ignore[arg-type]
profile()  # type: ignore[call-arg]
profile(42, True)  # type: ignore[call-arg]
profile.invalidate("42")  # type: ignore[arg-type]
profile.refresh()  # type: ignore[call-arg]


@cache.cached
def row(user_id: int) -> Any: ...


assert_type(row(42), Any)
row.invalidate(42).complete


def use(function: Callable[[int], dict[str, int]]) -> None: ...


use(profile)


# Coroutine functions


@cache.cached(tags=lambda name: (name,))
async def page(name: str) -> list[str]:
    return [name]


async def main() -> None:
    pending: Coroutine[Any, Any, list[str]] = page("a")
    wrong: Coroutine[Any, Any, list[int]] = page("a")  # type: ignore[assignment]
    assert_type(await page("a"), list[str])
    assert_type(await page.refresh("a"), list[str])
    assert_type(await page.invalidate("a"), Receipt)
    assert_type(await page.cache_clear(), Receipt)
    assert_type(await page.__wrapped__("a"), list[str])
    page("a")  # type: ignore[unused-coroutine]
    page.invalidate("a")  # type: ignore[unused-coroutine]
    await page(1)  # type: ignore[arg-type]
    (await page("a"))[""]  # type: ignore[call-overload]

    async def load() -> float:
        return 1.5

    assert_type(await cache.aget_or_load("k", load), float)
    assert_type(await cache.aget_or_load("k", lambda: 3), int)
    assert_type(await cache.aset("k", 1), bool)
    assert_type(await cache.ainvalidate("k"), Receipt)
    assert_type(await cache.ainvalidate_tags("t"), Receipt)
    assert_type(await cache.aclear(), Receipt)
    assert_type(await cache.aget_many("ab"), dict[str | tuple[Any, ...], Any])
    text: str = await cache.aget_or_load("k", load)  # type: ignore[arg-type]


# Methods


class Shop:
    def __cache_key__(self) -> str:
        return "shop"

    @cache.cached()
    def stock(self, item: str) -> int:
        return 1

    @cache.cached()
    async def orders(self, item: str, *, open_only: bool = True) -> bytes:
        return b""

    @staticmethod
    @cache.cached()
    def price(item: str) -> float:
        return 1.5

    @classmethod
    @cache.cached()
    def rate(cls, currency: str) -> float:
        return 1.5

    @classmethod
    @cache.cached("60s")
    async def arate(cls, currency: str) -> float:
        return 1.5

    @property
    @cache.cached()
    def total(self) -> int:
        return 1


async def methods(shop: Shop) -> None:
    assert_type(shop.stock("tea"), int)
    assert_type(Shop.stock(shop, "tea"), int)
    assert_type(Shop.stock.invalidate(shop, "tea"), Receipt)
    assert_type(await shop.orders("tea", open_only=False), bytes)
    assert_type(await Shop.orders.refresh(shop, "tea"), bytes)
    assert_type(Shop.price("tea"), float)
    shop.stock(1)  # type: ignore[arg-type]
    shop.stock()  # type: ignore[call-arg]
    await shop.orders(1)  # type: ignore[arg-type]
    assert_type(shop.stock.invalidate("tea"), Receipt)
    assert_type(shop.stock.refresh(item="tea"), int)
    assert_type(await shop.orders.invalidate("tea"), Receipt)
    assert_type(await shop.orders.refresh("tea", open_only=False), bytes)
    assert_type(shop.stock.cache_info(), CacheInfo)
    assert_type(Shop.rate("EUR"), float)
    assert_type(shop.rate("EUR"), float)
    assert_type(Shop.rate.invalidate("EUR"), Receipt)
    assert_type(await Shop.arate.invalidate("EUR"), Receipt)
    assert_type(await Shop.arate("EUR"), float)
    assert_type(shop.total, int)
    shop.stock.invalidate(1)  # type: ignore[arg-type]
    Shop.rate(1)  # type: ignore[arg-type]
    Shop.stock.invalidate("tea")  # type: ignore[call-arg, arg-type]


# Other ways to decorate


@cache.cached
def plain(number: int) -> str:
    return ""


@cache.cached
async def aplain(number: int) -> str:
    return ""


@users.cached("60s", ignore=("log",), name="plain")
def short(number: int, log: object = None) -> str:
    return ""


async def ways() -> None:
    assert_type(plain(1), str)
    assert_type(plain.invalidate(1), Receipt)
    assert_type(await aplain(1), str)
    assert_type(await aplain.invalidate(1), Receipt)
    assert_type(short(1, log=None), str)
    plain("1")  # type: ignore[arg-type]
    cache.cached(ttl=60, ignore=5)  # type: ignore[call-overload]
"""


def test_a_strict_type_checker_knows_what_users_get(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [
        sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"),
        "--follow-imports=silent", "--no-error-summary", "--show-error-codes", str(program),
    ]  # fmt: skip
    environment = {**os.environ, "MYPYPATH": str(Path(colocache.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_another_type_checker_knows_it_too(tmp_path: Path) -> None:
    pytest.importorskip("pyright")
    root = Path(colocache.__file__).parents[1]
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(root)]}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    if "error:" not in done.stdout and done.returncode not in (0, 1):
        pytest.skip(f"pyright cannot be fetched here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(colocache.__file__).with_name("py.typed").exists()
