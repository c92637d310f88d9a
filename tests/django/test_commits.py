"""Invalidation after COMMIT: by call, by decorator, by the signals of models; real transactions of SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("tests.django.project")  # sets Django up

from django.core.cache import cache as proxy
from django.core.cache import caches
from django.db import connections, transaction
from django.db.utils import IntegrityError
from django.test import TestCase, override_settings

from colocache import Cache, Space
from colocache.django import (
    ainvalidate_on_commit,
    cache_of,
    commits,
    invalidate_on_commit,
    invalidate_with,
    invalidates,
)
from tests.django.project import Article, Draft, News, Page, Tag

Site = Callable[..., Any]


@pytest.fixture
def cache(site: Site) -> Any:
    """The backend, with what the tests invalidate in it."""
    cache = site()
    fill(cache)
    return cache


def fill(cache: Any) -> None:
    """Have something under each key."""
    cache.set_many({"tea": 1, "cake": 1})
    cache.set("tagged", 1, tags=("shelf",))


def there(cache: Any) -> set[str]:
    """Return the keys that are still there."""
    return set(cache.get_many(["tea", "cake", "tagged"]))


@pytest.fixture(autouse=True)
def _empty_tables() -> Iterator[None]:
    yield
    for alias in ("default", "second"):
        for model in (News, Article, Tag):
            model.objects.using(alias).all().delete()
        connections[alias].close()


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The invalidations that are announced."""
    announced: list[str] = []
    for name in ("invalidate", "invalidate_tags"):
        monkeypatch.setattr(Space, name, noting(name, getattr(Space, name), announced))
    return announced


def noting(name: str, original: Callable[..., Any], announced: list[str]) -> Callable[..., Any]:
    def call(self: Space, *what: Any, **kwargs: Any) -> Any:
        announced.append(f"{name} {' '.join(map(str, what))}")
        return original(self, *what, **kwargs)

    return call


# --- Transactions


def test_outside_of_a_transaction_it_is_done_at_once(cache: Any) -> None:
    invalidate_on_commit("default", "tea", tags=("shelf",))
    assert there(cache) == {"cake"}


def test_in_a_transaction_it_is_done_after_commit(cache: Any) -> None:
    with transaction.atomic():
        invalidate_on_commit("default", "tea", tags=("shelf",))
        assert there(cache) == {"tea", "cake", "tagged"}
        with transaction.atomic():
            invalidate_on_commit("default", "cake")
        assert there(cache) == {"tea", "cake", "tagged"}
    assert there(cache) == set()


def test_after_a_rollback_never(cache: Any, count: list[str]) -> None:
    @transaction.atomic
    def fail() -> None:
        invalidate_on_commit("default", "tea", tags=("shelf",))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with transaction.atomic():
        invalidate_on_commit("default", "tea")
        transaction.set_rollback(True)
    with transaction.atomic():  # what was given up does not come back with the next one
        pass
    assert there(cache) == {"tea", "cake", "tagged"}
    assert count == []


def test_a_savepoint_that_is_rolled_back_takes_its_own_with_it(cache: Any) -> None:
    @transaction.atomic
    def fail() -> None:
        invalidate_on_commit("default", "cake")
        raise ZeroDivisionError

    with transaction.atomic():
        invalidate_on_commit("default", "tea")
        with pytest.raises(ZeroDivisionError):
            fail()
        with transaction.atomic():
            invalidate_on_commit("default", tags=("shelf",))
    assert there(cache) == {"cake"}


def test_one_within_a_savepoint_that_goes_does_not_drag_others_along(cache: Any) -> None:
    @transaction.atomic
    def fail() -> None:
        with transaction.atomic():
            invalidate_on_commit("default", "tea")
        invalidate_on_commit("default", "cake")
        raise ZeroDivisionError

    with transaction.atomic():
        with pytest.raises(ZeroDivisionError):
            fail()
        invalidate_on_commit("default", tags=("shelf",))
    assert there(cache) == {"tea", "cake"}


