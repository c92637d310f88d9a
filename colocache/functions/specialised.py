"""A decorated function's wrapper, written for its signature: what is held already is served without packing arguments.

Python binds keywords and defaults as it calls, many times faster than `inspect.Signature.bind`; so the wrapper has the
function's own parameters. It is made from source text, as `collections.namedtuple` and `dataclasses` make theirs; the
text holds parameter names only, which are identifiers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from time import monotonic
from typing import Any

from ..core.entry import MISSING
from ..core.parts import OBJECT

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
    except _cc_MISSES:  # not held; or held under another form of the key, or no part of one: `miss` finds out
        pass
    return {wait}_cc_miss(({positional}), {{{named}}})
"""


def has_one_part(kept: Sequence[Parameter]) -> bool:
    """Whether one argument makes the key, by position: keys are tuples of one part, and are found by that part."""
    kinds = [parameter.kind for parameter in kept]
    return kinds in ([Parameter.POSITIONAL_ONLY], [Parameter.POSITIONAL_OR_KEYWORD])


def may_be_specialised(signature: inspect.Signature) -> bool:
    """Whether every parameter has one place in the key, which is known before the call."""
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if any(name.startswith("_cc_") for name in signature.parameters) or Parameter.VAR_KEYWORD in kinds:
        return False
    return Parameter.VAR_POSITIONAL not in kinds or Parameter.KEYWORD_ONLY not in kinds


def specialise(
    function: Callable[..., Any], signature: inspect.Signature, kept: Sequence[Parameter], space: Any,
    miss: Callable[..., Any], *, waits: bool,
) -> Callable[..., Any]:  # fmt: skip
    """Return a wrapper for a signature that `may_be_specialised`. The parameters that are ``kept`` make the key.

    ``miss`` gets the positional arguments as a tuple and the others as a dict where nothing can be served at once;
    ``waits``: it is a coroutine function, and so becomes the wrapper.
    """
    parameters = signature.parameters
    source = _SOURCE.format(
        start="async def" if waits else "def", wait="await " if waits else "",
        parameters=_parameters(parameters), key=_key(kept), positional=_positional(parameters.values()),
        named=", ".join(f"{each!r}: {each}" for each in _keyword_only(parameters.values())),
    )  # fmt: skip
    defaults = {f"_cc_default_{name}": parameter.default for name, parameter in parameters.items()}
    names = {
        "_cc_space": space, "_cc_miss": miss, "_cc_monotonic": monotonic, "_cc_MISSING": MISSING,
        "_cc_MISSES": (KeyError, TypeError, AttributeError), "_cc_type": type, "_cc_OBJECT": OBJECT, **defaults,
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


def _key(kept: Sequence[Parameter]) -> str:
    """Return the expression of the key by which readers find an entry; the same as `Arguments.key_of` makes."""
    parts = _positional(kept)
    if kept and kept[0].name == "self" and kept[0].kind in _FIRST:  # a method's object, as `parts.canonical` has it
        parts = parts.replace("self", "(_cc_OBJECT, _cc_type(self), _cc_type(self).__cache_key__(self))", 1)
    if has_one_part(kept):
        return parts.removesuffix(", ")
    named = _keyword_only(kept)
    if not named:
        return f"({parts})"
    pairs = "".join(f"({each!r}, {each}), " for each in sorted(named))
    return f"({parts}({pairs}),)"


def _positional(parameters: Iterable[Parameter]) -> str:
    stars = {Parameter.VAR_POSITIONAL: "*", Parameter.POSITIONAL_ONLY: "", Parameter.POSITIONAL_OR_KEYWORD: ""}
    return "".join(f"{stars[each.kind]}{each.name}, " for each in parameters if each.kind in stars)


_FIRST = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _keyword_only(parameters: Iterable[Parameter]) -> list[str]:
    return [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
