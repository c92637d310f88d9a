"""How instances of the application's classes travel: which kinds of classes can, and how a value is made again.

Nothing here runs code of the class whose instance it makes: no ``__init__``, no validator, no ``__setstate__``. Classes
of pydantic and attrs are recognised by their attributes, and by the modules that are imported already.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from functools import partial
from itertools import chain
from typing import Any, Final

import msgpack

from ..core.parts import is_faithful_record
from ..naming import qualified
from .form import REGISTERED, Form, in_turn


def default_name(cls: Any) -> str:
    """Return the name under which a class travels. Raise TypeError for what is not a class."""
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} is not a class")
    return qualified(cls)


# --- Kinds


def is_model(cls: type) -> bool:
    """Tell whether a class is a model of pydantic, version 2. Models of SQLModel are."""
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return base is not None and issubclass(cls, base)


def is_mapped(cls: type) -> bool:
    """Tell whether SQLAlchemy's ORM maps a class, as it does SQLModel's tables. Its instances belong to a session."""
    return hasattr(cls, "_sa_class_manager")


def field_names(cls: type) -> tuple[str, ...] | None:
    """Return the names of the fields of a dataclass, an attrs class or a NamedTuple; None for other classes."""
    attributes = getattr(cls, "__attrs_attrs__", None)
    if (dataclasses.is_dataclass(cls) or attributes is not None) and not is_faithful_record(cls):
        return None
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    if attributes is not None:
        return tuple(attribute.name for attribute in attributes)
    is_named_tuple = issubclass(cls, tuple) and cls is not msgpack.ExtType  # msgpack packs that one itself
    return getattr(cls, "_fields", None) if is_named_tuple else None


def is_of_a_kind(cls: type) -> bool:
    """Tell whether a class is of a kind that can be registered."""
    return not is_mapped(cls) and (issubclass(cls, enum.Enum) or is_model(cls) or field_names(cls) is not None)


def class_form(cls: type, name: str) -> Form:
    """Return how instances of a class travel under a name. Raise TypeError for a class that cannot be registered."""
    if issubclass(cls, enum.Flag):
        return Form(REGISTERED, lambda flag: [name, flag.value], partial(_flag, cls), is_box=True, heads=("", ""))
    if issubclass(cls, enum.Enum):
        return Form(REGISTERED, lambda member: [name, member.name], partial(_member, cls), is_box=True, heads=("", ""))
    if is_mapped(cls):
        raise TypeError(
            f"{cls!r} is mapped to a table, so its instances belong to a session: register a class without one"
        )
    fields = field_names(cls)
    if fields is None and not is_model(cls):
        raise TypeError(
            f"{cls!r} is not an enum, a dataclass, a NamedTuple, an attrs class or a pydantic model: convert its "
            "instances to one"
        )
    if not issubclass(cls, tuple):
        object.__new__(cls)  # raises TypeError if it is abstract, or has the hidden state of a built-in type
    if fields is None:
        return Form(REGISTERED, partial(_model_to_wire, name), partial(_model, cls), is_box=True, heads=_MODEL)
    to_wire, from_wire = partial(_fields_to_wire, name, fields), partial(_record, cls, fields, _caches_hash(cls))
    return Form(REGISTERED, to_wire, from_wire, is_box=True, heads=("",))


# --- Enums


def _member(cls: type[enum.Enum], parts: tuple[str]) -> enum.Enum:
    (name,) = parts
    if name not in cls.__members__:
        raise ValueError(f"{cls!r} has no member {name!r} here: {_VERSIONS}")
    return cls.__members__[name]


def _flag(cls: type[enum.Flag], parts: tuple[int]) -> enum.Flag:
    """Return the flag with some bits. Raise ValueError for bits that the class does not know.

    Some classes do so themselves. In Python 3.11.2 most of them drop such bits silently.
    """
    (value,) = parts
    flag = cls(value)
    if not isinstance(flag, cls) or flag.value != value:
        raise ValueError(f"{cls!r} has no bits for {value!r} here: {_VERSIONS}")
    return flag


_VERSIONS: Final = "the two applications have different versions of it"


# --- Records: dataclasses, attrs classes and NamedTuples


def _fields_to_wire(name: str, fields: tuple[str, ...], record: Any) -> list[Any]:
    values = record if isinstance(record, tuple) else [getattr(record, field) for field in fields]
    return [name, *chain.from_iterable(zip(fields, values, strict=True))]


def _record(cls: type, fields: tuple[str, ...], caches_hash: bool, parts: tuple[Any, ...]) -> Any:
    values = _values(cls, set(fields), parts)
    if issubclass(cls, tuple):
        return tuple.__new__(cls, map(values.__getitem__, fields))
    record = object.__new__(cls)
    for field in fields:
        object.__setattr__(record, field, values[field])
    if caches_hash:
        object.__setattr__(record, _HASH, None)
    return record


def _values(cls: type, fields: set[str], parts: tuple[Any, ...]) -> dict[str, Any]:
    values = dict(zip(parts[::2], parts[1::2], strict=True))
    if values.keys() != fields:
        raise ValueError(f"{cls!r} does not have the fields {[*values]}: {_VERSIONS}")
    return values


_HASH: Final = "_attrs_cached_hash"  # an attrs class with ``cache_hash=True`` reads it; its __init__ sets it to None


def _caches_hash(cls: type) -> bool:
    code = getattr(cls.__hash__, "__code__", None)
    return hasattr(cls, "__attrs_attrs__") and code is not None and _HASH in (*code.co_names, *code.co_consts)


# --- Models of pydantic: of their fields, what their own __getstate__ and __setstate__ would carry

_MODEL: Final = ("", ".model_fields_set", ".model_extra", ".__pydantic_private__")


def _model_to_wire(name: str, model: Any) -> list[Any]:
    cls, state = type(model), vars(model)
    fields = {field: value for field, value in state.items() if field in cls.model_fields}  # no cached properties
    missing = cls.model_fields.keys() - fields.keys()
    if missing:
        raise AttributeError(f"{cls.__name__!r} object has no value for its fields {sorted(missing)}")
    private = getattr(model, "__pydantic_private__", None)
    if private is not None:
        undefined = getattr(sys.modules.get("pydantic_core"), "PydanticUndefined", None)
        private = {key: value for key, value in private.items() if value is not undefined}
    extra = getattr(model, "__pydantic_extra__", None)
    return [name, sorted(model.__pydantic_fields_set__), extra, private, *in_turn(fields)]


def _model(cls: Any, parts: tuple[Any, ...]) -> Any:
    fields_set, extra, private, *rest = parts
    values = _values(cls, set(cls.model_fields), tuple(rest))
    if private is not None and not private.keys() <= cls.__private_attributes__.keys():
        raise ValueError(f"{cls!r} does not have the private attributes {[*private]}: {_VERSIONS}")
    if not _are_texts(fields_set) or not (extra is None or _are_texts([*extra.keys()])):
        raise ValueError(f"the names of fields of {cls!r} are not texts")
    model = object.__new__(cls)
    object.__setattr__(model, "__dict__", values)
    object.__setattr__(model, "__pydantic_fields_set__", set(fields_set))
    if not getattr(cls, "__pydantic_root_model__", False):  # a root model has neither
        object.__setattr__(model, "__pydantic_extra__", extra)
        object.__setattr__(model, "__pydantic_private__", private)
    return model


def _are_texts(names: Any) -> bool:
    return type(names) is list and all(type(name) is str for name in names)
