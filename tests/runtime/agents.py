"""Other processes, which do what a test tells them: they evaluate expressions, and answer."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests import ROOT

# Answers one line of Python with one line: what it evaluates to, or the error.
_AGENT = """
import os, signal, sys, threading, time
{preamble}

def go_on_in_child(fork):
    "From here on the child answers, and its parent only lives."
    if fork():
        while True:
            signal.pause()
    return os.getpid()

def fork_past_python():
    "Fork with the interpreter's lock, for which nobody waits: a child in which somebody did would wait for ever."
    import ctypes
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody asks for it
    time.sleep(0.05)  # who has asked gets it
    pid = ctypes.PyDLL(None).fork()
    sys.setswitchinterval(before)
    return pid

names = globals()
for line in sys.stdin:
    try:
        code = compile(eval(line), "agent", "eval")
        print(repr((True, eval(code, names))), flush=True)
    except Exception as error:
        print(repr((False, f"{{type(error).__name__}}: {{error}}")), flush=True)
"""


class Failed(Exception):
    """An expression has raised something. The text says what."""


class Agent:
    """Another process, which does what it is told."""

    def __init__(self, preamble: str, before: tuple[str, ...] = (), **environment: str) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", _AGENT.format(preamble=preamble)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip
        self.pid = self.process.pid

    def __call__(self, expression: str, **values: object) -> object:
        """Return what the expression evaluates to, with some names set before. Raise `Failed` if it raises."""
        self.tell(expression, **values)
        return self.answer()

    def tell(self, expression: str, **values: object) -> None:
        """Have it begin with an expression, and do not wait."""
        for name, value in values.items():
            self(f"names.__setitem__({name!r}, {value!r})")
        assert self.process.stdin
        print(repr(expression), file=self.process.stdin, flush=True)

    def answer(self) -> object:
        """Wait for what it was told."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"the process has ended: {self.process.wait()}")
        well, answer = ast.literal_eval(line)
        if not well:
            raise Failed(answer)
        return answer

    def send(self, signal: int) -> None:
        """Send a signal."""
        os.kill(self.pid, signal)

    def kill(self) -> None:
        """Kill it, so that it does not clean up. When this returns, its locks are free."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Kill it, and wait for a child that it may have forked."""
        self.kill()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        with self.process.stdout as rest:
            rest.read()


StartAgent = Callable[..., Agent]


@contextmanager
def agents(preamble: str) -> Iterator[StartAgent]:
    """Give a function that starts agents. They end with the context."""
    started: list[Agent] = []

    def start(*before: str, **environment: str) -> Agent:
        started.append(Agent(preamble, before, **environment))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.close()
