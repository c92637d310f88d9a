"""Instances of classes travel: they come back equal and of the same type, and no code of the class runs."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import pathlib
import random
import subprocess
import sys
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import attrs
import msgpack
import pydantic
import pytest
import sqlmodel
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from colocache import MsgpackCodec

T = TypeVar("T")


class Size(enum.StrEnum):
    SMALL = "s"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Tag(pydantic.BaseModel):
    name: str


class Item(pydantic.BaseModel):
    """A model as people write them: nested, with an alias, validators, a private attribute and computed fields."""

    model_config = pydantic.ConfigDict(extra="allow")

    id: int
    price: float = pydantic.Field(default=0.0, alias="cost")
    size: Size = Size.SMALL
    tags: list[Tag] = []
    parent: Item | None = None
    _seen: int = pydantic.PrivateAttr(default=0)
    _unset: int = pydantic.PrivateAttr()

    @pydantic.field_validator("id")
    @classmethod
    def check(cls, value: int) -> int:
        ran.append("a validator")
        return value

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        ran.append("model_post_init")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def label(self) -> str:
        return f"{self.id}"

    @typing.no_type_check
    def __setstate__(self, state):
        ran.append("__setstate__")
        super().__setstate__(state)


class Page(pydantic.BaseModel, Generic[T]):
    rows: list[T]


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    link: pydantic.AnyUrl
    key: pydantic.SecretStr


class HeroPublic(sqlmodel.SQLModel):
    id: int | None = None
    name: str


class Hero(sqlmodel.SQLModel, table=True):
    __tablename__ = "hero_of_classes"  # all of SQLModel's tables are in one registry
    id: int | None = sqlmodel.Field(default=None, primary_key=True)
    name: str


@attrs.define
class Point:
    x: Any
    y: Any = 0
    _hidden: int = 1

    def __attrs_post_init__(self) -> None:
        ran.append("__attrs_post_init__")


@attrs.frozen(cache_hash=True)
class Key:
    part: Any


@attrs.define(slots=False)
class Old:
    a: Any = attrs.field(validator=lambda *_: ran.append("attrs' validator"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record(Generic[T]):
    value: T
    size: Size = Size.SMALL


class Pair(NamedTuple):
    left: Item
    right: Any = None


class Row(TypedDict):
    item: Item


@pydantic.dataclasses.dataclass
class Checked:
    n: int


REGISTERED = (
    Size, Rights, Tag, Item, Page, Page[Tag], Numbers, Frozen, HeroPublic, Point, Key, Old, Record, Pair, Checked
)  # fmt: skip
ran: list[str] = []  # of the classes' own code


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


def codec_of(*classes: type) -> MsgpackCodec:
    codec = MsgpackCodec()
    for cls in classes:
        codec.register(cls)
    return codec


CODEC = codec_of(*REGISTERED)


def item() -> Item:
    made = Item(id=1, cost=2.5, tags=[Tag(name="a")], parent=Item(id=0), more={"x": (1,)})
    made._seen = 3
    return made


INSTANCES: dict[str, Callable[[], Any]] = {
    "a model": item,
    "a model without some fields": lambda: Item(id=1),
    "a model in a model": lambda: Page[Tag](rows=[Tag(name="x")]),
    "an open generic model": lambda: Page(rows=[1, Item(id=2)]),
    "a root model": lambda: Numbers([1, 2]),
    "a frozen model": lambda: Frozen(link="https://example.org/a?b=c", key="secret"),
    "a model of SQLModel": lambda: HeroPublic(name="Ada"),
    "an attrs class": lambda: Point([1], {"a": (2,)}, 3),
    "an attrs class that keeps its hash": lambda: Key((1, "a")),
    "an attrs class with a dict": lambda: Old(1),
    "a generic dataclass": lambda: Record(value=("x",)),
    "a dataclass of pydantic": lambda: Checked(n=1),
    "a NamedTuple with a model": lambda: Pair(item()),
    "flags": lambda: Rights.READ | Rights.WRITE,
    "a key of a dict": lambda: {Key(1): Key(2)},
}


@pytest.mark.parametrize("make", INSTANCES.values(), ids=INSTANCES)
def test_an_instance_comes_back_equal_of_its_type_and_without_its_code(make: Callable[[], Any]) -> None:
    value = make()
    payload = CODEC.encode([value])
    ran.clear()
    (back,) = CODEC.decode(payload)  # type: ignore[misc]
    assert not ran
    assert type(back) is type(value)
    assert back == value
    assert repr(back) == repr(value)
    if type(value).__hash__ is not None and not isinstance(value, list | dict | Pair):
        assert hash(back) == hash(value)


def test_all_that_a_model_has_comes_back() -> None:
    value = item()
    back: Any = CODEC.decode(CODEC.encode(value))
    assert back.model_dump() == value.model_dump()
    assert back.model_dump(exclude_unset=True, by_alias=True) == value.model_dump(exclude_unset=True, by_alias=True)
    assert (back.model_fields_set, back.model_extra, back._seen) == (value.model_fields_set, {"more": {"x": (1,)}}, 3)
    assert type(back.parent) is Item
    assert type(back.tags[0]) is Tag
    assert not hasattr(back, "_unset")
    back.price = 7.0
    back._seen = 8
    assert (back.price, back._seen, back.model_copy(deep=True)) == (7.0, 8, back)
    assert vars(Numbers([1])) == vars(CODEC.decode(CODEC.encode(Numbers([1]))))


def test_a_model_that_lacks_a_field_is_refused_by_its_name() -> None:
    with pytest.raises(TypeError, match=r"Tag cannot be carried: 'Tag' object has no value for its fields \['name'\]"):
        CODEC.encode(Tag.model_construct())


def test_an_error_names_the_part_of_a_model() -> None:
    for where, value in {
        r"value\.tags\[0\]": Item.model_construct(id=1, price=0, size=1, tags=[object()], parent=None),
        r"value\.model_extra\['more'\]": Item(id=1, more=object()),
    }.items():
        with pytest.raises(TypeError, match=f"{where} of type object cannot be carried"):
            CODEC.encode(value)
    secret = item()
    secret._seen = object()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"value\.__pydantic_private__\['_seen'\] of type object"):
        CODEC.encode(secret)


def test_two_versions_of_a_model_are_told_apart() -> None:
    class Other(pydantic.BaseModel):
        name: str
        more: int = 0

    ours, theirs = MsgpackCodec(), MsgpackCodec()
    ours.register(Tag, name="tag")
    theirs.register(Other, name="tag")
    with pytest.raises(ValueError, match="different versions of it"):
        theirs.decode(ours.encode(Tag(name="x")))


FORGED = {
    "no fields": ["item"],
    "too few": ["item", [], None, None],
    "set of a number": ["tag", 5, None, None, "name", "x"],
    "set of numbers": ["tag", [1], None, None, "name", "x"],
    "extra of a number": ["tag", [], 5, None, "name", "x"],
    "extra by a number": ["tag", [], {1: 2}, None, "name", "x"],
    "private of a number": ["tag", [], None, 5, "name", "x"],
    "private that is not": ["tag", [], None, {"__class__": 5}, "name", "x"],
    "another field": ["tag", [], None, None, "name", "x", "__class__", 5],
    "no value": ["tag", [], None, None, "name"],
}


@pytest.mark.parametrize("parts", FORGED.values(), ids=FORGED)
def test_a_forged_model_is_a_value_error(parts: list[Any]) -> None:
    codec = MsgpackCodec()
    codec.register(Tag, name="tag")
    codec.register(Item, name="item")
    with pytest.raises(ValueError, match="does not parse"):
        codec.decode(msgpack.packb(msgpack.ExtType(15, msgpack.packb(parts))))


# --- Without being registered

KNOWN: list[Any] = [
    OrderedDict(b=1, a=[2]),
    OrderedDict([((1, 2), OrderedDict())]),
    Counter("abca"),
    defaultdict(list, {"a": [1]}),
    defaultdict(None, {1: 2}),
    deque([1, (2,)]),
    deque([1, 2, 3], maxlen=2),
    range(5),
    range(10, 0, -3),
    ipaddress.ip_address("127.0.0.1"),
    ipaddress.ip_address("fe80::1%eth0"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_interface("::1/64"),
    pathlib.PurePosixPath("/a/b"),
    pathlib.PureWindowsPath("c:\\a"),
    pathlib.Path("a"),
    Markup("<b>&amp;</b>"),
    Markup("\udc80"),
    pydantic.HttpUrl("https://example.org/ä"),
    pydantic.SecretBytes(b"x"),
]


def kinds(value: Any) -> Any:
    """The types in a value."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | deque) else ()
    return type(value), [kinds(each) for each in inside]


