"""Keys as people write them: text, literal or call, and never one for another."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from colocache import Cache
from colocache.cli.exits import BAD_USE, Failure
from colocache.cli.keys import named
from colocache.core.keys import prefix, read, wire


@pytest.mark.parametrize(
    "text", ["a", "", "(x", "('user', 7)", "shop:price('tea')", "'quoted'", "-l", "\x1b[2J", "ü" * 3000]
)
def test_a_text_is_itself_whatever_it_looks_like(text: str) -> None:
    found = named(text, "text", "")
    assert found.key == text
    assert found.wire == wire(prefix(""), text)


LITERALS: list[tuple[str, Any]] = [
    ("('user', 7)", ("user", 7)),
    ("'a text'", "a text"),
    (" ( 1 , ) ", (1,)),
    ("(-1, 2.5, None, True, b'x')", (-1, 2.5, None, True, b"x")),
    ("(UUID('4f3f2898-69e3-5a0d-820a-c4e87987dbce'),)", (UUID("4f3f2898-69e3-5a0d-820a-c4e87987dbce"),)),
    ("(datetime.date(2026, 1, 2), date(2026, 1, 2))", (date(2026, 1, 2), date(2026, 1, 2))),
    ("(datetime.datetime(2026, 1, 2, 3), timedelta(days=1))", (datetime(2026, 1, 2, 3), timedelta(days=1))),
    ("(Decimal('1.5'), Fraction(1, 3), float('inf'))", (Decimal("1.5"), Fraction(1, 3), float("inf"))),
    ("([1, {'a': {2}}], frozenset({1}))", ([1, {"a": {2}}], frozenset({1}))),
]


@pytest.mark.parametrize(("text", "key"), LITERALS)
def test_a_literal_is_what_python_takes_it_for(text: str, key: Any) -> None:
    assert named(text, "literal", "ns") == ("ns", key, wire(prefix("ns"), key))


@pytest.mark.parametrize(
    "key", ["a", "(x", ("user", 7), (None, -3, 2.5, b"\xff", ("ü", date(2026, 1, 2))), (UUID(int=7),)]
)
def test_what_is_shown_of_a_key_is_read_as_that_key(key: Any) -> None:
    whole = wire(prefix("ns"), key)
    assert named(repr(read(whole)), "literal", "ns").wire == whole


BAD = ["", "user", "('a'", "7", "[1]", "f(1)", "__import__('os').system('true')", "(open('/etc/passwd'),)", "('a', "
"*x)", "{**{}}",
       "(" * 5000, "1" * 200_000, "(UUID('x'),)", "(lambda: 1,)", "('a' + 'b',)", "(object,)"]  # fmt: skip


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:20])
def test_what_is_no_literal_key_is_bad_use_in_one_line(text: str) -> None:
    with pytest.raises(Failure, match="cannot be a key: ") as raised:
        named(text, "literal", "")
    assert raised.value.status == BAD_USE
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_call_has_the_key_that_the_decorated_function_makes(cache: Cache) -> None:
    @cache.cached(name="shop.prices:price")
    def price(sku: str, size: int = 3, *, fast: bool = False) -> int:
        return 1

    @cache.namespace("eu").cached(name="shop.prices:plain")
    def plain(sku: str, size: int = 3) -> int:
        return 1

    @cache.cached(name="shop.prices:none")
    def none() -> int:
        return 1

    for function, arguments, texts in (
        (price, ("tea",), ["shop.prices:price('tea', 3, fast=False)", "shop.prices:price('tea', 3, (('fast', 0),))"]),
        (plain, ("tea", 4), ["eu/shop.prices:plain('tea', 4)"]),
        (none, (), ["shop.prices:none()"]),
    ):  # fmt: skip
        function(*arguments)
        [info] = [each for each in cache.entries() if each.key == function.cache_key(*arguments)]
        for text in [*texts, info.name]:
            assert cache.info(named(text, "call", "").key) is None
            found = named(text, "call", "")
            assert cache.namespace(found.namespace).info(found.key) is not None, text
        cache.clear()


def test_the_namespace_of_a_call_stands_before_its_function() -> None:
    assert named("shop:price(1)", "call", "eu").namespace == "eu/shop:price"


@pytest.mark.parametrize(
    "text", ["price", "price(1)", "shop:price", "shop:price(1", "shop:price(x)", "shop:price(**{})", "shop:p(1)(2)"]
)
def test_what_is_no_call_is_bad_use(text: str) -> None:
    with pytest.raises(Failure, match="cannot be a key: "):
        named(text, "call", "")


def test_a_namespace_that_is_too_long_is_bad_use() -> None:
    with pytest.raises(Failure, match="takes 300 bytes"):
        named("a", "text", "n" * 300)
