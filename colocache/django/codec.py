"""How what Django caches becomes bytes: colocache's msgpack, and responses and safe strings beside it.

Django caches three kinds of things by itself: the pages of ``cache_page``, which are whole responses; template
fragments, which are safe strings; and sessions, which are dicts of what the application puts there. These travel
without pickle. A response travels as its class (by its registered name), headers, cookies, body and further
attributes, and nothing of it is run when it is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from http.cookies import Morsel, SimpleCookie
from typing import Any, Final, NamedTuple, TypeVar

from django import http
from django.http.response import ResponseHeaders
from django.template.response import SimpleTemplateResponse, TemplateResponse
from django.utils.safestring import SafeString

from colocache import MsgpackCodec

try:
    from django.utils.csp import CSP  # since 6.0: csp_override() leaves its members in responses
except ImportError:
    CSP = None

_Class = TypeVar("_Class", bound=type)

PLAIN: Final = b"\0"  # before a payload of `MsgpackCodec`
MIXED: Final = b"\1"  # before one that holds stand-ins

_DEEPEST: Final = 70  # beyond what `MsgpackCodec` carries, which then says what is wrong

#: The attributes of a response that are carried in a form of their own, or made anew.
_OWN: Final = frozenset({"headers", "cookies", "_container", "_resource_closers", "_handler_class", "closed", "text"})


class _Safe(NamedTuple):
    """Stands for a safe string."""

    text: str


class _Response(NamedTuple):
    """Stands for a response."""

    kind: str
    headers: list[tuple[str, str]]
    cookies: list[tuple[str, str, str, dict[str, Any]]]
    body: bytes
    attributes: dict[str, Any]


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


class DjangoCodec:
    """What `colocache.MsgpackCodec` carries, and besides HttpResponse, its registered subclasses, and SafeString.

    Any thread may call its methods at any time.
    """

    name = "django-1"

    def __init__(self) -> None:
        self._plain = MsgpackCodec()
        self._plain.register(_Safe, name="django:safe")
        self._plain.register(_Response, name="django:response")
        if CSP is not None:
            self._plain.register(CSP)

    def register(self, cls: _Class, *, name: str | None = None) -> _Class:
        """Let a dataclass, an enum or a NamedTuple travel: see `colocache.MsgpackCodec.register`."""
        return self._plain.register(cls, name=name)

    def encode(self, value: object) -> bytes:
        """Return the payload of a value; raise `TypeError`, with what, where and a remedy, if it cannot be carried."""
        if type(value) is not SafeString and type(value) not in _kinds:
            try:
                return PLAIN + self._plain.encode(value)
            except TypeError:
                pass  # perhaps there is a safe string in it
        try:
            return MIXED + self._plain.encode(_lowered(value, _DEEPEST))
        except TypeError as error:
            raise TypeError(f"{error}{_advice(value)}") from None

    def decode(self, payload: bytes) -> object:
        """Return a new value, equal to the encoded one; raise `ValueError` if `payload` does not parse."""
        value = self._plain.decode(payload[1:])
        if payload.startswith(PLAIN):
            return value
        if not payload.startswith(MIXED):
            raise ValueError(f"the payload does not begin as one of {self.name}: {payload[:8]!r}")
        try:
            return _raised(value)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"the payload does not hold what {self.name} writes: {error!r:.300}") from error


# To stand-ins, and back


def _inside(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Return a container with its members converted, and anything else as it is."""
    kind = type(value)
    if kind is dict:
        return {convert(key): convert(item) for key, item in value.items()}
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return kind(map(convert, value))
    return value


def _lowered(value: Any, room: int) -> Any:
    """Return a value with stand-ins for what msgpack does not know."""
    if type(value) is SafeString:
        return _Safe(str.__str__(value))
    if type(value) in _kinds:
        return _apart(value, _kinds[type(value)], room)
    return _inside(value, lambda part: _lowered(part, room - 1)) if room else value


def _raised(value: Any) -> Any:
    """Return a value with the stand-ins replaced by what they stand for."""
    if type(value) is _Safe:
        return SafeString(value.text)
    if type(value) is _Response:
        return _together(value)
    return _inside(value, _raised)


def _apart(response: Any, kind: _Kind, room: int) -> _Response:
    # What pickle would carry, so that classes can say what is not to be kept. Of a template response that is not
    # rendered this raises ContentNotRenderedError, as it should: there is no page yet.
    state = response.__getstate__()
    attributes = {name: value for name, value in state.items() if name not in kind.without}
    cookies = [
        (morsel.key, morsel.value, morsel.coded_value, {name: value for name, value in morsel.items() if value != ""})
        for morsel in response.cookies.values()
    ]
    headers = list(response.headers.items())
    return _Response(kind.name, headers, cookies, response.content, _lowered(attributes, room - 1))


def _together(parts: _Response) -> Any:
    kind = _named.get(parts.kind)
    if kind is None:
        raise ValueError(
            f"no class of responses is registered as {parts.kind!r} in this process: call "
            "colocache.django.register_response in all of them"
        )
    attributes = _raised(parts.attributes)
    if not all(type(name) is str for name in attributes):
        raise ValueError("an attribute of a response whose name is no text")
    response: Any = kind.cls.__new__(kind.cls)
    response.__dict__.update(attributes)
    response.__dict__.update(
        headers=ResponseHeaders(dict(parts.headers)),
        cookies=_cookies(parts.cookies),
        _container=[bytes(parts.body)],
        _resource_closers=[],
        _handler_class=None,
        closed=False,
    )
    return response


def _cookies(parts: list[tuple[str, str, str, dict[str, Any]]]) -> SimpleCookie:
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
    if hasattr(value, "_meta") or hasattr(value, "model"):  # of the ORM, without importing the ORM
        return f"; cache what you need of it, as by values(), or {pickle}"
    return f"; or {pickle}"