@pytest.mark.parametrize("value", KNOWN, ids=lambda value: f"{type(value).__name__} {value}")
def test_well_known_classes_come_back(value: Any) -> None:
    for whole in (value, [value], {"a": (value, value)}):
        payload = MsgpackCodec().encode(whole)
        back = MsgpackCodec().decode(payload)
        assert back == whole
        assert kinds(back) == kinds(whole)
        assert repr(back) == repr(whole)
    assert getattr(MsgpackCodec().decode(MsgpackCodec().encode(value)), "maxlen", 0) == getattr(value, "maxlen", 0)


def test_the_zones_that_pydantic_makes_come_back() -> None:
    class At(pydantic.BaseModel):
        moments: list[datetime]

    value = At.model_validate_json('{"moments": ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00-05:30"]}')
    back: Any = codec_of(At).decode(codec_of(At).encode(value))
    assert back == value
    assert repr(back) == repr(value)
    for each, other in zip(back.moments, value.moments, strict=True):
        assert type(each.tzinfo) is type(other.tzinfo)
        assert each.tzname() == other.tzname()


def test_a_default_dict_goes_on_making_defaults() -> None:
    back: Any = MsgpackCodec().decode(MsgpackCodec().encode(defaultdict(list)))
    back["new"].append(1)
    assert back == {"new": [1]}


