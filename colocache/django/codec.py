"""How what Django caches becomes bytes: colocache's msgpack, which carries safe strings, and responses beside it.

Django caches three kinds of things by itself: the pages of ``cache_page``, which are whole responses; template
fragments, which are safe strings; and sessions, which are dicts of what the application puts there. These travel
without pickle. A response travels as its class (by its registered name), headers, cookies, body and further
attributes, and nothing of it is run when it is read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from http.cookies import Morsel, SimpleCookie
from typing import Any, Final, NamedTuple, TypeVar

from django import http
from django.http.response import ResponseHeaders
from django.template.response import SimpleTemplateResponse, TemplateResponse

from colocache import MsgpackCodec
from colocache.values.form import KNOWN, Form

try:
    from django.utils.csp import CSP  # since 6.0: csp_override() leaves its members in responses
except ImportError:
    CSP = None

_Class = TypeVar("_Class", bound=type)

#: The attributes of a response that are carried in a form of their own, or made anew.
_OWN: Final = frozenset({"headers", "cookies", "_container", "_resource_closers", "_handler_class", "closed", "text"})


class _Kind(NamedTuple):
    """A class of responses that may travel."""

    name: str
    cls: Any
    without: frozenset[str]


_registering = threading.Lock()
_kinds: Mapping[type, _Kind] = {}  # replaced as a whole, never changed, so readers need no lock
_named: Mapping[str, _Kind] = {}


def register_response(cls: _Class, *, without: Iterable[str] = ()) -> _Class:
    """Let the responses of a class travel, and return the class, so that this can be its decorator.

    Django's own are registered. Every process must register the class; it travels by its name, ``module:qualname``. A
    response is restored without ``__init__``, with its headers, cookies, body and whatever other attributes its
    ``__getstate__`` gives; ``without`` are names of attributes that a cached response can do without. Raises TypeError
    if the class is no HttpResponse, or a streaming one.
    """
    global _kinds, _named
    if not (isinstance(cls, type) and issubclass(cls, http.HttpResponse)):
        raise TypeError(f"{cls!r} is no subclass of HttpResponse: only a response with a body can be cached")
    if isinstance(without, str):
        raise TypeError(f"without is a tuple of names, not a text: write without=({without!r},)")
    kind = _Kind(f"{cls.__module__}:{cls.__qualname__}", cls, _OWN | frozenset(without))
    with _registering:
        _named = {**_named, kind.name: kind}
        _kinds = {**_kinds, cls: kind}
    return cls


for _each in (
    http.HttpResponse, http.JsonResponse, http.HttpResponseNotModified, http.HttpResponseRedirect,
    http.HttpResponsePermanentRedirect, http.HttpResponseBadRequest, http.HttpResponseNotFound,
    http.HttpResponseForbidden, http.HttpResponseNotAllowed, http.HttpResponseGone, http.HttpResponseServerError,
    SimpleTemplateResponse, TemplateResponse,
):  # fmt: skip
    register_response(_each)


class DjangoCodec(MsgpackCodec):
    """What `colocache.MsgpackCodec` carries, and besides HttpResponse and its registered subclasses.

    Any thread may call its methods at any time.
    """

    name = "django-2"

    def __init__(self) -> None:
        super().__init__()
        if CSP is not None:
            self.register(CSP)

    def encode(self, value: object) -> bytes:
        """Return the payload of a value; raise `TypeError`, with what, where and a remedy, if it cannot be carried."""
        try:
            return super().encode(value)
        except TypeError as error:
            refusal = f"{error}{_advice(value)}"
        if type(value) in _kinds:
            value.__getstate__()  # of a template response without its page this raises ContentNotRenderedError
        raise TypeError(refusal)

    def _known_form(self, cls: type) -> Form | None:
        return _FORM if cls in _kinds else super()._known_form(cls)

    def _known_from_wire(self, parts: list[Any]) -> Any:
        return _FORM.from_wire(parts) if parts[0] == _MARK else super()._known_from_wire(parts)


_MARK: Final = "django:response"


def _to_wire(response: Any) -> list[Any]:
    # What pickle would carry, so that classes can say what is not to be kept. Of a template response that is not
    # rendered this raises ContentNotRenderedError, as it should: there is no page yet.
    kind, state = _kinds[type(response)], response.__getstate__()
    attributes = {name: value for name, value in state.items() if name not in kind.without}
    cookies = [
        [morsel.key, morsel.value, morsel.coded_value, {name: value for name, value in morsel.items() if value != ""}]
        for morsel in response.cookies.values()
    ]
    headers = [[*each] for each in response.headers.items()]
    return [_MARK, kind.name, headers, cookies, response.content, attributes]


def _from_wire(name: str, headers: Any, cookies: Any, body: Any, attributes: Any) -> Any:
    kind = _named.get(name)
    if kind is None:
        raise ValueError(
            f"no class of responses is registered as {name!r} in this process: call "
            "colocache.django.register_response in all of them"
        )
    if not all(type(name) is str for name in attributes):
        raise ValueError("an attribute of a response whose name is no text")
    response: Any = kind.cls.__new__(kind.cls)
    response.__dict__.update(attributes)
    response.__dict__.update(
        headers=ResponseHeaders(dict(headers)),
        cookies=_cookies(cookies),
        _container=[bytes(body)],
        _resource_closers=[],
        _handler_class=None,
        closed=False,
    )
    return response


_HEADS: Final = ("", "", ".headers", ".cookies", "", ".attributes")
_FORM: Final = Form(KNOWN, _to_wire, lambda parts: _from_wire(*parts[1:]), is_box=True, heads=_HEADS)


def _cookies(parts: list[Any]) -> SimpleCookie:
    cookies = SimpleCookie()
    for name, value, coded, attributes in parts:
        morsel: Morsel[str] = Morsel()
        morsel.set(name, value, coded)
        morsel.update(attributes)
        cookies[name] = morsel
    return cookies


def _advice(value: object) -> str:
    """Return what to do about a value that cannot be carried."""
    pickle = 'have pickle carry it, by OPTIONS={"codec": "pickle"} of this cache'
    if isinstance(value, http.HttpResponse) and type(value) not in _kinds:
        return f"; register its class by colocache.django.register_response({type(value).__name__}), or {pickle}"
    return f"; or {pickle}"
