"""How instances of classes travel: which kinds of classes can, how one is taken apart, and put together again.

Nothing here runs code of the class that is put together: no ``__init__``, no validator, no ``__setstate__``. Classes of
pydantic and attrs are recognised by what they carry, and by modules that are imported already.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, Final

import msgpack

from ..core.parts import is_faithful_record
from ..naming import qualified

REGISTERED: Final = 15
KNOWN: Final = 16

_MAX_EQUAL_HASHES: Final = 64  # of the powers of two, up to 35 floats share a hash: honest sets have no more


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How the values of one type travel: as the body of extension `code`.

    `apart` makes the body of a value, and `together` the value of a body. A box holds other values: what its functions
    make and take is the list of its parts, and the body is that list packed.

    `heads` names the first parts of an instance of a class for error texts; after them come names and values in turn.
    """

    code: int
    apart: Callable[[Any], Any]
    together: Callable[[Any], Any]
    is_box: bool = False
    heads: tuple[str, ...] | None = None


def hashable(members: list[Any]) -> list[Any]:
    """Return `members`; raise `ValueError` if so many have one hash that a set of them would take quadratic time.

    The hashes of numbers, and of tuples of them, are no secret: in 1 MiB a peer can send 80,000 that all collide.
    """
    if len(members) > _MAX_EQUAL_HASHES and max(Counter(map(hash, members)).values()) > _MAX_EQUAL_HASHES:
        raise ValueError(f"more than {_MAX_EQUAL_HASHES} members or keys have the same hash")
    return members


def in_turn(mapping: Any) -> chain[Any]:
    """Return key, value, key, value, ..."""
    return chain.from_iterable(mapping.items())


def mapping_of(parts: Any) -> dict[Any, Any]:
    """Return the dict of key, value, key, value, ..."""
    return dict(zip(hashable([*parts[::2]]), parts[1::2], strict=True))


# --- Names


def type_name(cls: type) -> str:
    """Return the name of a class as error texts show it."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def default_name(cls: Any) -> str:
    """Return the name under which a class travels. Raises `TypeError` for what is not a class."""
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} is not a class")
    return qualified(cls)


# --- Kinds


def is_model(cls: type) -> bool:
    """Whether a class is a model of pydantic, version 2, SQLModel's included."""
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return base is not None and issubclass(cls, base)


def is_mapped(cls: type) -> bool:
    """Whether a class is mapped by SQLAlchemy's ORM, as SQLModel's tables are: its instances belong to a session."""
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
    is_named_tuple = issubclass(cls, tuple) and cls is not msgpack.ExtType  # which msgpack would pack as what it is
    return getattr(cls, "_fields", None) if is_named_tuple else None


def is_of_a_kind(cls: type) -> bool:
    """Whether a class is of a kind that can be registered."""
    return not is_mapped(cls) and (issubclass(cls, enum.Enum) or is_model(cls) or field_names(cls) is not None)


def class_form(cls: type, name: str) -> Form:
    """Return how instances of a class travel under a name. Raises `TypeError` for a class that cannot be registered."""
    if issubclass(cls, enum.Flag):
        return Form(REGISTERED, lambda flag: [name, flag.value], partial(_flag, cls), is_box=True, heads=("", ""))
    if issubclass(cls, enum.Enum):
        return Form(REGISTERED, lambda member: [name, member.name], partial(_member, cls), is_box=True, heads=("", ""))
    if is_mapped(cls):
        raise TypeError(f"{cls!r} is mapped to a table: its instances belong to a session; register a class without")
    fields = field_names(cls)
    if fields is None and not is_model(cls):
        raise TypeError(
            f"{cls!r} is not an enum, a dataclass, a NamedTuple, an attrs class or a pydantic model: convert its "
            "instances to one"
        )
    if not issubclass(cls, tuple):
        object.__new__(cls)  # raises TypeError if it is abstract, or has the hidden state of a built-in type
    if fields is None:
        return Form(REGISTERED, partial(_model_apart, name), partial(_model, cls), is_box=True, heads=_MODEL)
    apart, together = partial(_fields_apart, name, fields), partial(_record, cls, fields, _caches_hash(cls))
    return Form(REGISTERED, apart, together, is_box=True, heads=("",))


# --- Enums


def _member(cls: type[enum.Enum], parts: tuple[str]) -> enum.Enum:
    (name,) = parts
    if name not in cls.__members__:
        raise ValueError(f"{cls!r} has no member {name!r} here: {_VERSIONS}")
    return cls.__members__[name]


def _flag(cls: type[enum.Flag], parts: tuple[int]) -> enum.Flag:
    """Some flags refuse bits that they do not know; others, and in Python 3.11.2 most, would drop them silently."""
    (value,) = parts
    flag = cls(value)
    if not isinstance(flag, cls) or flag.value != value:
        raise ValueError(f"{cls!r} has no bits for {value!r} here: {_VERSIONS}")
    return flag


_VERSIONS: Final = "the two applications have different versions of it"


# --- Records: dataclasses, attrs classes and NamedTuples


def _fields_apart(name: str, fields: tuple[str, ...], record: Any) -> list[Any]:
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
        raise ValueError(f"{cls!r} has not the fields {[*values]}: {_VERSIONS}")
    return values


_HASH: Final = "_attrs_cached_hash"  # where an attrs class of ``cache_hash=True`` looks; its __init__ makes it None


def _caches_hash(cls: type) -> bool:
    code = getattr(cls.__hash__, "__code__", None)
    return hasattr(cls, "__attrs_attrs__") and code is not None and _HASH in (*code.co_names, *code.co_consts)


# --- Models of pydantic: what their own __getstate__ and __setstate__ would carry, of the fields that there are

_MODEL: Final = ("", ".model_fields_set", ".model_extra", ".__pydantic_private__")


def _model_apart(name: str, model: Any) -> list[Any]:
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
        raise ValueError(f"{cls!r} has not the private attributes {[*private]}: {_VERSIONS}")
    if not _are_texts(fields_set) or not (extra is None or _are_texts([*extra.keys()])):
        raise ValueError(f"the names of fields of {cls!r} are not texts")
    model = object.__new__(cls)
    object.__setattr__(model, "__dict__", values)
    object.__setattr__(model, "__pydantic_fields_set__", set(fields_set))
    if not getattr(cls, "__pydantic_root_model__", False):  # which has neither
        object.__setattr__(model, "__pydantic_extra__", extra)
        object.__setattr__(model, "__pydantic_private__", private)
    return model


def _are_texts(names: Any) -> bool:
    return type(names) is list and all(type(name) is str for name in names)
