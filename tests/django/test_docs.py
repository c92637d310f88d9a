"""The programs in the pages on Django, which need a project around them, run in that of the tests."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests import ROOT

pytest.importorskip("tests.django.project")  # sets Django up

from django.core.cache import cache

from colocache.django import cache_of, commits, signals
from tests.django import project

HOWTO = ROOT / "docs" / "howto" / "django.md"
BLOCK = re.compile(r"^```python\n(from .*?)^```$", re.MULTILINE | re.DOTALL)


def test_what_the_page_says_runs_and_does_what_it_says(
    site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site()
    ends: list[Callable[[], None]] = []
    models = ModuleType("shop.models")
    models.Product = project.Article  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.models", models)
    begin = signals.invalidate_with
    monkeypatch.setattr("colocache.django.invalidate_with", lambda *a, **k: ends.append(begin(*a, **k)))
    names: dict[str, Any] = {"__name__": "shop.views"}
    blocks = BLOCK.findall(HOWTO.read_text("utf-8"))
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(HOWTO), "exec"), names)
    try:
        assert cache.get("products") == ["tea", "milk"]
        article = project.Article.objects.create(title="tea")
        assert names["title"](article.pk) == "tea"
        names["rename_all"]("cake")
        assert names["title"](article.pk) == "cake"
        cache.set(f"product:{article.pk}", "cake")
        names["rename"](article.pk, "pie")
        assert f"product:{article.pk}" not in cache
        article.title = "scone"
        article.save()
        assert names["title"](article.pk) == "scone"
        assert cache_of().namespace("shop.views:title") is not None
        article.delete()
    finally:
        for end in ends:
            end()
    assert commits.invalidates is names["invalidates"]