def test_known_classes_keep_the_limit_on_depth() -> None:
    value: Any = 1
    for level in range(40):
        value = [Markup("x"), OrderedDict(a=value)] if level % 2 else [value]
    assert MsgpackCodec().decode(MsgpackCodec().encode(value)) == value


texts = st.text(max_size=5)
known = st.recursive(
    st.one_of(
        texts.map(Markup), st.ip_addresses(), st.builds(Counter, st.dictionaries(texts, st.integers(), max_size=3)),
        st.builds(lambda name: Tag(name=name), texts), st.builds(Point, texts, st.integers()),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(deque), st.dictionaries(texts, inner, max_size=3).map(OrderedDict),
        st.builds(Point, inner, inner), st.builds(lambda rows: Page(rows=rows), st.lists(inner, max_size=3)),
        st.dictionaries(texts, inner, max_size=2).map(lambda found: defaultdict(dict, found)),
        st.builds(lambda extra: Item.model_construct(**vars(Item(id=1)), more=extra), inner),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(print_blob=True, deadline=None, database=None, max_examples=150)
@given(known)
def test_classes_come_back_wherever_they_are(value: Any) -> None:
    back = CODEC.decode(CODEC.encode(value))
    assert back == value
    assert repr(back) == repr(value)


@settings(print_blob=True, deadline=None, database=None, max_examples=150)
@given(known, st.integers(0, 2**32))
def test_a_damaged_payload_is_a_value_or_a_value_error(value: Any, seed: int) -> None:
    rng = random.Random(seed)
    payload = bytearray(CODEC.encode(value))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(payload))
        payload[at : at + rng.randint(0, 2)] = rng.choice([b"", b"\x90", b"\xc0", b"\x80", rng.randbytes(1)])
    try:
        back = CODEC.decode(bytes(payload))
    except ValueError:
        return
    again = CODEC.decode(CODEC.encode(back))
    assert type(again) is type(back)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["os:system", "true"],
        ["markupsafe:Markup"],
        ["markupsafe:Markup", ["<b>"]],
        ["collections:deque", "x"],
        ["collections:OrderedDict", 1],
        ["collections:defaultdict", "print"],
        ["builtins:range", 1, 2, 0],
        ["ipaddress:IPv4Network", "1.2.3.4/8"],
        [[1], 2],
    ],
    ids=str,
)
def test_a_forged_instance_of_a_known_class_is_a_value_error(parts: list[Any]) -> None:
    with pytest.raises(ValueError, match="does not parse"):
        MsgpackCodec().decode(msgpack.packb(msgpack.ExtType(16, msgpack.packb(parts))))


