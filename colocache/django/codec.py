"""The codec for what Django caches. It adds responses to what `MsgpackCodec` carries, and needs no pickle.

Django itself caches three kinds of values:

- the pages of ``cache_page``: whole responses,
- fragments of templates: safe strings,
- sessions: dicts with values of the application.

A response travels as the registered name of its class, headers, cookies, body and further attributes. Reading it runs
no code of the response.
"""

from __future__ import annotations

from collections.abc import Iterable
from http.cookies import Morsel, SimpleCookie
from typing import Any, Final, NamedTuple, TypeVar

from django import http
from django.http.response import ResponseHeaders
from django.template.response import SimpleTemplateResponse, TemplateResponse

from colocache import MsgpackCodec
from colocache.values.form import KNOWN, Form

from ..interruptions import raise_if_from_handler

try:
    from django.utils.csp import CSP  # since 6.0: csp_override() puts its members into responses
except ImportError:
    CSP = None

_Class = TypeVar("_Class", bound=type)

#: The attributes of a response that travel in a form of their own, or are made anew.
_OWN: Final = frozenset({"headers", "cookies", "_container", "_resource_closers", "_handler_class", "closed", "text"})


class _Kind(NamedTuple):
    """A class of responses that may travel."""

    name: str
    cls: Any
    without: frozenset[str]


# Both only grow, and each change is a single step. So they need no lock.
_kinds: dict[type, _Kind] = {}
_named: dict[str, _Kind] = {}


def register_response(cls: _Class, *, without: Iterable[str] = ()) -> _Class:
    """Let the responses of a class travel. Return the class, so that this can be its decorator.

    Django's own classes are registered. Every process must register the class, because it travels by its name,
    ``module:qualname``. A response is restored without ``__init__``, with its headers, cookies, body and the other
    attributes of its ``__getstate__``. ``without`` names attributes that a cached response does not need. Raise
    TypeError if the class is not an HttpResponse, or if it is a streaming one.
    """
    if not (isinstance(cls, type) and issubclass(cls, http.HttpResponse)):
        raise TypeError(f"{cls!r} is not a subclass of HttpResponse: only a response with a body can be cached")
    if isinstance(without, str):
        raise TypeError(f"without is a tuple of names, not a text: write without=({without!r},)")
    kind = _Kind(f"{cls.__module__}:{cls.__qualname__}", cls, _OWN | frozenset(without))
    _named[kind.name] = kind  # before the other one, so that what can be written can be read
    _kinds[cls] = kind
    return cls


for _each in (
    http.HttpResponse, http.JsonResponse, http.HttpResponseNotModified, http.HttpResponseRedirect,
    http.HttpResponsePermanentRedirect, http.HttpResponseBadRequest, http.HttpResponseNotFound,
    http.HttpResponseForbidden, http.HttpResponseNotAllowed, http.HttpResponseGone, http.HttpResponseServerError,
    SimpleTemplateResponse, TemplateResponse,
):  # fmt: skip
    register_response(_each)


class DjangoCodec(MsgpackCodec):
    """The codec that carries what `colocache.MsgpackCodec` carries, HttpResponse, and its registered subclasses.

    Any thread may call its methods at any time.
    """

    name = "django-2"

    def __init__(self) -> None:
        super().__init__()
        if CSP is not None:
            self.register(CSP)

    def encode(self, value: object) -> bytes:
        """Return the payload of a value. Raise TypeError, which names the part that cannot be carried, and a remedy."""
        try:
            return super().encode(value)
        except TypeError as error:
            raise_if_from_handler(error)
            refusal = f"{error}{_advice(value)}"
        if type(value) in _kinds:
            value.__getstate__()  # raises ContentNotRenderedError for a template response that is not rendered
        raise TypeError(refusal)

    def _known_form(self, cls: type) -> Form | None:
        return _FORM if cls in _kinds else super()._known_form(cls)

    def _known_from_wire(self, parts: list[Any]) -> Any:
        return _FORM.from_wire(parts) if parts[0] == _MARK else super()._known_from_wire(parts)


_MARK: Final = "django:response"


def _to_wire(response: Any) -> list[Any]:
    # The state that pickle would carry, so that a class can leave attributes out. For a template response that is not
    # rendered this raises ContentNotRenderedError, because it has no page yet.
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
        raise ValueError("an attribute of a response whose name is not a text")
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
    """Return advice for a value that cannot be carried."""
    pickle = 'have pickle carry it, by OPTIONS={"codec": "pickle"} of this cache'
    if isinstance(value, http.HttpResponse) and type(value) not in _kinds:
        return f"; register its class by colocache.django.register_response({type(value).__name__}), or {pickle}"
    return f"; or {pickle}"
