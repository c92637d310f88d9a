"""Which classes a codec carries, under which names: those that were registered, and those that annotations name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from ..interruptions import raise_if_from_handler
from .annotations import named_by
from .classes import class_form, default_name, is_of_a_kind
from .form import Form
from .plain import BOXES, FORMS

C = TypeVar("C", bound=type)


class Registry:
    """The types that one codec carries. Any thread may call its methods at any time.

    ``known`` returns the form of a class that travels without being registered.
    """

    def __init__(self, known: Callable[[type], Form | None]) -> None:
        self._known = known
        # Each change is one step, so nobody needs a lock.
        self._given = dict[str, type]()  # the names that were registered: whoever comes first has a name
        self.forms = dict(FORMS)
        self.boxes = dict(BOXES)
        self._names = dict[str, type]()
        self._unread = WeakKeyDictionary[Callable[..., object], None]()  # functions whose annotations may tell more

    def register(self, cls: C, name: str | None) -> C:
        """Let instances of a class travel; see `MsgpackCodec.register`."""
        name = name or default_name(cls)
        form = class_form(cls, name)
        first = self._given.setdefault(name, cls)
        if first is not cls:
            raise ValueError(f"{name!r} is already registered for {first!r}: give {cls!r} another name")
        self._name(cls, form, name)
        return cls

    def learn(self, function: Callable[..., object]) -> None:
        """Let the classes travel that a function's annotations name; see `MsgpackCodec.learn`."""
        self._unread[function] = None

    def form_of(self, cls: type) -> Form | None:
        """Return how instances of a class travel; None if they do not. Reads annotations first, if that may help."""
        if cls not in self.forms:
            self._read_annotations()
        if cls not in self.forms and (form := self._known(cls)) is not None:
            self._add(cls, form)
        return self.forms.get(cls)

    def named(self, name: str) -> Form | None:
        """Return the form of the class that is registered under a name; None if no class is."""
        if name not in self._names:
            self._read_annotations()
        cls = self._names.get(name)
        return None if cls is None else self.forms.get(cls)

    def _name(self, cls: type, form: Form, name: str) -> None:
        earlier = self._names.get(name, cls)
        self._add(cls, form)
        self._names[name] = cls  # last, because a reader that finds the class looks for its form next
        if earlier not in [*self._names.values()]:  # its instances must not come back as those of the later class
            self.forms.pop(earlier, None)
            self.boxes.pop(earlier, None)

    def _add(self, cls: type, form: Form) -> None:
        self.boxes[cls] = form.to_wire
        self.forms[cls] = form

    def _read_annotations(self) -> None:
        """Register the classes that annotations name, as far as they can be resolved by now."""
        for function in filter(None, [reference() for reference in self._unread.keyrefs()]):
            named = named_by(function)
            for cls in named.classes:
                self._register_quietly(cls)
            if named.complete:
                self._unread.pop(function, None)

    def _register_quietly(self, cls: type) -> None:
        if cls in self.forms or not is_of_a_kind(cls):
            return
        name = default_name(cls)
        try:
            form = class_form(cls, name)
        except TypeError as error:  # for example an abstract class
            raise_if_from_handler(error)
            return
        if name not in self._given:
            self._name(cls, form, name)
            given = self._given.get(name, cls)
            if given is not cls:  # another thread has registered it meanwhile
                self._name(given, class_form(given, name), name)
