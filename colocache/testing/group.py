"""A real group of two processes: this one, and another one in which functions can be called."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import reduce
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from .life import in_place_of_settings

T = TypeVar("T")

PATIENCE = 30.0  # s that a call in the other process may take


class OtherProcess:
    """A second process of the group. Its methods may be called from one thread at a time."""

    def __init__(self, directory: str) -> None:
        """Start it; ``directory`` is the runtime directory of its caches."""
        self._calls, far = Pipe()
        environment = {name: value for name, value in os.environ.items() if name != "COLOCACHE_PRIVATE"}
        environment |= {"COLOCACHE_DIR": directory, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "colocache.testing.other", str(far.fileno()), directory],
                pass_fds=[far.fileno()], stdin=subprocess.DEVNULL, env=environment,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function there, wait for its end, and return what it returns; a coroutine function is awaited.

        The function is that of a module, which the other process imports itself, so there it is the other process's
        caches that are used. Arguments, result and exceptions are pickled. Raises what the function raises, with the
        other process's traceback as a note; TimeoutError if it takes longer than 30 s; RuntimeError if the process has
        ended; TypeError for a method, a lambda or a function that is defined inside another one.
        """
        if inspect.ismethod(function) or "<" in function.__qualname__:
            raise TypeError(f"the other process can find functions of modules only, not {function!r}: write a def")
        module = sys.modules[function.__module__]
        place = (function.__module__, getattr(module, "__file__", None), function.__qualname__)
        try:
            self._calls.send((place, args, kwargs))
            if not self._calls.poll(PATIENCE):
                raise TimeoutError(f"{function.__qualname__}() takes more than {PATIENCE:.0f} s in process {self.pid}")
            value, error = self._calls.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RuntimeError(f"the other process, {self.pid}, has ended, with {self._process.wait()}") from None
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End it: it leaves the group. May be called twice."""
        self._calls.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Group:
    """Two processes whose caches find each other, and nobody else."""

    def __init__(self, directory: str, other: OtherProcess) -> None:
        self.directory = directory  # the runtime directory
        self.other = other


@contextmanager
def group() -> Iterator[Group]:
    """Make this process and another one the members of groups that nobody else is in.

    All caches of this process begin anew: where they are used inside, they join their groups in a runtime directory of
    their own, also those that are private otherwise. Afterwards both processes leave, the directory is deleted, and the
    caches go on as before. To be entered as `private` is.
    """
    # Not below TMPDIR, which is long on macOS: the path of a Unix socket has 107 bytes at most, there even fewer.
    directory = tempfile.mkdtemp(prefix="cc", dir="/tmp" if os.access("/tmp", os.W_OK) else None)
    before = os.environ.get("COLOCACHE_DIR")
    os.environ["COLOCACHE_DIR"] = directory  # for processes that are started inside
    try:
        with in_place_of_settings(private=False, directory=directory):
            other = OtherProcess(directory)
            try:
                yield Group(directory, other)
            finally:
                other.stop()
    finally:
        if before is None:
            del os.environ["COLOCACHE_DIR"]
        else:
            os.environ["COLOCACHE_DIR"] = before
        shutil.rmtree(directory, ignore_errors=True)


def answer_calls(calls: Connection) -> None:
    """Do what the other process does: call what it is told to, until there is nobody to tell."""
    with suppress(EOFError, OSError):
        while True:
            calls.send_bytes(_answer(calls.recv_bytes()))


def _answer(call: bytes) -> bytes:
    try:
        return pickle.dumps((_called(*pickle.loads(call)), None))
    except Exception as error:  # the function's, or that of a result that cannot be pickled
        return pickle.dumps((None, _for_sending(error)))


def _called(place: tuple[str, str | None, str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = _found(*place)(*args, **kwargs)
    if not inspect.isawaitable(value):
        return value

    async def awaited() -> Any:
        return await value

    return asyncio.run(awaited())


def _found(module: str, file: str | None, name: str) -> Any:
    """Return a function of a module; pytest imports some modules by their files alone."""
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError:
        spec = importlib.util.spec_from_file_location(module, file) if file is not None else None
        if spec is None or spec.loader is None:
            raise
        home = sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(home)
    return reduce(getattr, name.split("."), home)


def _for_sending(error: BaseException) -> BaseException:
    """Return an exception that can be pickled, with its traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
        sent = error
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"in the other process:\n{text}")
    return sent