def test_a_thousand_in_one_transaction_wait_once(cache: Any, count: list[str]) -> None:
    with transaction.atomic():
        for number in range(500):
            invalidate_on_commit("default", "tea", f"more-{number}", tags=("shelf",))
            with transaction.atomic(savepoint=False):
                invalidate_on_commit("default", "cake")
    assert there(cache) == set()
    assert [announced.split()[0] for announced in count] == ["invalidate", "invalidate_tags"]


def test_others_in_between_keep_their_turn(cache: Any) -> None:
    seen, own = [], cache_of()
    own.set("own", 1)
    with transaction.atomic():
        invalidate_on_commit("default", "tea")
        transaction.on_commit(lambda: seen.append(there(cache)))
        invalidate_on_commit("default", "cake")
        invalidate_on_commit(own, "own")
        transaction.on_commit(lambda: seen.append(there(cache)))
    assert seen == [{"cake", "tagged"}, {"tagged"}]
    assert own.get("own") is None


def test_each_database_has_its_own_transactions(cache: Any) -> None:
    with transaction.atomic(using="second"):
        invalidate_on_commit("default", "tea", using="second")
        invalidate_on_commit("default", "cake")  # there is no transaction of the default database
        assert there(cache) == {"tea", "tagged"}
    assert there(cache) == {"tagged"}


def test_in_manual_transaction_management_django_refuses(cache: Any) -> None:
    transaction.set_autocommit(False)
    try:
        with pytest.raises(transaction.TransactionManagementError):
            invalidate_on_commit("default", "tea")
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_in_a_test_case_that_never_commits_the_callbacks_can_be_captured(cache: Any) -> None:
    with transaction.atomic():
        with TestCase.captureOnCommitCallbacks(execute=True) as callbacks:
            invalidate_on_commit("default", "tea")
        assert len(callbacks) == 1
        assert there(cache) == {"cake", "tagged"}
        transaction.set_rollback(True)


def test_what_was_invalidated_before_a_capture_does_not_swallow_what_is_invalidated_in_it(cache: Any) -> None:
    """As in a test that makes its objects first, and captures twice."""
    with transaction.atomic():
        invalidate_on_commit("default", "before")
        for key in ("tea", "cake"):
            with TestCase.captureOnCommitCallbacks(execute=True) as callbacks:
                invalidate_on_commit("default", key)
            assert len(callbacks) == 1
            assert key not in there(cache)
        assert there(cache) == {"tagged"}
        transaction.set_rollback(True)


def test_a_capture_calls_what_is_its_own_only_and_one_around_it_calls_that_again(cache: Any) -> None:
    with transaction.atomic():
        invalidate_on_commit("default", tags=("shelf",))
        with TestCase.captureOnCommitCallbacks(execute=True) as outer:
            invalidate_on_commit("default", "tea")
            with TestCase.captureOnCommitCallbacks(execute=True) as inner:
                invalidate_on_commit("default", "cake")
            assert there(cache) == {"tea", "tagged"}
            cache.set("cake", 2)
        assert (len(outer), len(inner)) == (2, 1)
        assert there(cache) == {"tagged"}
    assert there(cache) == set(), "and COMMIT calls all of them"


def test_a_captured_callback_may_be_called_by_hand_and_later(cache: Any) -> None:
    with transaction.atomic():
        with TestCase.captureOnCommitCallbacks() as callbacks:
            invalidate_on_commit("default", "tea")
        invalidate_on_commit("default", "cake")
        assert there(cache) == {"tea", "cake", "tagged"}
        callbacks[0]()
        assert there(cache) == {"cake", "tagged"}
        transaction.set_rollback(True)


def test_a_capture_is_of_one_database(cache: Any) -> None:
    with transaction.atomic(), transaction.atomic(using="second"):
        invalidate_on_commit("default", "cake", using="second")
        with TestCase.captureOnCommitCallbacks(using="second", execute=True):
            invalidate_on_commit("default", "cake")
            invalidate_on_commit("default", "tea", using="second")
        assert there(cache) == {"cake", "tagged"}
        transaction.set_rollback(True, using="second")
    assert there(cache) == {"tagged"}


