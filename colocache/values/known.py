"""The classes of Python and of libraries that travel without being registered, and why some others never do.

A library's class is looked for only in modules that are imported already, because a peer must not make us import one.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from .classes import is_mapped
from .form import KNOWN, Form, in_turn, mapping_of

# --- What travels


class _Known(NamedTuple):
    """One class: where it is, how its instance becomes parts, and how the parts become an instance."""

    module: str
    name: str
    to_wire: Callable[[Any], Iterable[Any]]
    from_wire: Callable[[Any, list[Any]], Any]


def _by_text(module: str, *names: str) -> list[_Known]:
    def from_wire(cls: Any, parts: list[Any]) -> Any:
        return cls(_only_text(parts))

    return [_Known(module, name, lambda value: [str(value)], from_wire) for name in names]


def _text_type(module: str, name: str) -> _Known:
    """Make the row of a subclass of str. Its own ``__new__`` is not called: Markup's would call ``__html__``."""
    return _Known(
        module, name, lambda value: [str.__str__(value)], lambda cls, parts: str.__new__(cls, _only_text(parts))
    )


def _only_text(parts: list[Any]) -> str:
    (text,) = parts
    if type(text) is not str:
        raise ValueError(f"made of {type(text).__name__} instead of a text")
    return text


def _secret(value: Any) -> list[Any]:
    return [value.get_secret_value()]


_FACTORIES: Final = {kind.__name__: kind for kind in (list, dict, set, frozenset, tuple, int, float, bool, str, bytes)}


def _default_dict(value: defaultdict[Any, Any]) -> list[Any]:
    factory = value.default_factory
    if factory is not None and _FACTORIES.get(getattr(factory, "__name__", "")) is not factory:
        raise TypeError(f"its default_factory is {factory!r}, and only {', '.join(_FACTORIES)} travel; use dict(...)")
    return [factory and factory.__name__, *in_turn(value)]


def _default_dict_of(cls: Any, parts: list[Any]) -> Any:
    name, *pairs = parts
    return cls(None if name is None else _FACTORIES[name], mapping_of(pairs))


_TABLE: Final = [
    _Known("collections", "OrderedDict", in_turn, lambda cls, parts: cls(mapping_of(parts))),
    _Known("collections", "Counter", in_turn, lambda cls, parts: cls(mapping_of(parts))),
    _Known("collections", "defaultdict", _default_dict, _default_dict_of),
    _Known("collections", "deque", lambda value: [value.maxlen, *value], lambda cls, parts: cls(parts[1:], parts[0])),
    _Known("builtins", "range", lambda value: [value.start, value.stop, value.step], lambda cls, parts: cls(*parts)),
    *_by_text("ipaddress", "IPv4Address", "IPv6Address", "IPv4Interface", "IPv6Interface", "IPv4Network",
              "IPv6Network"),
    *_by_text("pathlib", "PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"),
    _text_type("markupsafe", "Markup"),
    _text_type("django.utils.safestring", "SafeString"),
    *_by_text("pydantic.networks", "AnyUrl", "AnyHttpUrl", "HttpUrl", "AnyWebsocketUrl", "WebsocketUrl", "FileUrl",
              "FtpUrl"),
    *_by_text("pydantic_core._pydantic_core", "Url"),  # the type of all of these before pydantic 2.10
    _Known("pydantic.types", "SecretStr", _secret, lambda cls, parts: cls(*parts)),
    _Known("pydantic.types", "SecretBytes", _secret, lambda cls, parts: cls(*parts)),
]  # fmt: skip
_BY_NAME: Final = {f"{known.module}:{known.name}": known for known in _TABLE}


def known_form(cls: type) -> Form | None:
    """Return how instances of a class travel that nobody registers; None for any other class."""
    name = _name(cls)
    known = _BY_NAME.get(name)
    if known is None or _imported(known) is not cls:
        return None
    return Form(KNOWN, lambda value: [name, *known.to_wire(value)], known_from_wire, is_box=True, heads=("",))


def known_from_wire(parts: list[Any]) -> Any:
    """Return the instance that has these parts. Raise any exception if no class has them."""
    name, *rest = parts
    known = _BY_NAME[name]
    cls = _imported(known)
    if cls is None:
        raise ValueError(f"a value is of the class {name}, and this process has not imported it")
    return known.from_wire(cls, rest)


def _name(cls: type) -> str:
    module = cls.__module__
    if module.startswith("pathlib."):  # Python 3.13 defines the classes in submodules
        module = "pathlib"
    return f"{module}:{cls.__qualname__}"


def _imported(known: _Known) -> Any:
    return getattr(sys.modules.get(known.module), known.name, None)


# --- What does not travel, and what to do instead

_ONCE: Final = "it can be read only once: make a list of it, and cache that"
_RESPONSE: Final = (
    "a response belongs to one request, and the framework may change it, or stream it: cache the data, and make the "
    "response of them"
)
_SESSION: Final = "it belongs to this process, and to one thread or task: cache what you read by it"
_ROW: Final = "it belongs to its result: cache tuple(row), row._asdict() or dict(row)"
_ORM: Final = (
    "it is an object of an ORM, which belongs to a session: cache the data that you need of it, as a dict, a dataclass "
    "or a pydantic model"
)
_TABLE_MODEL: Final = (
    "it is an object of an ORM, which belongs to a session: cache a model without a table, as by "
    "ItemPublic.model_validate(item)"
)

#: Why the instances of a class, and of its subclasses, do not travel.
_REFUSED: Final = {
    "_io:_IOBase": "an open file belongs to this process: cache its contents",
    "starlette.responses:Response": _RESPONSE,
    "werkzeug.wrappers.response:Response": _RESPONSE,
    "django.http.response:StreamingHttpResponse": "it is streamed: cache its data, or exclude the view",
    "sqlalchemy.orm.session:Session": _SESSION,
    "sqlalchemy.ext.asyncio.session:AsyncSession": _SESSION,
    "sqlalchemy.engine.base:Connection": _SESSION,
    "sqlalchemy.engine.result:Result": _ONCE,
    "sqlalchemy.orm.query:Query": "it has not run yet: cache what .all() returns, as dicts or dataclasses",
    "sqlalchemy.engine.row:Row": _ROW,
    "sqlalchemy.engine.row:RowMapping": _ROW,
    "django.db.models.base:Model": _ORM,
    "django.db.models.query:QuerySet": "it has not run yet: cache list(queryset.values(...))",
    "django.utils.functional:Promise": "it is a lazy text, in the language of its reader: cache str(...) of it",
    "peewee:Model": _ORM,
    "tortoise.models:Model": _ORM,
    "mongoengine.base.document:BaseDocument": _ORM,
    "numpy:ndarray": "cache array.tolist(), or the bytes",
    "pandas.core.frame:DataFrame": 'cache frame.to_dict("records")',
}

_REFUSED_BY_ABILITY: Final = {
    Iterator: _ONCE,
    AsyncIterator: _ONCE,
    Awaitable: "it can be awaited only once: await it, and cache the result",
}


def reason(cls: type) -> str:
    """Return why instances of a class can never travel, and what to do; an empty text if there is no such reason."""
    if is_mapped(cls):
        return _TABLE_MODEL if hasattr(cls, "model_validate") else _ORM
    by_name = (_REFUSED.get(_name(base)) for base in cls.__mro__)
    by_ability = (why for ability, why in _REFUSED_BY_ABILITY.items() if issubclass(cls, ability))
    return next((why for why in (*by_name, *by_ability) if why), "")
