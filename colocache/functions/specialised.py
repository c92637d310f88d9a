"""Functions that serve at once what the near cache has, written for a signature: no arguments are packed for a hit.

Python binds keywords and defaults as it calls, many times faster than `inspect.Signature.bind`. So such a function has
the parameters of the function that it stands for. It is made from source text, as `collections.namedtuple` and
`dataclasses` make theirs. The text holds names of parameters only, which are identifiers, and the rule of what may be
served (`colocache.core.near.SERVE_AT_ONCE`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from time import monotonic
from typing import Any, TypeVar

from ..core.entry import MISSING
from ..core.near import SERVE, SERVE_AT_ONCE, SERVE_UNLESS_DRAWN
from ..core.parts import OBJECT
from ..interruptions import raise_if_from_handler
from ..near_cache import NearCache

F = TypeVar("F", bound=Callable[..., Any])

#: The kinds of parameters that take one argument by its position.
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

# The names that the function uses itself begin with `_cc_`.
_START = "{start} call({parameters}):\n"
_CALL = "    return {wait}_cc_miss(({positional}), {{{named}}})\n"
_METHOD = """\
    _cc_value = _cc_keyspace.hit({key})
    if _cc_value is not _cc_MISSING:
        return _cc_value
    return {wait}_cc_miss({arguments})
"""


def at_once(method: F) -> F:
    """Return a method that serves what the near cache has. For the rest it calls ``method``, one of `Space`.

    The second parameter of ``method`` is a key.
    """
    signature, waits = inspect.signature(method), inspect.iscoroutinefunction(method)
    key = [*signature.parameters][1]
    source = _METHOD.format(key=key, wait=_wait(waits), arguments=_arguments(signature.parameters.values()))
    names = {"_cc_miss": method, "_cc_MISSES": (KeyError, TypeError)}
    made = _made(method, signature, "self._keyspace", key, source, names, waits=waits)
    return functools.update_wrapper(made, method)  # type: ignore[return-value]


def specialise(
    function: Callable[..., Any], signature: inspect.Signature, kept: Sequence[Parameter], near: NearCache,
    miss: Callable[..., Any], *, waits: bool, is_audited: bool = False,
) -> Callable[..., Any]:  # fmt: skip
    """Return a wrapper for a signature that `may_be_specialised`. The parameters that are ``kept`` make the key.

    If nothing can be served at once, the wrapper calls ``miss`` with the positional arguments as a tuple, and the
    others as a dict. ``waits`` says whether ``miss`` is a coroutine function. Then the wrapper is one, too. If the
    function ``is_audited``, hits that are drawn are left to ``miss``.
    """
    parameters = signature.parameters.values()
    named = ", ".join(f"{each!r}: {each}" for each in _keyword_only(parameters))
    source = _CALL.format(wait=_wait(waits), positional=_positional(parameters), named=named)
    names = {
        "_cc_of_function": near, "_cc_miss": miss, "_cc_MISSES": (KeyError, TypeError, AttributeError),
        "_cc_type": type, "_cc_OBJECT": OBJECT,
    }  # fmt: skip
    serve = SERVE_UNLESS_DRAWN if is_audited else SERVE
    return _made(function, signature, "_cc_of_function", _key(kept), source, names, waits=waits, serve=serve)


def _made(
    function: Callable[..., Any], signature: inspect.Signature, keyspace: str, key: str, rest: str,
    names: dict[str, Any], *, waits: bool, serve: str = SERVE,
) -> Callable[..., Any]:  # fmt: skip
    start, parameters = "async def" if waits else "def", signature.parameters
    source = (
        _START.format(start=start, parameters=_parameters(parameters))
        + SERVE_AT_ONCE.format(keyspace=keyspace, key=key, serve=serve)
        + rest
    )
    names |= {f"_cc_default_{name}": parameter.default for name, parameter in parameters.items()}
    names |= {"_cc_monotonic": monotonic, "_cc_MISSING": MISSING, "_cc_raise_if_from_handler": raise_if_from_handler}
    exec(compile(source, f"<colocache: {function.__qualname__}>", "exec"), names)
    made: Callable[..., Any] = names["call"]
    return made


def has_one_part(kept: Sequence[Parameter]) -> bool:
    """Tell whether one argument makes the key, by position: then entries are found by that part of the key."""
    return len(kept) == 1 and kept[0].kind in _BY_POSITION


def may_be_specialised(signature: inspect.Signature) -> bool:
    """Tell whether every parameter has one place in the key, which is known before the call."""
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if any(name.startswith("_cc_") for name in signature.parameters) or Parameter.VAR_KEYWORD in kinds:
        return False
    return Parameter.VAR_POSITIONAL not in kinds or Parameter.KEYWORD_ONLY not in kinds


def _wait(waits: bool) -> str:
    return "await " if waits else ""


def _arguments(parameters: Iterable[Parameter]) -> str:
    """Return the arguments that pass on all parameters of a method, which takes no others."""
    return ", ".join(
        f"{each.name}={each.name}" if each.kind is Parameter.KEYWORD_ONLY else each.name for each in parameters
    )


def _parameters(parameters: Mapping[str, Parameter]) -> str:
    """Return the parameters as they are written, without annotations, and with the very objects as defaults."""
    texts: list[str] = []
    kinds = [parameter.kind for parameter in parameters.values()]
    for place, (name, parameter) in enumerate(parameters.items()):
        if parameter.kind is Parameter.KEYWORD_ONLY and Parameter.KEYWORD_ONLY not in kinds[:place]:
            texts.append("*")
        star = "*" if parameter.kind is Parameter.VAR_POSITIONAL else ""
        texts.append(star + name + ("" if parameter.default is Parameter.empty else f"=_cc_default_{name}"))
        if parameter.kind is Parameter.POSITIONAL_ONLY and Parameter.POSITIONAL_ONLY not in kinds[place + 1 :]:
            texts.append("/")
    return ", ".join(texts)


def _key(kept: Sequence[Parameter]) -> str:
    """Return the expression of the key by which readers find an entry. `Arguments.key_of` makes the same key."""
    parts = _positional(kept)
    if kept and kept[0].name == "self" and kept[0].kind in _BY_POSITION:  # in the form of `parts.canonical`
        parts = parts.replace("self", "(_cc_OBJECT, _cc_type(self), _cc_type(self).__cache_key__(self))", 1)
    if has_one_part(kept):
        return parts.removesuffix(", ")
    named = _keyword_only(kept)
    if not named:
        return f"({parts})"
    pairs = "".join(f"({each!r}, {each}), " for each in sorted(named))
    return f"({parts}({pairs}),)"


def _positional(parameters: Iterable[Parameter]) -> str:
    stars = dict.fromkeys(_BY_POSITION, "") | {Parameter.VAR_POSITIONAL: "*"}
    return "".join(f"{stars[each.kind]}{each.name}, " for each in parameters if each.kind in stars)


def _keyword_only(parameters: Iterable[Parameter]) -> list[str]:
    return [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
