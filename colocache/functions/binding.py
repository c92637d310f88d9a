"""A decorated function in a class. It is bound as a function is, and so are its methods, such as ``invalidate``.

A plain function would serve for calls, but its attributes do not know the object by which it is reached. So the class
holds a `Method`, a `functools.partial` without arguments. As an attribute of an object it is a partial of that object.
C code calls partials, so binding costs no further Python frame.
"""

from __future__ import annotations

import inspect
import sys
from functools import partial
from pkgutil import resolve_name
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any


class Method(partial[Any]):
    """A decorated function of a class. ``args`` holds the object or class that it is bound to, if there is one."""

    if TYPE_CHECKING:
        func: Any  # the wrapper, which has attributes of its own

    # In the body of a pydantic model, every attribute needs an annotation unless it comes from this module.
    __module__ = "functools"

    __doc__ = property(lambda self: self.func.__doc__)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None or self.args else Method(self.func, instance)

    def __set_name__(self, owner: type, name: str) -> None:
        known = self.func.__dict__.get("_cc_owner", owner)
        self.func._cc_owner = owner if known is owner else object

    def __getattr__(self, name: str) -> Any:
        return getattr(self.func, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.func, name, value)

    def __delattr__(self, name: str) -> None:
        own = self.func._cc_calls.methods()
        if name in own:  # it stays, and what `mock.patch` has put in its place goes
            setattr(self.func, name, own[name])
        else:
            delattr(self.func, name)

    def __repr__(self) -> str:
        return f"<cached method {self.func.__qualname__}{f' of {self.args[0]!r}' if self.args else ''}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Method) or self.func is not other.func or len(self.args) != len(other.args):
            return False
        return not self.args or self.args[0] is other.args[0]

    def __hash__(self) -> int:
        return hash((self.func, *map(id, self.args)))

    def __reduce__(self) -> Any:
        if self.args:
            return getattr, (self.args[0], self.func.__name__)
        return resolve_name, (f"{self.func.__module__}:{self.func.__qualname__}",)

    @property
    def __self__(self) -> Any:
        if not self.args:
            raise AttributeError("__self__")
        return self.args[0]

    @property
    def __func__(self) -> Any:
        return self.func

    @property
    def __wrapped__(self) -> Any:
        return self.func.__wrapped__.__get__(*self.args) if self.args else self.func.__wrapped__

    def invalidate(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func.invalidate(*self._whole(args), **kwargs)

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func.refresh(*self._whole(args), **kwargs)

    def cache_key(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.func.cache_key(*self._whole(args), **kwargs)

    def _whole(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments, with the bound one before them. Raise TypeError if the object is missing."""
        owner = getattr(self.func, "_cc_owner", None)
        if self.args or not args or owner is None or isinstance(args[0], owner):
            return (*self.args, *args)
        raise TypeError(
            f"{self.func.__qualname__} is a method: give it the object first, which is a {owner.__qualname__}, or get "
            f"it by the object; not {type(args[0]).__qualname__}"
        )


def in_class(wrapper: Any, function: FunctionType) -> Any:
    """Return what a class holds instead of the wrapper of one of its functions."""
    method = Method(wrapper)
    if sys.version_info >= (3, 13):  # since then a classmethod does not bind what it holds
        body = _body_of_class(function)
        if body is not None:
            body.setdefault(_REBINDING, _Rebinding())
    return method


_REBINDING = "__colocache_rebinding__"


class _Rebinding:
    """Stands in the body of a class until the class is made, and then has its classmethods bind what they hold."""

    def __set_name__(self, owner: type, name: str) -> None:
        delattr(owner, name)
        for attribute, value in list(vars(owner).items()):
            if type(value) is classmethod and isinstance(value.__func__, Method):
                setattr(owner, attribute, _ClassMethod(value.__func__))


class _ClassMethod(classmethod):  # type: ignore[type-arg]
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self.__func__.__get__(type(instance) if owner is None else owner)


def _body_of_class(function: FunctionType) -> Any:
    """Return the names in the class body that defines a function and runs now; None if there is none."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            names = frame.f_locals
            if f"{names.get('__qualname__')}.{function.__name__}" == function.__qualname__:
                return names
        frame = frame.f_back
    return None
