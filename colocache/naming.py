"""The names by which all processes of a group know a module, a class or a function: ``module:qualname``.

These names become keys of the cache, so two processes must give the same thing the same name. The main module needs
care: Python calls it ``__main__`` in the process that runs it, and by its own name in others.
"""

from __future__ import annotations

import os
import sys
import warnings
from hashlib import blake2b
from typing import Any

from .interruptions import raise_if_foreign

_MAIN = ("__main__", "__mp_main__")  # a worker that multiprocessing spawns runs its parent's script as the second


def qualified(what: Any) -> str:
    """Return the name by which all processes know a function or class. Any thread may call it."""
    generic = getattr(what, "__pydantic_generic_metadata__", None) if isinstance(what, type) else None
    if generic and generic["origin"]:  # the own name of a class such as Page[Item] does not say which Item
        arguments = ",".join(qualified(each) if isinstance(each, type) else repr(each) for each in generic["args"])
        return f"{qualified(generic['origin'])}[{arguments}]"
    return f"{module_name(what.__module__)}:{what.__qualname__}"


def module_name(name: str) -> str:
    """Return the name by which other processes import a module of this one.

    A main module that runs by ``python -m`` has the name that was given there. A script has the name by which the
    modules beside it, or its package, import it. A session without a file is ``__main__``.
    """
    module = sys.modules.get(name) if name in _MAIN else None
    if module is None:
        return name if name not in _MAIN else "__main__"
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.name not in _MAIN:
        return str(spec.name)
    path = getattr(module, "__file__", None)
    return _dotted(path) if spec is None and path else "__main__"


def warn_of_script(module: str, stacklevel: int) -> None:
    """Warn, once, if ``module`` is a script that other processes may import by another name than `module_name` says."""
    script = sys.modules.get(module) if module == "__main__" else None
    path = getattr(script, "__file__", None)
    if not path or getattr(script, "__spec__", None) is not None or path in _warned:
        return
    known = module_name(module)
    other = next((name for name in _importable(path) if name != known), None)
    if other is not None:
        _warned.add(path)
        warnings.warn(
            f"{path} runs as a script, and its functions are cached as those of {known!r}. A process that imports it "
            f"as {other!r} does not share them: run it by `python -m {other}`, or give each function cached(name=...)",
            stacklevel=stacklevel + 1,
        )


def shortened(name: str, room: int) -> str:
    """Return a name in at most ``room`` bytes of UTF-8. A longer name becomes its beginning and its hash."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= room:
        return name
    end = "~" + blake2b(encoded, digest_size=12, person=b"colocache-name").hexdigest()
    return encoded[: max(0, room - len(end))].decode("utf-8", "ignore") + end


def shown(value: object, width: int = 100) -> str:
    """Return a key or another value as error texts show it, in at most ``width`` letters."""
    try:
        text = repr(value)
    except Exception as error:  # an object's own, an int of more than 4300 digits, or tuples that nest too deep
        raise_if_foreign(error)
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= width else f"{text[: width - 3]}..."


_warned: set[str] = set()  # the scripts about which this process has warned


def _dotted(path: str) -> str:
    """Return the name of a script as a module of its directory, or of its package."""
    directory, file = os.path.split(os.path.abspath(path))
    parts = [os.path.splitext(file)[0]]
    while os.path.isfile(os.path.join(directory, "__init__.py")):
        directory, package = os.path.split(directory)
        parts.insert(0, package)
    return ".".join(parts)


def _importable(path: str) -> list[str]:
    """Return the names by which a script can be imported from Python's search path and the current directory."""
    script, names = os.path.splitext(os.path.abspath(path))[0], list[str]()
    for root in [*sys.path[1:], os.getcwd()]:
        base = os.path.abspath(root)
        # The root directory does not count, because it holds all scripts.
        if base == os.path.dirname(base) or not script.startswith(base + os.sep):
            continue
        parts = script[len(base) + 1 :].split(os.sep)
        if all(part.isidentifier() for part in parts):
            names.append(".".join(parts))
    return names
