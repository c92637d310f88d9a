"""A decorated function's wrapper, written for its signature: what is held already is served without packing arguments.

Python binds keywords and defaults as it calls, many times faster than `inspect.Signature.bind`; so the wrapper has the
function's own parameters. It is made from source text, as `collections.namedtuple` and `dataclasses` make theirs; the
text holds parameter names only, which are identifiers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from time import monotonic
from typing import Any

from .core.entry import MISSING

# The names that the wrapper uses itself begin with `_cc_`. The gate comes before the entry: see `Cache._rebind`.
_SOURCE = """\
{start} call({parameters}):
    _cc_gate = _cc_space._gate
    try:
        _cc_entry = _cc_space._hits[{key}]
        if _cc_entry.expires > _cc_monotonic() < _cc_gate.current_until:
            _cc_value = _cc_entry.value
            if _cc_value is not _cc_MISSING:
                _cc_entry.hits += 1
                return _cc_value
    except _cc_MISSES:  # not held; or no part of a key, which whoever makes the wire key complains of
        pass
    return {wait}_cc_miss(({positional}), {{{named}}})
"""


def has_one_part(signature: inspect.Signature) -> bool:
    """Whether a function has one argument, by position: its keys are tuples of one part, found by that part."""
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    return kinds in ([Parameter.POSITIONAL_ONLY], [Parameter.POSITIONAL_OR_KEYWORD])


def may_be_specialised(signature: inspect.Signature) -> bool:
    """Whether every parameter has one place in the key, which is known before the call."""
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if any(name.startswith("_cc_") for name in signature.parameters) or Parameter.VAR_KEYWORD in kinds:
        return False
    return Parameter.VAR_POSITIONAL not in kinds or Parameter.KEYWORD_ONLY not in kinds


def specialise(
    function: Callable[..., Any], signature: inspect.Signature, space: Any, miss: Callable[..., Any], *, waits: bool
) -> Callable[..., Any]:
    """Return a wrapper for a signature that `may_be_specialised`.

    ``miss`` gets the positional arguments as a tuple and the others as a dict where nothing can be served at once;
    ``waits``: it is a coroutine function, and so becomes the wrapper.
    """
    parameters = signature.parameters
    source = _SOURCE.format(
        start="async def" if waits else "def", wait="await " if waits else "",
        parameters=_parameters(parameters), key=_key(signature), positional=_positional(parameters),
        named=", ".join(f"{each!r}: {each}" for each in _keyword_only(parameters)),
    )  # fmt: skip
    defaults = {f"_cc_default_{name}": parameter.default for name, parameter in parameters.items()}
    names = {
        "_cc_space": space, "_cc_miss": miss, "_cc_monotonic": monotonic, "_cc_MISSING": MISSING,
        "_cc_MISSES": (KeyError, TypeError, AttributeError), "_cc_type": type, **defaults,
    }  # fmt: skip
    exec(compile(source, f"<colocache: {function.__qualname__}>", "exec"), names)
    wrapper: Callable[..., Any] = names["call"]
    return wrapper


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


def _key(signature: inspect.Signature) -> str:
    """Return the expression of the key by which readers find an entry; the same as `decorators._Calls.key_of` makes."""
    parameters = signature.parameters
    parts = _positional(parameters)
    first = next(iter(parameters.values()), None)
    if first is not None and first.name == "self" and first.kind in _FIRST:  # a method's object: a part by this
        parts = parts.replace("self", "_cc_type(self).__cache_key__(self)", 1)
    if has_one_part(signature):
        return parts.removesuffix(", ")
    named = _keyword_only(parameters)
    if not named:
        return f"({parts})"
    pairs = "".join(f"({each!r}, {each}), " for each in sorted(named))
    return f"({parts}({pairs}),)"


def _positional(parameters: Mapping[str, Parameter]) -> str:
    stars = {Parameter.VAR_POSITIONAL: "*", Parameter.POSITIONAL_ONLY: "", Parameter.POSITIONAL_OR_KEYWORD: ""}
    return "".join(
        f"{stars[parameter.kind]}{name}, " for name, parameter in parameters.items() if parameter.kind in stars
    )


_FIRST = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _keyword_only(parameters: Mapping[str, Parameter]) -> list[str]:
    return [name for name, parameter in parameters.items() if parameter.kind is Parameter.KEYWORD_ONLY]
