"""What Django caches by itself travels without pickle, and comes back as what it was; the rest says what to do."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("tests.django.project")  # sets Django up

import django
import msgpack
from django import http
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.response import ContentNotRenderedError, TemplateResponse
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext_lazy

import colocache
from colocache.django import DjangoCodec, cache_of, codec, register_response
from tests.django.project import Article

Site = Callable[..., Any]


def carried(value: object) -> Any:
    each = DjangoCodec()
    return each.decode(each.encode(value))


@pytest.mark.parametrize(
    "value",
    [
        mark_safe("<b>"),
        [mark_safe("a"), "a", {"k": (mark_safe("b"), {mark_safe("c")}, frozenset({mark_safe("d")}))}],
        {mark_safe("key"): 1, "other": datetime(2026, 1, 2, tzinfo=UTC)},
        mark_safe("\udc80"),
        {"plain": [1, 2.5, None, b"x"]},
    ],
    ids=["alone", "inside", "as a key", "a surrogate", "none"],
)
def test_safe_strings_stay_safe_wherever_they_are(value: Any) -> None:
    assert carried(value) == value
    assert types(carried(value)) == types(value)


def types(value: Any) -> Any:
    if isinstance(value, dict):
        return [(type(key), types(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [types(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), [type(item) for item in value]
    return type(value)


def same(one: HttpResponse, other: HttpResponse) -> None:
    """Assert that two responses are the same in all that Django ever looks at."""
    assert type(one) is type(other)
    assert (one.status_code, one.reason_phrase, one.charset) == (other.status_code, other.reason_phrase, other.charset)
    assert list(one.items()) == list(other.items())
    assert one.cookies.output() == other.cookies.output()
    assert one.content == other.content
    assert one.serialize() == other.serialize()


def every_kind() -> list[HttpResponse]:
    full = HttpResponse("tea", status=201, reason="Brewed", charset="latin-1", content_type="text/plain; charset=utf-8")
    full["X-Name"] = "Zoë €"
    full["set-lower"] = "kept as written"
    full.set_cookie("plain", "a value; with = signs", max_age=60, secure=True, httponly=True, samesite="Strict")
    full.set_cookie("session", "x", expires="Thu, 01 Jan 1970 00:00:00 GMT", domain="example.org", path="/a")
    full.delete_cookie("__Secure-old")
    full.write(b" and cake")
    full.xframe_options_exempt = True  # type: ignore[attr-defined]  # as a decorator of Django's does
    return [
        HttpResponse(b"\x00\xff", content_type="image/png"),
        full,
        JsonResponse({"a": [1]}),
        http.HttpResponseNotModified(),
        http.HttpResponseRedirect("/there"),
        http.HttpResponsePermanentRedirect("/there"),
        http.HttpResponseNotAllowed(["GET"]),
        http.HttpResponseNotFound("no"),
        http.HttpResponseGone(),
    ]


@pytest.mark.parametrize("response", every_kind(), ids=lambda response: type(response).__name__)
def test_responses_come_back_whole(response: HttpResponse) -> None:
    again = carried(response)
    same(again, response)
    same(pickle.loads(pickle.dumps(again)), pickle.loads(pickle.dumps(response)))
    assert getattr(again, "xframe_options_exempt", None) == getattr(response, "xframe_options_exempt", None)
    again["X-Later"] = "1"
    again.set_cookie("later", "1")
    assert "X-Later" not in response
    assert again.closed is False
    again.close()


def test_a_response_that_was_sent_is_as_one_that_was_not() -> None:
    response = HttpResponse("tea")
    assert response.text if hasattr(response, "text") else True
    response._resource_closers.append(print)
    response.close()
    again = carried(response)
    assert (again.closed, again._resource_closers, again.content) == (False, [], b"tea")
    assert "text" not in vars(again)


def test_a_rendered_template_response_leaves_its_context_behind() -> None:
    response = TemplateResponse(HttpRequest(), "page.html", {"made": object()})
    with pytest.raises(ContentNotRenderedError):
        carried(response)
    response.render()
    again = carried(response)
    same(again, response)
    assert again.is_rendered
    assert again.render() is again
    assert not hasattr(again, "context_data")


def test_what_decorators_leave_in_responses_travels() -> None:
    if django.VERSION < (6,):
        pytest.skip("needs Python 3.12, as Django 6 does, which has these")
    csp = importlib.import_module("django.utils.csp")
    response = HttpResponse("tea")
    response._csp_config = {"default-src": [csp.CSP.SELF, "example.org"]}  # type: ignore[attr-defined]
    again = carried(response)
    assert again._csp_config == response._csp_config  # type: ignore[attr-defined]
    assert type(again._csp_config["default-src"][0]) is csp.CSP


class Special(HttpResponse):
    """As a framework on top of Django has it."""

    def __init__(self, data: Any) -> None:
        super().__init__(str(data))
        self.data = data
        self.renderer = object()


def test_a_class_of_responses_of_ones_own_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_kinds", codec._kinds)
    monkeypatch.setattr(codec, "_named", codec._named)
    with pytest.raises(TypeError, match=r"Special cannot be carried.*register_response\(Special\)"):
        carried(Special(1))
    assert register_response(Special) is Special
    with pytest.raises(TypeError, match=r"attributes\['renderer'\] of type object cannot be carried"):
        carried(Special(1))
    register_response(Special, without=("renderer",))
    again = carried(Special([1]))
    assert (type(again), again.data, again.content, hasattr(again, "renderer")) == (Special, [1], b"[1]", False)
    payload = DjangoCodec().encode(Special(1))
    monkeypatch.setattr(codec, "_named", {})
    with pytest.raises(ValueError, match=r"Special' in this process: call colocache.django.register_response"):
        DjangoCodec().decode(payload)


@pytest.mark.parametrize("cls", [int, http.StreamingHttpResponse, HttpResponse(), "HttpResponse"])
def test_only_responses_with_a_body_can_be_registered(cls: Any) -> None:
    with pytest.raises(TypeError, match="HttpResponse"):
        register_response(cls)
    with pytest.raises(TypeError, match="without="):
        register_response(HttpResponse, without="data")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Article(title="x"), "project.Article cannot be carried.*object of an ORM.*cache the data"),
        (Article.objects.all(), r"QuerySet cannot be carried.*cache list\(queryset.values"),
        (object(), "type object cannot be carried"),
        ([{"a": Session()}], r"value\[0\]\['a'\] of type .*Session"),
        (gettext_lazy("tea"), r"__proxy__ cannot be carried.*cache str\("),
        (SimpleLazyObject(lambda: 1), "SimpleLazyObject cannot be carried"),
        (http.StreamingHttpResponse([b"x"]), "StreamingHttpResponse cannot be carried"),
    ],
    ids=["model", "queryset", "object", "inside", "lazy text", "lazy object", "stream"],
)
def test_what_cannot_be_carried_is_named_with_a_remedy(site: Site, value: Any, says: str) -> None:
    with pytest.raises(TypeError, match=f"':1:key'.*{says}") as caught:
        site().set("key", value)
    assert '"codec": "pickle"' in str(caught.value)
    assert caches["default"].get("key") is None


def test_a_list_that_contains_itself_is_oversize() -> None:
    endless: list[Any] = [mark_safe("x")]
    endless.append(endless)
    with pytest.raises(colocache.OversizeError, match="contains itself"):
        carried(endless)


@pytest.mark.parametrize("tail", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\xc0"])
def test_nonsense_is_a_value_error(tail: bytes) -> None:
    for head in (b"\xc1", b"\x92", b"\xc7\x01", b"\xd4\x10"):
        with pytest.raises(ValueError, match=r"\w"):
            DjangoCodec().decode(head + tail)


@pytest.mark.parametrize(
    "parts",
    [
        ["django.http.response:HttpResponse", [["a", "b\r\nc: d"]], [], b"", {}],
        ["django.http.response:HttpResponse", [], [["bad name", "x", "x", {}]], b"", {}],
        ["django.http.response:HttpResponse", [], [["name", "x", "x", {"unheard-of": 1}]], b"", {}],
        ["django.http.response:HttpResponse", 5, [], b"", {}],
        ["django.http.response:HttpResponse", [], [], "text", {}],
        ["os:system", [], [], b"", {}],
        [[1], [], [], b"", {}],
        ["django.http.response:HttpResponse", [], [], b"", {1: 2}],
        ["django.http.response:HttpResponse", [], [], b""],
    ],
)
def test_a_forged_response_is_a_value_error(parts: list[Any]) -> None:
    body = msgpack.packb(["django:response", *parts])
    with pytest.raises(ValueError, match=r"\w"):
        DjangoCodec().decode(msgpack.packb(msgpack.ExtType(16, body)))


class Unforeseen:
    def __init__(self) -> None:
        self.value = 1


@pytest.mark.parametrize("name", ["pickle", "dotted", "object"])
def test_pickle_carries_the_rest_where_it_is_asked_for(site: Site, name: str) -> None:
    options: dict[str, Any] = {
        "pickle": "pickle", "dotted": "colocache.MsgpackCodec", "object": colocache.PickleCodec(key=b"k" * 32)
    }  # fmt: skip
    other = {"OPTIONS": {"memory": "32MiB", "codec": "pickle"}}
    cache = site(default={"OPTIONS": {"codec": options[name]}}, other=other)
    if name == "dotted":
        assert type(cache_of().codec) is colocache.MsgpackCodec
        return
    article = Article(id=5, title="tea")
    cache.set("article", article)
    found = caches["default"].get("article")
    assert (found, found.title, found is article) == (article, "tea", False)
    if name == "pickle":  # signed with a key made of SECRET_KEY, and so the same in all processes
        assert caches["other"].get("article").title == "tea"


def test_a_process_with_another_codec_finds_nothing_and_says_so(site: Site, caplog: Any) -> None:
    cache = site(other={"OPTIONS": {"codec": "pickle"}})
    cache.set("key", mark_safe("x"))
    assert caches["other"].get("key") is None
    assert "was written with another codec" in caplog.text


def test_classes_of_the_application_are_registered_with_the_codec(site: Site) -> None:
    import enum

    cache = site()

    class Colour(enum.Enum):
        RED = 1

    cache_of().codec.register(Colour, name="tests:Colour")
    cache.set("colour", [Colour.RED, SafeString("x")])
    assert cache.get("colour") == [Colour.RED, "x"]