def test_a_library_that_is_not_imported_stays_so() -> None:
    payload = MsgpackCodec().encode(Markup("x"))
    code = (
        f"import sys; from colocache import MsgpackCodec\ntry: MsgpackCodec().decode({payload!r})\n"
        "except ValueError as error: print(error, 'markupsafe' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "a value is of the class markupsafe:Markup, and this process has not imported it False" in told


# --- What annotations name


class Node(pydantic.BaseModel):
    children: list[Node] = []
    note: Annotated[Leaf | None, "not defined yet"] = None


class Leaf(pydantic.BaseModel):
    kind: Literal[Size.SMALL] = Size.SMALL
    at: Where


@dataclasses.dataclass
class Where:
    who: dict[str, tuple[Tag, ...]]


Identity = NewType("Identity", Record[Tag])  # type: ignore[valid-newtype]


def tree() -> Node: ...  # type: ignore[empty-body]
def maybe() -> list[Item | None]: ...  # type: ignore[empty-body]
def typed() -> Row: ...  # type: ignore[empty-body]
def new() -> Identity: ...  # type: ignore[empty-body]
def page() -> Page[Item]: ...  # type: ignore[empty-body]
def given(item: Item, *, tags: list[Tag], db: Missing = None): ...  # type: ignore[no-untyped-def, name-defined]  # noqa: F821
async def later() -> Annotated[Pair, "x"]: ...  # type: ignore[empty-body]
def broken() -> tuple[Tag, Missing]: ...  # type: ignore[empty-body, name-defined]  # noqa: F821
def silent(): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("function", "value"),
    [
        (tree, Node(children=[Node()], note=Leaf.model_construct(at=Where({"a": (Tag(name="x"),)})))),
        (maybe, [Item(id=1, parent=Item(id=2, tags=[Tag(name="x")])), None]),
        (typed, {"item": Item(id=1)}),
        (new, Record(value=Tag(name="x"))),
        (page, Page[Item](rows=[Item(id=1)])),
        (page, Page(rows=[Item(id=1)])),
        (later, Pair(Item(id=1), 2)),
        (given, {"item": Item(id=1), "tags": [Tag(name="x")]}),
    ],
    ids=["forward", "optional", "TypedDict", "NewType", "generic", "its origin", "NamedTuple", "parameters"],
)
def test_what_an_annotation_names_travels_in_both_directions(function: Callable[..., Any], value: Any) -> None:
    one, other = MsgpackCodec(), MsgpackCodec()
    for codec in (one, other):
        codec.learn(function)
    back = other.decode(one.encode(value))
    assert type(back) is type(value)
    assert back == value
    assert one.decode(other.encode(value)) == value


def test_bytes_become_only_classes_that_annotations_name() -> None:
    codec = MsgpackCodec()
    codec.learn(maybe)
    for stranger in (Point(1), Frozen(link="https://a.b", key="x"), Where({})):
        payload = codec_of(type(stranger), *REGISTERED).encode(stranger)
        with pytest.raises(ValueError, match=r"no class is registered as .* in this process: register it in all"):
            codec.decode(payload)
        with pytest.raises(TypeError, match=f"cache.register\\({type(stranger).__name__}\\)"):
            codec.encode(stranger)


class Special(Item):
    """Not named by the annotation, which names its base."""


def test_a_subclass_of_what_is_named_is_another_class() -> None:
    codec = MsgpackCodec()
    codec.learn(maybe)
    with pytest.raises(TypeError, match=r"cache.register\(Special\)"):
        codec.encode([Special(id=1)])


def test_an_annotation_that_cannot_be_resolved_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = MsgpackCodec()
    codec.learn(broken)
    codec.learn(silent)
    with pytest.raises(TypeError, match=r"cache.register\(Tag\)"):
        codec.encode(Tag(name="x"))
    monkeypatch.setitem(globals(), "Missing", Item)
    assert codec.decode(codec.encode(Tag(name="x"))) == Tag(name="x")


def test_classes_of_a_function_that_makes_the_application_are_found() -> None:
    class Local(pydantic.BaseModel):
        n: int

    def made() -> Local:
        return Local(n=1)

    codec = MsgpackCodec()
    codec.learn(made)
    assert codec.decode(codec.encode(made())) == made()