def test_saves_of_a_watched_model_are_captured_one_after_the_other(cache: Any, watch: Any) -> None:
    watch(Article, keys=keys)
    with transaction.atomic():
        article = Article.objects.create(title="a")
        for title in ("b", "c"):
            cache.set(f"article:{article.pk}", article.title)
            with TestCase.captureOnCommitCallbacks(execute=True):
                article.title = title
                article.save()
            assert f"article:{article.pk}" not in cache
        transaction.set_rollback(True)


# --- What is invalidated


def test_a_cache_is_named_in_every_way_that_there_is(site: Site) -> None:
    cache = site(prefixed={"KEY_PREFIX": "p"})
    for each in ("default", caches["default"], proxy):
        fill(cache)
        invalidate_on_commit(each, "tea", tags=("shelf",))
        assert there(cache) == {"cake"}
    fill(cache)
    caches["prefixed"].set("tea", 2)
    invalidate_on_commit("prefixed", "tea")
    assert (caches["prefixed"].get("tea"), cache.get("tea")) == (None, 1)
    cache.set("tea", 3, version=3)
    invalidate_on_commit("default", "tea", version=3)
    assert (cache.get("tea", version=3), cache.get("tea")) == (None, 1)
    users: Space = cache_of().namespace("users")
    users.set(("user", 5), "Ada")
    invalidate_on_commit(users, ("user", 5))
    assert users.get(("user", 5)) is None


def test_other_backends_forget_the_keys_too(run_dir: str) -> None:
    locmem = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "test"}
    with override_settings(CACHES={"default": locmem}):
        caches["default"].set("tea", 1)
        invalidate_on_commit("default", "tea", tags=("shelf",))
        assert caches["default"].get("tea") is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((5, "tea"), "not 5"),
        (("default", "tea", {"tags": "shelf"}), r"tags=\('shelf',\)"),
        (("default", "tea", {"tags": (5,)}), "a tag is a str, not int: 5"),
    ],
)
def test_what_makes_no_sense_is_told_before_the_transaction_ends(cache: Any, given: Any, says: str) -> None:
    *args, last = given
    kwargs, args = (last, args) if isinstance(last, dict) else ({}, [*args, last])
    with transaction.atomic(), pytest.raises(TypeError, match=says):
        invalidate_on_commit(*args, **kwargs)


def test_what_is_no_key_of_a_space_is_told_before_the_transaction_ends(cache: Any) -> None:
    with transaction.atomic(), pytest.raises(TypeError, match="a key is a str or a tuple, not int"):
        invalidate_on_commit(cache_of(), 5)


def test_trouble_after_commit_fails_nobody(site: Site, caplog: Any) -> None:
    cache = site()
    with transaction.atomic():
        invalidate_on_commit("default", "tea")
        ran: list[int] = []
        transaction.on_commit(lambda: ran.append(1))
        cache.group.cache.close()
    assert ran == [1]
    assert "colocache.django.invalidate_on_commit" in caplog.text


# --- In async code, and decorated


def test_the_twin_waits_for_the_same_transactions(cache: Any) -> None:
    asyncio.run(ainvalidate_on_commit("default", "tea", tags=("shelf",)))
    assert there(cache) == {"cake"}


def test_a_decorated_function_invalidates_when_it_has_succeeded(cache: Any) -> None:
    @invalidates("default", keys=lambda name, **_: [name], tags=("shelf",))
    def write(name: str, fail: bool = False) -> str:
        """Write."""
        if fail:
            raise ZeroDivisionError
        return f"wrote {name}"

    with pytest.raises(ZeroDivisionError):
        write("tea", fail=True)
    assert there(cache) == {"tea", "cake", "tagged"}
    with transaction.atomic():
        assert write("tea") == "wrote tea"
        assert there(cache) == {"tea", "cake", "tagged"}
    assert there(cache) == {"cake"}
    assert (write.__name__, write.__doc__) == ("write", "Write.")


