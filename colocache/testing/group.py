"""A real group of two processes: this one, and another one that calls functions on request."""

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

PATIENCE = 30.0  # s for a call in the other process


class OtherProcess:
    """A second process of the group. Only one thread at a time may call its methods."""

    def __init__(self, directory: str) -> None:
        """Start it. ``directory`` is the runtime directory of its caches."""
        self._calls, far = Pipe()
        environment = {name: value for name, value in os.environ.items() if name != "COLOCACHE_PRIVATE"}
        environment |= {"COLOCACHE_DIR": directory, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "colocache.testing.other", str(far.fileno()), directory],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function or coroutine function there, wait for it, and return its result.

        It must be a function of a module. The other process imports that module, so the function uses the caches of the
        other process. Arguments, result and exceptions are pickled.

        Raise what the function raises, with the traceback of the other process as a note. Raise TimeoutError if it
        takes more than 30 s, RuntimeError if the process has ended, and TypeError for a method, a lambda, or a function
        inside a function.
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
        """End the process, which leaves the group first. A second call does nothing."""
        self._calls.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Group:
    """Two processes whose caches find each other, and no other process."""

    def __init__(self, directory: str, other: OtherProcess) -> None:
        self.directory = directory  # the runtime directory
        self.other = other


@contextmanager
def group() -> Iterator[Group]:
    """Make this process and another one the only ones of their groups.

    All caches of this process begin anew. Inside, they join their groups in a runtime directory of this block, even
    if they are private otherwise. Afterwards both processes leave, the directory is deleted, and the caches continue as
    before. As with `private`, one thread enters and leaves it while no other thread uses a cache.
    """
    # Not below TMPDIR, which is long on macOS. The path of a Unix socket has at most 107 bytes, and fewer on macOS.
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
    """Be the other process: execute the calls that arrive, until the connection is closed."""
    with suppress(EOFError, OSError):
        while True:
            calls.send_bytes(_answer(calls.recv_bytes()))


def _answer(call: bytes) -> bytes:
    try:
        return pickle.dumps((_called(*pickle.loads(call)), None))
    except Exception as error:  # of the function, or of pickling its result
        return pickle.dumps((None, _for_sending(error)))


def _called(place: tuple[str, str | None, str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    value = _found(*place)(*args, **kwargs)
    if not inspect.isawaitable(value):
        return value

    async def awaited() -> Any:
        return await value

    return asyncio.run(awaited())


def _found(module: str, file: str | None, name: str) -> Any:
    """Return a function of a module. The file is needed for modules that pytest imports without a path to them."""
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
    """Return an exception that can be pickled, with the traceback as a note."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
        sent = error
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note(f"in the other process:\n{text}")
    return sent