def test_of_two_classes_with_one_name_only_the_later_one_travels() -> None:
    def define() -> Callable[[], Any]:
        class Local(pydantic.BaseModel):
            n: int

        def made() -> Local:
            return Local(n=1)

        return made

    first, second = define(), define()
    codec = MsgpackCodec()
    codec.learn(first)
    assert type(codec.decode(codec.encode(first()))) is type(first())
    codec.learn(second)
    assert type(codec.decode(codec.encode(second()))) is type(second())
    with pytest.raises(TypeError, match=r"cache.register\(Local\)"):
        codec.encode(first())


def test_a_registered_name_wins_over_a_learned_one() -> None:
    codec = MsgpackCodec()
    codec.register(Tag, name="tag")
    codec.learn(maybe)
    assert codec.decode(codec.encode([Item(id=1, tags=[Tag(name="x")])])) == [Item(id=1, tags=[Tag(name="x")])]
    assert b"\xa3tag" in codec.encode(Tag(name="x"))


def test_the_codec_forgets_functions_that_are_gone() -> None:
    codec = MsgpackCodec()
    for _ in range(100):

        def passing() -> Missing:  # type: ignore[name-defined]  # noqa: F821
            ...

        codec.learn(passing)
    assert len(codec._classes._unread) <= 1


# --- What can never be carried


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)


class Typed(MappedAsDataclass, Base):
    __tablename__ = "typed"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.mark.parametrize("value", [Hero(name="x"), User(id=1), Typed(id=1)], ids=lambda value: type(value).__name__)
def test_an_object_of_an_orm_is_refused_with_the_reason(value: Any) -> None:
    with pytest.raises(TypeError, match="an object of an ORM, which belongs to a session: cache "):
        MsgpackCodec().encode([value])
    with pytest.raises(TypeError, match="mapped to a table"):
        MsgpackCodec().register(type(value))


def rows() -> Iterator[int]:
    yield 1


async def coroutine() -> None: ...


def test_what_belongs_to_a_request_or_a_session_is_refused_with_the_reason(tmp_path: pathlib.Path) -> None:
    import flask
    from starlette.responses import JSONResponse, StreamingResponse

    engine = create_engine("sqlite://")
    waiting = coroutine()
    with (tmp_path / "x").open("w") as file, Session(engine) as session, engine.connect() as connection:
        for value, why in {
            "rows": (rows(), "can be read only once"),
            "map": (map(str, []), "can be read only once"),
            "coroutine": (waiting, "can be awaited only once"),
            "file": (file, "an open file"),
            "session": (session, "belongs to this process"),
            "result": (connection.exec_driver_sql("select 1"), "can be read only once"),
            "row": (connection.exec_driver_sql("select 1").one(), r"row\._asdict\(\)"),
            "response": (JSONResponse({}), "belongs to one request"),
            "stream": (StreamingResponse([]), "belongs to one request"),
            "flask": (flask.Response("x"), "belongs to one request"),
        }.values():
            with pytest.raises(TypeError, match=why):
                MsgpackCodec().encode({"deep": value})
    waiting.close()
    engine.dispose()


class Plain:
    pass


class Open(typing.Protocol):
    def x(self) -> int: ...


def hero() -> Hero | None: ...
def heroes() -> list[Hero]: ...  # type: ignore[empty-body]
async def plain() -> dict[str, Plain]: ...  # type: ignore[empty-body]
def either() -> Hero | HeroPublic: ...  # type: ignore[empty-body]
def anything() -> Any: ...
def protocol() -> Open: ...  # type: ignore[empty-body]
def bare() -> object: ...


@pytest.mark.parametrize("function", [hero, heroes, plain], ids=lambda function: function.__name__)
def test_an_annotation_can_tell_that_nothing_can_be_carried(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) returns .*(Hero|Plain), which cannot be carried: "):
        MsgpackCodec().check(function)


@pytest.mark.parametrize("function", [either, anything, protocol, bare, silent, broken, tree, typed, new, page])
def test_an_annotation_that_leaves_it_open_raises_nothing(function: Callable[..., Any]) -> None:
    codec = MsgpackCodec()
    codec.learn(function)
    codec.check(function)