def test_a_decorated_coroutine_function_does_so_too(cache: Any) -> None:
    @invalidates(keys=["tea"], tags=lambda shelf: [shelf])
    async def write(shelf: str) -> str:
        if shelf == "none":
            raise ZeroDivisionError
        return shelf

    with pytest.raises(ZeroDivisionError):
        asyncio.run(write("none"))
    assert there(cache) == {"tea", "cake", "tagged"}
    assert asyncio.run(write("shelf")) == "shelf"
    assert there(cache) == {"cake"}
    assert asyncio.iscoroutinefunction(write)


def test_a_decorated_view_invalidates_before_it_answers(cache: Any) -> None:
    @transaction.atomic
    def inner() -> None:
        Article.objects.create(title="tea")

    @invalidates(keys=("tea",))
    def view() -> set[str]:
        inner()
        return there(cache)

    assert view() == {"tea", "cake", "tagged"}
    assert there(cache) == {"cake", "tagged"}


@pytest.mark.parametrize("wrong", [{"keys": "tea"}, {"tags": "shelf"}])
def test_a_text_is_no_list_of_them(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="not a text: write"):
        invalidates(**wrong)
    with pytest.raises(TypeError, match="not a text: write"):
        invalidate_with(Article, **wrong)


# --- Signals


@pytest.fixture
def watch() -> Iterator[Callable[..., None]]:
    """Calls `invalidate_with`, and ends it after the test."""
    ends: list[Callable[[], None]] = []

    def begin(*args: Any, **kwargs: Any) -> None:
        ends.append(invalidate_with(*args, **kwargs))

    yield begin
    for end in ends:
        end()


def keys(article: Any) -> list[str]:
    return [f"article:{article.pk}"]


def test_saving_and_deleting_invalidate_the_objects_keys(cache: Any, watch: Any) -> None:
    watch(Article, keys=keys, tags=("shelf",))
    article, other = Article.objects.create(title="a"), Article.objects.create(title="b")

    def change(what: Callable[[], object]) -> set[str]:
        fill(cache)
        cache.set_many({f"article:{article_pk}": 1, f"article:{other.pk}": 1})
        what()
        return {f"article:{article_pk}"} & set(cache.get_many([f"article:{article_pk}"])) | there(cache)

    article_pk = article.pk
    assert change(article.save) == {"tea", "cake"}
    assert change(lambda: Article.objects.filter(pk=article_pk).update(title="c")) == {
        f"article:{article_pk}", "tea", "cake", "tagged"
    }  # fmt: skip
    assert change(article.delete) == {"tea", "cake"}
    assert cache.get(f"article:{other.pk}") == 1


def test_not_before_commit_and_not_after_a_rollback(cache: Any, watch: Any) -> None:
    watch(Article, keys=("tea",))
    with transaction.atomic():
        Article.objects.create(title="a")
        assert "tea" in cache
    assert "tea" not in cache
    fill(cache)

    @transaction.atomic
    def fail() -> None:
        first = Article.objects.create(title="b")
        Article.objects.create(pk=first.pk, title="c")

    with pytest.raises(IntegrityError):
        fail()
    assert "tea" in cache


def test_the_transaction_is_that_of_the_objects_database(cache: Any, watch: Any) -> None:
    watch(Article, keys=("tea",))
    with transaction.atomic(using="second"):
        Article(title="a").save(using="second")
        assert "tea" in cache
    assert "tea" not in cache


def test_the_objects_subclasses_count_and_proxies_and_those_of_an_abstract_class(cache: Any, watch: Any) -> None:
    watch(Page, keys=("tea",))
    for model in (Article, News, Draft):
        fill(cache)
        model.objects.create(title="x")
        assert "tea" not in cache
    fill(cache)
    Tag.objects.create(name="x")
    assert "tea" in cache


