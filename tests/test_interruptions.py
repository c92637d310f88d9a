"""Which exceptions are the application's own, so that nobody may take them for trouble of the cache."""

from __future__ import annotations

import ast
import builtins
import signal
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any

import pytest

from colocache import Cache
from colocache.interruptions import is_from_handler, pass_over, raise_if_foreign, value_of
from colocache.operations.load import get_or_load
from colocache.values.msgpack_codec import MsgpackCodec
from tests import ROOT
from tests.conftest import NewCache


class SoftTimeLimit(Exception):
    """As task queues define it."""


def handle(*_: object) -> None:
    raise TimeoutError("the time is up")


class Handler:
    def handle(self, *_: object) -> None:
        raise TimeoutError("the time is up")

    __call__ = handle


@pytest.fixture(params=[handle, Handler().handle, Handler()], ids=["function", "method", "object"])
def handler(request: pytest.FixtureRequest) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, request.param)
    yield
    signal.signal(signal.SIGUSR1, before)


def raised_by(work: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011
        work()
    return raised.value


@pytest.mark.usefixtures("handler")
def test_what_a_handler_raises_is_known_by_its_trace() -> None:
    error = raised_by(lambda: signal.raise_signal(signal.SIGUSR1))
    assert is_from_handler(error)
    with pytest.raises(TimeoutError):
        raise_if_foreign(error)


def out_of_ours(cache: Cache, error: BaseException) -> BaseException:
    """Return an exception that has come out of the package's own code, where no ``raise`` is: of another thread."""
    flow: Any = get_or_load(cache._keyspace, "k", lambda: 1, cache._keyspace.given(60, ()))
    return error.with_traceback(TracebackType(None, flow.gi_frame, 0, 1))


def test_what_another_thread_has_raised_is_known_by_its_type(new_cache: NewCache) -> None:
    cache = new_cache(private=True)
    with pytest.raises(SoftTimeLimit):
        raise_if_foreign(out_of_ours(cache, SoftTimeLimit()))
    raise_if_foreign(out_of_ours(cache, ValueError()))


def test_what_a_users_function_raises_is_not_foreign() -> None:
    def of_a_user() -> None:
        raise SoftTimeLimit

    error = raised_by(of_a_user)
    assert not is_from_handler(error)
    raise_if_foreign(error)


@pytest.mark.usefixtures("handler")
def test_a_time_limit_that_comes_while_a_value_is_encoded_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch, new_cache: NewCache
) -> None:
    cache, pack = new_cache(private=True), MsgpackCodec._pack

    def interrupted(self: MsgpackCodec, *args: Any) -> bytes:
        monkeypatch.setattr(MsgpackCodec, "_pack", pack)
        signal.raise_signal(signal.SIGUSR1)
        return pack(self, *args)

    for write in (lambda: cache.set("k", "v"), lambda: cache.get_or_load("k", lambda: "v")):
        monkeypatch.setattr(MsgpackCodec, "_pack", interrupted)
        with pytest.raises(TimeoutError, match="the time is up"):
            write()
    assert cache.get("k") is None


@pytest.mark.usefixtures("handler")
def test_what_is_passed_over_is_what_no_handler_has_raised() -> None:
    with pass_over(OSError, KeyError):
        raise TimeoutError
    with pytest.raises(TimeoutError, match="the time is up"), pass_over(OSError):
        signal.raise_signal(signal.SIGUSR1)


def test_the_end_of_a_generator_is_told_from_the_exception_of_a_handler() -> None:
    def returns() -> Generator[int, None, int]:
        yield 1
        return 7

    def raises() -> None:
        raise StopIteration(7)

    def end_of(call: Callable[[], object]) -> StopIteration:
        try:
            while True:
                call()
        except StopIteration as end:
            return end

    assert value_of(end_of(returns().__next__)) == 7
    with pytest.raises(StopIteration):
        value_of(end_of(raises))


#: What runs in threads of the cache or in programs of its own, where no handler of a caller's raises.
ELSEWHERE = (
    "__main__.py", "serve.py", "testing/", "core/hosts/copies.py", "core/hosts/messages.py", "core/hosts/owner.py",
    "core/hosts/versions.py", "runtime/bus.py", "runtime/health.py", "runtime/mouth.py", "runtime/transport.py",
    "runtime/network/",
)  # fmt: skip
IN_CALLERS_TOO = ("runtime/network/addresses.py", "runtime/network/direct.py", "runtime/network/secret.py")

#: Where an exception of any origin is kept on purpose, and why.
KEPT = {
    ("member.py", "_join_by"): "its handler asks for itself",
    ("member.py", "forget_after_fork"): "Python passes over what its hooks of forks raise",
    ("runtime/forks.py", "do_all"): "it is raised at the end",
    ("runtime/undisturbed.py", "do"): "it is raised in the caller's thread",
    ("runtime/waiting/threads.py", "_no_thread"): "it goes by the text",
    ("runtime/waiting/threads.py", "start_under_its_name"): "in the new thread",
    ("runtime/waker.py", "rest"): "in the thread that is woken",
}


def swallowing(tree: ast.AST, around: str = "") -> Iterator[tuple[str, int]]:
    """Yield the functions and lines that catch an exception as a handler can raise it, and do not ask for its origin.

    Whoever catches types of his own alone, or raises in all cases what he has caught, need not ask.
    """
    for node in ast.iter_child_nodes(tree):
        name = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else around
        yield from swallowing(node, name)
        if isinstance(node, ast.ExceptHandler):
            if any(map(is_anybodys, _types(node.type))) and not (_asks(node) or _raises(node)):
                yield around, node.lineno
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("suppress", "contextlib.suppress")
            and any(map(is_anybodys, map(ast.unparse, node.args)))
        ):
            yield around, node.lineno


def _types(caught: ast.expr | None) -> list[str]:
    if isinstance(caught, ast.Tuple):
        return [*map(ast.unparse, caught.elts)]
    return ["BaseException" if caught is None else ast.unparse(caught)]


def is_anybodys(name: str) -> bool:
    """Tell whether anybody raises exceptions of a type: it is Python's own, or of another package."""
    kind = getattr(builtins, name, None)
    return (isinstance(kind, type) and issubclass(kind, BaseException)) or name.startswith("zmq.")


def _asks(handler: ast.ExceptHandler) -> bool:
    called = {ast.unparse(node.func) for node in ast.walk(handler) if isinstance(node, ast.Call)}
    return not called.isdisjoint({"raise_if_from_handler", "raise_if_foreign", "value_of"})


def _raises(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return (
        isinstance(last, ast.Raise)
        and last.exc is None
        and not any(isinstance(node, ast.Return | ast.Continue | ast.Break) for node in ast.walk(handler))
    )


def test_nobody_swallows_what_a_handler_raises() -> None:
    package, found = ROOT / "colocache", set()
    for path in package.rglob("*.py"):
        module = path.relative_to(package).as_posix()
        if module in IN_CALLERS_TOO or not module.startswith(ELSEWHERE):
            # What is tried while a module is imported runs once, before any call.
            found |= {(module, name) for name, _ in swallowing(ast.parse(path.read_text())) if name}
    assert found == {*KEPT}, "ask colocache.interruptions, or say why not"