def test_classes_that_are_defined_later_count(cache: Any, watch: Any) -> None:
    from django.apps import apps
    from django.db.models.signals import post_save

    watch(Article, keys=("tea",))

    class Later(Article):
        class Meta:
            app_label = "project"
            proxy = True

    try:
        assert post_save.has_listeners(Later)
        Later.objects.create(title="x")
        assert "tea" not in cache
    finally:
        del apps.all_models["project"]["later"]
        apps.clear_cache()


def test_many_to_many_fields_count_from_both_sides(cache: Any, watch: Any) -> None:
    watch(Article, keys=keys)
    articles = [Article.objects.create(title=str(number)) for number in range(3)]
    tag = Tag.objects.create(name="t")
    names = [f"article:{article.pk}" for article in articles]

    def gone(change: Callable[[], object]) -> list[int]:
        cache.set_many(dict.fromkeys(names, 1))
        change()
        found = cache.get_many(names)
        return [number for number, name in enumerate(names) if name not in found]

    assert gone(lambda: articles[0].tags.add(tag)) == [0]
    assert gone(lambda: articles[0].tags.add(tag)) == []
    assert gone(lambda: articles[0].tags.remove(tag)) == [0]
    assert gone(lambda: articles[0].tags.set([tag])) == [0]
    assert gone(lambda: articles[0].tags.clear()) == [0]
    assert gone(lambda: tag.articles.add(*articles[:2])) == [0, 1]
    assert gone(lambda: tag.articles.remove(articles[1])) == [1]
    assert gone(lambda: tag.articles.set([articles[0], articles[2]])) == [2]
    assert gone(lambda: tag.articles.clear()) == [0, 2]
    assert gone(lambda: articles[0].likes.add(articles[1])) == [0, 1]
    assert gone(lambda: articles[1].likes.clear()) == [0, 1]
    assert gone(lambda: Tag.objects.create(name="u")) == []


def test_a_loop_of_saves_in_a_transaction_waits_once(cache: Any, watch: Any, count: list[str]) -> None:
    watch(Article, keys=keys)
    watch(Article, tags=("shelf",))
    with transaction.atomic():
        for number in range(20):
            Article.objects.create(title=str(number))
    assert len(count) == 2


def test_it_can_be_ended(cache: Any) -> None:
    from django.db.models.signals import m2m_changed, post_delete, post_save

    end = invalidate_with(Article, keys=("tea",))
    through = Article.tags.through
    assert post_save.has_listeners(Article)
    assert not post_delete.has_listeners(Tag), "it makes deletions of other models slow"
    end()
    end()
    Article.objects.create(title="x")
    assert "tea" in cache
    assert not post_save.has_listeners(Article)
    assert not post_delete.has_listeners(News)
    assert not m2m_changed.has_listeners(through)


@pytest.mark.parametrize("model", ["tests.django.project.Article", Article(), int])
def test_only_a_model_has_signals(model: Any) -> None:
    with pytest.raises(TypeError, match="a model is a class"):
        invalidate_with(model, keys=("tea",))


def test_a_namespace_of_colocaches_own_is_invalidated_too(cache: Any, watch: Any) -> None:
    own: Cache = cache_of()

    @own.cached(ttl=60, tags=lambda pk: (f"article:{pk}",))
    def title(pk: int) -> str:
        return str(Article.objects.get(pk=pk).title)

    watch(Article, tags=lambda article: [f"article:{article.pk}"], cache=own)
    article = Article.objects.create(title="a")
    assert title(article.pk) == "a"
    article.title = "b"
    article.save()
    assert title(article.pk) == "b"


def test_nothing_is_merged_where_django_has_changed_its_ways(
    cache: Any, count: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked at of a connection is not public; without it each call announces its own."""
    with transaction.atomic():
        monkeypatch.setattr(commits, "_previous", lambda connection: None)
        invalidate_on_commit("default", "tea")
        invalidate_on_commit("default", "cake")
    assert there(cache) == {"tagged"}
    assert [announced.split()[0] for announced in count] == ["invalidate", "invalidate"]
